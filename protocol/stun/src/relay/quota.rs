//! How many allocations there may be, in all and for one node.

use std::collections::HashMap;
use std::sync::Arc;

use super::{User, code};

/// Counts allocations.
#[derive(Debug)]
pub struct Quota {
    most: usize,
    most_each: usize,
    count: usize,
    each: HashMap<Arc<str>, usize>,
}

/// One counted allocation; give it back with [`Quota::give_back`] when the allocation ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a share that is not given back is lost"]
pub struct Share(Arc<str>);

impl Quota {
    /// At most `most` in all and `most_each` for one node.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self { most, most_each, count: 0, each: HashMap::new() }
    }

    /// Takes a share for `user`.
    ///
    /// # Errors
    /// The code to refuse with: 486 when this node has enough, 508 when the relay has.
    pub fn take(&mut self, user: &User) -> Result<Share, u16> {
        if self.count >= self.most {
            return Err(code::INSUFFICIENT_CAPACITY);
        }
        let held = self.each.get(&user.node).copied().unwrap_or(0);
        if held >= self.most_each {
            return Err(code::QUOTA_REACHED);
        }
        self.each.insert(Arc::clone(&user.node), held + 1);
        self.count += 1;
        Ok(Share(Arc::clone(&user.node)))
    }

    /// Gives a share back.
    pub fn give_back(&mut self, share: Share) {
        self.count = self.count.saturating_sub(1);
        if let Some(held) = self.each.get_mut(&share.0) {
            *held -= 1;
            if *held == 0 {
                self.each.remove(&share.0);
            }
        }
    }

    /// Allocations at present.
    pub fn count(&self) -> usize {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::relay::Account;

    fn user(node: &str) -> User {
        User { name: format!("5:{node}").into(), node: node.into(), account: Account::new("") }
    }

    #[test]
    fn a_node_gets_its_share_and_the_relay_gives_no_more_than_it_has() {
        let mut quota = Quota::new(3, 2);

        let first = quota.take(&user("a")).unwrap();
        let _second = quota.take(&user("a")).unwrap();
        assert_eq!(quota.take(&user("a")), Err(code::QUOTA_REACHED));
        let _third = quota.take(&user("b")).unwrap();
        assert_eq!(quota.take(&user("c")), Err(code::INSUFFICIENT_CAPACITY));

        quota.give_back(first);
        assert_eq!(quota.count(), 2);
        assert!(quota.take(&user("a")).is_ok());
    }
}

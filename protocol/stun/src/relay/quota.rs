//! How many allocations there may be, in all, for one node and for one source.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::{User, code};

/// How many allocations there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub all: usize,
    /// Of one node.
    pub node: usize,
    /// Of one IPv4 address, or one /64 of IPv6.
    pub source: usize,
}

/// Counts allocations.
#[derive(Debug)]
pub struct Quota {
    most: Bounds,
    count: usize,
    nodes: HashMap<Arc<str>, usize>,
    sources: HashMap<IpAddr, usize>,
}

/// One counted allocation; give it back with [`Quota::give_back`] when the allocation ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a share that is not given back is lost"]
pub struct Share(Arc<str>, IpAddr);

impl Quota {
    /// With nothing held.
    pub fn new(most: Bounds) -> Self {
        Self { most, count: 0, nodes: HashMap::new(), sources: HashMap::new() }
    }

    /// Takes a share for `user`, who sends from `source`.
    ///
    /// # Errors
    /// The code to refuse with: 486 when this node or source has enough, 508 when the relay has.
    pub fn take(&mut self, user: &User, source: IpAddr) -> Result<Share, u16> {
        if self.count >= self.most.all {
            return Err(code::INSUFFICIENT_CAPACITY);
        }
        let source = owner(source);
        let held = |held: Option<&usize>| held.copied().unwrap_or(0);
        if held(self.nodes.get(&user.node)) >= self.most.node
            || held(self.sources.get(&source)) >= self.most.source
        {
            return Err(code::QUOTA_REACHED);
        }
        *self.nodes.entry(Arc::clone(&user.node)).or_default() += 1;
        *self.sources.entry(source).or_default() += 1;
        self.count += 1;
        Ok(Share(Arc::clone(&user.node), source))
    }

    /// Gives a share back.
    pub fn give_back(&mut self, share: Share) {
        self.count = self.count.saturating_sub(1);
        one_less(&mut self.nodes, &share.0);
        one_less(&mut self.sources, &share.1);
    }

    /// Allocations at present.
    pub fn count(&self) -> usize {
        self.count
    }
}

/// Whose an address is: a host has a whole /64 (RFC 4291 §2.5.4).
pub(crate) fn owner(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

fn one_less<K: Hash + Eq>(held: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = held.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            held.remove(key);
        }
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
        let mut quota = Quota::new(Bounds { all: 3, node: 2, source: 3 });
        let here = IpAddr::from([192, 0, 2, 1]);

        let first = quota.take(&user("a"), here).unwrap();
        let _second = quota.take(&user("a"), here).unwrap();
        assert_eq!(quota.take(&user("a"), here), Err(code::QUOTA_REACHED));
        let _third = quota.take(&user("b"), here).unwrap();
        assert_eq!(quota.take(&user("c"), here), Err(code::INSUFFICIENT_CAPACITY));

        quota.give_back(first);
        assert_eq!(quota.count(), 2);
        assert!(quota.take(&user("a"), here).is_ok());
    }

    #[test]
    fn a_source_gets_its_share_whoever_sends_from_it() {
        let mut quota = Quota::new(Bounds { all: 9, node: 9, source: 2 });
        let [one, two, elsewhere] =
            ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());

        let first = quota.take(&user("a"), one).unwrap();
        let _second = quota.take(&user("b"), two).unwrap();
        assert_eq!(quota.take(&user("c"), one), Err(code::QUOTA_REACHED));
        assert!(quota.take(&user("c"), elsewhere).is_ok());

        quota.give_back(first);
        assert!(quota.take(&user("c"), two).is_ok());
    }
}

//! Whom a relay believes: the holders of its secret, and static users.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Account, User};
use crate::credentials::{Credentials, RelaySecret, parse, verify};

/// The users of a relay.
#[derive(Debug, Default)]
pub struct Authority {
    secret: Option<RelaySecret>,
    users: BTreeMap<String, Credentials>,
}

impl Authority {
    /// Time-limited credentials made with `secret`, if there is one, and the static users.
    pub fn new(secret: Option<RelaySecret>, users: impl IntoIterator<Item = Credentials>) -> Self {
        Self { secret, users: users.into_iter().map(|user| (user.username().to_owned(), user)).collect() }
    }

    /// The user with that name and its credential; `None` when there is no such user, or its time is over.
    pub(crate) fn look_up(&self, username: &str, unix_now: u64) -> Option<(User, Credentials)> {
        if let Some(credentials) = self.users.get(username) {
            let name: Arc<str> = username.into();
            let account = Account::new(&format!("user {username}"));
            return Some((User { node: Arc::clone(&name), name, account }, credentials.clone()));
        }
        let credentials = verify(self.secret.as_ref()?, username, unix_now).ok()?;
        let (_, node) = parse(username)?;
        let account = node.split_once('/').map_or("", |(account, _)| account);
        let user = User { name: username.into(), node: node.into(), account: Account::new(account) };
        Some((user, credentials))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::mint;

    fn authority() -> (Authority, RelaySecret) {
        let secret = RelaySecret::from_bytes(&[3; 32]).unwrap();
        (Authority::new(Some(secret.clone()), [Credentials::new("alice", "wonder")]), secret)
    }

    #[test]
    fn a_static_user_is_an_account_of_its_own() {
        let (user, credentials) = authority().0.look_up("alice", 0).unwrap();

        assert_eq!(credentials.expose_password(), "wonder");
        assert_ne!(user.account, Account::new("alice"));
    }

    #[test]
    fn nodes_of_one_account_share_it_whatever_their_expiry() {
        let (authority, secret) = authority();
        let names = [mint(&secret, "acme/a", 50), mint(&secret, "acme/a", 60), mint(&secret, "other/a", 50)];

        let users = names.map(|n| authority.look_up(n.username(), 10).unwrap().0);

        assert_eq!(users[0].node, users[1].node);
        assert_eq!(users[0].account, users[1].account);
        assert_ne!(users[0].account, users[2].account);
    }

    #[test]
    fn the_unknown_and_the_expired_are_nobody() {
        let (authority, secret) = authority();

        assert!(authority.look_up("bob", 0).is_none());
        assert!(authority.look_up(mint(&secret, "n", 50).username(), 50).is_none());
        assert!(Authority::default().look_up("50:n", 0).is_none());
    }
}

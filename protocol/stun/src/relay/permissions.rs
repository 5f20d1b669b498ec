//! Who may send to an allocation and be sent to (RFC 8656 §9).

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

/// RFC 8656 §9: fixed, and not extended by traffic.
pub(crate) const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);

/// The permissions of one allocation.
#[derive(Debug, Default)]
pub(crate) struct Permissions {
    until: HashMap<IpAddr, Duration>,
}

impl Permissions {
    /// Whether `peers` fit, the present ones counted once.
    pub(crate) fn fits(&self, peers: impl Iterator<Item = IpAddr>, most: usize) -> bool {
        let mut fresh: Vec<IpAddr> = peers.filter(|peer| !self.until.contains_key(peer)).collect();
        fresh.sort_unstable();
        fresh.dedup();
        self.until.len() + fresh.len() <= most
    }

    pub(crate) fn install(&mut self, peer: IpAddr, now: Duration) {
        self.until.insert(peer, now + PERMISSION_LIFETIME);
    }

    pub(crate) fn holds(&self, peer: IpAddr, now: Duration) -> bool {
        self.until.get(&peer).is_some_and(|until| now < *until)
    }

    pub(crate) fn retain_family(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.until.retain(|peer, _| keep(*peer));
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        self.until.retain(|_, until| now < *until);
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.until.values().min().copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.until.len()
    }
}

//! Whom a relay may send to.
//!
//! A TURN server without such a filter is a way into loopback, metadata services and the networks behind it. The filter
//! stands on the one way by which a peer address comes in (permissions), and it sees an address in all its forms.
//!
//! Rules are prefixes; the most specific one decides. Of equally specific ones `deny` wins over `allow`, and both win over
//! what is built in. So `--allow-peer 0.0.0.0/0` opens no metadata service by accident, and `--allow-peer 127.0.0.0/8`
//! opens loopback on purpose.
//!
//! The relay's own addresses are apart: others' allocations there are reached inside the process, and nothing else is,
//! unless an `allow` rule names that very address (or loopback, which is nothing but the own host).

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::address::{Embedded, canonical, embedded};
use crate::relay::Account;

/// Why an address is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// A `deny` rule names it.
    Denied,
    /// `0.0.0.0/8`, `::`.
    Unspecified,
    /// The relay's host itself.
    Loopback,
    /// One link, no router.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// A group.
    Multicast,
    /// Everybody on a link.
    Broadcast,
    /// Documentation, benchmarks, or not assigned.
    Reserved,
    /// A private or shared range, and nobody of this account was seen there.
    Private,
    /// IPv4 in the clothes of IPv6 (`::ffff:a.b.c.d`): IPv4 peers have IPv4 addresses.
    Disguised,
}

/// The filter's answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// May be sent to.
    Allowed,
    /// One of the relay's own addresses: only other allocations there, and only inside the process.
    InProcess,
    /// May not be sent to.
    Refused(Refusal),
}

/// How a packet for a permitted peer travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Route {
    /// Out by the relayed socket.
    Network,
    /// To the allocation that has that address, inside the process.
    InProcess,
    /// Nowhere: it is the own host, and no allocation has that address.
    Nowhere,
}

/// How long a source address counts as seen: longer than any interval between two requests of a live allocation.
const SEEN_FOR: Duration = Duration::from_secs(3600);

/// Most source addresses remembered; beyond it the older half is forgotten.
const MOST_SEEN: usize = 16_384;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    BuiltIn,
    Allow,
    Deny,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    prefix: IpNet,
    origin: Origin,
    /// `None` allows.
    refusal: Option<Refusal>,
}

/// An address of the relay's host.
#[derive(Debug, Clone, Copy)]
struct Own {
    address: IpAddr,
    /// The operator has named it.
    open: bool,
}

/// The canonicalising filter for peer addresses.
#[derive(Debug)]
pub struct PeerAddressFilter {
    rules: Vec<Rule>,
    own: Vec<Own>,
    listeners: Vec<SocketAddr>,
    relayed: HashSet<SocketAddr>,
    seen: HashMap<(Account, IpAddr), Duration>,
    seen_before: HashMap<(Account, IpAddr), Duration>,
}

impl PeerAddressFilter {
    /// With the built-in rules, the operator's, the relay's own addresses (local and public ones), and the sockets that it
    /// listens on, which are never a peer.
    pub fn new(allow: &[IpNet], deny: &[IpNet], own: &[IpAddr], listeners: &[SocketAddr]) -> Self {
        let rule = |origin, refusal| move |prefix: &IpNet| Rule { prefix: prefix.trunc(), origin, refusal };
        let mut rules = built_in();
        rules.extend(allow.iter().map(rule(Origin::Allow, None)));
        rules.extend(deny.iter().map(rule(Origin::Deny, Some(Refusal::Denied))));
        let (relayed, seen, seen_before) = (HashSet::new(), HashMap::new(), HashMap::new());
        let mut filter =
            Self { rules, own: Vec::new(), listeners: listeners.to_vec(), relayed, seen, seen_before };
        filter.own = own.iter().map(|address| filter.describe(canonical(*address))).collect();
        filter
    }

    fn describe(&self, address: IpAddr) -> Own {
        let named = |rule: &Rule| {
            rule.origin == Origin::Allow
                && (address.is_loopback() || rule.prefix.prefix_len() == rule.prefix.max_prefix_len())
        };
        Own { address, open: self.deciding(address).is_some_and(named) }
    }

    /// Remembers where an authenticated request of `account` came from: that address may be a peer of the account,
    /// private or not.
    pub fn saw(&mut self, account: &Account, source: IpAddr, now: Duration) {
        let source = canonical(source);
        if self.judge_rules(source) != Err(Refusal::Private) {
            return;
        }
        // Two generations, so that forgetting the old ones is never a walk over all of them.
        let key = (account.clone(), source);
        if self.seen.len() >= MOST_SEEN / 2 && !self.seen.contains_key(&key) {
            self.seen_before = std::mem::take(&mut self.seen);
        }
        self.seen.insert(key, now);
    }

    /// An allocation has this relayed address from now on.
    pub fn opened(&mut self, relayed: SocketAddr) {
        self.relayed.insert(relayed);
    }

    /// No allocation has this relayed address any more.
    pub fn closed(&mut self, relayed: SocketAddr) {
        self.relayed.remove(&relayed);
    }

    /// How a packet for a permitted peer travels.
    pub fn route(&self, peer: SocketAddr) -> Route {
        if self.relayed.contains(&peer) {
            return Route::InProcess;
        }
        match self.own(peer.ip()) {
            None => Route::Network,
            Some(own) if own.open && !self.is_listener(peer) => Route::Network,
            Some(_) => Route::Nowhere,
        }
    }

    fn own(&self, address: IpAddr) -> Option<Own> {
        self.own.iter().find(|own| own.address == address).copied()
    }

    /// An unspecified listening address takes packets for every own one.
    fn is_listener(&self, peer: SocketAddr) -> bool {
        self.listeners.iter().any(|listener| {
            let takes = listener.ip() == peer.ip()
                || (listener.ip().is_unspecified() && listener.is_ipv4() == peer.is_ipv4());
            takes && listener.port() == peer.port()
        })
    }

    /// Whether `account` may send to `peer`. The port matters only for relayed addresses of this relay.
    pub fn judge(&self, peer: SocketAddr, account: &Account, now: Duration) -> Verdict {
        if self.relayed.contains(&peer) {
            return Verdict::InProcess;
        }
        let peer = peer.ip();
        match self.own(peer) {
            Some(own) if own.open => return Verdict::Allowed,
            // Nobody needs a permission for loopback as such, and many would take it for a hole.
            Some(own) if own.address.is_loopback() => {}
            Some(_) => return Verdict::InProcess,
            None => {}
        }
        let carried = match peer {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => embedded(v6),
        };
        let refusal = match carried {
            None => self.judge_one(peer, account, now),
            Some(Embedded::Host(v4)) => {
                // The reason of the address inside, if it has one, says more than the disguise.
                self.judge_one(v4.into(), account, now).and(Err(Refusal::Disguised))
            }
            Some(Embedded::Translated(v4)) => {
                self.judge_carried(v4, account, now).and_then(|()| self.judge_one(peer, account, now))
            }
            Some(Embedded::Teredo { server, client }) => self
                .judge_carried(server, account, now)
                .and_then(|()| self.judge_carried(client, account, now))
                .and_then(|()| self.judge_one(peer, account, now)),
        };
        match refusal {
            Ok(()) => Verdict::Allowed,
            Err(refusal) => Verdict::Refused(refusal),
        }
    }

    /// An address inside another: the relay's own must not be reached from outside by a detour.
    fn judge_carried(&self, v4: Ipv4Addr, account: &Account, now: Duration) -> Result<(), Refusal> {
        if self.own(v4.into()).is_some() {
            return Err(Refusal::Loopback);
        }
        self.judge_one(v4.into(), account, now)
    }

    fn judge_one(&self, address: IpAddr, account: &Account, now: Duration) -> Result<(), Refusal> {
        match self.judge_rules(address) {
            Err(Refusal::Private) => {
                let key = (account.clone(), address);
                let at = self.seen.get(&key).or_else(|| self.seen_before.get(&key));
                let fresh = at.is_some_and(|at| now.saturating_sub(*at) < SEEN_FOR);
                if fresh { Ok(()) } else { Err(Refusal::Private) }
            }
            other => other,
        }
    }

    fn judge_rules(&self, address: IpAddr) -> Result<(), Refusal> {
        match self.deciding(address).map(|rule| rule.refusal) {
            Some(None) => Ok(()),
            Some(Some(refusal)) => Err(refusal),
            None => Err(Refusal::Reserved),
        }
    }

    fn deciding(&self, address: IpAddr) -> Option<&Rule> {
        let matching = self.rules.iter().filter(|rule| rule.prefix.contains(&address));
        matching.max_by_key(|rule| (rule.prefix.prefix_len(), rule.origin))
    }
}

/// The IANA special-purpose registries (RFC 6890 and later entries), multicast, and the metadata services of clouds.
fn built_in() -> Vec<Rule> {
    let v4 = |a, b, c, d, len, refusal| (net4(Ipv4Addr::new(a, b, c, d), len), refusal);
    let v6 = |segments: [u16; 8], len, refusal| (net6(Ipv6Addr::from(segments), len), refusal);
    let table = [
        v4(0, 0, 0, 0, 0, None),
        v4(0, 0, 0, 0, 8, Some(Refusal::Unspecified)),
        v4(10, 0, 0, 0, 8, Some(Refusal::Private)),
        v4(100, 64, 0, 0, 10, Some(Refusal::Private)),
        v4(127, 0, 0, 0, 8, Some(Refusal::Loopback)),
        v4(169, 254, 0, 0, 16, Some(Refusal::LinkLocal)),
        v4(172, 16, 0, 0, 12, Some(Refusal::Private)),
        v4(192, 0, 0, 0, 24, Some(Refusal::Reserved)),
        v4(192, 0, 2, 0, 24, Some(Refusal::Reserved)),
        v4(192, 88, 99, 0, 24, Some(Refusal::Reserved)),
        v4(192, 168, 0, 0, 16, Some(Refusal::Private)),
        v4(198, 18, 0, 0, 15, Some(Refusal::Reserved)),
        v4(198, 51, 100, 0, 24, Some(Refusal::Reserved)),
        v4(203, 0, 113, 0, 24, Some(Refusal::Reserved)),
        v4(224, 0, 0, 0, 4, Some(Refusal::Multicast)),
        v4(240, 0, 0, 0, 4, Some(Refusal::Reserved)),
        v4(255, 255, 255, 255, 32, Some(Refusal::Broadcast)),
        v4(169, 254, 169, 254, 32, Some(Refusal::Metadata)),
        v4(169, 254, 170, 2, 32, Some(Refusal::Metadata)),
        v4(100, 100, 100, 200, 32, Some(Refusal::Metadata)),
        v4(168, 63, 129, 16, 32, Some(Refusal::Metadata)),
        v4(192, 0, 0, 192, 32, Some(Refusal::Metadata)),
        // RFC 4291 §2.4: global unicast that is assigned at all is 2000::/3.
        v6([0, 0, 0, 0, 0, 0, 0, 0], 0, Some(Refusal::Reserved)),
        v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, None),
        v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, None),
        v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Some(Refusal::Unspecified)),
        v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Some(Refusal::Loopback)),
        v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Some(Refusal::Reserved)),
        v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, Some(Refusal::Reserved)),
        v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, Some(Refusal::Reserved)),
        v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Some(Refusal::Reserved)),
        v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Some(Refusal::Reserved)),
        v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Some(Refusal::Private)),
        v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Some(Refusal::LinkLocal)),
        v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Some(Refusal::Multicast)),
        v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0], 32, Some(Refusal::Metadata)),
        v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128, Some(Refusal::Metadata)),
        v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Some(Refusal::Metadata)),
    ];
    table.into_iter().map(|(prefix, refusal)| Rule { prefix, origin: Origin::BuiltIn, refusal }).collect()
}

/// Prefixes of the table above are constants within bounds; one that was not would become a host prefix.
fn net4(address: Ipv4Addr, len: u8) -> IpNet {
    Ipv4Net::new(address, len).unwrap_or_else(|_| address.into()).into()
}

fn net6(address: Ipv6Addr, len: u8) -> IpNet {
    Ipv6Net::new(address, len).unwrap_or_else(|_| address.into()).into()
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;

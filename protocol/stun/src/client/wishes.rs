//! Whom we want to reach through the relay, and what of it the relay has confirmed.
//!
//! A wish outlives the allocation. What the relay confirmed is counted from the moment when the request was first sent, so
//! that ours ends no later than the relay's.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::channel::CHANNELS;

/// RFC 8656 §9.
const PERMISSION_LIFETIME: Duration = Duration::from_secs(300);
/// RFC 8656 §12.
const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);
/// RFC 8656 §12: a number rests this long after its end.
const QUARANTINE: Duration = Duration::from_secs(300);
/// One minute before a permission ends. A ChannelBind refreshes the permission too, so channels keep the same beat.
const REFRESH_AFTER: Duration = Duration::from_secs(240);
/// Peers in one CreatePermission: keeps the request below 600 bytes.
const MOST_IN_ONE: usize = 16;
/// ChannelBind requests on their way at one time.
const MOST_BINDING: usize = 8;

#[derive(Debug, Clone, Default)]
struct Peer {
    until: Option<Duration>,
    /// When to ask for its permission; `None`: its channels do, because ChannelBind permits, too (RFC 8656 §12).
    due: Option<Duration>,
    asked: bool,
    /// A request with others failed; this one is asked for by itself, to learn whose fault it was.
    alone: bool,
}

impl Peer {
    fn is_due(&self, now: Duration) -> bool {
        !self.asked && self.due.is_some_and(|due| now >= due)
    }

    /// `true` when it was not held before.
    fn hold(&mut self, sent: Duration) -> bool {
        let fresh = self.until.is_none();
        self.until = self.until.max(Some(sent + PERMISSION_LIFETIME));
        fresh
    }
}

#[derive(Debug, Clone)]
struct Channel {
    number: u16,
    until: Option<Duration>,
    due: Duration,
    asked: bool,
    /// When the relay may have bound it last.
    last_asked: Option<Duration>,
}

/// A request to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ask {
    Permit(Vec<IpAddr>),
    Bind(SocketAddr, u16),
}

/// The wishes of one allocation client.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    peers: BTreeMap<IpAddr, Peer>,
    channels: BTreeMap<SocketAddr, Channel>,
    by_number: HashMap<u16, SocketAddr>,
    resting: BTreeMap<u16, (SocketAddr, Duration)>,
    last_number: u16,
}

impl Wishes {
    pub(crate) fn permit(&mut self, peer: IpAddr) {
        self.peers.entry(peer).or_default().due.get_or_insert(Duration::ZERO);
    }

    /// `false`: no number is free.
    pub(crate) fn bind(&mut self, peer: SocketAddr, now: Duration) -> bool {
        self.peers.entry(peer.ip()).or_default();
        if self.channels.contains_key(&peer) {
            return true;
        }
        self.resting.retain(|_, (_, until)| now < *until);
        // A peer that has a number at the relay can only get that one.
        let old = self.resting.iter().find(|(_, (who, _))| *who == peer).map(|(number, _)| *number);
        let Some(number) = old.or_else(|| self.free_number()) else { return false };
        let last_asked = self
            .resting
            .remove(&number)
            .map(|(_, until)| until.saturating_sub(CHANNEL_LIFETIME + QUARANTINE));
        self.by_number.insert(number, peer);
        self.channels
            .insert(peer, Channel { number, until: None, due: Duration::ZERO, asked: false, last_asked });
        true
    }

    fn free_number(&mut self) -> Option<u16> {
        let count = CHANNELS.end() - CHANNELS.start() + 1;
        (0..count).find_map(|step| {
            let number = CHANNELS.start() + (self.last_number.wrapping_add(1 + step) % count);
            let free = !self.by_number.contains_key(&number) && !self.resting.contains_key(&number);
            free.then(|| {
                self.last_number = number - CHANNELS.start();
                number
            })
        })
    }

    pub(crate) fn forget(&mut self, peer: IpAddr) {
        self.peers.remove(&peer);
        let gone: Vec<SocketAddr> = self.channels.keys().filter(|who| who.ip() == peer).copied().collect();
        for who in gone {
            self.forget_channel(who);
        }
    }

    pub(crate) fn forget_channel(&mut self, peer: SocketAddr) {
        if let Some(channel) = self.channels.remove(&peer) {
            self.by_number.remove(&channel.number);
            if let Some(asked) = channel.last_asked {
                self.resting.insert(channel.number, (peer, asked + CHANNEL_LIFETIME + QUARANTINE));
            }
        }
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = IpAddr> {
        self.peers.keys().copied()
    }

    pub(crate) fn knows(&self, peer: IpAddr) -> bool {
        self.peers.contains_key(&peer)
    }

    pub(crate) fn is_permitted(&self, peer: IpAddr) -> bool {
        self.peers.get(&peer).is_some_and(|p| p.until.is_some())
    }

    pub(crate) fn channel(&self, peer: SocketAddr) -> Option<u16> {
        self.channels.get(&peer).filter(|c| c.until.is_some()).map(|c| c.number)
    }

    /// Whose number it is; also before the confirmation is here, because data may overtake it.
    pub(crate) fn peer(&self, number: u16) -> Option<SocketAddr> {
        self.by_number.get(&number).copied()
    }

    /// The requests that are due.
    pub(crate) fn take_due(&mut self, now: Duration) -> Vec<Ask> {
        let mut asks = Vec::new();
        let mut together = Vec::new();
        for (ip, peer) in self.peers.iter_mut().filter(|(_, peer)| peer.is_due(now)) {
            peer.asked = true;
            if peer.alone {
                asks.push(Ask::Permit(vec![*ip]));
            } else {
                together.push(*ip);
            }
        }
        asks.extend(together.chunks(MOST_IN_ONE).map(|peers| Ask::Permit(peers.to_vec())));
        let room = MOST_BINDING.saturating_sub(self.channels.values().filter(|c| c.asked).count());
        for (who, channel) in self.channels.iter_mut().filter(|(_, c)| !c.asked && now >= c.due).take(room) {
            channel.asked = true;
            channel.last_asked = Some(now);
            asks.push(Ask::Bind(*who, channel.number));
        }
        asks
    }

    /// The relay confirmed `peer` by itself; `true` when it was not permitted before.
    pub(crate) fn permitted(&mut self, peer: IpAddr, sent: Duration) -> bool {
        let Some(entry) = self.peers.get_mut(&peer) else { return false };
        (entry.due, entry.asked, entry.alone) = (Some(sent + REFRESH_AFTER), false, false);
        entry.hold(sent)
    }

    /// The relay confirmed a channel of `peer`, and so the peer; `true` when it was not permitted before.
    pub(crate) fn permitted_by_channel(&mut self, peer: IpAddr, sent: Duration) -> bool {
        self.peers.get_mut(&peer).is_some_and(|entry| entry.hold(sent))
    }

    /// The relay confirmed the channel; its number when it was not bound before.
    pub(crate) fn bound(&mut self, peer: SocketAddr, sent: Duration) -> Option<u16> {
        let channel = self.channels.get_mut(&peer)?;
        let fresh = channel.until.is_none();
        channel.until = Some(sent + CHANNEL_LIFETIME);
        channel.due = sent + REFRESH_AFTER;
        channel.asked = false;
        fresh.then_some(channel.number)
    }

    /// The request for `peers` failed together: each by itself.
    pub(crate) fn ask_alone(&mut self, peers: &[IpAddr]) {
        for peer in peers {
            if let Some(entry) = self.peers.get_mut(peer) {
                entry.alone = true;
                entry.asked = false;
                entry.due = Some(Duration::ZERO);
            }
        }
    }

    /// The request for `peers` got no answer: again, from `due` on.
    pub(crate) fn ask_again(&mut self, peers: &[IpAddr], due: Duration) {
        for peer in peers {
            if let Some(entry) = self.peers.get_mut(peer) {
                entry.asked = false;
                entry.due = Some(due);
            }
        }
    }

    pub(crate) fn bind_again(&mut self, peer: SocketAddr, due: Duration) {
        if let Some(channel) = self.channels.get_mut(&peer) {
            channel.asked = false;
            channel.due = due;
        }
    }

    /// Ends what the relay no longer holds.
    pub(crate) fn expire(&mut self, now: Duration) {
        for peer in self.peers.values_mut() {
            peer.until = peer.until.filter(|until| now < *until);
        }
        for channel in self.channels.values_mut() {
            channel.until = channel.until.filter(|until| now < *until);
        }
    }

    /// When something is due or ends.
    pub(crate) fn next(&self) -> Option<Duration> {
        let busy = self.channels.values().filter(|c| c.asked).count() >= MOST_BINDING;
        let peers = self.peers.values().flat_map(|p| [p.due.filter(|_| !p.asked), p.until]);
        let channels = self.channels.values().flat_map(|c| [(!c.asked && !busy).then_some(c.due), c.until]);
        peers.chain(channels).flatten().min()
    }

    /// The allocation is gone: everything is to be asked for again. Numbers stay, so that what is still on its way
    /// reaches whom it was for.
    pub(crate) fn reset(&mut self) {
        for peer in self.peers.values_mut() {
            *peer = Peer { due: peer.due.map(|_| Duration::ZERO), ..Peer::default() };
        }
        for channel in self.channels.values_mut() {
            channel.until = None;
            channel.due = Duration::ZERO;
            channel.asked = false;
        }
    }

    /// Peers of a family that the allocation has no address for.
    pub(crate) fn take_unreachable(&mut self, reachable: impl Fn(IpAddr) -> bool) -> Vec<IpAddr> {
        let gone: Vec<IpAddr> = self.peers.keys().copied().filter(|peer| !reachable(*peer)).collect();
        for peer in &gone {
            self.forget(*peer);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4000))
    }

    #[test]
    fn due_peers_are_asked_for_together_and_only_once() {
        let mut wishes = Wishes::default();
        for n in 0..20 {
            wishes.permit(peer(n).ip());
        }

        let asks = wishes.take_due(Duration::ZERO);

        assert_eq!(
            asks.iter().map(|a| matches!(a, Ask::Permit(p) if p.len() <= 16)).collect::<Vec<_>>(),
            [true; 2]
        );
        assert_eq!(wishes.take_due(Duration::ZERO), []);
    }

    #[test]
    fn a_confirmed_permission_is_due_again_after_240_seconds_and_ends_after_300() {
        let mut wishes = Wishes::default();
        wishes.permit(peer(1).ip());
        wishes.take_due(Duration::ZERO);

        assert!(wishes.permitted(peer(1).ip(), Duration::from_secs(10)));

        assert_eq!(wishes.next(), Some(Duration::from_secs(250)));
        assert_eq!(wishes.take_due(Duration::from_secs(250)).len(), 1);
        assert!(!wishes.permitted(peer(1).ip(), Duration::from_secs(250)));
        wishes.expire(Duration::from_secs(549));
        assert!(wishes.is_permitted(peer(1).ip()));
        wishes.expire(Duration::from_secs(550));
        assert!(!wishes.is_permitted(peer(1).ip()));
    }

    #[test]
    fn a_forgotten_channel_rests_and_its_peer_gets_the_same_number_back() {
        let mut wishes = Wishes::default();
        assert!(wishes.bind(peer(1), Duration::ZERO));
        wishes.take_due(Duration::ZERO);
        let number = wishes.bound(peer(1), Duration::ZERO).unwrap();

        wishes.forget(peer(1).ip());
        assert_eq!(wishes.peer(number), None);
        for n in 2..=255 {
            assert!(wishes.bind(peer(n), Duration::ZERO));
        }
        assert_eq!(wishes.peer(number), None, "nobody else may get it");
        assert!(wishes.bind(peer(1), Duration::from_secs(60)));

        assert_eq!(wishes.peer(number), Some(peer(1)));
    }

    #[test]
    fn numbers_run_out_and_come_back() {
        let mut wishes = Wishes::default();
        let who = |n: u16| SocketAddr::from(([192, 0, 2, 1], n));
        for n in 1..=4096 {
            assert!(wishes.bind(who(n), Duration::ZERO));
        }
        assert!(!wishes.bind(who(5000), Duration::ZERO));

        wishes.forget_channel(who(7));

        assert!(wishes.bind(who(5000), Duration::ZERO));
    }

    #[test]
    fn wishes_outlive_the_allocation() {
        let mut wishes = Wishes::default();
        wishes.bind(peer(1), Duration::ZERO);
        let first = wishes.take_due(Duration::ZERO);
        wishes.permitted_by_channel(peer(1).ip(), Duration::ZERO);
        wishes.bound(peer(1), Duration::ZERO);

        wishes.reset();

        assert!(!wishes.is_permitted(peer(1).ip()));
        assert_eq!(wishes.channel(peer(1)), None);
        assert_eq!(wishes.take_due(Duration::from_secs(1)), first);
    }
}

//! Numbers for peers (RFC 8656 §12).
//!
//! A binding lives 600 s from its last ChannelBind. For 300 s more neither its number nor its peer can be bound anew, so
//! that nothing still on its way reaches somebody else.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// RFC 8656 §12.
pub(crate) const CHANNEL_LIFETIME: Duration = Duration::from_secs(600);

/// RFC 8656 §12.1: five minutes.
pub(crate) const QUARANTINE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Binding {
    peer: SocketAddr,
    until: Duration,
}

/// Why a channel cannot be bound.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotBound {
    /// Number or peer are bound to another, or in quarantine.
    Taken,
    /// No more channels.
    Full,
}

/// The channels of one allocation.
#[derive(Debug, Default)]
pub(crate) struct Channels {
    by_number: HashMap<u16, Binding>,
    by_peer: HashMap<SocketAddr, u16>,
}

impl Channels {
    /// Whether the pair may be bound now.
    pub(crate) fn may_bind(&self, number: u16, peer: SocketAddr, most: usize) -> Result<(), NotBound> {
        match (self.by_number.get(&number), self.by_peer.get(&peer)) {
            (None, None) if self.by_number.len() >= most => Err(NotBound::Full),
            (None, None) => Ok(()),
            (Some(binding), Some(_)) if binding.peer == peer => Ok(()),
            (Some(_), _) | (_, Some(_)) => Err(NotBound::Taken),
        }
    }

    pub(crate) fn bind(&mut self, number: u16, peer: SocketAddr, now: Duration) {
        self.by_number.insert(number, Binding { peer, until: now + CHANNEL_LIFETIME });
        self.by_peer.insert(peer, number);
    }

    pub(crate) fn peer(&self, number: u16, now: Duration) -> Option<SocketAddr> {
        self.by_number.get(&number).filter(|binding| now < binding.until).map(|binding| binding.peer)
    }

    pub(crate) fn number(&self, peer: SocketAddr, now: Duration) -> Option<u16> {
        let number = *self.by_peer.get(&peer)?;
        self.peer(number, now).map(|_| number)
    }

    pub(crate) fn retain_family(&mut self, keep: impl Fn(IpAddr) -> bool) {
        self.by_number.retain(|_, binding| keep(binding.peer.ip()));
        self.by_peer.retain(|peer, _| keep(peer.ip()));
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        self.by_number.retain(|_, binding| now < binding.until + QUARANTINE);
        let left = &self.by_number;
        self.by_peer.retain(|_, number| left.contains_key(number));
    }

    pub(crate) fn next(&self) -> Option<Duration> {
        self.by_number.values().map(|binding| binding.until + QUARANTINE).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.by_number.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 2;

    fn peer(n: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, n], 4000))
    }

    #[test]
    fn a_pair_can_be_bound_again_but_neither_half_of_it_to_another() {
        let mut channels = Channels::default();
        channels.bind(0x4000, peer(1), Duration::ZERO);

        assert_eq!(channels.may_bind(0x4000, peer(1), MOST), Ok(()));
        assert_eq!(channels.may_bind(0x4000, peer(2), MOST), Err(NotBound::Taken));
        assert_eq!(channels.may_bind(0x4001, peer(1), MOST), Err(NotBound::Taken));
        assert_eq!(channels.may_bind(0x4001, peer(2), MOST), Ok(()));
    }

    #[test]
    fn an_expired_number_carries_nothing_and_stays_taken_through_its_quarantine() {
        let mut channels = Channels::default();
        channels.bind(0x4000, peer(1), Duration::ZERO);

        assert_eq!(channels.peer(0x4000, CHANNEL_LIFETIME - Duration::from_millis(1)), Some(peer(1)));
        assert_eq!(channels.peer(0x4000, CHANNEL_LIFETIME), None);
        assert_eq!(channels.number(peer(1), CHANNEL_LIFETIME), None);
        channels.expire(CHANNEL_LIFETIME);
        assert_eq!(channels.may_bind(0x4000, peer(2), MOST), Err(NotBound::Taken));
        channels.expire(CHANNEL_LIFETIME + QUARANTINE);
        assert_eq!(channels.may_bind(0x4000, peer(2), MOST), Ok(()));
    }

    #[test]
    fn there_are_no_more_channels_than_allowed() {
        let mut channels = Channels::default();
        channels.bind(0x4000, peer(1), Duration::ZERO);
        channels.bind(0x4001, peer(2), Duration::ZERO);

        assert_eq!(channels.may_bind(0x4002, peer(3), MOST), Err(NotBound::Full));
        assert_eq!(channels.may_bind(0x4001, peer(2), MOST), Ok(()));
    }
}

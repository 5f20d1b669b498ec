//! What a relay passes on, when it shall be no tunnel for everything.

use crate::wire::{HEADER_LEN, Kind, kind};

/// Which packets pass.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Payload {
    /// All.
    #[default]
    Any,
    /// Only what looks like WireGuard, STUN or a probe of ours.
    WireGuard,
}

/// Messages of WireGuard: type, and length with its bounds. Transport data is at least a keepalive.
const HANDSHAKE: [(u8, usize); 3] = [(1, 148), (2, 92), (3, 64)];
const TRANSPORT: (u8, usize) = (4, 32);
/// A probe of the path agent: the type that WireGuard leaves free, the receiver's index, a counter,
/// 40 sealed bytes and their seal of 16.
const PROBE: (u8, usize) = (0x20, 72);

impl Payload {
    /// Whether this packet may pass.
    pub fn admits(self, packet: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::WireGuard => is_wireguard(packet) || is_stun(packet),
        }
    }
}

fn is_wireguard(packet: &[u8]) -> bool {
    let [kind, 0, 0, 0, ..] = *packet else { return false };
    let length = packet.len();
    HANDSHAKE.contains(&(kind, length))
        || (kind == TRANSPORT.0 && length >= TRANSPORT.1)
        || (kind == PROBE.0 && length >= PROBE.1)
}

fn is_stun(packet: &[u8]) -> bool {
    let Some(announced) = packet.get(2..4) else { return false };
    let announced = announced.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    kind(packet) == Kind::Stun && packet.len() == HEADER_LEN + announced
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Draft;
    use stun_types::message::{BINDING, MessageClass};

    fn packet(kind: u8, length: usize) -> Vec<u8> {
        let mut packet = vec![0x55; length];
        packet.get_mut(..4).unwrap().copy_from_slice(&[kind, 0, 0, 0]);
        packet
    }

    #[test]
    fn wireguard_stun_and_probes_pass() {
        let stun = Draft::new(MessageClass::Request, BINDING, 7.into()).finish();
        for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 1_452), (0x20, 72)] {
            assert!(Payload::WireGuard.admits(&packet(kind, length)), "{kind} of {length}");
        }
        assert!(Payload::WireGuard.admits(&stun));
    }

    #[test]
    fn other_things_pass_only_where_everything_does() {
        let long_stun = [Draft::new(MessageClass::Request, BINDING, 7.into()).finish(), vec![0; 4]].concat();
        let reserved = [&[4, 0, 0, 1][..], &[0; 60]].concat();
        let dns = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x00\x00\x01\x00\x01".to_vec();
        for other in [
            packet(1, 149),
            packet(2, 91),
            packet(4, 31),
            packet(5, 64),
            packet(0x20, 71),
            long_stun,
            reserved,
            dns,
            vec![],
        ] {
            assert!(!Payload::WireGuard.admits(&other), "{other:?}");
            assert!(Payload::Any.admits(&other));
        }
    }
}

//! What can be read of a datagram without a key: its kind and whom it is for.

use std::fmt;
use std::ops::Deref;

/// Bytes that sealing adds to a packet: header 16, tag 16 (WireGuard paper, section 5.4.6).
pub const OVERHEAD: usize = 32;
/// The smallest buffer that any call takes: an initiation (WireGuard paper, section 5.4.2).
pub const MIN_BUFFER: usize = INITIATION_SIZE;
/// Size of a cookie reply (WireGuard paper, section 5.4.7).
pub const COOKIE_SIZE: usize = 64;

pub(crate) const INITIATION_SIZE: usize = 148;
pub(crate) const RESPONSE_SIZE: usize = 92;
/// Header of a probe and its tag: nothing shorter can be one.
const PROBE_MIN_SIZE: usize = 32;

/// What a datagram says it is. Nothing is verified but the form.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DatagramKind {
    /// WireGuard type 1: carries no receiver index; open it with [`crate::peek_initiation`].
    Initiation,
    /// WireGuard type 2.
    Response,
    /// WireGuard type 3.
    Cookie,
    /// WireGuard type 4: data and keepalives.
    Data,
    /// One of our own probes, type 0x20.
    Probe,
}

/// The kind of a datagram, when its form fits one.
pub fn classify(datagram: &[u8]) -> Option<DatagramKind> {
    let kind = u32_at(datagram, 0)?;
    match (kind, datagram.len()) {
        (1, INITIATION_SIZE) => Some(DatagramKind::Initiation),
        (2, RESPONSE_SIZE) => Some(DatagramKind::Response),
        (3, COOKIE_SIZE) => Some(DatagramKind::Cookie),
        (4, OVERHEAD..) => Some(DatagramKind::Data),
        (0x20, PROBE_MIN_SIZE..) => Some(DatagramKind::Probe),
        _ => None,
    }
}

/// The tunnel that a datagram is for: responses, cookie replies, data and probes name it, initiations do not.
pub fn receiver(datagram: &[u8]) -> Option<TunnelIndex> {
    receiver_index(datagram).map(TunnelIndex::of)
}

pub(crate) fn receiver_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram)? {
        DatagramKind::Initiation => None,
        DatagramKind::Response => u32_at(datagram, 8),
        DatagramKind::Cookie | DatagramKind::Data | DatagramKind::Probe => u32_at(datagram, 4),
    }
}

/// The index that the sender of a handshake message gave itself.
pub(crate) fn sender_index(datagram: &[u8]) -> Option<u32> {
    match classify(datagram)? {
        DatagramKind::Initiation | DatagramKind::Response => u32_at(datagram, 4),
        DatagramKind::Cookie | DatagramKind::Data | DatagramKind::Probe => None,
    }
}

/// The counter of a data message.
pub(crate) fn counter(datagram: &[u8]) -> Option<u64> {
    let bytes = datagram.get(8..16)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}

fn u32_at(datagram: &[u8], at: usize) -> Option<u32> {
    let bytes = datagram.get(at..at.checked_add(4)?)?;
    bytes.try_into().ok().map(u32::from_le_bytes)
}

/// Which tunnel of which lane: the 24 bits of a receiver index that are ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TunnelIndex {
    /// The place in the lane's table.
    pub slot: u16,
    /// The packet lane.
    pub lane: u8,
}

impl TunnelIndex {
    /// The index of `slot` on `lane`.
    pub fn new(slot: u16, lane: u8) -> Self {
        Self { slot, lane }
    }

    /// The tunnel that a receiver index names, whatever its session.
    pub fn of(receiver_index: u32) -> Self {
        let [_session, lane, low, high] = receiver_index.to_le_bytes();
        Self { slot: u16::from_le_bytes([low, high]), lane }
    }

    /// The 24-bit number that the engine is given: `slot << 8 | lane`.
    pub fn number(self) -> u32 {
        u32::from(self.slot) << 8 | u32::from(self.lane)
    }

    /// The receiver index with session number 0: what probes to this tunnel carry.
    pub fn receiver_index(self) -> u32 {
        self.number() << 8
    }
}

/// A datagram that the machine made itself; at most an initiation long.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Message {
    bytes: [u8; INITIATION_SIZE],
    len: usize,
}

impl Message {
    pub(crate) fn new(datagram: &[u8]) -> Option<Self> {
        let mut bytes = [0; INITIATION_SIZE];
        bytes.get_mut(..datagram.len())?.copy_from_slice(datagram);
        Some(Self { bytes, len: datagram.len() })
    }
}

impl Deref for Message {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?}, {} bytes)", classify(self), self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lane_is_byte_5_of_data_and_byte_9_of_a_response() {
        let index = TunnelIndex::new(0x1234, 7).receiver_index() | 0x55;
        let mut data = vec![0u8; 32];
        data[0] = 4;
        data[4..8].copy_from_slice(&index.to_le_bytes());
        let mut response = vec![0u8; RESPONSE_SIZE];
        response[0] = 2;
        response[8..12].copy_from_slice(&index.to_le_bytes());

        assert_eq!(data[5], 7);
        assert_eq!(response[9], 7);
        assert_eq!(receiver(&data), Some(TunnelIndex::new(0x1234, 7)));
        assert_eq!(receiver(&response), Some(TunnelIndex::new(0x1234, 7)));
    }

    #[test]
    fn an_initiation_names_no_receiver() {
        let mut datagram = vec![0u8; INITIATION_SIZE];
        datagram[0] = 1;

        assert_eq!(classify(&datagram), Some(DatagramKind::Initiation));
        assert_eq!(receiver(&datagram), None);
    }

    #[test]
    fn reserved_bytes_and_lengths_are_checked() {
        let mut datagram = vec![0u8; INITIATION_SIZE];
        datagram[0] = 1;
        datagram[2] = 1;

        assert_eq!(classify(&datagram), None);
        assert_eq!(classify(&[1, 0, 0, 0]), None);
        assert_eq!(classify(&[4, 0, 0]), None);
        assert_eq!(classify(&[]), None);
    }

    #[test]
    fn every_index_survives_the_wire() {
        for (slot, lane) in [(0, 0), (1, 0), (0, 1), (u16::MAX, u8::MAX), (256, 3)] {
            let index = TunnelIndex::new(slot, lane);

            assert_eq!(TunnelIndex::of(index.receiver_index() | 0xff), index);
        }
    }
}

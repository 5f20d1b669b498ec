//! The header that the kernel and we put before a TUN packet when offload is on (`struct virtio_net_hdr`, virtio 1.2
//! section 5.1.6), in the host's byte order, without the field for merged buffers.

/// Bytes of the header.
pub(crate) const LENGTH: usize = 10;

const FLAG_NEEDS_CHECKSUM: u8 = 1;

const NONE: u8 = 0;
const TCP4: u8 = 1;
const TCP6: u8 = 4;
const UDP_L4: u8 = 5;
const ECN: u8 = 0x80;

/// What kind of super-packet follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An ordinary packet.
    Plain,
    /// TCP over IPv4.
    Tcp4,
    /// TCP over IPv6.
    Tcp6,
    /// UDP over either.
    Udp,
}

/// The header's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// The checksum field holds only the pseudo-header's sum; the sum from `checksum_start` on belongs there.
    pub(crate) needs_checksum: bool,
    /// Bytes of all headers.
    pub(crate) header_len: u16,
    /// Payload bytes of each packet but the last.
    pub(crate) segment: u16,
    pub(crate) checksum_start: u16,
    pub(crate) checksum_offset: u16,
}

impl Header {
    /// Before an ordinary packet whose checksums are right.
    pub(crate) const fn plain() -> Self {
        Self {
            kind: Kind::Plain,
            needs_checksum: false,
            header_len: 0,
            segment: 0,
            checksum_start: 0,
            checksum_offset: 0,
        }
    }

    pub(crate) fn encode(&self) -> [u8; LENGTH] {
        let kind = match self.kind {
            Kind::Plain => NONE,
            Kind::Tcp4 => TCP4,
            Kind::Tcp6 => TCP6,
            Kind::Udp => UDP_L4,
        };
        let [a, b] = self.header_len.to_ne_bytes();
        let [c, d] = self.segment.to_ne_bytes();
        let [e, f] = self.checksum_start.to_ne_bytes();
        let [g, h] = self.checksum_offset.to_ne_bytes();
        [if self.needs_checksum { FLAG_NEEDS_CHECKSUM } else { 0 }, kind, a, b, c, d, e, f, g, h]
    }

    /// The header and what follows it; `None` when it is cut short or of a kind that was never asked for.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let (&[flags, kind, a, b, c, d, e, f, g, h], packet) = bytes.split_first_chunk::<LENGTH>()?;
        let kind = match kind & !ECN {
            NONE => Kind::Plain,
            TCP4 => Kind::Tcp4,
            TCP6 => Kind::Tcp6,
            UDP_L4 => Kind::Udp,
            _ => return None,
        };
        let header = Self {
            kind,
            needs_checksum: flags & FLAG_NEEDS_CHECKSUM != 0,
            header_len: u16::from_ne_bytes([a, b]),
            segment: u16::from_ne_bytes([c, d]),
            checksum_start: u16::from_ne_bytes([e, f]),
            checksum_offset: u16::from_ne_bytes([g, h]),
        };
        Some((header, packet))
    }
}

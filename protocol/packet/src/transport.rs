//! Views of TCP and UDP headers.

use crate::Malformed;
use crate::ip::{be16, be32};

/// The flags of a TCP segment (RFC 9293, section 3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement number counts.
    pub const ACK: Self = Self(0x10);

    /// Both sets together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A TCP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Sequence number of the first byte (or of SYN).
    pub sequence: u32,
    /// Next sequence number that the sender expects; counts only with ACK.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Receive window, unscaled.
    pub window: u16,
    /// Header length with options, bytes.
    pub header_len: usize,
    /// Payload length, bytes. Of a super-packet: of all its segments.
    pub payload_len: usize,
}

impl Tcp {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<20>().ok_or(Malformed::TcpTruncated)?;
        let header_len = usize::from(header[12] >> 4) * 4;
        if header_len < 20 || header_len > bytes.len() {
            return Err(Malformed::TcpOffset);
        }
        let flags = TcpFlags(header[13]);
        let (syn, fin, rst) = (flags.has(TcpFlags::SYN), flags.has(TcpFlags::FIN), flags.has(TcpFlags::RST));
        if flags.0 & 0x3f == 0 || syn && (fin || rst) {
            return Err(Malformed::TcpFlags);
        }
        let (source, destination) = (be16(header, 0), be16(header, 2));
        if source == 0 || destination == 0 {
            return Err(Malformed::PortZero);
        }
        Ok(Self {
            source,
            destination,
            sequence: be32(header, 4),
            acknowledgement: be32(header, 8),
            flags,
            window: be16(header, 14),
            header_len,
            payload_len: bytes.len() - header_len,
        })
    }

    /// What the segment takes of sequence space: payload, SYN and FIN (RFC 9293, section 3.4).
    pub fn sequence_len(&self) -> u32 {
        self.payload_len as u32
            + u32::from(self.flags.has(TcpFlags::SYN))
            + u32::from(self.flags.has(TcpFlags::FIN))
    }

    /// The sequence number after this segment.
    pub fn sequence_end(&self) -> u32 {
        self.sequence.wrapping_add(self.sequence_len())
    }
}

/// A UDP header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Udp {
    /// Source port; zero means that no answer is expected (RFC 768).
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// The checksum field; zero means none (IPv4 only).
    pub checksum: u16,
    /// Payload length, bytes. Of a super-packet: of all its segments.
    pub payload_len: usize,
}

impl Udp {
    pub(crate) fn parse(bytes: &[u8], checksum_required: bool) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<8>().ok_or(Malformed::UdpTruncated)?;
        // What follows the UDP length would reach the resource without a checksum and unseen by filters.
        if usize::from(be16(header, 4)) != bytes.len() {
            return Err(Malformed::UdpLength);
        }
        let (source, destination, checksum) = (be16(header, 0), be16(header, 2), be16(header, 6));
        if destination == 0 {
            return Err(Malformed::PortZero);
        }
        if checksum == 0 && checksum_required {
            return Err(Malformed::UdpChecksum);
        }
        Ok(Self { source, destination, checksum, payload_len: bytes.len() - 8 })
    }
}

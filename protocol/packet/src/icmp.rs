//! Views of ICMP (RFC 792) and ICMPv6 (RFC 4443) headers.

use crate::Malformed;
use crate::ip::{Version, be16};

/// What an ICMP message is for, as far as we tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpKind {
    /// Echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// Echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
        /// Sequence number.
        sequence: u16,
    },
    /// Unreachable, too big, time exceeded, parameter problem: a packet is quoted. Not redirects, not source quench.
    Error,
    /// Anything else: neighbour discovery, redirects, timestamps …
    Other,
}

/// An ICMP or ICMPv6 header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Icmp {
    /// Type.
    pub kind_number: u8,
    /// Code.
    pub code: u8,
    /// What the type means.
    pub kind: IcmpKind,
}

impl Icmp {
    pub(crate) fn parse(version: Version, bytes: &[u8]) -> Result<Self, Malformed> {
        let header = bytes.first_chunk::<8>().ok_or(Malformed::IcmpTruncated)?;
        let (id, sequence) = (be16(header, 4), be16(header, 6));
        let kind = match (version, header[0], header[1]) {
            (Version::V4, 8, 0) | (Version::V6, 128, 0) => IcmpKind::EchoRequest { id, sequence },
            (Version::V4, 0, 0) | (Version::V6, 129, 0) => IcmpKind::EchoReply { id, sequence },
            (Version::V4, 3 | 11 | 12, _) | (Version::V6, 1..=4, _) => IcmpKind::Error,
            (Version::V4 | Version::V6, _, _) => IcmpKind::Other,
        };
        Ok(Self { kind_number: header[0], code: header[1], kind })
    }

    /// The next hop's MTU, bytes, if this says that a packet was too big (RFC 1191, section 4; RFC 4443, section 3.2).
    pub fn mtu(&self, version: Version, message: &[u8]) -> Option<u32> {
        let header = message.first_chunk::<8>()?;
        match (version, self.kind_number, self.code) {
            (Version::V4, 3, 4) => Some(u32::from(be16(header, 6))),
            (Version::V6, 2, _) => Some(u32::from_be_bytes([header[4], header[5], header[6], header[7]])),
            (Version::V4 | Version::V6, _, _) => None,
        }
    }
}

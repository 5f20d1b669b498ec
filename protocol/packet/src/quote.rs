//! The packet that an ICMP error quotes: it says which flow the error is about.

use std::net::{IpAddr, Ipv4Addr};

use crate::checksum::update;
use crate::ip::{address_v6, be16, be32};
use crate::rewrite::{Layout, Ports, change_word, sum_of};
use crate::{Checksum, Headers, Malformed, NotRewritten, Rewrite, Version, protocol};

/// What the quoted packet carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quoted {
    /// A TCP segment.
    Tcp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
        /// Sequence number.
        sequence: u32,
    },
    /// A UDP datagram.
    Udp {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// An echo request.
    EchoRequest {
        /// Identifier.
        id: u16,
    },
    /// An echo reply.
    EchoReply {
        /// Identifier.
        id: u16,
    },
}

/// A quoted packet, which may be cut off after 8 bytes of its transport header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quote {
    /// Source address of the quoted packet.
    pub source: IpAddr,
    /// Destination address of the quoted packet.
    pub destination: IpAddr,
    /// What it carried.
    pub quoted: Quoted,
    layout: Layout,
}

impl Headers {
    /// Reads the packet that this ICMP error quotes; `packet` is the one that these headers were read from.
    ///
    /// # Errors
    /// [`Malformed::NotAnError`], or what is wrong with the quote.
    pub fn quote(&self, packet: &[u8]) -> Result<Quote, Malformed> {
        if !self.is_icmp_error() {
            return Err(Malformed::NotAnError);
        }
        let at = self.ip_header_len + 8;
        let bytes = packet.get(at..self.total_len).ok_or(Malformed::QuoteTruncated)?;
        let (source, destination, number, header_len) = match self.version {
            Version::V4 => quoted_v4(bytes)?,
            Version::V6 => quoted_v6(bytes)?,
        };
        let transport = bytes.get(header_len..).and_then(|rest| rest.first_chunk::<8>());
        let transport = transport.ok_or(Malformed::QuoteTruncated)?;
        let (quoted, ports) = match (number, self.version) {
            (protocol::TCP, _) => {
                let (source, destination) = (be16(transport, 0), be16(transport, 2));
                (Quoted::Tcp { source, destination, sequence: be32(transport, 4) }, Ports::Both)
            }
            (protocol::UDP, _) => {
                let (source, destination) = (be16(transport, 0), be16(transport, 2));
                (Quoted::Udp { source, destination }, Ports::Both)
            }
            (protocol::ICMP, Version::V4) | (protocol::ICMPV6, Version::V6) => {
                let id = be16(transport, 4);
                match (self.version, transport[0]) {
                    (Version::V4, 8) | (Version::V6, 128) => (Quoted::EchoRequest { id }, Ports::RequestId),
                    (Version::V4, 0) | (Version::V6, 129) => (Quoted::EchoReply { id }, Ports::ReplyId),
                    (Version::V4 | Version::V6, _) => return Err(Malformed::QuoteMalformed),
                }
            }
            _ => return Err(Malformed::QuoteMalformed),
        };
        let layout =
            Layout { version: self.version, protocol: number, at, transport: at + header_len, ports };
        Ok(Quote { source, destination, quoted, layout })
    }
}

type QuotedHeader = (IpAddr, IpAddr, u8, usize);

fn quoted_v4(bytes: &[u8]) -> Result<QuotedHeader, Malformed> {
    let fixed = bytes.first_chunk::<20>().ok_or(Malformed::QuoteTruncated)?;
    let header_len = usize::from(fixed[0] & 0x0f) * 4;
    // Later fragments have no ports; the first one has, but we carry none of them.
    if fixed[0] >> 4 != 4 || header_len < 20 || be16(fixed, 6) & 0x3fff != 0 {
        return Err(Malformed::QuoteMalformed);
    }
    let source = Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15]);
    let destination = Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19]);
    Ok((source.into(), destination.into(), fixed[9], header_len))
}

fn quoted_v6(bytes: &[u8]) -> Result<QuotedHeader, Malformed> {
    let fixed = bytes.first_chunk::<40>().ok_or(Malformed::QuoteTruncated)?;
    if fixed[0] >> 4 != 6 {
        return Err(Malformed::QuoteMalformed);
    }
    Ok((address_v6(fixed, 8).into(), address_v6(fixed, 24).into(), fixed[6], 40))
}

impl Quote {
    /// The TCP or UDP ports (source, destination).
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.quoted {
            Quoted::Tcp { source, destination, .. } | Quoted::Udp { source, destination } => {
                Some((source, destination))
            }
            Quoted::EchoRequest { .. } | Quoted::EchoReply { .. } => None,
        }
    }

    /// The protocol number of the quoted packet.
    pub fn protocol(&self) -> u8 {
        self.layout.protocol
    }

    /// Rewrites the quoted packet inside the ICMP error, and the checksums of both. `checksum` is the state of the
    /// error's own checksum. The error's own addresses are left: rewrite them with [`Headers::rewrite`].
    ///
    /// # Errors
    /// An address of the other family, or not the packet of these headers.
    pub fn rewrite(
        &self,
        packet: &mut [u8],
        outer: &Headers,
        change: &Rewrite,
        checksum: Checksum,
    ) -> Result<(), NotRewritten> {
        let packet = packet.get_mut(..outer.total_len).ok_or(NotRewritten::Truncated)?;
        // Ends after the last checksum that can change, or with the packet; the start is even.
        let touched = self.layout.at..(self.layout.transport + 20).min(packet.len());
        let old = sum_of(packet, touched.clone());
        self.layout.rewrite(packet, change, Checksum::Full)?;
        let new = sum_of(packet, touched);
        if checksum == Checksum::Full {
            change_word(packet, outer.ip_header_len + 2, |sum| update(sum, old, new));
        }
        Ok(())
    }
}

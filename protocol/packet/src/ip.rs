//! The view of a whole packet.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;

use crate::checksum::Sum;
use crate::{Icmp, IcmpKind, Malformed, Tcp, Udp, protocol};

/// IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What the packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Tcp),
    /// UDP.
    Udp(Udp),
    /// ICMP in IPv4, ICMPv6 in IPv6.
    Icmp(Icmp),
    /// Another protocol, by number.
    Other(u8),
}

/// All facts of a packet's headers, without the bytes, so that the bytes may change meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// IP version.
    pub version: Version,
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Differentiated services code point, 6 bits (RFC 2474).
    pub dscp: u8,
    /// Explicit congestion notification, 2 bits (RFC 3168).
    pub ecn: u8,
    /// Time to live or hop limit.
    pub hop_limit: u8,
    /// Length of the IP header with its options, bytes.
    pub ip_header_len: usize,
    /// Length of the whole packet, bytes; what the buffer holds beyond is not part of it.
    pub total_len: usize,
    /// What it carries.
    pub transport: Transport,
}

impl Headers {
    /// The protocol number.
    pub fn protocol(&self) -> u8 {
        match (self.transport, self.version) {
            (Transport::Tcp(_), _) => protocol::TCP,
            (Transport::Udp(_), _) => protocol::UDP,
            (Transport::Icmp(_), Version::V4) => protocol::ICMP,
            (Transport::Icmp(_), Version::V6) => protocol::ICMPV6,
            (Transport::Other(number), _) => number,
        }
    }

    /// Source and destination port of TCP and UDP.
    pub fn ports(&self) -> Option<(u16, u16)> {
        match self.transport {
            Transport::Tcp(tcp) => Some((tcp.source, tcp.destination)),
            Transport::Udp(udp) => Some((udp.source, udp.destination)),
            Transport::Icmp(_) | Transport::Other(_) => None,
        }
    }

    /// The TCP header.
    pub fn tcp(&self) -> Option<Tcp> {
        if let Transport::Tcp(tcp) = self.transport { Some(tcp) } else { None }
    }

    /// The UDP header.
    pub fn udp(&self) -> Option<Udp> {
        if let Transport::Udp(udp) = self.transport { Some(udp) } else { None }
    }

    /// The ICMP header.
    pub fn icmp(&self) -> Option<Icmp> {
        if let Transport::Icmp(icmp) = self.transport { Some(icmp) } else { None }
    }

    /// Whether this is an ICMP error, which quotes a packet.
    pub fn is_icmp_error(&self) -> bool {
        self.icmp().is_some_and(|icmp| icmp.kind == IcmpKind::Error)
    }

    /// Length of the IP header and the transport header, bytes.
    pub fn headers_len(&self) -> usize {
        self.ip_header_len
            + match self.transport {
                Transport::Tcp(tcp) => tcp.header_len,
                Transport::Udp(_) | Transport::Icmp(_) => 8,
                Transport::Other(_) => 0,
            }
    }
}

/// A packet that has been checked. Derefs to its [`Headers`].
#[derive(Debug, Clone, Copy)]
pub struct Ip<'a> {
    bytes: &'a [u8],
    headers: Headers,
}

impl Deref for Ip<'_> {
    type Target = Headers;

    fn deref(&self) -> &Headers {
        &self.headers
    }
}

impl<'a> Ip<'a> {
    /// Checks a packet. Bytes beyond its own length are cut off.
    ///
    /// Transport checksums are not checked: their ends do that, and offloading leaves them partial.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(buffer: &'a [u8]) -> Result<Self, Malformed> {
        match buffer.first().map(|first| first >> 4) {
            Some(4) => Self::parse_v4(buffer),
            Some(6) => Self::parse_v6(buffer),
            Some(_) => Err(Malformed::Version),
            None => Err(Malformed::Truncated),
        }
    }

    fn parse_v4(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = buffer.first_chunk::<20>().ok_or(Malformed::Truncated)?;
        let ip_header_len = usize::from(fixed[0] & 0x0f) * 4;
        if ip_header_len < 20 {
            return Err(Malformed::HeaderLength);
        }
        let total_len = usize::from(be16(fixed, 2));
        if total_len < ip_header_len {
            return Err(Malformed::TotalLength);
        }
        let bytes = buffer.get(..total_len).ok_or(Malformed::Truncated)?;
        let (header, payload) = bytes.split_at_checked(ip_header_len).ok_or(Malformed::Truncated)?;
        if Sum::new().bytes(header).finish() != 0 {
            return Err(Malformed::HeaderChecksum);
        }
        check_options(header.get(20..).unwrap_or_default())?;
        // More fragments, or an offset (RFC 791, section 3.1).
        if be16(fixed, 6) & 0x3fff != 0 {
            return Err(Malformed::Fragment);
        }
        let transport = match fixed[9] {
            protocol::TCP => Transport::Tcp(Tcp::parse(payload)?),
            protocol::UDP => Transport::Udp(Udp::parse(payload, false)?),
            protocol::ICMP => Transport::Icmp(Icmp::parse(Version::V4, payload)?),
            protocol::ICMPV6 => return Err(Malformed::IcmpVersion),
            other => Transport::Other(other),
        };
        let headers = Headers {
            version: Version::V4,
            source: IpAddr::V4(Ipv4Addr::new(fixed[12], fixed[13], fixed[14], fixed[15])),
            destination: IpAddr::V4(Ipv4Addr::new(fixed[16], fixed[17], fixed[18], fixed[19])),
            dscp: fixed[1] >> 2,
            ecn: fixed[1] & 3,
            hop_limit: fixed[8],
            ip_header_len,
            total_len,
            transport,
        };
        Ok(Self { bytes, headers })
    }

    fn parse_v6(buffer: &'a [u8]) -> Result<Self, Malformed> {
        let fixed = buffer.first_chunk::<40>().ok_or(Malformed::Truncated)?;
        let total_len = 40 + usize::from(be16(fixed, 4));
        let bytes = buffer.get(..total_len).ok_or(Malformed::Truncated)?;
        let payload = bytes.get(40..).ok_or(Malformed::Truncated)?;
        let transport = match fixed[6] {
            protocol::TCP => Transport::Tcp(Tcp::parse(payload)?),
            protocol::UDP => Transport::Udp(Udp::parse(payload, true)?),
            protocol::ICMPV6 => Transport::Icmp(Icmp::parse(Version::V6, payload)?),
            protocol::ICMP => return Err(Malformed::IcmpVersion),
            44 => return Err(Malformed::Fragment),
            // Hop-by-hop, routing, ESP, AH, destination options, mobility, HIP, Shim6, experiments (RFC 7045).
            0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => return Err(Malformed::ExtensionHeader),
            other => Transport::Other(other),
        };
        let headers = Headers {
            version: Version::V6,
            source: IpAddr::V6(address_v6(fixed, 8)),
            destination: IpAddr::V6(address_v6(fixed, 24)),
            dscp: (fixed[0] & 0x0f) << 2 | fixed[1] >> 6,
            ecn: fixed[1] >> 4 & 3,
            hop_limit: fixed[7],
            ip_header_len: 40,
            total_len,
            transport,
        };
        Ok(Self { bytes, headers })
    }

    /// The packet without anything that followed it in the buffer.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The facts without the bytes.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// What follows the IP header.
    pub fn ip_payload(&self) -> &'a [u8] {
        self.bytes.get(self.headers.ip_header_len..).unwrap_or_default()
    }

    /// What follows the transport header.
    pub fn payload(&self) -> &'a [u8] {
        self.bytes.get(self.headers.headers_len()..).unwrap_or_default()
    }

    /// Whether the transport checksum is right (a UDP checksum that was left out is).
    ///
    /// Reads the whole packet; not for the packet path.
    pub fn transport_checksum_holds(&self) -> bool {
        let payload = self.ip_payload();
        let sum = match self.headers.transport {
            Transport::Udp(udp) if udp.checksum == 0 => return self.headers.version == Version::V4,
            Transport::Icmp(_) if self.headers.version == Version::V4 => Sum::new(),
            Transport::Tcp(_) | Transport::Udp(_) | Transport::Icmp(_) => Sum::new().pseudo_header(
                self.headers.source,
                self.headers.destination,
                self.headers.protocol(),
                payload.len(),
            ),
            Transport::Other(_) => return true,
        };
        sum.bytes(payload).finish() == 0
    }
}

/// IPv4 options: well formed (RFC 791, section 3.1) and no source route.
fn check_options(mut options: &[u8]) -> Result<(), Malformed> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_SOURCE_ROUTE: u8 = 131;
    const STRICT_SOURCE_ROUTE: u8 = 137;
    while let Some((&kind, rest)) = options.split_first() {
        match kind {
            END => return Ok(()),
            NO_OPERATION => options = rest,
            LOOSE_SOURCE_ROUTE | STRICT_SOURCE_ROUTE => return Err(Malformed::SourceRoute),
            _ => {
                let length = usize::from(*rest.first().ok_or(Malformed::Options)?);
                if length < 2 {
                    return Err(Malformed::Options);
                }
                options = options.get(length..).ok_or(Malformed::Options)?;
            }
        }
    }
    Ok(())
}

/// The address at `at` of an IPv6 header.
pub(crate) fn address_v6(header: &[u8; 40], at: usize) -> Ipv6Addr {
    let mut octets = [0u8; 16];
    octets.copy_from_slice(&header[at..at + 16]);
    Ipv6Addr::from(octets)
}

/// The 16-bit word at `at` of a header whose length the type proves.
pub(crate) fn be16<const N: usize>(header: &[u8; N], at: usize) -> u16 {
    u16::from_be_bytes([header[at], header[at + 1]])
}

/// The 32-bit word at `at`.
pub(crate) fn be32<const N: usize>(header: &[u8; N], at: usize) -> u32 {
    u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
}

//! Refusals: what an application has to be sent so that it fails at once.

use std::net::{IpAddr, SocketAddr};

use crate::build::{NotBuilt, TcpSegment, icmp, tcp};
use crate::{Headers, IcmpKind, TcpFlags, Transport, Version};

/// An ICMP error that we send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IcmpError {
    /// Communication administratively prohibited (RFC 1812, section 5.2.7.1; RFC 4443, section 3.1).
    Prohibited,
    /// Nobody listens on that port.
    PortUnreachable,
    /// Fragmentation needed, or packet too big (RFC 1191; RFC 4443, section 3.2).
    TooBig {
        /// What would fit, bytes of IP.
        mtu: u32,
    },
}

/// The most that an ICMP error may have (RFC 1812, section 4.3.2.3).
const MAX_V4: usize = 576;
/// The most that an ICMPv6 error may have: the minimum MTU (RFC 4443, section 2.4).
const MAX_V6: usize = 1280;

/// Writes an ICMP error about `original`, from `source` to the sender of `original`; returns its length (at most 576
/// bytes for IPv4, 1280 for IPv6).
///
/// # Errors
/// [`NotBuilt::NotAnswered`] for ICMP that is no echo request, and for multicast and broadcast (RFC 1122, section
/// 3.2.2); a source of the other family; no room.
pub fn icmp_error(
    out: &mut [u8],
    original: &[u8],
    headers: &Headers,
    error: IcmpError,
    source: IpAddr,
) -> Result<usize, NotBuilt> {
    if let Transport::Icmp(icmp) = headers.transport
        && !matches!(icmp.kind, IcmpKind::EchoRequest { .. })
    {
        return Err(NotBuilt::NotAnswered);
    }
    if !is_single(headers.source) || !is_single(headers.destination) {
        return Err(NotBuilt::NotAnswered);
    }
    let (kind_and_code, rest) = match (headers.version, error) {
        (Version::V4, IcmpError::Prohibited) => ([3, 13], [0; 4]),
        (Version::V6, IcmpError::Prohibited) => ([1, 1], [0; 4]),
        (Version::V4, IcmpError::PortUnreachable) => ([3, 3], [0; 4]),
        (Version::V6, IcmpError::PortUnreachable) => ([1, 4], [0; 4]),
        (Version::V4, IcmpError::TooBig { mtu }) => {
            let mtu = u16::try_from(mtu).unwrap_or(u16::MAX).to_be_bytes();
            ([3, 4], [0, 0, mtu[0], mtu[1]])
        }
        (Version::V6, IcmpError::TooBig { mtu }) => ([2, 0], mtu.to_be_bytes()),
    };
    let most = match headers.version {
        Version::V4 => MAX_V4 - 28,
        Version::V6 => MAX_V6 - 48,
    };
    let original = original.get(..headers.total_len.min(original.len())).unwrap_or_default();
    let quote = original.get(..most).unwrap_or(original);
    icmp(out, source, headers.source, kind_and_code, rest, quote)
}

/// One host's address, so that an answer goes to one host.
fn is_single(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_multicast() && !v4.is_broadcast() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified(),
    }
}

/// Writes the RST that a closed port answers to a segment (RFC 9293, section 3.10.7.1); returns its length.
///
/// # Errors
/// [`NotBuilt::NotAnswered`] for anything but TCP, and for a RST; no room.
pub fn reset_for(out: &mut [u8], headers: &Headers) -> Result<usize, NotBuilt> {
    let segment = headers.tcp().ok_or(NotBuilt::NotAnswered)?;
    if segment.flags.has(TcpFlags::RST) || !is_single(headers.source) || !is_single(headers.destination) {
        return Err(NotBuilt::NotAnswered);
    }
    let (sequence, acknowledgement, flags) = if segment.flags.has(TcpFlags::ACK) {
        (segment.acknowledgement, 0, TcpFlags::RST)
    } else {
        (0, segment.sequence_end(), TcpFlags::RST.with(TcpFlags::ACK))
    };
    tcp(
        out,
        &TcpSegment {
            source: SocketAddr::new(headers.destination, segment.destination),
            destination: SocketAddr::new(headers.source, segment.source),
            sequence,
            acknowledgement,
            flags,
            window: 0,
            mss: None,
            payload: &[],
        },
    )
}

/// Writes a RST from `source` to `destination`; returns its length.
///
/// `sequence` is the next that the receiver expects (anything else only draws a challenge: RFC 9293, section
/// 3.10.7.4), `acknowledgement` the next that it will send.
///
/// # Errors
/// Two families; no room.
pub fn reset(
    out: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    sequence: u32,
    acknowledgement: u32,
) -> Result<usize, NotBuilt> {
    let flags = TcpFlags::RST.with(TcpFlags::ACK);
    let segment = TcpSegment {
        source,
        destination,
        sequence,
        acknowledgement,
        flags,
        window: 0,
        mss: None,
        payload: &[],
    };
    tcp(out, &segment)
}

//! Packets made by us, written into the caller's buffer.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::Sum;
use crate::{IcmpKind, Ip, TcpFlags, Version, protocol};

/// Why a packet was not made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotBuilt {
    /// The buffer, or the length field, is too small for it.
    #[error("no room for the packet")]
    NoRoom,
    /// Source and destination are of different IP versions.
    #[error("source and destination are of different IP versions")]
    Family,
    /// The packet must not be answered like this: no RST for a RST, no error about an error (RFC 1122, section 3.2.2).
    #[error("a packet that must not be answered")]
    NotAnswered,
}

/// A TCP segment to make.
#[derive(Debug, Clone, Copy)]
pub struct TcpSegment<'a> {
    /// Source address and port.
    pub source: SocketAddr,
    /// Destination address and port.
    pub destination: SocketAddr,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Flags.
    pub flags: TcpFlags,
    /// Window, unscaled.
    pub window: u16,
    /// Value of an MSS option, if there is to be one.
    pub mss: Option<u16>,
    /// Payload.
    pub payload: &'a [u8],
}

/// Writes a TCP segment; returns its length.
///
/// # Errors
/// No room, or two families.
pub fn tcp(out: &mut [u8], segment: &TcpSegment<'_>) -> Result<usize, NotBuilt> {
    let option = segment.mss.map(|mss| {
        let mss = mss.to_be_bytes();
        [2, 4, mss[0], mss[1]]
    });
    let options = option.as_ref().map_or(&[][..], |option| &option[..]);
    let mut header = [0u8; 20];
    header[0..2].copy_from_slice(&segment.source.port().to_be_bytes());
    header[2..4].copy_from_slice(&segment.destination.port().to_be_bytes());
    header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
    header[12] = (((20 + options.len()) / 4) << 4) as u8;
    header[13] = segment.flags.0;
    header[14..16].copy_from_slice(&segment.window.to_be_bytes());
    let ends = (segment.source.ip(), segment.destination.ip());
    write(out, ends, protocol::TCP, 16, &[&header, options, segment.payload])
}

/// Writes a UDP datagram; returns its length.
///
/// # Errors
/// No room, or two families.
pub fn udp(
    out: &mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> Result<usize, NotBuilt> {
    let length = u16::try_from(8 + payload.len()).map_err(|_| NotBuilt::NoRoom)?;
    let mut header = [0u8; 8];
    header[0..2].copy_from_slice(&source.port().to_be_bytes());
    header[2..4].copy_from_slice(&destination.port().to_be_bytes());
    header[4..6].copy_from_slice(&length.to_be_bytes());
    write(out, (source.ip(), destination.ip()), protocol::UDP, 6, &[&header, payload])
}

/// Writes an echo request; returns its length.
///
/// # Errors
/// No room, or two families.
pub fn echo_request(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    id: u16,
    sequence: u16,
    payload: &[u8],
) -> Result<usize, NotBuilt> {
    let kind = if source.is_ipv4() { 8 } else { 128 };
    icmp(out, source, destination, [kind, 0], echo_rest(id, sequence), payload)
}

/// Writes the reply to an echo request; returns its length.
///
/// # Errors
/// [`NotBuilt::NotAnswered`] when it is no echo request; no room.
pub fn echo_reply(out: &mut [u8], request: &Ip<'_>) -> Result<usize, NotBuilt> {
    let Some(IcmpKind::EchoRequest { id, sequence }) = request.icmp().map(|icmp| icmp.kind) else {
        return Err(NotBuilt::NotAnswered);
    };
    let kind = match request.version {
        Version::V4 => 0,
        Version::V6 => 129,
    };
    let rest = echo_rest(id, sequence);
    icmp(out, request.destination, request.source, [kind, 0], rest, request.payload())
}

fn echo_rest(id: u16, sequence: u16) -> [u8; 4] {
    let (id, sequence) = (id.to_be_bytes(), sequence.to_be_bytes());
    [id[0], id[1], sequence[0], sequence[1]]
}

/// Writes an ICMP message of the addresses' family.
pub(crate) fn icmp(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    kind_and_code: [u8; 2],
    rest: [u8; 4],
    body: &[u8],
) -> Result<usize, NotBuilt> {
    let mut header = [0u8; 8];
    header[..2].copy_from_slice(&kind_and_code);
    header[4..].copy_from_slice(&rest);
    let number = if source.is_ipv4() { protocol::ICMP } else { protocol::ICMPV6 };
    write(out, (source, destination), number, 2, &[&header, body])
}

/// Writes an IP header and the parts of its payload, then the checksum at `checksum` of the payload.
fn write(
    out: &mut [u8],
    (source, destination): (IpAddr, IpAddr),
    number: u8,
    checksum: usize,
    parts: &[&[u8]],
) -> Result<usize, NotBuilt> {
    let payload_len: usize = parts.iter().map(|part| part.len()).sum();
    let header_len = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = u16::try_from(20 + payload_len).map_err(|_| NotBuilt::NoRoom)?;
            let header = out.first_chunk_mut::<20>().ok_or(NotBuilt::NoRoom)?;
            *header = [0; 20];
            header[0] = 0x45;
            header[2..4].copy_from_slice(&total.to_be_bytes());
            header[6] = 0x40; // don't fragment, so that the identification may stay zero (RFC 6864)
            header[8] = HOP_LIMIT;
            header[9] = number;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = Sum::new().bytes(&header[..]).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let length = u16::try_from(payload_len).map_err(|_| NotBuilt::NoRoom)?;
            let header = out.first_chunk_mut::<40>().ok_or(NotBuilt::NoRoom)?;
            *header = [0; 40];
            header[0] = 0x60;
            header[4..6].copy_from_slice(&length.to_be_bytes());
            header[6] = number;
            header[7] = HOP_LIMIT;
            header[8..24].copy_from_slice(&source.octets());
            header[24..40].copy_from_slice(&destination.octets());
            40
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Err(NotBuilt::Family),
    };
    let payload = out.get_mut(header_len..header_len + payload_len).ok_or(NotBuilt::NoRoom)?;
    let mut rest = &mut *payload;
    for part in parts {
        let (here, after) = rest.split_at_mut_checked(part.len()).ok_or(NotBuilt::NoRoom)?;
        here.copy_from_slice(part);
        rest = after;
    }
    let pseudo = if number == protocol::ICMP {
        Sum::new()
    } else {
        Sum::new().pseudo_header(source, destination, number, payload_len)
    };
    let sum = match pseudo.bytes(payload).finish() {
        0 if number == protocol::UDP => 0xffff, // zero would mean none (RFC 768)
        sum => sum,
    };
    crate::rewrite::change_word(payload, checksum, |_| sum);
    Ok(header_len + payload_len)
}

/// The recommended default (RFC 1700).
const HOP_LIMIT: u8 = 64;

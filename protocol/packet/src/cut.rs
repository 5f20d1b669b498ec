//! Cutting a TCP packet that is too long for its path into shorter ones that say the same.

use crate::checksum::Sum;
use crate::{Headers, TcpFlags, Version, protocol};

/// TCP flags that mean the end of what was sent, so belong to the last piece (RFC 9293, section 3.1).
const LAST_ONLY: u8 = TcpFlags::FIN.0 | TcpFlags::PSH.0;
/// CWR says something once, so belongs to the first piece (RFC 3168, section 6.1.2).
const FIRST_ONLY: u8 = 0x80;
/// URG and its pointer name one byte, and nobody uses them: such a segment is not cut.
const URGENT: u8 = 0x20;

/// The pieces of one TCP packet, written one after the other by [`next_into`](Self::next_into).
///
/// Each has all the headers and options, its own sequence number, IPv4 identification and checksums; FIN and PSH stay
/// with the last piece, CWR with the first. All pieces but the last are equally long.
#[derive(Debug, Clone)]
pub struct TcpPieces {
    headers: Headers,
    /// Bytes of all headers.
    before: usize,
    piece: usize,
    done: usize,
    index: u16,
}

impl TcpPieces {
    /// Pieces of at most `limit` bytes each; `None` when the packet is not TCP with payload, or when its headers leave
    /// no room.
    pub fn new(headers: &Headers, limit: usize) -> Option<Self> {
        let tcp = headers.tcp()?;
        let before = headers.headers_len();
        let piece = limit.checked_sub(before).filter(|piece| *piece > 0)?;
        let whole = tcp.flags.has(TcpFlags::SYN) || tcp.flags.has(TcpFlags(URGENT)) || tcp.payload_len == 0;
        (!whole).then_some(Self { headers: *headers, before, piece, done: 0, index: 0 })
    }

    /// Writes the next piece of `packet`, which is the one that the headers were read from, to the front of `out`, and
    /// says how long it is. `None` when there is no more, or when `out` is too small for it.
    pub fn next_into(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let payload = packet.get(self.before + self.done..self.headers.total_len)?;
        let (take, first) = (payload.len().min(self.piece), self.done == 0);
        if take == 0 {
            return None;
        }
        let last = take == payload.len();
        let length = self.before + take;
        let out = out.get_mut(..length)?;
        let (head, body) = out.split_at_mut_checked(self.before)?;
        head.copy_from_slice(packet.get(..self.before)?);
        body.copy_from_slice(payload.get(..take)?);
        self.fix_network(out)?;
        self.fix_tcp(out, first, last)?;
        self.done += take;
        self.index = self.index.wrapping_add(1);
        Some(length)
    }

    fn fix_network(&self, out: &mut [u8]) -> Option<()> {
        let length = u16::try_from(out.len()).ok()?;
        match self.headers.version {
            Version::V6 => put(out, 4, length.checked_sub(40)?),
            Version::V4 => {
                put(out, 2, length)?;
                let id = get(out, 4)?.wrapping_add(self.index);
                put(out, 4, id)?;
                put(out, 10, 0)?;
                let sum = Sum::new().bytes(out.get(..self.headers.ip_header_len)?).finish();
                put(out, 10, sum)
            }
        }
    }

    fn fix_tcp(&self, out: &mut [u8], first: bool, last: bool) -> Option<()> {
        let at = self.headers.ip_header_len;
        let sequence = out.get_mut(at + 4..)?.first_chunk_mut::<4>()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(self.done as u32).to_be_bytes();
        let flags = out.get_mut(at + 13)?;
        if !first {
            *flags &= !FIRST_ONLY;
        }
        if !last {
            *flags &= !LAST_ONLY;
        }
        put(out, at + 16, 0)?;
        let upper = out.get(at..)?;
        let (source, destination) = (self.headers.source, self.headers.destination);
        let sum = Sum::new().pseudo_header(source, destination, protocol::TCP, upper.len()).bytes(upper);
        put(out, at + 16, sum.finish())
    }
}

fn get(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|word| u16::from_be_bytes(*word))
}

fn put(bytes: &mut [u8], at: usize, value: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut::<2>()? = value.to_be_bytes();
    Some(())
}

//! Clamping of the TCP maximum segment size (RFC 9293, section 3.7.1).

use crate::checksum::update;
use crate::rewrite::{change_word, sum_of};
use crate::{Checksum, Headers, Ip, TcpFlags, protocol};

/// IPv4 and IPv6 headers without options, and TCP's (the MSS does not count options: RFC 9293, section 3.7.1).
const HEADERS_V4: usize = 20 + 20;
const HEADERS_V6: usize = 40 + 20;

/// Lowers the MSS that a SYN offers so that segments fit packets of `limit` bytes. Anything but a SYN costs a look at
/// three bytes. Says whether it changed anything.
pub fn clamp_syn(packet: &mut [u8], limit: usize, checksum: Checksum) -> bool {
    if !may_be_syn(packet) {
        return false;
    }
    let Ok(headers) = Ip::parse(packet).map(|ip| *ip.headers()) else { return false };
    let before = if headers.source.is_ipv4() { HEADERS_V4 } else { HEADERS_V6 };
    let max = u16::try_from(limit.saturating_sub(before)).unwrap_or(u16::MAX);
    clamp_mss(packet, &headers, max, checksum)
}

/// Whether it is TCP with the SYN flag, if it is well formed at all.
fn may_be_syn(packet: &[u8]) -> bool {
    let at = match packet.first() {
        Some(first) if first >> 4 == 4 && packet.get(9) == Some(&protocol::TCP) => {
            usize::from(first & 15) * 4
        }
        Some(first) if first >> 4 == 6 && packet.get(6) == Some(&protocol::TCP) => 40,
        Some(_) | None => return false,
    };
    packet.get(at + 13).is_some_and(|flags| TcpFlags(*flags).has(TcpFlags::SYN))
}

/// Lowers the MSS option of a SYN to `max` bytes. Says whether it changed anything: segments that are no SYN, that
/// have no such option, or that ask for less already, stay as they are.
pub fn clamp_mss(packet: &mut [u8], headers: &Headers, max: u16, checksum: Checksum) -> bool {
    let Some(tcp) = headers.tcp() else { return false };
    if !tcp.flags.has(TcpFlags::SYN) {
        return false;
    }
    let options = headers.ip_header_len + 20..headers.ip_header_len + tcp.header_len;
    let Some(at) = packet.get(options.clone()).and_then(find_mss) else { return false };
    let at = options.start + at;
    let old = sum_of(packet, options.clone());
    let mut changed = false;
    change_word(packet, at, |mss| {
        changed = mss > max;
        mss.min(max)
    });
    if changed && checksum == Checksum::Full {
        // The option may start at an odd byte: the options are summed as a whole.
        let new = sum_of(packet, options);
        change_word(packet, headers.ip_header_len + 16, |sum| update(sum, old, new));
    }
    changed
}

/// Offset of the value of the MSS option.
fn find_mss(options: &[u8]) -> Option<usize> {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const MSS: u8 = 2;
    let mut at = 0;
    loop {
        match *options.get(at)? {
            END => return None,
            NO_OPERATION => at += 1,
            kind => {
                let length = usize::from(*options.get(at + 1)?);
                if kind == MSS {
                    return (length == 4 && at + 4 <= options.len()).then_some(at + 2);
                }
                if length < 2 {
                    return None;
                }
                at += length;
            }
        }
    }
}

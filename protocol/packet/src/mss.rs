//! Clamping of the TCP maximum segment size (RFC 9293, section 3.7.1).

use crate::checksum::update;
use crate::rewrite::{change_word, sum_of};
use crate::{Checksum, Headers, TcpFlags};

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

//! The four bytes before a payload on a channel (RFC 8656 §12.4).

use std::ops::{Range, RangeInclusive};

/// Length of the ChannelData header.
pub const CHANNEL_HEADER_LEN: usize = 4;

/// RFC 8656 §12: the numbers that a channel may have. Our own clients keep to them.
pub const CHANNELS: RangeInclusive<u16> = 0x4000..=0x4fff;

/// RFC 5766 §11: the numbers that older clients use. A relay takes them all.
pub const OLDER_CHANNELS: RangeInclusive<u16> = 0x4000..=0x7fff;

/// The header to put before a payload (before each segment of a GSO buffer).
pub fn channel_header(channel: u16, payload_len: u16) -> [u8; CHANNEL_HEADER_LEN] {
    let [c0, c1] = channel.to_be_bytes();
    let [l0, l1] = payload_len.to_be_bytes();
    [c0, c1, l0, l1]
}

/// The channel and where the payload lies. Bytes behind the payload are padding, which UDP senders may add; a
/// datagram shorter than its payload, or a number that is no channel, gives `None`.
pub fn read_channel_header(datagram: &[u8]) -> Option<(u16, Range<usize>)> {
    let [c0, c1, l0, l1] = *datagram.first_chunk::<CHANNEL_HEADER_LEN>()?;
    let channel = u16::from_be_bytes([c0, c1]);
    let payload = CHANNEL_HEADER_LEN..CHANNEL_HEADER_LEN + usize::from(u16::from_be_bytes([l0, l1]));
    (OLDER_CHANNELS.contains(&channel) && payload.end <= datagram.len()).then_some((channel, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_reads_back_from_behind_its_header() {
        let mut datagram = channel_header(0x4001, 5).to_vec();
        datagram.extend(b"hello");

        assert_eq!(read_channel_header(&datagram), Some((0x4001, 4..9)));
    }

    #[test]
    fn padding_behind_the_payload_is_not_payload() {
        let mut datagram = channel_header(0x4fff, 1).to_vec();
        datagram.extend(b"h\0\0\0");

        assert_eq!(read_channel_header(&datagram), Some((0x4fff, 4..5)));
    }

    #[test]
    fn a_cut_payload_and_a_number_that_is_no_channel_are_refused() {
        assert_eq!(read_channel_header(&channel_header(0x4001, 1)), None);
        assert_eq!(read_channel_header(&channel_header(0x3fff, 0)), None);
        assert_eq!(read_channel_header(&channel_header(0x8000, 0)), None);
        assert_eq!(read_channel_header(&[0x40, 0, 0]), None);
    }
}

//! STUN and ChannelData on a stream (RFC 8489 §6.2.2, RFC 8656 §12.5): one behind the other, with ChannelData padded to a
//! multiple of four bytes.
//!
//! Both kinds say in their first four bytes how long they are. What is neither ends the connection: nobody can tell where
//! the next message would begin.

use crate::channel::CHANNEL_HEADER_LEN;
use crate::wire::{HEADER_LEN, MAGIC_COOKIE};

/// The longest message: ChannelData with 65,535 bytes, padded.
pub const LONGEST: usize = CHANNEL_HEADER_LEN + 65_536;

/// What stands at the beginning of the bytes that a stream has brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// A message of this length, padding included, which is there as a whole.
    Whole(usize),
    /// A message of this length whose end is missing; zero when even the length is.
    Part(usize),
    /// Nothing that belongs here.
    Broken,
}

/// Looks at the first message of `bytes`.
pub fn frame(bytes: &[u8]) -> Frame {
    let [first, _, high, low, ..] = *bytes else {
        return match bytes.first() {
            Some(0x80..) => Frame::Broken,
            Some(_) | None => Frame::Part(0),
        };
    };
    let announced = usize::from(u16::from_be_bytes([high, low]));
    let length = match first {
        0x00..=0x3f => {
            let cookie = bytes.get(4..).unwrap_or_default();
            let known = cookie.len().min(MAGIC_COOKIE.len());
            if cookie.get(..known) != MAGIC_COOKIE.get(..known) || !announced.is_multiple_of(4) {
                return Frame::Broken;
            }
            HEADER_LEN + announced
        }
        0x40..=0x7f => CHANNEL_HEADER_LEN + announced.next_multiple_of(4),
        0x80.. => return Frame::Broken,
    };
    if bytes.len() >= length { Frame::Whole(length) } else { Frame::Part(length) }
}

/// The bytes that follow a ChannelData message with so many bytes of payload.
pub fn padding(payload: usize) -> &'static [u8] {
    [&[][..], &[0; 3], &[0; 2], &[0; 1]][payload % 4]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::channel_header;
    use crate::wire::Draft;
    use proptest::prelude::*;
    use stun_types::message::{BINDING, MessageClass};

    fn binding() -> Vec<u8> {
        Draft::new(MessageClass::Request, BINDING, 7.into()).fingerprinted(true).finish()
    }

    fn data(payload: &[u8]) -> Vec<u8> {
        let header = channel_header(0x4001, u16::try_from(payload.len()).unwrap());
        [&header, payload, padding(payload.len())].concat()
    }

    /// Takes whole messages off a stream that arrives in pieces of `piece` bytes.
    fn split(stream: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, Vec<Vec<u8>>> {
        let (mut waiting, mut out) = (Vec::new(), Vec::new());
        for arrived in stream.chunks(piece) {
            waiting.extend_from_slice(arrived);
            loop {
                match frame(&waiting) {
                    Frame::Whole(length) => out.push(waiting.drain(..length).collect()),
                    Frame::Part(length) => {
                        assert!(length == 0 || length > waiting.len());
                        break;
                    }
                    Frame::Broken => return Err(out),
                }
            }
        }
        if waiting.is_empty() { Ok(out) } else { Err(out) }
    }

    #[test]
    fn messages_come_out_whole_however_the_stream_is_cut() {
        let messages = [binding(), data(b""), data(b"x"), data(&[5; 1_001]), binding(), data(&[6; 65_535])];
        let stream = messages.concat();

        for piece in [1, 3, 4, 7, 1_000, 100_000] {
            assert_eq!(split(&stream, piece).unwrap(), messages, "pieces of {piece}");
        }
        assert_eq!(data(&[6; 65_535]).len(), LONGEST);
    }

    #[test]
    fn what_is_neither_is_noticed_at_once() {
        for broken in
            [&b"GET / HTTP/1.1\r\n"[..], b"\x16\x03\x01\x02", b"\x80", b"\0\x01\0\x03", b"\0\x01\0\0\x21\x13"]
        {
            let at_once = (1..=broken.len()).any(|n| frame(&broken[..n]) == Frame::Broken);
            assert_eq!(at_once, broken[0] != b'G', "{broken:?}");
        }
        // "GET " reads as ChannelData of 21,573 bytes: the channel number gives it away, where it is looked up.
        assert_eq!(frame(b"GET / HTTP"), Frame::Part(4 + 0x5420));
    }

    proptest! {
        #[test]
        fn any_bytes_are_cut_the_same_way_whatever_the_pieces(
            stream in proptest::collection::vec(any::<u8>(), 0..600),
            piece in 1_usize..50,
        ) {
            let whole = split(&stream, 600);
            let pieces = split(&stream, piece);
            match (whole, pieces) {
                (Ok(a), Ok(b)) | (Err(a), Err(b)) => prop_assert_eq!(a, b),
                (a, b) => prop_assert!(false, "{:?} {:?}", a, b),
            }
        }
    }
}

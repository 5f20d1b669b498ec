//! As much of WebSocket (RFC 6455, section 5) as a proxy needs that reads what a server sends.

use anyhow::{Result, bail};

const BINARY: u8 = 0x82;

/// A piece of what a server sent.
pub enum Frame {
    /// A whole binary message.
    Binary(Vec<u8>),
    /// Anything else, as it came: the answer to the handshake, and control frames.
    Other(Vec<u8>),
}

/// Cuts a stream of bytes into frames; first comes the answer to the handshake.
#[derive(Default)]
pub struct Frames {
    waiting: Vec<u8>,
    upgraded: bool,
}

impl Frames {
    /// Takes bytes in and hands out what is complete.
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Frame>> {
        self.waiting.extend_from_slice(bytes);
        let mut out = Vec::new();
        if !self.upgraded {
            let Some(end) = self.waiting.windows(4).position(|four| four == b"\r\n\r\n") else {
                return Ok(out);
            };
            let head: Vec<_> = self.waiting.drain(..end + 4).collect();
            // An answer that is no upgrade passes as it is, with whatever follows.
            self.upgraded = head.starts_with(b"HTTP/1.1 101");
            out.push(Frame::Other(head));
            if !self.upgraded {
                out.push(Frame::Other(std::mem::take(&mut self.waiting)));
                return Ok(out);
            }
        }
        while let Some((header, length)) = lengths(&self.waiting) {
            if self.waiting.len() < header + length {
                break;
            }
            let frame: Vec<_> = self.waiting.drain(..header + length).collect();
            match frame.first() {
                Some(&BINARY) => out.push(Frame::Binary(frame[header..].to_vec())),
                Some(&first) if first & 0x80 == 0 || first & 0x0f == 0 => bail!("a fragmented message"),
                _ => out.push(Frame::Other(frame)),
            }
        }
        Ok(out)
    }
}

/// Lengths of the header and of the payload of the first frame, once the header is complete.
fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    match bytes.get(1)? {
        126 => Some((4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)))),
        127 => Some((10, usize::try_from(u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)).ok()?)),
        short => Some((2, usize::from(*short))),
    }
}

/// A binary message as a server sends it.
pub fn binary(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![BINARY];
    match u16::try_from(payload.len()) {
        Ok(short) if short < 126 => frame.push(u8::try_from(short).unwrap_or(0)),
        Ok(middle) => {
            frame.push(126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        Err(_) => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_whole_however_they_went_in() {
        let messages: Vec<Vec<u8>> = [5, 125, 126, 65_535, 65_536].map(|length| vec![7; length]).into();
        let mut stream = b"HTTP/1.1 101 Switching Protocols\r\nA: b\r\n\r\n".to_vec();
        messages.iter().for_each(|message| stream.extend(binary(message)));

        for chunk in [1, 7, 1000, stream.len()] {
            let mut frames = Frames::default();
            let pieces: Vec<_> = stream.chunks(chunk).flat_map(|bytes| frames.take(bytes).unwrap()).collect();
            let binaries = pieces.into_iter().filter_map(|piece| match piece {
                Frame::Binary(message) => Some(message),
                Frame::Other(_) => None,
            });
            assert_eq!(binaries.collect::<Vec<_>>(), messages);
        }
    }
}

//! Our own probes on the wire.
//!
//! ```text
//!  0  type        u32 LE   0x20, so that the first byte is outside WireGuard's 1 to 4
//!  4  receiver    u32 LE   the receiver's index, where WireGuard's type 4 has it
//!  8  counter     u64 LE   generation (16 bits) | path (8) | sequence (40)
//! 16  sealed               ChaCha20-Poly1305 with the direction's key, header as associated data,
//!                          nonce = 4 zero bytes and the counter
//!
//! sealed content, 40 bytes and padding:
//!  0  kind        u8       1 probe, 2 answer
//!  1  flags       u8       bit 0: the sender sends its data on this path; bit 1: it tries its direct paths when this
//!                          arrives, so the receiver should, too
//!  2  size        u16 LE   answer: bytes of the datagram that it answers
//!  4  choice      u32 LE   how many paths the client has chosen so far, as far as the sender knows
//!  8  id          u64 LE   probe: its counter; answer: the counter of the probe
//! 16  sender      u32 LE   the sender's own index
//! 20  port        u16 LE   answer: where the probe came from …
//! 22  family      u8       … 4 or 6; 0 in probes
//! 23  zero        u8
//! 24  address     16 bytes … IPv4 in the first four
//! ```
//!
//! The counter of one sender never repeats under one key: the sequence counts for each path, and whoever makes a new
//! sender with old keys gives it a higher generation.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use protocol_identity::Secret32;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::ProbeError;

/// Type of a probe.
pub const PROBE_TYPE: u32 = 0x20;
/// Size of a probe without padding, and of every answer.
pub const PROBE_SIZE: usize = HEADER + CONTENT + TAG;

const HEADER: usize = 16;
pub(crate) const CONTENT: usize = 40;
const TAG: usize = 16;

/// The keys of both directions.
pub struct ProbeKeys {
    send: LessSafeKey,
    receive: LessSafeKey,
}

impl ProbeKeys {
    /// The client sends with `client_to_gateway` and receives with `gateway_to_client`; the gateway the other way round.
    pub fn new(send: &Secret32, receive: &Secret32) -> Self {
        Self { send: key(send), receive: key(receive) }
    }
}

fn key(secret: &Secret32) -> LessSafeKey {
    match UnboundKey::new(&CHACHA20_POLY1305, secret.expose()) {
        Ok(key) => LessSafeKey::new(key),
        // The only error is a length other than 32, which the type rules out.
        Err(ring::error::Unspecified) => unreachable!("a key of 32 bytes fits"),
    }
}

impl fmt::Debug for ProbeKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProbeKeys(…)")
    }
}

/// Position of a datagram among all that one end ever sends with its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counter {
    pub generation: u16,
    pub path: u8,
    pub sequence: u64,
}

const SEQUENCE_BITS: u32 = 40;

impl Counter {
    pub(crate) fn encode(self) -> u64 {
        u64::from(self.generation) << 48
            | u64::from(self.path) << SEQUENCE_BITS
            | self.sequence & ((1 << SEQUENCE_BITS) - 1)
    }

    fn decode(counter: u64) -> Self {
        let [_, _, _, _, _, path, low, high] = counter.to_le_bytes();
        Self {
            generation: u16::from_le_bytes([low, high]),
            path,
            sequence: counter & ((1 << SEQUENCE_BITS) - 1),
        }
    }
}

/// What is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Content {
    Probe { chosen: bool, meet: bool, choice: u32, sender: u32 },
    Answer { id: u64, size: u16, observed: SocketAddr, sender: u32 },
}

/// A probe that was opened. Whether it is a replay is not decided here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub counter: Counter,
    pub id: u64,
    pub content: Content,
}

/// Writes a probe or an answer of `size` bytes; `None` when the buffer is too small for it.
pub(crate) fn seal(
    keys: &ProbeKeys,
    receiver: u32,
    counter: Counter,
    content: &Content,
    size: usize,
    buffer: &mut [u8],
) -> Option<usize> {
    let counter = counter.encode();
    seal_bytes(keys, receiver, counter, &write(content, counter), size, buffer)
}

/// The same for any content.
pub(crate) fn seal_bytes(
    keys: &ProbeKeys,
    receiver: u32,
    counter: u64,
    content: &[u8; CONTENT],
    size: usize,
    buffer: &mut [u8],
) -> Option<usize> {
    let size = size.max(PROBE_SIZE);
    let datagram = buffer.get_mut(..size)?;
    let (header, body) = datagram.split_at_mut_checked(HEADER)?;
    let (plain, tag) = body.split_at_mut_checked(size - HEADER - TAG)?;
    header.get_mut(..4)?.copy_from_slice(&PROBE_TYPE.to_le_bytes());
    header.get_mut(4..8)?.copy_from_slice(&receiver.to_le_bytes());
    header.get_mut(8..)?.copy_from_slice(&counter.to_le_bytes());
    plain.fill(0);
    plain.get_mut(..CONTENT)?.copy_from_slice(content);
    let sealed = keys.send.seal_in_place_separate_tag(nonce(counter), Aad::from(&*header), plain).ok()?;
    tag.copy_from_slice(sealed.as_ref());
    Some(size)
}

/// The counter in the clear, before anything is computed.
pub(crate) fn peek(datagram: &[u8]) -> Result<Counter, ProbeError> {
    if datagram.len() < PROBE_SIZE || datagram.get(..4) != Some(&PROBE_TYPE.to_le_bytes()) {
        return Err(ProbeError::Malformed);
    }
    read_u64(datagram, 8).map(Counter::decode).ok_or(ProbeError::Malformed)
}

/// Opens a datagram.
pub(crate) fn open(keys: &ProbeKeys, datagram: &[u8]) -> Result<Opened, ProbeError> {
    let counter = peek(datagram)?;
    // Padded probes are as long as a datagram gets; nothing longer is one.
    let mut buffer = [0u8; crate::mtu::LARGEST];
    let (header, sealed) = datagram.split_at_checked(HEADER).ok_or(ProbeError::Malformed)?;
    let body = buffer.get_mut(..sealed.len()).ok_or(ProbeError::Malformed)?;
    body.copy_from_slice(sealed);
    let plain = keys
        .receive
        .open_in_place(nonce(counter.encode()), Aad::from(header), body)
        .map_err(|_| ProbeError::NotAuthentic)?;
    let (id, content) = read(plain).ok_or(ProbeError::Malformed)?;
    Ok(Opened { counter, id, content })
}

fn nonce(counter: u64) -> Nonce {
    let [a, b, c, d, e, f, g, h] = counter.to_le_bytes();
    Nonce::assume_unique_for_key([0, 0, 0, 0, a, b, c, d, e, f, g, h])
}

fn write(content: &Content, counter: u64) -> [u8; CONTENT] {
    let mut out = [0u8; CONTENT];
    let (kind, flags, size, choice, id, sender) = match *content {
        Content::Probe { chosen, meet, choice, sender } => {
            (1, u8::from(chosen) | u8::from(meet) << 1, 0, choice, counter, sender)
        }
        Content::Answer { id, size, sender, .. } => (2, 0, size, 0, id, sender),
    };
    out[0] = kind;
    out[1] = flags;
    out[2..4].copy_from_slice(&size.to_le_bytes());
    out[4..8].copy_from_slice(&choice.to_le_bytes());
    out[8..16].copy_from_slice(&id.to_le_bytes());
    out[16..20].copy_from_slice(&sender.to_le_bytes());
    if let Content::Answer { observed, .. } = content {
        out[20..22].copy_from_slice(&observed.port().to_le_bytes());
        match observed.ip() {
            IpAddr::V4(v4) => {
                out[22] = 4;
                out[24..28].copy_from_slice(&v4.octets());
            }
            IpAddr::V6(v6) => {
                out[22] = 6;
                out[24..40].copy_from_slice(&v6.octets());
            }
        }
    }
    out
}

fn read(plain: &[u8]) -> Option<(u64, Content)> {
    let flags = *plain.get(1)?;
    let id = read_u64(plain, 8)?;
    let sender = u32::from_le_bytes(plain.get(16..20)?.try_into().ok()?);
    let content = match plain.first()? {
        1 => {
            let choice = u32::from_le_bytes(plain.get(4..8)?.try_into().ok()?);
            Content::Probe { chosen: flags & 1 != 0, meet: flags & 2 != 0, choice, sender }
        }
        2 => {
            let size = u16::from_le_bytes(plain.get(2..4)?.try_into().ok()?);
            let port = u16::from_le_bytes(plain.get(20..22)?.try_into().ok()?);
            let address: [u8; 16] = plain.get(24..40)?.try_into().ok()?;
            let ip = match plain.get(22)? {
                4 => {
                    let [a, b, c, d, ..] = address;
                    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
                }
                6 => IpAddr::V6(Ipv6Addr::from(address)).to_canonical(),
                _ => return None,
            };
            Content::Answer { id, size, observed: SocketAddr::new(ip, port), sender }
        }
        _ => return None,
    };
    Some((id, content))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends() -> (ProbeKeys, ProbeKeys) {
        let (a, b) = (Secret32::new([1; 32]), Secret32::new([2; 32]));
        (ProbeKeys::new(&a, &b), ProbeKeys::new(&b, &a))
    }

    fn counter(sequence: u64) -> Counter {
        Counter { generation: 0xabcd, path: 7, sequence }
    }

    #[test]
    fn what_is_sealed_reads_back_at_the_other_end_whatever_its_size() {
        let (client, gateway) = ends();
        let contents = [
            Content::Probe { chosen: true, meet: false, choice: 9, sender: 0x0102_0300 },
            Content::Probe { chosen: false, meet: true, choice: 9, sender: 0x0102_0300 },
            Content::Answer { id: 5, size: 1452, observed: "198.51.100.1:500".parse().unwrap(), sender: 1 },
            Content::Answer { id: 5, size: 68, observed: "[2001:db8::1]:500".parse().unwrap(), sender: 1 },
        ];
        for content in contents {
            for size in [0, PROBE_SIZE, 100, crate::mtu::LARGEST] {
                let mut buffer = [0u8; 1500];

                let len = seal(&client, 0x0506_0700, counter(3), &content, size, &mut buffer).unwrap();
                let opened = open(&gateway, &buffer[..len]).unwrap();

                assert_eq!(len, size.max(PROBE_SIZE));
                assert_eq!((opened.counter, opened.content), (counter(3), content));
                assert_eq!(buffer[4..8], 0x0506_0700u32.to_le_bytes());
            }
        }
    }

    #[test]
    fn any_changed_byte_is_noticed() {
        let (client, gateway) = ends();
        let mut buffer = [0u8; PROBE_SIZE];
        let content = Content::Probe { chosen: false, meet: false, choice: 0, sender: 1 };
        seal(&client, 1, counter(1), &content, PROBE_SIZE, &mut buffer).unwrap();

        for at in 0..PROBE_SIZE {
            let mut changed = buffer;
            changed[at] ^= 0x10;
            assert!(open(&gateway, &changed).is_err(), "byte {at}");
        }
    }

    #[test]
    fn a_probe_is_not_opened_by_the_end_that_sealed_it() {
        let (client, _) = ends();
        let mut buffer = [0u8; PROBE_SIZE];
        let content = Content::Probe { chosen: false, meet: false, choice: 0, sender: 1 };
        seal(&client, 1, counter(1), &content, PROBE_SIZE, &mut buffer).unwrap();

        assert_eq!(open(&client, &buffer), Err(ProbeError::NotAuthentic), "no reflection");
    }

    #[test]
    fn short_and_long_datagrams_are_malformed() {
        let (client, _) = ends();
        for size in [0, 3, 4, 16, PROBE_SIZE - 1, 1500, 9000] {
            let mut datagram = vec![0u8; size];
            if let Some(first) = datagram.first_mut() {
                *first = 0x20;
            }
            assert_eq!(open(&client, &datagram), Err(ProbeError::Malformed), "{size}");
        }
    }

    #[test]
    fn keys_never_print() {
        assert_eq!(format!("{:?}", ends().0), "ProbeKeys(…)");
    }
}

//! What goes back, and what offloading says about a packet.

use std::fmt;
use std::ops::Deref;

use protocol_packet::Checksum;

/// What the packet's carrier says about it (the virtio-net header of a TUN device, or nothing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offload {
    /// Whether the transport checksum is complete.
    pub checksum: Checksum,
    /// Payload bytes of each segment if this is a super-packet, which may be longer than the MTU.
    pub segment: Option<u16>,
}

impl Offload {
    /// How many packets this is on the wire.
    pub(crate) fn packets(&self, payload: usize) -> u64 {
        match self.segment {
            Some(segment) if segment > 0 => payload.div_ceil(usize::from(segment)).max(1) as u64,
            Some(_) | None => 1,
        }
    }
}

/// The longest reply: an ICMPv6 error (RFC 4443, section 2.4).
const LONGEST: usize = 1280;

/// Room for one reply, to be used again. Derefs to the reply.
pub struct ReplyBuf {
    bytes: Box<[u8; LONGEST]>,
    length: usize,
}

impl ReplyBuf {
    /// An empty one.
    pub fn new() -> Self {
        Self { bytes: Box::new([0; LONGEST]), length: 0 }
    }

    /// Writes a reply over the old one; says whether there is one.
    pub(crate) fn write<E>(&mut self, build: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> bool {
        self.length = build(&mut self.bytes[..]).unwrap_or(0);
        self.length > 0
    }
}

impl Default for ReplyBuf {
    fn default() -> Self {
        Self::new()
    }
}

impl Deref for ReplyBuf {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl fmt::Debug for ReplyBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplyBuf({} bytes)", self.length)
    }
}

/// IPv6 and TCP headers without options.
const SHORT: usize = 60;

/// A packet without payload that we made: a RST. Derefs to its bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ShortPacket {
    bytes: [u8; SHORT],
    length: u8,
}

impl ShortPacket {
    pub(crate) fn build<E>(build: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Option<Self> {
        let mut bytes = [0; SHORT];
        let length = u8::try_from(build(&mut bytes).ok()?).ok()?;
        Some(Self { bytes, length })
    }
}

impl Deref for ShortPacket {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..usize::from(self.length)).unwrap_or_default()
    }
}

impl fmt::Debug for ShortPacket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ShortPacket({} bytes)", self.length)
    }
}

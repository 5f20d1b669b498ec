//! Reading and writing header fields where cutting and joining packets needs them.

use protocol_packet::Sum;

/// The 16-bit number at `at`.
pub(crate) fn get(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk::<2>().map(|pair| u16::from_be_bytes(*pair))
}

/// Writes a 16-bit number at `at`.
pub(crate) fn put(bytes: &mut [u8], at: usize, number: u16) -> Option<()> {
    *bytes.get_mut(at..)?.first_chunk_mut::<2>()? = number.to_be_bytes();
    Some(())
}

/// The sum of the pseudo-header (RFC 9293 section 3.1, RFC 8200 section 8.1) of `packet`, which starts with a whole IP
/// header, for an upper layer of `length` bytes.
pub(crate) fn pseudo(packet: &[u8], protocol: u8, length: usize) -> Option<Sum> {
    let addresses = if packet.first()? >> 4 == 4 { packet.get(12..20)? } else { packet.get(8..40)? };
    let length = u16::try_from(length).ok()?;
    Some(Sum::new().bytes(addresses).word(u16::from(protocol)).word(length))
}

//! The Internet checksum (RFC 1071), whole and incremental (RFC 1624).

use std::net::IpAddr;

/// A running one's complement sum of 16-bit words.
///
/// Every slice but the last must have an even length.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes; an odd last byte is padded with a zero.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // In the machine's own byte order, which the compiler turns into wide additions: the sum of swapped words is the
        // swapped sum (RFC 1071, section 2 B).
        let (quads, rest) = bytes.as_chunks::<4>();
        let mut sum = quads.iter().map(|quad| u64::from(u32::from_ne_bytes(*quad))).sum::<u64>();
        let mut last = [0u8; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        sum += u64::from(u32::from_ne_bytes(last));
        Self(self.0 + u64::from(u16::from_be(Self(sum).fold())))
    }

    /// Adds one word.
    #[must_use]
    pub fn word(self, word: u16) -> Self {
        Self(self.0 + u64::from(word))
    }

    /// Adds an address.
    #[must_use]
    pub fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// Adds the pseudo-header of TCP, UDP or ICMPv6 (RFC 9293, section 3.1; RFC 8200, section 8.1).
    #[must_use]
    pub fn pseudo_header(self, source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> Self {
        let sum = self.address(source).address(destination).word(u16::from(protocol));
        Self(sum.0 + length as u64)
    }

    /// Both sums together; the words of both must be aligned alike.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 16 bits, not complemented: what a partial checksum field holds.
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum >> 16) + (sum & 0xffff);
        }
        sum as u16
    }

    /// The checksum: the complement of the sum.
    pub fn finish(self) -> u16 {
        !self.fold()
    }
}

/// A checksum after the words that summed to `old` became words that sum to `new` (RFC 1624, equation 3).
pub fn update(checksum: u16, old: Sum, new: Sum) -> u16 {
    Sum::new().word(!checksum).word(!old.fold()).word(new.fold()).finish()
}

/// The same for a partial checksum, which is a sum that is not complemented.
pub fn update_partial(sum: u16, old: Sum, new: Sum) -> u16 {
    Sum::new().word(sum).word(!old.fold()).word(new.fold()).fold()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Word by word, as RFC 1071 states it.
    fn slowly(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn the_example_of_rfc_1071_sums_as_printed() {
        let sum = Sum::new().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);

        assert_eq!(sum.fold(), 0xddf2);
    }

    #[test]
    fn the_example_of_rfc_1624_updates_as_printed() {
        let checksum = update(0xdd2f, Sum::new().word(0x5555), Sum::new().word(0x3285));

        assert_eq!(checksum, 0x0000);
    }

    proptest! {
        #[test]
        fn summing_by_four_equals_summing_word_by_word(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(Sum::new().bytes(&bytes).finish(), slowly(&bytes));
        }

        #[test]
        fn an_update_equals_a_full_recomputation(
            mut bytes in proptest::collection::vec(any::<u8>(), 40),
            at in 0usize..18,
            new in any::<[u8; 4]>(),
        ) {
            bytes[0] |= 1; // no packet is all zeros
            let at = 2 + at / 2 * 2;
            let before = Sum::new().bytes(&bytes).finish();
            let old = Sum::new().bytes(&bytes[at..at + 4]);

            bytes[at..at + 4].copy_from_slice(&new);

            prop_assert_eq!(update(before, old, Sum::new().bytes(&new)), Sum::new().bytes(&bytes).finish());
        }
    }
}

//! A small keyed hash for flow keys.
//!
//! A table belongs to one peer, so whoever makes keys collide slows only their own packets; the seed makes even that
//! guesswork.

use std::hash::{BuildHasher, Hasher};

/// Makes hashers from a seed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seeded(pub u64);

impl BuildHasher for Seeded {
    type Hasher = Folding;

    fn build_hasher(&self) -> Folding {
        Folding(self.0)
    }
}

/// Multiplies to twice the width and folds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Folding(u64);

impl Folding {
    fn mix(&mut self, word: u64) {
        // The fraction of the golden ratio: odd, with bits evenly set.
        const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
        let product = u128::from(self.0 ^ word).wrapping_mul(u128::from(FACTOR));
        self.0 = (product as u64) ^ ((product >> 64) as u64) ^ word.rotate_left(23);
    }
}

impl Hasher for Folding {
    fn finish(&self) -> u64 {
        let mut last = *self;
        last.mix(0x5bd1_e995);
        last.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.mix(u64::from(*byte));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.mix(u64::from(word));
    }

    fn write_u32(&mut self, word: u32) {
        self.mix(u64::from(word));
    }

    fn write_u64(&mut self, word: u64) {
        self.mix(word);
    }

    fn write_u128(&mut self, word: u128) {
        self.mix(word as u64);
        self.mix((word >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn neighbouring_keys_spread_over_all_bits() {
        let seeded = Seeded(7);

        let hashes: Vec<u64> = (0..4096u32).map(|key| seeded.hash_one((1u128, 2u128, key, 6u8))).collect();

        let low: HashSet<u64> = hashes.iter().map(|hash| hash & 0xfff).collect();
        let high: HashSet<u64> = hashes.iter().map(|hash| hash >> 52).collect();
        // A random function fills 63 % of 4096 places with 4096 keys.
        assert!(low.len() > 2300 && high.len() > 2300, "{} {}", low.len(), high.len());
    }
}

//! Collects datagrams with the same destination, so that they leave in one call.

use std::io::IoSlice;

use crate::socket::{MAX_PAYLOAD, MAX_SEGMENTS};

/// Datagrams that leave in one call, each made of `each` neighbouring parts; all but the last are `segment` bytes long.
#[derive(Clone, Copy)]
pub(crate) struct Segments<'a> {
    pub(crate) parts: &'a [IoSlice<'a>],
    pub(crate) each: usize,
    pub(crate) segment: usize,
    /// All together.
    pub(crate) bytes: u64,
}

impl<'a> Segments<'a> {
    /// One datagram.
    pub(crate) fn one(parts: &'a [IoSlice<'a>]) -> Self {
        let length = parts.iter().map(|part| part.len()).sum();
        Self { parts, each: parts.len(), segment: length, bytes: length as u64 }
    }

    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        (self.parts.len() / self.each.max(1)) as u64
    }
}

/// Collects up to [`MAX_SEGMENTS`] datagrams, each of up to two parts: a header and a payload.
pub(crate) struct Gather<'a> {
    parts: [IoSlice<'a>; 2 * MAX_SEGMENTS],
    each: usize,
    count: usize,
    segment: usize,
    last: usize,
    bytes: usize,
}

impl<'a> Gather<'a> {
    /// Of datagrams with `each` parts, one or two.
    pub(crate) fn new(each: usize) -> Self {
        let parts = [IoSlice::new(&[]); 2 * MAX_SEGMENTS];
        Self { parts, each: each.clamp(1, 2), count: 0, segment: 0, last: 0, bytes: 0 }
    }

    /// Adds a datagram of `parts` if it can leave in one call with those before it: none of them is shorter, and it is not
    /// longer.
    pub(crate) fn push(&mut self, datagram: &[&'a [u8]]) -> bool {
        let length = datagram.iter().map(|part| part.len()).sum();
        let fits = self.count == 0
            || (self.count < MAX_SEGMENTS
                && length <= self.segment
                && self.last == self.segment
                && length > 0
                && self.bytes + length <= MAX_PAYLOAD);
        if !fits {
            return false;
        }
        if self.count == 0 {
            self.segment = length;
        }
        let places = self.parts.iter_mut().skip(self.count * self.each);
        for (place, part) in places.zip(datagram) {
            *place = IoSlice::new(part);
        }
        self.last = length;
        self.bytes += length;
        self.count += 1;
        true
    }

    /// What was collected.
    pub(crate) fn segments(&self) -> Segments<'_> {
        Segments {
            parts: self.parts.get(..self.count * self.each).unwrap_or_default(),
            each: self.each,
            segment: self.segment,
            bytes: self.bytes as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_go_together_and_a_shorter_one_is_the_last() {
        let (long, short) = ([1u8; 100], [2u8; 40]);
        let mut gather = Gather::new(1);

        assert!(gather.push(&[&long]));
        assert!(gather.push(&[&long]));
        assert!(gather.push(&[&short]));
        assert!(!gather.push(&[&short]));

        let all = gather.segments();
        assert_eq!((all.count(), all.segment, all.bytes, all.parts.len()), (3, 100, 240, 3));
    }

    #[test]
    fn a_longer_one_an_empty_one_and_one_too_many_wait_for_the_next_call() {
        let (long, short) = ([1u8; 100], [2u8; 40]);
        let mut gather = Gather::new(1);
        assert!(gather.push(&[&short]));
        assert!(!gather.push(&[&long]));
        assert!(!gather.push(&[&[]]));

        let mut full = Gather::new(2);
        for _ in 0..MAX_SEGMENTS {
            assert!(full.push(&[&short, &long]));
        }
        assert!(!full.push(&[&short, &long]));
        assert_eq!(full.segments().parts.len(), 2 * MAX_SEGMENTS);
    }

    #[test]
    fn no_call_carries_more_than_a_datagram_may_hold() {
        let large = vec![0u8; 1_400];
        let mut gather = Gather::new(1);

        while gather.push(&[&large]) {}

        assert_eq!(gather.segments().count(), 46);
    }
}

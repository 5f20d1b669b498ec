//! Memory for packets that change hands on a lane.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// Buffers kept for the next packets: at most 2 MiB, because none is longer than a GRO buffer.
const KEEP: usize = 32;

/// The buffers of one lane.
#[derive(Clone, Default)]
pub(crate) struct Pool(Rc<RefCell<Vec<Vec<u8>>>>);

impl Pool {
    /// A run of datagrams, each `stride` bytes long (the last may be shorter), in pooled memory.
    pub(crate) fn run(&self, bytes: &[u8], stride: usize, ecn: u8) -> Run {
        let mut run = self.empty(stride, ecn);
        run.bytes.extend_from_slice(bytes);
        run
    }

    /// A run that is still to be filled.
    pub(crate) fn empty(&self, stride: usize, ecn: u8) -> Run {
        let bytes = self.0.borrow_mut().pop().unwrap_or_default();
        Run { bytes, stride: stride.max(1), ecn, pool: self.clone() }
    }
}

/// Datagrams of equal length (the last may be shorter), one after the other. The memory goes back to its lane's pool.
pub struct Run {
    bytes: Vec<u8>,
    stride: usize,
    ecn: u8,
    pool: Pool,
}

impl Run {
    /// The bytes of all of them.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The length of each but the last.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Their ECN bits (RFC 3168 §5).
    pub fn ecn(&self) -> u8 {
        self.ecn
    }

    /// How many they are.
    pub fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.stride) as u64
    }

    pub(crate) fn push(&mut self, datagram: &[u8]) {
        self.bytes.extend_from_slice(datagram);
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut kept = self.pool.0.borrow_mut();
        if kept.len() < KEEP {
            kept.push(bytes);
        }
    }
}

impl fmt::Debug for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Run({} of {} bytes)", self.count(), self.stride)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_comes_back_to_the_pool_and_holds_nothing_of_before() {
        let pool = Pool::default();
        let run = pool.run(&[7; 2500], 1000, 0);
        assert_eq!(run.count(), 3);

        drop(run);

        assert_eq!(pool.0.borrow().len(), 1);
        let next = pool.run(b"x", 1, 0);
        assert_eq!(next.bytes(), b"x");
        assert!(next.bytes.capacity() >= 2500);
    }

    #[test]
    fn the_pool_keeps_no_more_than_its_bound() {
        let pool = Pool::default();

        let runs: Vec<Run> = (0..KEEP + 10).map(|_| pool.run(b"x", 1, 0)).collect();
        drop(runs);

        assert_eq!(pool.0.borrow().len(), KEEP);
    }
}

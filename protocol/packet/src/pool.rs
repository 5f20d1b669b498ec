//! Buffers whose memory returns to the lane's pool when they are dropped.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

struct Store {
    idle: RefCell<Vec<Box<[u8]>>>,
    capacity: usize,
    headroom: usize,
    keep: usize,
}

/// A lane's store of buffers of one size. A clone is the same store.
///
/// It allocates when it is empty, so never in the steady state. It stays on its lane; to hand bytes to another lane,
/// [`Buffer::detach`] there and [`Pool::adopt`] here.
#[derive(Clone)]
pub struct Pool {
    store: Rc<Store>,
}

impl Pool {
    /// A pool of buffers of `capacity` bytes with `headroom` bytes before them, that keeps at most `keep` idle.
    pub fn new(capacity: usize, headroom: usize, keep: usize) -> Self {
        let store = Store { idle: RefCell::new(Vec::with_capacity(keep)), capacity, headroom, keep };
        Self { store: Rc::new(store) }
    }

    /// An empty buffer.
    pub fn take(&self) -> Buffer {
        let memory = self.store.idle.borrow_mut().pop();
        let memory =
            memory.unwrap_or_else(|| vec![0; self.store.headroom + self.store.capacity].into_boxed_slice());
        let start = self.store.headroom;
        Buffer { memory, start, end: start, store: Rc::clone(&self.store) }
    }

    /// A buffer that holds these bytes, or none if they do not fit.
    pub fn filled(&self, bytes: &[u8]) -> Option<Buffer> {
        let mut buffer = self.take();
        buffer.extend(bytes).then_some(buffer)
    }

    /// Takes over what another lane detached. Memory of another size is copied, or refused when it does not fit.
    pub fn adopt(&self, detached: Detached) -> Option<Buffer> {
        if detached.memory.len() == self.store.headroom + self.store.capacity {
            let Detached { memory, start, end } = detached;
            return Some(Buffer { memory, start, end, store: Rc::clone(&self.store) });
        }
        self.filled(detached.memory.get(detached.start..detached.end).unwrap_or_default())
    }

    /// How many bytes a fresh buffer holds.
    pub fn capacity(&self) -> usize {
        self.store.capacity
    }

    /// How many buffers wait to be used.
    pub fn idle(&self) -> usize {
        self.store.idle.borrow().len()
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("capacity", &self.store.capacity).field("idle", &self.idle()).finish()
    }
}

/// A buffer of a [`Pool`], with one owner. Derefs to the bytes that it holds.
pub struct Buffer {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
    store: Rc<Store>,
}

/// A buffer on its way to another lane.
#[derive(Debug)]
pub struct Detached {
    memory: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// The room after the held bytes. It holds whatever an earlier user left there; write, then [`grow`](Self::grow).
    pub fn room(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.end..).unwrap_or_default()
    }

    /// The whole capacity from where the held bytes start, for a system call to write into; then
    /// [`set_len`](Self::set_len).
    pub fn whole(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..).unwrap_or_default()
    }

    /// Bytes of memory that it occupies.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Holds the first `len` bytes from where it starts, at most its capacity.
    pub fn set_len(&mut self, len: usize) {
        self.end = self.start.saturating_add(len).min(self.memory.len());
    }

    /// Holds `more` bytes of its room, too.
    pub fn grow(&mut self, more: usize) {
        self.end = self.end.saturating_add(more).min(self.memory.len());
    }

    /// Appends bytes; `false`, and nothing is done, when they do not fit.
    #[must_use]
    pub fn extend(&mut self, bytes: &[u8]) -> bool {
        let Some(place) = self.room().get_mut(..bytes.len()) else { return false };
        place.copy_from_slice(bytes);
        self.end += bytes.len();
        true
    }

    /// Puts bytes in front; `false`, and nothing is done, when the headroom is too small.
    #[must_use]
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = self.start.checked_sub(bytes.len()) else { return false };
        let Some(place) = self.memory.get_mut(start..self.start) else { return false };
        place.copy_from_slice(bytes);
        self.start = start;
        true
    }

    /// Cuts bytes off the front, at most all; they become headroom.
    pub fn advance(&mut self, count: usize) {
        self.start = self.start.saturating_add(count).min(self.end);
    }

    /// Keeps at most `len` bytes.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start.saturating_add(len));
    }

    /// Holds nothing again, with the whole headroom.
    pub fn clear(&mut self) {
        self.start = self.store.headroom.min(self.memory.len());
        self.end = self.start;
    }

    /// Separates the bytes from the pool, so that they can go to another lane.
    pub fn detach(mut self) -> Detached {
        Detached { memory: std::mem::take(&mut self.memory), start: self.start, end: self.end }
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.get_mut(self.start..self.end).unwrap_or_default()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if memory.is_empty() {
            return;
        }
        let mut idle = self.store.idle.borrow_mut();
        if idle.len() < self.store.keep {
            idle.push(memory);
        }
    }
}

impl fmt::Debug for Buffer {
    /// The length only: payloads are not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again() {
        let pool = Pool::new(2048, 16, 4);
        let first = pool.take();
        let memory = first.memory.as_ptr();
        drop(first);

        let second = pool.take();

        assert_eq!(second.memory.as_ptr(), memory);
        assert!(second.is_empty(), "what an earlier user wrote is not held");
    }

    #[test]
    fn a_pool_keeps_no_more_than_it_was_told_to() {
        let pool = Pool::new(64, 0, 2);

        let taken: Vec<_> = (0..5).map(|_| pool.take()).collect();
        drop(taken);

        assert_eq!(pool.idle(), 2);
    }

    #[test]
    fn headroom_takes_a_header_without_moving_the_packet() {
        let pool = Pool::new(8, 4, 1);
        let mut buffer = pool.filled(b"packet").unwrap();

        assert!(buffer.prepend(b"head"));
        assert_eq!(&buffer[..], b"headpacket");
        assert!(!buffer.prepend(b"x"), "the headroom is used up");
        buffer.advance(4);
        assert_eq!(&buffer[..], b"packet");
        buffer.truncate(4);
        assert_eq!(&buffer[..], b"pack");
    }

    #[test]
    fn more_than_the_capacity_is_refused() {
        let pool = Pool::new(4, 0, 1);
        let mut buffer = pool.take();

        assert!(buffer.extend(b"abc"));
        assert!(!buffer.extend(b"de"));
        buffer.set_len(usize::MAX);
        assert_eq!(buffer.len(), 4);
    }

    #[test]
    fn detached_bytes_join_the_other_lanes_pool() {
        let (here, there) = (Pool::new(8, 2, 4), Pool::new(8, 2, 4));

        let detached = here.filled(b"bytes").unwrap().detach();
        let adopted = there.adopt(detached).unwrap();

        assert_eq!(&adopted[..], b"bytes");
        drop(adopted);
        assert_eq!((here.idle(), there.idle()), (0, 1));
    }

    #[test]
    fn bytes_of_another_size_are_copied_or_refused() {
        let (large, small) = (Pool::new(64, 0, 4), Pool::new(4, 0, 4));

        assert_eq!(&small.adopt(large.filled(b"abcd").unwrap().detach()).unwrap()[..], b"abcd");
        assert!(small.adopt(large.filled(b"abcde").unwrap().detach()).is_none());
    }
}

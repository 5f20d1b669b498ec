//! Batches: up to 64 items that travel together, in storage that is used again.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

/// The most that a batch holds: what one receive or one GSO send carries at most.
pub const BATCH: usize = 64;

struct Shelf<T> {
    idle: RefCell<Vec<Vec<T>>>,
    keep: usize,
}

/// Up to [`BATCH`] items in order. Its storage returns to the [`Batches`] that it came from when it is dropped.
pub struct Batch<T> {
    items: Vec<T>,
    home: Option<Rc<Shelf<T>>>,
}

/// A lane's store of empty batches.
pub struct Batches<T> {
    shelf: Rc<Shelf<T>>,
}

impl<T> Batches<T> {
    /// A store that keeps at most `keep` empty batches.
    pub fn new(keep: usize) -> Self {
        Self { shelf: Rc::new(Shelf { idle: RefCell::new(Vec::with_capacity(keep)), keep }) }
    }

    /// An empty batch; allocates only when none has come back.
    pub fn take(&self) -> Batch<T> {
        let items = self.shelf.idle.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(BATCH));
        Batch { items, home: Some(Rc::clone(&self.shelf)) }
    }

    /// How many empty batches wait.
    pub fn idle(&self) -> usize {
        self.shelf.idle.borrow().len()
    }
}

impl<T> Default for Batches<T> {
    fn default() -> Self {
        Self::new(BATCH)
    }
}

impl<T> Batch<T> {
    /// An empty batch that belongs to no store.
    pub fn new() -> Self {
        Self { items: Vec::with_capacity(BATCH), home: None }
    }

    /// Appends an item.
    ///
    /// # Errors
    /// The item itself, when the batch is full.
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.is_full() {
            return Err(item);
        }
        self.items.push(item);
        Ok(())
    }

    /// How many items there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Whether no more fit.
    pub fn is_full(&self) -> bool {
        self.items.len() >= BATCH
    }

    /// Removes all items, in order; the batch can be filled again.
    pub fn drain(&mut self) -> impl ExactSizeIterator<Item = T> + '_ {
        self.items.drain(..)
    }

    /// Drops all items.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// Keeps the items for which `keep` says so, in order.
    pub fn retain(&mut self, keep: impl FnMut(&mut T) -> bool) {
        self.items.retain_mut(keep);
    }
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> std::ops::Deref for Batch<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.items
    }
}

impl<T> std::ops::DerefMut for Batch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.items
    }
}

impl<T> Drop for Batch<T> {
    fn drop(&mut self) {
        let Some(home) = self.home.take() else { return };
        let mut items = std::mem::take(&mut self.items);
        // The items first: dropping one may drop another batch of the same store.
        items.clear();
        let mut shelf = home.idle.borrow_mut();
        if shelf.len() < home.keep {
            shelf.push(items);
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Batch<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.items.iter()).finish()
    }
}

/// The items of a batch, in order.
pub struct IntoIter<T> {
    reversed: Batch<T>,
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.reversed.items.pop()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.reversed.len(), Some(self.reversed.len()))
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}

impl<T> IntoIterator for Batch<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(mut self) -> IntoIter<T> {
        self.items.reverse();
        IntoIter { reversed: self }
    }
}

impl<'a, T> IntoIterator for &'a Batch<T> {
    type Item = &'a T;
    type IntoIter = std::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter()
    }
}

impl<'a, T> IntoIterator for &'a mut Batch<T> {
    type Item = &'a mut T;
    type IntoIter = std::slice::IterMut<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.items.iter_mut()
    }
}

impl<T> FromIterator<T> for Batch<T> {
    /// Takes the first [`BATCH`] items.
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut batch = Self::new();
        batch.items.extend(items.into_iter().take(BATCH));
        batch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_batch_gives_the_item_back() {
        let mut batch: Batch<usize> = (0..BATCH).collect();

        assert_eq!(batch.push(99), Err(99));
        assert_eq!(batch.len(), BATCH);
    }

    #[test]
    fn items_leave_in_the_order_in_which_they_came() {
        let batch: Batch<u8> = [1, 2, 3].into_iter().collect();

        assert_eq!(batch.into_iter().collect::<Vec<_>>(), [1, 2, 3]);
    }

    #[test]
    fn storage_is_used_again_however_a_batch_ends() {
        let batches = Batches::new(4);
        let mut first = batches.take();
        first.push(1u8).unwrap();
        let storage = first.as_ptr();

        let mut items = first.into_iter();
        assert_eq!(items.next(), Some(1));
        drop(items);
        let mut second = batches.take();
        second.push(2).unwrap();

        assert_eq!(second.as_ptr(), storage);
        assert_eq!(batches.idle(), 0);
        drop(second);
        assert_eq!(batches.idle(), 1);
    }

    #[test]
    fn a_store_keeps_no_more_than_it_was_told_to() {
        let batches = Batches::<u8>::new(2);

        let taken: Vec<_> = (0..5).map(|_| batches.take()).collect();
        drop(taken);

        assert_eq!(batches.idle(), 2);
    }

    #[test]
    fn a_batch_inside_a_batch_of_the_same_store_goes_home_too() {
        struct Nested(#[expect(dead_code, reason = "only its drop matters")] Option<Batch<Nested>>);
        let batches = Batches::new(4);
        let inner = batches.take();
        let mut outer = batches.take();
        let _ = outer.push(Nested(Some(inner)));

        drop(outer);

        assert_eq!(batches.idle(), 2);
    }
}

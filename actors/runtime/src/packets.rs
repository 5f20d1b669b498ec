//! The packet mailbox: a bounded ring of batches that never leaves its lane.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// The ring of one actor. It belongs to the actor's place in the tree, not to one incarnation.
pub(crate) struct Ring<T> {
    batches: RefCell<VecDeque<T>>,
    capacity: usize,
    waker: RefCell<Option<Waker>>,
    closed: Cell<bool>,
    refused: Cell<u64>,
}

impl<T: 'static> Ring<T> {
    pub(crate) fn new(capacity: usize) -> Rc<Ring<T>> {
        Rc::new(Ring {
            batches: RefCell::new(VecDeque::new()),
            capacity,
            waker: RefCell::new(None),
            closed: Cell::new(false),
            refused: Cell::new(0),
        })
    }

    fn push(&self, batch: T) -> Result<(), T> {
        let mut batches = self.batches.borrow_mut();
        if self.closed.get() || batches.len() >= self.capacity {
            self.refused.set(self.refused.get() + 1);
            return Err(batch);
        }
        batches.push_back(batch);
        drop(batches);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.batches.borrow_mut().pop_front()
    }

    pub(crate) fn len(&self) -> usize {
        self.batches.borrow().len()
    }

    /// A batch, or a promise to wake the task when there is one.
    pub(crate) fn poll_pop(&self, task: &mut Context<'_>) -> Poll<T> {
        match self.pop() {
            Some(batch) => Poll::Ready(batch),
            None => {
                self.park(task);
                Poll::Pending
            }
        }
    }

    /// Has the task woken by the next batch.
    pub(crate) fn park(&self, task: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        match waker.as_mut() {
            Some(known) => known.clone_from(task.waker()),
            None => *waker = Some(task.waker().clone()),
        }
    }

    /// Takes nothing any more. What waits can still be taken out.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.waker.borrow_mut().take();
    }

    pub(crate) fn take_refused(&self) -> u64 {
        self.refused.take()
    }

    pub(crate) fn sender(self: &Rc<Self>) -> PacketSender<T> {
        PacketSender(Rc::clone(self))
    }

    pub(crate) fn erased(self: &Rc<Self>) -> Rc<dyn Any> {
        Rc::clone(self) as Rc<dyn Any>
    }
}

/// Hands batches to an actor on the same lane. Cheap to clone; bound to its thread; valid across restarts.
pub struct PacketSender<T>(Rc<Ring<T>>);

impl<T: 'static> PacketSender<T> {
    /// Puts a batch into the ring, or gives it back when the ring is full or its actor has ended: the caller counts its
    /// packets under its own reason.
    pub fn push(&self, batch: T) -> Result<(), T> {
        self.0.push(batch)
    }

    /// Batches that wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the next `push` would be refused.
    pub fn is_full(&self) -> bool {
        self.0.closed.get() || self.len() >= self.0.capacity
    }

    /// Whether the actor behind it has ended for good.
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }
}

impl<T> Clone for PacketSender<T> {
    fn clone(&self) -> Self {
        PacketSender(Rc::clone(&self.0))
    }
}

impl<T> fmt::Debug for PacketSender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketSender")
    }
}

//! The packet mailbox: a bounded ring of batches that never leaves its lane, and the queue of those that have some.
//!
//! Whose ring has a batch is not woken through actix, whose every wake-up looks at two mailboxes, a timer and all futures:
//! one task for the whole lane lets the owners take their batches in turn ([`Ready`]). It leaves to actix whatever is more
//! than that.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

/// Batches in a row before the lane's other tasks get their turn.
const A_ROW: usize = 16;
/// Batches that share one look at the clock: a quarter of a millisecond of full ones.
const A_MOMENT: usize = 4;
/// Rows before the event loop looks at the descriptors and timers.
const ROWS: usize = 4;

/// An actor that can take a batch from its ring.
pub(crate) trait Owner {
    /// Takes one batch, or has actix do it.
    fn take_batch(&self);
}

/// Who has batches, on one lane; each of them once, first come first served.
#[derive(Default)]
pub(crate) struct Ready {
    owners: RefCell<VecDeque<Weak<dyn Owner>>>,
    waker: RefCell<Option<Waker>>,
    /// The task is woken or runs: nobody has to wake it.
    awake: Cell<bool>,
    has_task: Cell<bool>,
    /// Batches that may still use `moment`.
    momentary: Cell<usize>,
    moment: Cell<Option<Instant>>,
}

impl Ready {
    /// Starts the lane's task, if there is none; must be called inside the lane's event loop.
    pub(crate) fn begin(self: &Rc<Self>) {
        if !self.has_task.replace(true) {
            self.awake.set(true);
            tokio::task::spawn_local(Rows { ready: Rc::clone(self), rows: 0 });
        }
    }

    /// The time, which a few batches in a row share.
    pub(crate) fn now(&self, look: impl FnOnce() -> Instant) -> Instant {
        if self.momentary.get() == 0 {
            return look();
        }
        let now = self.moment.get().unwrap_or_else(look);
        self.moment.set(Some(now));
        now
    }

    /// A batch begins to be taken.
    fn begin_batch(&self) {
        match self.momentary.get() {
            0 | 1 => {
                self.momentary.set(A_MOMENT);
                self.moment.set(None);
            }
            left => self.momentary.set(left - 1),
        }
    }

    /// Nothing shares a look at the clock any more.
    fn end_row(&self) {
        self.momentary.set(0);
    }

    fn push(&self, owner: Weak<dyn Owner>) {
        self.owners.borrow_mut().push_back(owner);
        if !self.awake.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    fn pop(&self) -> Option<Weak<dyn Owner>> {
        self.owners.borrow_mut().pop_front()
    }
}

/// The task that lets owners take their batches.
struct Rows {
    ready: Rc<Ready>,
    rows: usize,
}

impl Future for Rows {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        match &mut *self.ready.waker.borrow_mut() {
            Some(waker) => waker.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        for _ in 0..A_ROW {
            let Some(owner) = self.ready.pop() else {
                self.ready.awake.set(false);
                self.ready.end_row();
                return Poll::Pending;
            };
            if let Some(owner) = owner.upgrade() {
                self.ready.begin_batch();
                owner.take_batch();
            }
        }
        self.ready.end_row();
        self.rows = (self.rows + 1) % ROWS;
        if self.rows == 0 {
            // Comes back when the event loop has looked.
            let again = std::pin::pin!(tokio::task::yield_now());
            let _ = again.poll(task);
        } else {
            task.waker().wake_by_ref();
        }
        Poll::Pending
    }
}

/// The ring of one actor. It belongs to the actor's place in the tree, not to one incarnation.
pub(crate) struct Ring<T> {
    batches: RefCell<VecDeque<T>>,
    capacity: usize,
    /// Who takes them; nobody yet, when its actor starts later.
    owner: RefCell<Option<Weak<dyn Owner>>>,
    ready: Rc<Ready>,
    /// Its owner is in the queue of those that have batches.
    queued: Cell<bool>,
    closed: Cell<bool>,
    refused: Cell<u64>,
}

impl<T: 'static> Ring<T> {
    pub(crate) fn new(capacity: usize, ready: Rc<Ready>) -> Rc<Ring<T>> {
        Rc::new(Ring {
            batches: RefCell::new(VecDeque::new()),
            capacity,
            owner: RefCell::new(None),
            ready,
            queued: Cell::new(false),
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
        self.queue();
        Ok(())
    }

    /// Puts its owner into the queue of those that have batches, unless it is there.
    fn queue(&self) {
        if self.queued.get() {
            return;
        }
        if let Some(owner) = &*self.owner.borrow() {
            self.queued.set(true);
            self.ready.push(Weak::clone(owner));
        }
    }

    /// The owner's turn has come, so that it is in the queue no more.
    pub(crate) fn called(&self) {
        self.queued.set(false);
    }

    /// Queues its owner for another turn if batches wait.
    pub(crate) fn call_again(&self) {
        if self.len() > 0 {
            self.queue();
        }
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.batches.borrow_mut().pop_front()
    }

    fn len(&self) -> usize {
        self.batches.borrow().len()
    }

    /// From now on, batches are for this actor.
    pub(crate) fn attach(&self, owner: Weak<dyn Owner>) {
        self.owner.replace(Some(owner));
        self.ready.begin();
        self.call_again();
    }

    /// Takes nothing any more. What waits can still be taken out.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.owner.take();
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

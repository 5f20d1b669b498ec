//! The control mailbox: a bounded queue that outlives a panic, and the bell that wakes its owner.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use actix::Recipient;
use crossbeam_queue::ArrayQueue;
use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

use crate::actor::How;
use crate::address::Rejected;
use crate::registry::ActorRow;
use crate::table::{Full, Rule};

/// Wakes an actor: "look at your queues". At most one is in flight, so actix's own mailbox is never full.
pub(crate) struct Doorbell;

impl actix::Message for Doorbell {
    type Result = ();
}

/// Runs once, when the watched actor has ended.
type Watcher = Box<dyn FnOnce(How) + Send>;

/// Counters and queue of one actor, shared by everybody who knows its address.
pub(crate) struct Mailbox<C> {
    /// Made for the first command: of thousands of allocations or connections, most are never told anything.
    queue: OnceLock<Box<ArrayQueue<C>>>,
    capacity: usize,
    full: Full,
    life: Life,
}

/// What does not depend on the type of command.
pub(crate) struct Life {
    pub kind: &'static str,
    pub key: Arc<str>,
    parent: OnceLock<Arc<str>>,
    thread: OnceLock<Arc<str>>,
    bell: OnceLock<Recipient<Doorbell>>,
    /// Set while a doorbell is on its way: whoever sets it sends one.
    rung: AtomicBool,
    stop: AtomicBool,
    ended: AtomicBool,
    ended_as: OnceLock<How>,
    claimed: AtomicBool,
    /// Wakes an actor that handles nothing: it backs off, or waits for its children.
    waker: AtomicWaker,
    gone: Notify,
    watchers: Mutex<Vec<Watcher>>,
    pub handled: AtomicU64,
    pub dropped: AtomicU64,
    pub coalesced: AtomicU64,
    pub restarts: AtomicU64,
    #[cfg(feature = "chaos")]
    pub disturbance: Mutex<Option<crate::registry::Disturbance>>,
}

/// An actor's mailbox without the type of its commands.
pub(crate) trait Controlled: Any + Send + Sync {
    fn life(&self) -> &Life;
    fn depth(&self) -> usize;
    fn capacity(&self) -> usize;

    fn row(&self) -> ActorRow {
        let life = self.life();
        ActorRow {
            kind: life.kind.to_string(),
            key: life.key.to_string(),
            parent: life.parent.get().map(|parent| parent.to_string()).unwrap_or_default(),
            thread: life.thread.get().map(|thread| thread.to_string()).unwrap_or_default(),
            depth: self.depth() as u64,
            capacity: self.capacity() as u64,
            handled: life.handled.load(Ordering::Relaxed),
            dropped: life.dropped.load(Ordering::Relaxed),
            coalesced: life.coalesced.load(Ordering::Relaxed),
            restarts: life.restarts.load(Ordering::Relaxed),
        }
    }
}

impl<C: Send + 'static> Mailbox<C> {
    pub(crate) fn new(rule: &Rule, key: Arc<str>) -> Arc<Mailbox<C>> {
        Mailbox::build(rule.kind, key, rule.mailbox, rule.full)
    }

    /// A mailbox that nobody will ever read.
    pub(crate) fn nowhere(kind: &'static str, key: Arc<str>) -> Arc<Mailbox<C>> {
        let mailbox = Mailbox::build(kind, key, 1, Full::Refuse);
        mailbox.life.ended.store(true, Ordering::SeqCst);
        mailbox
    }

    fn build(kind: &'static str, key: Arc<str>, capacity: usize, full: Full) -> Arc<Mailbox<C>> {
        Arc::new(Mailbox {
            queue: OnceLock::new(),
            capacity: if full == Full::Latest { 1 } else { capacity.max(1) },
            full,
            life: Life {
                kind,
                key,
                parent: OnceLock::new(),
                thread: OnceLock::new(),
                bell: OnceLock::new(),
                rung: AtomicBool::new(false),
                stop: AtomicBool::new(false),
                ended: AtomicBool::new(false),
                ended_as: OnceLock::new(),
                claimed: AtomicBool::new(false),
                waker: AtomicWaker::new(),
                gone: Notify::new(),
                watchers: Mutex::new(Vec::new()),
                handled: AtomicU64::new(0),
                dropped: AtomicU64::new(0),
                coalesced: AtomicU64::new(0),
                restarts: AtomicU64::new(0),
                #[cfg(feature = "chaos")]
                disturbance: Mutex::new(None),
            },
        })
    }

    pub(crate) fn tell(&self, command: C) -> Result<(), Rejected<C>> {
        if self.life.has_ended() {
            return Err(Rejected::Ended(command));
        }
        let queue = self.queue.get_or_init(|| Box::new(ArrayQueue::new(self.capacity)));
        match self.full {
            Full::DropNewest => {
                if queue.push(command).is_err() {
                    self.life.dropped.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
            }
            Full::DropOldest => {
                if queue.force_push(command).is_some() {
                    self.life.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Full::Refuse => {
                if let Err(command) = queue.push(command) {
                    self.life.dropped.fetch_add(1, Ordering::Relaxed);
                    return Err(Rejected::Full(command));
                }
            }
            Full::Latest => {
                if queue.force_push(command).is_some() {
                    self.life.coalesced.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        self.life.ring();
        if self.life.has_ended() {
            // It ended between the two looks: what was just queued will not be read.
            self.discard();
        }
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<C> {
        self.queue.get()?.pop()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.get().is_none_or(|queue| queue.is_empty())
    }

    /// Drops and counts everything that waits.
    fn discard(&self) {
        while self.pop().is_some() {
            self.life.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Closes the mailbox for good and tells those who watch.
    pub(crate) fn end(&self, how: How) {
        let _ = self.life.ended_as.set(how);
        if self.life.ended.swap(true, Ordering::SeqCst) {
            return;
        }
        self.discard();
        let watchers = std::mem::take(&mut *lock(&self.life.watchers));
        for watcher in watchers {
            watcher(how);
        }
        self.life.gone.notify_one();
    }
}

impl Life {
    /// Sends a doorbell unless one is on its way.
    pub(crate) fn ring(&self) {
        // The queue was written before this; `answer` swaps the flag before it reads the queue. So either this call
        // sees the flag down and sends, or the doorbell that is on its way will find what was written.
        if self.rung.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Some(bell) = self.bell.get() {
            // Full cannot be: one doorbell is in flight at most. Closed means that the actor has ended, which
            // `has_ended` tells.
            let _ = bell.try_send(Doorbell);
        }
    }

    /// Takes the bell down, before the queues are looked at.
    pub(crate) fn answer(&self) {
        self.rung.swap(false, Ordering::AcqRel);
    }

    /// Whether a doorbell is on its way.
    pub(crate) fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Connects the bell, and rings it for what came before.
    pub(crate) fn connect(&self, parent: Arc<str>, thread: Arc<str>, bell: Recipient<Doorbell>) {
        let _ = self.parent.set(parent);
        let _ = self.thread.set(thread);
        let _ = self.bell.set(bell);
        self.answer();
        self.ring();
    }

    /// Whether this caller is the one that may start the actor.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn request_stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.nudge();
    }

    /// Wakes the actor, also while it backs off.
    pub(crate) fn nudge(&self) {
        self.waker.wake();
        self.ring();
    }

    pub(crate) fn stop_requested(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    pub(crate) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }

    /// Resolves when the actor has ended; for one waiter.
    pub(crate) async fn gone(&self) {
        while !self.has_ended() {
            self.gone.notified().await;
        }
    }

    /// Calls `watcher` when the actor ends; at once if it has.
    pub(crate) fn watch(&self, watcher: Watcher) {
        let mut watchers = lock(&self.watchers);
        if self.has_ended() {
            drop(watchers);
            watcher(self.ended_as.get().copied().unwrap_or(How::Stopped));
        } else {
            watchers.push(watcher);
        }
    }
}

impl<C: Send + 'static> Controlled for Mailbox<C> {
    fn life(&self) -> &Life {
        &self.life
    }

    fn depth(&self) -> usize {
        self.queue.get().map_or(0, |queue| queue.len())
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}

/// Locks, whatever a panic left behind: nothing here is ever half done.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

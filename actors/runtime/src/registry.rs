//! What is alive in a process, and what it has counted.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

use crate::mailbox::{Controlled, lock};
use crate::table::Table;

/// Drop reason: the batch that an actor panicked over.
pub(crate) const PANICKED: &str = "actor_panicked";
/// Drop reason: batches that waited for an actor that ended.
pub(crate) const ENDED: &str = "actor_ended";

/// One living actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorRow {
    /// Its kind.
    pub kind: String,
    /// What distinguishes it from others of its kind.
    pub key: String,
    /// Its parent, as `kind` or `kind key`; `-` for a root.
    pub parent: String,
    /// The name of the thread it lives on.
    pub thread: String,
    /// Commands that wait.
    pub depth: u64,
    /// Commands that can wait.
    pub capacity: u64,
    /// Commands and batches handled.
    pub handled: u64,
    /// Commands and batches that it did not handle: full mailbox, full ring, lost to a panic.
    pub dropped: u64,
    /// Commands that a newer one replaced while they waited.
    pub coalesced: u64,
    /// Times it was rebuilt.
    pub restarts: u64,
}

/// A deliberate fault.
#[cfg(feature = "chaos")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disturbance {
    /// The actor panics at its next turn.
    Panic,
    /// The actor handles nothing for this long, while its mailboxes fill.
    Stall(std::time::Duration),
}

/// The actors of a process and their counters. Reading it disturbs no lane: they write atomics.
pub struct Registry {
    actors: Mutex<BTreeMap<u64, Arc<dyn Controlled>>>,
    next: AtomicU64,
    kinds: Vec<&'static str>,
    restarts: HashMap<&'static str, AtomicU64>,
    drops: Mutex<Vec<(&'static str, Arc<AtomicU64>)>>,
}

impl Registry {
    pub(crate) fn new(table: &Table) -> Arc<Registry> {
        Arc::new(Registry {
            actors: Mutex::default(),
            next: AtomicU64::new(1),
            kinds: table.kinds().collect(),
            restarts: table.kinds().map(|kind| (kind, AtomicU64::new(0))).collect(),
            // These two are the runtime's own: a reader sees them from the start.
            drops: Mutex::new([PANICKED, ENDED].map(|reason| (reason, Arc::default())).to_vec()),
        })
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn add(&self, id: u64, actor: Arc<dyn Controlled>) {
        lock(&self.actors).insert(id, actor);
    }

    pub(crate) fn remove(&self, id: u64) {
        lock(&self.actors).remove(&id);
    }

    pub(crate) fn count_restart(&self, kind: &'static str) {
        if let Some(restarts) = self.restarts.get(kind) {
            restarts.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn living(&self) -> Vec<Arc<dyn Controlled>> {
        lock(&self.actors).values().cloned().collect()
    }

    /// What is alive, in the order in which it started.
    pub fn snapshot(&self) -> Vec<ActorRow> {
        self.living().iter().map(|actor| actor.row()).collect()
    }

    /// Restarts since the process started, by kind, also of actors that have ended; every kind of the table.
    pub fn restarts(&self) -> BTreeMap<&'static str, u64> {
        self.restarts.iter().map(|(&kind, count)| (kind, count.load(Ordering::Relaxed))).collect()
    }

    /// Waiting commands by kind, over all living actors of the kind; every kind of the table.
    pub fn depths(&self) -> BTreeMap<&'static str, u64> {
        let mut depths: BTreeMap<&'static str, u64> = self.kinds.iter().map(|&kind| (kind, 0)).collect();
        for actor in self.living() {
            *depths.entry(actor.life().kind).or_default() += actor.depth() as u64;
        }
        depths
    }

    /// Dropped packets by reason, over all lanes, since the process started.
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for (reason, count) in lock(&self.drops).iter() {
            *sums.entry(*reason).or_default() += count.load(Ordering::Relaxed);
        }
        sums
    }

    /// A new counter for one reason: for a hot path that keeps it, or for a thread that is no lane.
    pub fn drop_counter(&self, reason: &'static str) -> DropCounter {
        let count = Arc::new(AtomicU64::new(0));
        lock(&self.drops).push((reason, Arc::clone(&count)));
        DropCounter(count)
    }

    /// Makes one actor misbehave. `false` when no such actor is alive.
    #[cfg(feature = "chaos")]
    pub fn disturb(&self, kind: &str, key: &str, disturbance: Disturbance) -> bool {
        let found = self.living().into_iter().find(|actor| {
            let life = actor.life();
            life.kind == kind && &*life.key == key
        });
        let Some(actor) = found else { return false };
        *lock(&actor.life().disturbance) = Some(disturbance);
        actor.life().ring();
        true
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({} actors)", lock(&self.actors).len())
    }
}

/// Counts packets dropped for one reason.
#[derive(Debug, Clone)]
pub struct DropCounter(Arc<AtomicU64>);

impl DropCounter {
    /// Counts `packets` more.
    pub fn add(&self, packets: u64) {
        self.0.fetch_add(packets, Ordering::Relaxed);
    }

    /// What this counter has counted.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts dropped packets by reason on one lane. Cheap to clone; bound to its thread; takes a lock only when the lane
/// meets a reason for the first time.
#[derive(Clone)]
pub struct Drops {
    registry: Arc<Registry>,
    known: Rc<RefCell<Vec<(&'static str, DropCounter)>>>,
}

impl Drops {
    /// Counters for a table that lives on a lane before any actor does.
    pub fn new(registry: &Arc<Registry>) -> Drops {
        Drops { registry: Arc::clone(registry), known: Rc::default() }
    }

    /// Counts `packets` dropped for `reason` (`snake_case`: it becomes a metric's label).
    pub fn count(&self, reason: &'static str, packets: u64) {
        if packets == 0 {
            return;
        }
        let mut known = self.known.borrow_mut();
        if let Some((_, counter)) =
            known.iter().find(|(known, _)| std::ptr::eq(*known, reason) || *known == reason)
        {
            counter.add(packets);
            return;
        }
        let counter = self.registry.drop_counter(reason);
        counter.add(packets);
        known.push((reason, counter));
    }
}

impl fmt::Debug for Drops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drops")
    }
}

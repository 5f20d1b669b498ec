//! The test universe: real actors on one thread, neighbours that are inboxes, time that moves only when told.

use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::Instant;

use crate::actor::{Actor, How};
use crate::address::Address;
use crate::context::Child;
use crate::directory::Directory;
use crate::lane::{self, Lane, Process};
use crate::mailbox::{Controlled, Mailbox, lock};
use crate::packets::{PacketSender, Ring};
use crate::registry::{Drops, Registry};
use crate::shell::{Launch, Parent};
use crate::table::{ROOT, Row, StartError, Starts, Table};
use crate::time::{Clock, ManualClock};

/// Turns of the event loop without a turn of any actor before the universe counts as settled.
const QUIET: u32 = 24;

/// A process in a test. Make one for each test, on the test's own thread.
pub struct Universe {
    runtime: tokio::runtime::Runtime,
    local: Option<LocalSet>,
    lane: Rc<Lane>,
    clock: Rc<ManualClock>,
    begin: Instant,
    gave_up: Arc<Mutex<Vec<(&'static str, String)>>>,
}

impl Universe {
    /// A universe whose actors live by these rows. Start functions are not called; lanes are all the same thread.
    pub fn new<C>(rows: &[Row<C>]) -> Universe {
        let table = Arc::new(Table::of(rows));
        if let Err(error) = table.validate(rows, Starts::Optional) {
            panic!("{error}");
        }
        let registry = Registry::new(&table);
        let gave_up: Arc<Mutex<Vec<(&'static str, String)>>> = Arc::default();
        let hook = Arc::clone(&gave_up);
        let process = Process {
            table,
            registry,
            directory: Arc::new(Directory::default()),
            gave_up: Arc::new(move |kind, key| lock(&hook).push((kind, key.to_string()))),
        };
        let clock = ManualClock::new();
        let lane = Lane::new("universe", None, 0, process, Clock::Manual(Rc::clone(&clock)));
        lane::set_current(Some(Rc::clone(&lane)));
        #[allow(clippy::expect_used)] // A test without an event loop cannot go on.
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
        let begin = Clock::Manual(Rc::clone(&clock)).now();
        Universe { runtime, local: Some(LocalSet::new()), lane, clock, begin, gave_up }
    }

    /// Starts a root actor. It has not run yet: call [`Universe::settle`].
    pub fn start<A: Actor>(
        &self,
        key: &str,
        factory: impl FnMut() -> A + 'static,
    ) -> Result<Child<A>, StartError> {
        let process = &self.lane.process;
        let rule = process.table.rule(A::KIND)?;
        let mailbox = self.mailbox::<A>(key);
        if !mailbox.life().claim() {
            return Err(StartError::KeyInUse { kind: A::KIND, key: key.to_string() });
        }
        let ring = if rule.ring > 0 { Some(self.lane.ring::<A>(key)?) } else { None };
        let packets = ring.as_ref().map(|ring| ring.sender());
        let launch = Launch {
            id: process.registry.next_id(),
            lane: Rc::clone(&self.lane),
            mailbox: Arc::clone(&mailbox),
            ring,
            parent: Parent::Process,
            parent_name: ROOT.into(),
            factory: Box::new(factory),
            restart: rule.restart,
            intensity: rule.intensity,
            begun: Box::new(|| {}),
        };
        self.block_on(async move { launch.launch() });
        Ok(Child { address: Address(mailbox), packets })
    }

    /// A neighbour of kind `A` that only records what it is told. Its kind needs a row.
    pub fn inbox<A: Actor>(&self, key: &str) -> Inbox<A> {
        let mailbox = self.mailbox::<A>(key);
        mailbox.life().claim();
        Inbox { mailbox }
    }

    /// The packet mailbox of a neighbour of kind `A` that only records what it is sent. Its row has a ring.
    pub fn packet_inbox<A: Actor>(&self, key: &str) -> Result<PacketInbox<A>, StartError> {
        Ok(PacketInbox { ring: self.lane.ring::<A>(key)?, kind: PhantomData })
    }

    /// In a test every kind can be a root, also one whose row names a parent.
    fn mailbox<A: Actor>(&self, key: &str) -> Arc<Mailbox<A::Command>> {
        let process = &self.lane.process;
        match process.table.rule(A::KIND) {
            Ok(rule) if rule.parent != ROOT => Mailbox::new(rule, Arc::from(key)),
            _ => process.directory.mailbox(&process.table, A::KIND, key),
        }
    }

    /// Lets every actor run until none has anything to do. Time does not move. What waits for a real socket or another
    /// thread is not waited for: use [`Universe::block_on`].
    pub fn settle(&self) {
        let lane = Rc::clone(&self.lane);
        self.block_on(async move {
            let mut quiet = 0;
            while quiet < QUIET {
                let before = lane.turns.get();
                tokio::task::yield_now().await;
                quiet = if lane.turns.get() == before { quiet + 1 } else { 0 };
            }
        });
    }

    /// Moves time forward from deadline to deadline, and lets the actors settle at each.
    pub fn advance(&self, duration: Duration) {
        self.settle();
        let target = self.clock_now() + duration;
        while let Some(deadline) = self.clock.next_deadline().filter(|&deadline| deadline <= target) {
            self.clock.set(deadline);
            self.settle();
        }
        self.clock.set(target);
        self.settle();
    }

    /// Moves time to the earliest deadline that somebody waits for, and says how far that was. `None` when nobody does.
    pub fn advance_to_deadline(&self) -> Option<Duration> {
        self.settle();
        let deadline = self.clock.next_deadline()?;
        let step = deadline.saturating_duration_since(self.clock_now());
        self.clock.set(deadline);
        self.settle();
        Some(step)
    }

    /// How long until the earliest deadline that somebody waits for.
    pub fn next_deadline(&self) -> Option<Duration> {
        let deadline = self.clock.next_deadline()?;
        Some(deadline.saturating_duration_since(self.clock_now()))
    }

    /// Time since the universe began.
    pub fn now(&self) -> Duration {
        self.clock_now().duration_since(self.begin)
    }

    /// The same, as actors see it.
    pub fn instant(&self) -> Instant {
        self.clock_now()
    }

    fn clock_now(&self) -> Instant {
        Clock::Manual(Rc::clone(&self.clock)).now()
    }

    /// Runs a future among the actors, for tests with real sockets.
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        lane::set_current(Some(Rc::clone(&self.lane)));
        match &self.local {
            Some(local) => local.block_on(&self.runtime, future),
            None => self.runtime.block_on(future),
        }
    }

    /// What is alive.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.lane.process.registry
    }

    /// The drop counters of the universe's only lane.
    pub fn drops(&self) -> Drops {
        self.lane.drops.clone()
    }

    /// Roots that gave up, as `(kind, key)`: each would have ended the process.
    pub fn gave_up(&self) -> Vec<(&'static str, String)> {
        lock(&self.gave_up).clone()
    }

    /// Stops an actor in order.
    pub fn stop<A: Actor>(&self, address: &Address<A>) {
        address.0.life().request_stop();
        self.settle();
    }
}

impl Drop for Universe {
    fn drop(&mut self) {
        // Actors are dropped while their lane and event loop still exist.
        let _inside = self.runtime.enter();
        self.local.take();
        lane::set_current(None);
    }
}

/// A neighbour's control mailbox, read by the test.
pub struct Inbox<A: Actor> {
    mailbox: Arc<Mailbox<A::Command>>,
}

impl<A: Actor> Inbox<A> {
    /// Where the neighbour is told things.
    pub fn address(&self) -> Address<A> {
        Address(Arc::clone(&self.mailbox))
    }

    /// The oldest unread command.
    pub fn take(&self) -> Option<A::Command> {
        self.mailbox.pop()
    }

    /// All unread commands, in order.
    pub fn take_all(&self) -> Vec<A::Command> {
        std::iter::from_fn(|| self.take()).collect()
    }

    /// Makes the neighbour end.
    pub fn end(&self, how: How) {
        self.mailbox.end(how);
    }
}

/// A neighbour's packet mailbox, read by the test.
pub struct PacketInbox<A: Actor> {
    ring: Rc<Ring<A::Packets>>,
    kind: PhantomData<A>,
}

impl<A: Actor> PacketInbox<A> {
    /// Where the neighbour is sent batches.
    pub fn sender(&self) -> PacketSender<A::Packets> {
        self.ring.sender()
    }

    /// The oldest unread batch.
    pub fn take(&self) -> Option<A::Packets> {
        self.ring.pop()
    }

    /// All unread batches, in order.
    pub fn take_all(&self) -> Vec<A::Packets> {
        std::iter::from_fn(|| self.take()).collect()
    }
}

//! A process: its table, its lanes, its life.

use std::cell::RefCell;
use std::fmt;
use std::sync::mpsc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix_rt::{Arbiter, System};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::actor::Actor;
use crate::address::Address;
use crate::directory::Directory;
use crate::lane::{self, LaneKind, LaneRef, Process};
use crate::mailbox::Controlled;
use crate::registry::Registry;
use crate::shell::{Launch, Parent};
use crate::table::{ROOT, Row, StartError, Starts, Table};

/// Exit status of a process whose root actor gave up: an internal software error, for a supervisor to restart.
pub const GAVE_UP_STATUS: i32 = 70;

/// How long a root may take to stop. Longer than it should need, shorter than what systemd grants (90 s).
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long the lanes may take to end when all actors have.
const LANES_LIMIT: Duration = Duration::from_secs(2);

/// A process that is described but not running.
pub struct Tree<C: 'static> {
    rows: &'static [Row<C>],
    table: Arc<Table>,
    registry: Arc<Registry>,
    packet_lanes: usize,
    control_lanes: usize,
}

impl<C: 'static> Tree<C> {
    /// A process with these kinds of actors, roots in start order, one lane of each kind that the table uses.
    pub fn new(rows: &'static [Row<C>]) -> Tree<C> {
        let table = Arc::new(Table::of(rows));
        let registry = Registry::new(&table);
        Tree { rows, table, registry, packet_lanes: 1, control_lanes: 1 }
    }

    /// How many packet lanes it has.
    pub fn packet_lanes(mut self, lanes: usize) -> Tree<C> {
        self.packet_lanes = lanes.max(1);
        self
    }

    /// How many control lanes it has.
    pub fn control_lanes(mut self, lanes: usize) -> Tree<C> {
        self.control_lanes = lanes.max(1);
        self
    }

    /// The table as aligned text.
    pub fn render(&self) -> String {
        self.table.render()
    }

    /// What will be alive in it.
    pub fn registry(&self) -> Arc<Registry> {
        Arc::clone(&self.registry)
    }

    /// Refuses a table that contradicts itself; [`Tree::run`] does this first.
    pub fn validate(&self) -> Result<(), StartError> {
        self.table.validate(self.rows, Starts::Required)
    }

    /// Runs the process on this thread until [`TreeHandle::shutdown`], or until a root gives up. Returns the exit status.
    pub fn run(self, context: C) -> Result<i32, StartError> {
        self.run_with(context, |_| {})
    }

    /// The same; `ready` is called when every root has started, on this thread and inside its event loop
    /// ([`actix_rt::spawn`] works there).
    pub fn run_with(self, context: C, ready: impl FnOnce(&TreeHandle)) -> Result<i32, StartError> {
        self.validate()?;
        let system = System::new();
        let (requests, mut shutdowns) = unbounded_channel();
        let handle = TreeHandle {
            requests,
            registry: Arc::clone(&self.registry),
            table: Arc::clone(&self.table),
            directory: Arc::default(),
            lanes: Arc::default(),
        };
        let process = Process {
            table: Arc::clone(&self.table),
            registry: Arc::clone(&self.registry),
            directory: Arc::clone(&handle.directory),
            gave_up: gave_up_hook(handle.clone()),
        };
        let mut arbiters = Vec::new();
        let outcome = self.start_all(&context, &process, &handle, &mut arbiters);
        let (started, outcome) = match outcome {
            Ok(started) => (started, Ok(())),
            Err((started, error)) => (started, Err(error)),
        };
        let (status, orderly) = system.block_on(async {
            let status = match &outcome {
                Ok(()) => {
                    ready(&handle);
                    first(&mut shutdowns).await
                }
                Err(_) => 1,
            };
            (status, stop_all(started).await)
        });
        end_lanes(arbiters, orderly);
        System::current().stop_with_code(status);
        outcome.map(|()| status)
    }

    fn start_all(
        &self,
        context: &C,
        process: &Process,
        handle: &TreeHandle,
        arbiters: &mut Vec<Arbiter>,
    ) -> Outcome {
        let mut lanes = Vec::new();
        for (kind, count) in [(LaneKind::Packet, self.packet_lanes), (LaneKind::Control, self.control_lanes)]
        {
            if !self.table.uses(kind) {
                continue;
            }
            for index in 0..count {
                match LaneRef::start(kind, index, process.clone()) {
                    Ok((lane, arbiter)) => {
                        lanes.push(lane);
                        arbiters.push(arbiter);
                    }
                    Err(error) => {
                        return Err((
                            Vec::new(),
                            StartError::failed("cannot start a thread for a lane", error),
                        ));
                    }
                }
            }
        }
        let _ = handle.lanes.set(lanes.clone());
        let boot = Boot { context, lanes, process: process.clone(), started: RefCell::default() };
        for row in self.rows {
            if let Some(start) = row.start
                && let Err(error) = start(&boot)
            {
                return Err((boot.started.into_inner(), error));
            }
        }
        Ok(boot.started.into_inner())
    }
}

type Roots = Vec<Arc<dyn Controlled>>;
/// What was started, also when something after it was not.
type Outcome = Result<Roots, (Roots, StartError)>;

fn gave_up_hook(handle: TreeHandle) -> lane::GaveUpHook {
    Arc::new(move |kind, _key| {
        tracing::error!(
            kind,
            "a root actor gave up, the process ends; start it again, and report the panic above"
        );
        handle.shutdown(GAVE_UP_STATUS);
    })
}

async fn first(requests: &mut UnboundedReceiver<i32>) -> i32 {
    // `run_with` keeps a sender: there is always a request in the end.
    requests.recv().await.unwrap_or(GAVE_UP_STATUS)
}

/// Stops the roots, the last one first. `false` when one did not stop in time.
async fn stop_all(roots: Roots) -> bool {
    let mut orderly = true;
    for root in roots.iter().rev() {
        root.life().request_stop();
        if tokio::time::timeout(STOP_LIMIT, root.life().gone()).await.is_err() {
            tracing::warn!(kind = root.life().kind, "an actor did not stop in time");
            orderly = false;
        }
    }
    orderly
}

fn end_lanes(arbiters: Vec<Arbiter>, wait: bool) {
    for arbiter in &arbiters {
        arbiter.stop();
    }
    if !wait {
        return;
    }
    // Joining can hang on a blocking call that somebody left behind; the process ends all the same.
    let (done, joined) = mpsc::channel();
    std::thread::spawn(move || {
        for arbiter in arbiters {
            let _ = arbiter.join();
        }
        let _ = done.send(());
    });
    let _ = joined.recv_timeout(LANES_LIMIT);
}

/// A running process, for signal handlers and the local socket.
#[derive(Clone)]
pub struct TreeHandle {
    requests: UnboundedSender<i32>,
    registry: Arc<Registry>,
    table: Arc<Table>,
    directory: Arc<Directory>,
    lanes: Arc<OnceLock<Vec<LaneRef>>>,
}

impl TreeHandle {
    /// Stops the roots in reverse order, then the process, with this exit status. The first request counts.
    pub fn shutdown(&self, status: i32) {
        let _ = self.requests.send(status);
    }

    /// What is alive.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The address of a root; a kind that is no root of this process has a closed address.
    pub fn address<A: Actor>(&self, key: &str) -> Address<A> {
        Address(self.directory.mailbox::<A::Command>(&self.table, A::KIND, key))
    }

    /// Asks every lane for a sign of life, for a watchdog. `Err` names the first that gave none in `limit`.
    pub async fn pulse(&self, limit: Duration) -> Result<(), String> {
        for lane in self.lanes.get().into_iter().flatten() {
            if tokio::time::timeout(limit, lane.pulse()).await != Ok(true) {
                return Err(lane.name().to_string());
            }
        }
        Ok(())
    }
}

impl fmt::Debug for TreeHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TreeHandle")
    }
}

/// What a row's start function works with.
pub struct Boot<'a, C> {
    /// What the program has prepared: configuration, descriptors.
    pub context: &'a C,
    lanes: Vec<LaneRef>,
    process: Process,
    started: RefCell<Roots>,
}

impl<C> Boot<'_, C> {
    /// The first lane of a kind.
    pub fn lane(&self, kind: LaneKind) -> Result<LaneRef, StartError> {
        self.lanes(kind)
            .next()
            .cloned()
            .ok_or_else(|| StartError::Table(format!("no row lives on a {} lane", kind.name())))
    }

    /// The lanes of a kind.
    pub fn lanes(&self, kind: LaneKind) -> impl Iterator<Item = &LaneRef> {
        self.lanes.iter().filter(move |lane| lane.kind() == kind)
    }

    /// What is alive.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.process.registry
    }

    /// The address of a root, also of one that starts later. A kind that is no root of this process has a closed address.
    pub fn address<A: Actor>(&self, key: &str) -> Address<A> {
        Address(self.process.directory.mailbox::<A::Command>(&self.process.table, A::KIND, key))
    }

    /// Starts a root on the lane of its row: `make` runs on that thread and returns the factory. Returns when the actor's
    /// `started` has.
    pub fn start<A, F>(
        &self,
        lane: &LaneRef,
        key: &str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Address<A>, StartError>
    where
        A: Actor,
        F: FnMut() -> A + 'static,
    {
        self.try_start(lane, key, move || Ok(make()))
    }

    /// The same, when `make` can fail.
    pub fn try_start<A, F>(
        &self,
        lane: &LaneRef,
        key: &str,
        make: impl FnOnce() -> Result<F, StartError> + Send + 'static,
    ) -> Result<Address<A>, StartError>
    where
        A: Actor,
        F: FnMut() -> A + 'static,
    {
        let rule = self.process.table.rule(A::KIND)?;
        let misplaced = |why| Err(StartError::Misplaced { kind: A::KIND, why });
        if rule.parent != ROOT {
            return misplaced("its row names a parent");
        }
        if rule.lane != lane.kind() {
            return misplaced("its row names another kind of lane");
        }
        let address = self.address::<A>(key);
        if !address.0.life().claim() {
            return Err(StartError::KeyInUse { kind: A::KIND, key: key.to_string() });
        }
        let (restart, intensity, with_ring) = (rule.restart, rule.intensity, rule.ring > 0);
        let mailbox = Arc::clone(&address.0);
        let id = self.process.registry.next_id();
        let launched = lane.run_until(move |result| {
            let launch = || {
                let lane =
                    lane::current().ok_or_else(|| StartError::Table("this thread is no lane".into()))?;
                let ring = if with_ring { Some(lane.ring::<A>(&mailbox.life().key)?) } else { None };
                let begun = result.clone();
                Ok(Launch {
                    id,
                    lane,
                    mailbox,
                    ring,
                    parent: Parent::Process,
                    parent_name: ROOT.into(),
                    factory: Box::new(make()?),
                    restart,
                    intensity,
                    begun: Box::new(move || {
                        let _ = begun.send(Ok(()));
                    }),
                })
            };
            match launch() {
                Ok(launch) => launch.launch(),
                Err(error) => {
                    let _ = result.send(Err(error));
                }
            }
        });
        match launched {
            Some(Ok(())) => {
                self.started.borrow_mut().push(Arc::clone(&address.0) as Arc<dyn Controlled>);
                Ok(address)
            }
            Some(Err(error)) => Err(error),
            None => Err(StartError::failed("cannot start an actor", "its start function panicked")),
        }
    }

    /// A packet mailbox is bound to its lane: this finds one from inside `make`, also of an actor that starts later.
    pub fn packets_of<A: Actor>(key: &str) -> Result<crate::PacketSender<A::Packets>, StartError> {
        let lane = lane::current().ok_or_else(|| StartError::Table("this thread is no lane".into()))?;
        lane.packets_of::<A>(key)
    }
}

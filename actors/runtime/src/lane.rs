//! Lanes: named threads with an event loop each, and what an actor finds on its own.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::rc::Rc;
use std::sync::{Arc, mpsc};

use actix_rt::{Arbiter, ArbiterHandle};

use crate::actor::Actor;
use crate::directory::Directory;
use crate::packets::{PacketSender, Ready, Ring};
use crate::registry::{Drops, Registry};
use crate::table::{StartError, Table};
use crate::time::Clock;

/// Two kinds of thread that never mix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LaneKind {
    /// Sockets, TUN queues and peers; no file, database, DNS, TLS or HTTP.
    Packet,
    /// Everything else.
    Control,
}

impl LaneKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            LaneKind::Packet => "packet",
            LaneKind::Control => "control",
        }
    }

    fn thread_name(self, index: usize) -> String {
        match self {
            LaneKind::Packet => format!("lane-{index}"),
            LaneKind::Control => format!("control-{index}"),
        }
    }
}

/// Kind and key of an actor.
pub(crate) type Place = (&'static str, Arc<str>);

/// Called on the lane when a root gives up.
pub(crate) type GaveUpHook = Arc<dyn Fn(&'static str, &str) + Send + Sync>;

/// What all lanes of a process share.
#[derive(Clone)]
pub(crate) struct Process {
    pub table: Arc<Table>,
    pub registry: Arc<Registry>,
    pub directory: Arc<Directory>,
    pub gave_up: GaveUpHook,
}

/// One lane, seen from its own thread.
pub(crate) struct Lane {
    pub name: Arc<str>,
    /// `None` in the test universe, where everything lives on one thread.
    pub kind: Option<LaneKind>,
    pub index: usize,
    pub process: Process,
    pub clock: Clock,
    pub drops: Drops,
    /// Turns that actors have had: the universe waits until this stands still.
    pub turns: Cell<u64>,
    rings: RefCell<HashMap<Place, Rc<dyn Any>>>,
    pub ready: Rc<Ready>,
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<Lane>>> = const { RefCell::new(None) };
}

/// The lane of this thread.
pub(crate) fn current() -> Option<Rc<Lane>> {
    CURRENT.try_with(|lane| lane.borrow().clone()).ok().flatten()
}

pub(crate) fn set_current(lane: Option<Rc<Lane>>) {
    let _ = CURRENT.try_with(|current| current.replace(lane));
}

impl Lane {
    pub(crate) fn new(
        name: &str,
        kind: Option<LaneKind>,
        index: usize,
        process: Process,
        clock: Clock,
    ) -> Rc<Lane> {
        Rc::new(Lane {
            name: Arc::from(name),
            kind,
            index,
            drops: Drops::new(&process.registry),
            process,
            clock,
            turns: Cell::new(0),
            rings: RefCell::default(),
            ready: Rc::default(),
        })
    }

    /// The packet mailbox of an actor on this lane, which may start later.
    pub(crate) fn ring<A: Actor>(&self, key: &str) -> Result<Rc<Ring<A::Packets>>, StartError> {
        let rule = self.process.table.rule(A::KIND)?;
        if rule.ring == 0 {
            return Err(StartError::Misplaced { kind: A::KIND, why: "its row has no packet mailbox" });
        }
        let place = (A::KIND, Arc::from(key));
        let mut rings = self.rings.borrow_mut();
        if let Some(known) = rings.get(&place)
            && let Ok(ring) = Rc::clone(known).downcast::<Ring<A::Packets>>()
        {
            return Ok(ring);
        }
        let ring = Ring::new(rule.ring, Rc::clone(&self.ready));
        rings.insert(place, ring.erased());
        Ok(ring)
    }

    pub(crate) fn free_ring(&self, kind: &'static str, key: &str) {
        self.rings.borrow_mut().remove(&(kind, Arc::from(key)));
    }

    pub(crate) fn forget_ring<T: 'static>(&self, kind: &'static str, key: &Arc<str>, ring: &Rc<Ring<T>>) {
        let place = (kind, Arc::clone(key));
        let mut rings = self.rings.borrow_mut();
        if rings.get(&place).is_some_and(|known| Rc::ptr_eq(known, &ring.erased())) {
            rings.remove(&place);
        }
    }

    pub(crate) fn packets_of<A: Actor>(&self, key: &str) -> Result<PacketSender<A::Packets>, StartError> {
        Ok(self.ring::<A>(key)?.sender())
    }
}

/// A lane, seen from outside.
#[derive(Clone)]
pub struct LaneRef {
    name: Arc<str>,
    kind: LaneKind,
    index: usize,
    arbiter: ArbiterHandle,
}

impl LaneRef {
    /// The name of its thread.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its kind.
    pub fn kind(&self) -> LaneKind {
        self.kind
    }

    /// Its number among the lanes of its kind, from 0.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Starts a thread for a lane.
    pub(crate) fn start(kind: LaneKind, index: usize, process: Process) -> io::Result<(LaneRef, Arbiter)> {
        let name = kind.thread_name(index);
        let thread_name = name.clone();
        let arbiter = Arbiter::try_with_tokio_rt(move || {
            // Runs on the new thread: actix names it, and we rename it.
            if let Ok(name) = std::ffi::CString::new(thread_name.clone()) {
                let _ = nix::sys::prctl::set_name(&name);
            }
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .thread_name(format!("{thread_name}-io"))
                .build()
        })?;
        let lane = LaneRef { name: Arc::from(name.as_str()), kind, index, arbiter: arbiter.handle() };
        lane.run(move || set_current(Some(Lane::new(&name, Some(kind), index, process, Clock::Real))))
            .ok_or_else(|| io::Error::other("the lane ended while it started"))?;
        Ok((lane, arbiter))
    }

    /// Resolves when the lane has come round to it. `false`: it has ended.
    pub(crate) async fn pulse(&self) -> bool {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sent = self.arbiter.spawn_fn(move || {
            let _ = sender.send(());
        });
        sent && receiver.await.is_ok()
    }

    /// Runs a function on the lane and waits for its result; for the time before the process is up.
    pub(crate) fn run<R: Send + 'static>(&self, function: impl FnOnce() -> R + Send + 'static) -> Option<R> {
        self.run_until(move |result| {
            let _ = result.send(function());
        })
    }

    /// Runs a function on the lane and waits until somebody sends the result that it was given a sender for.
    pub(crate) fn run_until<R: Send + 'static>(
        &self,
        function: impl FnOnce(mpsc::Sender<R>) + Send + 'static,
    ) -> Option<R> {
        let (sender, receiver) = mpsc::channel();
        if self.arbiter.spawn_fn(move || function(sender)) { receiver.recv().ok() } else { None }
    }
}

impl fmt::Debug for LaneRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

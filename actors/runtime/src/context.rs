//! What an actor can do from inside its methods.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{AbortHandle, Abortable, LocalBoxFuture};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream};
use tokio::time::Instant;

use crate::actor::{Actor, How};
use crate::address::Address;
use crate::family::Family;
use crate::lane::Lane;
use crate::mailbox::{Controlled, Mailbox};
use crate::packets::PacketSender;
use crate::registry::{Drops, Registry};
use crate::shell::{Launch, Parent};
use crate::table::StartError;
use crate::time::{Clock, Sleep};

/// What follows a spawned future: runs on the actor.
type Finish<A> = Box<dyn FnOnce(&mut A, &mut Cx<A>)>;
/// `None`: aborted. `Err`: it panicked.
type Finished<A> = Option<Result<Finish<A>, Box<dyn Any + Send>>>;

/// An actor's surroundings: its address, its clock, its children, and what it has set going.
pub struct Cx<A: Actor> {
    me: Address<A>,
    pub(crate) lane: Rc<Lane>,
    pub(crate) family: Rc<Family>,
    pub(crate) deadline: Option<Instant>,
    /// Most actors never have one, and an empty set is 300 bytes of each.
    pub(crate) tasks: Option<FuturesUnordered<LocalBoxFuture<'static, Finished<A>>>>,
    /// What its children say of their parent.
    name: Option<Arc<str>>,
    pub(crate) follows: Vec<Box<dyn Follow<A>>>,
    /// A future or stream was added since the last turn: nothing polls it yet.
    pub(crate) fresh: bool,
    pub(crate) fate: Option<Fate>,
    pub(crate) closing: bool,
}

/// What the actor asked for itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Stop,
    Fail,
}

/// A child that was started.
pub struct Child<B: Actor> {
    /// Where it is told things.
    pub address: Address<B>,
    /// Its packet mailbox, if its row has one.
    pub packets: Option<PacketSender<B::Packets>>,
}

impl<B: Actor> Clone for Child<B> {
    fn clone(&self) -> Self {
        Child { address: self.address.clone(), packets: self.packets.clone() }
    }
}

impl<B: Actor> fmt::Debug for Child<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Child<{}>", B::KIND)
    }
}

/// Ends a spawned future early; what would have followed it does not happen. Dropping the handle changes nothing.
#[derive(Debug, Clone)]
pub struct TaskHandle(AbortHandle);

impl TaskHandle {
    /// Ends the future.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<A: Actor> Cx<A> {
    pub(crate) fn new(me: Address<A>, lane: Rc<Lane>) -> Cx<A> {
        let parent = Arc::clone(&me.0) as Arc<dyn Controlled>;
        Cx {
            me,
            lane,
            family: Rc::new(Family::new(parent)),
            deadline: None,
            tasks: None,
            name: None,
            follows: Vec::new(),
            fresh: false,
            fate: None,
            closing: false,
        }
    }

    /// The actor's own address.
    pub fn me(&self) -> &Address<A> {
        &self.me
    }

    /// What distinguishes it from others of its kind.
    pub fn key(&self) -> &str {
        self.me.key()
    }

    /// The name of the lane's thread.
    pub fn lane_name(&self) -> &str {
        &self.lane.name
    }

    /// The lane's number among the lanes of its kind.
    pub fn lane_index(&self) -> usize {
        self.lane.index
    }

    /// The time, by the lane's clock; batches of packets in a row share one look at it, a quarter of a millisecond at most.
    pub fn now(&self) -> Instant {
        match &self.lane.clock {
            Clock::Real => self.lane.ready.now(Instant::now),
            clock @ Clock::Manual(_) => clock.now(),
        }
    }

    /// A future that is ready after `duration`, by the lane's clock.
    pub fn sleep(&self, duration: Duration) -> Sleep {
        self.lane.clock.sleep_until(self.now() + duration)
    }

    /// Sets the one deadline: [`Actor::woken`] is called when it has passed. A new deadline replaces the old one.
    pub fn wake_at(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// The same, from now.
    pub fn wake_after(&mut self, duration: Duration) {
        self.deadline = Some(self.now() + duration);
    }

    /// Clears the deadline.
    pub fn wake_never(&mut self) {
        self.deadline = None;
    }

    /// The deadline that is set.
    pub fn wakes_at(&self) -> Option<Instant> {
        self.deadline
    }

    /// Runs a future beside the actor's methods and hands its output to `then`. A panic in either is the actor's. The
    /// future ends with this incarnation of the actor.
    pub fn spawn<F>(
        &mut self,
        future: F,
        then: impl FnOnce(&mut A, F::Output, &mut Cx<A>) + 'static,
    ) -> TaskHandle
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        let (handle, registration) = AbortHandle::new_pair();
        let task =
            Abortable::new(AssertUnwindSafe(future).catch_unwind(), registration).map(
                |outcome| match outcome {
                    Err(_aborted) => None,
                    Ok(Err(panic)) => Some(Err(panic)),
                    Ok(Ok(output)) => {
                        let finish: Finish<A> = Box::new(move |actor, cx| then(actor, output, cx));
                        Some(Ok(finish))
                    }
                },
            );
        self.tasks.get_or_insert_default().push(task.boxed_local());
        self.fresh = true;
        TaskHandle(handle)
    }

    /// Hands each item of a stream to `then`, one a turn, until the stream or this incarnation of the actor ends. This
    /// is how a socket feeds its actor: nothing is allocated for an item.
    pub fn follow<S>(&mut self, stream: S, then: impl FnMut(&mut A, S::Item, &mut Cx<A>) + 'static)
    where
        S: Stream + 'static,
    {
        self.follows.push(Box::new(Following { stream: Box::pin(stream), then }));
        self.fresh = true;
    }

    /// Starts a child on this lane. `factory` builds it, now and after each failure; what must survive a failure lives
    /// in an `Rc` that the factory keeps.
    pub fn start_child<B: Actor>(
        &mut self,
        key: impl Into<Arc<str>>,
        factory: impl FnMut() -> B + 'static,
    ) -> Result<Child<B>, StartError> {
        let key: Arc<str> = key.into();
        let process = &self.lane.process;
        let rule = process.table.rule(B::KIND)?;
        let misplaced = |why| Err(StartError::Misplaced { kind: B::KIND, why });
        if rule.parent != A::KIND {
            return misplaced("its row names another parent");
        }
        if self.lane.kind.is_some_and(|kind| kind != rule.lane) {
            return misplaced("its row names another kind of lane");
        }
        if self.closing {
            return misplaced("its parent is stopping");
        }
        if self.family.has(B::KIND, &key) {
            return Err(StartError::KeyInUse { kind: B::KIND, key: key.to_string() });
        }
        let mailbox = Mailbox::new(rule, Arc::clone(&key));
        let ring = if rule.ring == 0 { None } else { Some(self.lane.ring::<B>(&key)?) };
        let packets = ring.as_ref().map(|ring| ring.sender());
        let id = process.registry.next_id();
        let key_of_parent = self.me.key();
        let parent_name = self.name.get_or_insert_with(|| match key_of_parent {
            "" => A::KIND.into(),
            key => format!("{} {key}", A::KIND).into(),
        });
        let parent_name = Arc::clone(parent_name);
        self.family.add(id, Arc::clone(&mailbox) as Arc<dyn Controlled>);
        Launch {
            id,
            lane: Rc::clone(&self.lane),
            mailbox: Arc::clone(&mailbox),
            ring,
            parent: Parent::Actor(Rc::clone(&self.family)),
            parent_name,
            factory: Box::new(factory),
            restart: rule.restart,
            intensity: rule.intensity,
            begun: Box::new(|| {}),
        }
        .launch();
        Ok(Child { address: Address(mailbox), packets })
    }

    /// Stops a child in order. Its key is free at once; [`Actor::child_ended`] tells when it is gone, unless a successor
    /// has its key by then. `false` when there is no such child.
    pub fn stop_child<B: Actor>(&mut self, key: &str) -> bool {
        // A successor gets a packet mailbox of its own.
        self.lane.free_ring(B::KIND, key);
        self.family.stop(B::KIND, key)
    }

    /// Stops this actor in order, after the method that runs.
    pub fn stop(&mut self) {
        self.fate.get_or_insert(Fate::Stop);
    }

    /// Ends this incarnation as if it had panicked: children are stopped, and the restart intensity decides what follows.
    pub fn fail(&mut self) {
        self.fate = Some(Fate::Fail);
    }

    /// Turns the end of another actor into a command for this one; at once if it has already ended. A restart is not an
    /// end.
    pub fn watch<B: Actor>(
        &mut self,
        other: &Address<B>,
        command: impl FnOnce(How) -> A::Command + Send + 'static,
    ) {
        let me = self.me.clone();
        other.watch(move |how| {
            // A full mailbox has its own rule and counter.
            let _ = me.tell(command(how));
        });
    }

    /// The address of a root, which may start later. A kind that is no root of this process has a closed address.
    pub fn address_of<B: Actor>(&self, key: &str) -> Address<B> {
        let process = &self.lane.process;
        Address(process.directory.mailbox::<B::Command>(&process.table, B::KIND, key))
    }

    /// The packet mailbox of an actor on this lane, which may start later.
    pub fn packets_of<B: Actor>(&self, key: &str) -> Result<PacketSender<B::Packets>, StartError> {
        self.lane.packets_of::<B>(key)
    }

    /// Counts dropped packets (`reason` in `snake_case`).
    pub fn count_drop(&self, reason: &'static str, packets: u64) {
        self.lane.drops.count(reason, packets);
    }

    /// The lane's drop counters, for tables that outlive an actor.
    pub fn drops(&self) -> Drops {
        self.lane.drops.clone()
    }

    /// What is alive in this process.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.lane.process.registry
    }

    /// Clears what belongs to one incarnation.
    pub(crate) fn forget(&mut self) {
        self.deadline = None;
        self.follows = Vec::new();
        self.tasks = None;
        self.fresh = false;
        self.fate = None;
    }
}

/// A stream that an actor follows.
pub(crate) trait Follow<A: Actor> {
    /// Handles at most one item. `Ready(false)`: the stream has ended.
    fn poll(&mut self, actor: &mut A, cx: &mut Cx<A>, task: &mut Context<'_>) -> Poll<bool>;
}

struct Following<S, F> {
    stream: Pin<Box<S>>,
    then: F,
}

impl<A, S, F> Follow<A> for Following<S, F>
where
    A: Actor,
    S: Stream,
    F: FnMut(&mut A, S::Item, &mut Cx<A>),
{
    fn poll(&mut self, actor: &mut A, cx: &mut Cx<A>, task: &mut Context<'_>) -> Poll<bool> {
        self.stream.as_mut().poll_next(task).map(|item| match item {
            Some(item) => {
                (self.then)(actor, item, cx);
                true
            }
            None => false,
        })
    }
}

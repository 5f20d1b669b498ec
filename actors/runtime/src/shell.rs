//! The actix actor that owns one of ours: it feeds it, catches its panics, and rebuilds it.

use std::cell::RefCell;
use std::future::Future as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as Task, Poll, Waker, ready};

use actix::{Actor as _, ActorContext as _, ActorFuture, AsyncContext as _, Context};
use futures_util::StreamExt;
use tokio::time::Instant;

use crate::actor::{Actor, How};
use crate::address::Address;
use crate::context::{Cx, Fate};
use crate::family::Family;
use crate::lane::Lane;
use crate::mailbox::{Controlled, Doorbell, Mailbox};
use crate::packets::{Owner, Ring};
use crate::registry::{ENDED, PANICKED};
use crate::restart::{Failures, Intensity, Restart, Verdict};
use crate::time::Sleep;

/// Commands handled in one turn. 64 small ones take well under a millisecond, so that a neighbour waits for no more.
const COMMANDS_A_TURN: usize = 64;
/// Finished futures handled in one turn.
const FINISHES_A_TURN: usize = 16;

/// Who is told when an actor has ended.
pub(crate) enum Parent {
    /// The process.
    Process,
    /// An actor on the same lane.
    Actor(Rc<Family>),
}

/// Everything that starting an actor takes.
pub(crate) struct Launch<A: Actor> {
    pub id: u64,
    pub lane: Rc<Lane>,
    pub mailbox: Arc<Mailbox<A::Command>>,
    pub ring: Option<Rc<Ring<A::Packets>>>,
    pub parent: Parent,
    pub parent_name: Arc<str>,
    pub factory: Box<dyn FnMut() -> A>,
    pub restart: Restart,
    pub intensity: Intensity,
    /// Called once, when `started` has returned for the first time, or the first incarnation has failed.
    pub begun: Box<dyn FnOnce()>,
}

impl<A: Actor> Launch<A> {
    /// Starts the actor on this thread's event loop.
    pub(crate) fn launch(self) {
        let Launch { id, lane, mailbox, ring, parent, parent_name, factory, restart, intensity, begun } =
            self;
        lane.process.registry.add(id, Arc::clone(&mailbox) as Arc<dyn Controlled>);
        let thread = Arc::clone(&lane.name);
        let shell = Rc::new(RefCell::new(Shell {
            id,
            actor: None,
            cx: Cx::new(Address(Arc::clone(&mailbox)), Rc::clone(&lane)),
            factory,
            mailbox: Arc::clone(&mailbox),
            ring: ring.clone(),
            parent,
            failures: Failures::new(restart, intensity),
            phase: Phase::Running,
            sleep: lane.clock.sleep_until(lane.clock.now()),
            armed: None,
            budget: COMMANDS_A_TURN,
            begun: Some(begun),
            looked: false,
            task: None,
            panicked: false,
        }));
        if let Some(ring) = ring {
            let owner: Rc<dyn Owner> = Rc::<RefCell<Shell<A>>>::clone(&shell);
            ring.attach(Rc::downgrade(&owner));
        }
        let address = Place(shell).start();
        mailbox.life().connect(parent_name, thread, address.recipient());
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Running,
    BackingOff,
    #[cfg(feature = "chaos")]
    Stalled,
    Draining,
    Ended,
}

/// One actor's place in the tree. It stays while incarnations come and go.
pub(crate) struct Shell<A: Actor> {
    id: u64,
    actor: Option<A>,
    cx: Cx<A>,
    factory: Box<dyn FnMut() -> A>,
    mailbox: Arc<Mailbox<A::Command>>,
    ring: Option<Rc<Ring<A::Packets>>>,
    parent: Parent,
    failures: Failures,
    phase: Phase,
    sleep: Sleep,
    /// What `sleep` is set to.
    armed: Option<Instant>,
    /// Commands that this turn may still handle.
    budget: usize,
    begun: Option<Box<dyn FnOnce()>>,
    /// Whether the event loop looked at the descriptors since the last item of a stream but one.
    looked: bool,
    /// Wakes the actix actor.
    task: Option<Waker>,
    /// The incarnation panicked over a batch that it took beside actix, which has not dealt with that yet.
    panicked: bool,
}

/// The actix actor. Its shell is shared with the lane's queue of those that have batches, which are never busy at once.
struct Place<A: Actor>(Rc<RefCell<Shell<A>>>);

impl<A: Actor> Unpin for Place<A> {}

impl<A: Actor> actix::Actor for Place<A> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(Pump);
        let mut shell = self.0.borrow_mut();
        shell.revive(ctx);
        if let Some(begun) = shell.begun.take() {
            begun();
        }
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        let mut shell = self.0.borrow_mut();
        // The event loop was torn down under a living actor.
        if shell.phase != Phase::Ended {
            shell.finish(How::Stopped);
        }
    }
}

impl<A: Actor> actix::Handler<Doorbell> for Place<A> {
    type Result = ();

    fn handle(&mut self, _: Doorbell, ctx: &mut Self::Context) {
        self.0.borrow_mut().rung(ctx);
    }
}

impl<A: Actor> Owner for RefCell<Shell<A>> {
    fn take_batch(&self) {
        if let Ok(mut shell) = self.try_borrow_mut() {
            shell.take_batch_beside_actix();
        }
    }
}

impl<A: Actor> Shell<A> {
    /// The bell rang: looks at what its children and everybody else have to say.
    fn rung(&mut self, ctx: &mut Context<Place<A>>) {
        self.mailbox.life().answer();
        if self.phase != Phase::Running {
            return;
        }
        if self.mailbox.life().stop_requested() {
            return self.drain(How::Stopped, ctx);
        }
        #[cfg(feature = "chaos")]
        if self.disturbed(ctx) {
            return;
        }
        if !self.settle(ctx) {
            return;
        }
        while let Some(end) = self.cx.family.next_end() {
            if !self.guard(ctx, |actor, cx| actor.child_ended(end, cx)) {
                return;
            }
        }
        while self.budget > 0 {
            let Some(command) = self.mailbox.pop() else { return };
            self.budget -= 1;
            self.mailbox.life().handled.fetch_add(1, Ordering::Relaxed);
            if !self.guard_or(ctx, |actor, cx| actor.told(command, cx), |shell| shell.count_dropped(1)) {
                return;
            }
        }
        // Neighbours first; packets too, because the pump runs before the wait.
        if !self.mailbox.is_empty() {
            self.mailbox.life().ring();
        }
        ctx.wait(Yield(false));
    }

    /// Runs one method of the actor. `false`: this incarnation is over.
    fn guard(&mut self, ctx: &mut Context<Place<A>>, method: impl FnOnce(&mut A, &mut Cx<A>)) -> bool {
        self.guard_or(ctx, method, |_| {})
    }

    /// The same; `lost` counts what the actor had in hand when it panicked.
    fn guard_or(
        &mut self,
        ctx: &mut Context<Place<A>>,
        method: impl FnOnce(&mut A, &mut Cx<A>),
        lost: impl FnOnce(&Self),
    ) -> bool {
        let Some(actor) = self.actor.as_mut() else { return false };
        let cx = &mut self.cx;
        if catch_unwind(AssertUnwindSafe(|| method(actor, cx))).is_err() {
            lost(self);
            self.fail("panicked", ctx);
            return false;
        }
        self.obey(ctx)
    }

    fn count_dropped(&self, count: u64) {
        self.mailbox.life().dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Does what the actor asked for itself. `false`: this incarnation is over.
    fn obey(&mut self, ctx: &mut Context<Place<A>>) -> bool {
        match self.cx.fate.take() {
            None => return true,
            Some(Fate::Stop) => self.drain(How::Stopped, ctx),
            Some(Fate::Fail) => self.fail("failed", ctx),
        }
        false
    }

    /// Deals with what a batch that was taken beside actix came to. `false`: this incarnation is over.
    fn settle(&mut self, ctx: &mut Context<Place<A>>) -> bool {
        if std::mem::take(&mut self.panicked) {
            self.fail("panicked", ctx);
            return false;
        }
        self.obey(ctx)
    }

    /// Builds an incarnation and starts it.
    fn revive(&mut self, ctx: &mut Context<Place<A>>) {
        let factory = &mut self.factory;
        match catch_unwind(AssertUnwindSafe(factory)) {
            Ok(actor) => {
                self.actor = Some(actor);
                self.phase = Phase::Running;
                if self.guard(ctx, |actor, cx| actor.started(cx)) {
                    // The bell may have been taken down by the incarnation that failed.
                    self.mailbox.life().ring();
                }
            }
            Err(_) => self.fail("panicked in its factory", ctx),
        }
    }

    /// Drops the incarnation with all it has set going.
    fn bury(&mut self) {
        let actor = self.actor.take();
        let cx = &mut self.cx;
        // A destructor that panics must not take the shell along.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(actor)));
        let _ = catch_unwind(AssertUnwindSafe(|| cx.forget()));
        self.cx.fate = None;
    }

    fn fail(&mut self, what: &'static str, ctx: &mut Context<Place<A>>) {
        self.bury();
        self.cx.family.stop_all();
        match self.failures.record(self.cx.now(), rand::random()) {
            Verdict::RestartAfter(pause) => {
                let pause_ms = u64::try_from(pause.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(kind = A::KIND, id = self.id, pause_ms, "actor {what}, restarts");
                self.phase = Phase::BackingOff;
                ctx.wait(BackOff(self.cx.sleep(pause)));
            }
            Verdict::Fail => {
                tracing::warn!(kind = A::KIND, id = self.id, "actor {what}, ends");
                self.drain(How::Failed, ctx);
            }
            Verdict::GiveUp => {
                tracing::warn!(kind = A::KIND, id = self.id, "actor {what} too often, gives up");
                self.drain(How::GaveUp, ctx);
            }
        }
    }

    /// Stops the children, and then ends.
    fn drain(&mut self, how: How, ctx: &mut Context<Place<A>>) {
        self.phase = Phase::Draining;
        self.cx.closing = true;
        self.cx.family.stop_all();
        ctx.wait(Draining(how));
    }

    fn finish(&mut self, how: How) {
        self.phase = Phase::Ended;
        self.cx.closing = true;
        if let Some(actor) = self.actor.as_mut() {
            let cx = &mut self.cx;
            let _ = catch_unwind(AssertUnwindSafe(|| actor.stopped(cx)));
        }
        self.bury();
        let lane = &self.cx.lane;
        if let Some(ring) = &self.ring {
            ring.close();
            while let Some(batch) = ring.pop() {
                lane.drops.count(ENDED, A::count(&batch));
            }
            lane.forget_ring(A::KIND, &self.mailbox.life().key, ring);
        }
        lane.process.registry.remove(self.id);
        self.mailbox.end(how);
        match &self.parent {
            Parent::Actor(family) => family.ended(self.id, how),
            Parent::Process if how == How::Stopped => {}
            Parent::Process => (lane.process.gave_up)(A::KIND, &self.mailbox.life().key),
        }
    }

    /// One turn beside the control mailbox: a batch, an item of each stream, some finished futures, the deadline.
    fn turn(&mut self, ctx: &mut Context<Place<A>>, task: &mut Task<'_>) {
        self.cx.lane.turns.set(self.cx.lane.turns.get() + 1);
        self.budget = COMMANDS_A_TURN;
        match &mut self.task {
            Some(known) => known.clone_from(task.waker()),
            none => *none = Some(task.waker().clone()),
        }
        if self.phase != Phase::Running || !self.settle(ctx) {
            return;
        }
        // Everything that was added before is polled in this turn.
        self.cx.fresh = false;
        let alive = self.take_batch(ctx)
            && self.take_items(ctx, task)
            && self.take_finishes(ctx, task)
            && self.take_deadline(ctx, task);
        if alive && self.cx.fresh {
            task.waker().wake_by_ref();
        }
    }

    /// Takes a batch without actix, if nothing but that is to be done before; otherwise has actix take its turn. Control
    /// comes first here, too.
    fn take_batch_beside_actix(&mut self) {
        let Some(ring) = &self.ring else { return };
        ring.called();
        self.cx.lane.turns.set(self.cx.lane.turns.get() + 1);
        if self.phase != Phase::Running {
            // What waits is taken when the next incarnation has begun.
            return;
        }
        if self.mailbox.life().is_rung() || self.panicked || self.cx.fate.is_some() {
            return self.wake();
        }
        let (Some(actor), Some(batch)) = (self.actor.as_mut(), ring.pop()) else { return };
        let packets = Self::begin_batch(&self.mailbox, ring, &batch);
        let cx = &mut self.cx;
        if catch_unwind(AssertUnwindSafe(|| actor.received(batch, cx))).is_err() {
            self.panicked = true;
            self.count_lost(packets);
        }
        if self.panicked || self.cx.fate.is_some() || self.cx.fresh || self.is_timer_wrong() {
            self.wake();
        }
        if let Some(ring) = &self.ring {
            ring.call_again();
        }
    }

    fn wake(&self) {
        // Without a task it is about to have its first turn.
        if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    /// Counts a batch before it is handed over, and says how many packets it has.
    fn begin_batch(mailbox: &Mailbox<A::Command>, ring: &Ring<A::Packets>, batch: &A::Packets) -> u64 {
        let life = mailbox.life();
        // Only this thread writes the counter: nothing gets lost between the two.
        life.handled.store(life.handled.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let refused = ring.take_refused();
        if refused > 0 {
            life.dropped.fetch_add(refused, Ordering::Relaxed);
        }
        A::count(batch)
    }

    /// Counts a batch that the actor had in hand when it panicked.
    fn count_lost(&self, packets: u64) {
        self.count_dropped(1);
        self.cx.lane.drops.count(PANICKED, packets);
    }

    fn take_batch(&mut self, ctx: &mut Context<Place<A>>) -> bool {
        let Some(ring) = &self.ring else { return true };
        let Some(batch) = ring.pop() else { return true };
        ring.call_again();
        let packets = Self::begin_batch(&self.mailbox, ring, &batch);
        self.guard_or(ctx, |actor, cx| actor.received(batch, cx), |shell| shell.count_lost(packets))
    }

    fn take_items(&mut self, ctx: &mut Context<Place<A>>, task: &mut Task<'_>) -> bool {
        if self.cx.follows.is_empty() {
            return true;
        }
        let mut follows = std::mem::take(&mut self.cx.follows);
        let mut at = 0;
        while let Some(follow) = follows.get_mut(at) {
            let mut progress = Poll::Pending;
            if !self.guard(ctx, |actor, cx| progress = follow.poll(actor, cx, task)) {
                // The stream may own what panicked: drop it under guard.
                let _ = catch_unwind(AssertUnwindSafe(|| drop(follows)));
                return false;
            }
            match progress {
                Poll::Pending => at += 1,
                Poll::Ready(true) => {
                    self.mailbox.life().handled.fetch_add(1, Ordering::Relaxed);
                    self.come_back(task);
                    at += 1;
                }
                Poll::Ready(false) => drop(follows.remove(at)),
            }
        }
        follows.append(&mut self.cx.follows);
        self.cx.follows = follows;
        true
    }

    /// Asks for another turn, every second time not before the event loop has looked at every descriptor and timer. A task
    /// that merely wakes itself is polled up to 61 times before it does, which with batches of packets is milliseconds.
    fn come_back(&mut self, task: &mut Task<'_>) {
        self.looked = !self.looked;
        if self.looked {
            let again = std::pin::pin!(tokio::task::yield_now());
            let _ = again.poll(task);
        } else {
            task.waker().wake_by_ref();
        }
    }

    fn take_finishes(&mut self, ctx: &mut Context<Place<A>>, task: &mut Task<'_>) -> bool {
        for _ in 0..FINISHES_A_TURN {
            let Some(tasks) = &mut self.cx.tasks else { return true };
            let alive = match tasks.poll_next_unpin(task) {
                Poll::Pending | Poll::Ready(None) => return true,
                Poll::Ready(Some(None)) => true,
                Poll::Ready(Some(Some(Ok(finish)))) => self.guard(ctx, finish),
                Poll::Ready(Some(Some(Err(_panic)))) => {
                    self.fail("panicked in a future", ctx);
                    false
                }
            };
            if !alive {
                return false;
            }
        }
        task.waker().wake_by_ref();
        true
    }

    /// Whether the timer has to be set before the actor sleeps.
    fn is_timer_wrong(&self) -> bool {
        let exact = !self.cx.lane.clock.is_real();
        match self.cx.deadline {
            None => exact && self.armed.is_some(),
            // A deadline that moves away leaves the timer where it is: it fires early and is set again, which is cheaper
            // than moving it with every packet. A test wants to see the true deadline.
            Some(deadline) => self.armed.is_none_or(|armed| armed > deadline || (exact && armed != deadline)),
        }
    }

    fn take_deadline(&mut self, ctx: &mut Context<Place<A>>, task: &mut Task<'_>) -> bool {
        let wrong = self.is_timer_wrong();
        let Some(deadline) = self.cx.deadline else {
            if wrong {
                self.armed = None;
                self.sleep.reset(self.cx.now());
            }
            return true;
        };
        if wrong {
            self.sleep.reset(deadline);
            self.armed = Some(deadline);
        }
        while Pin::new(&mut self.sleep).poll(task).is_ready() {
            if self.cx.now() < deadline {
                self.sleep.reset(deadline);
                self.armed = Some(deadline);
                continue;
            }
            self.armed = None;
            self.cx.deadline = None;
            let alive = self.guard(ctx, |actor, cx| actor.woken(cx));
            if self.cx.deadline.is_some() {
                task.waker().wake_by_ref();
            }
            return alive;
        }
        true
    }

    #[cfg(feature = "chaos")]
    fn disturbed(&mut self, ctx: &mut Context<Place<A>>) -> bool {
        use crate::registry::Disturbance;
        let disturbance = crate::mailbox::lock(&self.mailbox.life().disturbance).take();
        match disturbance {
            None => return false,
            Some(Disturbance::Panic) => {
                self.guard(ctx, |_, _| panic!("a deliberate panic"));
            }
            Some(Disturbance::Stall(pause)) => {
                self.mailbox.life().ring();
                self.phase = Phase::Stalled;
                ctx.wait(Stall(self.cx.sleep(pause)));
            }
        }
        true
    }
}

/// Gives the thread to the neighbours once.
struct Yield(bool);

impl<A: Actor> ActorFuture<Place<A>> for Yield {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        _: &mut Place<A>,
        _: &mut Context<Place<A>>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        if std::mem::replace(&mut self.0, true) {
            return Poll::Ready(());
        }
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Runs the turns. actix polls it after the mailbox, so control is never queued behind packets.
struct Pump;

impl<A: Actor> ActorFuture<Place<A>> for Pump {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        place: &mut Place<A>,
        ctx: &mut Context<Place<A>>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        place.0.borrow_mut().turn(ctx, task);
        Poll::Pending
    }
}

/// Waits until the children are gone and the pause is over; mailboxes fill meanwhile.
struct BackOff(Sleep);

impl<A: Actor> ActorFuture<Place<A>> for BackOff {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        place: &mut Place<A>,
        ctx: &mut Context<Place<A>>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        let shell = &mut *place.0.borrow_mut();
        let life = shell.mailbox.life();
        life.register(task.waker());
        if life.stop_requested() {
            shell.drain(How::Stopped, ctx);
            return Poll::Ready(());
        }
        if !shell.cx.family.is_empty() {
            return Poll::Pending;
        }
        ready!(Pin::new(&mut self.0).poll(task));
        life.restarts.fetch_add(1, Ordering::Relaxed);
        shell.cx.lane.process.registry.count_restart(A::KIND);
        shell.cx.family.forget_ends();
        shell.revive(ctx);
        Poll::Ready(())
    }
}

/// Waits until the children are gone, and ends the actor.
struct Draining(How);

impl<A: Actor> ActorFuture<Place<A>> for Draining {
    type Output = ();

    fn poll(
        self: Pin<&mut Self>,
        place: &mut Place<A>,
        ctx: &mut Context<Place<A>>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        let shell = &mut *place.0.borrow_mut();
        shell.mailbox.life().register(task.waker());
        if !shell.cx.family.is_empty() {
            return Poll::Pending;
        }
        shell.finish(self.0);
        ctx.stop();
        Poll::Ready(())
    }
}

/// Handles nothing for a while.
#[cfg(feature = "chaos")]
struct Stall(Sleep);

#[cfg(feature = "chaos")]
impl<A: Actor> ActorFuture<Place<A>> for Stall {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        place: &mut Place<A>,
        ctx: &mut Context<Place<A>>,
        task: &mut Task<'_>,
    ) -> Poll<()> {
        let shell = &mut *place.0.borrow_mut();
        let life = shell.mailbox.life();
        life.register(task.waker());
        if life.stop_requested() {
            shell.drain(How::Stopped, ctx);
            return Poll::Ready(());
        }
        ready!(Pin::new(&mut self.0).poll(task));
        shell.phase = Phase::Running;
        Poll::Ready(())
    }
}

//! The lane's clock. In the test universe it stands still until the test moves it; everywhere else it is tokio's.
//!
//! Actors use these functions, or [`Cx::now`](crate::Cx::now) and [`Cx::wake_at`](crate::Cx::wake_at), never tokio's own
//! timers: those would not obey the universe.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::Instant;

use crate::lane;

/// Now, by the clock of this thread's lane.
pub fn now() -> Instant {
    clock().now()
}

/// Sleeps for `duration`, by the clock of this thread's lane.
pub fn sleep(duration: Duration) -> Sleep {
    let clock = clock();
    let deadline = clock.now() + duration;
    clock.sleep_until(deadline)
}

/// Sleeps until `deadline`, by the clock of this thread's lane.
pub fn sleep_until(deadline: Instant) -> Sleep {
    clock().sleep_until(deadline)
}

/// Waits for `future`, but no longer than `limit`.
pub async fn timeout<F: IntoFuture>(limit: Duration, future: F) -> Result<F::Output, TimedOut> {
    let future = std::pin::pin!(future.into_future());
    match select(future, sleep(limit)).await {
        Either::Left((output, _)) => Ok(output),
        Either::Right(((), _)) => Err(TimedOut),
    }
}

/// The time was over before the future was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct TimedOut;

fn clock() -> Clock {
    lane::current().map_or(Clock::Real, |lane| lane.clock.clone())
}

/// Where a lane's time comes from.
#[derive(Clone)]
pub(crate) enum Clock {
    Real,
    Manual(Rc<ManualClock>),
}

impl Clock {
    pub(crate) fn now(&self) -> Instant {
        match self {
            Clock::Real => Instant::now(),
            Clock::Manual(clock) => clock.now.get(),
        }
    }

    pub(crate) fn sleep_until(&self, deadline: Instant) -> Sleep {
        Sleep(match self {
            Clock::Real => Inner::Real(Box::pin(tokio::time::sleep_until(deadline))),
            Clock::Manual(clock) => Inner::Manual(ManualSleep {
                clock: Rc::clone(clock),
                deadline,
                id: clock.next_id(),
                waits: false,
            }),
        })
    }

    pub(crate) fn is_real(&self) -> bool {
        matches!(self, Clock::Real)
    }
}

/// A future that is ready when its deadline has passed. It can be set anew without an allocation.
pub struct Sleep(Inner);

enum Inner {
    Real(Pin<Box<tokio::time::Sleep>>),
    Manual(ManualSleep),
}

impl Sleep {
    /// Moves the deadline. Poll again to be woken by it.
    pub fn reset(&mut self, deadline: Instant) {
        match &mut self.0 {
            Inner::Real(sleep) => sleep.as_mut().reset(deadline),
            Inner::Manual(sleep) => {
                sleep.forget();
                sleep.deadline = deadline;
            }
        }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Inner::Real(sleep) => sleep.as_mut().poll(task),
            Inner::Manual(sleep) => sleep.poll(task),
        }
    }
}

/// A clock that a test moves.
pub(crate) struct ManualClock {
    now: Cell<Instant>,
    timers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next: Cell<u64>,
}

impl ManualClock {
    pub(crate) fn new() -> Rc<ManualClock> {
        Rc::new(ManualClock {
            now: Cell::new(Instant::now()),
            timers: RefCell::new(BTreeMap::new()),
            next: Cell::new(0),
        })
    }

    fn next_id(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    /// The earliest deadline that somebody waits for.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timers.borrow().keys().next().map(|&(deadline, _)| deadline)
    }

    /// Moves to `now` and wakes those whose deadline has come.
    pub(crate) fn set(&self, now: Instant) {
        self.now.set(now.max(self.now.get()));
        loop {
            let mut timers = self.timers.borrow_mut();
            match timers.first_entry() {
                Some(timer) if timer.key().0 <= self.now.get() => {
                    let waker = timer.remove();
                    drop(timers);
                    waker.wake();
                }
                _ => break,
            }
        }
    }
}

struct ManualSleep {
    clock: Rc<ManualClock>,
    deadline: Instant,
    id: u64,
    waits: bool,
}

impl ManualSleep {
    fn poll(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if self.clock.now.get() >= self.deadline {
            self.forget();
            return Poll::Ready(());
        }
        self.clock.timers.borrow_mut().insert((self.deadline, self.id), task.waker().clone());
        self.waits = true;
        Poll::Pending
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.waits) {
            self.clock.timers.borrow_mut().remove(&(self.deadline, self.id));
        }
    }
}

impl Drop for ManualSleep {
    fn drop(&mut self) {
        self.forget();
    }
}

//! What an actor is: one trait, and the small types that appear in it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::context::Cx;

/// The type of a mailbox that carries nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {}

/// One unit of the actor system: state, and what it does when something arrives.
///
/// Every method runs on the actor's lane, never two at once, and must return soon: a method that computes for more than
/// a millisecond delays every neighbour on the lane. A method that panics costs this incarnation of the actor; see
/// [`Restart`](crate::Restart).
pub trait Actor: Sized + 'static {
    /// The kind's name: the key of its row in the process's table.
    const KIND: &'static str;

    /// What it can be told through its control mailbox: one enum of small, idempotent commands.
    type Command: Send + 'static;

    /// What its packet mailbox carries (a batch); [`Never`] when it has none.
    type Packets: 'static;

    /// Called first, also after each restart.
    fn started(&mut self, cx: &mut Cx<Self>) {
        let _ = cx;
    }

    /// A command has arrived.
    fn told(&mut self, command: Self::Command, cx: &mut Cx<Self>);

    /// A batch has arrived.
    fn received(&mut self, packets: Self::Packets, cx: &mut Cx<Self>) {
        let _ = (packets, cx);
    }

    /// The deadline that was set with [`Cx::wake_at`] has passed. It is cleared before this call.
    fn woken(&mut self, cx: &mut Cx<Self>) {
        let _ = cx;
    }

    /// A child has ended for good. A child that gave up takes its parent down with it, unless this is overridden.
    fn child_ended(&mut self, child: ChildEnded, cx: &mut Cx<Self>) {
        if child.how == How::GaveUp {
            cx.fail();
        }
    }

    /// Called last when the actor is stopped in order; not called when it gave up.
    fn stopped(&mut self, cx: &mut Cx<Self>) {
        let _ = cx;
    }

    /// How many packets a batch holds: for the drop counters, when the runtime has to let one go.
    fn count(packets: &Self::Packets) -> u64 {
        let _ = packets;
        1
    }
}

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// In order: it stopped itself, or was stopped.
    Stopped,
    /// It panicked or failed, and its row says `Restart::Never`.
    Failed,
    /// It failed more often than its restart intensity allows.
    GaveUp,
}

/// Tells a parent that one of its children has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildEnded {
    /// The child's kind.
    pub kind: &'static str,
    /// The child's key.
    pub key: String,
    /// Why it is gone.
    pub how: How,
}

/// The asked actor's end of a question: put it in a command.
#[derive(Debug)]
pub struct Reply<T>(oneshot::Sender<T>);

/// The asking end of a question: a future.
#[derive(Debug)]
pub struct Answer<T>(oneshot::Receiver<T>);

/// The question was dropped unanswered: the actor ended, panicked over it, or its mailbox let it go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the actor did not answer")]
pub struct NoReply;

impl<T> Reply<T> {
    /// Both ends of a question.
    pub fn channel() -> (Reply<T>, Answer<T>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), Answer(receiver))
    }

    /// Answers. Nobody may be listening any more, which is fine.
    pub fn send(self, answer: T) {
        let _ = self.0.send(answer);
    }

    /// Whether the asking end has gone away.
    pub fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl<T> Answer<T> {
    /// The answer, if it is already there.
    pub fn try_take(&mut self) -> Option<T> {
        self.0.try_recv().ok()
    }
}

impl<T> Future for Answer<T> {
    type Output = Result<T, NoReply>;

    fn poll(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(task).map_err(|_| NoReply)
    }
}

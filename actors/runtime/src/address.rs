//! How others reach an actor.

use std::fmt;
use std::sync::Arc;

use crate::actor::{Actor, How};
use crate::mailbox::{Controlled, Mailbox};

/// Where an actor of kind `A` is told things. Cheap to clone, usable from every thread, valid across restarts.
pub struct Address<A: Actor>(pub(crate) Arc<Mailbox<A::Command>>);

/// A command that was not taken, given back.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejected<C> {
    /// The mailbox is full, and its rule is [`Full::Refuse`](crate::Full::Refuse).
    #[error("the actor's mailbox is full")]
    Full(C),
    /// The actor has ended, or was never part of this process.
    #[error("the actor has ended")]
    Ended(C),
}

impl<C> Rejected<C> {
    /// The command.
    pub fn into_inner(self) -> C {
        match self {
            Rejected::Full(command) | Rejected::Ended(command) => command,
        }
    }
}

impl<C> fmt::Debug for Rejected<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rejected::Full(_) => "Full",
            Rejected::Ended(_) => "Ended",
        })
    }
}

impl<A: Actor> Address<A> {
    /// Tells the actor something. Never waits; a full mailbox does what the actor's row says.
    ///
    /// `Ok` means taken, not handled: an actor can panic over a command, or end before it.
    pub fn tell(&self, command: A::Command) -> Result<(), Rejected<A::Command>> {
        self.0.tell(command)
    }

    /// How many commands wait.
    pub fn depth(&self) -> usize {
        self.0.depth()
    }

    /// The actor's key.
    pub fn key(&self) -> &str {
        &self.0.life().key
    }

    /// Whether the actor has ended for good. A restart is not an end.
    pub fn has_ended(&self) -> bool {
        self.0.life().has_ended()
    }

    /// Calls `watcher` once, on the ending actor's lane, when it has ended; at once if it already has. An actor uses
    /// [`Cx::watch`](crate::Cx::watch).
    pub fn watch(&self, watcher: impl FnOnce(How) + Send + 'static) {
        self.0.life().watch(Box::new(watcher));
    }

    /// The same mailbox for senders that know only `T`: each `T` becomes a command by `wrap`.
    pub fn outlet<T: 'static>(&self, wrap: impl Fn(T) -> A::Command + Send + Sync + 'static) -> Outlet<T> {
        let address = self.clone();
        Outlet(Arc::new(move |value| {
            address.tell(wrap(value)).map_err(|rejected| match rejected {
                Rejected::Full(_) => Rejected::Full(()),
                Rejected::Ended(_) => Rejected::Ended(()),
            })
        }))
    }
}

impl<A: Actor> Clone for Address<A> {
    fn clone(&self) -> Self {
        Address(Arc::clone(&self.0))
    }
}

impl<A: Actor> fmt::Debug for Address<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address<{}>", A::KIND)
    }
}

/// A mailbox that takes `T`, whoever reads it.
pub struct Outlet<T>(Arc<dyn Fn(T) -> Result<(), Rejected<()>> + Send + Sync>);

impl<T: 'static> Outlet<T> {
    /// An outlet that hands every `T` to a function, which must not block.
    pub fn to(function: impl Fn(T) -> Result<(), Rejected<()>> + Send + Sync + 'static) -> Outlet<T> {
        Outlet(Arc::new(function))
    }

    /// Tells the reader; see [`Address::tell`]. What is rejected is lost.
    pub fn tell(&self, value: T) -> Result<(), Rejected<()>> {
        (self.0)(value)
    }
}

impl<T> Clone for Outlet<T> {
    fn clone(&self) -> Self {
        Outlet(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Outlet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Outlet")
    }
}

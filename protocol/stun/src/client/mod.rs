//! A node's side: an allocation that it holds at a relay, and what a relay says about its address.

mod allocation;
mod answers;
mod binding;
mod data;
mod flight;
mod wishes;

pub use allocation::{AllocationClient, AllocationConfig};
pub use binding::{BindingClient, BindingEvent, BindingOutput};
pub use data::{DropReason, NotWrapped, Received};

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Where an allocation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing is held and nothing asked.
    Idle,
    /// The relay has been asked.
    Allocating,
    /// It is held.
    Allocated,
    /// It is being given up.
    Releasing,
}

/// What an [`AllocationClient`] wants done, or has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this datagram to the relay.
    Send(Vec<u8>),
    /// Something happened.
    Event(Event),
}

/// What happened to an allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It is held.
    Allocated {
        /// The relayed addresses, at most one of each family.
        relayed: Vec<SocketAddr>,
        /// Our own address as the relay sees it.
        mapped: SocketAddr,
        /// The round trip to the relay, as its answer to the (last) Allocate request measured it.
        rtt: Duration,
    },
    /// This peer may send and be sent to. Said once, not at each refresh.
    Permitted(IpAddr),
    /// This peer has a channel. Said once, not at each refresh.
    Bound(SocketAddr, u16),
    /// There is no channel for this peer (508: no number, or too many; 400: the relay's numbers differ from ours); its
    /// packets go in Send indications if it is permitted.
    NotBound(SocketAddr, u16),
    /// The relay refuses this peer; it is no longer asked for.
    Refused {
        /// The peer.
        peer: IpAddr,
        /// 403 the relay's filter, 443 the family, 508 too many.
        code: u16,
    },
    /// It is no longer held. What was permitted and bound is kept as wishes for the next one.
    Lost(Lost),
}

/// Why an allocation is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The relay does not answer.
    Unreachable,
    /// The relay does not know it (437): it was restarted, or our address changed.
    Forgotten,
    /// The relay does not accept our credentials (401, 441).
    Credentials,
    /// The relay refuses: 486 quota, 508 capacity, 440 family, …
    Refused {
        /// The error code.
        code: u16,
    },
    /// Its lifetime passed without a successful refresh.
    Expired,
    /// We gave it up.
    Released,
}

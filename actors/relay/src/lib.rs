//! The relay's cast: [`Listener`] and [`Allocation`], and what they share on their lane.
//!
//! Packets take one path: a socket of the lane is readable, its bytes are read into the lane's own memory, the machine says
//! where they go, and they leave in one call. Only what changes hands between two actors is copied, into pooled memory.

mod allocation;
mod counters;
mod gather;
mod lane;
mod listener;
mod pool;
mod ports;
mod reservations;
mod socket;

pub use allocation::{Allocation, AllocationCommand, Packets};
pub use counters::{Direction, RelayCounters, Request, Totals};
pub use lane::{RelayAddress, RelayLane, RelaySettings};
pub use listener::{Listener, ListenerCommand};
pub use pool::Run;
pub use socket::{RelaySocket, SOCKET_BUFFER};

#[cfg(test)]
mod tests;

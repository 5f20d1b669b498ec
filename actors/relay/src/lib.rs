//! The relay's cast: [`Listener`] and [`Allocation`] on a packet lane, [`StreamListener`] and [`Connection`] on a lane of
//! their own.
//!
//! Packets take one path: a socket of the lane is readable, its bytes are read into the lane's own memory, the machine says
//! where they go, and they leave in one call, all in one turn and without a copy.

mod allocation;
mod carry;
mod connection;
mod counters;
mod gather;
mod icmp;
mod lane;
mod listener;
mod meters;
mod options;
mod ports;
mod receive;
mod reservations;
mod socket;
mod stream_listener;
mod streams;
mod way;

pub use allocation::{Allocation, AllocationCommand};
pub use connection::{Connection, ConnectionCommand};
pub use counters::{Direction, RelayCounters, Request, Totals};
pub use lane::{RelayAddress, RelayLane, RelaySettings};
pub use listener::{Door, Listener, ListenerCommand};
pub use socket::{RelaySocket, SOCKET_BUFFER};
pub use stream_listener::{Connections, StreamDoor, StreamListener, StreamListenerCommand};
pub use streams::{Streams, StreamsReceiver, StreamsSender, streams};

#[cfg(test)]
mod tests;

//! One WireGuard session with one other end: handshake, keys, replay, index.
//!
//! [`Tunnel`] is a pure machine over an [`Engine`]; the engine is [`Boringtun`], which reads its own clock and the
//! system's randomness behind that trait (the one exception that this tree allows). Around it stand the guards that
//! boringtun leaves to its caller:
//!
//! - buffers are measured before boringtun sees them, because it panics on a short one;
//! - a byte-identical copy of an initiation is answered with the one cached response, whatever source delivered it;
//! - at most [`MAX_UNCONFIRMED`] initiations wait for their confirmation, and none may take the place of a live session;
//! - a responder seals nothing before the initiator's first data;
//! - a cookie reply is taken once for each handshake message, and proves nothing about its source;
//! - while there is no session, fresh initiations follow after 0.25, 1 and 3 seconds, and copies every second.
//!
//! # Indices
//!
//! ```text
//! receiver index (u32, little-endian on the wire)
//!   bits 31..16  slot     which tunnel of the lane
//!   bits 15..8   lane     which packet lane
//!   bits  7..0   session  boringtun's own number of the session
//! ```
//!
//! So `slot << 8 | lane` is the 24-bit number that boringtun is given, and the lane is byte 5 of data, cookie replies
//! and probes and byte 9 of a response, where a packet filter can steer by it. See [`TunnelIndex`] and [`receiver`].
#![forbid(unsafe_code)]

mod attempt;
mod dropped;
mod engine;
mod fuzz;
mod limiter;
mod outcome;
mod responder;
mod secrets;
mod steering;
mod tunnel;
mod wire;

pub use dropped::Dropped;
pub use engine::{Boringtun, Engine, EngineStats, Step};
pub use fuzz::{fuzz_datagram, fuzz_session};
pub use limiter::{Admission, Limiter, peek_initiation};
pub use outcome::{Opened, Output, Sealed, TunnelConfig, TunnelStats};
pub use responder::MAX_UNCONFIRMED;
pub use secrets::ConnectionKeys;
pub use steering::{Classic, Extended, RELAY_LANE, SOCKET_PROGRAM, device_program, lane_of};
pub use tunnel::Tunnel;
pub use wire::{COOKIE_SIZE, DatagramKind, MIN_BUFFER, Message, OVERHEAD, TunnelIndex, classify, receiver};

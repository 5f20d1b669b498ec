//! Actors that survive their own mistakes: a thin layer over actix.
//!
//! What actix gives: threads with an event loop each ([`actix_rt::Arbiter`]), and the task that runs an actor. What this
//! crate adds, because actix does not have it or behaves differently:
//!
//! - **one table a process** ([`Row`], [`Tree`]): an actor kind that has no row cannot be started;
//! - **bounded control mailboxes** with a written rule for a full one ([`Full`]); sending never waits;
//! - **packet mailboxes** ([`PacketSender`]): lane-local rings of batches that outlive a panic;
//! - **supervision** that survives a panic, with back-off, jitter, restart intensity and escalation;
//! - **a budget**: a busy actor gives its thread back after 64 commands or one batch;
//! - **a registry** ([`Registry`]) of what is alive, with counters;
//! - **a test universe** ([`Universe`]): real actors, one thread, time under control.
//!
//! The life of an actor is told in `docs/actors.md`.

mod actor;
mod address;
mod context;
mod directory;
mod family;
mod handover;
mod lane;
mod mailbox;
mod packets;
mod registry;
mod restart;
mod shell;
mod table;
pub mod time;
mod tree;
mod universe;

pub use actor::{Actor, Answer, ChildEnded, How, Never, NoReply, Reply};
pub use address::{Address, Outlet, Rejected};
pub use context::{Child, Cx, TaskHandle};
pub use handover::{HandoverReceiver, HandoverSender, handover};
pub use lane::{LaneKind, LaneRef};
pub use packets::PacketSender;
#[cfg(feature = "chaos")]
pub use registry::Disturbance;
pub use registry::{ActorRow, DropCounter, Drops, Registry};
pub use restart::{Intensity, Restart};
pub use table::{Full, Row, Start, StartError};
pub use tree::{Boot, GAVE_UP_STATUS, Tree, TreeHandle};
pub use universe::{Inbox, PacketInbox, Universe};

//! The local socket: one line of JSON there, one line back.
//!
//! `{"do": NAME, …}` is answered with `{"ok": true, …}` or `{"ok": false, "error": …, "fix": …, "exit": CODE}`.
//! Every call is checked: root, the user that the program runs as, and members of the socket's group may ask.

mod ask;
mod peer;
mod server;

#[cfg(feature = "chaos")]
pub use ask::{Chaos, chaos};
pub use ask::{actors, ask};
pub use server::{Answer, Desk, LocalSocket};

//! Names of resources: patterns, the addresses that stand for names inside the tunnel, and the client's stub resolver.
//!
//! Everything is pure: time and randomness are arguments, datagrams go in and come out as bytes. Every input is taken to
//! be hostile: nothing panics, and everything that is kept is bounded.

#![forbid(unsafe_code)]

mod answer;
mod fuzz;
mod held;
mod mapped;
mod name;
mod pattern;
mod stub;
#[cfg(test)]
mod stub_tests;
mod upstream;

pub use fuzz::fuzz_stub;
pub use mapped::{Mapped, MappedAddresses, NoneLeft, Ranges};
pub use name::{BadName, Name};
pub use pattern::{BadPattern, Pattern, Patterns};
pub use stub::{AccessOutcome, Asker, Output, Stub, StubConfig, StubDrop, StubDrops, Transport};

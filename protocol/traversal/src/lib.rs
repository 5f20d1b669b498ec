//! The path agent: finds the ways between two ends, measures them, and says which one data takes.
//!
//! [`Agent`] is a pure machine, one at each end of a connection. It sends sealed probes of its own beside the WireGuard
//! session (see the `probe` module for the format), both ends at the same time:
//!
//! - a path is *proven* by an answer to a probe, and by nothing else; until one is, data goes where authenticated data
//!   came from, so a connection has a path at once through a relay;
//! - the best proven path wins, with hysteresis; direct ones before relayed ones unless they are far worse;
//! - the client chooses and says so in its probes, the gateway follows;
//! - a path that stays silent while data is sent is probed at once, and left after about a second and a half;
//! - addresses that have not answered get at most five packets a second, and padded ones never.
#![forbid(unsafe_code)]

mod agent;
mod choice;
mod error;
mod fuzz;
mod hygiene;
mod mtu;
mod pace;
mod path;
mod probe;
mod replay;
mod report;
mod route;
mod table;

pub use agent::{Agent, AgentConfig, Output, Role};
pub use error::ProbeError;
pub use fuzz::{fuzz_agents, fuzz_probe};
pub use hygiene::{Hygiene, Refused};
pub use mtu::LARGEST as LARGEST_PROBE;
pub use path::{Candidate, CandidateKind, MAX_CANDIDATES, Path, PathKind, RelaySlot, Via};
pub use probe::{PROBE_SIZE, PROBE_TYPE, ProbeKeys};
pub use report::{PathReport, PathView};

//! Network namespaces as values: hosts, links, NAT routers, processes and meters that clean up after themselves.
//!
//! A [`Lab`] owns everything it makes: namespaces, `/etc/netns` folders, processes, a folder for logs. All of it goes
//! when the lab is dropped, when the test panics, when the process is interrupted, and (after a `kill -9`) when the
//! next lab starts. The programs under test are the built binaries; nothing of theirs is linked.

mod booted;
mod host;
mod lab;
mod meter;
mod postgres;
mod privilege;
mod process;
mod programs;
mod router;
mod run;
pub mod signals;
pub mod wait;

pub use booted::Booted;
pub use host::Host;
pub use lab::Lab;
pub use meter::{Meter, Tally, Watch};
pub use postgres::Postgres;
pub use privilege::{Privilege, enter_user_namespace, privilege};
pub use process::{Launch, Process, Signal};
pub use programs::{cargo, cargo_target_dir, program, program_dir, which};
pub use router::{Nat, Router, RouterPlan};
pub use run::{Done, run, run_for};

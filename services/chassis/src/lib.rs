//! What all four programs share: how they are told things, how they tell things, and how they run.

mod chassis;
pub mod check;
pub mod failure;
pub mod health;
pub mod identity_file;
pub mod local;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod offload;
pub mod process;
pub mod secret_file;
pub mod settings;
pub mod telemetry;
#[cfg(test)]
mod testing;

pub use chassis::{Chassis, no_desk};
pub use check::Check;
pub use failure::{Exit, Failure, chain};
pub use health::Readiness;
pub use local::Desk;
pub use metrics::{Metrics, Sample};
pub use node::NodeFlags;
pub use offload::{OffloadFlags, is_on};
pub use process::main;
pub use settings::{CommonFlags, ConfigFile, LogFormat, Settings};

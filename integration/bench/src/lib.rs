//! The benchmark: ours and the peers measured interleaved in the same run, told as a table, as JSON and as charts.
//!
//! A [`Suite`] knows its peers, the figures it takes of them, and the targets that they are held to. To add one, write a
//! module with it and name it in [`suites`]. `cargo xtask bench` builds the programs and runs `postern-bench`.

pub mod chart;
pub mod control;
pub mod install;
pub mod machine;
pub mod machinery;
pub mod options;
pub mod policy;
pub mod profile;
pub mod publish;
pub mod relay;
pub mod report;
pub mod results;
pub mod run;
pub mod stats;
pub mod suite;
pub mod target;
pub mod tools;
pub mod tunnel;

pub use options::Options;
pub use suite::{Better, Bound, Chart, Figure, Measure, Need, Peer, Round, Setup, Suite, Target};

/// Every suite that exists, in the order in which they run.
pub fn suites() -> Vec<Box<dyn Suite>> {
    vec![
        Box::new(tunnel::Tunnel),
        Box::new(machinery::Machinery),
        Box::new(relay::Relay),
        Box::new(policy::Policy),
        Box::new(control::Control),
    ]
}

//! What runs in the namespaces beside the programs that are measured: hidden subcommands of `postern-bench`.
//!
//! Each prints one JSON object on standard output when it is done; servers print a line `ready` on standard error first.

pub mod forward;
mod packet_socket;
pub mod ping;
pub mod segments;
pub mod udp;

use std::{path::PathBuf, time::Duration};

use anyhow::Result;
use clap::Subcommand;
use integration_lab::{Host, Launch, Process, wait};
use serde_json::Value;

/// A tool with its arguments.
#[derive(Debug, Clone, Subcommand)]
pub enum Tool {
    /// Sends numbered datagrams at a steady rate, one a packet.
    #[command(hide = true)]
    UdpSend(udp::Send),
    /// Counts what arrives from `udp-send`, until nothing more does.
    #[command(hide = true)]
    UdpSink(udp::Sink),
    /// Echoes over ICMP, timed by the kernel.
    #[command(hide = true)]
    Ping(ping::Ping),
    /// Carries frames between two interfaces, later, and loses some.
    #[command(hide = true)]
    Forward(forward::Forward),
}

impl Tool {
    /// Does it.
    pub fn run(&self) -> Result<()> {
        match self {
            Self::UdpSend(send) => send.run(),
            Self::UdpSink(sink) => sink.run(),
            Self::Ping(ping) => ping.run(),
            Self::Forward(forward) => forward.run(),
        }
    }
}

/// `postern-bench` itself.
pub fn program() -> Result<PathBuf> {
    integration_lab::program("postern-bench")
}

/// A tool about to be started on a host.
pub fn launch(host: &Host, name: &str, line: &str) -> Result<Launch> {
    Ok(host.launch(name, program()?).args(line.split_whitespace()))
}

/// Runs a tool to its end; the JSON that it prints.
pub fn run_on(host: &Host, line: &str, limit: Duration) -> Result<Value> {
    let program = program()?.display().to_string();
    let argv: Vec<_> = std::iter::once(program.as_str()).chain(line.split_whitespace()).collect();
    host.try_run_for(&argv, limit)?.ok()?.json()
}

/// Waits until a tool that serves says that it is ready.
pub fn wait_ready(process: &Process) -> Result<()> {
    wait::until_true("the tool is ready", Duration::from_secs(5), || {
        anyhow::ensure!(process.pid().is_some(), "it ended: {}", process.stderr());
        Ok(process.stderr().contains("ready"))
    })?;
    Ok(())
}

/// Timers of this thread become exact, and do not wait for others nearby.
fn exact_timers() -> Result<()> {
    nix::sys::prctl::set_timerslack(1)?;
    Ok(())
}

//! The end of a relay in order: no new allocations, a moment for nodes to go elsewhere, then the end.
//!
//! SIGTERM and SIGINT are blocked in every thread and taken by one of our own, because the process must go on working after
//! the first of them.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use actors_access::ControlSession;
use actors_access::control_session::Command;
use actors_relay::{Listener, ListenerCommand, RelayCounters};
use actors_runtime::{Address, TreeHandle};
use nix::sys::signal::{SigSet, Signal};
use protocol_control::FromNode;
use services_chassis::Exit;
use services_chassis::health::Readiness;

/// How often the end of the last allocation is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// The signals that end the process, blocked.
pub struct Signals(SigSet);

impl Signals {
    /// Blocks them in this thread and all that it starts from now on.
    pub fn block() -> Option<Self> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT].into_iter().collect();
        match signals.thread_block() {
            Ok(()) => Some(Self(signals)),
            Err(error) => {
                // Whoever else listens to them ends the process without draining.
                tracing::warn!(%error, "signals cannot be blocked: the relay will end without draining");
                None
            }
        }
    }
}

/// What is to be told of the end.
pub struct Drain {
    /// The listeners.
    pub listeners: Vec<Address<Listener>>,
    /// Control, if there is one.
    pub control: Option<Address<ControlSession>>,
    /// Tells when nothing is left.
    pub counters: Arc<RelayCounters>,
    /// Whoever chooses among relays shall choose another.
    pub readiness: Readiness,
    /// How long allocations are kept up.
    pub limit: Duration,
}

impl Drain {
    /// Waits for the signals on a thread of its own: the first drains, the second ends at once.
    pub fn on(self, signals: Signals, handle: TreeHandle) {
        let mut drain = Some((self, handle));
        thread::spawn(move || {
            while let Ok(_signal) = signals.0.wait() {
                match drain.take() {
                    Some((drain, handle)) => drop(thread::spawn(move || drain.run(&handle))),
                    None => {
                        tracing::warn!("stopped before the drain was over");
                        std::process::exit(Exit::Failed as i32);
                    }
                }
            }
        });
    }

    fn run(&self, handle: &TreeHandle) {
        tracing::info!(allocations = self.counters.allocations(), "draining");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        self.readiness.not_ready("draining");
        for listener in &self.listeners {
            if listener.tell(ListenerCommand::Drain).is_err() {
                tracing::debug!("a listener is already gone");
            }
        }
        if let Some(control) = &self.control {
            // Dropped while the session is down: control knows then anyway.
            let _ = control.tell(Command::Say(Box::new(FromNode::Draining)));
        }
        let until = Instant::now() + self.limit;
        while self.counters.allocations() > 0 && Instant::now() < until {
            thread::sleep(LOOK);
        }
        tracing::info!(allocations = self.counters.allocations(), "stopping");
        handle.shutdown(0);
    }
}

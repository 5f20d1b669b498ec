//! Counting packets where they pass, with nftables, beside whatever the programs themselves count.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::Host;

/// A frame of more bytes than this carries payload: the longest TCP header on IPv6 with Ethernet has 114.
const HEADERS_ONLY: u32 = 114;

/// How often a running meter looks: the error of the time it reports.
const INTERVAL: Duration = Duration::from_millis(10);

/// What has passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Bytes, with headers.
    pub bytes: u64,
}

/// A named counter in a host's own table.
pub struct Meter {
    host: Host,
    table: String,
}

impl Meter {
    /// Counts TCP segments with payload, and UDP, on an interface in both directions.
    pub fn payload(host: &Host, interface: &str) -> Result<Self> {
        let rules = format!(
            "  meta l4proto tcp meta length > {HEADERS_ONLY} counter name passed\n  \
             meta l4proto udp counter name passed\n"
        );
        Self::on_interface(host, &format!("lab_payload_{interface}"), interface, &rules)
    }

    /// Counts the packets on an interface that match an nftables expression.
    pub fn matching(host: &Host, name: &str, interface: &str, expression: &str) -> Result<Self> {
        let rule = format!("  {expression} counter name passed\n");
        Self::on_interface(host, &format!("lab_meter_{name}"), interface, &rule)
    }

    fn on_interface(host: &Host, table: &str, interface: &str, rules: &str) -> Result<Self> {
        host.nft(&format!(
            "table netdev {table}\ndelete table netdev {table}\ntable netdev {table} {{\n counter passed {{ }}\n \
             chain arriving {{\n  type filter hook ingress device \"{interface}\" priority 1\n{rules} }}\n \
             chain leaving {{\n  type filter hook egress device \"{interface}\" priority 1\n{rules} }}\n}}\n"
        ))?;
        Ok(Self { host: host.clone(), table: table.to_owned() })
    }

    /// What has passed since the meter was made.
    pub fn read(&self) -> Result<Tally> {
        let done = self.host.run(&["nft", "-j", "list", "counter", "netdev", &self.table, "passed"])?;
        let answer = done.json()?;
        let items = answer["nftables"].as_array().context("nft printed no list")?;
        let counter = items.iter().find_map(|item| item.get("counter")).context("nft printed no counter")?;
        let number = |name: &str| counter[name].as_u64().with_context(|| format!("a counter without {name}"));
        Ok(Tally { packets: number("packets")?, bytes: number("bytes")? })
    }

    /// Watches in the background when the counter last moved.
    pub fn watch(self) -> Watch {
        let state = Arc::new(Mutex::new(Movement::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (state, stop) = (Arc::clone(&state), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Acquire) {
                    if let Ok(tally) = self.read() {
                        let mut state = state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
                        if tally != state.tally {
                            *state = Movement { tally, at: Some(Instant::now()) };
                        }
                    }
                    std::thread::sleep(INTERVAL);
                }
            })
        };
        Watch { state, stop, thread: Some(thread) }
    }
}

#[derive(Default, Clone, Copy)]
struct Movement {
    tally: Tally,
    at: Option<Instant>,
}

/// A meter that is being watched. The time it tells is never too early, and late by 20 ms at most on an idle machine.
pub struct Watch {
    state: Arc<Mutex<Movement>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// What has passed.
    pub fn tally(&self) -> Tally {
        self.movement().tally
    }

    /// When the counter last moved; `None` when it never did.
    pub fn last_moved(&self) -> Option<Instant> {
        self.movement().at
    }

    fn movement(&self) -> Movement {
        *self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

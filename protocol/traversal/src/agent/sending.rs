//! What leaves the agent: the queue, the counters, and who may get something now.

use std::time::Duration;

use super::{Agent, Output};
use crate::Path;
use crate::probe::{self, Content, Counter, PROBE_SIZE};
use crate::table::Number;

/// What waits to be sent or told. More than one call can make; beyond it the oldest goes.
const QUEUE: usize = 256;
/// Keepalives are sent up to this much early, so that those of many connections spread out.
const JITTER_MS: u64 = 2_000;

pub(super) enum Item {
    Tell(Output),
    Probe { path: Path, counter: Counter, size: usize, meet: bool },
    Answer { path: Path, counter: Counter, id: u64, size: u16 },
}

impl Agent {
    /// The next thing to do. `buffer` needs room for [`crate::LARGEST_PROBE`] bytes; what does not fit is not sent.
    pub fn poll_output(&mut self, buffer: &mut [u8]) -> Option<Output> {
        loop {
            let (path, counter, content, size) = match self.queue.pop_front()? {
                Item::Tell(output) => return Some(output),
                Item::Probe { path, counter, size, meet } => {
                    let chosen = self.selected().is_some_and(|selected| selected == path);
                    let content =
                        Content::Probe { chosen, meet, choice: self.choice, sender: self.config.local_index };
                    (path, counter, content, size)
                }
                Item::Answer { path, counter, id, size } => {
                    let content =
                        Content::Answer { id, size, observed: path.remote, sender: self.config.local_index };
                    (path, counter, content, PROBE_SIZE)
                }
            };
            let receiver = self.config.remote_index?;
            if let Some(len) = probe::seal(&self.config.keys, receiver, counter, &content, size, buffer) {
                return Some(Output::Transmit { path, len });
            }
        }
    }

    pub(super) fn mtu_due(&self) -> Option<Duration> {
        Some(self.table.get(self.selected?)?.proven()?.mtu.due())
    }

    pub(super) fn probe_mtu(&mut self, now: Duration) {
        let Some(number) = self.selected else {
            return;
        };
        let Some(sizes) = self.table.get_mut(number).and_then(|route| route.next_padded(now)) else {
            return;
        };
        for size in sizes {
            self.probe(number, size, now);
        }
    }

    /// Queues a probe, unless its address has had enough for now.
    pub(super) fn probe(&mut self, number: Number, size: usize, now: Duration) {
        self.queue_probe(number, size, false, now);
    }

    /// Queues a probe that invites the other end to try its direct paths when it arrives. `false`: not now.
    pub(super) fn invite(&mut self, number: Number, now: Duration) -> bool {
        self.queue_probe(number, PROBE_SIZE, true, now).is_some()
    }

    fn queue_probe(&mut self, number: Number, size: usize, meet: bool, now: Duration) -> Option<()> {
        let path = self.table.get(number).map(|route| route.path)?;
        if self.config.remote_index.is_none()
            || !self.table.pace(path.remote).is_some_and(|pace| pace.spend(now))
        {
            return None;
        }
        let counter = self.next_counter(number)?;
        if let Some(route) = self.table.get_mut(number) {
            route.sent(counter.encode(), size, now);
        }
        self.push(Item::Probe { path, counter, size, meet });
        Some(())
    }

    pub(super) fn answer(&mut self, number: Number, id: u64, size: usize, now: Duration) {
        let Some(path) = self.table.get(number).map(|route| route.path) else {
            return;
        };
        if !self.table.pace(path.remote).is_some_and(|pace| pace.spend(now)) {
            return;
        }
        if let Some(counter) = self.next_counter(number) {
            self.push(Item::Answer { path, counter, id, size: u16::try_from(size).unwrap_or(u16::MAX) });
        }
    }

    pub(super) fn next_counter(&mut self, number: Number) -> Option<Counter> {
        let next = self.sequences.get_mut(usize::from(number))?;
        let sequence = *next;
        *next += 1;
        Some(Counter { generation: self.config.generation, path: number, sequence })
    }

    /// SplitMix64.
    pub(super) fn jitter(&mut self) -> Duration {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.dice ^ (self.dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Duration::from_millis((mixed ^ (mixed >> 27)) % JITTER_MS)
    }

    pub(super) fn tell(&mut self, output: Output) {
        self.push(Item::Tell(output));
    }

    pub(super) fn push(&mut self, item: Item) {
        if self.queue.len() >= QUEUE {
            self.queue.pop_front();
        }
        self.queue.push_back(item);
    }
}

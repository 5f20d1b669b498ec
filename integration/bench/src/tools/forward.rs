//! The delay forwarder: it stands between two hosts as a long cable does, and carries super-packets whole, so that the
//! bare path through it is far quicker than any tunnel.

use std::{
    collections::VecDeque,
    io::Write,
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::Args;

use super::{
    packet_socket::{self, PacketSocket},
    segments::{VIRTIO, Virtio, packets, without},
};

/// The largest frame: 64 KiB with its headers.
const LARGEST: usize = VIRTIO + 65_536 + 64;
/// Frames taken from one side before the other one is looked at.
const TURN: usize = 32;

/// The forwarder.
#[derive(Debug, Clone, Args)]
pub struct Forward {
    /// The two interfaces.
    #[arg(long, num_args = 2, required = true)]
    pub between: Vec<String>,
    /// How long a frame is under way, in each direction.
    #[arg(long, default_value_t = 0)]
    pub delay_micros: u64,
    /// How many of a million packets are lost, in each direction.
    #[arg(long, default_value_t = 0)]
    pub loss_per_million: u32,
}

struct Way {
    from: PacketSocket,
    waiting: VecDeque<(Instant, Vec<u8>)>,
}

impl Forward {
    /// Carries until it is ended.
    pub fn run(&self) -> Result<()> {
        super::exact_timers()?;
        let delay = Duration::from_micros(self.delay_micros);
        let mut chance = Chance::new(self.loss_per_million);
        let mut ways = Vec::new();
        for interface in &self.between {
            ways.push(Way { from: PacketSocket::open(interface)?, waiting: VecDeque::new() });
        }
        let (one, other) = ways.split_at_mut(1);
        let (one, other) = (&mut one[0], &mut other[0]);
        std::io::stderr().write_all(b"ready\n")?;
        let mut buffer = vec![0_u8; LARGEST];
        let mut spare = Vec::new();
        loop {
            let more = take(one, delay, &mut chance, &mut buffer, &mut spare)?
                | take(other, delay, &mut chance, &mut buffer, &mut spare)?;
            let now = Instant::now();
            give(one, &other.from, now, &mut spare);
            give(other, &one.from, now, &mut spare);
            if !more {
                let next = [&*one, &*other]
                    .into_iter()
                    .filter_map(|way| way.waiting.front())
                    .map(|(at, _)| *at)
                    .min();
                let time = next.map(|at| at.saturating_duration_since(Instant::now()));
                packet_socket::wait(&one.from, &other.from, time)?;
            }
        }
    }
}

/// Takes frames of one side; true when there may be more.
fn take(
    way: &mut Way,
    delay: Duration,
    chance: &mut Chance,
    buffer: &mut [u8],
    spare: &mut Vec<Vec<u8>>,
) -> Result<bool> {
    for _ in 0..TURN {
        // An interface that goes down says so once, here; it comes back up.
        let Ok(Some(length)) = way.from.take(buffer) else { return Ok(false) };
        let due = Instant::now() + delay;
        let Some((header, frame)) =
            buffer.get(..length).and_then(|bytes| bytes.split_first_chunk::<VIRTIO>())
        else {
            continue;
        };
        let virtio = Virtio::read(header);
        let lost = chance.of(packets(&virtio, frame));
        if lost.is_empty() {
            let mut kept = spare.pop().unwrap_or_default();
            kept.clear();
            kept.extend_from_slice(&buffer[..length]);
            way.waiting.push_back((due, kept));
        } else {
            for (virtio, frame) in without(&virtio, frame, |number| lost.contains(&number)) {
                way.waiting.push_back((due, [virtio.write().as_slice(), &frame].concat()));
            }
        }
    }
    Ok(true)
}

/// Gives what is due to the other side.
fn give(way: &mut Way, to: &PacketSocket, now: Instant, spare: &mut Vec<Vec<u8>>) {
    while way.waiting.front().is_some_and(|(due, _)| *due <= now) {
        let Some((_, frame)) = way.waiting.pop_front() else { return };
        // A full buffer of the other side loses the frame, as a full cable would.
        let _lost = to.give(&frame);
        spare.push(frame);
    }
}

/// Which packets are lost: one of every so many. No luck is involved, because a few losses a second decide how quick a
/// stream is, and the tunnel and the bare path shall meet the same ones.
struct Chance {
    every: Option<NonZeroUsize>,
    passed: usize,
}

impl Chance {
    fn new(per_million: u32) -> Self {
        let every = 1_000_000_usize.checked_div(per_million as usize).and_then(NonZeroUsize::new);
        Self { every, passed: 0 }
    }

    /// Numbers of the lost ones among the next `count` packets.
    fn of(&mut self, count: usize) -> Vec<usize> {
        let Some(every) = self.every else { return Vec::new() };
        let first = every.get() - 1 - self.passed % every.get();
        self.passed = self.passed.wrapping_add(count);
        (first..count).step_by(every.get()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_thousand_is_lost_however_packets_are_bundled() {
        let mut chance = Chance::new(1_000);

        let bundles = [1, 45, 953, 1, 999, 3, 2_000];
        let lost: Vec<_> = bundles.map(|count| chance.of(count)).into();

        assert_eq!(lost, [vec![], vec![], vec![], vec![0], vec![], vec![0], vec![997, 1_997]]);
    }

    #[test]
    fn nothing_is_lost_unasked() {
        assert!(Chance::new(0).of(1_000_000).is_empty());
        assert_eq!(Chance::new(1_000).of(1_000_000).len(), 1_000);
    }
}

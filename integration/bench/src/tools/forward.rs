//! The delay forwarder: it stands between two hosts as a long cable does, and carries super-packets whole, so that the
//! bare path through it is far quicker than any tunnel.

use std::{
    collections::VecDeque,
    io::Write,
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

/// Which packets are lost: the same ones in every run, since both the tunnel and the bare path shall have the same luck.
struct Chance {
    per_million: u32,
    state: u64,
}

impl Chance {
    fn new(per_million: u32) -> Self {
        Self { per_million, state: 0x9e37_79b9_7f4a_7c15 }
    }

    /// Numbers of the lost ones among the next `count` packets.
    fn of(&mut self, count: usize) -> Vec<usize> {
        if self.per_million == 0 {
            return Vec::new();
        }
        (0..count).filter(|_| self.next() % 1_000_000 < u64::from(self.per_million)).collect()
    }

    /// xorshift64*.
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_thousand_is_lost_and_always_the_same_ones() {
        let lost = |per_million| Chance::new(per_million).of(1_000_000).len();

        assert_eq!(lost(0), 0);
        assert!((900..1_100).contains(&lost(1_000)), "{}", lost(1_000));
        assert_eq!(Chance::new(1_000).of(50_000), Chance::new(1_000).of(50_000));
    }
}

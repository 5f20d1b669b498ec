//! Whatever a network does, and whoever restarts: once it has calmed down, both ends hold a session that works.
//!
//! Time moves only to the next arrival or to the deadline that a machine asked for.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use proptest::prelude::*;
use protocol_tunnel::{Opened, Output, Sealed, Tunnel};
use support::*;

/// How long the network misbehaves, and how long it is given afterwards: the responder's memory of unconfirmed
/// initiations lasts 30 seconds.
const STORM: Duration = Duration::from_secs(20);
const CALM: Duration = Duration::from_secs(45);
const PACKET_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Clone)]
struct Weather {
    seed: u64,
    loss: u64,
    duplicates: u64,
    delay_ms: u64,
    restarts: Vec<(bool, u64)>,
}

fn weather() -> impl Strategy<Value = Weather> {
    let restarts = prop::collection::vec((any::<bool>(), 0..20_000u64), 0..4);
    (any::<u64>(), 0..90u64, 0..50u64, 1..400u64, restarts).prop_map(
        |(seed, loss, duplicates, delay_ms, restarts)| Weather { seed, loss, duplicates, delay_ms, restarts },
    )
}

/// SplitMix64: the network's decisions follow from the seed alone.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// When it arrives, in which order it left, at which end, and what it is.
type Flying = (Duration, u64, usize, Vec<u8>);

struct World {
    keys: Keys,
    ends: [Tunnel; 2],
    wire: BinaryHeap<Reverse<Flying>>,
    sent: u64,
    dice: Dice,
    weather: Weather,
    now: Duration,
    received: [Option<Duration>; 2],
}

impl World {
    fn new(weather: Weather) -> Self {
        let keys = Keys::new();
        let ends = [keys.client(Duration::ZERO), keys.gateway(Duration::ZERO)];
        Self {
            keys,
            ends,
            wire: BinaryHeap::new(),
            sent: 0,
            dice: Dice(weather.seed),
            weather,
            now: Duration::ZERO,
            received: [None; 2],
        }
    }

    fn transmit(&mut self, to: usize, datagram: &[u8]) {
        let storm = self.now < STORM;
        let copies = if !storm {
            1
        } else if self.dice.roll(100) < self.weather.loss {
            0
        } else {
            1 + u64::from(self.dice.roll(100) < self.weather.duplicates)
        };
        for _ in 0..copies {
            let delay = if storm { 1 + self.dice.roll(self.weather.delay_ms) } else { 10 };
            self.sent += 1;
            let at = self.now + Duration::from_millis(delay);
            self.wire.push(Reverse((at, self.sent, to, datagram.to_vec())));
        }
    }

    fn flush(&mut self, end: usize) {
        let mut out = [0; 2048];
        while let Some(output) = self.ends[end].poll_output() {
            match output {
                Output::Initiation(message) | Output::Datagram(message) => self.transmit(1 - end, &message),
                Output::Established | Output::Expired => {}
            }
        }
        while let Some(len) = self.ends[end].drain(&mut out, self.now) {
            self.transmit(1 - end, &out[..len]);
        }
    }

    fn arrive(&mut self, end: usize, datagram: &[u8]) {
        let source = if end == 0 { GATEWAY } else { CLIENT };
        match deliver(&mut self.ends[end], source, datagram, self.now) {
            (Opened::Reply { .. }, reply) => self.transmit(1 - end, &reply),
            (Opened::Packet { .. }, _) => self.received[end] = Some(self.now),
            (Opened::Keepalive | Opened::Cookie | Opened::Dropped(_), _) => {}
        }
    }

    fn send_packet(&mut self, end: usize) {
        let mut out = [0; 2048];
        if let Sealed::Datagram(len) = self.ends[end].seal(&packet(1, 64), &mut out, self.now) {
            self.transmit(1 - end, &out[..len]);
        }
    }

    fn restart(&mut self, end: usize) {
        self.ends[end] = if end == 0 { self.keys.client(self.now) } else { self.keys.gateway(self.now) };
        self.ends[end].initiate(true, self.now);
    }

    fn run(&mut self) {
        let mut restarts = self.weather.restarts.clone();
        let mut next_packet = Duration::ZERO;
        self.ends[0].initiate(false, self.now);
        while self.now < STORM + CALM {
            self.flush(0);
            self.flush(1);
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let restart = restarts.iter().map(|(_, at)| Duration::from_millis(*at)).min();
            let timeouts = self.ends.iter().filter_map(Tunnel::poll_timeout);
            let next = timeouts.chain(arrival).chain(restart).chain([next_packet]).min().unwrap();
            self.now = next.max(self.now);

            while let Some(Reverse((at, ..))) = self.wire.peek()
                && *at <= self.now
            {
                let Reverse((_, _, end, datagram)) = self.wire.pop().unwrap();
                self.arrive(end, &datagram);
            }
            if let Some(at) = restarts.iter().position(|(_, at)| Duration::from_millis(*at) <= self.now) {
                let (gateway, _) = restarts.remove(at);
                self.restart(usize::from(gateway));
            }
            if self.now >= next_packet {
                self.send_packet(0);
                self.send_packet(1);
                next_packet = self.now + PACKET_EVERY;
            }
            let now = self.now;
            self.ends.iter_mut().for_each(|end| end.handle_timeout(now));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn after_any_storm_both_ends_hold_a_session_that_works(weather in weather()) {
        let mut world = World::new(weather);

        world.run();

        let late = world.now - 2 * PACKET_EVERY;
        for (end, tunnel) in world.ends.iter().enumerate() {
            prop_assert!(tunnel.is_established(), "end {} of seed {}", end, world.weather.seed);
            prop_assert!(
                world.received[end].is_some_and(|at| at >= late),
                "end {} of seed {} heard its last packet at {:?}", end, world.weather.seed, world.received[end]
            );
        }
    }
}

//! `core [ROUNDS]`: what the packet path costs without sockets, devices and actors, both ends together, as one JSON
//! object. Under `valgrind --tool=callgrind` it counts instructions.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod path;

use std::time::Instant;

use path::{Core, bulk, datagram};

/// Packets of one super-packet: what one UDP send carries.
const BULK: u32 = 45;

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(2_000, |rounds| rounds.parse().expect("a number"));
    let mut core = Core::new();
    let mut nanoseconds = |read: &[u8], packets: u32| {
        core.carry(read);
        let started = Instant::now();
        for _ in 0..rounds {
            core.carry(read);
        }
        started.elapsed().as_nanos() as f64 / f64::from(rounds) / f64::from(packets)
    };
    let (full, small) = (nanoseconds(&bulk(BULK), BULK), nanoseconds(&datagram(200), 1));
    println!(r#"{{"rounds": {rounds}, "bulk_ns_per_packet": {full:.0}, "small_ns_per_packet": {small:.0}}}"#);
}

//! `core [ROUNDS] [bulk|small]`: what the packet path costs without sockets, devices and actors, both ends together, as one
//! JSON object. Under `valgrind --tool=callgrind` it counts instructions: of one load alone, and the difference of two
//! numbers of rounds, because setting up counts too.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod path;

use std::time::Instant;

use path::{Core, bulk, datagram};

/// Packets of one super-packet: what one UDP send carries.
const BULK: u32 = 45;

fn main() {
    let rounds: u32 = std::env::args().nth(1).map_or(2_000, |rounds| rounds.parse().expect("a number"));
    let only = std::env::args().nth(2);
    let mut core = Core::new(1, 1 << 17);
    let mut figures = vec![format!(r#""rounds": {rounds}"#)];
    for (name, read, packets) in [("bulk", bulk(BULK), BULK), ("small", datagram(200), 1)] {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let mut carry = || {
            core.seal(0, &read);
            core.open(0)
        };
        carry();
        let started = Instant::now();
        for _ in 0..rounds {
            carry();
        }
        let took = started.elapsed().as_nanos() as f64 / f64::from(rounds) / f64::from(packets);
        figures.push(format!(r#""{name}_ns_per_packet": {took:.0}"#));
    }
    println!("{{{}}}", figures.join(", "));
}

//! The way through the forwarder: a round trip of 20 ms, and losses.

use anyhow::Result;

use super::{
    counters::{OUT_OF_ORDER, REORDERED, TcpCounters},
    ground::Road,
    load::{self, Between, Direction, Stream},
};
use crate::suite::Round;

/// A road with the figures that are taken on it.
pub struct Case {
    /// What the forwarder does.
    pub road: Road,
    /// For progress.
    pub what: [&'static str; 2],
    /// Gbit/s up and down.
    pub rate: [&'static str; 2],
    /// Reordering seen, and segments out of order, both directions together; not where packets are lost on purpose.
    pub order: Option<[&'static str; 2]>,
    /// Congestion control, where the system's own would not show what is asked for: BBR takes little notice of losses.
    pub control: Option<&'static str>,
    /// Measurements take so many times longer: losses are rare events.
    pub longer: u64,
}

/// The roads, the plain one first.
pub const CASES: [Case; 3] = [
    Case {
        road: Road { round_trip_ms: 0, loss_per_million: 0 },
        what: ["through the forwarder at 0 ms, up", "through the forwarder at 0 ms, down"],
        rate: ["long0-up", "long0-down"],
        order: None,
        control: None,
        longer: 1,
    },
    Case {
        road: Road { round_trip_ms: 20, loss_per_million: 0 },
        what: ["at 20 ms, up", "at 20 ms, down"],
        rate: ["long20-up", "long20-down"],
        order: Some(["long20-reordered", "long20-late"]),
        control: None,
        longer: 1,
    },
    Case {
        road: Road { round_trip_ms: 20, loss_per_million: 1_000 },
        what: ["at 20 ms with 0.1 % loss, up", "at 20 ms with 0.1 % loss, down"],
        rate: ["loss20-up", "loss20-down"],
        order: None,
        control: Some("cubic"),
        longer: 3,
    },
];

/// Takes one road's figures; the way is open and the tunnel stands.
pub fn take(round: &mut Round<'_>, between: Between<'_>, case: &Case) {
    let (mut reordered, mut late, mut complete) = (0, 0, true);
    for (place, direction) in [Direction::Up, Direction::Down].into_iter().enumerate() {
        round.case(case.what[place], |round| {
            complete = false;
            let ends = [between.near, between.far];
            let before = [TcpCounters::read(ends[0])?, TcpCounters::read(ends[1])?];
            // The start of a stream over a long way is not what is asked for.
            let skip = if case.road.round_trip_ms > 0 { 2 } else { 0 };
            let secs = round.secs() * case.longer;
            let flow = load::tcp(
                between,
                Stream { skip, control: case.control, ..Stream::single(direction, secs) },
            )?;
            for (end, before) in ends.iter().zip(&before) {
                let now = TcpCounters::read(end)?;
                reordered += now.grown(before, &REORDERED);
                late += now.grown(before, &OUT_OF_ORDER);
            }
            complete = true;
            round.record(case.rate[place], flow.gbit)
        });
    }
    if let (Some([sender, receiver]), true) = (case.order, complete) {
        round.case("order at 20 ms", |round| -> Result<()> {
            round.record(sender, reordered as f64)?;
            round.record(receiver, late as f64)
        });
    }
}

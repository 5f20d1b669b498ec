//! The cases that ours and every peer take alike, on the direct way.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::load::{self, Between, Direction, Echoes, Stream, TOLERATED};
use crate::{profile, suite::Round};

/// What is promised: packets a second.
pub const PROMISED_RATE: u64 = 150_000;
/// What the generator must reach without a tunnel.
pub const GENERATOR_RATE: u64 = 225_000;
/// Time between echoes on an idle path, and under load.
const IDLE: Duration = Duration::from_millis(10);
const LOADED: Duration = Duration::from_millis(4);

/// TCP, one stream and four, both ways.
pub fn streams(round: &mut Round<'_>, between: Between<'_>) {
    let cases = [
        ("one TCP stream up", Direction::Up, 1, "tcp-up", "tcp-up-cpu"),
        ("one TCP stream down", Direction::Down, 1, "tcp-down", "tcp-down-cpu"),
        ("four TCP streams up", Direction::Up, 4, "tcp4-up", "tcp4-up-cpu"),
        ("four TCP streams down", Direction::Down, 4, "tcp4-down", "tcp4-down-cpu"),
    ];
    for (what, direction, streams, rate, per_cpu) in cases {
        round.case(what, |round| {
            let flow = load::tcp(between, Stream { streams, ..Stream::single(direction, round.secs()) })?;
            round.record(rate, flow.gbit)?;
            if flow.cpu > 0.0 {
                round.record(per_cpu, flow.total / flow.cpu)?;
            }
            Ok(())
        });
    }
}

/// Small packets at the promised rate, and the highest rate: looked for with 64 bytes, and with `search_both` with 200.
pub fn small_packets(round: &mut Round<'_>, between: Between<'_>, search_both: bool) {
    let sizes = [
        (64, "150,000 packets a second of 64 B", "64-loss", "64-cpu", "the highest rate of 64 B", "64-max"),
        (
            200,
            "150,000 packets a second of 200 B",
            "200-loss",
            "200-cpu",
            "the highest rate of 200 B",
            "200-max",
        ),
    ];
    for (size, what, loss, cpu, search, max) in sizes {
        let mut first = PROMISED_RATE / 2;
        round.case(what, |round| {
            let packets = load::packets(between, size, PROMISED_RATE, round.secs() * 1000)?;
            if packets.loss_percent <= TOLERATED {
                first = PROMISED_RATE;
            }
            round.record(loss, packets.loss_percent)?;
            if packets.cpu_micros > 0.0 {
                round.record(cpu, packets.cpu_micros)?;
            }
            Ok(())
        });
        if size > 64 && !search_both {
            continue;
        }
        round.case(search, |round| {
            let rate = load::highest_rate(between, size, first, 700)?;
            round.record(max, rate as f64)
        });
    }
}

/// Echoes on an idle path, and under a saturating download.
pub fn echoes(round: &mut Round<'_>, between: Between<'_>) {
    round.case("echoes, idle", |round| {
        let echoes = load::echoes(between, IDLE, round.secs() * 1000)?;
        record(round, echoes, ["ping-idle-p50", "ping-idle-p99"])
    });
    let loads = [
        ("echoes under a download with BBR", "bbr", ["ping-bbr-p50", "ping-bbr-p99"]),
        ("echoes under a download with CUBIC", "cubic", ["ping-cubic-p50", "ping-cubic-p99"]),
    ];
    for (what, control, figures) in loads {
        round.case(what, |round| {
            let secs = round.secs();
            let stream = Stream { control: Some(control), ..Stream::single(Direction::Down, secs + 1) };
            let running = load::start(between, stream)?;
            // The first half second belongs to the start of the stream.
            std::thread::sleep(Duration::from_millis(500));
            let echoes = load::echoes(between, LOADED, secs * 1000);
            running.finish()?;
            record(round, echoes?, figures)
        });
    }
}

fn record(round: &mut Round<'_>, echoes: Echoes, [p50, p99]: [&str; 2]) -> Result<()> {
    ensure!(echoes.lost_percent < 50.0, "{:.0} % of the echoes got no answer", echoes.lost_percent);
    round.record(p50, echoes.p50)?;
    round.record(p99, echoes.p99)
}

/// Where processor time goes under the loads that figures of it are taken of.
pub fn profiles(round: &mut Round<'_>, between: Between<'_>) {
    let (setup, pids) = (round.setup(), &between.processes.pids);
    for (direction, word) in [(Direction::Up, "up"), (Direction::Down, "down")] {
        round.case(&format!("profile of one TCP stream {word}"), |round| {
            let title = format!("One TCP stream {word}, client and gateway");
            let stream = Stream::single(direction, round.secs());
            let name = format!("tunnel-flame-tcp-{word}");
            profile::take(setup, pids, &name, &title, || load::tcp(between, stream)).map(drop)
        });
    }
    round.case("profile of small packets", |round| {
        let title = "150,000 packets a second of 200 B, client and gateway";
        let millis = round.secs() * 1000;
        let load = || load::packets(between, 200, PROMISED_RATE, millis);
        profile::take(setup, pids, "tunnel-flame-200", title, load).map(drop)
    });
}

/// Memory before anything was carried.
pub fn idle_memory(round: &mut Round<'_>, between: Between<'_>) {
    round.case("idle memory", |round| {
        memory(round, between, "VmRSS", ["memory-idle-near", "memory-idle-far"])
    });
}

/// The most that each process ever had, after all loads.
pub fn peak_memory(round: &mut Round<'_>, between: Between<'_>) {
    round.case("peak memory", |round| {
        memory(round, between, "VmHWM", ["memory-peak-near", "memory-peak-far"])
    });
}

fn memory(round: &mut Round<'_>, between: Between<'_>, line: &str, figures: [&str; 2]) -> Result<()> {
    for (figure, value) in figures.iter().zip(between.processes.memory_mib(line)?) {
        round.record(figure, value)?;
    }
    Ok(())
}

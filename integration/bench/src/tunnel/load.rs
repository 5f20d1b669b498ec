//! Loads: TCP streams, small packets, echoes. Each knows nothing of what carries it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use integration_lab::{Host, Process, wait};
use serde_json::Value;

use super::process::Processes;
use crate::tools;

/// Where a load goes, and whose processor time counts.
#[derive(Clone, Copy)]
pub struct Between<'a> {
    /// Where the client end of the load is.
    pub near: &'a Host,
    /// Where its server is.
    pub far: &'a Host,
    /// The server's address.
    pub target: &'a str,
    /// The processes of the tunnel; none for the bare path.
    pub processes: &'a Processes,
}

/// Which end sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From near to far.
    Up,
    /// From far to near.
    Down,
}

/// How TCP is asked to run.
#[derive(Debug, Clone, Copy)]
pub struct Stream<'a> {
    /// Which end sends.
    pub direction: Direction,
    /// How many connections.
    pub streams: u32,
    /// For how long.
    pub secs: u64,
    /// Seconds at the beginning that do not count.
    pub skip: u64,
    /// Congestion control, when it is not the system's.
    pub control: Option<&'a str>,
    /// Port of the server.
    pub port: u16,
}

impl Stream<'_> {
    /// One connection.
    pub fn single(direction: Direction, secs: u64) -> Self {
        Self { direction, streams: 1, secs, skip: 0, control: None, port: 5201 }
    }
}

/// What a run of TCP gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Flow {
    /// Payload, Gbit/s.
    pub gbit: f64,
    /// Payload, Gbit.
    pub total: f64,
    /// Segments sent again.
    pub retransmits: f64,
    /// Processor time of the tunnel's processes, seconds.
    pub cpu: f64,
}

/// A run of TCP that goes on.
pub struct Running {
    _server: Process,
    client: Process,
    limit: Duration,
}

impl Running {
    /// Waits for its end.
    pub fn finish(self) -> Result<(f64, f64, f64)> {
        let code = self.client.wait(self.limit)?;
        let text = self.client.stdout();
        let value: Value = serde_json::from_str(&text)
            .with_context(|| format!("iperf3 ended {code}: {text}{}", self.client.stderr()))?;
        read_iperf(&value)
    }
}

/// Starts a run of TCP.
pub fn start(between: Between<'_>, stream: Stream<'_>) -> Result<Running> {
    let server = serve(between, stream.port)?;
    start_at(server, between, stream)
}

/// Logs are named by the port, and begin anew with each run.
fn name_of(host: &Host, end: &str, port: u16) -> String {
    let name = format!("iperf3-{end}-{port}");
    for ending in ["out", "err"] {
        let _none_yet = std::fs::remove_file(host.dir().join(format!("{name}.{ending}")));
    }
    name
}

/// A server for one run of TCP.
pub fn serve(between: Between<'_>, port: u16) -> Result<Process> {
    let name = name_of(between.far, "server", port);
    let port = port.to_string();
    let server = between
        .far
        .launch(&name, "iperf3")
        .args(["-s", "-1", "--forceflush", "-B", between.target, "-p", &port])
        .start()?;
    wait::until_true("iperf3 listens", Duration::from_secs(5), || {
        ensure!(server.pid().is_some(), "it ended: {}{}", server.stdout(), server.stderr());
        Ok(server.stdout().contains("listening"))
    })?;
    Ok(server)
}

/// The same with a server that waits.
pub fn start_at(server: Process, between: Between<'_>, stream: Stream<'_>) -> Result<Running> {
    let name = name_of(between.near, "client", stream.port);
    let port = stream.port.to_string();
    let (secs, skip) = (stream.secs.to_string(), stream.skip.to_string());
    let streams = stream.streams.to_string();
    let mut client = between.near.launch(&name, "iperf3").args([
        "-c",
        between.target,
        "-p",
        &port,
        "-t",
        &secs,
        "-O",
        &skip,
        "-P",
        &streams,
        "-J",
        "--connect-timeout",
        "5000",
    ]);
    if stream.direction == Direction::Down {
        client = client.arg("-R");
    }
    if let Some(control) = stream.control {
        client = client.args(["-C", control]);
    }
    let limit = Duration::from_secs(stream.secs + stream.skip + 20);
    Ok(Running { _server: server, client: client.start()?, limit })
}

/// A run of TCP from start to end.
pub fn tcp(between: Between<'_>, stream: Stream<'_>) -> Result<Flow> {
    let before = between.processes.cpu_seconds()?;
    let (gbit, total, retransmits) = start(between, stream)?.finish()?;
    let cpu = between.processes.cpu_seconds()? - before;
    Ok(Flow { gbit, total, retransmits, cpu })
}

/// Gbit/s and Gbit that arrived, and segments sent again.
fn read_iperf(value: &Value) -> Result<(f64, f64, f64)> {
    if let Some(error) = value["error"].as_str() {
        bail!("iperf3: {error}");
    }
    let received = &value["end"]["sum_received"];
    let rate = received["bits_per_second"].as_f64().context("iperf3 says nothing of what was received")?;
    let bytes = received["bytes"].as_f64().context("iperf3 says nothing of bytes")?;
    let retransmits = value["end"]["sum_sent"]["retransmits"].as_f64().unwrap_or(0.0);
    Ok((rate / 1e9, bytes * 8.0 / 1e9, retransmits))
}

/// What a run of small packets gave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Packets {
    /// Sent, a second.
    pub sent_rate: f64,
    /// Missing at the far end, in percent of what was asked for: also what the tunnel left the generator no time to send.
    pub loss_percent: f64,
    /// Processor time of the tunnel's processes for each packet that arrived, µs.
    pub cpu_micros: f64,
}

/// Small packets from near to far at a steady rate.
pub fn packets(between: Between<'_>, size: usize, rate: u64, millis: u64) -> Result<Packets> {
    let port = 5300;
    for ending in ["out", "err"] {
        let _none_yet = std::fs::remove_file(between.far.dir().join(format!("udp-sink.{ending}")));
    }
    let line = format!("udp-sink --listen {}:{port} --limit-millis {}", between.target, millis + 3_000);
    let sink = tools::launch(between.far, "udp-sink", &line)?.start()?;
    tools::wait_ready(&sink)?;
    let before = between.processes.cpu_seconds()?;
    let line =
        format!("udp-send --to {}:{port} --size {size} --rate {rate} --millis {millis}", between.target);
    let sent = tools::run_on(between.near, &line, Duration::from_millis(millis + 10_000))?;
    sink.wait(Duration::from_secs(10))?;
    let cpu = between.processes.cpu_seconds()? - before;
    let received: Value = serde_json::from_str(&sink.stdout())
        .with_context(|| format!("the sink said {}{}", sink.stdout(), sink.stderr()))?;
    summed_up(rate, &sent, &received, cpu)
}

fn summed_up(rate: u64, sent: &Value, received: &Value, cpu: f64) -> Result<Packets> {
    let number = |value: &Value, name: &str| value[name].as_f64().with_context(|| format!("no `{name}`"));
    let (count, seconds) = (number(sent, "sent")?, number(sent, "seconds")?);
    let arrived = number(received, "received")?;
    ensure!(count > 0.0 && seconds > 0.0, "the generator sent nothing");
    // A few are still due when the time is over: what the last tick of the generator would have sent.
    let asked = (rate as f64 * seconds).max(count);
    let missing = if asked - count <= rate as f64 / 1_000.0 { count - arrived } else { asked - arrived };
    ensure!(arrived > 0.0, "none of {count} packets arrived");
    Ok(Packets {
        sent_rate: count / seconds,
        loss_percent: (100.0 * missing / asked).max(0.0),
        cpu_micros: cpu * 1e6 / arrived,
    })
}

/// The highest share of loss that counts as none, in percent.
pub const TOLERATED: f64 = 0.1;
/// A rate at which more than this is lost is not tried again, in percent.
const HOPELESS: f64 = 3.0;
/// How often a rate is tried.
const TRIES: usize = 3;
/// Nobody is asked for more packets a second than this.
const CEILING: u64 = 1_200_000;
/// The search ends when what held and what did not are this close.
const CLOSE: f64 = 1.05;

/// The highest rate that holds, looked for upwards from `first` and then by halves; 0 when none does.
pub fn highest(first: u64, mut holds: impl FnMut(u64) -> Result<bool>) -> Result<u64> {
    let (mut good, mut bad) = (0, None);
    let mut rate = first;
    loop {
        if holds(rate)? {
            good = rate
        } else {
            bad = Some(rate)
        }
        rate = match bad {
            None if good >= CEILING => return Ok(good),
            None => (good * 3 / 2).min(CEILING),
            Some(bad) if bad < 1_000 || (good > 0 && bad as f64 / good as f64 <= CLOSE) => return Ok(good),
            Some(bad) if good == 0 => bad / 2,
            Some(bad) => good.midpoint(bad),
        };
    }
}

/// The highest rate of small packets at which no more is lost than is tolerated.
pub fn highest_rate(between: Between<'_>, size: usize, first: u64, millis: u64) -> Result<u64> {
    highest(first, |rate| {
        // One hiccup of a shared machine is not the limit: what misses narrowly is tried again.
        for _ in 0..TRIES {
            let lost = packets(between, size, rate, millis)?.loss_percent;
            if lost <= TOLERATED {
                return Ok(true);
            }
            if lost > HOPELESS {
                return Ok(false);
            }
        }
        Ok(false)
    })
}

/// Times of echoes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Echoes {
    /// The middle one, µs.
    pub p50: f64,
    /// One of a hundred takes longer, µs.
    pub p99: f64,
    /// Percent without an answer.
    pub lost_percent: f64,
}

/// Echoes from near to far for a time.
pub fn echoes(between: Between<'_>, interval: Duration, millis: u64) -> Result<Echoes> {
    let line =
        format!("ping --to {} --interval-micros {} --millis {millis}", between.target, interval.as_micros());
    let value = tools::run_on(between.near, &line, Duration::from_millis(millis + 10_000))?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no echo came back: {value}"));
    let (sent, received) = (number("sent")?, number("received")?);
    Ok(Echoes {
        p50: number("p50_us")?,
        p99: number("p99_us")?,
        lost_percent: 100.0 * (sent - received) / sent.max(1.0),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_search_closes_in_on_the_limit_from_below_and_from_above() {
        for (first, limit) in [(150_000, 320_000), (150_000, 47_000), (150_000, 150_000), (20_000, 1_900)] {
            let mut tried = 0;

            let found = highest(first, |rate| {
                tried += 1;
                Ok(rate <= limit)
            })
            .unwrap();

            assert!(found <= limit && found as f64 >= limit as f64 / CLOSE * 0.99, "{found} of {limit}");
            assert!(tried <= 14, "{tried} tries for {limit}");
        }
    }

    #[test]
    fn the_search_ends_when_everything_or_nothing_holds() {
        assert_eq!(highest(150_000, |_| Ok(true)).unwrap(), CEILING);
        assert_eq!(highest(150_000, |_| Ok(false)).unwrap(), 0);
        assert!(highest(150_000, |_| bail!("broken")).is_err());
    }

    #[test]
    fn what_iperf_says_is_read() {
        let value = json!({"end": {
            "sum_received": {"bits_per_second": 5.5e9, "bytes": 2_062_500_000_u64},
            "sum_sent": {"retransmits": 7, "bits_per_second": 5.6e9},
        }});

        assert_eq!(read_iperf(&value).unwrap(), (5.5, 16.5, 7.0));
        let refused = read_iperf(&json!({"error": "unable to connect"})).unwrap_err();
        assert!(refused.to_string().contains("unable to connect"));
    }

    #[test]
    fn loss_and_cost_are_counted_from_what_arrived() {
        let packets =
            summed_up(500, &json!({"sent": 1000, "seconds": 2.0}), &json!({"received": 999}), 0.003_996)
                .unwrap();

        let slow = summed_up(1_000, &json!({"sent": 1000, "seconds": 2.0}), &json!({"received": 1000}), 0.0)
            .unwrap();
        assert_eq!(slow.loss_percent, 50.0, "what could not be sent is missing too");
        assert_eq!(packets.sent_rate, 500.0);
        assert!((packets.loss_percent - 0.1).abs() < 1e-9 && (packets.cpu_micros - 4.0).abs() < 1e-9);
        assert!(summed_up(10, &json!({"sent": 10, "seconds": 1.0}), &json!({"received": 0}), 0.0).is_err());
    }
}

//! UDP echoes: the server, and a client that numbers what it sends and misses nothing.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

/// How long after the last datagram its answer may come.
const PATIENCE: Duration = Duration::from_secs(2);

pub fn serve(listen: &[SocketAddr]) -> Result<()> {
    crate::on_each(
        listen,
        |address| UdpSocket::bind(address).with_context(|| format!("cannot listen on {address}")),
        |socket| {
            let mut buffer = vec![0; 65_536];
            loop {
                // An answer that the network refused is reported by the next call: that is not the end of a server.
                if let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let _lost = socket.send_to(&buffer[..length], from);
                }
            }
        },
    )
}

#[derive(Args)]
pub struct Ping {
    /// The echo server.
    #[arg(long)]
    to: SocketAddr,
    /// Own address and port.
    #[arg(long)]
    bind: Option<SocketAddr>,
    /// Datagrams a second.
    #[arg(long, default_value_t = 100)]
    rate: u32,
    /// For how long.
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// Bytes of payload, at least 16.
    #[arg(long, default_value_t = 64)]
    size: usize,
    /// Prints every round trip, too.
    #[arg(long)]
    each: bool,
}

#[derive(Default)]
struct Heard {
    /// For each number: when its first answer came, after the start.
    at: Vec<Option<Duration>>,
    highest: Option<usize>,
    duplicates: u64,
    reordered: u64,
    foreign: u64,
}

impl Ping {
    pub fn run(&self) -> Result<()> {
        let any: SocketAddr = if self.to.is_ipv6() { "[::]:0".parse()? } else { "0.0.0.0:0".parse()? };
        let socket = UdpSocket::bind(self.bind.unwrap_or(any)).context("cannot bind")?;
        socket.connect(self.to)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;

        let count = (f64::from(self.rate) * self.seconds).round() as usize;
        let gap = Duration::from_secs(1) / self.rate;
        let started = Instant::now();
        let heard = Mutex::new(Heard { at: vec![None; count], ..Heard::default() });
        let (refused, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut sent_at = Vec::with_capacity(count);

        std::thread::scope(|scope| {
            scope.spawn(|| listen(&socket, started, &heard, &refused, &done));
            let mut payload = vec![0x55; self.size.max(16)];
            for number in 0..count {
                let due = gap * u32::try_from(number).unwrap_or(u32::MAX);
                std::thread::sleep(due.saturating_sub(started.elapsed()));
                payload[..8].copy_from_slice(&(number as u64).to_be_bytes());
                sent_at.push(started.elapsed());
                if socket.send(&payload).is_err() {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            let last = Instant::now();
            while last.elapsed() < PATIENCE && lock(&heard).at.iter().any(Option::is_none) {
                std::thread::sleep(Duration::from_millis(10));
            }
            done.store(true, Ordering::Release);
        });
        let heard = heard.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
        println!("{}", report(&heard, &sent_at, refused.into_inner(), self.each));
        Ok(())
    }
}

fn lock(heard: &Mutex<Heard>) -> std::sync::MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

fn listen(
    socket: &UdpSocket,
    started: Instant,
    heard: &Mutex<Heard>,
    refused: &AtomicU64,
    done: &AtomicBool,
) {
    let mut buffer = vec![0; 65_536];
    while !done.load(Ordering::Acquire) {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) => {
                if !matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                continue;
            }
        };
        let now = started.elapsed();
        let mut heard = lock(heard);
        let number = buffer.get(..8).filter(|_| length >= 16).and_then(|bytes| bytes.try_into().ok());
        let number = number.map(|bytes| u64::from_be_bytes(bytes) as usize);
        match number.filter(|number| *number < heard.at.len()) {
            None => heard.foreign += 1,
            Some(number) if heard.at[number].is_some() => heard.duplicates += 1,
            Some(number) => {
                heard.at[number] = Some(now);
                if heard.highest.is_some_and(|highest| number < highest) {
                    heard.reordered += 1;
                }
                heard.highest = heard.highest.max(Some(number));
            }
        }
    }
}

fn report(heard: &Heard, sent_at: &[Duration], refused: u64, each: bool) -> serde_json::Value {
    let missing: Vec<_> =
        heard.at.iter().enumerate().filter(|(_, at)| at.is_none()).map(|(n, _)| n).collect();
    let times = heard.at.iter().zip(sent_at).filter_map(|(at, sent)| at.map(|at| at.saturating_sub(*sent)));
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
    let percentile = |share: f64| {
        let last = times.len().checked_sub(1)?;
        times.get((last as f64 * share).round() as usize).copied().map(milliseconds)
    };
    let mut arrivals: Vec<_> = heard.at.iter().flatten().copied().collect();
    arrivals.sort_unstable();
    let gap = arrivals.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).max().map(milliseconds);
    serde_json::json!({
        "sent": sent_at.len(),
        "received": times.len(),
        "missing": missing.len(),
        "first_missing": missing.iter().take(20).collect::<Vec<_>>(),
        "last_missing": missing.last(),
        "duplicates": heard.duplicates,
        "reordered": heard.reordered,
        "foreign": heard.foreign,
        "refused": refused,
        "p50_ms": percentile(0.5),
        "p99_ms": percentile(0.99),
        "max_ms": percentile(1.0),
        "longest_gap_ms": gap,
        "each_ms": each.then(|| times.iter().copied().map(milliseconds).collect::<Vec<_>>()),
        "first_answer_ms": arrivals.first().copied().map(milliseconds),
    })
}

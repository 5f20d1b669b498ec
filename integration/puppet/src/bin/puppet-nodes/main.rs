//! Thousands of devices on strings: each holds a session with a real control plane, and they connect, disconnect and
//! ask as a benchmark says.
//!
//! Commands come on standard input, one a line; each is answered with one JSON line:
//!
//! - `up` connects all that are not, at once, and waits until each has its full state;
//! - `drop` cuts all but the steady ones without a word;
//! - `probe` has each steady node ask for something every second from now on; `probed` ends it and says how long answers
//!   took;
//! - `mark` forgets which changes arrived; `changes COUNT` waits until so many nodes heard of one and says when;
//! - `churn SECONDS` reconnects one node in a hundred a minute, evenly, for so long.

mod node;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::node::{Node, Shared, Tally};

/// Thousands of devices on strings.
#[derive(Parser)]
struct Flags {
    /// Where control is
    #[arg(long)]
    connect: SocketAddr,
    /// Control's certificate (PEM)
    #[arg(long)]
    certificate: PathBuf,
    /// The token of a service account
    #[arg(long)]
    token: PathBuf,
    /// How many devices
    #[arg(long)]
    nodes: usize,
    /// The number of the first one, for its name
    #[arg(long, default_value_t = 0)]
    first: usize,
    /// Connect at once and stay, without commands
    #[arg(long)]
    stay: bool,
    /// How many of them stay connected when the rest is cut
    #[arg(long, default_value_t = 100)]
    steady: usize,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let shared = Rc::new(Shared {
        address: flags.connect,
        token: std::fs::read_to_string(&flags.token).context("reading the token")?.trim().to_owned(),
        tls: Arc::new(node::tls(&flags.certificate)?),
        tally: RefCell::new(Tally::default()),
    });
    let local = tokio::task::LocalSet::new();
    local.run_until(command_loop(flags, shared)).await
}

async fn command_loop(flags: Flags, shared: Rc<Shared>) -> anyhow::Result<()> {
    let nodes =
        (0..flags.nodes).map(|number| Node::new(flags.first + number, number < flags.steady, &shared));
    let mut nodes = nodes.collect::<anyhow::Result<Vec<_>>>()?;
    println!("{}", json!({"event": "ready", "nodes": nodes.len()}));
    if flags.stay {
        println!("{}", up(&mut nodes, &shared).await);
        return std::future::pending().await;
    }
    let (sender, mut lines) = mpsc::channel::<String>(16);
    // Reading standard input blocks; it ends with the process, or when whoever commands is gone.
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.blocking_send(line))
    });
    while let Some(line) = lines.recv().await {
        let mut words = line.split_whitespace();
        let number = |word: Option<&str>| word.and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        let answer = match (words.next(), number(words.next())) {
            (Some("up"), _) => up(&mut nodes, &shared).await,
            (Some("drop"), _) => {
                nodes.iter_mut().filter(|node| !node.steady).for_each(Node::cut);
                json!({"event": "dropped"})
            }
            (Some("probe"), _) => {
                shared.tally.borrow_mut().probe(true);
                json!({"event": "probing"})
            }
            (Some("probed"), _) => {
                let mut tally = shared.tally.borrow_mut();
                tally.probe(false);
                let answers = tally.answers();
                json!({"event": "probed", "count": answers.len(), "p50_ms": at(&answers, 50), "p99_ms": at(&answers, 99)})
            }
            (Some("mark"), _) => {
                shared.tally.borrow_mut().changes.clear();
                json!({"event": "marked"})
            }
            (Some("changes"), count) => changes(&shared, count).await,
            (Some("churn"), seconds) => churn(&mut nodes, &shared, Duration::from_secs(seconds)).await,
            (Some(other), _) => json!({"event": "unknown", "command": other}),
            (None, _) => continue,
        };
        println!("{answer}");
    }
    Ok(())
}

/// The value below which so many of a hundred are.
fn at(sorted: &[f64], percent: usize) -> f64 {
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

async fn up(nodes: &mut [Node], shared: &Shared) -> serde_json::Value {
    let started = Instant::now();
    let before = shared.tally.borrow().failures;
    let mut waiting = 0;
    for node in nodes.iter_mut() {
        waiting += usize::from(node.start());
    }
    while nodes.iter().any(|node| !node.is_up()) {
        sleep(Duration::from_millis(10)).await;
    }
    let failures = shared.tally.borrow().failures - before;
    json!({"event": "up", "connected": waiting, "seconds": started.elapsed().as_secs_f64(), "failures": failures})
}

async fn changes(shared: &Shared, count: u64) -> serde_json::Value {
    let patience = Instant::now() + Duration::from_secs(60);
    let heard = || shared.tally.borrow().changes.len() as u64;
    while heard() < count && Instant::now() < patience {
        sleep(Duration::from_millis(5)).await;
    }
    let mut all = shared.tally.borrow().changes.clone();
    all.sort_by(f64::total_cmp);
    json!({"event": "changes", "count": all.len(), "p50_at_ms": at(&all, 50), "p99_at_ms": at(&all, 99), "last_at_ms": at(&all, 100)})
}

async fn churn(nodes: &mut [Node], shared: &Shared, span: Duration) -> serde_json::Value {
    let end = Instant::now() + span;
    let pause = Duration::from_secs_f64(60.0 / (nodes.len() as f64 / 100.0).max(1.0));
    let (mut next, mut reconnected) = (0, 0);
    while Instant::now() < end {
        // Spread over all, in no order that control could know.
        next = (next + 7919) % nodes.len();
        if let Some(node) = nodes.get_mut(next) {
            node.cut();
            node.start();
            reconnected += 1;
        }
        sleep(pause).await;
    }
    let failures = shared.tally.borrow().failures;
    json!({"event": "churned", "reconnected": reconnected, "failures": failures})
}

//! How both engines are measured: the same loop, the same clock.

use std::hint::black_box;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Decisions between two looks at the clock while the throughput is taken.
const BETWEEN: usize = 64;

/// The value below which this part of the ordered values lies.
fn percentile(ordered: &[u64], part: f64) -> f64 {
    let place = (ordered.len() as f64 * part) as usize;
    ordered.get(place.min(ordered.len().saturating_sub(1))).map_or(0.0, |value| *value as f64)
}

/// Throughput on one core in one span, and in another how long single decisions take. Each question comes once in a pass:
/// caches hold what a pass leaves in them.
pub fn measure<T>(questions: &[T], secs: u64, decide: impl Fn(&T) -> bool) -> Value {
    let span = Duration::from_secs(secs);
    let (mut decided, started) = (0, Instant::now());
    for part in questions.chunks(BETWEEN).cycle() {
        for question in part {
            black_box(decide(question));
        }
        decided += part.len();
        if started.elapsed() >= span {
            break;
        }
    }
    let rate = decided as f64 / started.elapsed().as_secs_f64();
    let (mut took, mut allowed, begun) = (Vec::with_capacity(questions.len()), 0, Instant::now());
    for question in questions {
        let started = Instant::now();
        let is_allowed = black_box(decide(question));
        took.push(started.elapsed().as_nanos() as u64);
        allowed += usize::from(is_allowed);
        if begun.elapsed() >= span {
            break;
        }
    }
    let allowed_percent = 100.0 * allowed as f64 / took.len().max(1) as f64;
    took.sort_unstable();
    json!({
        "rate": rate,
        "p50_us": percentile(&took, 0.5) / 1e3,
        "p99_us": percentile(&took, 0.99) / 1e3,
        "decided": decided,
        "timed": took.len(),
        "allowed_percent": allowed_percent,
    })
}

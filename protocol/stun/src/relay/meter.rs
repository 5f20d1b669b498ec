//! How much a user or a source may have relayed.

use std::cell::Cell;
use std::time::Duration;

/// What may pass in a second; zero: as much as there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Packets a second, both directions together.
    pub packets: u64,
    /// Payload in bytes a second, both directions together.
    pub bytes: u64,
}

impl Rate {
    /// Whether there is any bound.
    pub fn is_bounded(self) -> bool {
        self != Self::default()
    }
}

/// Counts what passes against a [`Rate`]: a bucket of one second for each bound.
#[derive(Debug)]
pub struct Meter {
    rate: Rate,
    /// What is left of packets and bytes, in units of a 10⁹th, as of the moment beside.
    left: Cell<(u64, u64)>,
    at: Cell<Duration>,
}

const UNIT: u64 = 1_000_000_000;

impl Meter {
    /// A full one.
    pub fn new(rate: Rate, now: Duration) -> Self {
        Self { rate, left: Cell::new((full(rate.packets), full(rate.bytes))), at: Cell::new(now) }
    }

    /// Whether so much may pass now; if so it is counted.
    pub fn admit(&self, packets: u64, bytes: u64, now: Duration) -> bool {
        let passed = u64::try_from(now.saturating_sub(self.at.get()).as_nanos()).unwrap_or(UNIT).min(UNIT);
        self.at.set(now.max(self.at.get()));
        let refilled =
            |left: u64, rate: u64| left.saturating_add(passed.saturating_mul(rate)).min(full(rate));
        let (left_packets, left_bytes) = self.left.get();
        let left = (refilled(left_packets, self.rate.packets), refilled(left_bytes, self.rate.bytes));
        let rest = (rest(left.0, packets, self.rate.packets), rest(left.1, bytes, self.rate.bytes));
        match rest {
            (Some(packets), Some(bytes)) => {
                self.left.set((packets, bytes));
                true
            }
            (Some(_) | None, Some(_) | None) => {
                self.left.set(left);
                false
            }
        }
    }
}

fn full(rate: u64) -> u64 {
    rate.saturating_mul(UNIT)
}

fn rest(left: u64, used: u64, rate: u64) -> Option<u64> {
    if rate == 0 { Some(left) } else { left.checked_sub(used.saturating_mul(UNIT)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_second_of_either_bound_may_pass_at_once_and_then_what_comes_back() {
        let meter = Meter::new(Rate { packets: 100, bytes: 10_000 }, SECOND);

        assert!(meter.admit(50, 10_000, SECOND));
        assert!(!meter.admit(1, 1, SECOND), "no bytes are left");
        assert!(meter.admit(1, 100, SECOND + SECOND / 100));
        assert!(!meter.admit(101, 1, SECOND * 100), "never more packets than a second has");
        assert!(meter.admit(100, 1, SECOND * 100));
    }

    #[test]
    fn without_a_bound_everything_passes() {
        let meter = Meter::new(Rate::default(), SECOND);

        assert!(!Rate::default().is_bounded());
        assert!((0..1_000).all(|_| meter.admit(u64::MAX, u64::MAX, SECOND)));
    }

    #[test]
    fn what_does_not_fit_costs_nothing() {
        let meter = Meter::new(Rate { packets: 10, bytes: 0 }, SECOND);

        assert!(!meter.admit(11, 0, SECOND));
        assert!(meter.admit(10, u64::MAX, SECOND));
    }
}

//! Waiting longer after each failure, with jitter so that a fleet does not come back in step.

use std::time::Duration;

/// Exponential back-off with full jitter over the upper half.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Starts at `first`, doubles with each failure, never exceeds `most`.
    pub fn new(first: Duration, most: Duration) -> Self {
        Self { first, most, failures: 0 }
    }

    /// How long to wait after one more failure; `random` decides within the jitter.
    pub fn failed(&mut self, random: u32) -> Duration {
        let doubled = self.first.saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let whole = doubled.min(self.most);
        self.failures = self.failures.saturating_add(1).min(31);
        let half = whole / 2;
        half + half.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }

    /// Starts over.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_until_the_most() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

        let waits: Vec<_> = (0..6).map(|_| backoff.failed(u32::MAX).as_millis()).collect();

        assert_eq!(waits, [100, 200, 400, 800, 1000, 1000]);
    }

    #[test]
    fn jitter_stays_within_the_upper_half() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));

        assert_eq!(backoff.failed(0), Duration::from_millis(50));
    }

    #[test]
    fn a_success_starts_over() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        backoff.failed(0);
        backoff.failed(0);

        backoff.succeeded();

        assert_eq!(backoff.failed(u32::MAX), Duration::from_millis(100));
    }
}

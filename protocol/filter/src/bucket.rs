//! A token bucket.

use std::time::Duration;

/// Allows `burst` at once and `rate` a second.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    /// In billionths of a token, so that nothing is lost to rounding.
    level: u64,
    burst: u32,
    rate: u32,
    seen: Duration,
}

const TOKEN: u64 = 1_000_000_000;

impl Bucket {
    /// A full one.
    pub(crate) fn new(burst: u32, rate: u32) -> Self {
        Self { level: u64::from(burst) * TOKEN, burst, rate, seen: Duration::ZERO }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Duration) -> bool {
        let passed = now.saturating_sub(self.seen);
        self.seen = self.seen.max(now);
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let gained = nanos.saturating_mul(u64::from(self.rate));
        self.level = self.level.saturating_add(gained).min(u64::from(self.burst) * TOKEN);
        if self.level < TOKEN {
            return false;
        }
        self.level -= TOKEN;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let mut bucket = Bucket::new(3, 10);
        let start = Duration::from_secs(100);

        let burst = (0..5).filter(|_| bucket.take(start)).count();
        let later = (1..=10).filter(|tenth| bucket.take(start + Duration::from_millis(100 * tenth))).count();

        assert_eq!((burst, later), (3, 10));
    }

    #[test]
    fn a_clock_that_stands_still_gives_nothing() {
        let mut bucket = Bucket::new(1, 1000);

        assert!(bucket.take(Duration::from_secs(5)));
        assert!(!bucket.take(Duration::from_secs(5)));
        assert!(!bucket.take(Duration::from_secs(4)));
    }
}

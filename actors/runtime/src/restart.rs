//! When a failed actor starts again, and when it may not.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// The first pause after a failure. Short: one bad packet should cost a peer a blink.
const FIRST_PAUSE: Duration = Duration::from_millis(40);
/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Whether an actor that failed is rebuilt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Rebuilt by its factory after a back-off, within its [`Intensity`].
    Always,
    /// Ends as [`How::Failed`](crate::How::Failed); its parent decides what follows.
    Never,
}

/// How often an actor may be restarted before it gives up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts that are allowed...
    pub restarts: u32,
    /// ...within this time. One more, and the actor gives up.
    pub within: Duration,
}

/// The failures of one actor that still count.
#[derive(Debug)]
pub(crate) struct Failures {
    restart: Restart,
    intensity: Intensity,
    recent: VecDeque<Instant>,
}

/// What follows a failure.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    RestartAfter(Duration),
    Fail,
    GiveUp,
}

impl Failures {
    pub(crate) fn new(restart: Restart, intensity: Intensity) -> Failures {
        Failures { restart, intensity, recent: VecDeque::new() }
    }

    /// Records a failure at `now`. `jitter` is a random number in `0.0..1.0`.
    pub(crate) fn record(&mut self, now: Instant, jitter: f64) -> Verdict {
        if self.restart == Restart::Never {
            return Verdict::Fail;
        }
        while self.recent.front().is_some_and(|&at| now.duration_since(at) > self.intensity.within) {
            self.recent.pop_front();
        }
        if self.recent.len() >= self.intensity.restarts as usize {
            return Verdict::GiveUp;
        }
        let doublings = u32::try_from(self.recent.len()).unwrap_or(u32::MAX).min(16);
        self.recent.push_back(now);
        let pause = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
        Verdict::RestartAfter(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(restarts: u32, within_s: u64) -> Failures {
        Failures::new(Restart::Always, Intensity { restarts, within: Duration::from_secs(within_s) })
    }

    #[test]
    fn pauses_double_and_are_spread_by_jitter() {
        let now = Instant::now();
        let mut low = failures(20, 3600);
        let mut high = failures(20, 3600);

        let shortest: Vec<_> = (0..10).map(|_| low.record(now, 0.0)).collect();
        let longest: Vec<_> = (0..10).map(|_| high.record(now, 1.0)).collect();

        assert_eq!(shortest[0], Verdict::RestartAfter(Duration::from_millis(20)));
        assert_eq!(longest[0], Verdict::RestartAfter(Duration::from_millis(40)));
        assert_eq!(longest[2], Verdict::RestartAfter(Duration::from_millis(160)));
        assert_eq!(longest[9], Verdict::RestartAfter(LONGEST_PAUSE));
    }

    #[test]
    fn gives_up_on_one_failure_more_than_the_intensity_allows() {
        let now = Instant::now();
        let mut failures = failures(2, 60);

        assert!(matches!(failures.record(now, 0.5), Verdict::RestartAfter(_)));
        assert!(matches!(failures.record(now, 0.5), Verdict::RestartAfter(_)));
        assert_eq!(failures.record(now, 0.5), Verdict::GiveUp);
    }

    #[test]
    fn old_failures_are_forgiven() {
        let now = Instant::now();
        let mut failures = failures(1, 60);

        assert!(matches!(failures.record(now, 0.5), Verdict::RestartAfter(_)));

        assert!(matches!(failures.record(now + Duration::from_secs(61), 0.5), Verdict::RestartAfter(_)));
    }

    #[test]
    fn an_actor_that_is_never_restarted_fails_at_once() {
        let mut failures =
            Failures::new(Restart::Never, Intensity { restarts: 5, within: Duration::from_secs(60) });

        assert_eq!(failures.record(Instant::now(), 0.5), Verdict::Fail);
    }
}

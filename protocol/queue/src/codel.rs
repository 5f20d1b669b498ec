//! When a flow's standing queue has to become shorter (RFC 8289).

use std::time::Duration;

/// The longest that a standing queue may be (RFC 8289, section 4.3).
pub const TARGET: Duration = Duration::from_millis(5);
/// For how long a queue must stand before it counts as standing: a round trip of the longer kind (section 4.2).
pub const INTERVAL: Duration = Duration::from_millis(100);

/// After this many intervals without a loss, the pace of losses starts anew (section 5.5).
const FORGET: u32 = 16;

/// One flow's controller.
#[derive(Debug, Default, Clone)]
pub(crate) struct Codel {
    /// When the queue will have stood for an interval, while it is above the target.
    stands_at: Option<Duration>,
    /// When the next loss is due.
    next: Duration,
    /// Losses since the controller became active, which set the pace.
    count: u32,
    /// What that was when it became active last.
    first_count: u32,
    active: bool,
}

/// What becomes of the packet at the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It goes.
    Goes,
    /// It tells its sender to slow down: it is marked and goes, or is lost, and the next is looked at.
    Signals,
}

impl Codel {
    /// Judges the packet at the head, which has waited for `sojourn`. `is_short`: what waits is so little that it is no
    /// queue.
    pub(crate) fn judge(&mut self, sojourn: Duration, is_short: bool, now: Duration) -> Fate {
        let stands = self.stands(sojourn, is_short, now);
        if self.active {
            if !stands {
                self.active = false;
            } else if now >= self.next {
                self.count = self.count.saturating_add(1);
                self.next = pace(self.next, self.count);
                return Fate::Signals;
            }
            return Fate::Goes;
        }
        if !stands {
            return Fate::Goes;
        }
        // A queue that returns soon after it was brought down needs about the pace that brought it down.
        let gained = self.count.saturating_sub(self.first_count);
        let is_recent = now.saturating_sub(self.next) < INTERVAL * FORGET;
        self.active = true;
        self.count = if gained > 1 && is_recent { gained } else { 1 };
        self.first_count = self.count;
        self.next = pace(now, self.count);
        Fate::Signals
    }

    /// The flow has nothing waiting.
    pub(crate) fn emptied(&mut self) {
        self.stands_at = None;
        self.active = false;
    }

    fn stands(&mut self, sojourn: Duration, is_short: bool, now: Duration) -> bool {
        if sojourn < TARGET || is_short {
            self.stands_at = None;
            return false;
        }
        now >= *self.stands_at.get_or_insert(now + INTERVAL)
    }
}

/// Losses come faster with the square root of their number, which is what TCP's rate answers to.
fn pace(from: Duration, count: u32) -> Duration {
    from + INTERVAL.div_f64(f64::from(count.max(1)).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn signals(codel: &mut Codel, sojourn: Duration, from: u32, to: u32) -> Vec<u32> {
        (from..to).filter(|ms| codel.judge(sojourn, false, MS * *ms) == Fate::Signals).collect()
    }

    #[test]
    fn a_queue_below_the_target_never_signals() {
        let mut codel = Codel::default();

        assert!(signals(&mut codel, MS * 4, 0, 2000).is_empty());
    }

    #[test]
    fn a_burst_that_goes_within_an_interval_is_none_of_its_business() {
        let mut codel = Codel::default();

        assert!(signals(&mut codel, MS * 50, 0, 99).is_empty());
        assert_eq!(codel.judge(MS, false, MS * 99), Fate::Goes);
        assert!(signals(&mut codel, MS * 50, 100, 199).is_empty());
    }

    #[test]
    fn a_standing_queue_signals_faster_and_faster() {
        let mut codel = Codel::default();

        let at = signals(&mut codel, MS * 20, 0, 600);

        assert_eq!(at.first(), Some(&100));
        let gaps: Vec<_> = at.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.len() >= 6, "{at:?}");
        assert!(gaps.windows(2).all(|pair| pair[1] <= pair[0]), "{gaps:?}");
    }

    #[test]
    fn what_fits_one_turn_is_no_queue_however_old_it_is() {
        let mut codel = Codel::default();

        assert!((0..1000).all(|ms| codel.judge(MS * 300, true, MS * ms) == Fate::Goes));
    }

    #[test]
    fn a_queue_that_returns_soon_meets_the_pace_that_it_left() {
        let mut codel = Codel::default();
        let first = signals(&mut codel, MS * 20, 0, 1000).len();
        codel.judge(MS, false, MS * 1000);

        let again = signals(&mut codel, MS * 20, 1001, 1301);

        assert!(again.len() > 3, "{again:?} after {first}");
    }
}

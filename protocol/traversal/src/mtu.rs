//! How large a datagram may be on one path: found by padded probes, checked again while the path is used.
//!
//! A round asks about some sizes at once, up to three times. Only an answer says anything: a size counts as too large
//! when a smaller one was answered and it was not, so a path that is silent says nothing about sizes.

use std::time::Duration;

/// The largest UDP payload that we ever send: what a packet of the TUN device's 1,420 bytes becomes when it is sealed.
/// With IPv6 around it, it fills an Ethernet frame (1,452 + 48 = 1,500).
pub const LARGEST: usize = 1452;

/// The payloads that are tried, largest first. The steps leave room for, in this order: a channel header and PPPoE;
/// another tunnel around; IPv6's minimum inside the tunnel (1,280 + 32); IPv6's minimum outside (1,280 - 48).
const LADDER: [u16; 5] = [1452, 1412, 1372, 1312, 1232];
/// One bit a rung, the largest size lowest.
const ALL: u8 = (1 << LADDER.len()) - 1;

/// Tries before a size counts as too large. At 10 % loss in each direction, one in 150 checks goes wrong, and is set
/// right by the next search.
const TRIES: u8 = 3;
/// Between two tries, or one and a half round trips if that is longer.
const AGAIN: Duration = Duration::from_millis(400);
/// Between two checks of the size in use while datagrams of about that size leave. With three tries a black hole is
/// noticed after 2.2 s.
const CHECK: Duration = Duration::from_secs(1);
/// The same while none of them leave.
const CHECK_IDLE: Duration = Duration::from_secs(30);
/// The larger sizes are tried again after this long, and then after twice as long each time …
const SEARCH: Duration = Duration::from_secs(15);
/// … up to this.
const SEARCH_MAX: Duration = Duration::from_secs(600);

/// The search on one path.
#[derive(Debug, Clone)]
pub(crate) struct Mtu {
    /// Rung in use.
    used: usize,
    /// Whether no answer has shown yet that it passes.
    assumed: bool,
    /// Rungs of the round that is under way; none: there is no round.
    asked: u8,
    answered: u8,
    tries: u8,
    next_try: Duration,
    /// When the last round ended.
    checked: Duration,
    /// When the last datagram left that would not fit the next smaller size.
    large: Option<Duration>,
    search_at: Duration,
    pause: Duration,
}

impl Mtu {
    pub(crate) fn new(now: Duration) -> Self {
        Self {
            used: 0,
            assumed: true,
            asked: ALL,
            answered: 0,
            tries: 0,
            next_try: now,
            checked: now,
            large: None,
            search_at: now,
            pause: SEARCH,
        }
    }

    /// Largest UDP payload in use. Until the first try has failed, the best case is assumed: it is true on nearly all
    /// paths, and connections keep what is agreed when they begin.
    pub(crate) fn payload(&self) -> u16 {
        LADDER.get(self.used).copied().unwrap_or(LADDER[LADDER.len() - 1])
    }

    /// Data comes here from a path with this limit: until something is known, more is not assumed.
    pub(crate) fn assume(&mut self, payload: u16) {
        if self.assumed {
            let fits = LADDER.iter().position(|size| *size <= payload).unwrap_or(LADDER.len() - 1);
            self.used = self.used.max(fits);
        }
    }

    /// Data went out, in datagrams of at most so many bytes.
    pub(crate) fn sent(&mut self, bytes: usize, now: Duration) {
        if LADDER.get(self.used + 1).is_some_and(|smaller| bytes > usize::from(*smaller)) {
            self.large = Some(now);
        }
    }

    /// When [`Mtu::next`] has something to do.
    pub(crate) fn due(&self) -> Duration {
        if self.asked != 0 {
            return self.next_try;
        }
        let lately = self.large.is_some_and(|at| at >= self.checked);
        let check = self.checked.saturating_add(if lately || self.assumed { CHECK } else { CHECK_IDLE });
        if self.used > 0 { check.min(self.search_at) } else { check }
    }

    /// The sizes to probe with now, largest first. `round_trip` is what a small probe takes.
    pub(crate) fn next(
        &mut self,
        round_trip: Duration,
        now: Duration,
    ) -> impl Iterator<Item = usize> + use<> {
        let ask = if now < self.due() { 0 } else { self.ask(round_trip, now) };
        let rungs = LADDER.into_iter().enumerate().filter(move |(rung, _)| ask & 1 << rung != 0);
        rungs.map(|(_, size)| usize::from(size))
    }

    fn ask(&mut self, round_trip: Duration, now: Duration) -> u8 {
        let in_use = 1 << self.used;
        if self.asked == 0 {
            // Everything; or what is in use and what is larger; or what is in use.
            self.asked = match (self.assumed, self.used > 0 && self.search_at <= now) {
                (true, _) => ALL,
                (false, true) => in_use | (in_use - 1),
                (false, false) => in_use,
            };
        } else if self.tries >= TRIES {
            self.conclude(now);
            return 0;
        } else if self.tries > 0 && self.answered & in_use == 0 {
            // Perhaps it does not pass any more. What does?
            self.asked |= ALL & !(in_use - 1);
            if self.assumed && self.answered != 0 {
                self.used = self.best();
                self.assumed = false;
            }
        }
        self.tries += 1;
        self.next_try = now.saturating_add(AGAIN.max(round_trip.saturating_mul(3) / 2));
        self.asked & !self.answered
    }

    /// A probe of this size was answered.
    pub(crate) fn answered(&mut self, size: usize, now: Duration) {
        let Some(rung) = LADDER.iter().position(|rung| usize::from(*rung) == size) else { return };
        if self.asked & 1 << rung == 0 {
            return;
        }
        self.answered |= 1 << rung;
        if rung < self.used {
            self.used = rung;
            self.assumed = false;
            self.pause = SEARCH;
        }
        if rung == self.asked.trailing_zeros() as usize {
            self.conclude(now);
        }
    }

    /// The largest rung that was answered.
    fn best(&self) -> usize {
        (self.answered.trailing_zeros() as usize).min(LADDER.len() - 1)
    }

    fn conclude(&mut self, now: Duration) {
        if self.answered != 0 {
            self.assumed = false;
            if self.answered & 1 << self.used == 0 {
                // A black hole: what was in use does not pass any more.
                self.used = self.best();
                self.pause = SEARCH;
                self.search_at = now.saturating_add(self.pause);
            } else if self.used > 0 && self.search_at <= now {
                self.search_at = now.saturating_add(self.pause);
                self.pause = self.pause.saturating_mul(2).min(SEARCH_MAX);
            }
        }
        self.asked = 0;
        self.answered = 0;
        self.tries = 0;
        self.checked = now;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(20);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Runs the search on a path that passes `limit` bytes; `large`: datagrams of the size in use leave all the time.
    /// Says when the size in use last changed.
    fn search(mtu: &mut Mtu, limit: usize, large: bool, from: Duration, until: Duration) -> Duration {
        search_lossy(mtu, limit, large, from, until, |_| false)
    }

    fn search_lossy(
        mtu: &mut Mtu,
        limit: usize,
        large: bool,
        from: Duration,
        until: Duration,
        mut lost: impl FnMut(usize) -> bool,
    ) -> Duration {
        let (mut now, mut changed, mut sent) = (from, from, 0);
        while now <= until {
            let before = mtu.payload();
            if large {
                mtu.sent(usize::from(before), now);
            }
            for size in mtu.next(ROUND_TRIP, now) {
                sent += 1;
                if size <= limit && !lost(sent) {
                    mtu.answered(size, now + ROUND_TRIP);
                }
            }
            if mtu.payload() != before {
                changed = now;
            }
            now += Duration::from_millis(10);
        }
        changed
    }

    #[test]
    fn the_largest_size_that_passes_is_found_after_the_first_try() {
        for (limit, expected) in [(1452, 1452), (1451, 1412), (1400, 1372), (1320, 1312), (1240, 1232)] {
            let mut mtu = Mtu::new(Duration::ZERO);

            search(&mut mtu, limit, false, Duration::ZERO, Duration::from_millis(410));

            assert_eq!(mtu.payload(), expected, "limit {limit}");
        }
    }

    #[test]
    fn a_new_black_hole_under_load_is_noticed_within_three_seconds_and_its_end_too() {
        for limit in [1450, 1400, 1350, 1300] {
            let mut mtu = Mtu::new(Duration::ZERO);
            search(&mut mtu, 1452, true, Duration::ZERO, secs(10));

            let noticed = search(&mut mtu, limit, true, secs(10), secs(14));
            assert!(usize::from(mtu.payload()) <= limit);
            assert!(noticed - secs(10) <= secs(3), "{noticed:?}");
            search(&mut mtu, 1452, true, secs(14), secs(40));
            assert_eq!(mtu.payload(), 1452);
        }
    }

    #[test]
    fn a_path_without_large_datagrams_is_checked_rarely() {
        let mut mtu = Mtu::new(Duration::ZERO);
        search(&mut mtu, 1452, false, Duration::ZERO, secs(1));
        let mut probes = 0;

        let mut now = secs(1);
        while now < secs(301) {
            now = mtu.due();
            mtu.sent(200, now);
            for size in mtu.next(ROUND_TRIP, now) {
                probes += 1;
                mtu.answered(size, now);
            }
        }

        assert!((10..=11).contains(&probes), "{probes} probes in 300 s");
    }

    #[test]
    fn a_silent_path_says_nothing_about_sizes() {
        let mut mtu = Mtu::new(Duration::ZERO);

        search(&mut mtu, 0, true, Duration::ZERO, secs(100));

        assert_eq!(mtu.payload(), 1452);
    }

    #[test]
    fn a_path_that_takes_over_begins_with_the_limit_of_the_one_before() {
        let mut mtu = Mtu::new(Duration::ZERO);

        mtu.assume(1400);
        assert_eq!(mtu.payload(), 1372);
        search(&mut mtu, 1452, true, Duration::ZERO, secs(1));

        assert_eq!(mtu.payload(), 1452);
        mtu.assume(1400);
        assert_eq!(mtu.payload(), 1452, "what is known stays");
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_used_passes_however_the_limit_changes(
            limits in proptest::collection::vec(1232usize..1600, 1..6),
            large in any::<bool>(),
        ) {
            let (mut mtu, mut now) = (Mtu::new(Duration::ZERO), Duration::ZERO);
            for limit in limits {
                // Long enough for the rarest check or search.
                search(&mut mtu, limit, large, now, now + secs(700));
                now += secs(700);

                prop_assert!(usize::from(mtu.payload()) <= limit);
                let next_larger = LADDER.iter().rev().find(|size| **size > mtu.payload());
                prop_assert!(next_larger.is_none_or(|size| usize::from(*size) > limit));
            }
        }

        #[test]
        fn a_lost_probe_in_five_does_not_lower_the_limit_for_long(seed in any::<u64>()) {
            let mut mtu = Mtu::new(Duration::ZERO);
            let lost = |n: usize| (seed.wrapping_add(n as u64)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 0xff < 51;
            search_lossy(&mut mtu, 1452, true, Duration::ZERO, secs(200), lost);

            search(&mut mtu, 1452, true, secs(200), secs(900));

            prop_assert_eq!(mtu.payload(), 1452);
        }
    }
}

//! How large a datagram may be on one path: found by padded probes, checked again while the path is used.

use std::time::Duration;

/// The largest UDP payload that we ever send: what a packet of the TUN device's 1,420 bytes becomes when it is sealed.
/// With IPv6 around it, it fills an Ethernet frame (1,452 + 48 = 1,500).
pub const LARGEST: usize = 1452;

/// The payloads that are tried, largest first. The steps leave room for, in this order: a channel header and PPPoE;
/// another tunnel around; IPv6's minimum inside the tunnel (1,280 + 32); IPv6's minimum outside (1,280 - 48).
const LADDER: [u16; 5] = [1452, 1412, 1372, 1312, 1232];

/// Tries before a size counts as too large. At 10 % loss in each direction, one in 150 checks goes wrong, and is set
/// right by the next search.
const TRIES: u8 = 3;
/// Between two tries; longer than most round trips.
const AGAIN: Duration = Duration::from_millis(400);
/// Between two checks of the size in use: how long a new black hole is trusted.
const CHECK: Duration = Duration::from_secs(30);
/// Every so many checks, the larger sizes are tried again: about every ten minutes.
const SEARCH_EVERY: u8 = 20;

/// The search on one path.
#[derive(Debug, Clone)]
pub(crate) struct Mtu {
    /// Rung in use.
    used: usize,
    /// Rung under test: the one in use, or one above it.
    tried: usize,
    tries: u8,
    first_try: Duration,
    due: Duration,
    checks: u8,
}

impl Mtu {
    pub(crate) fn new(now: Duration) -> Self {
        Self { used: 0, tried: 0, tries: 0, first_try: now, due: now, checks: 0 }
    }

    /// Largest UDP payload in use. Until the first tries have failed, the best case is assumed: it is true on nearly
    /// all paths, and three tries take about a second.
    pub(crate) fn payload(&self) -> u16 {
        LADDER.get(self.used).copied().unwrap_or(LADDER[LADDER.len() - 1])
    }

    /// When [`Mtu::next`] has something to send.
    pub(crate) fn due(&self) -> Duration {
        self.due
    }

    /// The size to probe with now. `heard` is when anything last came in on the path: while it is silent, a lost probe
    /// says nothing about sizes.
    pub(crate) fn next(&mut self, heard: Option<Duration>, now: Duration) -> Option<usize> {
        if now < self.due {
            return None;
        }
        if self.tries >= TRIES {
            self.tries = 0;
            if heard.is_some_and(|at| at > self.first_try) && !self.step_down() {
                self.due = now.saturating_add(CHECK);
                return None;
            }
        }
        if self.tries == 0 {
            self.first_try = now;
        }
        self.tries += 1;
        self.due = now.saturating_add(AGAIN);
        LADDER.get(self.tried).map(|size| usize::from(*size))
    }

    /// A probe of this size was answered.
    pub(crate) fn answered(&mut self, size: usize, now: Duration) {
        if LADDER.get(self.tried).is_none_or(|tried| size < usize::from(*tried)) {
            return;
        }
        self.used = self.tried;
        self.tries = 0;
        self.due = now.saturating_add(CHECK);
        self.checks += 1;
        if self.checks >= SEARCH_EVERY {
            self.checks = 0;
            self.tried = 0;
        }
    }

    /// The size under test is too large. False when there is no smaller one.
    fn step_down(&mut self) -> bool {
        if self.tried == self.used {
            // A black hole: what was in use does not pass any more.
            self.checks = 0;
            if self.used + 1 >= LADDER.len() {
                return false;
            }
            self.used += 1;
        }
        self.tried += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the search on a path that passes `limit` bytes; returns the time spent.
    fn search(mtu: &mut Mtu, limit: usize, from: Duration, until: Duration) {
        let mut now = from.max(mtu.due());
        while now <= until {
            if let Some(size) = mtu.next(Some(now), now)
                && size <= limit
            {
                mtu.answered(size, now);
            }
            now = mtu.due();
        }
    }

    #[test]
    fn the_largest_size_that_passes_is_found_in_a_few_seconds() {
        for (limit, expected) in [(1452, 1452), (1451, 1412), (1400, 1372), (1320, 1312), (1240, 1232)] {
            let mut mtu = Mtu::new(Duration::ZERO);

            search(&mut mtu, limit, Duration::ZERO, Duration::from_secs(6));

            assert_eq!(mtu.payload(), expected, "limit {limit}");
        }
    }

    #[test]
    fn a_new_black_hole_is_noticed_and_its_end_too() {
        let mut mtu = Mtu::new(Duration::ZERO);
        search(&mut mtu, 1452, Duration::ZERO, Duration::from_secs(10));

        search(&mut mtu, 1400, Duration::from_secs(10), Duration::from_secs(50));
        assert_eq!(mtu.payload(), 1372);
        search(&mut mtu, 1452, Duration::from_secs(50), Duration::from_secs(800));
        assert_eq!(mtu.payload(), 1452);
    }

    #[test]
    fn a_silent_path_says_nothing_about_sizes() {
        let mut mtu = Mtu::new(Duration::ZERO);

        for _ in 0..100 {
            let now = mtu.due();
            assert!(mtu.next(Some(Duration::ZERO), now).is_some());
        }

        assert_eq!(mtu.payload(), 1452);
    }
}

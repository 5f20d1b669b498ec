//! Each datagram of the other end counts once.

use crate::ProbeError;
use crate::probe::Counter;

/// How far behind the latest on its path a probe may arrive. Probes are at least 60 ms apart, so this is seconds.
const WINDOW: u64 = 64;

/// Paths that a sender can number.
pub(crate) const PATHS: usize = 64;

#[derive(Debug, Clone, Copy, Default)]
struct Window {
    /// The highest sequence seen plus one; zero when none was.
    next: u64,
    /// Bit `n`: the sequence `next - 1 - n` was seen.
    seen: u64,
}

impl Window {
    fn accepts(self, sequence: u64) -> bool {
        match self.next.checked_sub(sequence + 1) {
            None => true,
            Some(behind) => behind < WINDOW && self.seen >> behind & 1 == 0,
        }
    }

    fn mark(&mut self, sequence: u64) {
        match self.next.checked_sub(sequence + 1) {
            None => {
                let ahead = sequence + 1 - self.next;
                self.seen = if ahead < WINDOW { self.seen << ahead } else { 0 } | 1;
                self.next = sequence + 1;
            }
            Some(behind) if behind < WINDOW => self.seen |= 1 << behind,
            Some(_) => {}
        }
    }
}

/// The replay windows of all paths of the other end's latest generation.
#[derive(Debug)]
pub(crate) struct Replay {
    generation: u16,
    windows: Box<[Window; PATHS]>,
}

impl Replay {
    pub(crate) fn new() -> Self {
        Self { generation: 0, windows: Box::new([Window::default(); PATHS]) }
    }

    /// Whether a counter is new. Costs nothing, so it comes before the cryptography.
    pub(crate) fn check(&self, counter: Counter) -> Result<(), ProbeError> {
        let window = self.windows.get(usize::from(counter.path)).ok_or(ProbeError::Malformed)?;
        if counter.generation > self.generation
            || counter.generation == self.generation && window.accepts(counter.sequence)
        {
            Ok(())
        } else {
            Err(ProbeError::Replayed)
        }
    }

    /// Marks an authentic counter as seen. True when it begins a new generation: the other end was made anew.
    pub(crate) fn mark(&mut self, counter: Counter) -> bool {
        let begins = counter.generation > self.generation;
        if begins {
            self.generation = counter.generation;
            self.windows.fill(Window::default());
        }
        if let Some(window) = self.windows.get_mut(usize::from(counter.path)) {
            window.mark(counter.sequence);
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn counter(generation: u16, path: u8, sequence: u64) -> Counter {
        Counter { generation, path, sequence }
    }

    #[test]
    fn an_older_generation_is_a_replay_and_a_newer_one_begins_anew() {
        let mut replay = Replay::new();
        replay.mark(counter(1, 0, 500));

        assert_eq!(replay.check(counter(0, 0, 501)), Err(ProbeError::Replayed));
        assert_eq!(replay.check(counter(2, 0, 0)), Ok(()));
        assert!(replay.mark(counter(2, 0, 0)));
        assert_eq!(replay.check(counter(1, 0, 501)), Err(ProbeError::Replayed));
        assert_eq!(replay.check(counter(2, 0, 1)), Ok(()));
    }

    #[test]
    fn paths_do_not_disturb_each_other_and_unknown_ones_are_malformed() {
        let mut replay = Replay::new();
        replay.mark(counter(0, 3, 1000));

        assert_eq!(replay.check(counter(0, 4, 0)), Ok(()));
        assert_eq!(replay.check(counter(0, 64, 0)), Err(ProbeError::Malformed));
    }

    proptest! {
        #[test]
        fn nothing_is_accepted_twice_and_what_is_near_is_accepted_once(
            sequences in prop::collection::vec(0..200u64, 1..300)
        ) {
            let mut replay = Replay::new();
            let mut seen = std::collections::BTreeSet::new();
            for sequence in sequences {
                let highest = seen.last().copied().unwrap_or(0);
                let accepted = replay.check(counter(0, 0, sequence)).is_ok();

                prop_assert_eq!(accepted, !seen.contains(&sequence) && sequence + WINDOW > highest);
                if accepted {
                    replay.mark(counter(0, 0, sequence));
                    seen.insert(sequence);
                }
            }
        }
    }
}

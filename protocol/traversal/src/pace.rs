//! At most five small packets a second to an address that has not answered.

use std::time::Duration;

const PACKETS: usize = 5;
const WITHIN: Duration = Duration::from_secs(1);

/// What went to one address lately.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pace {
    sent: [Option<Duration>; PACKETS],
    oldest: usize,
    answered: bool,
}

impl Pace {
    /// The address has answered: it wants what it gets.
    pub(crate) fn answered(&mut self) {
        self.answered = true;
    }

    /// Whether a packet may go out now; counts it if so.
    pub(crate) fn spend(&mut self, now: Duration) -> bool {
        if self.answered {
            return true;
        }
        let Some(oldest) = self.sent.get_mut(self.oldest) else {
            return false;
        };
        if oldest.is_some_and(|at| now.saturating_sub(at) < WITHIN) {
            return false;
        }
        *oldest = Some(now);
        self.oldest = (self.oldest + 1) % PACKETS;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_second_holds_more_than_five_packets_until_the_address_answers() {
        let mut pace = Pace::default();
        let sent: Vec<_> = (0..3000).filter(|ms| pace.spend(Duration::from_millis(*ms))).collect();

        assert_eq!(sent.len(), 15);
        for six in sent.windows(6) {
            assert!(six[5] - six[0] >= 1000);
        }
        pace.answered();
        assert!((0..100).all(|_| pace.spend(Duration::from_secs(3))));
    }
}

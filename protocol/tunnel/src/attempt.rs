//! A handshake of our own that is under way.

use std::time::Duration;

use crate::Message;

/// When fresh initiations follow the first, while there is no session. boringtun's own retry is a fixed 5 seconds, too
/// long for somebody who waits for a page.
const FRESH: [Duration; 3] = [Duration::from_millis(250), Duration::from_secs(1), Duration::from_secs(3)];

/// And how often after those. The engine's own retry comes a little sooner, if it still knows of the handshake: two
/// initiations of the other end make it forget ours.
const RETRY: Duration = Duration::from_millis(5_250);

/// The same bytes again, as long as nothing fresh is due: a lost response is answered from the other end's cache and
/// takes no place there.
const COPY: Duration = Duration::from_secs(1);

/// The initiation that waits for its response.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// When the first initiation of the series went out.
    first: Duration,
    last_fresh: Duration,
    last_sent: Duration,
    /// How many of [`FRESH`] have been used.
    fresh: usize,
    message: Message,
}

/// What the attempt wants to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    Fresh,
    Copy(Message),
}

impl Attempt {
    /// An attempt that we decided on.
    pub(crate) fn new(message: Message, now: Duration) -> Self {
        Self { first: now, last_fresh: now, last_sent: now, fresh: 0, message }
    }

    /// One that the engine decided on: it paces itself.
    pub(crate) fn by_engine(message: Message, now: Duration) -> Self {
        Self { first: now, last_fresh: now, last_sent: now, fresh: FRESH.len(), message }
    }

    /// Another fresh initiation went out.
    pub(crate) fn sent(&mut self, message: Message, now: Duration) {
        self.message = message;
        self.last_fresh = now;
        self.last_sent = now;
    }

    /// When to look at [`Attempt::due`] again.
    pub(crate) fn deadline(&self) -> Duration {
        self.next_fresh().min(self.last_sent.saturating_add(COPY))
    }

    /// What is to be sent now; marks it as sent.
    pub(crate) fn due(&mut self, now: Duration) -> Due {
        if self.next_fresh() <= now {
            self.fresh = FRESH.len().min(self.fresh + 1);
            return Due::Fresh;
        }
        if self.last_sent.saturating_add(COPY) <= now {
            self.last_sent = now;
            return Due::Copy(self.message);
        }
        Due::Nothing
    }

    fn next_fresh(&self) -> Duration {
        match FRESH.get(self.fresh) {
            Some(after) => self.first.saturating_add(*after),
            None => self.last_fresh.saturating_add(RETRY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fresh_initiations_follow_after_a_quarter_one_and_three_seconds_and_then_every_five() {
        let message = Message::new(&[1, 0, 0, 0]).unwrap();
        let mut attempt = Attempt::new(message, Duration::ZERO);
        let mut seen = Vec::new();

        for _ in 0..10 {
            let at = attempt.deadline();
            let due = attempt.due(at);
            if due == Due::Fresh {
                attempt.sent(message, at);
            }
            seen.push((at.as_millis(), due == Due::Fresh));
        }

        assert_eq!(
            seen,
            [
                (250, true),
                (1000, true),
                (2000, false),
                (3000, true),
                (4000, false),
                (5000, false),
                (6000, false),
                (7000, false),
                (8000, false),
                (8250, true),
            ]
        );
    }
}

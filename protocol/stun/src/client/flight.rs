//! Requests on their way: retransmission (RFC 8489 §6.2.1).
//!
//! RFC 8489 starts at 500 ms and doubles over seven tries, 39.5 s in all. A path through a relay that died is worth nothing
//! for that long, so we start at 250 ms, stop doubling at 2 s, and give up after 9.75 s.

use std::time::Duration;

use stun_types::message::TransactionId;

/// The first wait.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(250);
/// The longest wait.
pub(crate) const LONGEST_WAIT: Duration = Duration::from_secs(2);
/// RFC 8489 §6.2.1: Rc.
pub(crate) const TRIES: u32 = 7;
/// How long an answer is waited for where nothing is sent twice: as long as for seven tries.
const PATIENCE: Duration = Duration::from_millis(9_750);

/// One request that is not answered yet.
#[derive(Debug, Clone)]
pub(crate) struct Flight<K> {
    pub(crate) id: TransactionId,
    pub(crate) kind: K,
    pub(crate) first_sent: Duration,
    pub(crate) last_sent: Duration,
    pub(crate) due: Duration,
    bytes: Vec<u8>,
    wait: Duration,
    sent: u32,
}

/// What a flight does when its wait is over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Overdue {
    /// The same bytes again.
    Resend(Vec<u8>),
    /// No answer is coming.
    GiveUp,
}

impl<K> Flight<K> {
    /// A request that is sent now.
    pub(crate) fn new(id: TransactionId, kind: K, bytes: Vec<u8>, now: Duration) -> Self {
        Self {
            id,
            kind,
            first_sent: now,
            last_sent: now,
            due: now + FIRST_WAIT,
            bytes,
            wait: FIRST_WAIT,
            sent: 1,
        }
    }

    /// A request on a connection, which loses nothing: it is not sent again (RFC 8489 §6.2.2).
    pub(crate) fn once(id: TransactionId, kind: K, bytes: Vec<u8>, now: Duration) -> Self {
        Self { due: now + PATIENCE, wait: PATIENCE, sent: TRIES, ..Self::new(id, kind, bytes, now) }
    }

    /// `None` while the wait is not over.
    pub(crate) fn overdue(&mut self, now: Duration) -> Option<Overdue> {
        if now < self.due {
            return None;
        }
        if self.sent >= TRIES {
            return Some(Overdue::GiveUp);
        }
        self.sent += 1;
        self.wait = (self.wait * 2).min(LONGEST_WAIT);
        self.last_sent = now;
        self.due = now + self.wait;
        Some(Overdue::Resend(self.bytes.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_tries_and_then_no_more_within_ten_seconds() {
        let mut flight = Flight::new(1.into(), (), vec![7], Duration::ZERO);
        let mut sent = vec![Duration::ZERO];

        let gave_up = loop {
            let now = flight.due;
            assert_eq!(flight.overdue(now - Duration::from_millis(1)), None);
            match flight.overdue(now) {
                Some(Overdue::Resend(bytes)) => {
                    assert_eq!(bytes, [7]);
                    sent.push(now);
                }
                Some(Overdue::GiveUp) => break now,
                None => panic!("the wait was over"),
            }
        };

        assert_eq!(
            sent.iter().map(Duration::as_millis).collect::<Vec<_>>(),
            [0, 250, 750, 1750, 3750, 5750, 7750]
        );
        assert_eq!(gave_up, Duration::from_millis(9750));
    }

    #[test]
    fn on_a_connection_nothing_is_sent_twice_and_the_wait_is_the_same() {
        let mut flight = Flight::once(1.into(), (), vec![7], Duration::ZERO);

        assert_eq!(flight.overdue(Duration::from_millis(9_749)), None);
        assert_eq!(flight.overdue(Duration::from_millis(9_750)), Some(Overdue::GiveUp));
    }
}

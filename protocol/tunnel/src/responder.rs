//! What a responder remembers: the copies it recognises, how many initiations wait, and which sessions must not be
//! overwritten.

use std::time::Duration;

use crate::wire::{INITIATION_SIZE, RESPONSE_SIZE};

/// How many initiations may wait for their confirmation. boringtun keeps eight sessions, and eight unanswered
/// initiations would overwrite the live one.
pub const MAX_UNCONFIRMED: usize = 4;

/// How long an initiation counts as unconfirmed, and how long its response is kept for copies.
pub(crate) const UNCONFIRMED_FOR: Duration = Duration::from_secs(30);

/// Answers to copies of one initiation: sixteen candidates, each with a few repetitions. Beyond that somebody plays.
const MAX_COPIES: u16 = 128;

/// boringtun keeps so many sessions, at the session number modulo this.
const SESSIONS: usize = 8;

/// What is known of a datagram that looks like an initiation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Known<'a> {
    New,
    /// A copy: here is the response that the first one drew.
    Copy(&'a [u8; RESPONSE_SIZE]),
    /// A copy too many.
    TooMany,
}

struct Entry {
    initiation: [u8; INITIATION_SIZE],
    response: [u8; RESPONSE_SIZE],
    at: Duration,
    copies: u16,
    confirmed: bool,
}

/// The initiations of the last 30 seconds that were answered.
#[derive(Default)]
pub(crate) struct Answered {
    entries: Vec<Entry>,
}

impl Answered {
    /// Looks a datagram up among the initiations that were answered.
    pub(crate) fn find(&mut self, datagram: &[u8], now: Duration) -> Known<'_> {
        self.forget_old(now);
        match self.entries.iter_mut().find(|entry| entry.initiation == datagram) {
            None => Known::New,
            Some(entry) if entry.copies >= MAX_COPIES => Known::TooMany,
            Some(entry) => {
                entry.copies += 1;
                Known::Copy(&entry.response)
            }
        }
    }

    /// Whether one more initiation may be answered.
    pub(crate) fn has_room(&mut self, now: Duration) -> bool {
        self.forget_old(now);
        self.unconfirmed().count() < MAX_UNCONFIRMED
    }

    /// An initiation was answered.
    pub(crate) fn answered(&mut self, initiation: &[u8], response: &[u8], now: Duration) {
        let (Ok(initiation), Ok(response)) = (initiation.try_into(), response.try_into()) else {
            return;
        };
        // Room for confirmed ones too, so that late copies of them are recognised.
        if self.entries.len() >= 2 * MAX_UNCONFIRMED {
            self.entries.remove(0);
        }
        self.entries.push(Entry { initiation, response, at: now, copies: 0, confirmed: false });
    }

    /// The initiator has shown that it holds a session that came of one of these.
    pub(crate) fn confirm(&mut self) {
        for entry in &mut self.entries {
            entry.confirmed = true;
        }
    }

    /// When the latest initiation that still waits was answered.
    pub(crate) fn latest_unconfirmed(&self) -> Option<Duration> {
        self.unconfirmed().map(|entry| entry.at).max()
    }

    fn unconfirmed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| !entry.confirmed)
    }

    fn forget_old(&mut self, now: Duration) {
        self.entries.retain(|entry| now.saturating_sub(entry.at) < UNCONFIRMED_FOR);
    }
}

#[derive(Clone, Copy)]
struct Place {
    number: u8,
    order: u64,
    confirmed: bool,
}

/// What data under an index says about its session.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// It is the first sign that the other end holds the session.
    pub first: bool,
    /// We send with it.
    pub current: bool,
}

/// A shadow of boringtun's table of sessions: which number comes next, and which places must be left alone.
///
/// boringtun sends with whatever lies in the place of its current session. So no unconfirmed session may be put there,
/// not even while the place is empty, and none in the place of the session that the other end sends with.
#[derive(Default)]
pub(crate) struct Places {
    places: [Option<Place>; SESSIONS],
    last_issued: u8,
    order: u64,
    current: u8,
    /// The session that the other end used last.
    heard: Option<u8>,
}

impl Places {
    /// A handshake message of ours carries this index.
    pub(crate) fn issued(&mut self, index: u32) {
        self.last_issued = session_number(index);
    }

    /// We answered an initiation: a session that the other end has yet to confirm.
    pub(crate) fn answered(&mut self, index: u32) {
        self.issued(index);
        self.store(session_number(index), false);
    }

    /// Our initiation was answered: a session that is used from now on.
    pub(crate) fn completed(&mut self, index: u32) {
        self.store(session_number(index), true);
        self.becomes_current(session_number(index));
    }

    /// Data came in under this index.
    pub(crate) fn heard(&mut self, index: u32) -> Heard {
        let number = session_number(index);
        let first = match self.places.get_mut(place_of(number)) {
            Some(Some(place)) if place.number == number => !std::mem::replace(&mut place.confirmed, true),
            Some(_) | None => return Heard { first: false, current: false },
        };
        self.heard = Some(number);
        self.becomes_current(number);
        Heard { first, current: self.current == number }
    }

    /// Whether the session that the next initiation makes would land in a place that must be left alone.
    pub(crate) fn next_is_taken(&self) -> bool {
        let next = place_of(self.last_issued.wrapping_add(1));
        next == place_of(self.current) || self.heard.is_some_and(|heard| next == place_of(heard))
    }

    /// The current session has expired.
    pub(crate) fn current_is_gone(&mut self) {
        if let Some(place) = self.places.get_mut(place_of(self.current)) {
            *place = None;
        }
    }

    fn store(&mut self, number: u8, confirmed: bool) {
        self.order += 1;
        if let Some(place) = self.places.get_mut(place_of(number)) {
            *place = Some(Place { number, order: self.order, confirmed });
        }
    }

    /// The same rule as boringtun's: a newer session takes over, an older one never does.
    fn becomes_current(&mut self, number: u8) {
        let order = |number: u8| {
            let place = self.places.get(place_of(number)).copied().flatten();
            place.filter(|place| place.number == number).map(|place| place.order)
        };
        if order(number) >= order(self.current) {
            self.current = number;
        }
    }
}

fn place_of(number: u8) -> usize {
    usize::from(number) % SESSIONS
}

fn session_number(index: u32) -> u8 {
    index.to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn initiation(tag: u8) -> [u8; INITIATION_SIZE] {
        [tag; INITIATION_SIZE]
    }

    #[test]
    fn a_fifth_unconfirmed_initiation_waits_until_one_is_confirmed_or_30_seconds_have_passed() {
        let mut answered = Answered::default();
        for tag in 0..4 {
            assert!(answered.has_room(Duration::ZERO));
            answered.answered(&initiation(tag), &[tag; RESPONSE_SIZE], Duration::from_secs(tag.into()));
        }

        assert!(!answered.has_room(Duration::from_secs(29)));
        assert!(answered.has_room(Duration::from_secs(30)));

        answered.answered(&initiation(9), &[9; RESPONSE_SIZE], Duration::from_secs(30));
        assert!(!answered.has_room(Duration::from_millis(30_500)));
        answered.confirm();
        assert!(answered.has_room(Duration::from_millis(30_500)));
    }

    #[test]
    fn copies_are_answered_alike_for_30_seconds_and_not_without_end() {
        let mut answered = Answered::default();
        answered.answered(&initiation(1), &[7; RESPONSE_SIZE], Duration::ZERO);

        for _ in 0..MAX_COPIES {
            assert_eq!(
                answered.find(&initiation(1), Duration::from_secs(29)),
                Known::Copy(&[7; RESPONSE_SIZE])
            );
        }

        assert_eq!(answered.find(&initiation(1), Duration::from_secs(29)), Known::TooMany);
        assert_eq!(answered.find(&initiation(2), Duration::from_secs(29)), Known::New);
        assert_eq!(answered.find(&initiation(1), Duration::from_secs(30)), Known::New);
    }

    #[test]
    fn the_places_of_the_session_in_use_and_of_the_one_that_the_other_end_uses_are_left_alone() {
        let mut places = Places::default();
        places.completed(1);
        places.heard(1);
        places.completed(2);

        places.issued(8);
        assert!(places.next_is_taken());
        places.issued(9);
        assert!(places.next_is_taken());

        places.answered(11);
        places.issued(16);
        assert!(places.next_is_taken(), "an unconfirmed session changes nothing");
        assert_eq!(places.heard(11), Heard { first: true, current: true });
        assert_eq!(places.heard(11), Heard { first: false, current: true });
        assert!(!places.next_is_taken());
    }

    #[test]
    fn the_place_that_is_sent_from_is_left_alone_even_when_it_is_empty() {
        let mut places = Places::default();

        places.issued(7);
        assert!(places.next_is_taken());
        places.completed(9);
        places.current_is_gone();
        places.issued(16);
        assert!(places.next_is_taken());
    }

    #[test]
    fn late_data_of_an_older_session_does_not_bring_it_back() {
        let mut places = Places::default();
        places.completed(1);
        places.completed(2);

        assert_eq!(places.heard(1), Heard { first: false, current: false });

        places.issued(8);
        assert!(places.next_is_taken(), "the other end still uses it");
        assert_eq!(places.current, 2);
    }
}

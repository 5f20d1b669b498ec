//! Windows as the moments at which they open and close, worked out ahead.

use jiff::Timestamp;

use crate::window::{Day, TimeWindow};

const DAY: i64 = 24 * 3600;
/// Openings and ends are looked for this far ahead: two weeks, because a change of the clock may leave one week's
/// opening out, and a day. What is open for longer has no end for now; a grant is looked at again long before.
const LOOK_AHEAD: i64 = 15 * DAY;
/// Schedules are worked out for this long, then anew.
const GOOD_FOR: i64 = 7 * DAY;

/// Whole seconds since 1970, rounded down. Windows open and close on whole seconds.
fn seconds(at: Timestamp) -> i64 {
    at.as_second() - i64::from(at.subsec_nanosecond() < 0)
}

fn timestamp(seconds: i64) -> Timestamp {
    // What is worked out ahead is within days of a moment that was one.
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX)
}

/// When a set of windows is open: spans in order that do not touch, of which the last may be cut short.
#[derive(Debug, Clone, Default)]
struct Spans(Box<[(i64, i64)]>);

impl Spans {
    /// Works out when any of the windows is open between two moments.
    fn of(windows: &[TimeWindow], from: i64, to: i64) -> Self {
        let mut open = Vec::new();
        for window in windows {
            let (opens, closes) =
                (i64::from(window.from.minutes()) * 60, i64::from(window.to.minutes()) * 60);
            let closes = if closes > opens { closes } else { closes + DAY };
            for (start, end, offset) in window.zone.spans(from, to) {
                // The clock on the wall goes from `first` to `last` without a jump.
                let (first, last) = (start + offset, end + offset);
                for day in (first.div_euclid(DAY) - 1)..=last.div_euclid(DAY) {
                    if window.days.contains(&Day::of(day)) {
                        let opens = (day * DAY + opens).max(first);
                        let closes = (day * DAY + closes).min(last);
                        if opens < closes {
                            open.push((opens - offset, closes - offset));
                        }
                    }
                }
            }
        }
        open.sort_unstable();
        let mut merged: Vec<(i64, i64)> = Vec::with_capacity(open.len());
        for (opens, closes) in open {
            match merged.last_mut() {
                Some((_, end)) if opens <= *end => *end = closes.max(*end),
                Some(_) | None => merged.push((opens, closes)),
            }
        }
        Self(merged.into_boxed_slice())
    }

    /// The first span that closes after this moment.
    fn closing_after(&self, at: i64) -> Option<(i64, i64)> {
        self.0.get(self.0.partition_point(|(_, closes)| *closes <= at)).copied()
    }

    fn open_until(&self, at: i64) -> Option<Option<Timestamp>> {
        let (opens, closes) = self.closing_after(at)?;
        (opens <= at).then(|| (closes < at + LOOK_AHEAD).then(|| timestamp(closes)))
    }

    fn next_opening(&self, at: i64) -> Option<Timestamp> {
        let next = self.0.partition_point(|(opens, _)| *opens <= at);
        let (opens, _) = self.0.get(next)?;
        (*opens < at + LOOK_AHEAD).then(|| timestamp(*opens))
    }
}

/// When the windows of one rule are open.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    windows: Vec<TimeWindow>,
    from: i64,
    spans: Spans,
}

impl Schedule {
    /// A schedule that is good for a week from now on; `None` without windows.
    pub fn new(windows: &[TimeWindow], now: Timestamp) -> Option<Self> {
        if windows.is_empty() {
            return None;
        }
        let mut schedule = Self { windows: windows.to_vec(), from: 0, spans: Spans::default() };
        schedule.work_out(seconds(now));
        Some(schedule)
    }

    fn good_until(&self) -> i64 {
        self.from + DAY + GOOD_FOR
    }

    fn work_out(&mut self, now: i64) {
        self.from = now - DAY;
        self.spans = Spans::of(&self.windows, self.from, self.good_until() + LOOK_AHEAD);
    }

    /// Works everything out anew when the time for which it is good is nearly over.
    pub fn prepare(&mut self, now: Timestamp) {
        let now = seconds(now);
        if now < self.from || now + DAY >= self.good_until() {
            self.work_out(now);
        }
    }

    fn with<T>(&self, at: i64, ask: impl Fn(&Spans) -> Option<T>) -> Option<T> {
        if at >= self.from && at < self.good_until() {
            return ask(&self.spans);
        }
        // A question about another time: worked out for it alone.
        ask(&Spans::of(&self.windows, at - DAY, at + LOOK_AHEAD))
    }

    /// `None` while closed; otherwise when it closes. `Some(None)`: not for as long as is looked ahead.
    pub fn open_until(&self, at: Timestamp) -> Option<Option<Timestamp>> {
        let at = seconds(at);
        self.with(at, |spans| spans.open_until(at))
    }

    /// The next moment at which it opens.
    pub fn next_opening(&self, at: Timestamp) -> Option<Timestamp> {
        let at = seconds(at);
        self.with(at, |spans| spans.next_opening(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(days: &[Day], from: &str, to: &str, zone: &str) -> TimeWindow {
        TimeWindow {
            days: days.iter().copied().collect(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            zone: zone.parse().unwrap(),
        }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    /// What a calendar that was made then says of these windows.
    struct Asked(Schedule);

    fn calendar(made: &str, windows: &[TimeWindow]) -> Asked {
        Asked(Schedule::new(windows, at(made)).unwrap())
    }

    impl Asked {
        fn until(&self, time: &str) -> Option<Option<String>> {
            self.0.open_until(at(time)).map(|end| end.map(|end| end.to_string()))
        }

        fn opens(&self, time: &str) -> Option<String> {
            self.0.next_opening(at(time)).map(|opens| opens.to_string())
        }
    }

    fn closes(time: &str) -> Option<Option<String>> {
        Some(Some(time.to_owned()))
    }

    #[test]
    fn a_window_opens_and_closes_in_its_own_zone() {
        // Monday 2026-11-23; Berlin is one hour ahead of UTC in winter.
        let berlin =
            calendar("2026-11-23T00:00:00Z", &[window(&[Day::Mon], "08:00", "18:00", "Europe/Berlin")]);

        assert_eq!(berlin.until("2026-11-23T06:59:59.999Z"), None);
        assert_eq!(berlin.until("2026-11-23T07:00:00Z"), closes("2026-11-23T17:00:00Z"));
        assert_eq!(berlin.until("2026-11-23T16:59:59.999Z"), closes("2026-11-23T17:00:00Z"));
        assert_eq!(berlin.until("2026-11-23T17:00:00Z"), None);
        assert_eq!(berlin.opens("2026-11-23T06:59:59Z"), Some("2026-11-23T07:00:00Z".into()));
        assert_eq!(berlin.opens("2026-11-23T07:00:00Z"), Some("2026-11-30T07:00:00Z".into()));
    }

    #[test]
    fn a_window_may_cross_midnight_and_belongs_to_the_day_on_which_it_opens() {
        // Friday 2026-11-27.
        let night = calendar("2026-11-27T00:00:00Z", &[window(&[Day::Fri], "22:00", "06:00", "UTC")]);

        assert_eq!(night.until("2026-11-27T05:00:00Z"), None);
        assert_eq!(night.until("2026-11-28T05:00:00Z"), closes("2026-11-28T06:00:00Z"));
    }

    #[test]
    fn windows_that_touch_are_one_and_a_whole_week_never_closes() {
        let pair =
            [window(&[Day::Mon], "08:00", "12:00", "UTC"), window(&[Day::Mon], "12:00", "13:00", "UTC")];
        let pair = calendar("2026-11-23T00:00:00Z", &pair);
        let week =
            calendar("2026-11-23T00:00:00Z", &[window(&Day::ALL, "00:00", "00:00", "America/New_York")]);

        assert_eq!(pair.until("2026-11-23T09:00:00Z"), closes("2026-11-23T13:00:00Z"));
        assert_eq!(week.until("2026-11-23T09:00:00Z"), Some(None));
        assert_eq!(week.opens("2026-11-23T09:00:00Z"), None);
    }

    #[test]
    fn a_window_over_a_change_of_the_clock_lasts_as_long_as_the_night_does() {
        // In the night to 2026-03-29 Berlin skips from 02:00 to 03:00.
        let night =
            calendar("2026-03-28T00:00:00Z", &[window(&[Day::Sat], "22:00", "04:00", "Europe/Berlin")]);

        assert_eq!(night.until("2026-03-28T21:00:00Z"), closes("2026-03-29T02:00:00Z"));
    }

    #[test]
    fn a_window_in_the_hour_that_is_left_out_opens_a_week_later() {
        let skipped =
            calendar("2026-03-23T00:00:00Z", &[window(&[Day::Sun], "02:10", "02:40", "Europe/Berlin")]);
        let partly =
            calendar("2026-03-23T00:00:00Z", &[window(&[Day::Sun], "02:10", "03:10", "Europe/Berlin")]);

        assert_eq!(skipped.opens("2026-03-23T00:00:00Z"), Some("2026-04-05T00:10:00Z".into()));
        assert_eq!(partly.until("2026-03-29T01:05:00Z"), closes("2026-03-29T01:10:00Z"));
        assert_eq!(partly.opens("2026-03-29T00:59:59Z"), Some("2026-03-29T01:00:00Z".into()));
    }

    #[test]
    fn a_window_that_begins_where_the_clock_jumps_does_not_open_for_no_time_at_all() {
        let skipped =
            calendar("2026-03-23T00:00:00Z", &[window(&[Day::Sun], "02:00", "02:30", "Europe/Berlin")]);

        assert_eq!(skipped.until("2026-03-29T01:00:00Z"), None);
        assert_eq!(skipped.opens("2026-03-23T00:00:00Z"), Some("2026-04-05T00:00:00Z".into()));
    }

    #[test]
    fn a_window_within_another_does_not_end_it() {
        let inner =
            [window(&[Day::Mon], "08:00", "18:00", "UTC"), window(&[Day::Mon], "09:00", "10:00", "UTC")];
        let both = calendar("2026-11-23T00:00:00Z", &inner);

        assert_eq!(both.until("2026-11-23T08:30:00Z"), closes("2026-11-23T18:00:00Z"));
        assert_eq!(both.until("2026-11-23T12:00:00Z"), closes("2026-11-23T18:00:00Z"));
        assert_eq!(both.opens("2026-11-23T08:30:00Z"), Some("2026-11-30T08:00:00Z".into()));
    }

    #[test]
    fn a_window_in_the_hour_that_comes_twice_is_open_in_both() {
        // In the night to 2026-10-25 Berlin goes from 03:00 back to 02:00, which is 01:00 UTC.
        let twice =
            calendar("2026-10-24T00:00:00Z", &[window(&[Day::Sun], "02:10", "02:40", "Europe/Berlin")]);

        assert_eq!(twice.until("2026-10-25T00:20:00Z"), closes("2026-10-25T00:40:00Z"));
        assert_eq!(twice.until("2026-10-25T00:50:00Z"), None);
        assert_eq!(twice.until("2026-10-25T01:20:00Z"), closes("2026-10-25T01:40:00Z"));
    }

    #[test]
    fn a_question_about_another_year_is_answered_like_one_about_now() {
        let windows = [window(&[Day::Mon], "08:00", "18:00", "Europe/Berlin")];
        let (far, near) =
            (calendar("2001-01-01T00:00:00Z", &windows), calendar("2026-11-23T00:00:00Z", &windows));

        for hour in 0..24 * 8 {
            let time = at("2026-11-22T00:00:00Z") + std::time::Duration::from_secs(hour * 3600);
            assert_eq!(far.0.open_until(time), near.0.open_until(time), "{time}");
            assert_eq!(far.0.next_opening(time), near.0.next_opening(time), "{time}");
        }
    }

    #[test]
    fn what_never_closes_never_closes_in_another_year_either() {
        let ever = calendar("2001-01-01T00:00:00Z", &[window(&Day::ALL, "00:00", "00:00", "Europe/Berlin")]);

        assert_eq!(ever.until("2026-11-23T09:00:00Z"), Some(None));
        assert_eq!(ever.opens("2026-11-23T09:00:00Z"), None);
    }

    #[test]
    fn the_edges_of_the_time_for_which_a_schedule_is_good_are_like_its_middle() {
        let windows = [window(&Day::ALL, "08:00", "18:00", "UTC")];
        let Asked(schedule) = calendar("2026-11-10T12:00:00Z", &windows);

        for (time, end) in [
            ("2026-11-09T12:00:00Z", "2026-11-09T18:00:00Z"),
            ("2026-11-09T11:59:59Z", "2026-11-09T18:00:00Z"),
            ("2026-11-17T11:59:59Z", "2026-11-17T18:00:00Z"),
            ("2026-11-17T12:00:00Z", "2026-11-17T18:00:00Z"),
        ] {
            assert_eq!(schedule.open_until(at(time)), Some(Some(at(end))), "{time}");
        }
    }

    #[test]
    fn a_schedule_is_worked_out_anew_a_day_before_it_is_no_longer_good() {
        let Asked(mut schedule) =
            calendar("2026-11-01T00:00:00Z", &[window(&[Day::Mon], "08:00", "18:00", "UTC")]);
        let from = schedule.from;

        schedule.prepare(at("2026-11-06T23:59:59Z"));
        assert_eq!(schedule.from, from);
        schedule.prepare(at("2026-11-07T00:00:00Z"));

        assert_eq!(schedule.from, from + 6 * DAY);
        let end = schedule.open_until(at("2026-11-09T09:00:00Z"));
        assert_eq!(end, Some(Some(at("2026-11-09T18:00:00Z"))));
        // A clock that was set back is followed too.
        schedule.prepare(at("2026-01-01T00:00:00Z"));
        assert_eq!(schedule.from, seconds(at("2025-12-31T00:00:00Z")));
    }

    #[test]
    fn a_schedule_that_is_still_good_at_its_very_first_second_is_kept() {
        let Asked(mut schedule) =
            calendar("2026-11-02T00:00:00Z", &[window(&[Day::Mon], "08:00", "18:00", "UTC")]);
        let from = schedule.from;

        schedule.prepare(at("2026-11-01T00:00:00Z"));
        assert_eq!(schedule.from, from);
        schedule.prepare(at("2026-10-31T23:59:59Z"));
        assert_eq!(schedule.from, from - DAY - 1);
    }

    #[test]
    fn what_is_worked_out_ahead_is_what_is_asked_while_it_is_good() {
        let Asked(mut schedule) =
            calendar("2026-11-02T00:00:00Z", &[window(&[Day::Mon], "08:00", "18:00", "UTC")]);
        schedule.spans = Spans::default();
        let monday = [at("2026-11-02T09:00:00Z"), at("2026-11-09T09:00:00Z")];

        // With nothing worked out it says that it is closed, and works out the rest for the question alone.
        assert_eq!(schedule.open_until(monday[0]), None);
        assert_eq!(schedule.open_until(at("2026-11-09T00:00:00Z") - std::time::Duration::from_secs(1)), None);
        assert_eq!(schedule.open_until(monday[1]), Some(Some(at("2026-11-09T18:00:00Z"))));
        assert_eq!(schedule.next_opening(at("2026-11-09T00:00:00Z")), Some(at("2026-11-09T08:00:00Z")));
    }

    #[test]
    fn a_question_about_another_time_knows_of_a_window_that_opened_the_day_before() {
        let night =
            calendar("2001-01-01T00:00:00Z", &[window(&[Day::Mon], "23:00", "22:59", "Pacific/Chatham")]);

        // Monday 2026-11-23 23:00 in Chatham is 09:15 UTC; almost a day later it is still open.
        assert_eq!(night.until("2026-11-24T09:13:00Z"), closes("2026-11-24T09:14:00Z"));
    }

    #[test]
    fn no_windows_are_no_schedule() {
        assert!(Schedule::new(&[], at("2026-11-01T00:00:00Z")).is_none());
    }

    #[test]
    fn seconds_round_down_on_both_sides_of_1970() {
        assert_eq!(seconds(at("1970-01-01T00:00:01.5Z")), 1);
        assert_eq!(seconds(at("1969-12-31T23:59:59.5Z")), -1);
        assert_eq!(seconds(at("1969-12-31T23:59:59Z")), -1);
    }
}

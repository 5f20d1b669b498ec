//! Weekly time windows in IANA time zones.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde::{Deserialize, Serialize};

/// A day of the week, written `mon` to `sun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the names say it")]
pub enum Day {
    Mon,
    Tue,
    Wed,
    Thu,
    Fri,
    Sat,
    Sun,
}

impl Day {
    /// Monday to Sunday.
    pub const ALL: [Self; 7] = [Self::Mon, Self::Tue, Self::Wed, Self::Thu, Self::Fri, Self::Sat, Self::Sun];

    fn of(date: Date) -> Self {
        match date.weekday() {
            Weekday::Monday => Self::Mon,
            Weekday::Tuesday => Self::Tue,
            Weekday::Wednesday => Self::Wed,
            Weekday::Thursday => Self::Thu,
            Weekday::Friday => Self::Fri,
            Weekday::Saturday => Self::Sat,
            Weekday::Sunday => Self::Sun,
        }
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Mon => "Mon",
            Self::Tue => "Tue",
            Self::Wed => "Wed",
            Self::Thu => "Thu",
            Self::Fri => "Fri",
            Self::Sat => "Sat",
            Self::Sun => "Sun",
        })
    }
}

/// What is wrong with the text of a window.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWindow {
    /// Not a time of day.
    #[error("not a time of day; write hours and minutes such as 08:30, from 00:00 to 23:59")]
    Time,
    /// Not a time zone that this build knows.
    #[error("not a time zone; write an IANA name such as Europe/Berlin or UTC")]
    Zone,
}

/// A time of day in whole minutes, written `08:30`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClockTime {
    minutes: u16,
}

impl ClockTime {
    /// The time that is this many minutes after midnight; `None` from 1,440 on.
    pub fn from_minutes(minutes: u16) -> Option<Self> {
        (minutes < 24 * 60).then_some(Self { minutes })
    }

    fn civil(self) -> Time {
        let (hour, minute) = (self.minutes / 60, self.minutes % 60);
        // Both are in range by construction, so midnight is never the answer to anything else.
        Time::new(hour as i8, minute as i8, 0, 0).unwrap_or(Time::midnight())
    }
}

impl FromStr for ClockTime {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let (hour, minute) = text.split_once(':').ok_or(InvalidWindow::Time)?;
        let part = |part: &str, below: u16| {
            let shaped = part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u16>().ok().filter(|n| shaped && *n < below).ok_or(InvalidWindow::Time)
        };
        Ok(Self { minutes: part(hour, 24)? * 60 + part(minute, 60)? })
    }
}

impl fmt::Display for ClockTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.minutes / 60, self.minutes % 60)
    }
}

impl TryFrom<String> for ClockTime {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<ClockTime> for String {
    fn from(time: ClockTime) -> Self {
        time.to_string()
    }
}

/// A time zone by its IANA name.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl FromStr for Zone {
    type Err = InvalidWindow;

    fn from_str(text: &str) -> Result<Self, InvalidWindow> {
        let zone = TimeZone::get(text).map_err(|_| InvalidWindow::Zone)?;
        Ok(Self { name: text.to_owned(), zone })
    }
}

impl TryFrom<String> for Zone {
    type Error = InvalidWindow;

    fn try_from(text: String) -> Result<Self, InvalidWindow> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.name
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A weekly window: it opens at `from` on each of `days` and closes at the next `to`, which is on the following
/// day when `to` is not after `from`. The same time twice is a whole day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimeWindow {
    /// The days on which it opens.
    pub days: BTreeSet<Day>,
    /// When it opens.
    pub from: ClockTime,
    /// When it closes.
    pub to: ClockTime,
    /// Where that is so.
    pub zone: Zone,
}

impl TimeWindow {
    /// The moments at which the window of this date opens and closes; `None` when it does not open on it (a day
    /// that is not named, or a moment that a change of the clock leaves out altogether).
    fn on(&self, date: Date) -> Option<(Timestamp, Timestamp)> {
        if !self.days.contains(&Day::of(date)) {
            return None;
        }
        let close_on = if self.to > self.from { date } else { date.checked_add(1.day()).ok()? };
        let open = self.zone.zone.to_timestamp(date.to_datetime(self.from.civil())).ok()?;
        let close = self.zone.zone.to_timestamp(close_on.to_datetime(self.to.civil())).ok()?;
        (open < close).then_some((open, close))
    }

    /// The openings from the day before `at` to `days` days after it.
    fn openings(&self, at: Timestamp, days: i64) -> impl Iterator<Item = (Timestamp, Timestamp)> {
        let today = self.zone.zone.to_datetime(at).date();
        (-1..=days).filter_map(move |offset| self.on(today.checked_add(offset.days()).ok()?))
    }

    fn open_until(&self, at: Timestamp) -> Option<Timestamp> {
        self.openings(at, 0).filter(|(open, close)| *open <= at && at < *close).map(|(_, close)| close).max()
    }

    fn next_opening(&self, after: Timestamp) -> Option<Timestamp> {
        self.openings(after, 8).map(|(open, _)| open).filter(|open| *open > after).min()
    }
}

impl fmt::Display for TimeWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut days = self.days.iter();
        if let Some(first) = days.next() {
            first.fmt(f)?;
        }
        for day in days {
            write!(f, ", {day}")?;
        }
        write!(f, " {} to {} {}", self.from, self.to, self.zone)
    }
}

/// Several windows as one: open while any of them is.
pub struct Windows<'a>(pub &'a [TimeWindow]);

impl Windows<'_> {
    /// A week and a day: whoever is open for that long without a gap is open always.
    const FOREVER: i64 = 8;

    /// `None` while closed; otherwise when they close, going from one window to the next without a gap.
    /// `Some(None)` is never.
    pub fn open_until(&self, at: Timestamp) -> Option<Option<Timestamp>> {
        let mut until = self.longest(at)?;
        let Ok(forever) = at.checked_add((Self::FOREVER * 24).hours()) else { return Some(None) };
        while let Some(further) = self.longest(until) {
            until = further;
            if until > forever {
                return Some(None);
            }
        }
        Some(Some(until))
    }

    /// The next moment at which one opens, while they are closed.
    pub fn next_opening(&self, after: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter_map(|window| window.next_opening(after)).min()
    }

    fn longest(&self, at: Timestamp) -> Option<Timestamp> {
        self.0.iter().filter_map(|window| window.open_until(at)).max()
    }
}

impl fmt::Display for Windows<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, window) in self.0.iter().enumerate() {
            write!(f, "{}{window}", if n > 0 { "; " } else { "" })?;
        }
        Ok(())
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

    #[test]
    fn a_window_opens_and_closes_in_its_own_zone() {
        let windows = [window(&[Day::Mon], "08:00", "18:00", "Europe/Berlin")];
        let windows = Windows(&windows);

        // Monday 2026-11-23; Berlin is one hour ahead of UTC in winter.
        assert_eq!(windows.open_until(at("2026-11-23T06:59:59Z")), None);
        assert_eq!(windows.open_until(at("2026-11-23T07:00:00Z")), Some(Some(at("2026-11-23T17:00:00Z"))));
        assert_eq!(windows.open_until(at("2026-11-23T17:00:00Z")), None);
        assert_eq!(windows.next_opening(at("2026-11-23T17:00:00Z")), Some(at("2026-11-30T07:00:00Z")));
    }

    #[test]
    fn a_window_may_cross_midnight_and_belongs_to_the_day_on_which_it_opens() {
        let windows = [window(&[Day::Fri], "22:00", "06:00", "UTC")];
        let windows = Windows(&windows);

        // Friday 2026-11-27.
        assert_eq!(windows.open_until(at("2026-11-27T05:00:00Z")), None);
        assert_eq!(windows.open_until(at("2026-11-28T05:00:00Z")), Some(Some(at("2026-11-28T06:00:00Z"))));
    }

    #[test]
    fn windows_that_touch_are_one_and_a_whole_week_never_closes() {
        let pair =
            [window(&[Day::Mon], "08:00", "12:00", "UTC"), window(&[Day::Mon], "12:00", "13:00", "UTC")];
        let week = [window(&Day::ALL, "00:00", "00:00", "America/New_York")];

        assert_eq!(
            Windows(&pair).open_until(at("2026-11-23T09:00:00Z")),
            Some(Some(at("2026-11-23T13:00:00Z")))
        );
        assert_eq!(Windows(&week).open_until(at("2026-11-23T09:00:00Z")), Some(None));
    }

    #[test]
    fn a_window_over_a_change_of_the_clock_lasts_as_long_as_the_night_does() {
        // In the night to 2026-03-29 Berlin skips from 02:00 to 03:00.
        let windows = [window(&[Day::Sat], "22:00", "04:00", "Europe/Berlin")];

        assert_eq!(
            Windows(&windows).open_until(at("2026-03-28T21:00:00Z")),
            Some(Some(at("2026-03-29T02:00:00Z")))
        );
    }

    #[test]
    fn text_that_is_no_time_or_no_zone_is_refused() {
        for text in ["24:00", "8:00", "08:60", "+1:00", "08:00:00", "", "noon"] {
            assert_eq!(text.parse::<ClockTime>(), Err(InvalidWindow::Time), "{text}");
        }
        assert_eq!("Europe/Entenhausen".parse::<Zone>().unwrap_err(), InvalidWindow::Zone);
    }

    #[test]
    fn a_window_reads_back_from_json() {
        let window = window(&[Day::Mon, Day::Tue], "08:00", "18:00", "Europe/Berlin");

        let json = serde_json::to_string(&window).unwrap();

        assert_eq!(json, r#"{"days":["mon","tue"],"from":"08:00","to":"18:00","zone":"Europe/Berlin"}"#);
        assert_eq!(serde_json::from_str::<TimeWindow>(&json).unwrap(), window);
    }
}

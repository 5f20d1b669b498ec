//! Weekly time windows in IANA time zones.
//!
//! A window is open whenever a clock on a wall in its zone shows a time in it. So a window that a change of the clock
//! leaves out does not open on that day, and one in an hour that comes twice is open in both.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// A day of the week, written `mon` to `sun`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

    /// The day of the week of this day since 1970-01-01, which was a Thursday.
    pub(crate) fn of(days: i64) -> Self {
        match (days + 3).rem_euclid(7) {
            0 => Self::Mon,
            1 => Self::Tue,
            2 => Self::Wed,
            3 => Self::Thu,
            4 => Self::Fri,
            5 => Self::Sat,
            _ => Self::Sun,
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ClockTime {
    minutes: u16,
}

impl ClockTime {
    /// The time that is this many minutes after midnight; `None` from 1,440 on.
    pub fn from_minutes(minutes: u16) -> Option<Self> {
        (minutes < 24 * 60).then_some(Self { minutes })
    }

    /// Minutes after midnight.
    pub fn minutes(self) -> u16 {
        self.minutes
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
#[derive(Clone, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Zone {
    name: String,
    zone: TimeZone,
}

impl PartialEq for Zone {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Zone {}

impl Hash for Zone {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Zone {
    /// The spans of one offset from UTC (seconds) between two moments, all in seconds since 1970.
    pub(crate) fn spans(&self, from: i64, to: i64) -> Vec<(i64, i64, i64)> {
        let Ok(start) = Timestamp::from_second(from) else { return Vec::new() };
        let mut spans = vec![(from, to, i64::from(self.zone.to_offset(start).seconds()))];
        for change in self.zone.following(start) {
            let at = change.timestamp().as_second();
            if at >= to {
                break;
            }
            if let Some((_, end, _)) = spans.last_mut() {
                *end = at;
            }
            spans.push((at, to, i64::from(change.offset().seconds())));
        }
        spans
    }
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// Several windows in words.
pub(crate) fn describe(windows: &[TimeWindow]) -> String {
    windows.iter().map(TimeWindow::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_no_time_or_no_zone_is_refused() {
        for text in ["24:00", "8:00", "08:60", "+1:00", "08:00:00", "", "noon"] {
            assert_eq!(text.parse::<ClockTime>(), Err(InvalidWindow::Time), "{text}");
        }
        assert_eq!("Europe/Entenhausen".parse::<Zone>().unwrap_err(), InvalidWindow::Zone);
        assert_eq!(ClockTime::from_minutes(1440), None);
        assert_eq!(ClockTime::from_minutes(1439).map(|time| time.to_string()), Some("23:59".into()));
    }

    #[test]
    fn a_window_reads_back_from_json_and_says_when_it_is() {
        let json = r#"{"days":["mon","tue"],"from":"08:00","to":"18:00","zone":"Europe/Berlin"}"#;

        let window: TimeWindow = serde_json::from_str(json).unwrap();

        assert_eq!(serde_json::to_string(&window).unwrap(), json);
        assert_eq!(window.to_string(), "Mon, Tue 08:00 to 18:00 Europe/Berlin");
        assert_eq!(format!("{:?}", window.zone), "Europe/Berlin");
    }

    #[test]
    fn zones_are_told_apart_by_their_names() {
        let zone = |name: &str| name.parse::<Zone>().unwrap();
        let hash = |zone: &Zone| {
            let mut hasher = std::hash::DefaultHasher::new();
            zone.hash(&mut hasher);
            hasher.finish()
        };
        let (berlin, tokyo) = (zone("Europe/Berlin"), zone("Asia/Tokyo"));

        assert_eq!(berlin, zone("Europe/Berlin"));
        assert_ne!(berlin, tokyo);
        assert_eq!(hash(&berlin), hash(&zone("Europe/Berlin")));
        assert_ne!(hash(&berlin), hash(&tokyo));
        assert_eq!(berlin.to_string(), "Europe/Berlin");
    }

    #[test]
    fn the_offsets_of_a_zone_change_where_its_clock_does() {
        let berlin: Zone = "Europe/Berlin".parse().unwrap();
        let second = |text: &str| text.parse::<Timestamp>().unwrap().as_second();
        // In the night to 2026-10-25 Berlin goes back from 03:00 to 02:00.
        let (from, change, to) =
            (second("2026-10-24T00:00:00Z"), second("2026-10-25T01:00:00Z"), second("2026-10-26T00:00:00Z"));

        assert_eq!(berlin.spans(from, to), [(from, change, 7200), (change, to, 3600)]);
        assert_eq!(berlin.spans(from, change), [(from, change, 7200)]);
        assert_eq!(berlin.spans(i64::MAX, i64::MAX), []);
    }

    #[test]
    fn a_day_has_its_name() {
        // 2026-11-23 was a Monday: 20,780 days after 1970-01-01.
        let week: Vec<Day> = (0..7).map(|n| Day::of(20_780 + n)).collect();

        assert_eq!(week, Day::ALL);
        assert_eq!(Day::of(-1), Day::Wed);
        assert_eq!(week.iter().map(Day::to_string).collect::<String>(), "MonTueWedThuFriSatSun");
    }
}

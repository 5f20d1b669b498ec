//! Times as tests name them.

use jiff::civil::{Time, Weekday};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _, Zoned};

/// The text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no time; write a weekday, a time and a zone (monday 10:00 Europe/Berlin), or a date (2026-11-23T10:00[Europe/Berlin], 2026-11-23T09:00:00Z)"
)]
pub struct NotAMoment(String);

/// A Monday. Weekdays without a date are those of its week, in which no zone changes its clock.
const MONDAY: jiff::civil::Date = jiff::civil::date(2026, 1, 5);

fn weekday(text: &str) -> Option<Weekday> {
    const NAMES: [(&str, Weekday); 7] = [
        ("monday", Weekday::Monday),
        ("tuesday", Weekday::Tuesday),
        ("wednesday", Weekday::Wednesday),
        ("thursday", Weekday::Thursday),
        ("friday", Weekday::Friday),
        ("saturday", Weekday::Saturday),
        ("sunday", Weekday::Sunday),
    ];
    let text = text.to_ascii_lowercase();
    NAMES.iter().find(|(name, _)| text == *name || name.get(..3) == Some(text.as_str())).map(|(_, day)| *day)
}

/// Reads `monday 10:00 Europe/Berlin`, `2026-11-23T10:00[Europe/Berlin]` or `2026-11-23T09:00:00Z`.
///
/// # Errors
/// [`NotAMoment`].
pub fn moment(text: &str) -> Result<Timestamp, NotAMoment> {
    let none = || NotAMoment(text.to_owned());
    if let [day, time, zone] = text.split_whitespace().collect::<Vec<_>>().as_slice() {
        let day = weekday(day).ok_or_else(none)?;
        let time: Time = time.parse().map_err(|_| none())?;
        let zone = TimeZone::get(zone).map_err(|_| none())?;
        let date = MONDAY.checked_add(i64::from(day.to_monday_zero_offset()).days()).map_err(|_| none())?;
        return zone.to_timestamp(date.to_datetime(time)).map_err(|_| none());
    }
    text.parse::<Timestamp>()
        .or_else(|_| text.parse::<Zoned>().map(|zoned| zoned.timestamp()))
        .map_err(|_| none())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_read_with_a_weekday_or_a_date() {
        for (text, at) in [
            ("monday 10:00 Europe/Berlin", "2026-01-05T09:00:00Z"),
            ("Sun 23:30 UTC", "2026-01-11T23:30:00Z"),
            ("2026-11-23T10:00[Europe/Berlin]", "2026-11-23T09:00:00Z"),
            ("2026-11-23T09:00:00Z", "2026-11-23T09:00:00Z"),
            ("2026-11-23T10:00:00+01:00", "2026-11-23T09:00:00Z"),
        ] {
            assert_eq!(moment(text).unwrap().to_string(), at, "{text}");
        }
    }

    #[test]
    fn text_that_is_no_time_says_how_to_write_one() {
        for text in ["", "monday", "someday 10:00 UTC", "mon 25:00 UTC", "mon 10:00 Nowhere", "2026-11-23"] {
            assert!(moment(text).unwrap_err().to_string().contains("monday 10:00 Europe/Berlin"), "{text}");
        }
    }
}

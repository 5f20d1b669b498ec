//! Durations as people write them: `30s`, `10m`, `8h`, `7d`.

use std::time::Duration;

const UNITS: [(char, u64); 4] = [('s', 1), ('m', 60), ('h', 3600), ('d', 86_400)];

/// Reads a duration; a bare number is seconds.
///
/// # Errors
/// Text that says what was expected.
pub fn parse(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a duration: write 30s, 10m, 8h or 7d");
    let (digits, factor) = match text.chars().last() {
        Some(last) if last.is_ascii_digit() => (text, 1),
        Some(last) => {
            let (_, factor) = UNITS.into_iter().find(|(unit, _)| *unit == last).ok_or_else(wrong)?;
            (text.strip_suffix(last).unwrap_or_default(), factor)
        }
        None => return Err(wrong()),
    };
    let count = digits.parse::<u64>().map_err(|_| wrong())?;
    let seconds = count.checked_mul(factor).ok_or_else(wrong)?;
    if seconds == 0 {
        Err(format!("`{text}` is no time at all; leave the flag out for no limit"))
    } else {
        Ok(Duration::from_secs(seconds))
    }
}

/// Writes whole seconds in the largest unit that divides them, as [`parse`] reads them.
pub fn show(seconds: u64) -> String {
    let (unit, factor) = UNITS
        .into_iter()
        .rev()
        .find(|(_, factor)| seconds != 0 && seconds.is_multiple_of(*factor))
        .unwrap_or(('s', 1));
    format!("{}{unit}", seconds / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_back_from_what_is_shown() {
        for text in ["30s", "10m", "8h", "7d", "90s"] {
            assert_eq!(show(parse(text).unwrap().as_secs()), text);
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "h", "1w", "-1s", "0h", "1.5h", "99999999999999999999d"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}

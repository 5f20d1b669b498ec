//! Conditions of a policy, from flags to what the API takes.

use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::duration;

const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// Conditions; all that are given must hold. A repeated flag lists alternatives.
#[derive(Debug, Default, Args)]
pub struct ConditionFlags {
    /// When: "mon-fri 08:00-18:00 Europe/Berlin" (days: mon-fri, mon,wed or daily); repeatable
    #[arg(long = "window", value_parser = parse_window, value_name = "WINDOW")]
    pub windows: Vec<Value>,
    /// From where: the device's public address is in this network; repeatable
    #[arg(long = "source-cidr", value_name = "NETWORK")]
    pub source_cidrs: Vec<IpNet>,
    /// Only devices that are marked as verified
    #[arg(long)]
    pub device_verified: bool,
    /// From which country (two letters); repeatable
    #[arg(long = "country", value_name = "CODE")]
    pub countries: Vec<String>,
    /// Signed in at this identity provider; repeatable
    #[arg(long = "provider", value_name = "PROVIDER")]
    pub providers: Vec<String>,
    /// What the device says of itself: os=linux, os=linux,macos, client_version>=1.10, os_version<12; repeatable, all
    /// must hold
    #[arg(long = "posture", value_parser = parse_posture, value_name = "DEMAND")]
    pub posture: Vec<Value>,
    /// Signed in no longer ago than this, such as 12h
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    pub session_age: Option<Duration>,
}

impl ConditionFlags {
    /// The conditions that were given, as the API takes them.
    pub fn body(&self) -> Map<String, Value> {
        let mut body = Map::new();
        let mut list = |name: &str, values: Vec<Value>| {
            if !values.is_empty() {
                body.insert(name.into(), values.into());
            }
        };
        list("time_windows", self.windows.clone());
        list("source_cidrs", self.source_cidrs.iter().map(|net| json!(net.to_string())).collect());
        list("countries", self.countries.iter().map(|code| json!(code.to_ascii_uppercase())).collect());
        list("providers", self.providers.iter().map(|name| json!(name)).collect());
        list("posture", self.posture.clone());
        if self.device_verified {
            body.insert("device_verified".into(), json!(true));
        }
        if let Some(age) = self.session_age {
            body.insert("session_age_seconds".into(), json!(age.as_secs()));
        }
        body
    }
}

/// Whether an object is the conditions of a policy.
pub fn are(members: &Map<String, Value>) -> bool {
    let known = [
        "time_windows",
        "source_cidrs",
        "countries",
        "providers",
        "posture",
        "device_verified",
        "session_age_seconds",
    ];
    !members.is_empty() && members.keys().all(|name| known.contains(&name.as_str()))
}

/// Conditions as a person reads them, close to the flags that set them.
pub fn describe(conditions: &Map<String, Value>) -> String {
    let parts = conditions.iter().filter_map(|(name, value)| {
        let each = |show: fn(&Value) -> String| {
            let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
            items.iter().map(show).collect::<Vec<_>>().join(" or ")
        };
        match name.as_str() {
            "time_windows" => Some(each(describe_window)),
            "posture" => Some(each(describe_posture).replace(" or ", ", ")),
            "source_cidrs" => Some(format!("from {}", each(text))),
            "countries" => Some(format!("in {}", each(text))),
            "providers" => Some(format!("signed in at {}", each(text))),
            "device_verified" => Some("verified device".into()),
            "session_age_seconds" => Some(format!("signed in within {}", duration::show(value.as_u64()?))),
            _ => None,
        }
    });
    parts.collect::<Vec<_>>().join("; ")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn describe_window(window: &Value) -> String {
    let part = |name: &str| window.get(name).map(text).unwrap_or_default();
    let days = window.get("days").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let days = days.iter().map(text).collect::<Vec<_>>();
    let place = |day: &String| DAYS.iter().position(|known| known == day);
    let in_a_row = days.windows(2).all(|pair| match pair {
        [first, second] => place(first).is_some_and(|first| place(second) == Some((first + 1) % DAYS.len())),
        _ => false,
    });
    let days = match days.as_slice() {
        days if days.len() == DAYS.len() => "daily".into(),
        [first, .., last] if in_a_row => format!("{first}-{last}"),
        days => days.join(","),
    };
    format!("{days} {}-{} {}", part("from"), part("to"), part("zone"))
}

fn describe_posture(attribute: &Value) -> String {
    let values = attribute.get("is").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let values = values.iter().map(text).collect::<Vec<_>>().join(",");
    let name = attribute.get("attribute").map(text).unwrap_or_default();
    let demands = [
        ("=", Some(values)),
        (">=", attribute.get("at_least").map(text)),
        ("<", attribute.get("below").map(text)),
    ];
    let shown = demands.into_iter().filter_map(|(sign, value)| {
        value.filter(|value| !value.is_empty()).map(|value| format!("{name}{sign}{value}"))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn parse_days(text: &str) -> Option<Vec<&'static str>> {
    let day = |name: &str| DAYS.iter().position(|day| day.eq_ignore_ascii_case(name));
    if text.eq_ignore_ascii_case("daily") {
        return Some(DAYS.to_vec());
    }
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let length = (last + DAYS.len() - first) % DAYS.len() + 1;
        days.extend(DAYS.iter().copied().cycle().skip(first).take(length));
    }
    Some(days)
}

fn is_time_of_day(text: &str) -> bool {
    let number = |part: &str, limit: u8| part.len() == 2 && part.parse::<u8>().is_ok_and(|n| n < limit);
    text.split_once(':').is_some_and(|(hour, minute)| number(hour, 24) && number(minute, 60))
}

fn parse_window(text: &str) -> Result<Value, String> {
    let wrong = |what: &str| format!("`{text}`: {what}; write \"mon-fri 08:00-18:00 Europe/Berlin\"");
    let parts = text.split_whitespace().collect::<Vec<_>>();
    let [days, times, zone] = parts.as_slice() else {
        return Err(wrong("a window is days, times and a time zone"));
    };
    let days = parse_days(days).ok_or_else(|| wrong("days are mon, mon-fri, sat,sun or daily"))?;
    let (from, to) = times
        .split_once('-')
        .filter(|(from, to)| is_time_of_day(from) && is_time_of_day(to))
        .ok_or_else(|| wrong("times are HH:MM-HH:MM, hours 00 to 23"))?;
    Ok(json!({"days": days, "from": from, "to": to, "zone": zone}))
}

fn parse_posture(text: &str) -> Result<Value, String> {
    let version = |sign: &str, field: &str| {
        let (attribute, version) = text.split_once(sign)?;
        let fits = !attribute.is_empty() && !version.is_empty();
        fits.then(|| json!({"attribute": attribute.trim(), field: version.trim()}))
    };
    if let Some(demand) = version(">=", "at_least").or_else(|| version("<", "below")) {
        return Ok(demand);
    }
    match text.split_once('=') {
        Some((attribute, values)) if !attribute.is_empty() && !values.is_empty() => {
            Ok(json!({"attribute": attribute, "is": values.split(',').collect::<Vec<_>>()}))
        }
        Some(_) | None => {
            Err(format!("`{text}`: write ATTRIBUTE=VALUE, such as os=linux, or client_version>=1.10"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_reads_days_times_and_zone() {
        let window = parse_window("mon-fri 08:00-18:00 Europe/Berlin").unwrap();

        assert_eq!(
            window,
            json!({"days": ["mon", "tue", "wed", "thu", "fri"], "from": "08:00", "to": "18:00", "zone": "Europe/Berlin"})
        );
    }

    #[test]
    fn conditions_read_as_they_were_written() {
        let flags = ConditionFlags {
            windows: vec![
                parse_window("sat-mon 22:00-06:00 UTC").unwrap(),
                parse_window("wed,fri 08:00-09:00 UTC").unwrap(),
            ],
            posture: vec![
                parse_posture("os=linux,macos").unwrap(),
                parse_posture("client_version>=1.10").unwrap(),
                parse_posture("os_version<12").unwrap(),
            ],
            session_age: Some(Duration::from_secs(43_200)),
            ..ConditionFlags::default()
        };

        let body = flags.body();

        assert!(are(&body));
        assert_eq!(
            describe(&body),
            "os=linux,macos, client_version>=1.10, os_version<12; signed in within 12h; sat-mon 22:00-06:00 UTC or wed,fri 08:00-09:00 UTC"
        );
    }

    #[test]
    fn days_may_wrap_over_the_week_and_be_listed() {
        assert_eq!(parse_days("sat-mon,wed"), Some(vec!["sat", "sun", "mon", "wed"]));
        assert_eq!(parse_days("daily").unwrap().len(), 7);
        assert_eq!(parse_days("someday"), None);
    }

    #[test]
    fn a_crooked_window_says_how_to_write_one() {
        for text in ["", "mon", "mon 8-18 UTC", "mon 08:00-24:00 UTC", "mon 08:00-18:00"] {
            assert!(parse_window(text).unwrap_err().contains("mon-fri 08:00-18:00"), "{text}");
        }
    }

    #[test]
    fn no_flag_is_no_condition() {
        assert!(ConditionFlags::default().body().is_empty());
    }
}

//! Conditions in words, close to how people speak of them.

use std::fmt;
use std::time::Duration;

use crate::Conditions;
use crate::window::describe;

/// A duration in its largest whole unit: 8h, 90m.
fn span(seconds: u64) -> String {
    match seconds {
        seconds if seconds % 86_400 == 0 && seconds > 0 => format!("{}d", seconds / 86_400),
        seconds if seconds % 3600 == 0 && seconds > 0 => format!("{}h", seconds / 3600),
        seconds if seconds % 60 == 0 && seconds > 0 => format!("{}m", seconds / 60),
        seconds => format!("{seconds}s"),
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if !self.time_windows.is_empty() {
            parts.push(describe(&self.time_windows));
        }
        if !self.source_cidrs.is_empty() {
            let networks: Vec<String> = self.source_cidrs.iter().map(ToString::to_string).collect();
            parts.push(format!("from {}", networks.join(" or ")));
        }
        match self.device_verified {
            Some(true) => parts.push("verified device".into()),
            Some(false) => parts.push("unverified device".into()),
            None => {}
        }
        parts
            .extend(self.posture.iter().map(|posture| format!("{} {}", posture.attribute, posture.wanted())));
        if let Some(most) = self.session_age_seconds {
            parts.push(format!("signed in within {}", span(most)));
        }
        let either =
            |of: &std::collections::BTreeSet<String>| of.iter().cloned().collect::<Vec<_>>().join(" or ");
        if !self.countries.is_empty() {
            parts.push(format!("in {}", either(&self.countries)));
        }
        if !self.providers.is_empty() {
            parts.push(format!("signed in at {}", either(&self.providers)));
        }
        if parts.is_empty() { f.write_str("always") } else { f.write_str(&parts.join(", ")) }
    }
}

/// What an allow rule gives, in words.
pub(crate) fn terms(conditions: &Conditions, longest: Option<Duration>) -> String {
    match longest {
        None => conditions.to_string(),
        Some(longest) => format!("{conditions}, for at most {}", span(longest.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_read_like_a_sentence() {
        let conditions: Conditions = serde_json::from_str(
            r#"{"time_windows":[{"days":["mon"],"from":"08:00","to":"18:00","zone":"UTC"}],
                "source_cidrs":["198.51.100.0/24","203.0.113.0/24"],"device_verified":true,
                "posture":[{"attribute":"os","is":["linux"]}],"session_age_seconds":43200,
                "countries":["DE","FR"],"providers":["corp"]}"#,
        )
        .unwrap();

        assert_eq!(
            terms(&conditions, Some(Duration::from_secs(5400))),
            "Mon 08:00 to 18:00 UTC, from 198.51.100.0/24 or 203.0.113.0/24, verified device, os linux, signed in within \
             12h, in DE or FR, signed in at corp, for at most 90m"
        );
        assert_eq!(Conditions::default().to_string(), "always");
        let unverified = Conditions { device_verified: Some(false), ..Conditions::default() };
        assert_eq!(terms(&unverified, None), "unverified device");
    }

    #[test]
    fn spans_are_in_their_largest_whole_unit() {
        let spans = [0, 59, 60, 90, 3600, 5400, 86_400, 90_000].map(span);

        assert_eq!(spans, ["0s", "59s", "1m", "90s", "1h", "90m", "1d", "25h"]);
    }
}

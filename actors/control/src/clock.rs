//! The time of day. Tests set it, and it then moves with the actors' clock.

use jiff::Timestamp;
use tokio::time::Instant;

/// Where the time of day comes from.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The system.
    System,
    /// It was this time at this instant.
    From(Timestamp, Instant),
}

impl Clock {
    /// The time of day.
    pub fn now(self) -> Timestamp {
        match self {
            // As exact as it is stored, so that what was just written reads back equal.
            Self::System => {
                let now = Timestamp::now();
                Timestamp::from_millisecond(now.as_millisecond()).unwrap_or(now)
            }
            Self::From(wall, start) => {
                let passed = actors_runtime::time::now().saturating_duration_since(start);
                wall.checked_add(passed).unwrap_or(Timestamp::MAX)
            }
        }
    }
}

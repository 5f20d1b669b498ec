//! Waiting for a state, never for a delay.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a state is looked at.
const INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `state` is there, and says how long that took; an error with the last answer when the limit has passed.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<(T, Duration)> {
    let started = Instant::now();
    loop {
        let last = match look() {
            Ok(Some(state)) => return Ok((state, started.elapsed())),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        crate::signals::rest_when_interrupted();
        if started.elapsed() > limit {
            let why = last.map(|error| format!(": {error:#}")).unwrap_or_default();
            bail!("not within {limit:?}: {what}{why}");
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Looks until a condition holds.
pub fn until_true(what: &str, limit: Duration, mut look: impl FnMut() -> Result<bool>) -> Result<Duration> {
    until(what, limit, || Ok(look()?.then_some(()))).map(|((), took)| took)
}

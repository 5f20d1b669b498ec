//! How often a token may ask: a bucket for each, which fills again with time.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Instant;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use protocol_identity::TokenId;

/// Requests that a token may make at once.
pub const BURST: u32 = 2000;
/// Requests that it gets back each second: a script in a loop reaches about half of it.
pub const PER_SECOND: u32 = 200;
/// Tokens that are remembered; beyond that the fullest bucket, which says least, is forgotten.
const TOKENS: usize = 4096;

/// The buckets.
#[derive(Debug)]
pub struct Rates {
    burst: u32,
    per_second: u32,
    buckets: Mutex<HashMap<TokenId, (f64, Instant)>>,
}

impl Default for Rates {
    fn default() -> Self {
        Self::new(BURST, PER_SECOND)
    }
}

/// What is left to a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    limit: u32,
    remaining: u32,
    reset: u64,
    /// Nothing is left: it has to wait so many seconds.
    pub wait: Option<u64>,
}

impl Rates {
    /// Buckets of this size that fill this fast.
    pub fn new(burst: u32, per_second: u32) -> Self {
        Self { burst, per_second: per_second.max(1), buckets: Mutex::default() }
    }

    /// Takes one request from a token's bucket.
    pub fn take(&self, token: TokenId, now: Instant) -> Allowance {
        let full = f64::from(self.burst);
        let Ok(mut buckets) = self.buckets.lock() else { return self.allowance(full, false) };
        if !buckets.contains_key(&token) && buckets.len() >= TOKENS {
            let fullest = buckets.iter().max_by(|a, b| a.1.0.total_cmp(&b.1.0)).map(|(token, _)| *token);
            if let Some(fullest) = fullest {
                buckets.remove(&fullest);
            }
        }
        let (left, at) = buckets.entry(token).or_insert((full, now));
        let passed = now.saturating_duration_since(*at).as_secs_f64();
        *left = (*left + passed * f64::from(self.per_second)).min(full);
        *at = now;
        let refused = *left < 1.0;
        if !refused {
            *left -= 1.0;
        }
        self.allowance(*left, refused)
    }

    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between 0 and the burst, a u32"
    )]
    fn allowance(&self, left: f64, refused: bool) -> Allowance {
        let rate = f64::from(self.per_second);
        let reset = ((f64::from(self.burst) - left) / rate).ceil() as u64;
        let wait = refused.then(|| (((1.0 - left) / rate).ceil() as u64).max(1));
        Allowance { limit: self.burst, remaining: left as u32, reset, wait }
    }
}

impl Allowance {
    /// Tells the client.
    pub fn write(self, headers: &mut HeaderMap) {
        for (name, value) in [
            ("ratelimit-limit", u64::from(self.limit)),
            ("ratelimit-remaining", u64::from(self.remaining)),
            ("ratelimit-reset", self.reset),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from(value));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_that_asks_too_often_waits_and_others_do_not() {
        let rates = Rates::new(3, 1);
        let (busy, other, now) = (TokenId::fresh(), TokenId::fresh(), Instant::now());

        let left: Vec<u32> = (0..3).map(|_| rates.take(busy, now).remaining).collect();
        let refused = rates.take(busy, now);

        assert_eq!(left, [2, 1, 0]);
        assert_eq!((refused.wait, refused.reset), (Some(1), 3));
        assert_eq!(rates.take(other, now).wait, None);
        assert_eq!(rates.take(busy, now + Duration::from_secs(1)).wait, None);
    }

    #[test]
    fn many_tokens_do_not_fill_the_memory() {
        let (rates, now) = (Rates::default(), Instant::now());

        for _ in 0..TOKENS + 10 {
            rates.take(TokenId::fresh(), now);
        }

        assert_eq!(rates.buckets.lock().unwrap().len(), TOKENS);
    }
}

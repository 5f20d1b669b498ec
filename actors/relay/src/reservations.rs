//! Ports that are kept for an allocation to come (RFC 8656 §7.2: the pair of RTP and RTCP).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use protocol_stun::relay::{User, code};

use crate::ports::Relayed;

/// RFC 8656 §7.2: at least 30 s.
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Each is a socket that nobody may ever ask for.
const MOST: usize = 256;

struct Kept {
    relayed: Relayed,
    node: Arc<str>,
    until: Duration,
}

/// The kept ports of a lane.
#[derive(Default)]
pub(crate) struct Reservations(BTreeMap<u64, Kept>);

impl Reservations {
    /// Keeps a port for the next allocation of `user`; `token` is random.
    pub(crate) fn keep(
        &mut self,
        token: u64,
        relayed: Relayed,
        user: &User,
        now: Duration,
    ) -> Result<(), u16> {
        self.expire(now);
        if self.0.len() >= MOST || self.0.contains_key(&token) {
            return Err(code::INSUFFICIENT_CAPACITY);
        }
        self.0.insert(token, Kept { relayed, node: Arc::clone(&user.node), until: now + KEPT_FOR });
        Ok(())
    }

    /// The port that is kept under `token`, for whom it is kept.
    pub(crate) fn take(&mut self, token: u64, user: &User, now: Duration) -> Result<Relayed, u16> {
        self.expire(now);
        if self.0.get(&token).is_none_or(|kept| kept.node != user.node) {
            return Err(code::INSUFFICIENT_CAPACITY);
        }
        self.0.remove(&token).map(|kept| kept.relayed).ok_or(code::INSUFFICIENT_CAPACITY)
    }

    pub(crate) fn expire(&mut self, now: Duration) {
        self.0.retain(|_, kept| now < kept.until);
    }

    /// When the first of them ends.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.0.values().map(|kept| kept.until).min()
    }
}

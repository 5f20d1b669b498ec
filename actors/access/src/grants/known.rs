//! What a client holds about one resource, and about one gateway.

use std::time::Duration;

use actors_runtime::Reply;
use actors_tunnel::{PathSummary, lasting_time};
use protocol_control::{Answer, Candidate, DenyReason, MappedName, ResourceView};
use protocol_identity::{GatewayId, GrantId, Secret32};

use super::Decided;

/// A grant is asked for anew this long before it ends, or at half of its time, so that use does not stop.
const RENEW_BEFORE: Duration = Duration::from_secs(10);
/// What is left of a grant that is not asked for anew any more: what control gives then ends at the same time.
const TOO_SHORT: Duration = Duration::from_secs(1);

/// One resource.
pub(super) struct Known {
    pub(super) view: ResourceView,
    pub(super) mapped: Option<MappedName>,
    pub(super) stand: Stand,
    pub(super) waiting: Vec<Reply<Decided>>,
}

pub(super) enum Stand {
    Unused,
    Asked { request: u64 },
    Granted { grant: GrantId, gateway: GatewayId, term: Term, families: (bool, bool), renewing: bool },
    Denied(DenyReason),
    Offline,
}

/// The time of a grant, on [`lasting_time`].
#[derive(Clone, Copy)]
pub(super) struct Term {
    pub(super) ends: Duration,
    pub(super) renew: Option<Duration>,
}

impl Term {
    pub(super) fn of(remaining: Duration) -> Self {
        let ends = lasting_time() + remaining;
        let renew = (remaining >= TOO_SHORT).then(|| ends.saturating_sub(RENEW_BEFORE.min(remaining / 2)));
        Self { ends, renew }
    }
}

pub(super) struct Gateway {
    pub(super) slot: u16,
    pub(super) name: String,
    /// Whether what is sent to it stays unanswered on every path.
    pub(super) silent: bool,
    pub(super) answer: Answer,
    pub(super) secret: Secret32,
    pub(super) candidates: Vec<Candidate>,
    pub(super) path: Option<PathSummary>,
}

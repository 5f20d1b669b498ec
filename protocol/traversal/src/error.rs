//! Why a probe went no further.

use crate::Refused;

/// Why a probe was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum ProbeError {
    /// The peer sent bytes that are no probe.
    #[error("not a probe")]
    Malformed,
    /// The tag did not fit: forged, damaged, or of another connection.
    #[error("not authentic")]
    NotAuthentic,
    /// Seen before, too old, or of a sender that has been made anew since.
    #[error("replayed or too old")]
    Replayed,
    /// It came from an address that is never answered.
    #[error("from an address that is never answered")]
    Source(#[source] Refused),
    /// Ours: no room for another path.
    #[error("no room for another path")]
    NoRoom,
}

impl ProbeError {
    /// The name under which drops are counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "probe_malformed",
            Self::NotAuthentic => "probe_not_authentic",
            Self::Replayed => "probe_replayed",
            Self::Source(_) => "probe_source",
            Self::NoRoom => "probe_no_room",
        }
    }
}

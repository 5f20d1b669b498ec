//! What `status` shows of paths.

use std::time::Duration;

use crate::{Path, PathKind};

/// The path that data takes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathReport {
    /// Direct, or through a relay.
    pub kind: PathKind,
    /// The path.
    pub path: Path,
    /// Whether it has been proven; until then data goes there because data came from there.
    pub proven: bool,
    /// Smoothed round trip; `None` until it has been measured.
    pub rtt: Option<Duration>,
    /// The shortest round trip seen.
    pub min_rtt: Option<Duration>,
    /// Share of probes that were not answered, 0 to 1, smoothed.
    pub loss: f32,
    /// For how long data has taken it.
    pub since: Duration,
    /// Largest UDP payload.
    pub mtu: u16,
}

/// One path that the agent knows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathView {
    /// The path.
    pub path: Path,
    /// Direct, or through a relay.
    pub kind: PathKind,
    /// Whether an answer has proven it, lately.
    pub proven: bool,
    /// Whether data takes it.
    pub selected: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Share of probes that were not answered, 0 to 1, smoothed.
    pub loss: f32,
}

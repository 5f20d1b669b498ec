//! What a relay counts besides drops: written by its lanes, read by telemetry.

use std::sync::atomic::{AtomicU64, Ordering};

/// Which way a relayed packet went. Keep-alives and other STUN messages are no relayed packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From a client to a peer.
    ToPeer,
    /// From a peer to a client.
    ToClient,
    /// From one allocation to another, inside the process (counted once, besides `ToClient` at the other).
    InProcess,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ToPeer, Self::ToClient, Self::InProcess];

    /// The value of the metric's `direction`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ToPeer => "to_peer",
            Self::ToClient => "to_client",
            Self::InProcess => "in_process",
        }
    }
}

/// A STUN message that the relay answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// A Binding, a challenge, or a refusal: answered to somebody not authenticated.
    Stranger,
    /// Allocate.
    Allocate,
    /// Refresh, the keep-alive of allocations.
    Refresh,
    /// CreatePermission.
    CreatePermission,
    /// ChannelBind.
    ChannelBind,
}

impl Request {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Stranger, Self::Allocate, Self::Refresh, Self::CreatePermission, Self::ChannelBind];

    /// The value of the metric's `request`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Allocate => "allocate",
            Self::Refresh => "refresh",
            Self::CreatePermission => "create_permission",
            Self::ChannelBind => "channel_bind",
        }
    }
}

/// The counters of one process.
#[derive(Debug, Default)]
pub struct RelayCounters {
    packets: [AtomicU64; 3],
    bytes: [AtomicU64; 3],
    requests: [AtomicU64; 5],
    allocations: AtomicU64,
    allocated: AtomicU64,
    icmp: AtomicU64,
}

/// One reading.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Totals {
    /// Relayed packets by direction.
    pub packets: Vec<(&'static str, u64)>,
    /// Their payload in bytes by direction.
    pub bytes: Vec<(&'static str, u64)>,
    /// Answered STUN messages by request.
    pub requests: Vec<(&'static str, u64)>,
    /// Allocations at present.
    pub allocations: u64,
    /// Allocations ever made.
    pub allocated: u64,
    /// ICMP errors that clients were told.
    pub icmp: u64,
}

impl RelayCounters {
    pub(crate) fn relayed(&self, direction: Direction, packets: u64, bytes: u64) {
        add(self.packets.get(direction as usize), packets);
        add(self.bytes.get(direction as usize), bytes);
    }

    pub(crate) fn answered(&self, request: Request) {
        add(self.requests.get(request as usize), 1);
    }

    pub(crate) fn reported(&self) {
        add(Some(&self.icmp), 1);
    }

    pub(crate) fn began(&self) {
        add(Some(&self.allocations), 1);
        add(Some(&self.allocated), 1);
    }

    pub(crate) fn ended(&self) {
        self.allocations.fetch_sub(1, Ordering::Relaxed);
    }

    /// Allocations at present.
    pub fn allocations(&self) -> u64 {
        self.allocations.load(Ordering::Relaxed)
    }

    /// Relayed packets so far.
    pub fn packets(&self, direction: Direction) -> u64 {
        read(self.packets.get(direction as usize))
    }

    /// Answered messages so far.
    pub fn requests(&self, request: Request) -> u64 {
        read(self.requests.get(request as usize))
    }

    /// Everything at once.
    pub fn totals(&self) -> Totals {
        let bytes = |direction: Direction| read(self.bytes.get(direction as usize));
        Totals {
            packets: Direction::ALL.map(|d| (d.as_str(), self.packets(d))).to_vec(),
            bytes: Direction::ALL.map(|d| (d.as_str(), bytes(d))).to_vec(),
            requests: Request::ALL.map(|r| (r.as_str(), self.requests(r))).to_vec(),
            allocations: self.allocations(),
            allocated: self.allocated.load(Ordering::Relaxed),
            icmp: self.icmp.load(Ordering::Relaxed),
        }
    }
}

fn add(counter: Option<&AtomicU64>, n: u64) {
    if let Some(counter) = counter {
        counter.fetch_add(n, Ordering::Relaxed);
    }
}

fn read(counter: Option<&AtomicU64>) -> u64 {
    counter.map_or(0, |counter| counter.load(Ordering::Relaxed))
}

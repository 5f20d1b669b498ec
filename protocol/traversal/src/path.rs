//! Where datagrams can go: candidates, and paths made of them.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// One of our own allocations at a relay, by its place in the process's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelaySlot(pub u8);

/// How a datagram leaves us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// From our own socket.
    Direct,
    /// Through our allocation at a relay.
    Relay(RelaySlot),
}

/// One way to the other end: how it leaves, and to which address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// How it leaves.
    pub via: Via,
    /// Where it goes.
    pub remote: SocketAddr,
}

impl Path {
    /// From our own socket to `remote`.
    pub fn direct(remote: SocketAddr) -> Self {
        Self { via: Via::Direct, remote }
    }

    /// Through our allocation in `slot` to `remote`.
    pub fn relayed(slot: RelaySlot, remote: SocketAddr) -> Self {
        Self { via: Via::Relay(slot), remote }
    }
}

/// Whether a relay, ours or theirs, is on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PathKind {
    /// End to end.
    Direct,
    /// Through a relay.
    Relayed,
}

impl fmt::Display for PathKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        })
    }
}

/// Where an address of the other end comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CandidateKind {
    /// An address of one of its interfaces.
    Host,
    /// Its address as somebody outside sees it.
    Reflexive,
    /// Its allocation at a relay.
    Relayed,
}

/// An address at which the other end may be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Candidate {
    /// The address.
    pub address: SocketAddr,
    /// Where it comes from.
    pub kind: CandidateKind,
}

/// The most candidates that one end keeps of the other.
pub const MAX_CANDIDATES: usize = 16;

/// IPv4 in its IPv6 clothes is IPv4, so that one address has one form.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

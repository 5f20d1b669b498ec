//! The relay's side: who may come in, and one machine for each allocation.
//!
//! ```text
//! datagram ── Front ──┬─ Answer (Binding, challenge, refusal)
//!                     ├─ Authenticated(Request) ── Allocation of that five-tuple, or Allocation::grant
//!                     └─ Indication / ChannelData ── Allocation of that five-tuple
//! ```

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

mod allocation;
mod authority;
mod channels;
mod front;
mod meter;
mod payload;
mod permissions;
mod quota;
mod request;
mod strangers;

pub use allocation::{Allocation, Ended, Granted, Output, ToClient, ToPeer};
pub use authority::Authority;
pub use front::{Decision, Front, LONGEST_REALM};
pub use meter::{Meter, Rate};
pub use payload::Payload;
pub use quota::{Bounds, Quota, Share};
pub use request::{AllocateAsk, Ask, Request};
pub use strangers::Strangers;

/// A tenant, as far as a relay knows it: what stands before `/` in the node of a time-limited name, or a static user.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Account(Arc<str>);

impl Account {
    /// By its name.
    pub fn new(name: &str) -> Self {
        Self(name.into())
    }
}

/// Who sent an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// The user name of the request.
    pub name: Arc<str>,
    /// Whose quota it counts against: the node without its expiry, so that a fresh credential gives no fresh quota.
    pub node: Arc<str>,
    /// The tenant.
    pub account: Account,
}

/// How a client talks to the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A stream, with TLS or without: the five-tuple is that of the connection either way.
    Tcp,
}

/// What identifies an allocation (RFC 8656 §3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FiveTuple {
    /// How the client talks to the relay.
    pub transport: Transport,
    /// The client's address as the relay sees it.
    pub client: SocketAddr,
    /// The relay's address that the client sends to.
    pub relay: SocketAddr,
}

/// An ICMP error about a packet of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IcmpError {
    /// ICMP or ICMPv6 type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The MTU of "fragmentation needed" and "packet too big".
    pub data: u32,
}

impl IcmpError {
    /// RFC 8656 §11.5: unreachable and time exceeded of IPv4; unreachable, too big and time exceeded of IPv6.
    fn is_reported(self, family: crate::Family) -> bool {
        match family {
            crate::Family::V4 => matches!(self.kind, 3 | 11),
            crate::Family::V6 => matches!(self.kind, 1..=3),
        }
    }

    /// RFC 8656 §18.13: zero except for the MTU.
    fn reported_data(self) -> u32 {
        match (self.kind, self.code) {
            (3, 4) | (2, _) => self.data,
            _ => 0,
        }
    }
}

/// Bounds of one allocation.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Lifetime when the client asks for none or for less (RFC 8656 §3.2).
    pub lifetime: Duration,
    /// Longest lifetime that a client gets.
    pub longest_lifetime: Duration,
    /// Most permissions at one time.
    pub permissions: usize,
    /// Most channels at one time, the quarantined included.
    pub channels: usize,
    /// What passes.
    pub payload: Payload,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(600),
            longest_lifetime: Duration::from_secs(3600),
            // One of each for every client of a large gateway.
            permissions: 4096,
            channels: 4096,
            payload: Payload::Any,
        }
    }
}

/// Why the relay did not forward or answer a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Neither STUN nor ChannelData.
    NotForRelay,
    /// Not one well-formed STUN message.
    Malformed,
    /// A method or class that a relay does not answer.
    UnknownMethod,
    /// There is no allocation for this five-tuple.
    NoAllocation,
    /// No permission for this peer (RFC 8656 §9).
    NoPermission,
    /// The channel is not bound (RFC 8656 §12).
    NoChannel,
    /// A Send indication without peer or data, or with an attribute that it must not have.
    BadIndication,
    /// The allocation has no relayed address of the peer's family.
    WrongFamily,
    /// This stranger has had its answers for now.
    TooManyRequests,
    /// Not what this relay passes on.
    PayloadRefused,
    /// The answer would be longer than three times the request.
    WouldAmplify,
    /// An ICMP error of a kind that clients are not told.
    IcmpNotReported,
    /// Addressed to the relay's own host, where no allocation has that address.
    OwnHost,
}

impl DropReason {
    /// The value of the counter's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NotForRelay => "not_for_relay",
            Self::Malformed => "malformed",
            Self::UnknownMethod => "unknown_method",
            Self::NoAllocation => "no_allocation",
            Self::NoPermission => "no_permission",
            Self::NoChannel => "no_channel",
            Self::BadIndication => "bad_indication",
            Self::WrongFamily => "wrong_family",
            Self::TooManyRequests => "too_many_requests",
            Self::PayloadRefused => "payload_refused",
            Self::WouldAmplify => "would_amplify",
            Self::IcmpNotReported => "icmp_not_reported",
            Self::OwnHost => "own_host",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Error codes of RFC 8489 §14.8 and RFC 8656 §19.
pub mod code {
    /// The request makes no sense.
    pub const BAD_REQUEST: u16 = 400;
    /// Say who you are.
    pub const UNAUTHENTICATED: u16 = 401;
    /// That peer is not allowed.
    pub const FORBIDDEN: u16 = 403;
    /// An attribute that must be understood is not.
    pub const UNKNOWN_ATTRIBUTE: u16 = 420;
    /// There is an allocation already, or none.
    pub const ALLOCATION_MISMATCH: u16 = 437;
    /// Take the new nonce.
    pub const STALE_NONCE: u16 = 438;
    /// No relayed address of that family here.
    pub const FAMILY_NOT_SUPPORTED: u16 = 440;
    /// The allocation belongs to somebody else.
    pub const WRONG_CREDENTIALS: u16 = 441;
    /// Only UDP is relayed.
    pub const TRANSPORT_NOT_SUPPORTED: u16 = 442;
    /// The allocation has no relayed address of the peer's family.
    pub const PEER_FAMILY_MISMATCH: u16 = 443;
    /// This user has enough allocations.
    pub const QUOTA_REACHED: u16 = 486;
    /// The relay can do no more.
    pub const INSUFFICIENT_CAPACITY: u16 = 508;
}

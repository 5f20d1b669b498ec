//! Why a packet does not pass.

use protocol_packet::Malformed;

/// Why a packet was dropped or refused. The names are counters: they never change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
#[error("{}", self.as_str())]
pub enum Reason {
    /// Not a packet that is taken at all.
    Malformed(Malformed),
    /// The source is not the sender's own inner address.
    SpoofedSource,
    /// The destination is not the receiver's inner address.
    NotForPeer,
    /// Neither TCP, UDP, ICMP echo nor an ICMP error.
    NotCarried,
    /// No grant leads to the destination.
    NoGrant,
    /// A grant leads there, but not with this protocol or port.
    Filtered,
    /// The only grants that lead there have ended.
    GrantEnded,
    /// Loopback, link-local, metadata, multicast, or the gateway's own, and no `ip` resource names it exactly.
    Forbidden,
    /// The gateway's own ceiling does not have the destination.
    AboveCeiling,
    /// The name has no address of this IP version.
    NoAddress,
    /// The peer's grants are older than a revocation that it saw.
    Revoked,
    /// Belongs to no live flow.
    NoFlow,
    /// Belongs to a flow that was cut.
    FlowCut,
    /// The peer has too many flows.
    FlowTableFull,
    /// No free source port towards the destination.
    PortsExhausted,
    /// An ICMP error about no live flow, or not from where it claims.
    UnknownQuote,
    /// The packet could not be rewritten.
    NotRewritten,
    /// Client: no resource has this destination.
    NoResource,
    /// Client: access to the resource is denied.
    Denied,
    /// Client: the peer sent from a source that is not granted through it.
    WrongPeer,
}

impl Reason {
    /// The name of the counter.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.as_str(),
            Self::SpoofedSource => "spoofed_source",
            Self::NotForPeer => "not_for_peer",
            Self::NotCarried => "protocol_not_carried",
            Self::NoGrant => "no_grant",
            Self::Filtered => "filtered",
            Self::GrantEnded => "grant_ended",
            Self::Forbidden => "forbidden_destination",
            Self::AboveCeiling => "above_ceiling",
            Self::NoAddress => "no_address",
            Self::Revoked => "revoked",
            Self::NoFlow => "no_flow",
            Self::FlowCut => "flow_cut",
            Self::FlowTableFull => "flow_table_full",
            Self::PortsExhausted => "ports_exhausted",
            Self::UnknownQuote => "icmp_unknown_quote",
            Self::NotRewritten => "not_rewritten",
            Self::NoResource => "no_resource",
            Self::Denied => "denied",
            Self::WrongPeer => "wrong_peer",
        }
    }

    /// Of two reasons why two grants did not admit a packet, the one whose grant came closer to it.
    pub(crate) fn or_nearer(self, other: Self) -> Self {
        let closeness = |reason: Self| match reason {
            Self::NoGrant | Self::NoResource => 0,
            Self::Filtered => 1,
            Self::GrantEnded => 2,
            _ => 3,
        };
        if closeness(other) > closeness(self) { other } else { self }
    }
}

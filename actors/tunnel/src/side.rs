//! What a peer's packets must pass, by which side we are on.

use std::sync::Arc;
use std::time::Duration;

use actors_network::{HostPacket, Run};
use protocol_control::{GrantVersion, InnerAddresses};
use protocol_filter::{
    FlowRecord, GatewayRules, Offload, Output, PeerFilter, PeerGrants, ReplyBuf, ShortPacket,
    Verdict as FilterVerdict,
};

use crate::lane::{TunnelLane, lasting_time};

/// What to do with a packet.
pub(crate) enum Verdict {
    /// Send so many bytes of it on.
    Forward(usize),
    /// Count it, and send [`Side::answer`] back to where it came from.
    Answer(&'static str),
    /// Count it.
    Drop(&'static str),
}

impl Verdict {
    fn of(verdict: FilterVerdict) -> Self {
        match verdict {
            FilterVerdict::Forward { length } => Self::Forward(length),
            FilterVerdict::Reply(reason) => Self::Answer(reason.as_str()),
            FilterVerdict::Drop(reason) => Self::Drop(reason.as_str()),
        }
    }
}

/// What a side has to send by itself.
pub(crate) enum SideOutput {
    /// To the other end of the tunnel.
    ToPeer(ShortPacket),
    /// To the host.
    ToHost(ShortPacket),
    /// A flow has ended.
    FlowEnded(FlowRecord),
}

/// A gateway's new grants for one peer.
#[derive(Debug, Clone)]
pub struct GatewayApply {
    /// The compiled grants; their ends are on [`lasting_time`].
    pub grants: PeerGrants,
    /// The host's own rules.
    pub rules: Arc<GatewayRules>,
}

/// One side of a connection. At a gateway, grants are on the clock that counts suspend: they end on time even if the
/// machine slept.
pub(crate) enum Side {
    /// At a gateway: grants, flows and translation.
    Gateway(Box<GatewaySide>),
    /// At a client: the lane's table decides.
    Client { slot: u16 },
}

pub(crate) struct GatewaySide {
    filter: PeerFilter,
    rules: Arc<GatewayRules>,
    reply: ReplyBuf,
}

impl Side {
    pub(crate) fn gateway(peer: &InnerAddresses, rules: Arc<GatewayRules>) -> Self {
        let inner = vec![peer.v4.into(), peer.v6.into()];
        Self::Gateway(Box::new(GatewaySide {
            filter: PeerFilter::new(inner, rules.clone(), rand::random()),
            rules,
            reply: ReplyBuf::new(),
        }))
    }

    pub(crate) fn apply(&mut self, apply: GatewayApply) {
        if let Self::Gateway(side) = self {
            if side.rules != apply.rules {
                side.rules = apply.rules.clone();
                side.filter.configure(apply.rules, lasting_time());
            }
            // A stale table changes nothing, by design: a newer one is in force.
            let _ = side.filter.apply(apply.grants, lasting_time());
        }
    }

    pub(crate) fn revoke(&mut self, version: GrantVersion) {
        if let Self::Gateway(side) = self {
            side.filter.revoke(version);
        }
    }

    /// Packets that the other end sent, as one.
    pub(crate) fn admit(&mut self, run: &mut Run<'_>, lane: &TunnelLane, now: Duration) -> Verdict {
        match self {
            Self::Gateway(side) => {
                let offload = Offload { checksum: run.checksum(), segment: run.segment() };
                let verdict = side.filter.inward(run.bytes_mut(), offload, now, &mut side.reply);
                Verdict::of(verdict)
            }
            Self::Client { slot } => match lane.router().borrow().admit(*slot, run.bytes()) {
                Ok(length) => Verdict::Forward(length),
                Err(reason) => Verdict::Drop(reason),
            },
        }
    }

    /// A packet for the other end.
    pub(crate) fn release(&mut self, packet: &mut HostPacket, now: Duration) -> Verdict {
        match self {
            Self::Gateway(side) => {
                let offload = Offload { checksum: packet.checksum(), segment: packet.segment() };
                let verdict = side.filter.outward(packet.bytes_mut(), offload, now, &mut side.reply);
                Verdict::of(verdict)
            }
            // The router has already decided.
            Self::Client { .. } => Verdict::Forward(packet.bytes().len()),
        }
    }

    /// What goes back after [`Verdict::Answer`].
    pub(crate) fn answer(&self) -> &[u8] {
        match self {
            Self::Gateway(side) => &side.reply,
            Self::Client { .. } => &[],
        }
    }

    pub(crate) fn poll_output(&mut self) -> Option<SideOutput> {
        match self {
            Self::Gateway(side) => side.filter.poll_output().map(|output| match output {
                Output::ToPeer(packet) => SideOutput::ToPeer(packet),
                Output::ToResource(packet) => SideOutput::ToHost(packet),
                Output::FlowEnded(record) => SideOutput::FlowEnded(record),
            }),
            Self::Client { .. } => None,
        }
    }

    /// Forgets the flows and hands over what there is to tell of them; their ends hear nothing.
    pub(crate) fn hand_on(&mut self) -> Vec<FlowRecord> {
        if let Self::Gateway(side) = self {
            side.filter.release();
        }
        std::iter::from_fn(|| self.poll_output())
            .filter_map(|output| match output {
                SideOutput::FlowEnded(record) => Some(record),
                SideOutput::ToPeer(_) | SideOutput::ToHost(_) => None,
            })
            .collect()
    }

    /// How long until [`Self::handle_timeout`] is due.
    pub(crate) fn timeout_in(&self) -> Option<Duration> {
        match self {
            Self::Gateway(side) => side.filter.poll_timeout().map(|at| at.saturating_sub(lasting_time())),
            Self::Client { .. } => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self) {
        if let Self::Gateway(side) = self {
            side.filter.handle_timeout(lasting_time());
        }
    }
}

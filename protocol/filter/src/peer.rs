//! A gateway's filter for one peer.
//!
//! ```text
//! device ── inward ──> check, translate ──> resource
//!        <── outward ─ only live flows <──
//! ```

mod ends;
mod inward;
mod outward;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol_packet::{Headers, IcmpError, Transport, icmp_error, reset_for};

use crate::bucket::Bucket;
use crate::flows::Flows;
use crate::{FlowRecord, GatewayRules, GrantVersion, PeerGrants, Reason, ReplyBuf, ShortPacket};

/// What to do with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Send its first `length` bytes on; they have been translated.
    Forward {
        /// The packet's own length, bytes.
        length: usize,
    },
    /// Count it as dropped, and send what is in the reply buffer back to where it came from.
    Reply(Reason),
    /// Count it as dropped.
    Drop(Reason),
}

/// What the machine has to send or tell, without a packet having come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send to the peer.
    ToPeer(ShortPacket),
    /// Send to the resource's side.
    ToResource(ShortPacket),
    /// A flow has ended.
    FlowEnded(FlowRecord),
}

/// What became of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applied {
    /// It is in force.
    InForce,
    /// It is older than what is in force, or than a revocation: nothing was changed.
    Stale,
}

/// Checks and translates the packets of one peer, and ends its flows.
///
/// Feed it with [`inward`](Self::inward), [`outward`](Self::outward), [`apply`](Self::apply),
/// [`revoke`](Self::revoke); drain [`poll_output`](Self::poll_output) after each; sleep no longer than
/// [`poll_timeout`](Self::poll_timeout), then [`handle_timeout`](Self::handle_timeout).
#[derive(Debug)]
pub struct PeerFilter {
    inner: Vec<IpAddr>,
    rules: Arc<GatewayRules>,
    grants: PeerGrants,
    /// The newest revocation.
    revoked: GrantVersion,
    flows: Flows,
    outputs: VecDeque<Output>,
    to_peer: Bucket,
    to_resource: Bucket,
}

impl PeerFilter {
    /// A filter for the peer with these inner addresses, which may reach nothing yet. `seed` is random.
    pub fn new(inner: Vec<IpAddr>, rules: Arc<GatewayRules>, seed: u64) -> Self {
        let limits = rules.limits;
        let bucket = Bucket::new(limits.refusal_burst, limits.refusal_rate);
        Self {
            inner,
            rules,
            grants: PeerGrants::none(GrantVersion::default()),
            revoked: GrantVersion::default(),
            flows: Flows::new(limits.flows, seed),
            outputs: VecDeque::new(),
            to_peer: bucket,
            to_resource: bucket,
        }
    }

    /// The version in force.
    pub fn version(&self) -> GrantVersion {
        self.grants.version()
    }

    /// The grants in force.
    pub fn grants(&self) -> &PeerGrants {
        &self.grants
    }

    /// Whether everything is dropped because a revocation is newer than the grants.
    pub fn is_blocked(&self) -> bool {
        self.grants.version() < self.revoked
    }

    /// How many flows there are, those that were cut a short while ago included.
    pub fn flows(&self) -> usize {
        self.flows.len()
    }

    /// What there is to send or tell; `None` when there is nothing more.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is needed, at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.flows.next()
    }

    fn is_inner(&self, address: IpAddr) -> bool {
        self.inner.contains(&address)
    }

    /// Refuses a packet of the device, so that its application fails at once.
    fn refuse(
        &mut self,
        packet: &[u8],
        headers: &Headers,
        reason: Reason,
        now: Duration,
        out: &mut ReplyBuf,
    ) -> Verdict {
        if out.write(|out| refusal(out, packet, headers)) && self.to_peer.take(now) {
            Verdict::Reply(reason)
        } else {
            Verdict::Drop(reason)
        }
    }
}

/// Writes what makes an application give up: a RST for TCP, for the rest "administratively prohibited".
pub(crate) fn refusal(
    out: &mut [u8],
    packet: &[u8],
    headers: &Headers,
) -> Result<usize, protocol_packet::NotBuilt> {
    match headers.transport {
        Transport::Tcp(_) => reset_for(out, headers),
        Transport::Udp(_) | Transport::Icmp(_) | Transport::Other(_) => {
            icmp_error(out, packet, headers, IcmpError::Prohibited, headers.destination)
        }
    }
}

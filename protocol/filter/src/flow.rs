//! One flow: who began it, where it leads, and the sequence numbers that would end it.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol_identity::{GrantId, PolicyId, ResourceId};
use protocol_packet::{Headers, Rewrite, Tcp, TcpFlags, protocol, reset};
use serde::{Deserialize, Serialize};

use crate::ShortPacket;
use crate::table::Ticket;

/// An address with a port; for ICMP the port is the echo identifier at the device and zero at the resource.
pub type Endpoint = SocketAddr;

/// Why a flow ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowEnd {
    /// Both ends said so, or one reset it.
    Closed,
    /// Nothing passed for too long.
    Idle,
    /// Its grant came to its end.
    GrantEnded,
    /// Its grant was revoked or narrowed.
    Revoked,
    /// The peer is gone.
    PeerGone,
}

impl FlowEnd {
    const ALL: [Self; 5] = [Self::Closed, Self::Idle, Self::GrantEnded, Self::Revoked, Self::PeerGone];

    /// What has this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|end| end.as_str() == name)
    }

    /// The name in logs and counters.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::GrantEnded => "grant_ended",
            Self::Revoked => "revoked",
            Self::PeerGone => "peer_gone",
        }
    }
}

/// What is known of a flow when it has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowRecord {
    /// The grant that it used last.
    pub grant: GrantId,
    /// The resource.
    pub resource: ResourceId,
    /// The policy that gave the grant.
    pub policy: PolicyId,
    /// Protocol number.
    pub protocol: u8,
    /// The device's end.
    pub device: Endpoint,
    /// The resource's end as the device addresses it.
    pub destination: Endpoint,
    /// The name, if it was addressed by one.
    pub name: Option<String>,
    /// The resource's address as the gateway reaches it.
    pub real: IpAddr,
    /// When the first packet came.
    pub started: Duration,
    /// When the last packet came.
    pub last: Duration,
    /// Packets from the device.
    pub packets_in: u64,
    /// Bytes of IP from the device.
    pub bytes_in: u64,
    /// Packets to the device.
    pub packets_out: u64,
    /// Bytes of IP to the device.
    pub bytes_out: u64,
    /// Why it ended.
    pub end: FlowEnd,
}

/// How a flow is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FlowKey {
    near: u128,
    far: u128,
    ports: u32,
    protocol: u8,
}

impl FlowKey {
    /// `near` is at the device, `far` at the resource.
    pub(crate) fn new(number: u8, near: Endpoint, far: Endpoint) -> Self {
        Self {
            near: bits(near.ip()),
            far: bits(far.ip()),
            ports: u32::from(near.port()) << 16 | u32::from(far.port()),
            protocol: number,
        }
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// Where a flow is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// Only the device has sent.
    Opening,
    /// Both ends have.
    Open,
    /// Both ends are done, or one reset it.
    Closing,
    /// Its grant is gone. It stays for a while, so that what its ends still send is answered in its addresses.
    Cut,
}

/// What one end has sent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Side {
    pub packets: u64,
    pub bytes: u64,
    /// TCP: the number after the last byte that it sent.
    next: Option<u32>,
    /// TCP: the number that it expects, as of its last acknowledgement.
    expects: Option<u32>,
    fin: bool,
}

impl Side {
    fn track(&mut self, segment: &Tcp) {
        let end = segment.sequence_end();
        if segment.flags.has(TcpFlags::SYN) || self.next.is_none_or(|next| is_after(end, next)) {
            self.next = Some(end);
        }
        if segment.flags.has(TcpFlags::ACK) {
            self.expects = Some(segment.acknowledgement);
        }
        self.fin |= segment.flags.has(TcpFlags::FIN);
    }
}

/// Whether `a` comes after `b` in sequence space (RFC 9293, section 3.4).
fn is_after(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) > 0
}

/// A flow.
#[derive(Debug, Clone)]
pub(crate) struct Flow {
    pub protocol: u8,
    /// The device's end, as it is.
    pub device: Endpoint,
    /// The resource's end, as the device sees it.
    pub shown: Endpoint,
    /// The resource's end, as it is.
    pub real: Endpoint,
    /// The device's port, as the resource sees it.
    pub outer_port: u16,
    /// The grant that admits it.
    pub ticket: Ticket,
    pub started: Duration,
    pub last: Duration,
    pub from_device: Side,
    pub from_resource: Side,
    pub state: State,
    /// When the table looks at it next.
    pub scheduled: Duration,
}

impl Flow {
    pub(crate) fn new(
        number: u8,
        device: Endpoint,
        shown: Endpoint,
        real: IpAddr,
        outer_port: u16,
        ticket: Ticket,
        now: Duration,
    ) -> Self {
        Self {
            protocol: number,
            device,
            shown,
            real: Endpoint::new(real, shown.port()),
            outer_port,
            ticket,
            started: now,
            last: now,
            from_device: Side::default(),
            from_resource: Side::default(),
            state: State::Opening,
            scheduled: Duration::ZERO,
        }
    }

    /// The device's end as the resource sees it.
    pub(crate) fn outer(&self) -> Endpoint {
        Endpoint::new(self.device.ip(), self.outer_port)
    }

    pub(crate) fn device_key(&self) -> FlowKey {
        FlowKey::new(self.protocol, self.device, self.shown)
    }

    pub(crate) fn resource_key(&self) -> FlowKey {
        FlowKey::new(self.protocol, self.outer(), self.real)
    }

    /// Counts a packet from the device. Says whether the flow now ends sooner than it was scheduled for.
    pub(crate) fn sent_by_device(&mut self, headers: &Headers, packets: u64, now: Duration) -> bool {
        self.last = self.last.max(now);
        self.from_device.packets += packets;
        self.from_device.bytes += headers.total_len as u64;
        let Some(segment) = headers.tcp() else { return false };
        if segment.flags.has(TcpFlags::SYN)
            && self.from_device.next.is_some_and(|next| next != segment.sequence_end())
        {
            // A new connection on old ports.
            self.from_device = Side { next: None, expects: None, fin: false, ..self.from_device };
            self.from_resource = Side { next: None, expects: None, fin: false, ..self.from_resource };
        }
        self.from_device.track(&segment);
        self.may_close(&segment)
    }

    /// Counts a packet from the resource. Says whether the flow now ends sooner than it was scheduled for.
    pub(crate) fn sent_by_resource(&mut self, headers: &Headers, packets: u64, now: Duration) -> bool {
        self.last = self.last.max(now);
        self.from_resource.packets += packets;
        self.from_resource.bytes += headers.total_len as u64;
        if self.state == State::Opening {
            self.state = State::Open;
        }
        let Some(segment) = headers.tcp() else { return false };
        self.from_resource.track(&segment);
        self.may_close(&segment)
    }

    fn may_close(&mut self, segment: &Tcp) -> bool {
        let over = segment.flags.has(TcpFlags::RST) || self.from_device.fin && self.from_resource.fin;
        let closes = over && self.state != State::Closing;
        if closes {
            self.state = State::Closing;
        }
        closes
    }

    /// When it is over if nothing more passes.
    pub(crate) fn deadline(&self) -> Duration {
        let idle = self.last.saturating_add(self.patience());
        match self.state {
            State::Opening | State::Open | State::Closing => idle.min(self.ticket.ends),
            State::Cut => idle,
        }
    }

    /// How long nothing may pass.
    fn patience(&self) -> Duration {
        match (self.state, self.protocol) {
            // RFC 5382, REQ-5: not less than 2 hours 4 minutes.
            (State::Open, protocol::TCP) => Duration::from_secs(7440),
            // RFC 4787, REQ-5: 5 minutes recommended.
            (State::Open, protocol::UDP) => Duration::from_secs(300),
            // RFC 5508, REQ-1: 60 seconds recommended.
            (State::Open, _) => Duration::from_secs(60),
            // Retransmissions start it anew; a scan must not fill the table for minutes.
            (State::Opening, _) => Duration::from_secs(30),
            // Long enough for the last retransmissions of both ends.
            (State::Closing, _) => Duration::from_secs(30),
            // Long enough for both ends to send something that can be answered.
            (State::Cut, _) => Duration::from_secs(60),
        }
    }

    /// How packets of the device are changed.
    pub(crate) fn towards_resource(&self) -> Rewrite {
        Rewrite {
            destination: (self.shown.ip() != self.real.ip()).then(|| self.real.ip()),
            source_port: (self.device.port() != self.outer_port).then_some(self.outer_port),
            ..Rewrite::default()
        }
    }

    /// How packets of the resource are changed.
    pub(crate) fn towards_device(&self) -> Rewrite {
        Rewrite {
            source: (self.shown.ip() != self.real.ip()).then(|| self.shown.ip()),
            destination_port: (self.device.port() != self.outer_port).then(|| self.device.port()),
            ..Rewrite::default()
        }
    }

    /// How a packet to the device is changed where an error of the device quotes it.
    pub(crate) fn quote_towards_resource(&self) -> Rewrite {
        Rewrite {
            source: Some(self.real.ip()),
            destination_port: Some(self.outer_port),
            ..Rewrite::default()
        }
    }

    /// How a packet of the device is changed where an error about it quotes it.
    pub(crate) fn quote_towards_device(&self) -> Rewrite {
        Rewrite {
            destination: Some(self.shown.ip()),
            source_port: Some(self.device.port()),
            ..Rewrite::default()
        }
    }

    /// The RSTs that the device needs to see: one at the number after all that was forwarded to it, and, if it has not
    /// acknowledged all of that, one at the number that it acknowledged.
    pub(crate) fn resets_to_device(&self) -> impl Iterator<Item = ShortPacket> {
        let (from, to) = (self.shown, self.device);
        resets(from, to, self.from_resource.next, self.from_device.expects, self.from_device.next)
    }

    /// The RSTs that the resource needs to see.
    pub(crate) fn resets_to_resource(&self) -> impl Iterator<Item = ShortPacket> {
        let (from, to) = (self.outer(), self.real);
        resets(from, to, self.from_device.next, self.from_resource.expects, self.from_resource.next)
    }

    /// Whether both ends already know that it is over.
    pub(crate) fn is_closing(&self) -> bool {
        self.state == State::Closing
    }

    pub(crate) fn record(&self, end: FlowEnd) -> FlowRecord {
        FlowRecord {
            grant: self.ticket.grant,
            resource: self.ticket.resource,
            policy: self.ticket.policy,
            protocol: self.protocol,
            device: self.device,
            destination: self.shown,
            name: self.ticket.name.as_deref().map(str::to_owned),
            real: self.real.ip(),
            started: self.started,
            last: self.last,
            packets_in: self.from_device.packets,
            bytes_in: self.from_device.bytes,
            packets_out: self.from_resource.packets,
            bytes_out: self.from_resource.bytes,
            end,
        }
    }
}

fn resets(
    from: Endpoint,
    to: Endpoint,
    sent: Option<u32>,
    expected: Option<u32>,
    acknowledges: Option<u32>,
) -> impl Iterator<Item = ShortPacket> {
    // Before the other end sent anything only the acknowledgement counts (RFC 9293, section 3.10.7.3).
    let first = sent.or(expected).unwrap_or(0);
    let second = expected.filter(|expected| *expected != first);
    let acknowledgement = acknowledges.unwrap_or(0);
    std::iter::once(first)
        .chain(second)
        .filter_map(move |number| ShortPacket::build(|out| reset(out, from, to, number, acknowledgement)))
}

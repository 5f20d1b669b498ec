//! One WireGuard peer: its keys, its paths, its silence, and what it may reach.
//!
//! - Parent: [`PeerTable`](crate::PeerTable), one child per connected device or gateway, restarted alone.
//! - Core: [`Tunnel`], [`Agent`], and the grants of its side.
//! - When it dies: its keys, flows and candidates stay in the lane's table; it starts a handshake at once; no other peer
//!   notices.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_network::{EdgeDrop, HostPacket, Landed, Landing, TUN_MTU};
use actors_runtime::{Actor, Cx, Outlet};
use protocol_control::{Candidate, CandidateKind, InnerAddresses};
use protocol_filter::{Fit, FlowRecord, GatewayRules, ReplyBuf, TooLong};
use protocol_identity::{DeviceId, GatewayId, Secret32, WireguardKey, WireguardPublic};
use protocol_packet::{Batch, Buffer, Checksum, CongestionLoss, Ecn, Ip, TcpPieces, carry_ecn, clamp_syn};
use protocol_traversal::{
    Agent, AgentConfig, Hygiene, Output as PathOutput, Path, PathKind, ProbeKeys, Role,
};
use protocol_tunnel::{
    ConnectionKeys, DatagramKind, Limiter, MIN_BUFFER, OVERHEAD, Opened, Output as TunnelOutput, Sealed,
    Tunnel, TunnelConfig, TunnelIndex, classify,
};

use crate::lane::{TunnelLane, lasting_time};
use crate::sender::Sender;
use crate::side::{Side, SideOutput, Verdict};
use crate::stream::Transport;

/// How often a peer reports its path when nothing changes; `status` shows round trips no older than this.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// The largest probe.
const PROBE: usize = 1500;

/// Datagrams that came together on one path.
pub struct Inbound {
    /// The path.
    pub path: Path,
    /// The datagrams, one behind the other.
    pub bytes: Buffer,
    /// Bytes of each; the last may be shorter.
    pub stride: usize,
    /// What a relay put before each.
    pub skip: usize,
    /// What their outer headers say about congestion.
    pub ecn: Ecn,
}

impl Inbound {
    /// Each of the datagrams.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks(self.stride.max(1)).map(|datagram| datagram.get(self.skip..).unwrap_or_default())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.stride.max(1)) as u64
    }
}

/// What arrives through the packet mailbox, in arrival order.
pub enum PeerPackets {
    /// Opens datagrams from the network.
    Open(Batch<Inbound>),
    /// Seals packets from the host.
    Seal(Batch<HostPacket>),
}

/// Who the other end is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerName {
    /// A device, at a gateway.
    Device(DeviceId),
    /// A gateway, at a device.
    Gateway(GatewayId),
}

/// Everything that a connection is made of.
#[derive(Clone)]
pub struct PeerConfig {
    /// Its place on the lane, part of its receiver index.
    pub slot: u16,
    /// Who the other end is.
    pub name: PeerName,
    /// Our WireGuard key.
    pub private: WireguardKey,
    /// The other end's WireGuard key.
    pub public: WireguardPublic,
    /// The secret out of ML-KEM that the connection's symmetric keys come from.
    pub secret: Secret32,
    /// The receiver index that the other end wants.
    pub remote_index: u32,
    /// The other end's tunnel addresses.
    pub inner: InnerAddresses,
    /// Where the other end may be reached.
    pub candidates: Vec<Candidate>,
    /// What candidates are acceptable.
    pub hygiene: Hygiene,
    /// At a gateway: the host's own rules.
    pub rules: Option<Arc<GatewayRules>>,
}

impl PeerConfig {
    /// Whether both are for the same session, so that its keys and flows can be kept.
    pub(crate) fn is_same_session(&self, other: &Self) -> bool {
        self.name == other.name
            && self.slot == other.slot
            && self.public == other.public
            && self.secret == other.secret
            && self.remote_index == other.remote_index
    }
}

/// What a peer can be told.
pub enum PeerCommand {
    /// The other end has new candidates.
    Candidates(Vec<Candidate>),
    /// What candidates are acceptable has changed.
    Hygiene(Hygiene),
    /// An allocation of ours came or went.
    Relays,
    /// Our own network changed: every path is proven anew.
    NetworkChanged,
    /// Its side's grants changed: ends what is no longer granted.
    GrantsChanged,
}

/// What a peer reports.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerFact {
    /// Its place.
    pub slot: u16,
    /// What happened.
    pub what: PeerChange,
}

/// What can happen to a peer.
#[derive(Debug, Clone, PartialEq)]
pub enum PeerChange {
    /// The session is up.
    Established,
    /// The session ended for want of an answer.
    Expired,
    /// What is sent stays unanswered on every path.
    Silent,
    /// Where data goes now.
    Path(PathSummary),
    /// The other end sees us as this address on a direct path.
    Observed(SocketAddr),
    /// A flow has ended.
    FlowEnded(Box<EndedFlow>),
}

/// A flow that has ended, at a gateway.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedFlow {
    /// The device that began it.
    pub device: DeviceId,
    /// How it travelled at its end.
    pub path: Option<PathKind>,
    /// The rest; its times are on [`lasting_time`].
    pub record: FlowRecord,
}

/// The selected path, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PathSummary {
    /// Direct or relayed.
    pub kind: PathKind,
    /// The measured round trip, once there is one.
    pub round_trip: Option<Duration>,
    /// The other end of the path.
    pub remote: SocketAddr,
    /// Whether a probe was answered on it.
    pub proven: bool,
    /// The longest packet that goes through the tunnel on it, bytes.
    pub mtu: u16,
    /// How it leaves this host.
    pub transport: Transport,
}

/// What outlives a peer's incarnations, in the lane's table.
pub(crate) struct PeerKept {
    pub(crate) config: PeerConfig,
    pub(crate) side: RefCell<Side>,
    candidates: RefCell<Vec<Candidate>>,
    hygiene: RefCell<Hygiene>,
    /// How data travels.
    path: Cell<Option<PathKind>>,
    /// The generations that are used up are below this.
    generation: Cell<u32>,
    first_generation: u32,
}

impl PeerKept {
    /// `generation`: those below were used with the same secret before.
    pub(crate) fn new(config: PeerConfig, generation: u32) -> Rc<Self> {
        let side = match &config.rules {
            Some(rules) => Side::gateway(&config.inner, rules.clone()),
            None => Side::Client { slot: config.slot },
        };
        Rc::new(Self {
            candidates: RefCell::new(config.candidates.clone()),
            hygiene: RefCell::new(config.hygiene.clone()),
            path: Cell::new(None),
            generation: Cell::new(generation),
            first_generation: generation,
            side: RefCell::new(side),
            config,
        })
    }

    /// Tells of a flow, if the other end is a device.
    fn ended(&self, record: FlowRecord) -> Option<EndedFlow> {
        match self.config.name {
            PeerName::Device(device) => Some(EndedFlow { device, path: self.path.get(), record }),
            PeerName::Gateway(_) => None,
        }
    }

    /// Forgets the flows, of which another peer may carry on what lives, and tells of each.
    pub(crate) fn release(&self) -> Vec<EndedFlow> {
        let records = self.side.borrow_mut().hand_on();
        records.into_iter().filter_map(|record| self.ended(record)).collect()
    }

    /// The generation that the next incarnation has.
    pub(crate) fn next_generation(&self) -> u32 {
        self.generation.get()
    }

    /// Takes the next generation. `None`: 65,536 incarnations have used them all up.
    fn take_generation(&self) -> Option<u16> {
        let generation = self.generation.get();
        self.generation.set(generation.saturating_add(1));
        u16::try_from(generation).ok()
    }

    /// Whether this is not the first incarnation.
    fn is_restarted(&self) -> bool {
        self.generation.get() > self.first_generation + 1
    }

    /// Whether `config` describes the same session, so that this peer can go on.
    pub(crate) fn is_same_session(&self, config: &PeerConfig) -> bool {
        self.config.is_same_session(config)
    }
}

/// One peer.
pub struct Peer {
    lane: Rc<TunnelLane>,
    kept: Rc<PeerKept>,
    facts: Outlet<PeerFact>,
    tunnel: Tunnel,
    agent: Agent,
    sender: Rc<RefCell<Sender>>,
    /// The longest packet that the path takes, inside the tunnel.
    limit: usize,
    fit: Fit,
    too_long: ReplyBuf,
    /// Bytes of the longest datagram sealed in this turn.
    longest: usize,
    next_report: Duration,
    reported: Option<(PathKind, SocketAddr, bool, u16)>,
}

impl Peer {
    pub(crate) fn new(
        lane: Rc<TunnelLane>,
        kept: Rc<PeerKept>,
        limiter: Limiter,
        sender: Rc<RefCell<Sender>>,
        facts: Outlet<PeerFact>,
    ) -> Self {
        let config = &kept.config;
        let now = lane.now(tokio::time::Instant::now());
        let (own, other) = (config.private.public(), config.public);
        let role = match config.name {
            PeerName::Device(_) => Role::Gateway,
            PeerName::Gateway(_) => Role::Client,
        };
        let keys = match role {
            Role::Client => ConnectionKeys::derive(&config.secret, &own, &other),
            Role::Gateway => ConnectionKeys::derive(&config.secret, &other, &own),
        };
        let (send, receive) = match role {
            Role::Client => (&keys.client_to_gateway, &keys.gateway_to_client),
            Role::Gateway => (&keys.gateway_to_client, &keys.client_to_gateway),
        };
        // Keys of nobody instead of a counter twice: the connection lives on without probes.
        let (generation, keys_left) =
            kept.take_generation().map_or((0, false), |generation| (generation, true));
        let nobody = [Secret32::new(rand::random()), Secret32::new(rand::random())];
        let (send, receive) = if keys_left { (send, receive) } else { (&nobody[0], &nobody[1]) };
        let agent_config = AgentConfig {
            role,
            keys: ProbeKeys::new(send, receive),
            generation,
            local_index: TunnelIndex { slot: config.slot, lane: lane.index() }.receiver_index(),
            remote_index: Some(config.remote_index),
            hygiene: kept.hygiene.borrow().clone(),
            seed: rand::random(),
        };
        let tunnel = Tunnel::new(
            TunnelConfig {
                private: config.private.clone(),
                peer: other,
                preshared: Some(keys.preshared),
                index: TunnelIndex { slot: config.slot, lane: lane.index() },
                limiter,
            },
            now,
        );
        Self {
            agent: Agent::new(agent_config, now),
            tunnel,
            sender,
            facts,
            limit: usize::from(TUN_MTU),
            fit: Fit::new(),
            too_long: ReplyBuf::new(),
            longest: 0,
            next_report: now,
            reported: None,
            lane,
            kept,
        }
    }

    fn is_client(&self) -> bool {
        matches!(self.kept.config.name, PeerName::Gateway(_))
    }

    fn add_candidates(&mut self, candidates: &[Candidate], now: Duration) {
        for candidate in candidates {
            let candidate = protocol_traversal::Candidate {
                address: candidate.address,
                kind: match candidate.kind {
                    CandidateKind::Host => protocol_traversal::CandidateKind::Host,
                    CandidateKind::Reflexive => protocol_traversal::CandidateKind::Reflexive,
                    CandidateKind::Relayed => protocol_traversal::CandidateKind::Relayed,
                },
            };
            if let Err(refused) = self.agent.add_remote(candidate, now) {
                self.lane.count(refused.reason(), 1);
            }
        }
    }

    /// Allocations that are there are paths, and those that are not are left at once.
    fn follow_relays(&mut self, now: Duration) {
        let there = self.lane.relay_slots();
        let gone: Vec<_> = self.agent.relays().iter().filter(|slot| !there.contains(slot)).copied().collect();
        for slot in gone {
            self.agent.remove_relay(slot, now);
        }
        for slot in there {
            self.agent.add_relay(slot, now);
        }
    }

    fn report(&self, what: PeerChange) {
        // A report that finds the mailbox full is followed by a newer one within a second; of flows, whoever keeps them
        // counts what it cannot take.
        let _ = self.facts.tell(PeerFact { slot: self.kept.config.slot, what });
    }

    fn open(&mut self, mut batch: Batch<Inbound>, now: Duration) {
        let lane = self.lane.clone();
        let lasting = lasting_time();
        let mut landing = lane.landing().borrow_mut();
        landing.clear();
        for inbound in batch.drain() {
            let (path, source) = (inbound.path, inbound.path.remote.ip());
            let mut proven = false;
            for datagram in inbound.iter() {
                if classify(datagram) == Some(DatagramKind::Probe) {
                    if let Err(error) = self.agent.handle_probe(path, datagram, now) {
                        lane.count(error.reason(), 1);
                    }
                    continue;
                }
                let Some(room) = landing.room(datagram.len().max(MIN_BUFFER)) else {
                    lane.count("packet_too_long", 1);
                    continue;
                };
                let opened = self.tunnel.open(source, datagram, room, now);
                proven |= opened.proves_source();
                match opened {
                    Opened::Packet { len, source: _ } => {
                        if carry_ecn(room.get_mut(..len).unwrap_or_default(), inbound.ecn).is_err() {
                            lane.count(CongestionLoss::REASON, 1);
                            landing.discard();
                            continue;
                        }
                        if landing.take(len) == Landed::Apart {
                            self.admit(&mut landing, now, lasting);
                        }
                        if landing.is_closed() {
                            self.admit(&mut landing, now, lasting);
                        }
                        continue;
                    }
                    Opened::Reply { len, .. } => lane.send(path, room.get(..len).unwrap_or_default(), 0),
                    Opened::Keepalive | Opened::Cookie => {}
                    Opened::Dropped(dropped) => lane.count(dropped.reason(), 1),
                }
                landing.discard();
            }
            if proven {
                self.agent.handle_received(path, now);
            }
        }
        self.admit(&mut landing, now, lasting);
        let superseded = landing.take_superseded();
        if superseded > 0 {
            lane.tun().drops().add(EdgeDrop::AckSuperseded, superseded);
        }
    }

    /// Lets the run from the other end in, or not, and begins the next.
    fn admit(&mut self, landing: &mut Landing, now: Duration, lasting: Duration) {
        let Some(mut run) = landing.run() else { return landing.begin() };
        let kept = self.kept.clone();
        let mut side = kept.side.borrow_mut();
        let packets = run.packets() as u64;
        match side.admit(&mut run, &self.lane, lasting) {
            Verdict::Forward(length) => {
                run.truncate(length);
                if run.segment().is_none() {
                    // A SYN tells its receiver how much to send to us, so it is our own limit that counts on both ways.
                    clamp_syn(run.bytes_mut(), self.limit, Checksum::Full);
                }
                let _ = self.lane.tun().write_run(&mut run);
            }
            Verdict::Answer(reason) => {
                self.lane.count(reason, packets);
                self.seal(side.answer(), now);
            }
            Verdict::Drop(reason) => self.lane.count(reason, packets),
        }
        landing.begin();
    }

    fn seal_batch(&mut self, mut batch: Batch<HostPacket>, now: Duration) {
        let (kept, lasting) = (self.kept.clone(), lasting_time());
        let mut side = kept.side.borrow_mut();
        for mut packet in batch.drain() {
            // Before it is translated: its sender has to recognise it in what it is told.
            if !packet.fits(self.limit) && self.refuses_too_long(&packet, lasting) {
                continue;
            }
            match side.release(&mut packet, lasting) {
                Verdict::Forward(length) => {
                    packet.truncate(length);
                    self.seal_each(packet, now);
                }
                Verdict::Answer(reason) => {
                    self.lane.count(reason, packet.packets() as u64);
                    let _ = self.lane.tun().write(side.answer());
                }
                Verdict::Drop(reason) => self.lane.count(reason, packet.packets() as u64),
            }
        }
    }

    /// Whether a packet that the path does not take is dropped; its sender is told then.
    fn refuses_too_long(&mut self, packet: &HostPacket, lasting: Duration) -> bool {
        let packets = packet.packets() as u64;
        match self.fit.too_long(packet.bytes(), self.limit, lasting, &mut self.too_long) {
            TooLong::Pieces(_) => return false,
            TooLong::Reply(reason) => {
                self.lane.count(reason, packets);
                let _ = self.lane.tun().write(&self.too_long);
            }
            TooLong::Drop(reason) => self.lane.count(reason, packets),
        }
        true
    }

    /// Seals what the packet stands for.
    fn seal_each(&mut self, mut packet: HostPacket, now: Duration) {
        if packet.segment().is_none() {
            clamp_syn(packet.bytes_mut(), self.limit, Checksum::Full);
        }
        if !packet.fits(self.limit) {
            return self.seal_pieces(packet.bytes(), now);
        }
        let Ok(mut segments) = packet.segments(self.limit) else {
            return self.lane.count("packet_too_long", packet.packets() as u64);
        };
        let Some(path) = self.agent.selected() else {
            while let Some(range) = segments.next(packet.bytes_mut()) {
                self.seal(packet.bytes().get(range).unwrap_or_default(), now);
            }
            return;
        };
        let sender = self.sender.clone();
        let mut sender = sender.borrow_mut();
        while let Some(range) = segments.next(packet.bytes_mut()) {
            let packet = packet.bytes().get(range).unwrap_or_default();
            self.tunnel_to(&mut sender, path, packet, now);
        }
    }

    fn seal_pieces(&mut self, packet: &[u8], now: Duration) {
        let pieces = Ip::parse(packet).ok().and_then(|ip| TcpPieces::new(ip.headers(), self.limit));
        let Some(mut pieces) = pieces else { return self.lane.count(Fit::TOO_BIG, 1) };
        let mut piece = self.lane.pool().take();
        while let Some(length) = pieces.next_into(packet, piece.whole()) {
            piece.set_len(length);
            self.seal(&piece, now);
        }
    }

    fn seal(&mut self, packet: &[u8], now: Duration) {
        let Some(path) = self.agent.selected() else {
            // No path yet: the tunnel keeps a few until there is a session.
            let mut scratch = self.lane.pool().take();
            match self.tunnel.seal(packet, scratch.whole(), now) {
                Sealed::Datagram(_) => self.lane.count("no_path", 1),
                Sealed::Queued => {}
                Sealed::Dropped(dropped) => self.lane.count(dropped.reason(), 1),
            }
            return;
        };
        let sender = self.sender.clone();
        self.tunnel_to(&mut sender.borrow_mut(), path, packet, now);
    }

    fn tunnel_to(&mut self, sender: &mut Sender, path: Path, packet: &[u8], now: Duration) {
        let Some(room) = sender.room(packet.len(), Ecn::of(packet), path, &self.lane) else {
            self.lane.count("packet_too_long", 1);
            return;
        };
        match self.tunnel.seal(packet, room, now) {
            Sealed::Datagram(len) => {
                self.longest = self.longest.max(len);
                sender.pushed(len, path, &self.lane);
            }
            Sealed::Queued => {}
            Sealed::Dropped(dropped) => self.lane.count(dropped.reason(), 1),
        }
    }

    /// Does everything that the machines want by now, and sets the alarm.
    fn settle(&mut self, now: Duration, cx: &mut Cx<Self>) {
        let lane = self.lane.clone();
        self.side_outputs(now);
        self.tunnel_outputs(now);
        self.drain_queued(now);
        self.agent_outputs(now);
        if let Some(path) = self.agent.selected() {
            self.sender.borrow_mut().flush(path, &lane);
            if self.longest > 0 {
                self.agent.handle_sent(now);
                self.agent.handle_sent_size(std::mem::take(&mut self.longest), now);
            }
        } else {
            let lost = self.sender.borrow_mut().discard();
            if lost > 0 {
                lane.count("no_path", lost);
            }
        }
        let limit = usize::from(inner(self.agent.path_mtu()));
        let changed = std::mem::replace(&mut self.limit, limit) != limit;
        if changed || now >= self.next_report {
            self.next_report = now + REPORT_EVERY;
            self.report_path(now);
        }
        let side = self.kept.side.borrow().timeout_in().map(|wait| now + wait);
        let deadlines = [self.tunnel.poll_timeout(), self.agent.poll_timeout(), side];
        let alarm =
            deadlines.into_iter().flatten().min().map_or(self.next_report, |d| d.min(self.next_report));
        cx.wake_at(lane.instant(alarm));
    }

    fn side_outputs(&mut self, now: Duration) {
        loop {
            let output = self.kept.side.borrow_mut().poll_output();
            match output {
                Some(SideOutput::ToPeer(packet)) => self.seal(&packet, now),
                Some(SideOutput::ToHost(packet)) => {
                    let _ = self.lane.tun().write(&packet);
                }
                Some(SideOutput::FlowEnded(record)) => {
                    if let Some(ended) = self.kept.ended(record) {
                        self.report(PeerChange::FlowEnded(Box::new(ended)));
                    }
                }
                None => return,
            }
        }
    }

    fn tunnel_outputs(&mut self, now: Duration) {
        while let Some(output) = self.tunnel.poll_output() {
            match output {
                TunnelOutput::Initiation(message) => {
                    for path in self.agent.handshake_paths(now) {
                        self.lane.send(path, &message, 0);
                    }
                }
                TunnelOutput::Datagram(message) => {
                    if let Some(path) = self.agent.selected() {
                        self.lane.send(path, &message, 0);
                        self.agent.handle_sent(now);
                    }
                }
                TunnelOutput::Established => self.report(PeerChange::Established),
                TunnelOutput::Expired => self.report(PeerChange::Expired),
            }
        }
    }

    fn drain_queued(&mut self, now: Duration) {
        while self.tunnel.is_established() && self.tunnel.has_queued() {
            let Some(path) = self.agent.selected() else { return };
            let mut scratch = self.lane.pool().take();
            let Some(len) = self.tunnel.drain(scratch.whole(), now) else { return };
            scratch.set_len(len);
            self.lane.send(path, &scratch, 0);
        }
    }

    fn agent_outputs(&mut self, now: Duration) {
        let mut probe = [0; PROBE];
        while let Some(output) = self.agent.poll_output(&mut probe) {
            match output {
                PathOutput::Transmit { path, len } => {
                    if let Some(bytes) = probe.get(..len) {
                        self.lane.send(path, bytes, 0);
                    }
                }
                PathOutput::Selected { path, previous, hold: _ } => {
                    // What was sealed for the old path still goes there, so that nothing is overtaken.
                    self.sender.borrow_mut().flush(previous.unwrap_or(path), &self.lane);
                    self.report_path(now);
                }
                PathOutput::Proven { .. } => self.report_path(now),
                PathOutput::Doubted { .. } => self.lane.doubt(),
                PathOutput::Lost { path } => {
                    tracing::debug!(slot = self.kept.config.slot, ?path, "path lost");
                    // Found out by probes, because there is little data: the relays are asked all the same.
                    self.lane.doubt();
                    if self.agent.report(now).is_none_or(|report| report.rtt.is_none()) {
                        self.report(PeerChange::Silent);
                    }
                }
                PathOutput::NeedPermission { slot, remote } => self.lane.bind(slot, remote, now),
                PathOutput::Observed { address } => self.report(PeerChange::Observed(address)),
            }
        }
    }

    fn report_path(&mut self, now: Duration) {
        if let Some(report) = self.agent.report(now) {
            let summary = PathSummary {
                kind: report.kind,
                round_trip: report.rtt,
                remote: report.path.remote,
                proven: report.rtt.is_some(),
                mtu: inner(report.mtu),
                transport: self.lane.transport(report.path.via),
            };
            self.kept.path.set(Some(summary.kind));
            let essence = (summary.kind, summary.remote, summary.proven, summary.mtu);
            if self.reported != Some(essence) {
                self.reported = Some(essence);
                tracing::debug!(slot = self.kept.config.slot, ?summary, "path");
            }
            self.report(PeerChange::Path(summary));
        }
    }
}

/// The longest packet that a datagram of so many bytes carries.
fn inner(datagram: u16) -> u16 {
    datagram.saturating_sub(OVERHEAD as u16).min(TUN_MTU)
}

impl Actor for Peer {
    const KIND: &'static str = "Peer";
    type Command = PeerCommand;
    type Packets = PeerPackets;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        self.follow_relays(now);
        let candidates = self.kept.candidates.borrow().clone();
        self.add_candidates(&candidates, now);
        // A device begins. After a panic either end does: waiting for the other would take 15 s.
        if self.is_client() || self.kept.is_restarted() {
            self.tunnel.initiate(true, now);
        }
        self.settle(now, cx);
    }

    fn told(&mut self, command: PeerCommand, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        match command {
            PeerCommand::Candidates(candidates) => {
                let old = self.kept.candidates.replace(candidates.clone());
                for gone in old.iter().filter(|old| !candidates.contains(old)) {
                    self.agent.remove_remote(gone.address, now);
                }
                self.add_candidates(&candidates, now);
            }
            PeerCommand::Hygiene(hygiene) => {
                self.kept.hygiene.replace(hygiene.clone());
                self.agent.set_hygiene(hygiene);
                let candidates = self.kept.candidates.borrow().clone();
                self.add_candidates(&candidates, now);
            }
            PeerCommand::Relays => self.follow_relays(now),
            PeerCommand::NetworkChanged => self.agent.network_changed(now),
            PeerCommand::GrantsChanged => {}
        }
        self.settle(now, cx);
    }

    fn received(&mut self, packets: PeerPackets, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        match packets {
            PeerPackets::Open(batch) => self.open(batch, now),
            PeerPackets::Seal(batch) => self.seal_batch(batch, now),
        }
        self.settle(now, cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        self.kept.side.borrow_mut().handle_timeout();
        self.tunnel.handle_timeout(now);
        self.agent.handle_timeout(now);
        self.settle(now, cx);
    }

    fn count(packets: &PeerPackets) -> u64 {
        match packets {
            PeerPackets::Open(batch) => batch.iter().map(Inbound::count).sum(),
            PeerPackets::Seal(batch) => batch.iter().map(HostPacket::packets).sum::<usize>() as u64,
        }
    }
}

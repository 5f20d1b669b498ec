//! Our end at one relay: an allocation that forwards to us (gateways), or the plain question how the internet sees us
//! (clients).
//!
//! - Parent: [`PeerTable`](crate::PeerTable), one child per relay, restarted alone.
//! - Core: [`AllocationClient`] or [`BindingClient`], kept in the lane's table so that peers wrap data by themselves.
//! - When it dies: the machine stays in the lane's table and goes on; at worst a retransmission is late.
//!
//! A relay has one of them by UDP, and one more over TLS while UDP is blocked: [`Peers`](crate::Peers) decides.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_network::Datagrams;
use actors_runtime::{Actor, Cx, Outlet};
use protocol_control::RelayTls;
use protocol_identity::RelayId;
use protocol_packet::{Batch, Ecn};
use protocol_stun::stream::{Frame, frame};
use protocol_stun::{
    AllocationClient, AllocationConfig, BindingClient, BindingEvent, BindingOutput, Credentials, Event, Kind,
    Output, Received, kind,
};
use protocol_traversal::{Path, RelaySlot, Via};

use crate::lane::TunnelLane;
use crate::stream::{FromStream, StreamCommand, StreamEnd, Transport};

/// How often an idle binding is renewed; NATs are known to forget after 30 s.
const BINDING_INTERVAL: Duration = Duration::from_secs(15);
/// The first wait before a lost allocation is made anew. Doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15);
/// A relay that answers nothing for this long is reported as silent. By then a question has gone out three times, 250 and
/// 500 ms apart, and 450 ms are left for the last answer; with a connection's handshake, access is back within 3 s.
const SILENT_AFTER: Duration = Duration::from_millis(1_200);
/// The same over a connection, where lost packets are late answers; then it is opened anew.
const STREAM_SILENT_AFTER: Duration = Duration::from_secs(3);
/// Doubts of peers within this time are one.
const DOUBTS_EVERY: Duration = Duration::from_secs(1);

/// A relay that this node uses.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Its place among this node's relays.
    pub slot: RelaySlot,
    /// The relay.
    pub relay: RelayId,
    /// Its socket; over TLS the first of them.
    pub address: SocketAddr,
    /// Over TLS: all of its sockets, and its certificate.
    pub tls: Option<RelayTls>,
    /// With them an allocation is made; without, only reflexive addresses are asked for.
    pub credentials: Option<Credentials>,
}

impl LinkConfig {
    /// How the relay is reached.
    pub fn transport(&self) -> Transport {
        if self.tls.is_some() { Transport::Tls } else { Transport::Udp }
    }

    /// Whether datagrams from this address are the relay's.
    pub(crate) fn is_from(&self, address: SocketAddr) -> bool {
        self.address == address && self.tls.is_none()
    }
}

/// What a link can be told.
pub enum LinkCommand {
    /// Lets these addresses send to us through the relay.
    Permit(Vec<IpAddr>),
    /// Only these addresses are still wanted: what is not, twice in a row, is not asked for any more.
    Keep(Arc<HashSet<IpAddr>>),
    /// Newer credentials, for the next allocation.
    Credentials(Credentials),
    /// Somebody on the lane gave the machine something to do.
    Drain,
    /// The network changed: ask at once whether everything still holds.
    Check,
    /// A peer hears nothing any more: ask whether the relay still answers, unless that was done a moment ago.
    Doubt,
    /// Say again what the relay has given.
    Report,
}

/// What a link reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkFact {
    /// The relay.
    pub relay: RelayId,
    /// Its place.
    pub slot: RelaySlot,
    /// What happened.
    pub what: LinkChange,
}

/// What can happen at a relay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkChange {
    /// The relay forwards to us.
    Allocated {
        /// Where it listens for us.
        relayed: Vec<SocketAddr>,
    },
    /// The relay sees us as this address.
    Mapped {
        /// Our reflexive address.
        address: SocketAddr,
        /// The measured round trip.
        round_trip: Duration,
    },
    /// The relay lets this address through to us.
    Permitted(IpAddr),
    /// Nobody wants this address any more: the relay's permission runs out.
    Released(IpAddr),
    /// The relay refuses to let this address through.
    Refused(IpAddr),
    /// The allocation is gone; a new one is being made.
    Lost(String),
    /// The relay answers nothing. Said once, until it answers.
    Silent,
    /// It answers again.
    Answers,
}

/// The machines of one link, shared on the lane.
pub(crate) struct LinkMachine {
    pub(crate) config: LinkConfig,
    pub(crate) allocation: Option<RefCell<AllocationClient>>,
    /// Over TLS: the connection.
    pub(crate) stream: Option<StreamEnd>,
    binding: RefCell<BindingClient>,
}

impl LinkMachine {
    pub(crate) fn new(config: LinkConfig) -> Rc<Self> {
        let allocation = config.credentials.clone().map(|credentials| {
            let wanted = AllocationConfig::new(credentials);
            let wanted = if config.tls.is_some() { wanted.reliable() } else { wanted };
            RefCell::new(AllocationClient::new(wanted, rand::random()))
        });
        Rc::new(Self {
            stream: config.tls.clone().map(StreamEnd::new),
            config,
            allocation,
            binding: RefCell::new(BindingClient::new(BINDING_INTERVAL, rand::random())),
        })
    }

    /// Whether the relay forwards to us.
    pub(crate) fn is_allocated(&self) -> bool {
        let allocation = self.allocation.as_ref();
        allocation.is_some_and(|allocation| allocation.borrow().state() == protocol_stun::State::Allocated)
    }

    /// Since when the relay has not answered although it was asked.
    fn unanswered_since(&self) -> Option<Duration> {
        match &self.allocation {
            Some(allocation) => allocation.borrow().unanswered_since(),
            None => self.binding.borrow().unanswered_since(),
        }
    }

    /// Whether the relay can be asked at all.
    fn is_reachable(&self) -> bool {
        self.stream.as_ref().is_none_or(StreamEnd::is_open)
    }
}

/// Our end at one relay.
pub struct RelayLink {
    lane: Rc<TunnelLane>,
    machine: Rc<LinkMachine>,
    facts: Outlet<LinkFact>,
    /// Who opens connections.
    streams: Option<Outlet<StreamCommand>>,
    /// What was not wanted when we were last told.
    unwanted: BTreeSet<IpAddr>,
    retry: Option<Duration>,
    wait: Duration,
    /// Since when the relay counts as silent.
    silent_since: Option<Duration>,
    heard_at: Duration,
    doubted_at: Option<Duration>,
}

impl RelayLink {
    pub(crate) fn new(
        lane: Rc<TunnelLane>,
        machine: Rc<LinkMachine>,
        facts: Outlet<LinkFact>,
        streams: Option<Outlet<StreamCommand>>,
    ) -> Self {
        Self {
            lane,
            machine,
            facts,
            streams,
            unwanted: BTreeSet::new(),
            retry: None,
            wait: FIRST_WAIT,
            silent_since: None,
            heard_at: Duration::ZERO,
            doubted_at: None,
        }
    }

    fn report(&self, what: LinkChange) {
        let LinkConfig { relay, slot, .. } = self.machine.config;
        let _ = self.facts.tell(LinkFact { relay, slot, what });
    }

    fn report_all(&self) {
        let (mapped, round_trip) = match &self.machine.allocation {
            Some(allocation) => {
                let allocation = allocation.borrow();
                if allocation.state() == protocol_stun::State::Allocated {
                    self.report(LinkChange::Allocated { relayed: allocation.relayed().to_vec() });
                }
                (allocation.mapped(), None)
            }
            None => {
                let binding = self.machine.binding.borrow();
                (binding.mapped(), binding.rtt())
            }
        };
        if let Some(address) = mapped {
            self.report(LinkChange::Mapped { address, round_trip: round_trip.unwrap_or_default() });
        }
        if self.silent_since.is_some() {
            self.report(LinkChange::Silent);
        }
    }

    fn send(&self, bytes: &[u8]) {
        match &self.machine.stream {
            None => {
                let _ = self.lane.sockets().send(self.machine.config.address, bytes, 0);
            }
            Some(stream) => {
                if !stream.write(bytes.to_vec()) {
                    self.lane.count("relay_stream_full", 1);
                }
            }
        }
    }

    /// Says when the relay has fallen silent, and when it answers again. When to look next, if there is something to see.
    fn watch(&mut self, now: Duration) -> Option<Duration> {
        let patience = match self.machine.config.transport() {
            Transport::Udp => SILENT_AFTER,
            Transport::Tls => STREAM_SILENT_AFTER,
        };
        match (self.silent_since, self.machine.unanswered_since()) {
            (Some(since), _) if self.heard_at > since => {
                self.silent_since = None;
                self.report(LinkChange::Answers);
                None
            }
            (None, Some(since)) if now >= since + patience => {
                match (&self.machine.stream, &self.machine.allocation) {
                    (Some(stream), Some(allocation)) => {
                        stream.set_open(false);
                        allocation.borrow_mut().disconnected();
                        self.tell_streams(stream.reopen());
                    }
                    _ => {
                        self.silent_since = Some(now);
                        self.wait = FIRST_WAIT;
                        self.report(LinkChange::Silent);
                    }
                }
                None
            }
            (None, Some(since)) => Some(since + patience),
            (Some(_), _) | (None, None) => None,
        }
    }

    fn drain(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        let watch = self.watch(now);
        let machine = self.machine.clone();
        if let Some(allocation) = &machine.allocation {
            loop {
                let output = allocation.borrow_mut().poll_output();
                match output {
                    Some(Output::Send(bytes)) => self.send(&bytes),
                    Some(Output::Event(event)) => self.allocation_event(event, now),
                    None => break,
                }
            }
        }
        loop {
            let output = machine.binding.borrow_mut().poll_output();
            match output {
                Some(BindingOutput::Send(bytes)) => self.send(&bytes),
                Some(BindingOutput::Event(BindingEvent::Answered { mapped, rtt, changed: _ })) => {
                    self.report(LinkChange::Mapped { address: mapped, round_trip: rtt });
                }
                Some(BindingOutput::Event(BindingEvent::Silent)) => {
                    self.report(LinkChange::Lost("the relay does not answer".into()));
                }
                None => break,
            }
        }
        let deadlines = [
            self.machine.allocation.as_ref().and_then(|allocation| allocation.borrow().poll_timeout()),
            self.machine.binding.borrow().poll_timeout(),
            self.retry,
            watch,
        ];
        match deadlines.into_iter().flatten().min() {
            Some(deadline) => cx.wake_at(self.lane.instant(deadline)),
            None => cx.wake_never(),
        }
    }

    fn allocation_event(&mut self, event: Event, now: Duration) {
        match event {
            Event::Allocated { relayed, mapped, rtt } => {
                self.wait = FIRST_WAIT;
                self.lane.relays_changed();
                self.report(LinkChange::Allocated { relayed });
                self.report(LinkChange::Mapped { address: mapped, round_trip: rtt });
            }
            Event::Permitted(address) => self.report(LinkChange::Permitted(address)),
            // Without a channel, Send indications carry the data.
            Event::Bound(..) | Event::NotBound(..) => {}
            Event::Refused { peer, code: _ } => self.report(LinkChange::Refused(peer)),
            Event::Lost(lost) => {
                self.lane.relays_changed();
                self.report(LinkChange::Lost(format!("{lost:?}")));
                self.retry = Some(now + self.wait);
                // Whether UDP passes again is to be known soon.
                if self.silent_since.is_none() {
                    self.wait = (self.wait * 2).min(LONGEST_WAIT);
                }
            }
        }
    }
}

impl Actor for RelayLink {
    const KIND: &'static str = "RelayLink";
    type Command = LinkCommand;
    type Packets = Batch<Datagrams>;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        if let Some(stream) = &self.machine.stream {
            cx.follow(stream.arriving(), |me, what, cx| me.arrived(what, cx));
            self.tell_streams(stream.open());
        }
        match &self.machine.allocation {
            Some(_) if !self.machine.is_reachable() => {}
            Some(allocation) => {
                let mut allocation = allocation.borrow_mut();
                if allocation.state() == protocol_stun::State::Idle {
                    allocation.start(now);
                }
            }
            None => self.machine.binding.borrow_mut().start(now),
        }
        self.drain(cx);
    }

    fn told(&mut self, command: LinkCommand, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        match (command, &self.machine.allocation) {
            (LinkCommand::Permit(addresses), Some(allocation)) => {
                let mut allocation = allocation.borrow_mut();
                for address in addresses {
                    if allocation.is_permitted(address) {
                        self.report(LinkChange::Permitted(address));
                    } else {
                        allocation.permit(address, now);
                    }
                }
            }
            (LinkCommand::Keep(wanted), Some(allocation)) => {
                let mut allocation = allocation.borrow_mut();
                let unwanted: BTreeSet<IpAddr> =
                    allocation.wanted().filter(|address| !wanted.contains(address)).collect();
                for address in unwanted.intersection(&self.unwanted) {
                    allocation.forget(*address);
                    self.report(LinkChange::Released(*address));
                }
                self.unwanted = unwanted;
            }
            (LinkCommand::Credentials(credentials), Some(allocation)) => {
                allocation.borrow_mut().set_credentials(credentials);
            }
            (LinkCommand::Check, _) => self.check(now),
            (LinkCommand::Doubt, _) => {
                let is_known = self.machine.unanswered_since().is_some();
                if !is_known && self.doubted_at.is_none_or(|at| now >= at + DOUBTS_EVERY) {
                    self.doubted_at = Some(now);
                    self.check(now);
                }
            }
            (LinkCommand::Report, _) => self.report_all(),
            (LinkCommand::Permit(_) | LinkCommand::Keep(_) | LinkCommand::Credentials(_), None)
            | (LinkCommand::Drain, _) => {}
        }
        self.drain(cx);
    }

    fn received(&mut self, mut packets: Batch<Datagrams>, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        let slot = self.machine.config.slot;
        let mut control = false;
        self.heard_at = now;
        let mut inward = self.lane.inward();
        for datagrams in packets.drain() {
            let mut at = 0;
            while at < datagrams.bytes.len() {
                let run = channel_run(&datagrams, at);
                let part = datagrams.bytes.get(at..at + run).unwrap_or_default();
                let datagram = part.get(..datagrams.stride.min(part.len())).unwrap_or_default();
                at += run;
                if self.machine.binding.borrow_mut().handle_datagram(datagram, now) {
                    control = true;
                    continue;
                }
                let Some(allocation) = &self.machine.allocation else {
                    cx.count_drop("relay_unexpected", run.div_ceil(datagrams.stride.max(1)) as u64);
                    continue;
                };
                let received = allocation.borrow_mut().handle_datagram(datagram, now);
                match received {
                    Received::Data { peer, payload } => {
                        let path = Path { via: Via::Relay(slot), remote: peer };
                        let alone = part.len() <= datagrams.stride;
                        let part = if alone { part.get(..payload.end).unwrap_or_default() } else { part };
                        let (stride, ecn) = (datagrams.stride, Ecn::from_bits(datagrams.ecn));
                        if !inward.copy(path, part, stride, payload.start, ecn) {
                            cx.count_drop("packet_too_long", 1);
                        }
                    }
                    Received::Handled => control = true,
                    Received::Dropped(reason) => {
                        cx.count_drop(reason.as_str(), run.div_ceil(datagrams.stride.max(1)) as u64);
                    }
                }
            }
        }
        inward.flush();
        if control || self.silent_since.is_some() {
            self.drain(cx);
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        if let Some(allocation) = &self.machine.allocation {
            let mut allocation = allocation.borrow_mut();
            if self.retry.is_some_and(|at| at <= now) {
                self.retry = None;
                // Over a connection that is not there, it is asked for when it is.
                if self.machine.is_reachable() {
                    allocation.start(now);
                }
            }
            allocation.handle_timeout(now);
        }
        self.machine.binding.borrow_mut().handle_timeout(now);
        self.drain(cx);
    }

    fn stopped(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        if let Some(stream) = &self.machine.stream {
            // The allocation ends with its connection.
            return self.tell_streams(stream.close());
        }
        if let Some(allocation) = &self.machine.allocation {
            let mut allocation = allocation.borrow_mut();
            allocation.release(now);
            while let Some(output) = allocation.poll_output() {
                if let Output::Send(bytes) = output {
                    self.send(&bytes);
                }
            }
        }
    }
}

impl RelayLink {
    fn check(&self, now: Duration) {
        match &self.machine.allocation {
            Some(allocation) => allocation.borrow_mut().check(now),
            None => self.machine.binding.borrow_mut().probe(now),
        }
    }

    fn tell_streams(&self, command: StreamCommand) {
        let told = self.streams.as_ref().map(|streams| streams.tell(command));
        if !matches!(told, Some(Ok(()))) {
            self.lane.count("stream_command_lost", 1);
        }
    }

    /// The connection came, brought something, or went.
    fn arrived(&mut self, what: FromStream, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        let machine = self.machine.clone();
        let (Some(stream), Some(allocation)) = (&machine.stream, &machine.allocation) else { return };
        match what {
            FromStream::Opened => {
                stream.set_open(true);
                self.retry = None;
                let mut allocation = allocation.borrow_mut();
                // What was asked over the last connection is answered by nobody.
                allocation.disconnected();
                allocation.start(now);
            }
            FromStream::Closed => {
                stream.set_open(false);
                allocation.borrow_mut().disconnected();
            }
            FromStream::Messages(bytes) => {
                self.heard_at = now;
                self.messages(&bytes, allocation, now, cx);
            }
        }
        self.drain(cx);
    }

    fn messages(
        &self,
        bytes: &[u8],
        allocation: &RefCell<AllocationClient>,
        now: Duration,
        cx: &mut Cx<Self>,
    ) {
        let slot = self.machine.config.slot;
        let mut inward = self.lane.inward();
        let mut rest = bytes;
        while let Frame::Whole(length) = frame(rest) {
            let (message, behind) = rest.split_at(length);
            rest = behind;
            let message = without_padding(message);
            match allocation.borrow_mut().handle_datagram(message, now) {
                Received::Data { peer, payload } => {
                    let path = Path { via: Via::Relay(slot), remote: peer };
                    let whole = message.get(..payload.end).unwrap_or_default();
                    if !inward.copy(path, whole, whole.len(), payload.start, Ecn::NotEct) {
                        cx.count_drop("packet_too_long", 1);
                    }
                }
                Received::Handled => {}
                Received::Dropped(reason) => cx.count_drop(reason.as_str(), 1),
            }
        }
        inward.flush();
    }
}

/// ChannelData without what fills it up to four bytes (RFC 8656 §12.5).
fn without_padding(message: &[u8]) -> &[u8] {
    match (kind(message), message) {
        (Kind::ChannelData, [_, _, high, low, ..]) => {
            let length = usize::from(u16::from_be_bytes([*high, *low])) + protocol_stun::CHANNEL_HEADER_LEN;
            message.get(..length).unwrap_or(message)
        }
        _ => message,
    }
}

/// Bytes of the datagrams from `at` on that are whole messages of one channel, so that one header tells of all; at least
/// one datagram.
fn channel_run(datagrams: &Datagrams, at: usize) -> usize {
    let bytes = datagrams.bytes.get(at..).unwrap_or_default();
    let stride = datagrams.stride.max(1);
    let channel = |datagram: &[u8]| {
        let header = datagram.first_chunk::<4>()?;
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let whole = (0x40..0x50).contains(&header[0]) && length + header.len() == datagram.len();
        whole.then_some([header[0], header[1]])
    };
    let mut each = bytes.chunks(stride);
    let first = each.next().and_then(channel);
    let more = each.take_while(|datagram| first.is_some() && channel(datagram) == first).count();
    bytes.len().min((more + 1) * stride)
}

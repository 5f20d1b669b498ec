//! Our end at one relay: an allocation that forwards to us (gateways), or the plain question how the internet sees us
//! (clients).
//!
//! - Parent: [`PeerTable`](crate::PeerTable), one child per relay, restarted alone.
//! - Core: [`AllocationClient`] or [`BindingClient`], kept in the lane's table so that peers wrap data by themselves.
//! - When it dies: the machine stays in the lane's table and goes on; at worst a retransmission is late.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_network::Datagrams;
use actors_runtime::{Actor, Cx, Outlet};
use protocol_identity::RelayId;
use protocol_packet::{Batch, Ecn};
use protocol_stun::{
    AllocationClient, AllocationConfig, BindingClient, BindingEvent, BindingOutput, Credentials, Event,
    Output, Received,
};
use protocol_traversal::{Path, RelaySlot, Via};

use crate::lane::TunnelLane;

/// How often an idle binding is renewed; NATs are known to forget after 30 s.
const BINDING_INTERVAL: Duration = Duration::from_secs(15);
/// The first wait before a lost allocation is made anew. Doubles up to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_millis(500);
/// The longest such wait.
const LONGEST_WAIT: Duration = Duration::from_secs(15);

/// A relay that this node uses.
#[derive(Debug, Clone)]
pub struct LinkConfig {
    /// Its place among this node's relays.
    pub slot: RelaySlot,
    /// The relay.
    pub relay: RelayId,
    /// Its socket.
    pub address: SocketAddr,
    /// With them an allocation is made; without, only reflexive addresses are asked for.
    pub credentials: Option<Credentials>,
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
}

/// The machines of one link, shared on the lane.
pub(crate) struct LinkMachine {
    pub(crate) config: LinkConfig,
    pub(crate) allocation: Option<RefCell<AllocationClient>>,
    binding: RefCell<BindingClient>,
}

impl LinkMachine {
    pub(crate) fn new(config: LinkConfig) -> Rc<Self> {
        let allocation = config.credentials.clone().map(|credentials| {
            RefCell::new(AllocationClient::new(AllocationConfig::new(credentials), rand::random()))
        });
        Rc::new(Self {
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
}

/// Our end at one relay.
pub struct RelayLink {
    lane: Rc<TunnelLane>,
    machine: Rc<LinkMachine>,
    facts: Outlet<LinkFact>,
    /// What was not wanted when we were last told.
    unwanted: BTreeSet<IpAddr>,
    retry: Option<Duration>,
    wait: Duration,
}

impl RelayLink {
    pub(crate) fn new(lane: Rc<TunnelLane>, machine: Rc<LinkMachine>, facts: Outlet<LinkFact>) -> Self {
        Self { lane, machine, facts, unwanted: BTreeSet::new(), retry: None, wait: FIRST_WAIT }
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
    }

    fn send(&self, bytes: &[u8]) {
        let _ = self.lane.sockets().send(self.machine.config.address, bytes, 0);
    }

    fn drain(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
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
                self.wait = (self.wait * 2).min(LONGEST_WAIT);
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
        match &self.machine.allocation {
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
            (LinkCommand::Check, Some(allocation)) => allocation.borrow_mut().check(now),
            (LinkCommand::Check, None) => self.machine.binding.borrow_mut().probe(now),
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
        if control {
            self.drain(cx);
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
        if let Some(allocation) = &self.machine.allocation {
            let mut allocation = allocation.borrow_mut();
            if self.retry.is_some_and(|at| at <= now) {
                self.retry = None;
                allocation.start(now);
            }
            allocation.handle_timeout(now);
        }
        self.machine.binding.borrow_mut().handle_timeout(now);
        self.drain(cx);
    }

    fn stopped(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.now(cx.now());
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

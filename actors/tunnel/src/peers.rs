//! What all lanes have in common: which peers and relays there are, and where this node may be reached.
//!
//! - Parent: none (a root on a control lane).
//! - Core: the wanted state of every lane; whoever decides about access ([`Connect`](PeersCommand::Connect)) owns the
//!   reasons.
//! - When it dies: the lanes go on as they are; it is filled again by whoever decides, and the lanes take the same
//!   peers without a cut.

mod late;
mod links;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Never, Outlet, Reply};
use protocol_control::{Candidate, CandidateKind, GrantVersion, MAX_CANDIDATES, RelayOffer};
use protocol_identity::RelayId;
use protocol_traversal::{Hygiene, RelaySlot};
use protocol_tunnel::{RELAY_LANE, lane_of};

use crate::host::host_addresses;
use crate::lane::Neighbour;
use crate::peer::{PathSummary, PeerChange, PeerConfig, PeerFact};
use crate::peer_table::{PeerTable, TableCommand, TableFact};
use crate::relay_link::{LinkChange, LinkFact};
use crate::router::RouterChange;
use crate::side::GatewayApply;
use crate::stream::Transport;
use late::Late;
use links::Link;

/// How long a gateway's answer waits for a relay to confirm the permissions: two of its retransmissions. A relay that
/// is silent for longer must not hold up what can also go directly.
const PERMIT_WITHIN: Duration = Duration::from_millis(800);
/// How often it is looked whom relays still have to let through to us. Permissions last five minutes.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// How long a link to a relay that is about to end goes on: a round trip through control, and one for the new path. Relays
/// wait 2 s at least.
const LEAVE_AFTER: Duration = Duration::from_millis(1_500);
/// How long UDP has to work again before the connection to a relay is given up: paths need a second to be proven anew, and
/// a network that changes its mind is not followed at each change.
const STREAM_KEPT: Duration = Duration::from_secs(5);

/// What the peers of a process can be told.
pub enum PeersCommand {
    /// A lane reports.
    Table(TableFact),
    /// A connection, new or changed.
    Connect(Box<PeerConfig>),
    /// A connection goes.
    Disconnect {
        /// Its place.
        slot: u16,
    },
    /// Every connection but these goes.
    Retain(BTreeSet<u16>),
    /// Gateway: what a peer may reach from now on.
    Apply {
        /// Its place.
        slot: u16,
        /// Its grants.
        apply: Box<GatewayApply>,
    },
    /// Gateway: drops everything of a peer until the next [`PeersCommand::Apply`].
    Revoke {
        /// Its place.
        slot: u16,
        /// The version of the next grants.
        version: GrantVersion,
    },
    /// The other end has new candidates.
    Candidates {
        /// Its place.
        slot: u16,
        /// All of them.
        candidates: Vec<Candidate>,
    },
    /// What candidates of a peer are acceptable.
    Hygiene {
        /// Its place.
        slot: u16,
        /// The rules.
        hygiene: Hygiene,
    },
    /// The relays that control offers: all of them, anew.
    Relays(Vec<RelayOffer>),
    /// Lets addresses send to us through the relays, and says when they do.
    Permit {
        /// Whose addresses.
        addresses: Vec<IpAddr>,
        /// Answered when the relays have confirmed, or will not in time.
        done: Reply<()>,
    },
    /// Client: where packets go has changed.
    Route(Vec<RouterChange>),
    /// Our own network changed.
    NetworkChanged,
    /// What there is, for people.
    Inspect(Reply<PeersView>),
}

/// What the peers of a process report.
#[derive(Debug, Clone, PartialEq)]
pub enum PeersFact {
    /// The peers began, or began anew: they want to be told of every relay and connection.
    Began,
    /// Where this node may be reached has changed.
    Candidates(Vec<Candidate>),
    /// Measured round trips to relays.
    RoundTrips(Vec<(RelayId, Duration)>),
    /// A peer reports.
    Peer(PeerFact),
}

/// What there is, for people.
#[derive(Debug, Clone, Default)]
pub struct PeersView {
    /// By slot: whether its session is up, and its path.
    pub peers: BTreeMap<u16, (bool, Option<PathSummary>)>,
    /// The relays in use.
    pub links: Vec<LinkView>,
    /// Where this node may be reached.
    pub candidates: Vec<Candidate>,
    /// Whether UDP passes.
    pub udp: Udp,
}

/// Whether UDP passes, as far as relays show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Udp {
    /// No relay has answered yet, over UDP or otherwise.
    #[default]
    Unknown,
    /// A relay answers.
    Open,
    /// Relays answer over TLS only.
    Blocked,
}

impl Udp {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Open => "open",
            Self::Blocked => "blocked",
        }
    }
}

/// One relay, for people.
#[derive(Debug, Clone)]
pub struct LinkView {
    /// The relay.
    pub relay: RelayId,
    /// Its socket.
    pub address: SocketAddr,
    /// How it is reached.
    pub transport: Transport,
    /// Whether it forwards to us.
    pub allocated: bool,
    /// The measured round trip.
    pub round_trip: Option<Duration>,
}

struct Entry {
    config: PeerConfig,
    lane: u8,
    apply: Option<GatewayApply>,
    revoked: GrantVersion,
    established: bool,
    path: Option<PathSummary>,
}

struct Waiting {
    id: u64,
    addresses: BTreeSet<IpAddr>,
    done: Option<Reply<()>>,
}

/// The peers of a process.
pub struct Peers {
    /// By lane.
    tables: Vec<Address<PeerTable>>,
    facts: Outlet<PeersFact>,
    tun: String,
    /// Whether allocations are held before anybody needs them.
    is_warm: bool,
    peers: BTreeMap<u16, Entry>,
    /// What control offers; until it is known, the lanes keep the relays that they have.
    offers: Option<Vec<RelayOffer>>,
    links: BTreeMap<u8, Link>,
    ports: Vec<SocketAddr>,
    candidates: Vec<Candidate>,
    waiting: Vec<Waiting>,
    next_waiting: u64,
    /// By lane.
    late: Vec<Late>,
}

impl Peers {
    /// Keeps the lanes of `tables` filled; `tun` is the name of the tunnel device, whose addresses are no candidates.
    pub fn new(tables: Vec<Address<PeerTable>>, facts: Outlet<PeersFact>, tun: String) -> Self {
        Self {
            late: tables.iter().map(|_| Late::default()).collect(),
            tables,
            facts,
            tun,
            is_warm: true,
            peers: BTreeMap::new(),
            offers: None,
            links: BTreeMap::new(),
            ports: Vec::new(),
            candidates: Vec::new(),
            waiting: Vec::new(),
            next_waiting: 0,
        }
    }

    /// For a device. One with UDP sends plainly to a gateway's relayed address: it asks relays how they see it, and allocates
    /// only over TLS.
    #[must_use]
    pub fn of_a_device(self) -> Self {
        Self { is_warm: false, ..self }
    }

    /// The lane's table lacks everything: it is told all of it.
    fn refill(&mut self, lane: u8, cx: &mut Cx<Self>) {
        if let Some(late) = self.late.get_mut(usize::from(lane)) {
            late.links |= self.offers.is_some();
            late.slots.extend(self.peers.keys());
        }
        self.catch_up(cx);
    }

    fn lanes(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.tables.len()).unwrap_or(u8::MAX)
    }

    fn lane_of(&self, config: &PeerConfig) -> u8 {
        lane_of(config.inner.v4.into(), u8::try_from(self.tables.len()).unwrap_or(u8::MAX))
    }

    /// Tells every lane.
    fn tell_all(&mut self, command: impl Fn() -> TableCommand, cx: &mut Cx<Self>) {
        self.lanes().for_each(|lane| self.tell(lane, command(), cx));
    }

    fn tell_links(&mut self, cx: &mut Cx<Self>) {
        for lane in self.lanes() {
            self.tell(lane, self.links_wanted(lane), cx);
        }
    }

    fn link_fact(&mut self, fact: LinkFact, cx: &mut Cx<Self>) {
        let Some(link) = self.links.get_mut(&fact.slot.0).filter(|link| link.config.relay == fact.relay)
        else {
            return;
        };
        let was_held = !link.relayed.is_empty();
        let is_udp = link.config.transport() == Transport::Udp;
        match fact.what {
            LinkChange::Silent | LinkChange::Answers if !is_udp => return,
            LinkChange::Silent => return self.fell_silent(fact.slot, cx),
            LinkChange::Answers => return self.answers(fact.slot, cx),
            LinkChange::Allocated { relayed } => {
                link.relayed = relayed;
                link.is_silent.get_or_insert(false);
            }
            LinkChange::Mapped { address, round_trip } => {
                // What a relay sees of a connection is no address for datagrams.
                if is_udp {
                    link.mapped = Some(address);
                    link.is_silent.get_or_insert(false);
                }
                if !round_trip.is_zero() {
                    link.round_trip = Some(round_trip);
                    let relay = link.config.relay;
                    let _ = self.facts.tell(PeersFact::RoundTrips(vec![(relay, round_trip)]));
                }
            }
            LinkChange::Permitted(address) | LinkChange::Refused(address) => {
                link.permitted.insert(address);
                self.settle_waiting();
                return;
            }
            LinkChange::Released(address) => {
                link.permitted.remove(&address);
                return;
            }
            LinkChange::Lost(reason) => {
                // A relay that stays silent over UDP has been reported as such.
                if !(is_udp && link.is_silent == Some(true)) {
                    tracing::warn!(slot = fact.slot.0, reason, "a relay is lost for now");
                }
                link.relayed.clear();
                link.permitted.clear();
            }
        }
        if was_held == link.relayed.is_empty() {
            for lane in self.lanes().filter(|lane| *lane != RELAY_LANE) {
                self.tell(lane, self.links_wanted(lane), cx);
            }
        }
        self.candidates_changed();
    }

    fn offered(&mut self, offers: Vec<RelayOffer>, cx: &mut Cx<Self>) {
        self.offers = Some(offers);
        let left: Vec<u8> = self.leaving().collect();
        self.choose_links();
        self.tell_links(cx);
        self.candidates_changed();
        self.settle_waiting();
        let new: Vec<u8> = self.leaving().filter(|slot| !left.contains(slot)).collect();
        if new.is_empty() {
            return;
        }
        tracing::info!(links = new.len(), "a relay is about to end: its links are left");
        let sleep = cx.sleep(LEAVE_AFTER);
        cx.spawn(sleep, move |me, (), cx| {
            me.links.retain(|slot, link| !(link.is_leaving && new.contains(slot)));
            me.tell_links(cx);
        });
    }

    fn leaving(&self) -> impl Iterator<Item = u8> {
        self.links.iter().filter(|(_, link)| link.is_leaving).map(|(slot, _)| *slot)
    }

    /// UDP does not reach this relay: a connection is opened to it.
    fn fell_silent(&mut self, slot: RelaySlot, cx: &mut Cx<Self>) {
        let Some(link) = self.links.get_mut(&slot.0) else { return };
        link.is_silent = Some(true);
        if !std::mem::replace(&mut link.wants_stream, true) {
            tracing::info!(slot = slot.0, "a relay does not answer over UDP: TLS is tried");
            self.choose_links();
            self.tell_links(cx);
        }
    }

    /// UDP reaches this relay again: paths are tried anew, and when they have had their time, the connection goes.
    fn answers(&mut self, slot: RelaySlot, cx: &mut Cx<Self>) {
        let Some(link) = self.links.get_mut(&slot.0) else { return };
        link.is_silent = Some(false);
        link.answers += 1;
        let (relay, count) = (link.config.relay, link.answers);
        tracing::info!(slot = slot.0, "a relay answers over UDP again");
        self.tell_all(|| TableCommand::NetworkChanged, cx);
        let sleep = cx.sleep(STREAM_KEPT);
        cx.spawn(sleep, move |me, (), cx| {
            let Some(link) = me.links.get_mut(&slot.0) else { return };
            // It may have fallen silent meanwhile, or again.
            if link.config.relay != relay || link.answers != count || link.is_silent != Some(false) {
                return;
            }
            link.wants_stream = false;
            me.choose_links();
            me.tell_links(cx);
            me.candidates_changed();
        });
    }

    fn permit(&mut self, addresses: Vec<IpAddr>, done: Reply<()>, cx: &mut Cx<Self>) {
        self.tell(RELAY_LANE, TableCommand::Permit(addresses.clone()), cx);
        let addresses = addresses.into_iter().collect();
        let id = self.next_waiting;
        self.next_waiting += 1;
        self.waiting.push(Waiting { id, addresses, done: Some(done) });
        self.settle_waiting();
        if self.waiting.iter().any(|waiting| waiting.id == id) {
            let sleep = cx.sleep(PERMIT_WITHIN);
            cx.spawn(sleep, move |me, (), cx| {
                if let Some(at) = me.waiting.iter().position(|waiting| waiting.id == id) {
                    cx.count_drop("relay_permission_late", 1);
                    me.waiting.remove(at).finish();
                }
            });
        }
    }

    /// Permissions at relays of whoever is gone run out.
    fn sweep(&self, cx: &mut Cx<Self>) {
        let sleep = cx.sleep(SWEEP_EVERY);
        cx.spawn(sleep, |me, (), cx| {
            let peers = me.peers.values().flat_map(|entry| &entry.config.candidates);
            let peers = peers.map(|candidate| candidate.address.ip());
            let waiting = me.waiting.iter().flat_map(|waiting| waiting.addresses.iter().copied());
            me.tell(RELAY_LANE, TableCommand::Keep(Arc::new(peers.chain(waiting).collect())), cx);
            me.sweep(cx);
        });
    }

    /// Answers those whose addresses every allocated relay has confirmed.
    fn settle_waiting(&mut self) {
        let staying = || self.links.values().filter(|link| !link.is_leaving);
        let answers = |link: &&Link| !link.relayed.is_empty() && link.is_silent != Some(true);
        let links: Vec<&Link> = staying().filter(answers).collect();
        if links.is_empty() && staying().next().is_some() {
            // The allocations are still being made: what is told without a relay reaches nobody behind a NAT.
            return;
        }
        let (settled, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiting: &Waiting| {
                links.iter().all(|link| waiting.addresses.is_subset(&link.permitted))
            });
        self.waiting = waiting;
        settled.into_iter().for_each(Waiting::finish);
    }

    fn candidates_changed(&mut self) {
        let mut candidates = Vec::new();
        let mut add = |kind, address| {
            if !candidates.iter().any(|known: &Candidate| known.address == address) {
                candidates.push(Candidate { kind, address });
            }
        };
        for link in self.links.values().filter(|link| !link.is_leaving) {
            link.relayed.iter().for_each(|address| add(CandidateKind::Relayed, *address));
        }
        let hosts = host_addresses(&self.tun);
        for port in &self.ports {
            for host in hosts.iter().filter(|host| host.is_ipv4() == port.is_ipv4()) {
                add(CandidateKind::Host, SocketAddr::new(*host, port.port()));
            }
        }
        for link in self.links.values() {
            link.mapped.into_iter().for_each(|address| add(CandidateKind::Reflexive, address));
        }
        candidates.truncate(MAX_CANDIDATES);
        if candidates != self.candidates {
            self.candidates = candidates;
            let _ = self.facts.tell(PeersFact::Candidates(self.candidates.clone()));
        }
    }

    fn connect(&mut self, config: Box<PeerConfig>, cx: &mut Cx<Self>) {
        let (slot, home, public) = (config.slot, self.lane_of(&config), config.public);
        for lane in self.lanes() {
            let command = if lane == home {
                TableCommand::Install(config.clone())
            } else {
                TableCommand::Neighbour { slot, neighbour: Neighbour { lane: home, public } }
            };
            self.tell(lane, command, cx);
        }
        match self.peers.get_mut(&slot) {
            Some(entry) if entry.config.is_same_session(&config) => entry.config = *config,
            Some(_) | None => {
                let revoked = GrantVersion::default();
                let entry = Entry {
                    config: *config,
                    lane: home,
                    apply: None,
                    revoked,
                    established: false,
                    path: None,
                };
                self.peers.insert(slot, entry);
            }
        }
    }

    fn peer_fact(&mut self, fact: PeerFact) {
        if let Some(entry) = self.peers.get_mut(&fact.slot) {
            match &fact.what {
                PeerChange::Established => entry.established = true,
                PeerChange::Expired => entry.established = false,
                PeerChange::Path(path) => entry.path = Some(*path),
                PeerChange::Silent | PeerChange::Observed(_) | PeerChange::FlowEnded(_) => {}
            }
        }
        let _ = self.facts.tell(PeersFact::Peer(fact));
    }

    fn view(&self) -> PeersView {
        PeersView {
            peers: self.peers.iter().map(|(slot, entry)| (*slot, (entry.established, entry.path))).collect(),
            links: self
                .links
                .values()
                .map(|link| LinkView {
                    relay: link.config.relay,
                    address: link.config.address,
                    transport: link.config.transport(),
                    allocated: !link.relayed.is_empty(),
                    round_trip: link.round_trip,
                })
                .collect(),
            candidates: self.candidates.clone(),
            udp: self.udp(),
        }
    }

    fn udp(&self) -> Udp {
        let of = |transport| self.links.values().filter(move |link| link.config.transport() == transport);
        if of(Transport::Udp).any(|link| link.is_silent == Some(false)) {
            return Udp::Open;
        }
        let is_reached = of(Transport::Tls).any(|link| !link.relayed.is_empty());
        if is_reached { Udp::Blocked } else { Udp::Unknown }
    }
}

impl Waiting {
    fn finish(mut self) {
        if let Some(done) = self.done.take() {
            done.send(());
        }
    }
}

impl Actor for Peers {
    const KIND: &'static str = "Peers";
    type Command = PeersCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.tell_all(|| TableCommand::Announce, cx);
        let _ = self.facts.tell(PeersFact::Began);
        self.sweep(cx);
    }

    fn told(&mut self, command: PeersCommand, cx: &mut Cx<Self>) {
        match command {
            PeersCommand::Table(TableFact::Empty { lane, ports }) => {
                self.ports = ports;
                self.choose_links();
                self.refill(lane, cx);
                self.candidates_changed();
            }
            PeersCommand::Table(TableFact::Peer(fact)) => self.peer_fact(fact),
            PeersCommand::Table(TableFact::Link(fact)) => self.link_fact(fact, cx),
            // Whoever wants them takes them before they come here.
            PeersCommand::Table(TableFact::Flows(_)) => {}
            PeersCommand::Connect(config) => self.connect(config, cx),
            PeersCommand::Disconnect { slot } => {
                self.peers.remove(&slot);
                self.tell_all(|| TableCommand::Remove { slot }, cx);
            }
            PeersCommand::Retain(slots) => {
                self.peers.retain(|slot, _| slots.contains(slot));
                self.tell_all(|| TableCommand::Retain(slots.clone()), cx);
            }
            PeersCommand::Apply { slot, apply } => {
                if let Some(entry) = self.peers.get_mut(&slot) {
                    entry.apply = Some((*apply).clone());
                    let lane = entry.lane;
                    self.tell(lane, TableCommand::Apply { slot, apply }, cx);
                }
            }
            PeersCommand::Revoke { slot, version } => {
                if let Some(entry) = self.peers.get_mut(&slot) {
                    entry.revoked = entry.revoked.max(version);
                }
                self.tell_all(|| TableCommand::Revoke { slot, version }, cx);
            }
            PeersCommand::Candidates { slot, candidates } => {
                if let Some(entry) = self.peers.get_mut(&slot) {
                    entry.config.candidates.clone_from(&candidates);
                    let lane = entry.lane;
                    self.tell(lane, TableCommand::Candidates { slot, candidates }, cx);
                }
            }
            PeersCommand::Hygiene { slot, hygiene } => {
                if let Some(entry) = self.peers.get_mut(&slot) {
                    entry.config.hygiene = hygiene.clone();
                    let lane = entry.lane;
                    self.tell(lane, TableCommand::Hygiene { slot, hygiene }, cx);
                }
            }
            PeersCommand::Relays(offers) => self.offered(offers, cx),
            PeersCommand::Permit { addresses, done } => self.permit(addresses, done, cx),
            PeersCommand::Route(changes) => self.tell(RELAY_LANE, TableCommand::Route(changes), cx),
            PeersCommand::NetworkChanged => {
                self.tell_all(|| TableCommand::NetworkChanged, cx);
                self.candidates_changed();
            }
            PeersCommand::Inspect(reply) => reply.send(self.view()),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.catch_up(cx);
    }
}

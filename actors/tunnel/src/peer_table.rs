//! The peers of one packet lane: who is installed, and whose initiation it is.
//!
//! - Parent: none (a root on its packet lane).
//! - Core: the lane's table ([`TunnelLane`]).
//! - When it dies: its children stop with it; [`Peers`](crate::Peers) is told and installs them all again, with the keys,
//!   flows and candidates that the lane's table kept.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Outlet};
use protocol_control::{Candidate, GrantVersion};
use protocol_identity::WireguardKey;
use protocol_packet::Batch;
use protocol_traversal::Hygiene;
use protocol_tunnel::{Admission, COOKIE_SIZE, Limiter, RELAY_LANE, peek_initiation};

use crate::lane::{LinkPlace, Neighbour, PeerPlace, TunnelLane};
use crate::peer::{EndedFlow, Inbound, Peer, PeerCommand, PeerConfig, PeerFact, PeerKept};
use crate::relay_link::{LinkCommand, LinkConfig, LinkFact, LinkMachine, RelayLink};
use crate::router::RouterChange;
use crate::sender::Sender;
use crate::side::GatewayApply;
use crate::stream::{AwayLink, StreamCommand};

/// The limiter counts handshakes by the second.
const LIMITER_TICK: Duration = Duration::from_secs(1);

/// What the table can be told.
pub enum TableCommand {
    /// A peer, new or changed. One of the same session goes on; one of another session in its slot is replaced.
    Install(Box<PeerConfig>),
    /// A peer that lives on another lane, which takes its initiations.
    Neighbour {
        /// Its place.
        slot: u16,
        /// Where it is, and its key.
        neighbour: Neighbour,
    },
    /// A peer goes.
    Remove {
        /// Its place.
        slot: u16,
    },
    /// Every peer but these goes.
    Retain(BTreeSet<u16>),
    /// Gateway: what a peer may reach from now on.
    Apply {
        /// Its place.
        slot: u16,
        /// The grants and the host's rules.
        apply: Box<GatewayApply>,
    },
    /// Gateway: drops everything of a peer until an [`TableCommand::Apply`] of at least this version.
    Revoke {
        /// Its place.
        slot: u16,
        /// The version that the next grants have.
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
    /// Which relays this node uses: all of them, anew.
    Links(Vec<LinkConfig>),
    /// Which relays forward to us by an allocation that another lane holds: all of them, anew.
    Away(Vec<AwayLink>),
    /// Lets addresses send to us through every relay.
    Permit(Vec<IpAddr>),
    /// Only these addresses are still to send to us through relays.
    Keep(Arc<HashSet<IpAddr>>),
    /// Client: where packets go has changed.
    Route(Vec<RouterChange>),
    /// Our own network changed.
    NetworkChanged,
    /// Whoever fills the table began anew: report [`TableFact::Empty`], and what the links have. What is there stays.
    Announce,
}

/// What the table reports.
#[derive(Debug, Clone, PartialEq)]
pub enum TableFact {
    /// The table wants to be filled: it began, or began anew, or was asked to say so.
    Empty {
        /// Which lane's table it is.
        lane: u8,
        /// The local addresses of the lane's sockets.
        ports: Vec<SocketAddr>,
    },
    /// A peer reports.
    Peer(PeerFact),
    /// A link reports.
    Link(LinkFact),
    /// Flows that ended with their peers.
    Flows(Vec<EndedFlow>),
}

/// The peers of one lane.
pub struct PeerTable {
    lane: Rc<TunnelLane>,
    private: WireguardKey,
    limiter: Limiter,
    sender: Rc<RefCell<Sender>>,
    facts: Outlet<TableFact>,
    streams: Option<Outlet<StreamCommand>>,
}

impl PeerTable {
    /// A table over what its lane keeps.
    ///
    /// `limiter` is the same for the tables of all lanes.
    pub fn new(
        lane: Rc<TunnelLane>,
        private: WireguardKey,
        limiter: Limiter,
        facts: Outlet<TableFact>,
    ) -> Self {
        Self { lane, private, limiter, sender: Rc::new(RefCell::new(Sender::new())), facts, streams: None }
    }

    /// Relays that UDP does not reach are reached over connections that `streams` opens.
    #[must_use]
    pub fn with_streams(self, streams: Outlet<StreamCommand>) -> Self {
        Self { streams: Some(streams), ..self }
    }

    fn announce(&self) {
        let ports = self.lane.sockets().iter().map(|socket| socket.local_addr()).collect();
        let _ = self.facts.tell(TableFact::Empty { lane: self.lane.index(), ports });
    }

    fn install(&mut self, config: PeerConfig, cx: &mut Cx<Self>) {
        let slot = config.slot;
        self.lane.put_neighbour(slot, None);
        let key = slot.to_string();
        let same = self
            .lane
            .with_peer(slot, |place| (place.kept.is_same_session(&config), place.address.has_ended()));
        if same == Some((true, false)) {
            self.tell_peer(slot, PeerCommand::Candidates(config.candidates));
            self.tell_peer(slot, PeerCommand::Hygiene(config.hygiene));
            return;
        }
        let old = self.lane.put_peer(slot, None);
        cx.stop_child::<Peer>(&key);
        let kept = match old {
            Some(old) if old.kept.is_same_session(&config) => old.kept,
            old => {
                let generations = self.lane.generations();
                if let Some(old) = old {
                    self.tell_flows(old.kept.release());
                    generations.remember(&old.kept.config.secret, old.kept.next_generation());
                }
                let generation = generations.resume(&config.secret);
                PeerKept::new(config, generation)
            }
        };
        self.lane.router().borrow_mut().add_peer(slot, &kept.config.inner);
        let (lane, limiter, sender) = (self.lane.clone(), self.limiter.clone(), self.sender.clone());
        let facts = self.facts.clone();
        let facts = Outlet::to(move |fact: PeerFact| facts.tell(TableFact::Peer(fact)));
        let for_child = kept.clone();
        let child = cx.start_child::<Peer>(key, move || {
            Peer::new(lane.clone(), for_child.clone(), limiter.clone(), sender.clone(), facts.clone())
        });
        match child {
            Ok(child) => {
                let Some(packets) = child.packets else { return };
                self.lane.put_peer(slot, Some(PeerPlace { address: child.address, packets, kept }));
            }
            Err(error) => tracing::error!(%error, slot, "a peer cannot be started"),
        }
    }

    fn remove(&mut self, slot: u16, cx: &mut Cx<Self>) {
        self.lane.put_neighbour(slot, None);
        if let Some(place) = self.lane.put_peer(slot, None) {
            self.lane.router().borrow_mut().remove_peer(slot, &place.kept.config.inner);
            cx.stop_child::<Peer>(&slot.to_string());
            self.lane.generations().remember(&place.kept.config.secret, place.kept.next_generation());
            self.tell_flows(place.kept.release());
        }
    }

    fn tell_flows(&self, flows: Vec<EndedFlow>) {
        if !flows.is_empty() {
            // Whoever keeps them counts what it cannot take.
            let _ = self.facts.tell(TableFact::Flows(flows));
        }
    }

    fn tell_peer(&self, slot: u16, command: PeerCommand) {
        let told = self.lane.with_peer(slot, |place| place.address.tell(command));
        if !matches!(told, Some(Ok(()))) {
            self.lane.count("peer_command_lost", 1);
        }
    }

    fn links(&mut self, wanted: Vec<LinkConfig>, cx: &mut Cx<Self>) {
        let mut gone = Vec::new();
        self.lane.each_link(|slot, place| {
            let held = &place.machine.config;
            let is_same = |w: &LinkConfig| {
                w.slot == slot && w.relay == held.relay && w.address == held.address && w.tls == held.tls
            };
            if !wanted.iter().any(is_same) {
                gone.push(slot);
            }
        });
        for slot in gone {
            cx.stop_child::<RelayLink>(&slot.0.to_string());
            self.lane.put_link(slot, None);
        }
        for config in wanted {
            let slot = config.slot;
            if self.lane.with_link(slot, |place| place.address.has_ended()) == Some(false) {
                if let Some(credentials) = config.credentials {
                    let _ = self
                        .lane
                        .with_link(slot, |place| place.address.tell(LinkCommand::Credentials(credentials)));
                }
                continue;
            }
            self.start_link(config, cx);
        }
        self.lane.relays_changed();
    }

    fn start_link(&mut self, config: LinkConfig, cx: &mut Cx<Self>) {
        let slot = config.slot;
        // The machine of a link that died with the table goes on.
        let machine = self
            .lane
            .with_link(slot, |place| place.machine.clone())
            .unwrap_or_else(|| LinkMachine::new(config));
        let facts = self.facts.clone();
        let facts = Outlet::to(move |fact: LinkFact| facts.tell(TableFact::Link(fact)));
        let (lane, for_child, streams) = (self.lane.clone(), machine.clone(), self.streams.clone());
        let child = cx.start_child::<RelayLink>(slot.0.to_string(), move || {
            RelayLink::new(lane.clone(), for_child.clone(), facts.clone(), streams.clone())
        });
        match child {
            Ok(child) => {
                let Some(packets) = child.packets else { return };
                self.lane.put_link(slot, Some(LinkPlace { address: child.address, packets, machine }));
            }
            Err(error) => tracing::error!(%error, slot = slot.0, "a relay link cannot be started"),
        }
    }

    fn tell_links(&self, command: impl Fn() -> LinkCommand) {
        self.lane.each_link(|_, place| {
            let _ = place.address.tell(command());
        });
    }

    fn initiation(&self, inbound: Inbound) {
        let (path, bytes) = (inbound.path, inbound.iter().next().unwrap_or_default());
        let mut reply = [0; COOKIE_SIZE];
        match self.limiter.admit(path.remote.ip(), bytes, &mut reply) {
            Admission::Admitted => {}
            Admission::Cookie => {
                self.lane.send(path, &reply, 0);
                return;
            }
            Admission::Refused(dropped) => {
                self.lane.count(dropped.reason(), 1);
                return;
            }
        }
        let sender = match peek_initiation(&self.private, bytes) {
            Ok(sender) => sender,
            Err(error) => {
                self.lane.count(error.reason(), 1);
                return;
            }
        };
        let mut found = None;
        self.lane.each_peer(|slot, place| {
            if place.kept.config.public == sender {
                found = Some(slot);
            }
        });
        match found {
            Some(slot) => self.lane.open_initiation(slot, inbound),
            None if self.lane.initiation_for_neighbour(&sender, &inbound) => {}
            None => self.lane.count("unknown_peer", 1),
        }
    }
}

impl Actor for PeerTable {
    const KIND: &'static str = "PeerTable";
    type Command = TableCommand;
    type Packets = Batch<Inbound>;

    fn started(&mut self, cx: &mut Cx<Self>) {
        match cx.packets_of::<Self>(cx.key()) {
            Ok(packets) => self.lane.take_initiations(packets),
            Err(error) => tracing::error!(%error, "the table has no packet mailbox"),
        }
        if let Some(arriving) = self.lane.crossings().arriving(self.lane.index()) {
            cx.follow(arriving, |table, arrived, cx| table.lane.unload(arrived, table.lane.now(cx.now())));
        }
        self.announce();
        cx.wake_after(LIMITER_TICK);
    }

    fn told(&mut self, command: TableCommand, cx: &mut Cx<Self>) {
        match command {
            TableCommand::Install(config) => self.install(*config, cx),
            TableCommand::Neighbour { slot, neighbour } => {
                self.remove(slot, cx);
                self.lane.put_neighbour(slot, Some(neighbour));
            }
            TableCommand::Remove { slot } => self.remove(slot, cx),
            TableCommand::Retain(slots) => {
                self.lane.retain_neighbours(&slots);
                let mut gone = Vec::new();
                self.lane.each_peer(|slot, _| gone.push(slot));
                gone.retain(|slot| !slots.contains(slot));
                gone.into_iter().for_each(|slot| self.remove(slot, cx));
            }
            TableCommand::Apply { slot, apply } => {
                let applied = self.lane.with_peer(slot, |place| {
                    place.kept.side.borrow_mut().apply(*apply);
                });
                if applied.is_some() {
                    self.tell_peer(slot, PeerCommand::GrantsChanged);
                }
            }
            TableCommand::Revoke { slot, version } => {
                let revoked = self.lane.with_peer(slot, |place| place.kept.side.borrow_mut().revoke(version));
                if revoked.is_some() {
                    self.tell_peer(slot, PeerCommand::GrantsChanged);
                }
            }
            TableCommand::Candidates { slot, candidates } => {
                self.tell_peer(slot, PeerCommand::Candidates(candidates));
            }
            TableCommand::Hygiene { slot, hygiene } => self.tell_peer(slot, PeerCommand::Hygiene(hygiene)),
            TableCommand::Links(links) => self.links(links, cx),
            TableCommand::Away(relays) => {
                self.lane.set_away(relays);
                self.lane.relays_changed();
            }
            TableCommand::Permit(addresses) => self.tell_links(|| LinkCommand::Permit(addresses.clone())),
            TableCommand::Keep(wanted) => self.tell_links(|| LinkCommand::Keep(wanted.clone())),
            TableCommand::Route(changes) => {
                let released = self.lane.router().borrow_mut().change_all(changes);
                self.lane.reroute(released);
            }
            TableCommand::Announce => {
                self.announce();
                self.tell_links(|| LinkCommand::Report);
            }
            TableCommand::NetworkChanged => {
                self.tell_links(|| LinkCommand::Check);
                let mut slots = Vec::new();
                self.lane.each_peer(|slot, _| slots.push(slot));
                for slot in slots {
                    self.tell_peer(slot, PeerCommand::NetworkChanged);
                }
            }
        }
    }

    fn received(&mut self, mut packets: Batch<Inbound>, _cx: &mut Cx<Self>) {
        for inbound in packets.drain() {
            self.initiation(inbound);
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        // The limiter belongs to all lanes.
        if self.lane.index() == RELAY_LANE {
            self.limiter.reset_count();
        }
        cx.wake_after(LIMITER_TICK);
    }

    fn stopped(&mut self, _cx: &mut Cx<Self>) {
        let mut flows = Vec::new();
        self.lane.each_peer(|_, place| flows.extend(place.kept.release()));
        self.tell_flows(flows);
    }

    fn count(packets: &Batch<Inbound>) -> u64 {
        packets.len() as u64
    }
}

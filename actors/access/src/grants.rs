//! A client's side of access: what it knows of, what it has asked for, what it was granted.
//!
//! - Parent: none (a root on a control lane).
//! - Core: what is known of each resource, and where access to it stands.
//! - When it dies: packets go on under the grants in force; a new session brings the resources, and access is asked for
//!   anew when it is needed.

mod asking;
mod known;
mod lanes;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use actors_network::Routes;
use actors_runtime::{Actor, Address, Cx, Never, Outlet, Reply};
use actors_tunnel::{PeerChange, Peers, PeersCommand, PeersFact, RouterChange, lasting_time};
use protocol_control::{
    Candidate, ClientState, DenyReason, FromNode, InnerAddresses, MappedName, Peer, RelayOffer,
    ResourceAddress, ToNode, Welcome,
};
use protocol_filter::Access;
use protocol_identity::{DeviceId, GatewayId, IdentityKey, KemKey, ResourceId, WireguardKey};

use crate::control_session::{self, ControlSession, SessionEvent};
use crate::pins::Pins;
use known::{Gateway, Known, Stand, Term};
use lanes::Due;
pub use view::{GrantsView, ResourceState, ResourceStatus};

/// What the grants can be told.
pub enum GrantsCommand {
    /// The session with control reports.
    Session(SessionEvent),
    /// The peers report.
    Peers(PeersFact),
    /// A packet or a person wants this resource.
    Want {
        /// The resource.
        resource: ResourceId,
        /// Answered when it is decided.
        decided: Option<Reply<Decided>>,
    },
    /// The stub resolver was asked for the name of a resource, and would answer with these addresses.
    Lookup {
        /// The name with its stand-ins.
        mapped: MappedName,
        /// Answered when it is decided.
        decided: Reply<Decided>,
    },
    /// Drops every connection and resource: the person said `down`.
    Down,
    /// What there is, for people.
    Inspect(Reply<GrantsView>),
}

/// How a wish for access was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decided {
    /// Granted; these families have addresses.
    Granted {
        /// IPv4.
        has_v4: bool,
        /// IPv6.
        has_v6: bool,
    },
    /// Refused.
    Denied(DenyReason),
    /// Control is away, or nobody answered.
    Offline,
    /// No resource has this id or name.
    Unknown,
}

/// What the grants of a client need; shared by their incarnations.
pub struct GrantsSettings {
    /// Signs offers.
    pub identity: Arc<IdentityKey>,
    /// The WireGuard key of this process.
    pub wireguard: WireguardKey,
    /// The ML-KEM key of this process.
    pub kem: KemKey,
    /// The name of the tunnel device.
    pub tun: String,
    /// Where gateways' identities are pinned.
    pub pins: Option<std::path::PathBuf>,
    /// Addresses of control, never routed into the tunnel.
    pub outside: Box<dyn Fn() -> Vec<IpAddr> + Send + Sync>,
    /// Hears the names of all resources whenever they change: the stub resolver.
    pub names: Outlet<Vec<String>>,
    /// Set by the first incarnation.
    pub begun: AtomicBool,
}

/// The grants of a client.
pub struct Grants {
    settings: Arc<GrantsSettings>,
    peers: Address<Peers>,
    control: Address<ControlSession>,
    routes: Address<Routes>,
    pins: Option<Pins>,
    device: Option<(DeviceId, String, InnerAddresses)>,
    up: bool,
    resources: BTreeMap<ResourceId, Known>,
    departing: BTreeMap<ResourceId, ResourceAddress>,
    gateways: BTreeMap<GatewayId, Gateway>,
    relays: Vec<RelayOffer>,
    candidates: Vec<Candidate>,
    next_request: u64,
    next_slot: u16,
    due: Due,
}

impl Grants {
    /// Grants that know of nothing yet.
    pub fn new(
        settings: Arc<GrantsSettings>,
        peers: Address<Peers>,
        control: Address<ControlSession>,
        routes: Address<Routes>,
    ) -> Self {
        let pins = match Pins::open(settings.pins.as_deref()) {
            Ok(pins) => Some(pins),
            Err(error) => {
                tracing::error!(%error, "the pinned identities of gateways cannot be read: no gateway is trusted");
                None
            }
        };
        Self {
            settings,
            peers,
            control,
            routes,
            pins,
            device: None,
            up: false,
            resources: BTreeMap::new(),
            departing: BTreeMap::new(),
            gateways: BTreeMap::new(),
            relays: Vec::new(),
            candidates: Vec::new(),
            next_request: 0,
            next_slot: 1,
            due: Due::default(),
        }
    }

    fn say(&self, message: FromNode, cx: &Cx<Self>) {
        if self.control.tell(control_session::Command::Say(Box::new(message))).is_err() {
            cx.count_drop("control_outgoing_full", 1);
        }
    }

    fn session(&mut self, event: SessionEvent, cx: &mut Cx<Self>) {
        match event {
            SessionEvent::Up(welcome) => match *welcome {
                Welcome::Client(state) => self.full_state(state, cx),
                Welcome::Gateway(_) | Welcome::Relay(_) => {
                    tracing::error!(
                        "control takes this device for something else: the token is for another kind"
                    );
                }
            },
            SessionEvent::Message(message) => self.message(*message, cx),
            SessionEvent::Down => {
                self.up = false;
                let asked: Vec<ResourceId> = self
                    .resources
                    .iter()
                    .filter(|(_, known)| matches!(known.stand, Stand::Asked { .. }))
                    .map(|(id, _)| *id)
                    .collect();
                for resource in asked {
                    self.offline(resource);
                }
            }
        }
    }

    fn full_state(&mut self, state: ClientState, cx: &mut Cx<Self>) {
        let ClientState { device, principal, addresses, resources, relays, grants, account: _ } = state;
        tracing::info!(resources = resources.len(), grants = grants.len(), "full state");
        self.up = true;
        if self.device.as_ref().is_some_and(|(id, ..)| *id != device) {
            tracing::info!("this installation is another device now: what the last one had is dropped");
            self.drop_everything(cx);
        }
        if self.device.as_ref().map(|(id, _, inner)| (*id, *inner)) != Some((device, addresses)) {
            self.route(RouterChange::Inner(addresses));
        }
        self.device = Some((device, principal, addresses));
        self.relays.clone_from(&relays);
        self.tell_peers(PeersCommand::Relays(relays));
        let there: BTreeSet<ResourceId> = resources.iter().map(|view| view.resource).collect();
        let gone: Vec<ResourceId> =
            self.resources.keys().filter(|id| !there.contains(*id)).copied().collect();
        gone.into_iter().for_each(|resource| self.forget(resource, cx));
        for view in resources {
            self.put(view);
        }
        self.retain();
        // What is in force here but not there has ended; what is in force there is confirmed.
        let ended: Vec<ResourceId> = self
            .resources
            .iter()
            .filter(|(_, known)| match &known.stand {
                Stand::Granted { grant, .. } => !grants.iter().any(|(id, ..)| id == grant),
                Stand::Unused | Stand::Asked { .. } | Stand::Denied(_) | Stand::Offline => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for resource in ended {
            self.deny(resource, DenyReason::Ended, cx);
        }
        for known in self.resources.values_mut() {
            if let Stand::Granted { grant, term, renewing, .. } = &mut known.stand
                && let Some((.., remaining)) = grants.iter().find(|(id, ..)| id == grant)
            {
                *term = Term::of(*remaining);
                *renewing = false;
            }
        }
        self.set_alarm(cx);
        // A refusal or an outage of before says nothing about now.
        for known in self.resources.values_mut() {
            if matches!(known.stand, Stand::Denied(_) | Stand::Offline) {
                known.stand = Stand::Unused;
            }
        }
        let unused: Vec<ResourceId> = self
            .resources
            .iter()
            .filter(|(_, known)| matches!(known.stand, Stand::Unused))
            .map(|(id, _)| *id)
            .collect();
        for resource in unused {
            self.route(RouterChange::Access { resource, access: Access::Unknown });
        }
        self.say(FromNode::Candidates(self.candidates.clone()), cx);
        self.resources_changed();
    }

    fn message(&mut self, message: ToNode, cx: &mut Cx<Self>) {
        match message {
            ToNode::ResourceChanged(view) => {
                let resource = view.resource;
                self.put(view);
                if let Some(known) = self.resources.get_mut(&resource)
                    && matches!(known.stand, Stand::Denied(_) | Stand::Offline)
                {
                    known.stand = Stand::Unused;
                    self.route(RouterChange::Access { resource, access: Access::Unknown });
                }
                self.resources_changed();
            }
            ToNode::ResourceGone(resource) => {
                self.forget(resource, cx);
                self.resources_changed();
            }
            ToNode::Relays(relays) => {
                self.relays.clone_from(&relays);
                self.tell_peers(PeersCommand::Relays(relays));
                self.resources_changed();
            }
            ToNode::Granted(granted) => self.granted(*granted, cx),
            ToNode::Denied { request, resource, reason } => {
                let current = self.resources.get(&resource).is_some_and(|known| match &known.stand {
                    Stand::Asked { request: asked } => *asked == request,
                    // No other gateway is there: what is granted goes on, should its own answer again.
                    Stand::Granted { renewing, .. } => *renewing && reason != DenyReason::NoGateway,
                    Stand::Unused | Stand::Denied(_) | Stand::Offline => false,
                });
                if current {
                    self.deny(resource, reason, cx);
                }
            }
            ToNode::Revoked { grant, resource, reason } => {
                let current = self.resources.get(&resource).is_some_and(
                    |known| matches!(&known.stand, Stand::Granted { grant: held, .. } if *held == grant),
                );
                if current {
                    self.deny(resource, reason, cx);
                }
            }
            ToNode::Candidates { of: Peer::Gateway(gateway), candidates } => {
                if let Some(known) = self.gateways.get_mut(&gateway) {
                    known.candidates.clone_from(&candidates);
                    let slot = known.slot;
                    self.tell_peers(PeersCommand::Candidates { slot, candidates });
                }
            }
            ToNode::Candidates { of: Peer::Device(_), .. }
            | ToNode::FlowsStored { .. }
            | ToNode::Authorize(_)
            | ToNode::Revoke { .. } => {
                cx.count_drop("control_message_not_for_a_client", 1);
            }
            // The session machine has dealt with these.
            ToNode::Challenge { .. } | ToNode::Welcome(_) | ToNode::Ping(_) | ToNode::Close(_) => {}
        }
    }
}

impl Actor for Grants {
    const KIND: &'static str = "Grants";
    type Command = GrantsCommand;
    type Packets = Never;

    fn started(&mut self, _cx: &mut Cx<Self>) {
        // After a restart nothing is known until full state comes, with a new session.
        if self.settings.begun.swap(true, Ordering::Relaxed) {
            let _ = self.control.tell(control_session::Command::Reconnect);
        }
    }

    fn told(&mut self, command: GrantsCommand, cx: &mut Cx<Self>) {
        self.take(command, cx);
        self.flush(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.look_at_the_clock(cx);
        self.flush(cx);
    }
}

impl Grants {
    fn take(&mut self, command: GrantsCommand, cx: &mut Cx<Self>) {
        match command {
            GrantsCommand::Session(event) => self.session(event, cx),
            GrantsCommand::Peers(PeersFact::Began) => {
                if self.device.is_some() {
                    self.tell_peers(PeersCommand::Relays(self.relays.clone()));
                }
                let configs: Vec<_> =
                    self.gateways.keys().filter_map(|gateway| self.peer_config(*gateway)).collect();
                for config in configs {
                    self.tell_peers(PeersCommand::Connect(Box::new(config)));
                }
            }
            GrantsCommand::Peers(PeersFact::Candidates(candidates)) => {
                self.candidates.clone_from(&candidates);
                self.say(FromNode::Candidates(candidates), cx);
            }
            GrantsCommand::Peers(PeersFact::RoundTrips(trips)) => {
                self.say(FromNode::RelayRoundTrips(trips), cx);
            }
            GrantsCommand::Peers(PeersFact::Peer(fact)) => {
                let found = self.gateways.iter_mut().find(|(_, gateway)| gateway.slot == fact.slot);
                let (id, gateway) = found.map_or((None, None), |(id, gateway)| (Some(*id), Some(gateway)));
                match (fact.what, gateway) {
                    (PeerChange::Path(path), Some(gateway)) => {
                        gateway.silent &= !path.proven;
                        gateway.path = Some(path);
                    }
                    (PeerChange::Silent, Some(gateway)) => {
                        if !std::mem::replace(&mut gateway.silent, true) {
                            id.into_iter().for_each(|id| self.look_elsewhere(id, cx));
                        }
                    }
                    (PeerChange::Established, Some(gateway)) => {
                        tracing::info!(gateway = gateway.name, "connected");
                    }
                    (PeerChange::Expired, Some(gateway)) => {
                        tracing::warn!(gateway = gateway.name, "gateway silent");
                        gateway.path = None;
                    }
                    (PeerChange::Observed(_) | PeerChange::FlowEnded(_), _) | (_, None) => {}
                }
            }
            GrantsCommand::Want { resource, decided } => self.want(resource, decided, cx),
            GrantsCommand::Lookup { mapped, decided } => self.lookup(mapped, decided, cx),
            GrantsCommand::Down => self.down(cx),
            GrantsCommand::Inspect(reply) => reply.send(self.view()),
        }
    }

    /// Renews what will end, and ends what has.
    fn look_at_the_clock(&mut self, cx: &mut Cx<Self>) {
        let now = lasting_time();
        let mut renew = Vec::new();
        let mut ended = Vec::new();
        for (resource, known) in &mut self.resources {
            if let Stand::Granted { term, .. } = &mut known.stand {
                if term.ends <= now {
                    ended.push(*resource);
                } else if term.renew.is_some_and(|at| at <= now) {
                    // While control is away, the next session brings what is left.
                    term.renew = None;
                    renew.push(*resource);
                }
            }
        }
        for resource in ended {
            self.deny(resource, DenyReason::Ended, cx);
        }
        if self.up {
            renew.into_iter().for_each(|resource| self.ask(resource, cx));
        }
        self.set_alarm(cx);
    }
}

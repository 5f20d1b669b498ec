//! A client's side of access: what it knows of, what it has asked for, what it was granted.
//!
//! - Parent: none (a root on a control lane).
//! - Core: [`Known`], one for each resource.
//! - When it dies: packets go on under the grants in force; a new session brings the resources, and access is asked for
//!   anew when it is needed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors_network::{HostPlan, Routes, RoutesCommand, STUB_ADDRESS};
use actors_runtime::{Actor, Address, Cx, Never, Outlet, Reply};
use actors_tunnel::{
    PathSummary, PeerChange, PeerConfig, PeerName, Peers, PeersCommand, PeersFact, RouterChange,
    host_addresses, lasting_time,
};
use ipnet::IpNet;
use protocol_control::{
    Answer, Candidate, ClientState, DenyReason, FromNode, Granted, InnerAddresses, MappedName, Offer, Peer,
    RelayOffer, RequestAccess, ResourceAddress, ResourceView, ToNode, Welcome,
};
use protocol_filter::{Access, PeerSlot};
use protocol_identity::{
    DeviceId, GatewayId, GrantId, IdentityKey, KemKey, ResourceId, Secret32, WireguardKey,
};
use protocol_traversal::Hygiene;
use protocol_tunnel::TunnelIndex;

use crate::control_session::{self, ControlSession, SessionEvent};
use crate::pins::{Pinned, Pins};

/// A request that control or the gateway does not answer within this is given up, so that applications fail.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a refusal is repeated without asking control again.
const DENIED_FOR: Duration = Duration::from_secs(2);
/// How long a resource that is gone is still refused, rather than unknown.
const DEPART_WITHIN: Duration = Duration::from_secs(5);
/// A grant is asked for anew this long before it ends, or at half of its time, so that use does not stop.
const RENEW_BEFORE: Duration = Duration::from_secs(10);
/// What is left of a grant that is not asked for anew any more: what control gives then ends at the same time.
const TOO_SHORT: Duration = Duration::from_secs(1);

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

/// What there is, for people.
#[derive(Debug, Clone, Default)]
pub struct GrantsView {
    /// The device, its principal and its tunnel addresses.
    pub device: Option<(DeviceId, String, InnerAddresses)>,
    /// The resources, by name.
    pub resources: Vec<ResourceStatus>,
}

/// One resource, for people.
#[derive(Debug, Clone)]
pub struct ResourceStatus {
    /// What it is.
    pub view: ResourceView,
    /// The stand-ins of its name.
    pub mapped: Option<MappedName>,
    /// Where access stands.
    pub state: ResourceState,
    /// The gateway that serves it.
    pub gateway: Option<String>,
    /// The path in use.
    pub path: Option<PathSummary>,
    /// When the grant ends, from now.
    pub remaining: Option<Duration>,
}

/// Where access to a resource stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ResourceState {
    /// In force.
    Granted,
    /// Refused.
    Denied(DenyReason),
    /// Not used so far.
    Unused,
    /// Asked for.
    Asked,
    /// Control is away or did not answer.
    Offline,
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

/// One resource.
struct Known {
    view: ResourceView,
    mapped: Option<MappedName>,
    stand: Stand,
    waiting: Vec<Reply<Decided>>,
}

enum Stand {
    Unused,
    Asked { request: u64 },
    Granted { grant: GrantId, gateway: GatewayId, term: Term, families: (bool, bool), renewing: bool },
    Denied(DenyReason),
    Offline,
}

/// The time of a grant, on [`lasting_time`].
#[derive(Clone, Copy)]
struct Term {
    ends: Duration,
    renew: Option<Duration>,
}

impl Term {
    fn of(remaining: Duration) -> Self {
        let ends = lasting_time() + remaining;
        let renew = (remaining >= TOO_SHORT).then(|| ends.saturating_sub(RENEW_BEFORE.min(remaining / 2)));
        Self { ends, renew }
    }
}

struct Gateway {
    slot: u16,
    name: String,
    answer: Answer,
    secret: Secret32,
    candidates: Vec<Candidate>,
    path: Option<PathSummary>,
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
        }
    }

    fn say(&self, message: FromNode, cx: &Cx<Self>) {
        if self.control.tell(control_session::Command::Say(Box::new(message))).is_err() {
            cx.count_drop("control_outgoing_full", 1);
        }
    }

    fn tell_peers(&self, command: PeersCommand, cx: &Cx<Self>) {
        if self.peers.tell(command).is_err() {
            cx.count_drop("peers_command_lost", 1);
        }
    }

    fn route(&self, change: RouterChange, cx: &Cx<Self>) {
        self.tell_peers(PeersCommand::Route(change), cx);
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
                    self.offline(resource, cx);
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
            self.route(RouterChange::Inner(addresses), cx);
        }
        self.device = Some((device, principal, addresses));
        self.relays.clone_from(&relays);
        self.tell_peers(PeersCommand::Relays(without_credentials(relays)), cx);
        let gone: Vec<ResourceId> = self
            .resources
            .keys()
            .filter(|id| !resources.iter().any(|view| view.resource == **id))
            .copied()
            .collect();
        gone.into_iter().for_each(|resource| self.forget(resource, cx));
        for view in resources {
            self.put(view, cx);
        }
        self.retain(cx);
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
            self.route(RouterChange::Access { resource, access: Access::Unknown }, cx);
        }
        self.say(FromNode::Candidates(self.candidates.clone()), cx);
        self.resources_changed();
    }

    fn put(&mut self, view: ResourceView, cx: &Cx<Self>) {
        let resource = view.resource;
        if self.departing.remove(&resource).is_some() {
            self.route(RouterChange::Access { resource, access: Access::Unknown }, cx);
        }
        match self.resources.get_mut(&resource) {
            Some(known) => {
                if known.view.address != view.address {
                    known.mapped = None;
                }
                known.view = view;
            }
            None => {
                let known = Known { view, mapped: None, stand: Stand::Unused, waiting: Vec::new() };
                self.resources.insert(resource, known);
            }
        }
        self.put_route(resource, cx);
    }

    fn put_route(&self, resource: ResourceId, cx: &Cx<Self>) {
        let Some(known) = self.resources.get(&resource) else { return };
        let prefixes = match (&known.view.address, &known.mapped) {
            (ResourceAddress::Cidr(net), _) => vec![net.trunc()],
            (ResourceAddress::Ip(address), _) => vec![IpNet::from(*address)],
            (ResourceAddress::Dns(_), None) => Vec::new(),
            (ResourceAddress::Dns(_), Some(mapped)) => {
                vec![IpNet::from(IpAddr::from(mapped.v4)), IpNet::from(IpAddr::from(mapped.v6))]
            }
        };
        let filters = known.view.filters.clone();
        self.route(RouterChange::Put { resource, prefixes, filters }, cx);
    }

    /// The set of resources changed: names and routes follow.
    fn resources_changed(&self) {
        let names = self.resources.values().filter_map(|known| match &known.view.address {
            ResourceAddress::Dns(name) => Some(name.clone()),
            ResourceAddress::Cidr(_) | ResourceAddress::Ip(_) => None,
        });
        let _ = self.settings.names.tell(names.collect());
        let Some((_, _, inner)) = &self.device else { return };
        let mut routes: Vec<IpNet> = mapped_ranges();
        let known = self.resources.values().map(|known| &known.view.address);
        for address in known.chain(self.departing.values()) {
            match address {
                ResourceAddress::Cidr(net) => routes.push(net.trunc()),
                ResourceAddress::Ip(address) => routes.push(IpNet::from(*address)),
                ResourceAddress::Dns(_) => {}
            }
        }
        let relays = self.relays.iter().flat_map(|relay| relay.addresses.iter().map(|address| address.ip()));
        let plan = HostPlan {
            addresses: vec![inner.v4.into(), inner.v6.into(), STUB_ADDRESS.into()],
            routes,
            outside: (self.settings.outside)().into_iter().chain(relays).collect(),
            default_route_consent: false,
        };
        let _ = self.routes.tell(RoutesCommand::Apply { plan: Arc::new(plan), done: None });
    }

    fn message(&mut self, message: ToNode, cx: &mut Cx<Self>) {
        match message {
            ToNode::ResourceChanged(view) => {
                let resource = view.resource;
                self.put(view, cx);
                if let Some(known) = self.resources.get_mut(&resource)
                    && matches!(known.stand, Stand::Denied(_) | Stand::Offline)
                {
                    known.stand = Stand::Unused;
                    self.route(RouterChange::Access { resource, access: Access::Unknown }, cx);
                }
                self.resources_changed();
            }
            ToNode::ResourceGone(resource) => {
                self.forget(resource, cx);
                self.resources_changed();
            }
            ToNode::Relays(relays) => {
                self.relays.clone_from(&relays);
                self.tell_peers(PeersCommand::Relays(without_credentials(relays)), cx);
                self.resources_changed();
            }
            ToNode::Granted(granted) => self.granted(*granted, cx),
            ToNode::Denied { request, resource, reason } => {
                let current = self.resources.get(&resource).is_some_and(|known| match &known.stand {
                    Stand::Asked { request: asked } => *asked == request,
                    Stand::Granted { renewing, .. } => *renewing,
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
                    self.tell_peers(PeersCommand::Candidates { slot, candidates }, cx);
                }
            }
            ToNode::Candidates { of: Peer::Device(_), .. } | ToNode::Authorize(_) | ToNode::Revoke { .. } => {
                cx.count_drop("control_message_not_for_a_client", 1);
            }
            // The session machine has dealt with these.
            ToNode::Challenge { .. } | ToNode::Welcome(_) | ToNode::Ping(_) | ToNode::Close(_) => {}
        }
    }

    fn want(&mut self, resource: ResourceId, decided: Option<Reply<Decided>>, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.get_mut(&resource) else {
            if let Some(decided) = decided {
                decided.send(Decided::Unknown);
            }
            return;
        };
        if let Stand::Granted { families: (has_v4, has_v6), .. } = known.stand {
            if let Some(decided) = decided {
                decided.send(Decided::Granted { has_v4, has_v6 });
            }
            return;
        }
        known.waiting.extend(decided);
        if !matches!(known.stand, Stand::Asked { .. }) {
            self.ask(resource, cx);
        }
    }

    fn ask(&mut self, resource: ResourceId, cx: &mut Cx<Self>) {
        let Some((device, ..)) = &self.device else { return self.offline(resource, cx) };
        let device = *device;
        if !self.up {
            return self.offline(resource, cx);
        }
        self.next_request += 1;
        let request = self.next_request;
        let slot = self.free_slot();
        let Some(known) = self.resources.get_mut(&resource) else { return };
        let offer = Offer::sign(
            &self.settings.identity,
            device,
            resource,
            self.settings.wireguard.public(),
            self.settings.kem.public(),
            TunnelIndex { slot, lane: 0 }.receiver_index(),
            self.candidates.clone(),
        );
        match &mut known.stand {
            Stand::Granted { renewing, term, .. } => {
                *renewing = true;
                term.renew = None;
            }
            Stand::Unused | Stand::Asked { .. } | Stand::Denied(_) | Stand::Offline => {
                known.stand = Stand::Asked { request };
                self.tell_peers(
                    PeersCommand::Route(RouterChange::Access { resource, access: Access::Pending }),
                    cx,
                );
            }
        }
        let name = self.resources.get(&resource).and_then(|known| known.mapped.clone());
        self.say(FromNode::RequestAccess(RequestAccess { request, offer, name }), cx);
        let sleep = cx.sleep(ANSWER_WITHIN);
        cx.spawn(sleep, move |me, (), cx| {
            let unanswered = me.resources.get(&resource).is_some_and(
                |known| matches!(known.stand, Stand::Asked { request: asked } if asked == request),
            );
            if unanswered {
                tracing::warn!(%resource, "nobody answered a request for access");
                me.offline(resource, cx);
            }
        });
    }

    fn free_slot(&mut self) -> u16 {
        loop {
            let slot = self.next_slot;
            self.next_slot = self.next_slot.checked_add(1).unwrap_or(1);
            if !self.gateways.values().any(|gateway| gateway.slot == slot) {
                return slot;
            }
        }
    }

    fn granted(&mut self, granted: Granted, cx: &mut Cx<Self>) {
        let Granted { request: _, grant, resource, remaining, gateway_name, answer, has_v4, has_v6, name: _ } =
            granted;
        if !self.resources.contains_key(&resource) {
            return;
        }
        let device = self.device.as_ref().map(|(device, ..)| *device);
        let (wireguard, kem) = (self.settings.wireguard.public(), self.settings.kem.public());
        if Some(answer.device) != device || answer.grant != grant || answer.verify(&wireguard, &kem).is_err()
        {
            tracing::error!(%resource, "a gateway's answer has a wrong signature: control or the gateway is lying");
            cx.count_drop("answer_bad_signature", 1);
            return self.deny(resource, DenyReason::Gateway(protocol_control::GatewayRefusal::BadOffer), cx);
        }
        let pinned = match &mut self.pins {
            Some(pins) => pins.check(&answer.gateway.to_string(), answer.identity).unwrap_or_else(|error| {
                tracing::error!(%error, "a gateway's identity cannot be pinned");
                Pinned::Changed
            }),
            None => Pinned::Changed,
        };
        if pinned == Pinned::Changed {
            tracing::error!(
                gateway = gateway_name,
                "the gateway shows another identity key than the pinned one"
            );
            cx.count_drop("gateway_identity_changed", 1);
            return self.deny(
                resource,
                DenyReason::Gateway(protocol_control::GatewayRefusal::IdentityChanged),
                cx,
            );
        }
        let Some(slot) = self.connect(answer, gateway_name, cx) else {
            return self.deny(resource, DenyReason::Gateway(protocol_control::GatewayRefusal::BadOffer), cx);
        };
        let term = Term::of(remaining);
        let Some((gateway, _)) = self.gateways.iter().find(|(_, gateway)| gateway.slot == slot) else {
            return;
        };
        let gateway = *gateway;
        let Some(known) = self.resources.get_mut(&resource) else { return };
        known.stand = Stand::Granted { grant, gateway, term, families: (has_v4, has_v6), renewing: false };
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Granted { has_v4, has_v6 });
        }
        tracing::info!(%resource, %grant, "granted");
        self.put_route(resource, cx);
        self.refresh_hygiene(gateway, cx);
        self.route(RouterChange::Access { resource, access: Access::Granted(PeerSlot(slot.into())) }, cx);
        self.set_alarm(cx);
    }

    /// Makes or keeps the connection that an answer is for; returns its slot.
    fn connect(&mut self, answer: Answer, name: String, cx: &Cx<Self>) -> Option<u16> {
        let candidates = answer.candidates.clone();
        let (slot, secret) = match self.gateways.get(&answer.gateway) {
            Some(held) if held.answer.same_session(&answer) => (held.slot, held.secret.clone()),
            Some(_) | None => {
                let shared = self.settings.kem.decapsulate(&answer.ciphertext).ok()?;
                let slot = TunnelIndex::of(answer.device_index).slot;
                if let Some(old) = self.gateways.get(&answer.gateway)
                    && old.slot != slot
                {
                    self.tell_peers(PeersCommand::Disconnect { slot: old.slot }, cx);
                }
                (slot, shared)
            }
        };
        // Another gateway in this slot would mean that a gateway answers with an index that was not offered to it.
        if self.gateways.iter().any(|(id, held)| held.slot == slot && *id != answer.gateway) {
            cx.count_drop("answer_bad_index", 1);
            return None;
        }
        let gateway = answer.gateway;
        let path = self.gateways.get(&gateway).filter(|held| held.slot == slot).and_then(|held| held.path);
        self.gateways.insert(gateway, Gateway { slot, name, answer, secret, candidates, path });
        if let Some(config) = self.peer_config(gateway) {
            self.tell_peers(PeersCommand::Connect(Box::new(config)), cx);
        }
        Some(slot)
    }

    fn peer_config(&self, gateway: GatewayId) -> Option<PeerConfig> {
        let held = self.gateways.get(&gateway)?;
        Some(PeerConfig {
            slot: held.slot,
            name: PeerName::Gateway(gateway),
            private: self.settings.wireguard.clone(),
            public: held.answer.wireguard,
            secret: held.secret.clone(),
            remote_index: held.answer.index,
            inner: held.answer.addresses,
            candidates: held.candidates.clone(),
            hygiene: self.hygiene(gateway),
            rules: None,
        })
    }

    fn hygiene(&self, gateway: GatewayId) -> Hygiene {
        let granted = self
            .resources
            .values()
            .filter(|known| matches!(&known.stand, Stand::Granted { gateway: by, .. } if *by == gateway))
            .filter_map(|known| match &known.view.address {
                ResourceAddress::Cidr(net) => Some(net.trunc()),
                ResourceAddress::Ip(address) => Some(IpNet::from(*address)),
                ResourceAddress::Dns(_) => None,
            })
            .collect();
        Hygiene { own: host_addresses(&self.settings.tun), granted, ..Hygiene::default() }
    }

    fn refresh_hygiene(&self, gateway: GatewayId, cx: &Cx<Self>) {
        if let Some(held) = self.gateways.get(&gateway) {
            let hygiene = self.hygiene(gateway);
            self.tell_peers(PeersCommand::Hygiene { slot: held.slot, hygiene }, cx);
        }
    }

    fn deny(&mut self, resource: ResourceId, reason: DenyReason, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.get_mut(&resource) else { return };
        tracing::info!(%resource, reason = %reason, "denied");
        known.stand = Stand::Denied(reason.clone());
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Denied(reason.clone()));
        }
        let again = lasting_time() + DENIED_FOR;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } }, cx);
        self.set_alarm(cx);
    }

    fn offline(&mut self, resource: ResourceId, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.get_mut(&resource) else { return };
        known.stand = Stand::Offline;
        for waiting in known.waiting.drain(..) {
            waiting.send(Decided::Offline);
        }
        let again = lasting_time() + DENIED_FOR;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } }, cx);
    }

    /// A resource is gone. Its connections are refused for a moment longer, while their ends come in, before its routes
    /// go: otherwise they would hang, and their packets leave on the host's other interfaces.
    fn forget(&mut self, resource: ResourceId, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.remove(&resource) else { return };
        for waiting in known.waiting {
            waiting.send(Decided::Unknown);
        }
        self.departing.insert(resource, known.view.address);
        let again = lasting_time() + 2 * DEPART_WITHIN;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } }, cx);
        let sleep = cx.sleep(DEPART_WITHIN);
        cx.spawn(sleep, move |me, (), cx| {
            if me.departing.remove(&resource).is_some() {
                me.retain(cx);
                me.resources_changed();
            }
        });
    }

    /// Only what is known, or going, stays in the lanes' tables.
    fn retain(&self, cx: &Cx<Self>) {
        let ids = self.resources.keys().chain(self.departing.keys()).copied().collect();
        self.route(RouterChange::Retain(ids), cx);
    }

    fn lookup(&mut self, mapped: MappedName, decided: Reply<Decided>, cx: &mut Cx<Self>) {
        let found = self.resources.iter_mut().find(
            |(_, known)| matches!(&known.view.address, ResourceAddress::Dns(name) if *name == mapped.name),
        );
        let Some((resource, known)) = found else {
            decided.send(Decided::Unknown);
            return;
        };
        let resource = *resource;
        if known.mapped.as_ref() != Some(&mapped) {
            known.mapped = Some(mapped);
            // The gateway translates the stand-ins that it was told.
            if matches!(known.stand, Stand::Granted { .. }) {
                known.stand = Stand::Unused;
            }
            self.put_route(resource, cx);
        }
        self.want(resource, Some(decided), cx);
    }

    fn set_alarm(&self, cx: &mut Cx<Self>) {
        let now = lasting_time();
        let next = self
            .resources
            .values()
            .filter_map(|known| match &known.stand {
                Stand::Granted { term, .. } => Some(term.renew.unwrap_or(term.ends)),
                Stand::Unused | Stand::Asked { .. } | Stand::Denied(_) | Stand::Offline => None,
            })
            .min();
        match next {
            Some(at) => cx.wake_at(cx.now() + at.saturating_sub(now)),
            None => cx.wake_never(),
        }
    }

    /// Ends every connection, and forgets every resource.
    fn drop_everything(&mut self, cx: &mut Cx<Self>) {
        let resources: Vec<ResourceId> = self.resources.keys().copied().collect();
        resources.into_iter().for_each(|resource| self.forget(resource, cx));
        self.departing.clear();
        self.retain(cx);
        for gateway in std::mem::take(&mut self.gateways).into_values() {
            self.tell_peers(PeersCommand::Disconnect { slot: gateway.slot }, cx);
        }
    }

    fn down(&mut self, cx: &mut Cx<Self>) {
        self.drop_everything(cx);
        self.tell_peers(PeersCommand::Relays(Vec::new()), cx);
        self.relays.clear();
        self.device = None;
        self.up = false;
        let _ = self.settings.names.tell(Vec::new());
        let _ = self.routes.tell(RoutesCommand::Clear { done: None });
        cx.wake_never();
    }

    fn view(&self) -> GrantsView {
        let now = lasting_time();
        let mut resources: Vec<ResourceStatus> = self
            .resources
            .values()
            .map(|known| {
                let (state, gateway, remaining) = match &known.stand {
                    Stand::Unused => (ResourceState::Unused, None, None),
                    Stand::Asked { .. } => (ResourceState::Asked, None, None),
                    Stand::Granted { gateway, term, .. } => (
                        ResourceState::Granted,
                        self.gateways.get(gateway),
                        Some(term.ends.saturating_sub(now)),
                    ),
                    Stand::Denied(reason) => (ResourceState::Denied(reason.clone()), None, None),
                    Stand::Offline => (ResourceState::Offline, None, None),
                };
                ResourceStatus {
                    view: known.view.clone(),
                    mapped: known.mapped.clone(),
                    state,
                    gateway: gateway.map(|gateway| gateway.name.clone()),
                    path: gateway.and_then(|gateway| gateway.path),
                    remaining,
                }
            })
            .collect();
        resources.sort_by(|a, b| a.view.name.cmp(&b.view.name));
        GrantsView { device: self.device.clone(), resources }
    }
}

/// A device with UDP sends plainly to a gateway's relayed address: it asks relays how they see it, and allocates nothing.
fn without_credentials(relays: Vec<RelayOffer>) -> Vec<RelayOffer> {
    relays.into_iter().map(|relay| RelayOffer { credential: None, ..relay }).collect()
}

/// Stand-ins of names: routed into the tunnel whether or not one is in use.
fn mapped_ranges() -> Vec<IpNet> {
    ["100.96.0.0/11", "fd70:6f73:7402::/64"].into_iter().filter_map(|net| net.parse().ok()).collect()
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
        match command {
            GrantsCommand::Session(event) => self.session(event, cx),
            GrantsCommand::Peers(PeersFact::Began) => {
                if self.device.is_some() {
                    self.tell_peers(PeersCommand::Relays(without_credentials(self.relays.clone())), cx);
                }
                for config in self.gateways.keys().filter_map(|gateway| self.peer_config(*gateway)) {
                    self.tell_peers(PeersCommand::Connect(Box::new(config)), cx);
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
                let gateway = self.gateways.values_mut().find(|gateway| gateway.slot == fact.slot);
                match (fact.what, gateway) {
                    (PeerChange::Path(path), Some(gateway)) => gateway.path = Some(path),
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

    fn woken(&mut self, cx: &mut Cx<Self>) {
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

//! A gateway's side of access: which devices control has authorized, and what they may reach.
//!
//! - Parent: none (a root on a control lane).
//! - Core: the grants in force, compiled for the lanes by [`PeerGrants`](protocol_filter::PeerGrants).
//! - When it dies: packets go on under the grants in force; a new session brings the full set, and devices connect anew.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors_network::{HostPlan, Routes, RoutesCommand};
use actors_runtime::{Actor, Address, Cx, Never, Outlet, Reply};
use actors_tunnel::{PeerChange, Peers, PeersCommand, PeersFact, lasting_time};
use ipnet::IpNet;
use protocol_control::{
    Authorize, Candidate, FromNode, GatewayRefusal, GatewayState, GrantVersion, InnerAddresses, Peer,
    RelayOffer, ResourceAddress, ToNode, Welcome,
};
use protocol_identity::{DeviceId, GatewayId, GrantId, IdentityKey, WireguardKey, WireguardPublic};
use tokio::time::Instant;

use crate::admitted::{Device, Held};
use crate::control_session::{self, ControlSession, SessionEvent};
use crate::pins::{Pinned, Pins};

mod lanes;

use lanes::Lanes;

/// How often the real addresses behind names in use are looked up again.
const REFRESH_NAMES: Duration = Duration::from_secs(30);
/// Devices at one gateway: every slot of the receiver index but 0.
const MOST_DEVICES: usize = u16::MAX as usize - 1;
/// How long a device without a grant keeps its session: time to end its flows, and often it asks again.
const FORGET_AFTER: Duration = Duration::from_secs(60);
/// How long what did not fit into a neighbour's mailbox waits.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// How long the host gets before its addresses and routes are asked for again.
const DRESS_AGAIN: Duration = Duration::from_secs(2);
/// How long the host's addresses are taken as read.
const OWN_FOR: Duration = Duration::from_secs(2);

/// Looks a name up; no address means that it has none.
pub type Lookup = Arc<dyn Fn(String) -> Pin<Box<dyn Future<Output = Vec<IpAddr>>>> + Send + Sync>;

/// What the admissions can be told.
pub enum AdmissionsCommand {
    /// The session with control reports.
    Session(SessionEvent),
    /// The peers report.
    Peers(PeersFact),
    /// What is admitted, for people.
    Inspect(Reply<AdmissionsView>),
}

/// What is admitted, for people.
#[derive(Debug, Clone, Default)]
pub struct AdmissionsView {
    /// Devices with their slot and number of grants.
    pub devices: Vec<(DeviceId, u16, usize)>,
    /// Whether the full state has come at least once.
    pub ready: bool,
}

/// What the admissions of a gateway need; shared by their incarnations.
pub struct AdmissionsSettings {
    /// Signs answers.
    pub identity: Arc<IdentityKey>,
    /// The WireGuard key of this process.
    pub wireguard: WireguardKey,
    /// The local ceiling, if there is one.
    pub ceiling: Option<Vec<IpNet>>,
    /// The name of the tunnel device.
    pub tun: String,
    /// How many packet lanes there are.
    pub lanes: u8,
    /// Looks up the names of resources.
    pub lookup: Lookup,
    /// Where the devices' identities are pinned.
    pub pins: Option<std::path::PathBuf>,
    /// Called whenever full state has come and the device is up under the gateway's addresses.
    pub ready: Box<dyn Fn() + Send + Sync>,
    /// Set by the first incarnation.
    pub begun: AtomicBool,
}

/// The admissions of a gateway.
pub struct Admissions {
    settings: Arc<AdmissionsSettings>,
    peers: Address<Peers>,
    control: Address<ControlSession>,
    routes: Address<Routes>,
    own_resources: Outlet<Vec<IpAddr>>,
    pins: Option<Pins>,
    gateway: Option<(GatewayId, InnerAddresses)>,
    /// Whether the host has the addresses of `gateway`.
    dressed: bool,
    relays: Vec<RelayOffer>,
    candidates: Vec<Candidate>,
    devices: BTreeMap<DeviceId, Device>,
    /// Processes of devices that were followed by others when full state last came. A look-up may install what they
    /// asked for after what the living ones asked for.
    superseded: BTreeSet<WireguardPublic>,
    slots: BTreeSet<u16>,
    next_slot: u16,
    /// Grants whose name is being looked up, with a number that tells one look-up from a later one.
    looking: BTreeMap<GrantId, u64>,
    lookups: u64,
    refresh_at: Option<Instant>,
    lanes: Lanes,
}

impl Admissions {
    /// Admissions that know nobody yet. `own_resources` hears which of the host's own addresses are resources, whenever
    /// that changes: the host's packet filter lets those in.
    pub fn new(
        settings: Arc<AdmissionsSettings>,
        peers: Address<Peers>,
        control: Address<ControlSession>,
        routes: Address<Routes>,
        own_resources: Outlet<Vec<IpAddr>>,
    ) -> Self {
        let pins = Pins::open(settings.pins.as_deref());
        Self {
            pins: pins
                .inspect_err(|error| {
                    tracing::error!(%error, "the pinned identities of devices cannot be read: no device is trusted");
                })
                .ok(),
            settings,
            peers,
            control,
            routes,
            own_resources,
            gateway: None,
            dressed: false,
            relays: Vec::new(),
            candidates: Vec::new(),
            devices: BTreeMap::new(),
            superseded: BTreeSet::new(),
            slots: BTreeSet::new(),
            next_slot: 1,
            looking: BTreeMap::new(),
            lookups: 0,
            refresh_at: None,
            lanes: Lanes::default(),
        }
    }

    fn say(&self, message: FromNode, cx: &Cx<Self>) {
        if self.control.tell(control_session::Command::Say(Box::new(message))).is_err() {
            cx.count_drop("control_outgoing_full", 1);
        }
    }

    /// Whether it was taken.
    fn tell_peers(&self, command: PeersCommand, cx: &Cx<Self>) -> bool {
        let taken = self.peers.tell(command).is_ok();
        if !taken {
            cx.count_drop("peers_command_late", 1);
        }
        taken
    }

    fn session(&mut self, event: SessionEvent, cx: &mut Cx<Self>) {
        match event {
            SessionEvent::Up(welcome) => match *welcome {
                Welcome::Gateway(state) => self.full_state(state, cx),
                Welcome::Client(_) | Welcome::Relay(_) => {
                    tracing::error!(
                        "control takes this gateway for something else: the token is for another kind"
                    );
                }
            },
            SessionEvent::Message(message) => self.message(*message, cx),
            SessionEvent::Down => {
                tracing::warn!(
                    devices = self.devices.len(),
                    "control is away: grants in force go on until their end"
                );
            }
        }
    }

    fn full_state(&mut self, state: GatewayState, cx: &mut Cx<Self>) {
        let GatewayState { gateway, addresses, grants, relays, site, account: _, takes_flows: _ } = state;
        tracing::info!(site, grants = grants.len(), relays = relays.len(), "full state");
        if self.gateway != Some((gateway, addresses)) {
            self.gateway = Some((gateway, addresses));
            self.dressed = false;
            self.dress_host(cx);
        }
        self.offer_relays(relays, cx);
        let wanted: BTreeSet<GrantId> = grants.iter().map(|authorize| authorize.grant).collect();
        self.looking.retain(|grant, _| wanted.contains(grant));
        for (id, device) in &mut self.devices {
            let held = device.grants.len();
            device.grants.retain(|grant, _| wanted.contains(grant));
            if device.grants.len() < held {
                device.version = GrantVersion(device.version.0 + 1);
                self.lanes.change(*id);
            }
        }
        self.superseded = superseded(&grants);
        for authorize in grants {
            self.authorize(authorize, cx);
        }
        self.lanes.retain();
        self.say(FromNode::Candidates(self.candidates.clone()), cx);
        self.flush(cx);
        if self.dressed {
            (self.settings.ready)();
        }
    }

    /// Gives the host the gateway's addresses and the way to the devices, until it has them.
    fn dress_host(&mut self, cx: &mut Cx<Self>) {
        let Some((gateway, addresses)) = self.gateway else { return };
        let plan = HostPlan {
            addresses: vec![addresses.v4.into(), addresses.v6.into()],
            routes: device_ranges(),
            outside: Vec::new(),
            default_route_consent: false,
        };
        let (done, answer) = Reply::channel();
        let _ = self.routes.tell(RoutesCommand::Apply { plan: Arc::new(plan), done: Some(done) });
        cx.spawn(answer, move |me, answer, cx| {
            if me.gateway != Some((gateway, addresses)) {
                return;
            }
            if matches!(answer, Ok(Ok(_))) {
                me.dressed = true;
                (me.settings.ready)();
                return;
            }
            // Routes has said why.
            let pause = cx.sleep(DRESS_AGAIN);
            cx.spawn(pause, move |me, (), cx| {
                if me.gateway == Some((gateway, addresses)) {
                    me.dress_host(cx);
                }
            });
        });
    }

    fn offer_relays(&mut self, relays: Vec<RelayOffer>, cx: &mut Cx<Self>) {
        self.relays = relays;
        self.lanes.relays_changed();
        self.flush(cx);
    }

    fn message(&mut self, message: ToNode, cx: &mut Cx<Self>) {
        match message {
            ToNode::Authorize(authorize) => self.authorize(*authorize, cx),
            ToNode::Revoke { grant, device, version } => {
                self.revoke(device, grant, version, cx);
                self.say(FromNode::Ended { grant }, cx);
            }
            ToNode::Relays(relays) => self.offer_relays(relays, cx),
            ToNode::Candidates { of: Peer::Device(device), candidates } => self.moved(device, candidates, cx),
            ToNode::Candidates { of: Peer::Gateway(_), .. }
            | ToNode::ResourceChanged(_)
            | ToNode::ResourceGone(_)
            | ToNode::Granted(_)
            | ToNode::Denied { .. }
            | ToNode::FlowsStored { .. }
            | ToNode::Revoked { .. } => cx.count_drop("control_message_not_for_a_gateway", 1),
            // The session machine has dealt with these.
            ToNode::Challenge { .. } | ToNode::Welcome(_) | ToNode::Ping(_) | ToNode::Close(_) => {}
        }
    }

    /// A device is somewhere else.
    fn moved(&mut self, id: DeviceId, candidates: Vec<Candidate>, cx: &mut Cx<Self>) {
        let Some(device) = self.devices.get_mut(&id) else { return };
        let before = candidate_addresses(&device.candidates);
        device.candidates.clone_from(&candidates);
        let slot = device.slot;
        let addresses = candidate_addresses(&candidates);
        let mut taken = true;
        if addresses != before {
            let (done, _) = Reply::channel();
            taken = self.tell_peers(PeersCommand::Permit { addresses, done }, cx);
        }
        if !self.tell_peers(PeersCommand::Candidates { slot, candidates }, cx) || !taken {
            self.lanes.change(id);
            self.flush_soon(cx);
        }
    }

    /// Does not install a grant, and ends it if an older state of it is in force.
    fn refuse(&mut self, device: DeviceId, grant: GrantId, reason: GatewayRefusal, cx: &mut Cx<Self>) {
        tracing::warn!(%grant, ?reason, "grant refused");
        self.say(FromNode::Refused { grant, reason }, cx);
        if self.devices.get_mut(&device).is_some_and(|held| held.grants.remove(&grant).is_some()) {
            self.lanes.change(device);
            self.flush_soon(cx);
        }
    }

    fn authorize(&mut self, authorize: Authorize, cx: &mut Cx<Self>) {
        let (grant, device) = (authorize.grant, authorize.offer.device);
        self.looking.remove(&grant);
        if authorize.offer.verify(&authorize.identity).is_err() {
            return self.refuse(device, grant, GatewayRefusal::BadOffer, cx);
        }
        let pinned = self.pins.as_mut().map(|pins| pins.check(&device.to_string(), authorize.identity));
        match pinned {
            Some(Ok(Pinned::Known | Pinned::New)) => {}
            Some(Ok(Pinned::Changed)) | None => {
                return self.refuse(device, grant, GatewayRefusal::IdentityChanged, cx);
            }
            Some(Err(error)) => {
                tracing::error!(%error, "a device's identity cannot be pinned");
                return self.refuse(device, grant, GatewayRefusal::IdentityChanged, cx);
            }
        }
        let net = match &authorize.resource.address {
            ResourceAddress::Cidr(net) => *net,
            ResourceAddress::Ip(address) => IpNet::from(*address),
            ResourceAddress::Dns(_) => return self.look_up(authorize, cx),
        };
        if self.is_below_ceiling(net) {
            self.install(authorize, Vec::new(), cx);
        } else {
            self.refuse(device, grant, GatewayRefusal::AboveCeiling, cx);
        }
    }

    /// Installs the grant of a name when its addresses are known. Whatever comes for the grant meanwhile overtakes this.
    fn look_up(&mut self, authorize: Authorize, cx: &mut Cx<Self>) {
        let (grant, device) = (authorize.grant, authorize.offer.device);
        let Some(name) = authorize.name.as_ref().map(|mapped| mapped.name.clone()) else {
            return self.refuse(device, grant, GatewayRefusal::BadOffer, cx);
        };
        self.lookups += 1;
        let number = self.lookups;
        self.looking.insert(grant, number);
        let lookup = (self.settings.lookup)(name.clone());
        cx.spawn(lookup, move |me, found, cx| {
            if me.looking.get(&grant) != Some(&number) {
                return;
            }
            me.looking.remove(&grant);
            let nothing_found = found.is_empty();
            let mut real = me.admitted(found);
            if nothing_found {
                // A name that cannot be looked up for the moment keeps the addresses that it had.
                let held = me.devices.get(&device).and_then(|held| held.grants.get(&grant));
                real = held
                    .filter(|held| held.name() == Some(&name))
                    .map(|held| held.real.clone())
                    .unwrap_or_default();
            }
            match (real.is_empty(), nothing_found) {
                (false, _) => me.install(authorize, real, cx),
                (true, true) => me.refuse(device, grant, GatewayRefusal::NameNotFound, cx),
                (true, false) => me.refuse(device, grant, GatewayRefusal::AboveCeiling, cx),
            }
        });
    }

    fn is_below_ceiling(&self, net: IpNet) -> bool {
        match &self.settings.ceiling {
            Some(ceiling) => ceiling.iter().any(|allowed| allowed.contains(&net)),
            None => true,
        }
    }

    /// The addresses of a name that the ceiling has, in a fixed order.
    fn admitted(&self, found: Vec<IpAddr>) -> Vec<IpAddr> {
        let admitted: BTreeSet<IpAddr> =
            found.into_iter().filter(|address| self.is_below_ceiling(IpNet::from(*address))).collect();
        admitted.into_iter().collect()
    }

    fn install(&mut self, authorize: Authorize, real: Vec<IpAddr>, cx: &mut Cx<Self>) {
        let (grant, id) = (authorize.grant, authorize.offer.device);
        let gone = self.superseded.contains(&authorize.offer.wireguard);
        if !self.devices.get(&id).is_some_and(|held| gone || held.serves(&authorize.offer))
            && let Err(reason) = self.begin(&authorize)
        {
            return self.refuse(id, grant, reason, cx);
        }
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.version = device.version.max(authorize.version);
        // A renewed grant comes with the offer of before: the device may have moved since.
        let is_renewed =
            device.grants.get(&grant).is_some_and(|held| held.authorize.offer == authorize.offer);
        if !is_renewed && device.offer.same_process(&authorize.offer) {
            device.candidates.clone_from(&authorize.offer.candidates);
        }
        let ends = lasting_time() + authorize.remaining;
        device.grants.insert(grant, Held { authorize, ends, real });
        device.unconfirmed.insert(grant);
        self.lanes.change(id);
        self.flush_soon(cx);
    }

    /// Makes a session for a device, in place of an older one.
    fn begin(&mut self, authorize: &Authorize) -> Result<(), GatewayRefusal> {
        let id = authorize.offer.device;
        let old = self.devices.remove(&id);
        if let Some(old) = &old {
            self.slots.remove(&old.slot);
            self.lanes.gone(old.slot);
        }
        let slot = self.free_slot().ok_or(GatewayRefusal::Full)?;
        let device = Device::begin(slot, authorize.offer.clone(), authorize.addresses, old)?;
        self.slots.insert(slot);
        self.devices.insert(id, device);
        Ok(())
    }

    fn free_slot(&mut self) -> Option<u16> {
        if self.slots.len() >= MOST_DEVICES {
            return None;
        }
        loop {
            let slot = self.next_slot;
            self.next_slot = self.next_slot.checked_add(1).unwrap_or(1);
            if !self.slots.contains(&slot) {
                return Some(slot);
            }
        }
    }

    /// Ends a grant at once.
    fn revoke(&mut self, id: DeviceId, grant: GrantId, version: GrantVersion, cx: &mut Cx<Self>) {
        self.looking.remove(&grant);
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.version = device.version.max(version);
        device.grants.remove(&grant);
        let (slot, version) = (device.slot, device.version);
        // First the revocation, which needs no table: nothing passes until the smaller table is in force.
        self.tell_peers(PeersCommand::Revoke { slot, version }, cx);
        self.push_now(id, cx);
    }

    /// Ends the grants whose time is over.
    fn expire(&mut self, cx: &mut Cx<Self>) {
        let now = lasting_time();
        let mut ended = Vec::new();
        for (id, device) in &mut self.devices {
            let held = ended.len();
            // The lanes have ended them by themselves; this removes them from the table.
            ended.extend(device.grants.extract_if(.., |_, held| held.ends <= now).map(|(grant, _)| grant));
            if ended.len() > held {
                self.lanes.change(*id);
            }
        }
        for grant in ended {
            self.say(FromNode::Ended { grant }, cx);
        }
    }

    fn refresh_names(&mut self, cx: &mut Cx<Self>) {
        let names: BTreeSet<String> = self
            .devices
            .values()
            .flat_map(|device| device.grants.values())
            .filter_map(|held| held.name().map(str::to_owned))
            .collect();
        for name in names {
            let lookup = (self.settings.lookup)(name.clone());
            cx.spawn(lookup, move |me, found, cx| me.refreshed(&name, found, cx));
        }
    }

    fn refreshed(&mut self, name: &str, found: Vec<IpAddr>, cx: &mut Cx<Self>) {
        let real = self.admitted(found);
        // A name that cannot be looked up for the moment keeps the addresses that it had.
        if real.is_empty() {
            return;
        }
        for (id, device) in &mut self.devices {
            let stale =
                device.grants.values_mut().filter(|held| held.name() == Some(name) && held.real != real);
            let mut any = false;
            stale.for_each(|held| {
                held.real.clone_from(&real);
                any = true;
            });
            if any {
                self.lanes.change(*id);
            }
        }
        self.flush_soon(cx);
    }
}

/// The keys of processes that are followed by another one of the same device: control lists what was asked for in its
/// order, and a renewed grant still carries the offer of the process that asked.
fn superseded(grants: &[Authorize]) -> BTreeSet<WireguardPublic> {
    let living: BTreeMap<DeviceId, WireguardPublic> =
        grants.iter().map(|authorize| (authorize.offer.device, authorize.offer.wireguard)).collect();
    let offers = grants.iter().map(|authorize| &authorize.offer);
    offers
        .filter(|offer| living.get(&offer.device) != Some(&offer.wireguard))
        .map(|offer| offer.wireguard)
        .collect()
}

fn candidate_addresses(candidates: &[Candidate]) -> Vec<IpAddr> {
    let addresses: BTreeSet<IpAddr> = candidates.iter().map(|candidate| candidate.address.ip()).collect();
    addresses.into_iter().collect()
}

/// Where the devices' tunnel addresses come from.
fn device_ranges() -> Vec<IpNet> {
    ["100.64.0.0/11", "fd70:6f73:7401::/64"].into_iter().filter_map(|net| net.parse().ok()).collect()
}

impl Actor for Admissions {
    const KIND: &'static str = "Admissions";
    type Command = AdmissionsCommand;
    type Packets = Never;

    fn started(&mut self, _cx: &mut Cx<Self>) {
        // After a restart nothing is known until full state comes, with a new session.
        if self.settings.begun.swap(true, Ordering::Relaxed) {
            let _ = self.control.tell(control_session::Command::Reconnect);
        }
    }

    fn told(&mut self, command: AdmissionsCommand, cx: &mut Cx<Self>) {
        match command {
            AdmissionsCommand::Session(event) => self.session(event, cx),
            AdmissionsCommand::Peers(PeersFact::Began) => {
                self.lanes.relays_changed();
                self.devices.keys().for_each(|id| self.lanes.change(*id));
                self.flush(cx);
            }
            AdmissionsCommand::Peers(PeersFact::Candidates(candidates)) => {
                self.candidates.clone_from(&candidates);
                self.say(FromNode::Candidates(candidates), cx);
            }
            AdmissionsCommand::Peers(PeersFact::RoundTrips(trips)) => {
                self.say(FromNode::RelayRoundTrips(trips), cx);
            }
            AdmissionsCommand::Peers(PeersFact::Peer(fact)) => match fact.what {
                PeerChange::Established => tracing::info!(slot = fact.slot, "device connected"),
                PeerChange::Expired => tracing::info!(slot = fact.slot, "device silent"),
                // Flows are the log's business.
                PeerChange::Silent
                | PeerChange::Path(_)
                | PeerChange::Observed(_)
                | PeerChange::FlowEnded(_) => {}
            },
            AdmissionsCommand::Inspect(reply) => reply.send(AdmissionsView {
                devices: self.devices.iter().map(|(id, held)| (*id, held.slot, held.grants.len())).collect(),
                ready: self.dressed,
            }),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.expire(cx);
        self.forget_idle(cx.now());
        if self.refresh_at.is_some_and(|at| at <= cx.now()) {
            self.refresh_at = None;
            self.refresh_names(cx);
        }
        self.flush(cx);
    }
}

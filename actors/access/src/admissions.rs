//! A gateway's side of access: which devices control has authorized, and what they may reach.
//!
//! - Parent: none (a root on a control lane).
//! - Core: the grants in force, compiled for the lanes by [`PeerGrants`].
//! - When it dies: packets go on under the grants in force; a new session brings the full set, and devices connect anew.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors_network::{HostPlan, Routes, RoutesCommand};
use actors_runtime::{Actor, Address, Cx, Never, Reply};
use actors_tunnel::{
    GatewayApply, PeerChange, PeerConfig, PeerName, Peers, PeersCommand, PeersFact, host_addresses,
    lasting_time,
};
use ipnet::IpNet;
use protocol_control::{
    Answer, Applied, Authorize, Candidate, FromNode, GatewayRefusal, GatewayState, GrantVersion,
    InnerAddresses, Offer, Peer, ResourceAddress, ToNode, UnsignedAnswer, Welcome,
};
use protocol_filter::{Destination, GatewayRules, GrantSpec, PeerGrants};
use protocol_identity::{DeviceId, GatewayId, GrantId, IdentityKey, KemCiphertext, Secret32, WireguardKey};
use protocol_traversal::Hygiene;
use protocol_tunnel::TunnelIndex;

use crate::control_session::{self, ControlSession, SessionEvent};
use crate::pins::{Pinned, Pins};

/// How often the real addresses behind names in use are looked up again.
const REFRESH_NAMES: Duration = Duration::from_secs(30);
/// Devices at one gateway: every slot of the receiver index but 0.
const MOST_DEVICES: usize = u16::MAX as usize - 1;

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
    /// Looks up the names of resources.
    pub lookup: Lookup,
    /// Where the devices' identities are pinned.
    pub pins: Option<std::path::PathBuf>,
    /// Called whenever full state has come.
    pub ready: Box<dyn Fn() + Send + Sync>,
    /// Set by the first incarnation.
    pub begun: AtomicBool,
}

struct Held {
    authorize: Authorize,
    /// On [`lasting_time`].
    ends: Duration,
    real: Vec<IpAddr>,
}

struct Device {
    slot: u16,
    /// The offer that began the session.
    offer: Offer,
    inner: InnerAddresses,
    secret: Secret32,
    ciphertext: KemCiphertext,
    candidates: Vec<Candidate>,
    grants: BTreeMap<GrantId, Held>,
    version: GrantVersion,
}

/// The admissions of a gateway.
pub struct Admissions {
    settings: Arc<AdmissionsSettings>,
    peers: Address<Peers>,
    control: Address<ControlSession>,
    routes: Address<Routes>,
    pins: Pins,
    gateway: Option<(GatewayId, InnerAddresses)>,
    candidates: Vec<Candidate>,
    devices: BTreeMap<DeviceId, Device>,
    next_slot: u16,
    refresh_at: Option<tokio::time::Instant>,
}

impl Admissions {
    /// Admissions that know nobody yet.
    pub fn new(
        settings: Arc<AdmissionsSettings>,
        peers: Address<Peers>,
        control: Address<ControlSession>,
        routes: Address<Routes>,
    ) -> Self {
        let pins = Pins::open(settings.pins.as_deref()).or_else(|error| {
            tracing::error!(%error, "the pinned identities of devices cannot be read; pinning anew, in memory only");
            Pins::open(None)
        });
        Self {
            pins: match pins {
                Ok(pins) => pins,
                Err(_) => unreachable!("pins in memory need no file"),
            },
            settings,
            peers,
            control,
            routes,
            gateway: None,
            candidates: Vec::new(),
            devices: BTreeMap::new(),
            next_slot: 1,
            refresh_at: None,
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
        let GatewayState { gateway, addresses, grants, relays, site, account: _ } = state;
        tracing::info!(site, grants = grants.len(), relays = relays.len(), "full state");
        if self.gateway != Some((gateway, addresses)) {
            self.gateway = Some((gateway, addresses));
            let plan = HostPlan {
                addresses: vec![addresses.v4.into(), addresses.v6.into()],
                routes: device_ranges(),
                outside: Vec::new(),
                default_route_consent: false,
            };
            let _ = self.routes.tell(RoutesCommand::Apply { plan: Arc::new(plan), done: None });
        }
        self.tell_peers(PeersCommand::Relays(relays), cx);
        let wanted: BTreeSet<GrantId> = grants.iter().map(|authorize| authorize.grant).collect();
        let stale: Vec<(DeviceId, GrantId)> = self
            .devices
            .iter()
            .flat_map(|(device, held)| held.grants.keys().map(|grant| (*device, *grant)))
            .filter(|(_, grant)| !wanted.contains(grant))
            .collect();
        for (device, grant) in stale {
            let next =
                self.devices.get(&device).map_or(GrantVersion(0), |held| GrantVersion(held.version.0 + 1));
            self.end(device, grant, next, cx);
        }
        for authorize in grants {
            self.authorize(authorize, cx);
        }
        (self.settings.ready)();
    }

    fn message(&mut self, message: ToNode, cx: &mut Cx<Self>) {
        match message {
            ToNode::Authorize(authorize) => self.authorize(*authorize, cx),
            ToNode::Revoke { grant, device, version } => {
                self.end(device, grant, version, cx);
                self.say(FromNode::Ended { grant }, cx);
            }
            ToNode::Relays(relays) => self.tell_peers(PeersCommand::Relays(relays), cx),
            ToNode::Candidates { of: Peer::Device(device), candidates } => {
                if let Some(held) = self.devices.get_mut(&device) {
                    held.candidates.clone_from(&candidates);
                    let slot = held.slot;
                    let (done, _) = Reply::channel();
                    let addresses = candidate_addresses(&candidates);
                    self.tell_peers(PeersCommand::Permit { addresses, done }, cx);
                    self.tell_peers(PeersCommand::Candidates { slot, candidates }, cx);
                }
            }
            ToNode::Candidates { of: Peer::Gateway(_), .. }
            | ToNode::ResourceChanged(_)
            | ToNode::ResourceGone(_)
            | ToNode::Granted(_)
            | ToNode::Denied { .. }
            | ToNode::Revoked { .. } => cx.count_drop("control_message_not_for_a_gateway", 1),
            // The session machine has dealt with these.
            ToNode::Challenge { .. } | ToNode::Welcome(_) | ToNode::Ping(_) | ToNode::Close(_) => {}
        }
    }

    fn refuse(&self, grant: GrantId, reason: GatewayRefusal, cx: &Cx<Self>) {
        tracing::warn!(%grant, ?reason, "grant refused");
        self.say(FromNode::Refused { grant, reason }, cx);
    }

    fn authorize(&mut self, authorize: Authorize, cx: &mut Cx<Self>) {
        let grant = authorize.grant;
        if authorize.offer.verify(&authorize.identity).is_err() {
            return self.refuse(grant, GatewayRefusal::BadOffer, cx);
        }
        match self.pins.check(&authorize.offer.device.to_string(), authorize.identity) {
            Ok(Pinned::Known | Pinned::New) => {}
            Ok(Pinned::Changed) => return self.refuse(grant, GatewayRefusal::IdentityChanged, cx),
            Err(error) => {
                tracing::error!(%error, "a device's identity cannot be pinned");
                return self.refuse(grant, GatewayRefusal::IdentityChanged, cx);
            }
        }
        match &authorize.resource.address {
            ResourceAddress::Cidr(net) => {
                if !self.is_below_ceiling(*net) {
                    return self.refuse(grant, GatewayRefusal::AboveCeiling, cx);
                }
                self.install(authorize, Vec::new(), cx);
            }
            ResourceAddress::Ip(address) => {
                if !self.is_below_ceiling(IpNet::from(*address)) {
                    return self.refuse(grant, GatewayRefusal::AboveCeiling, cx);
                }
                self.install(authorize, Vec::new(), cx);
            }
            ResourceAddress::Dns(_) => {
                let Some(name) = authorize.name.as_ref().map(|mapped| mapped.name.clone()) else {
                    return self.refuse(grant, GatewayRefusal::BadOffer, cx);
                };
                let lookup = (self.settings.lookup)(name);
                cx.spawn(lookup, move |me, real, cx| {
                    let real = me.admitted(real);
                    if real.is_empty() {
                        me.refuse(grant, GatewayRefusal::NameNotFound, cx);
                    } else {
                        me.install(authorize, real, cx);
                    }
                });
            }
        }
    }

    fn is_below_ceiling(&self, net: IpNet) -> bool {
        match &self.settings.ceiling {
            Some(ceiling) => ceiling.iter().any(|allowed| allowed.contains(&net)),
            None => true,
        }
    }

    /// The addresses of a name that the ceiling has.
    fn admitted(&self, real: Vec<IpAddr>) -> Vec<IpAddr> {
        real.into_iter().filter(|address| self.is_below_ceiling(IpNet::from(*address))).collect()
    }

    fn install(&mut self, authorize: Authorize, real: Vec<IpAddr>, cx: &mut Cx<Self>) {
        let grant = authorize.grant;
        let device_id = authorize.offer.device;
        let same = self.devices.get(&device_id).is_some_and(|held| held.offer.same_process(&authorize.offer));
        if !same && let Err(reason) = self.begin(&authorize, cx) {
            return self.refuse(grant, reason, cx);
        }
        let Some(held) = self.devices.get_mut(&device_id) else { return };
        let ends = lasting_time() + authorize.remaining;
        held.version = held.version.max(authorize.version);
        held.candidates.clone_from(&authorize.offer.candidates);
        held.grants.insert(grant, Held { authorize, ends, real });
        self.push(device_id, cx);
        let addresses =
            self.devices.get(&device_id).map(|d| candidate_addresses(&d.candidates)).unwrap_or_default();
        let (done, confirmed) = Reply::channel();
        self.tell_peers(PeersCommand::Permit { addresses, done }, cx);
        cx.spawn(confirmed, move |me, _, cx| me.applied(device_id, grant, cx));
        self.set_alarm(cx);
    }

    /// Makes a session for a device, in place of an older one.
    fn begin(&mut self, authorize: &Authorize, cx: &Cx<Self>) -> Result<(), GatewayRefusal> {
        let offer = authorize.offer.clone();
        let (ciphertext, shared) = offer.kem.encapsulate().map_err(|_| GatewayRefusal::BadOffer)?;
        let old = self.devices.remove(&offer.device);
        if let Some(old) = &old {
            self.tell_peers(PeersCommand::Disconnect { slot: old.slot }, cx);
        }
        let slot = self.free_slot().ok_or(GatewayRefusal::Full)?;
        let device = Device {
            slot,
            inner: authorize.addresses,
            secret: shared,
            ciphertext,
            candidates: offer.candidates.clone(),
            // What was granted to the device stays granted; each grant is confirmed by control with the new keys.
            grants: old.map(|old| old.grants).unwrap_or_default(),
            version: authorize.version,
            offer,
        };
        self.devices.insert(device.offer.device, device);
        Ok(())
    }

    fn free_slot(&mut self) -> Option<u16> {
        if self.devices.len() >= MOST_DEVICES {
            return None;
        }
        loop {
            let slot = self.next_slot;
            self.next_slot = self.next_slot.checked_add(1).unwrap_or(1);
            if !self.devices.values().any(|device| device.slot == slot) {
                return Some(slot);
            }
        }
    }

    /// Tells the lanes what a device may reach now.
    fn push(&self, device: DeviceId, cx: &Cx<Self>) {
        let Some(held) = self.devices.get(&device) else { return };
        let grants: Vec<GrantSpec> = held.grants.values().map(Held::spec).collect();
        let granted = grants.iter().flat_map(|spec| spec.destination.prefixes()).collect();
        let own = host_addresses(&self.settings.tun);
        let hygiene = Hygiene { own: own.clone(), granted, ..Hygiene::default() };
        let mut own_and_inner = own;
        if let Some((_, inner)) = self.gateway {
            own_and_inner.extend([IpAddr::from(inner.v4), IpAddr::from(inner.v6)]);
        }
        let rules = Arc::new(GatewayRules {
            own: own_and_inner,
            ceiling: self.settings.ceiling.clone(),
            ..GatewayRules::default()
        });
        let config = PeerConfig {
            slot: held.slot,
            name: PeerName::Device(device),
            private: self.settings.wireguard.clone(),
            public: held.offer.wireguard,
            secret: held.secret.clone(),
            remote_index: held.offer.index,
            inner: held.inner,
            candidates: held.candidates.clone(),
            hygiene,
            rules: Some(rules.clone()),
        };
        let apply = GatewayApply { grants: PeerGrants::compile(held.version, grants), rules };
        self.tell_peers(PeersCommand::Connect(Box::new(config)), cx);
        self.tell_peers(PeersCommand::Apply { slot: held.slot, apply: Box::new(apply) }, cx);
    }

    fn applied(&mut self, device: DeviceId, grant: GrantId, cx: &Cx<Self>) {
        let Some((gateway, addresses)) = self.gateway else { return };
        let Some(device) = self.devices.get(&device) else { return };
        let Some(held) = device.grants.get(&grant) else { return };
        let unsigned = UnsignedAnswer {
            gateway,
            grant,
            wireguard: self.settings.wireguard.public(),
            ciphertext: device.ciphertext.clone(),
            index: TunnelIndex { slot: device.slot, lane: 0 }.receiver_index(),
            device_index: device.offer.index,
            addresses,
            candidates: self.candidates.clone(),
        };
        let answer = Answer::sign(&self.settings.identity, &device.offer, unsigned);
        let (has_v4, has_v6) = match held.authorize.resource.address {
            ResourceAddress::Cidr(net) => (net.network().is_ipv4(), net.network().is_ipv6()),
            ResourceAddress::Ip(address) => (address.is_ipv4(), address.is_ipv6()),
            ResourceAddress::Dns(_) => {
                (held.real.iter().any(IpAddr::is_ipv4), held.real.iter().any(IpAddr::is_ipv6))
            }
        };
        let applied = Applied { grant, version: held.authorize.version, answer, has_v4, has_v6 };
        self.say(FromNode::Applied(Box::new(applied)), cx);
    }

    /// Ends a grant at once.
    fn end(&mut self, device: DeviceId, grant: GrantId, version: GrantVersion, cx: &mut Cx<Self>) {
        let Some(held) = self.devices.get_mut(&device) else { return };
        held.version = held.version.max(version);
        held.grants.remove(&grant);
        let (slot, version) = (held.slot, held.version);
        // First the revocation, which needs no table: nothing passes until the smaller table is in force.
        self.tell_peers(PeersCommand::Revoke { slot, version }, cx);
        self.push(device, cx);
        self.set_alarm(cx);
    }

    fn set_alarm(&mut self, cx: &mut Cx<Self>) {
        let next =
            self.devices.values().flat_map(|device| device.grants.values().map(|held| held.ends)).min();
        let names = self.devices.values().any(|d| d.grants.values().any(|held| !held.real.is_empty()));
        if !names {
            self.refresh_at = None;
        } else if self.refresh_at.is_none() {
            self.refresh_at = Some(cx.now() + REFRESH_NAMES);
        }
        let ends = next.map(|ends| cx.now() + ends.saturating_sub(lasting_time()));
        match [ends, self.refresh_at].into_iter().flatten().min() {
            Some(at) => cx.wake_at(at),
            None => cx.wake_never(),
        }
    }

    fn expire(&mut self, cx: &mut Cx<Self>) {
        let now = lasting_time();
        let ended: Vec<(DeviceId, GrantId)> = self
            .devices
            .iter()
            .flat_map(|(device, held)| held.grants.iter().map(|(grant, held)| (*device, *grant, held.ends)))
            .filter(|(_, _, ends)| *ends <= now)
            .map(|(device, grant, _)| (device, grant))
            .collect();
        for (device, grant) in ended {
            // The lanes have ended it by themselves; this removes it from the table.
            if let Some(held) = self.devices.get_mut(&device) {
                held.grants.remove(&grant);
            }
            self.push(device, cx);
            self.say(FromNode::Ended { grant }, cx);
        }
    }

    fn refresh_names(&mut self, cx: &mut Cx<Self>) {
        let names: Vec<(DeviceId, GrantId, String)> = self
            .devices
            .iter()
            .flat_map(|(device, held)| held.grants.iter().map(|(grant, held)| (*device, *grant, held)))
            .filter_map(|(device, grant, held)| {
                held.authorize.name.as_ref().map(|mapped| (device, grant, mapped.name.clone()))
            })
            .collect();
        for (device, grant, name) in names {
            let lookup = (self.settings.lookup)(name);
            cx.spawn(lookup, move |me, real, cx| {
                let real = me.admitted(real);
                let held = me.devices.get_mut(&device).and_then(|held| held.grants.get_mut(&grant));
                // A name that cannot be looked up for the moment keeps the addresses that it had.
                if let Some(held) = held
                    && !real.is_empty()
                    && held.real != real
                {
                    held.real = real;
                    me.push(device, cx);
                }
            });
        }
    }
}

impl Held {
    fn spec(&self) -> GrantSpec {
        let destination = match (&self.authorize.resource.address, &self.authorize.name) {
            (ResourceAddress::Cidr(net), _) => Destination::Cidr(*net),
            (ResourceAddress::Ip(address), _) => Destination::Ip(*address),
            (ResourceAddress::Dns(name), None) => {
                Destination::Name { name: name.clone(), mapped_v4: None, mapped_v6: None, real: Vec::new() }
            }
            (ResourceAddress::Dns(_), Some(mapped)) => Destination::Name {
                name: mapped.name.clone(),
                mapped_v4: Some(mapped.v4),
                mapped_v6: Some(mapped.v6),
                real: self.real.clone(),
            },
        };
        GrantSpec {
            grant: self.authorize.grant,
            resource: self.authorize.resource.resource,
            policy: self.authorize.policy,
            destination,
            filters: self.authorize.resource.filters.clone(),
            ends: self.ends,
        }
    }
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
            AdmissionsCommand::Peers(PeersFact::Candidates(candidates)) => {
                self.candidates.clone_from(&candidates);
                self.say(FromNode::Candidates(candidates), cx);
            }
            AdmissionsCommand::Peers(PeersFact::RoundTrips(trips)) => {
                self.say(FromNode::RelayRoundTrips(trips), cx);
            }
            AdmissionsCommand::Peers(PeersFact::Peer(fact)) => match fact.what {
                PeerChange::FlowEnded(flow) => tracing::debug!(
                    resource = %flow.resource, policy = %flow.policy, protocol = flow.protocol,
                    bytes_in = flow.bytes_in, bytes_out = flow.bytes_out, end = flow.end.as_str(), "flow ended"
                ),
                PeerChange::Established => tracing::info!(slot = fact.slot, "device connected"),
                PeerChange::Expired => tracing::info!(slot = fact.slot, "device silent"),
                PeerChange::Path(_) | PeerChange::Observed(_) => {}
            },
            AdmissionsCommand::Inspect(reply) => reply.send(AdmissionsView {
                devices: self.devices.iter().map(|(id, held)| (*id, held.slot, held.grants.len())).collect(),
                ready: self.gateway.is_some(),
            }),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.expire(cx);
        if self.refresh_at.is_some_and(|at| at <= cx.now()) {
            self.refresh_at = None;
            self.refresh_names(cx);
        }
        self.set_alarm(cx);
    }
}

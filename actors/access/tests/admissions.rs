//! The admissions of a gateway, with inboxes for neighbours.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod world;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_access::{
    Admissions, AdmissionsCommand, AdmissionsSettings, AdmissionsView, Lookup, SessionEvent, control_session,
};
use actors_network::{AppliedRoutes, RoutesCommand};
use actors_runtime::{Address, Outlet, Reply};
use actors_tunnel::{PeersCommand, PeersFact};
use protocol_control::{
    Applied, Authorize, Candidate, FromNode, GatewayRefusal, GatewayState, GrantVersion, InnerAddresses,
    MappedName, Offer, Peer, ResourceAddress, ResourceView, ToNode, Welcome,
};
use protocol_identity::{
    AccountId, DeviceId, GatewayId, GrantId, IdentityKey, KemKey, PolicyId, ResourceId, WireguardKey,
};
use protocol_tunnel::TunnelIndex;
use world::{World, candidate};

/// A name whose look-up panics.
const PANICS: &str = "panic.corp.example";
const HOUR: Duration = Duration::from_secs(3600);

/// Look-ups that wait for the test's answer.
type Asked = Arc<Mutex<Vec<(String, Reply<Vec<IpAddr>>)>>>;

struct Gateway {
    world: World,
    admissions: Address<Admissions>,
    id: GatewayId,
    inner: InnerAddresses,
    asked: Asked,
    ready: Arc<AtomicUsize>,
    own_resources: Arc<Mutex<Vec<Vec<IpAddr>>>>,
}

impl Deref for Gateway {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

fn lookup(asked: Asked) -> Lookup {
    Arc::new(move |name| {
        assert_ne!(name, PANICS);
        let (reply, answer) = Reply::channel();
        asked.lock().unwrap().push((name, reply));
        Box::pin(async move { answer.await.unwrap_or_default() })
    })
}

struct Options {
    ceiling: Option<Vec<&'static str>>,
    pins: Option<std::path::PathBuf>,
    peers_mailbox: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { ceiling: None, pins: None, peers_mailbox: 1024 }
    }
}

impl Gateway {
    /// A gateway that has not heard from control.
    fn new(options: Options) -> Self {
        let world = World::new("Admissions", options.peers_mailbox);
        let (asked, ready) = (Asked::default(), Arc::<AtomicUsize>::default());
        let told_ready = ready.clone();
        let settings = Arc::new(AdmissionsSettings {
            lanes: 1,
            identity: Arc::new(IdentityKey::generate().unwrap()),
            wireguard: WireguardKey::generate().unwrap(),
            ceiling: options.ceiling.map(|nets| nets.iter().map(|net| net.parse().unwrap()).collect()),
            tun: "postern-gw0".into(),
            lookup: lookup(asked.clone()),
            pins: options.pins,
            ready: Box::new(move || {
                told_ready.fetch_add(1, Ordering::Relaxed);
            }),
            begun: AtomicBool::new(false),
        });
        let own_resources = Arc::<Mutex<Vec<Vec<IpAddr>>>>::default();
        let heard = own_resources.clone();
        let outlet = Outlet::to(move |own| {
            heard.lock().unwrap().push(own);
            Ok(())
        });
        let (peers, control, routes) =
            (world.peers.address(), world.control.address(), world.routes.address());
        let factory = move || {
            Admissions::new(settings.clone(), peers.clone(), control.clone(), routes.clone(), outlet.clone())
        };
        let admissions = world.universe.start("", factory).unwrap().address;
        let inner =
            InnerAddresses { v4: Ipv4Addr::new(100, 64, 0, 1), v6: "fd70:6f73:7401::1".parse().unwrap() };
        Self { world, admissions, id: GatewayId::fresh(), inner, asked, ready, own_resources }
    }

    /// One whose session is up, with no grant.
    fn up() -> Self {
        Self::up_with(Options::default())
    }

    fn up_with(options: Options) -> Self {
        let gateway = Self::new(options);
        gateway.full_state(Vec::new());
        gateway.told();
        gateway.said();
        gateway
    }

    fn full_state(&self, grants: Vec<Authorize>) {
        let state = GatewayState {
            takes_flows: false,
            gateway: self.id,
            account: AccountId::fresh(),
            site: "office".into(),
            addresses: self.inner,
            grants,
            relays: Vec::new(),
        };
        self.tell(SessionEvent::Up(Box::new(Welcome::Gateway(state))));
    }

    fn tell(&self, event: SessionEvent) {
        assert!(self.admissions.tell(AdmissionsCommand::Session(event)).is_ok());
        self.universe.settle();
    }

    fn hear(&self, message: ToNode) {
        self.tell(SessionEvent::Message(Box::new(message)));
    }

    fn authorize(&self, authorize: &Authorize) {
        self.hear(ToNode::Authorize(Box::new(authorize.clone())));
    }

    /// Answers what is being looked up.
    fn answer(&self, addresses: &[&str]) {
        let asked: Vec<_> = self.asked.lock().unwrap().drain(..).collect();
        assert!(!asked.is_empty(), "nothing was asked");
        for (_, reply) in asked {
            reply.send(addresses.iter().map(|address| address.parse().unwrap()).collect());
        }
        self.universe.settle();
    }

    /// Why grants were refused.
    fn refusals(&self) -> Vec<(GrantId, GatewayRefusal)> {
        let refused = self.said().into_iter().filter_map(|said| match said {
            FromNode::Refused { grant, reason } => Some((grant, reason)),
            _ => None,
        });
        refused.collect()
    }

    /// Grants that were said to be installed, after the relays have confirmed.
    fn installed(&self) -> Vec<Applied> {
        self.told().permits().into_iter().for_each(|done| done.send(()));
        let applied = self.said().into_iter().filter_map(|said| match said {
            FromNode::Applied(applied) => Some(*applied),
            _ => None,
        });
        applied.collect()
    }

    fn view(&self) -> AdmissionsView {
        let (reply, mut answer) = Reply::channel();
        assert!(self.admissions.tell(AdmissionsCommand::Inspect(reply)).is_ok());
        self.universe.settle();
        answer.try_take().unwrap()
    }
}

/// A process of a device.
struct Device {
    id: DeviceId,
    identity: Arc<IdentityKey>,
    inner: InnerAddresses,
    wireguard: WireguardKey,
    kem: KemKey,
    candidates: Vec<Candidate>,
}

impl Device {
    fn new() -> Self {
        let inner =
            InnerAddresses { v4: Ipv4Addr::new(100, 64, 0, 9), v6: "fd70:6f73:7401::9".parse().unwrap() };
        Self {
            id: DeviceId::fresh(),
            identity: Arc::new(IdentityKey::generate().unwrap()),
            inner,
            wireguard: WireguardKey::generate().unwrap(),
            kem: KemKey::generate().unwrap(),
            candidates: vec![candidate("192.0.2.9:5000")],
        }
    }

    /// The same device after a restart of its program.
    fn restarted(&self) -> Self {
        let wireguard = WireguardKey::generate().unwrap();
        let (identity, candidates) = (self.identity.clone(), self.candidates.clone());
        Self { identity, wireguard, kem: KemKey::generate().unwrap(), candidates, ..*self }
    }

    fn offer(&self, resource: ResourceId) -> Offer {
        let (wireguard, kem) = (self.wireguard.public(), self.kem.public());
        let index = TunnelIndex { slot: 7, lane: 0 }.receiver_index();
        Offer::sign(&self.identity, self.id, resource, wireguard, kem, index, self.candidates.clone())
    }

    fn wants(&self, address: ResourceAddress, version: u64) -> Authorize {
        let resource = ResourceId::fresh();
        let mapped = |name: &String| MappedName {
            name: name.clone(),
            v4: Ipv4Addr::new(100, 96, 0, 3),
            v6: Ipv6Addr::new(0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, 3),
        };
        let name = if let ResourceAddress::Dns(name) = &address { Some(mapped(name)) } else { None };
        let view = ResourceView {
            resource,
            name: "thing".into(),
            site: "office".into(),
            address,
            filters: Vec::new(),
        };
        Authorize {
            grant: GrantId::fresh(),
            version: GrantVersion(version),
            policy: PolicyId::fresh(),
            resource: view,
            name,
            remaining: HOUR,
            identity: self.identity.public(),
            addresses: self.inner,
            offer: self.offer(resource),
            relay: None,
        }
    }

    fn wants_net(&self, net: &str, version: u64) -> Authorize {
        self.wants(ResourceAddress::Cidr(net.parse().unwrap()), version)
    }

    fn wants_wiki(&self, version: u64) -> Authorize {
        self.wants(ResourceAddress::Dns("wiki.corp.example".into()), version)
    }
}

#[test]
fn a_grant_is_answered_when_the_relays_have_confirmed_and_the_answer_verifies() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_net("10.0.0.0/24", 5);

    gateway.authorize(&authorize);
    let told = gateway.told();
    assert_eq!(gateway.said(), [], "the relays have not confirmed yet");

    assert_eq!(told.names(), ["connect", "apply", "permit"]);
    let (slot, secret, remote_index) = {
        let config = told.connected()[0];
        (config.slot, config.secret.clone(), config.remote_index)
    };
    assert_eq!(told.applied()[0].1.grants.version(), GrantVersion(5));
    told.permits().into_iter().for_each(|done| done.send(()));
    let said = gateway.said();
    let [FromNode::Applied(applied)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((applied.grant, applied.version), (authorize.grant, authorize.version));
    assert_eq!((applied.has_v4, applied.has_v6), (true, false));
    let answer = &applied.answer;
    assert_eq!(answer.verify(&device.wireguard.public(), &device.kem.public()), Ok(()));
    assert_eq!((answer.gateway, answer.device, answer.addresses), (gateway.id, device.id, gateway.inner));
    assert_eq!(TunnelIndex::of(answer.index).slot, slot);
    assert_eq!((answer.device_index, remote_index), (authorize.offer.index, authorize.offer.index));
    assert!(device.kem.decapsulate(&answer.ciphertext).unwrap() == secret);
}

#[test]
fn a_second_resource_reuses_the_session_of_the_process() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_net("10.0.0.0/24", 1));
    let first = gateway.told();

    gateway.authorize(&device.wants_net("10.0.1.0/24", 2));
    let second = gateway.told();

    assert!(second.disconnected().is_empty());
    let (before, after) = (first.connected()[0], second.connected()[0]);
    assert_eq!((before.slot, before.public), (after.slot, after.public));
    assert!(before.secret == after.secret);
    assert_eq!(second.applied()[0].1.grants.grants().len(), 2);
}

#[test]
fn a_new_process_gets_a_new_session_and_keeps_what_was_granted() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_net("10.0.0.0/24", 1));
    let first = gateway.told();

    gateway.authorize(&device.restarted().wants_net("10.0.1.0/24", 2));
    let second = gateway.told();

    let (before, after) = (first.connected()[0], second.connected()[0]);
    assert_eq!(second.disconnected(), [before.slot]);
    assert_ne!(before.slot, after.slot);
    assert!(before.secret != after.secret);
    assert_eq!(second.applied()[0].1.grants.grants().len(), 2);
}

#[test]
fn a_grant_of_an_older_process_does_not_take_the_session_back() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let old = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&old);
    let newer = device.restarted();
    let new = newer.wants_net("10.0.1.0/24", 2);
    gateway.authorize(&new);
    let session = gateway.told().connected().last().unwrap().public;
    gateway.said();

    // Control renews the older grant, with the offer that asked for it.
    gateway.authorize(&Authorize { version: GrantVersion(3), ..old.clone() });
    let told = gateway.told();

    assert!(told.disconnected().is_empty());
    assert_eq!(told.connected()[0].public, session);
    told.permits().into_iter().for_each(|done| done.send(()));
    let said = gateway.said();
    let [FromNode::Applied(applied)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((applied.grant, applied.version), (old.grant, GrantVersion(3)));
    assert_eq!(applied.answer.verify(&newer.wireguard.public(), &newer.kem.public()), Ok(()));
}

#[test]
fn full_state_of_several_processes_ends_with_the_one_that_asked_last() {
    let (gateway, device) = (Gateway::new(Options::default()), Device::new());
    let living = device.restarted();
    // Control has renewed what the dead process asked for.
    let (old, new) = (device.wants_net("10.0.0.0/24", 3), living.wants_net("10.0.1.0/24", 2));

    gateway.full_state(vec![old, new]);

    let told = gateway.told();
    assert_eq!(told.connected().len(), 1);
    assert_eq!(told.connected()[0].public, living.wireguard.public());
}

#[test]
fn a_name_that_a_dead_process_asked_for_does_not_take_the_session_back_when_it_is_looked_up() {
    let (gateway, device) = (Gateway::new(Options::default()), Device::new());
    let living = device.restarted();
    let (old, new) = (device.wants_wiki(3), living.wants_net("10.0.1.0/24", 2));
    gateway.full_state(vec![old.clone(), new]);

    gateway.answer(&["10.20.0.10"]);

    let told = gateway.told();
    assert!(told.connected().iter().all(|config| config.public == living.wireguard.public()));
    assert_eq!(told.applied().last().unwrap().1.grants.grants().len(), 2);
}

#[test]
fn the_grants_of_many_dead_processes_do_not_take_the_session_back() {
    let (gateway, mut device) = (Gateway::up(), Device::new());
    let first = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&first);
    for n in 1..=40_u8 {
        device = device.restarted();
        gateway.authorize(&device.wants_net(&format!("10.0.{n}.0/24"), n.into()));
    }
    gateway.told();

    gateway.authorize(&Authorize { version: GrantVersion(41), ..first });

    let told = gateway.told();
    assert!(told.disconnected().is_empty());
    assert_eq!(told.connected()[0].public, device.wireguard.public());
}

#[test]
fn what_the_full_set_lacks_is_dropped() {
    let (gateway, device, other) = (Gateway::up(), Device::new(), Device::new());
    let (kept, dropped) = (device.wants_net("10.0.0.0/24", 1), device.wants_net("10.0.1.0/24", 2));
    let gone = other.wants_net("10.0.2.0/24", 3);
    for authorize in [&kept, &dropped, &gone] {
        gateway.authorize(authorize);
    }
    let before = gateway.told();
    let places: BTreeMap<_, _> =
        before.connected().iter().map(|config| (config.public, config.slot)).collect();

    gateway.full_state(vec![kept.clone()]);
    let after = gateway.told();

    assert!(after.disconnected().is_empty(), "flows have to be ended in order first");
    let left: BTreeMap<u16, Vec<GrantId>> = after
        .applied()
        .into_iter()
        .map(|(slot, apply)| (slot, apply.grants.grants().map(|spec| spec.grant).collect()))
        .collect();
    assert_eq!(left[&places[&device.wireguard.public()]], [kept.grant]);
    assert_eq!(left[&places[&other.wireguard.public()]], []);
    for (slot, apply) in after.applied() {
        let was =
            before.applied().into_iter().filter(|(s, _)| *s == slot).map(|(_, a)| a.grants.version()).max();
        assert!(
            Some(apply.grants.version()) > was.filter(|_| apply.grants.grants().len() == 0),
            "a stale table is ignored"
        );
    }
    assert_eq!(after.names().last(), Some(&"retain"), "sessions that nobody knows go, too");
}

#[test]
fn a_wrong_signature_is_refused() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let mut swapped = device.wants_net("10.0.0.0/24", 1);
    swapped.offer.wireguard = WireguardKey::generate().unwrap().public();

    gateway.authorize(&swapped);

    assert_eq!(gateway.refusals(), [(swapped.grant, GatewayRefusal::BadOffer)]);
    assert!(gateway.told().0.is_empty());
}

#[test]
fn a_changed_identity_is_refused_after_a_restart_of_the_gateway_too() {
    let dir = tempfile::tempdir().unwrap();
    let options = || Options { pins: Some(dir.path().join("known-devices")), ..Options::default() };
    let device = Device::new();
    let gateway = Gateway::up_with(options());
    gateway.authorize(&device.wants_net("10.0.0.0/24", 1));
    assert_eq!(gateway.refusals(), []);

    let gateway = Gateway::up_with(options());
    let swapped = Device { identity: Arc::new(IdentityKey::generate().unwrap()), ..device.restarted() };
    let authorize = swapped.wants_net("10.0.0.0/24", 2);
    gateway.authorize(&authorize);

    assert_eq!(gateway.refusals(), [(authorize.grant, GatewayRefusal::IdentityChanged)]);
    assert!(gateway.told().0.is_empty());
}

#[test]
fn pins_that_cannot_be_read_trust_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("known-devices");
    std::fs::write(&path, "not a pin\n").unwrap();
    let gateway = Gateway::up_with(Options { pins: Some(path), ..Options::default() });
    let authorize = Device::new().wants_net("10.0.0.0/24", 1);

    gateway.authorize(&authorize);

    assert_eq!(gateway.refusals(), [(authorize.grant, GatewayRefusal::IdentityChanged)]);
}

#[test]
fn nothing_above_the_ceiling_is_installed() {
    let options = Options { ceiling: Some(vec!["10.0.0.0/16", "2001:db8:1::/48"]), ..Options::default() };
    let (gateway, device) = (Gateway::up_with(options), Device::new());
    for (address, is_below) in [
        (ResourceAddress::Cidr("10.0.3.0/24".parse().unwrap()), true),
        (ResourceAddress::Cidr("10.0.0.0/8".parse().unwrap()), false),
        (ResourceAddress::Cidr("0.0.0.0/0".parse().unwrap()), false),
        (ResourceAddress::Ip("10.0.9.9".parse().unwrap()), true),
        (ResourceAddress::Ip("10.1.0.1".parse().unwrap()), false),
        (ResourceAddress::Ip("2001:db8:1::5".parse().unwrap()), true),
        (ResourceAddress::Ip("2001:db8:2::5".parse().unwrap()), false),
    ] {
        let authorize = device.wants(address.clone(), 1);

        gateway.authorize(&authorize);

        let expected = if is_below { vec![] } else { vec![(authorize.grant, GatewayRefusal::AboveCeiling)] };
        assert_eq!(gateway.refusals(), expected, "{address:?}");
        assert_eq!(!gateway.told().0.is_empty(), is_below, "{address:?}");
    }
}

#[test]
fn a_name_is_granted_with_the_addresses_that_the_ceiling_has() {
    let options = Options { ceiling: Some(vec!["10.0.0.0/16"]), ..Options::default() };
    let (gateway, device) = (Gateway::up_with(options), Device::new());
    let authorize = device.wants_wiki(1);

    gateway.authorize(&authorize);
    assert_eq!(gateway.asked.lock().unwrap()[0].0, "wiki.corp.example");
    gateway.answer(&["2001:db8::5", "192.168.0.5", "10.0.0.6"]);

    let applied = gateway.installed();
    assert_eq!((applied[0].has_v4, applied[0].has_v6), (true, false));
}

#[test]
fn a_name_without_an_address_is_refused() {
    let options = || Options { ceiling: Some(vec!["10.0.0.0/16"]), ..Options::default() };
    for (addresses, reason) in
        [(&[][..], GatewayRefusal::NameNotFound), (&["192.168.0.5"][..], GatewayRefusal::AboveCeiling)]
    {
        let (gateway, device) = (Gateway::up_with(options()), Device::new());
        let authorize = device.wants_wiki(1);

        gateway.authorize(&authorize);
        gateway.answer(addresses);

        assert_eq!(gateway.refusals(), [(authorize.grant, reason)]);
        assert!(gateway.told().0.is_empty());
    }
}

#[test]
fn a_revocation_overtakes_a_name_that_is_being_looked_up() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_wiki(1);
    gateway.authorize(&authorize);

    gateway.hear(ToNode::Revoke { grant: authorize.grant, device: device.id, version: GrantVersion(2) });
    gateway.answer(&["10.0.0.6"]);

    assert!(gateway.told().applied().is_empty());
    assert_eq!(gateway.said(), [FromNode::Ended { grant: authorize.grant }]);
}

#[test]
fn a_full_set_overtakes_a_name_that_is_being_looked_up() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_wiki(1));

    gateway.full_state(Vec::new());
    gateway.answer(&["10.0.0.6"]);

    assert!(gateway.told().applied().is_empty());
}

#[test]
fn a_name_is_looked_up_again_and_keeps_its_addresses_when_nobody_answers() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_wiki(1));
    gateway.answer(&["10.0.0.6", "10.0.0.7"]);
    gateway.told();

    gateway.universe.advance(Duration::from_secs(31));
    gateway.answer(&[]);
    assert!(gateway.told().0.is_empty());
    gateway.universe.advance(Duration::from_secs(31));
    gateway.answer(&["10.0.0.7", "10.0.0.6"]);
    assert!(gateway.told().0.is_empty(), "another order is no news");
    gateway.universe.advance(Duration::from_secs(31));
    gateway.answer(&["10.0.0.8"]);

    let told = gateway.told();
    let specs: Vec<_> = told.applied()[0].1.grants.grants().cloned().collect();
    assert!(format!("{specs:?}").contains("10.0.0.8"), "{specs:?}");
}

#[test]
fn a_renewed_name_that_cannot_be_looked_up_keeps_its_addresses() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_wiki(1);
    gateway.authorize(&authorize);
    gateway.answer(&["10.0.0.6"]);
    gateway.installed();

    gateway.authorize(&Authorize { version: GrantVersion(2), ..authorize });
    gateway.answer(&[]);

    let applied = gateway.installed();
    assert_eq!((applied[0].version, applied[0].has_v4), (GrantVersion(2), true));
}

#[test]
fn a_grant_that_is_refused_anew_is_not_in_force_any_more() {
    let options = Options { ceiling: Some(vec!["10.0.0.0/16"]), ..Options::default() };
    let (gateway, device) = (Gateway::up_with(options), Device::new());
    let authorize = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&authorize);
    gateway.told();

    let mut moved = Authorize { version: GrantVersion(2), ..authorize };
    moved.resource.address = ResourceAddress::Cidr("10.7.0.0/24".parse().unwrap());
    gateway.authorize(&moved);

    assert_eq!(gateway.told().applied()[0].1.grants.grants().len(), 0);
    assert_eq!(gateway.refusals(), [(moved.grant, GatewayRefusal::AboveCeiling)]);
}

#[test]
fn the_end_of_a_grant_leaves_the_others_and_is_said() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let short = Authorize { remaining: Duration::from_millis(40), ..device.wants_net("10.0.0.0/24", 1) };
    let long = device.wants_net("10.0.1.0/24", 2);
    gateway.authorize(&short);
    gateway.authorize(&long);
    gateway.installed();

    gateway.let_pass(Duration::from_millis(60));

    let told = gateway.told();
    let left: Vec<GrantId> = told.applied()[0].1.grants.grants().map(|spec| spec.grant).collect();
    assert_eq!(left, [long.grant]);
    assert_eq!(gateway.said(), [FromNode::Ended { grant: short.grant }]);
}

#[test]
fn a_revocation_stops_the_lane_first_and_is_said() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let (revoked, kept) = (device.wants_net("10.0.0.0/24", 1), device.wants_net("10.0.1.0/24", 2));
    gateway.authorize(&revoked);
    gateway.authorize(&kept);
    gateway.installed();

    gateway.hear(ToNode::Revoke { grant: revoked.grant, device: device.id, version: GrantVersion(3) });

    let told = gateway.told();
    assert_eq!(told.names(), ["revoke", "connect", "apply"]);
    let (slot, version) = told.revoked()[0];
    let (of, apply) = told.applied()[0];
    assert_eq!((slot, version), (of, GrantVersion(3)));
    assert_eq!(apply.grants.version(), GrantVersion(3), "an older table would be ignored");
    assert_eq!(apply.grants.grants().map(|spec| spec.grant).collect::<Vec<_>>(), [kept.grant]);
    assert_eq!(gateway.said(), [FromNode::Ended { grant: revoked.grant }]);
}

#[test]
fn a_device_without_a_grant_is_forgotten_after_a_minute() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&authorize);
    let slot = gateway.told().connected()[0].slot;

    gateway.hear(ToNode::Revoke { grant: authorize.grant, device: device.id, version: GrantVersion(2) });
    gateway.universe.advance(Duration::from_secs(59));
    assert!(gateway.told().disconnected().is_empty());
    gateway.universe.advance(Duration::from_secs(2));

    assert_eq!(gateway.told().disconnected(), [slot]);
    assert!(gateway.view().devices.is_empty());
}

#[test]
fn a_device_that_comes_back_in_time_keeps_its_session() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&authorize);
    gateway.hear(ToNode::Revoke { grant: authorize.grant, device: device.id, version: GrantVersion(2) });
    gateway.universe.advance(Duration::from_secs(30));

    gateway.authorize(&device.wants_net("10.0.0.0/24", 3));
    gateway.universe.advance(Duration::from_secs(60));

    assert!(gateway.told().disconnected().is_empty());
    assert_eq!(gateway.view().devices.len(), 1);
}

#[test]
fn a_renewed_grant_does_not_move_the_device_back() {
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants_net("10.0.0.0/24", 1);
    gateway.authorize(&authorize);
    gateway.told();

    let moved = vec![candidate("198.51.100.7:6000")];
    gateway.hear(ToNode::Candidates { of: Peer::Device(device.id), candidates: moved.clone() });
    assert_eq!(gateway.told().names(), ["permit", "candidates"]);
    gateway.hear(ToNode::Candidates { of: Peer::Device(device.id), candidates: moved.clone() });
    assert_eq!(gateway.told().names(), ["candidates"], "the relays know the addresses already");
    gateway.authorize(&Authorize { version: GrantVersion(2), ..authorize });

    assert_eq!(gateway.told().connected()[0].candidates, moved);
}

#[test]
fn peers_that_began_anew_are_told_of_every_session_again() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_net("10.0.0.0/24", 1));
    gateway.installed();

    assert!(gateway.admissions.tell(AdmissionsCommand::Peers(PeersFact::Began)).is_ok());

    let told = gateway.told();
    assert_eq!(told.names(), ["relays", "connect", "apply"]);
    assert_eq!(gateway.said(), []);
}

#[test]
fn what_does_not_fit_into_the_peers_mailbox_follows() {
    let gateway = Gateway::up_with(Options { peers_mailbox: 5, ..Options::default() });
    let devices: Vec<Device> = (0..20).map(|_| Device::new()).collect();
    let grants: Vec<Authorize> = devices.iter().map(|device| device.wants_net("10.0.0.0/24", 1)).collect();

    gateway.full_state(grants.clone());
    let (mut installed, mut kept) = (Vec::new(), 0);
    for _ in 0..100 {
        let told = gateway.told();
        kept += told.names().iter().filter(|name| **name == "retain").count();
        told.permits().into_iter().for_each(|done| done.send(()));
        gateway.universe.advance(Duration::from_millis(20));
        installed.extend(gateway.said().into_iter().filter_map(|said| match said {
            FromNode::Applied(applied) => Some(applied.grant),
            _ => None,
        }));
    }

    installed.sort_unstable();
    let mut expected: Vec<GrantId> = grants.iter().map(|authorize| authorize.grant).collect();
    expected.sort_unstable();
    assert_eq!(installed, expected);
    assert_eq!(kept, 1);
}

#[test]
fn after_a_panic_control_is_asked_for_everything_and_stale_sessions_go() {
    let (gateway, device) = (Gateway::up(), Device::new());
    gateway.authorize(&device.wants_net("10.0.0.0/24", 1));
    gateway.told();
    gateway.control.take_all();

    gateway.authorize(&device.wants(ResourceAddress::Dns(PANICS.into()), 2));
    gateway.universe.advance(Duration::from_secs(5));
    let asked = gateway.control.take_all();
    assert!(matches!(asked.as_slice(), [control_session::Command::Reconnect]), "{}", asked.len());
    gateway.full_state(Vec::new());

    let told = gateway.told();
    let [PeersCommand::Relays(_), PeersCommand::Retain(slots)] = told.0.as_slice() else {
        panic!("{:?}", told.names())
    };
    assert!(slots.is_empty());
}

#[test]
fn it_is_ready_when_the_host_has_its_addresses() {
    let gateway = Gateway::new(Options::default());
    gateway.full_state(Vec::new());
    assert_eq!(gateway.ready.load(Ordering::Relaxed), 0);

    // The first attempt fails; it is tried again.
    drop(gateway.routes.take_all());
    gateway.universe.advance(Duration::from_secs(3));
    let again = gateway.routes.take_all();
    let [RoutesCommand::Apply { plan, done: _ }] = again.as_slice() else { panic!("{}", again.len()) };
    assert_eq!(plan.addresses, [IpAddr::from(gateway.inner.v4), IpAddr::from(gateway.inner.v6)]);
    assert_eq!(gateway.ready.load(Ordering::Relaxed), 0);
    for command in again {
        let RoutesCommand::Apply { done: Some(done), .. } = command else { panic!("nobody waits") };
        done.send(Ok(AppliedRoutes {
            routes: Vec::new(),
            refused: Vec::new(),
            addresses: Vec::new(),
            without_ipv6: false,
        }));
    }
    gateway.universe.settle();
    assert_eq!(gateway.ready.load(Ordering::Relaxed), 1);

    gateway.tell(SessionEvent::Down);
    gateway.full_state(Vec::new());

    assert!(gateway.routes.take_all().is_empty(), "the host has the addresses already");
    assert_eq!(gateway.ready.load(Ordering::Relaxed), 2);
}

#[test]
fn candidates_are_said_again_with_each_session() {
    let gateway = Gateway::up();
    let candidates = vec![candidate("192.0.2.1:4000")];
    assert!(
        gateway.admissions.tell(AdmissionsCommand::Peers(PeersFact::Candidates(candidates.clone()))).is_ok()
    );
    assert_eq!(gateway.said(), [FromNode::Candidates(candidates.clone())]);

    gateway.tell(SessionEvent::Down);
    gateway.full_state(Vec::new());

    assert_eq!(gateway.said(), [FromNode::Candidates(candidates)]);
}

#[test]
fn a_grant_for_an_address_of_the_host_itself_is_told_to_its_packet_filter() {
    let Some(own) = actors_tunnel::host_addresses("postern-gw0").first().copied() else {
        eprintln!("skipped: this host has no address");
        return;
    };
    let (gateway, device) = (Gateway::up(), Device::new());
    let authorize = device.wants(ResourceAddress::Ip(own), 1);

    gateway.authorize(&device.wants(ResourceAddress::Ip("203.0.113.77".parse().unwrap()), 2));
    assert!(gateway.own_resources.lock().unwrap().is_empty());
    gateway.authorize(&authorize);
    gateway.hear(ToNode::Revoke { grant: authorize.grant, device: device.id, version: GrantVersion(3) });

    assert_eq!(*gateway.own_resources.lock().unwrap(), [vec![own], vec![]]);
}

//! The grants of a client, with inboxes for neighbours.

#![allow(clippy::unwrap_used, missing_docs)]

mod world;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_access::{
    Decided, Grants, GrantsCommand, GrantsSettings, GrantsView, ResourceState, SessionEvent,
};
use actors_network::RoutesCommand;
use actors_runtime::{Address, Answer as Awaited, Outlet, Reply};
use actors_tunnel::{PeersCommand, PeersFact, RouterChange};
use protocol_control::{
    Answer, Candidate, ClientState, DenyReason, FromNode, GatewayRefusal, Granted, InnerAddresses,
    MappedName, Offer, Peer, RelayCredential, RelayOffer, RequestAccess, ResourceAddress, ResourceView,
    Secret, ToNode, UnsignedAnswer, Welcome,
};
use protocol_filter::{Access, PeerSlot};
use protocol_identity::{
    AccountId, DeviceId, GatewayId, GrantId, IdentityKey, KemCiphertext, KemKey, RelayId, ResourceId,
    Secret32, WireguardKey,
};
use protocol_tunnel::TunnelIndex;
use world::{World, candidate};

const HOUR: Duration = Duration::from_secs(3600);
const BAD_OFFER: DenyReason = DenyReason::Gateway(GatewayRefusal::BadOffer);

struct Client {
    world: World,
    grants: Address<Grants>,
    device: DeviceId,
    inner: InnerAddresses,
    identity: Arc<IdentityKey>,
    names: Arc<Mutex<Vec<Vec<String>>>>,
}

impl Deref for Client {
    type Target = World;

    fn deref(&self) -> &World {
        &self.world
    }
}

fn view(address: ResourceAddress) -> ResourceView {
    let resource = ResourceId::fresh();
    ResourceView {
        resource,
        name: format!("{address:?}"),
        site: "office".into(),
        address,
        filters: Vec::new(),
    }
}

fn net(text: &str) -> ResourceView {
    view(ResourceAddress::Cidr(text.parse().unwrap()))
}

fn named(name: &str) -> ResourceView {
    view(ResourceAddress::Dns(name.into()))
}

fn relay() -> RelayOffer {
    let credential = RelayCredential {
        username: "1:gateway".into(),
        password: Secret::new("hush".into()),
        remaining: HOUR,
    };
    RelayOffer {
        relay: RelayId::fresh(),
        region: "lab".into(),
        addresses: vec!["203.0.113.20:3478".parse().unwrap()],
        tls: None,
        draining: false,
        credential: Some(credential),
    }
}

impl Client {
    /// A client that has not heard from control.
    fn new(pins: Option<PathBuf>) -> Self {
        Self::with(pins, 1024)
    }

    fn with(pins: Option<PathBuf>, peers_mailbox: usize) -> Self {
        let world = World::new("Grants", peers_mailbox);
        let identity = Arc::new(IdentityKey::generate().unwrap());
        let names = Arc::<Mutex<Vec<Vec<String>>>>::default();
        let heard = names.clone();
        let settings = Arc::new(GrantsSettings {
            identity: identity.clone(),
            wireguard: WireguardKey::generate().unwrap(),
            kem: KemKey::generate().unwrap(),
            tun: "postern0".into(),
            pins,
            outside: Box::new(|| vec!["203.0.113.10".parse().unwrap()]),
            names: Outlet::to(move |names| {
                heard.lock().unwrap().push(names);
                Ok(())
            }),
            begun: AtomicBool::new(false),
        });
        let (peers, control, routes) =
            (world.peers.address(), world.control.address(), world.routes.address());
        let factory = move || Grants::new(settings.clone(), peers.clone(), control.clone(), routes.clone());
        let grants = world.universe.start("", factory).unwrap().address;
        let inner =
            InnerAddresses { v4: Ipv4Addr::new(100, 64, 0, 9), v6: "fd70:6f73:7401::9".parse().unwrap() };
        Self { world, grants, device: DeviceId::fresh(), inner, identity, names }
    }

    /// One whose session is up and that knows these resources.
    fn up(resources: &[&ResourceView]) -> Self {
        let client = Self::new(None);
        client.full_state(resources, Vec::new());
        client.told();
        client.said();
        client
    }

    fn full_state(
        &self,
        resources: &[&ResourceView],
        grants: Vec<(GrantId, ResourceId, GatewayId, Duration)>,
    ) {
        self.full_state_of(self.device, resources, grants);
    }

    fn full_state_of(
        &self,
        device: DeviceId,
        resources: &[&ResourceView],
        grants: Vec<(GrantId, ResourceId, GatewayId, Duration)>,
    ) {
        let state = ClientState {
            device,
            account: AccountId::fresh(),
            principal: "laptop".into(),
            addresses: self.inner,
            resources: resources.iter().copied().cloned().collect(),
            relays: vec![relay()],
            grants,
        };
        self.tell(GrantsCommand::Session(SessionEvent::Up(Box::new(Welcome::Client(state)))));
    }

    fn tell(&self, command: GrantsCommand) {
        assert!(self.grants.tell(command).is_ok());
        self.universe.settle();
    }

    fn hear(&self, message: ToNode) {
        self.tell(GrantsCommand::Session(SessionEvent::Message(Box::new(message))));
    }

    fn want(&self, resource: &ResourceView) -> Awaited<Decided> {
        let (reply, decided) = Reply::channel();
        self.tell(GrantsCommand::Want { resource: resource.resource, decided: Some(reply) });
        decided
    }

    /// Wants a resource, and returns what control is asked.
    fn asks(&self, resource: &ResourceView) -> RequestAccess {
        drop(self.want(resource));
        self.asked().pop().unwrap()
    }

    /// What control was asked since the last look.
    fn asked(&self) -> Vec<RequestAccess> {
        let asked = self.said().into_iter().filter_map(|said| match said {
            FromNode::RequestAccess(request) => Some(request),
            _ => None,
        });
        asked.collect()
    }

    /// Wants a resource and is granted it.
    fn is_granted(&self, resource: &ResourceView, by: &Gateway, remaining: Duration) -> GrantId {
        let asked = self.asks(resource);
        let granted = Granted { remaining, ..by.grants(&asked) };
        let grant = granted.grant;
        self.hear(ToNode::Granted(Box::new(granted)));
        assert_eq!(self.state(resource), Some(ResourceState::Granted));
        grant
    }

    fn view(&self) -> GrantsView {
        let (reply, mut answer) = Reply::channel();
        self.tell(GrantsCommand::Inspect(reply));
        answer.try_take().unwrap()
    }

    fn state(&self, resource: &ResourceView) -> Option<ResourceState> {
        let view = self.view();
        view.resources
            .into_iter()
            .find(|status| status.view.resource == resource.resource)
            .map(|status| status.state)
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.universe.registry().drops().get(reason).copied().unwrap_or(0)
    }
}

/// A process of a gateway.
struct Gateway {
    id: GatewayId,
    identity: Arc<IdentityKey>,
    wireguard: WireguardKey,
    inner: InnerAddresses,
    candidates: Vec<Candidate>,
    session: Mutex<Option<(KemCiphertext, Secret32, u32)>>,
}

impl Gateway {
    fn new() -> Self {
        Self {
            id: GatewayId::fresh(),
            identity: Arc::new(IdentityKey::generate().unwrap()),
            wireguard: WireguardKey::generate().unwrap(),
            inner: InnerAddresses {
                v4: Ipv4Addr::new(100, 64, 0, 1),
                v6: "fd70:6f73:7401::1".parse().unwrap(),
            },
            candidates: vec![candidate("198.51.100.1:5000")],
            session: Mutex::new(None),
        }
    }

    fn restarted(&self) -> Self {
        Self { id: self.id, identity: self.identity.clone(), ..Self::new() }
    }

    fn answer(&self, offer: &Offer, grant: GrantId) -> Answer {
        let mut session = self.session.lock().unwrap();
        let (ciphertext, _, device_index) = session.get_or_insert_with(|| {
            let (ciphertext, secret) = offer.kem.encapsulate().unwrap();
            (ciphertext, secret, offer.index)
        });
        let unsigned = UnsignedAnswer {
            gateway: self.id,
            grant,
            wireguard: self.wireguard.public(),
            ciphertext: ciphertext.clone(),
            index: TunnelIndex { slot: 3, lane: 0 }.receiver_index(),
            device_index: *device_index,
            addresses: self.inner,
            candidates: self.candidates.clone(),
        };
        Answer::sign(&self.identity, offer, unsigned)
    }

    fn grants(&self, asked: &RequestAccess) -> Granted {
        let grant = GrantId::fresh();
        Granted {
            request: asked.request,
            grant,
            resource: asked.offer.resource,
            name: asked.name.clone(),
            remaining: HOUR,
            gateway_name: "office-1".into(),
            answer: self.answer(&asked.offer, grant),
            has_v4: true,
            has_v6: false,
        }
    }

    fn secret(&self) -> Secret32 {
        self.session.lock().unwrap().as_ref().unwrap().1.clone()
    }
}

fn mapped(name: &str, last: u8) -> MappedName {
    MappedName {
        name: name.into(),
        v4: Ipv4Addr::new(100, 96, 0, last),
        v6: Ipv6Addr::new(0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, last.into()),
    }
}

#[test]
fn wanting_a_resource_asks_control_with_a_signed_offer_and_a_grant_connects() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());

    let mut decided = client.want(&lan);
    let asked = client.asked().pop().unwrap();
    assert_eq!(client.told().access(lan.resource), Some(Access::Pending));
    assert_eq!(client.state(&lan), Some(ResourceState::Asked));
    assert_eq!(asked.offer.verify(&client.identity.public()), Ok(()));
    assert_eq!((asked.offer.device, asked.offer.resource, &asked.name), (client.device, lan.resource, &None));
    client.hear(ToNode::Granted(Box::new(gateway.grants(&asked))));

    let told = client.told();
    let [config] = told.connected()[..] else { panic!("{:?}", told.names()) };
    assert_eq!(config.slot, TunnelIndex::of(asked.offer.index).slot);
    let index = TunnelIndex { slot: 3, lane: 0 }.receiver_index();
    assert_eq!((config.public, config.remote_index), (gateway.wireguard.public(), index));
    assert_eq!((config.inner, &config.candidates), (gateway.inner, &gateway.candidates));
    assert!(config.secret == gateway.secret());
    assert_eq!(told.access(lan.resource), Some(Access::Granted(PeerSlot(config.slot.into()))));
    assert_eq!(decided.try_take(), Some(Decided::Granted { has_v4: true, has_v6: false }));
    let status = client.view().resources.remove(0);
    assert_eq!((status.state, status.gateway.as_deref()), (ResourceState::Granted, Some("office-1")));
}

#[test]
fn many_packets_ask_once() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);

    let mut waiting: Vec<_> = (0..5).map(|_| client.want(&lan)).collect();
    let asked = client.asked();
    assert_eq!(asked.len(), 1);
    client.hear(ToNode::Granted(Box::new(Gateway::new().grants(&asked[0]))));

    let decided: Vec<_> = waiting.iter_mut().filter_map(Awaited::try_take).collect();
    assert_eq!(decided, vec![Decided::Granted { has_v4: true, has_v6: false }; 5]);
    client.want(&lan);
    assert!(client.asked().is_empty(), "what is granted is not asked for");
}

#[test]
fn a_denial_comes_with_its_reason_and_is_asked_for_again_when_wanted_again() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);
    let reason = DenyReason::Condition { rule: "office hours".into(), attribute: "a verified device".into() };

    let mut decided = client.want(&lan);
    let asked = client.asked().pop().unwrap();
    let denied = ToNode::Denied { request: asked.request, resource: lan.resource, reason: reason.clone() };
    client.hear(denied.clone());

    assert_eq!(decided.try_take(), Some(Decided::Denied(reason.clone())));
    assert!(matches!(client.told().access(lan.resource), Some(Access::Denied { .. })));
    assert_eq!(client.state(&lan), Some(ResourceState::Denied(reason)));
    client.asks(&lan);
    client.hear(denied);
    assert_eq!(
        client.state(&lan),
        Some(ResourceState::Asked),
        "the answer to an older question says nothing"
    );
}

#[test]
fn a_resource_that_is_not_known_is_unknown() {
    let client = Client::up(&[]);

    assert_eq!(client.want(&net("10.0.0.0/24")).try_take(), Some(Decided::Unknown));
    assert!(client.asked().is_empty());
}

#[test]
fn without_control_everything_new_is_offline_at_once() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);
    client.tell(GrantsCommand::Session(SessionEvent::Down));

    assert_eq!(client.want(&lan).try_take(), Some(Decided::Offline));
    assert_eq!(client.state(&lan), Some(ResourceState::Offline));
    assert!(client.asked().is_empty());

    client.full_state(&[&lan], Vec::new());
    assert_eq!(client.state(&lan), Some(ResourceState::Unused), "an outage of before says nothing about now");
    assert_eq!(client.told().access(lan.resource), Some(Access::Unknown));
}

#[test]
fn a_question_that_nobody_answers_is_given_up() {
    let (lan, other) = (net("10.0.0.0/24"), net("10.0.1.0/24"));
    let client = Client::up(&[&lan, &other]);

    let mut slow = client.want(&lan);
    client.universe.advance(Duration::from_secs(4));
    assert_eq!(slow.try_take(), None);
    client.universe.advance(Duration::from_secs(2));
    assert_eq!(slow.try_take(), Some(Decided::Offline));

    let mut cut = client.want(&other);
    client.tell(GrantsCommand::Session(SessionEvent::Down));
    assert_eq!(cut.try_take(), Some(Decided::Offline));
}

#[test]
fn what_is_granted_goes_on_without_control() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    let grant = client.is_granted(&lan, &gateway, HOUR);
    client.told();

    client.tell(GrantsCommand::Session(SessionEvent::Down));
    client.universe.advance(Duration::from_secs(60));
    client.full_state(&[&lan], vec![(grant, lan.resource, gateway.id, HOUR)]);

    assert_eq!(client.state(&lan), Some(ResourceState::Granted));
    let told = client.told();
    assert!(told.disconnected().is_empty() && told.access(lan.resource).is_none(), "{:?}", told.names());
}

#[test]
fn what_control_does_not_know_any_more_has_ended() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);
    client.is_granted(&lan, &Gateway::new(), HOUR);
    client.told();

    client.full_state(&[&lan], Vec::new());

    assert_eq!(client.state(&lan), Some(ResourceState::Unused));
    assert_eq!(client.told().access(lan.resource), Some(Access::Unknown));
}

#[test]
fn a_revocation_ends_exactly_its_grant() {
    let (lan, other) = (net("10.0.0.0/24"), net("10.0.1.0/24"));
    let (client, gateway) = (Client::up(&[&lan, &other]), Gateway::new());
    let grant = client.is_granted(&lan, &gateway, HOUR);
    client.is_granted(&other, &gateway, HOUR);
    client.told();

    let (resource, reason) = (lan.resource, DenyReason::NoRule);
    client.hear(ToNode::Revoked { grant: GrantId::fresh(), resource, reason: reason.clone() });
    assert_eq!(client.state(&lan), Some(ResourceState::Granted), "another grant is none of ours");
    client.hear(ToNode::Revoked { grant, resource, reason: reason.clone() });

    let told = client.told();
    assert_eq!(client.state(&lan), Some(ResourceState::Denied(reason)));
    assert!(matches!(told.access(lan.resource), Some(Access::Denied { .. })));
    assert_eq!(client.state(&other), Some(ResourceState::Granted));
    assert!(told.disconnected().is_empty(), "the session serves the other grant");
}

#[test]
fn an_answer_with_a_wrong_signature_is_refused() {
    let lan = net("10.0.0.0/24");
    let swaps: [fn(&mut Granted); 5] = [
        |granted| granted.answer.wireguard = WireguardKey::generate().unwrap().public(),
        |granted| granted.answer.identity = IdentityKey::generate().unwrap().public(),
        |granted| granted.answer.device = DeviceId::fresh(),
        |granted| granted.grant = GrantId::fresh(),
        |granted| granted.answer.ciphertext.0[0] ^= 1,
    ];
    for (count, swap) in swaps.into_iter().enumerate() {
        let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
        let mut decided = client.want(&lan);
        let mut granted = gateway.grants(&client.asked().pop().unwrap());
        client.told();

        swap(&mut granted);
        client.hear(ToNode::Granted(Box::new(granted)));

        assert_eq!(decided.try_take(), Some(Decided::Denied(BAD_OFFER)), "swap {count}");
        assert!(client.told().connected().is_empty(), "swap {count}");
        assert_eq!(client.dropped("answer_bad_signature"), 1, "swap {count}");
    }
}

#[test]
fn an_answer_for_other_keys_is_refused() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    let mut decided = client.want(&lan);
    let mut asked = client.asked().pop().unwrap();

    asked.offer.wireguard = WireguardKey::generate().unwrap().public();
    client.hear(ToNode::Granted(Box::new(gateway.grants(&asked))));

    assert_eq!(decided.try_take(), Some(Decided::Denied(BAD_OFFER)));
}

#[test]
fn a_gateway_with_another_identity_is_refused_after_a_restart_too() {
    let dir = tempfile::tempdir().unwrap();
    let pins = || Some(dir.path().join("known-gateways"));
    let (lan, gateway) = (net("10.0.0.0/24"), Gateway::new());
    let client = Client::new(pins());
    client.full_state(&[&lan], Vec::new());
    client.is_granted(&lan, &gateway, HOUR);

    let client = Client::new(pins());
    client.full_state(&[&lan], Vec::new());
    let impostor = Gateway { identity: Arc::new(IdentityKey::generate().unwrap()), ..gateway.restarted() };
    let mut decided = client.want(&lan);
    client.told();
    client.hear(ToNode::Granted(Box::new(impostor.grants(&client.asked().pop().unwrap()))));

    let changed = DenyReason::Gateway(GatewayRefusal::IdentityChanged);
    assert_eq!(decided.try_take(), Some(Decided::Denied(changed)));
    assert!(client.told().connected().is_empty());
    assert_eq!(client.dropped("gateway_identity_changed"), 1);
}

#[test]
fn pins_that_cannot_be_read_trust_no_gateway() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("known-gateways");
    std::fs::write(&path, "nonsense\n").unwrap();
    let lan = net("10.0.0.0/24");
    let client = Client::new(Some(path));
    client.full_state(&[&lan], Vec::new());

    let asked = client.asks(&lan);
    client.hear(ToNode::Granted(Box::new(Gateway::new().grants(&asked))));

    let changed = DenyReason::Gateway(GatewayRefusal::IdentityChanged);
    assert_eq!(client.state(&lan), Some(ResourceState::Denied(changed)));
}

#[test]
fn a_second_resource_behind_a_gateway_reuses_its_session() {
    let (lan, other) = (net("10.0.0.0/24"), net("10.0.1.0/24"));
    let (client, gateway) = (Client::up(&[&lan, &other]), Gateway::new());

    client.is_granted(&lan, &gateway, HOUR);
    client.is_granted(&other, &gateway, HOUR);

    let told = client.told();
    let [first, second] = told.connected()[..] else { panic!("{:?}", told.names()) };
    assert_eq!((first.slot, first.remote_index), (second.slot, second.remote_index));
    assert!(first.secret == second.secret);
    assert!(told.disconnected().is_empty());
}

#[test]
fn a_restarted_gateway_gets_a_new_session_without_being_asked() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    let asked = client.asks(&lan);
    let granted = gateway.grants(&asked);
    let grant = granted.grant;
    client.hear(ToNode::Granted(Box::new(granted)));
    client.told();

    let again = gateway.restarted();
    let answer = again.answer(&asked.offer, grant);
    client.hear(ToNode::Granted(Box::new(Granted { request: 0, grant, answer, ..again.grants(&asked) })));

    let told = client.told();
    let [config] = told.connected()[..] else { panic!("{:?}", told.names()) };
    assert_eq!(config.public, again.wireguard.public());
    assert!(config.secret == again.secret());
    assert!(matches!(told.access(lan.resource), Some(Access::Granted(_))));
}

#[test]
fn a_gateway_cannot_take_the_place_of_another() {
    let (lan, other) = (net("10.0.0.0/24"), net("10.0.1.0/24"));
    let client = Client::up(&[&lan, &other]);
    client.is_granted(&lan, &Gateway::new(), HOUR);
    let taken = client.told().connected()[0].slot;

    let asked = client.asks(&other);
    let thief = Gateway::new();
    let (ciphertext, secret) = asked.offer.kem.encapsulate().unwrap();
    let index = TunnelIndex { slot: taken, lane: 0 }.receiver_index();
    *thief.session.lock().unwrap() = Some((ciphertext, secret, index));
    client.hear(ToNode::Granted(Box::new(thief.grants(&asked))));

    assert_eq!(client.state(&other), Some(ResourceState::Denied(BAD_OFFER)));
    assert_eq!(client.state(&lan), Some(ResourceState::Granted));
    assert_eq!(client.dropped("answer_bad_index"), 1);
}

#[test]
fn a_grant_is_renewed_before_its_end_and_then_left_to_end() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    let grant = client.is_granted(&lan, &gateway, Duration::from_millis(1100));
    client.told();

    client.let_pass(Duration::from_millis(500));
    assert!(client.asked().is_empty());
    client.let_pass(Duration::from_millis(100));
    let asked = client.asked().pop().unwrap();
    assert_eq!(client.state(&lan), Some(ResourceState::Granted), "it is in force meanwhile");
    assert!(client.told().access(lan.resource).is_none());
    // Control gives what is left, as at the end of a time window: asking again and again would bring no more.
    let answer = gateway.answer(&asked.offer, grant);
    let remaining = Duration::from_millis(300);
    client.hear(ToNode::Granted(Box::new(Granted { grant, answer, remaining, ..gateway.grants(&asked) })));
    client.let_pass(Duration::from_millis(250));
    assert!(client.asked().is_empty());
    client.let_pass(Duration::from_millis(100));

    assert_eq!(client.state(&lan), Some(ResourceState::Denied(DenyReason::Ended)));
    assert!(matches!(client.told().access(lan.resource), Some(Access::Denied { .. })));
}

#[test]
fn a_session_brings_what_is_left_of_a_grant() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    let grant = client.is_granted(&lan, &gateway, Duration::from_millis(60));
    client.tell(GrantsCommand::Session(SessionEvent::Down));

    client.full_state(&[&lan], vec![(grant, lan.resource, gateway.id, HOUR)]);
    client.let_pass(Duration::from_millis(80));

    assert_eq!(client.state(&lan), Some(ResourceState::Granted));
    let remaining = client.view().resources[0].remaining.unwrap();
    assert!(remaining > Duration::from_secs(3500), "{remaining:?}");
}

#[test]
fn down_ends_and_forgets_everything() {
    let (lan, wiki) = (net("10.0.0.0/24"), named("wiki.corp.example"));
    let client = Client::up(&[&lan, &wiki]);
    client.is_granted(&lan, &Gateway::new(), HOUR);
    let slot = client.told().connected()[0].slot;
    client.routes.take_all();

    client.tell(GrantsCommand::Down);

    let told = client.told();
    assert_eq!(told.disconnected(), [slot]);
    assert!(
        told.routed().iter().any(|change| matches!(change, RouterChange::Retain(kept) if kept.is_empty()))
    );
    assert!(
        told.0.iter().any(|command| matches!(command, PeersCommand::Relays(relays) if relays.is_empty()))
    );
    assert!(matches!(client.routes.take_all().as_slice(), [RoutesCommand::Clear { .. }]));
    assert_eq!(client.names.lock().unwrap().last(), Some(&Vec::new()));
    let view = client.view();
    assert!(view.device.is_none() && view.resources.is_empty());
    client.universe.advance(Duration::from_secs(60));
    assert!(client.routes.take_all().is_empty(), "nothing comes back by itself");
}

#[test]
fn another_device_inherits_nothing() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    client.is_granted(&lan, &gateway, HOUR);
    let slot = client.told().connected()[0].slot;

    client.full_state_of(DeviceId::fresh(), &[&lan], Vec::new());

    assert_eq!(client.told().disconnected(), [slot]);
    assert_eq!(client.state(&lan), Some(ResourceState::Unused));
}

#[test]
fn a_name_is_asked_for_with_its_stand_ins_and_again_when_they_change() {
    let wiki = named("wiki.corp.example");
    let (client, gateway) = (Client::up(&[&wiki]), Gateway::new());
    let look_up = |last| {
        let (reply, decided) = Reply::channel();
        client.tell(GrantsCommand::Lookup { mapped: mapped("wiki.corp.example", last), decided: reply });
        decided
    };

    let mut decided = look_up(7);
    let asked = client.asked().pop().unwrap();
    assert_eq!(asked.name, Some(mapped("wiki.corp.example", 7)));
    client.hear(ToNode::Granted(Box::new(gateway.grants(&asked))));
    assert_eq!(decided.try_take(), Some(Decided::Granted { has_v4: true, has_v6: false }));
    let put = client.told();
    let prefixes = put.routed().into_iter().rev().find_map(|change| match change {
        RouterChange::Put { prefixes, .. } => Some(prefixes.clone()),
        _ => None,
    });
    assert_eq!(prefixes.unwrap()[0], "100.96.0.7/32".parse().unwrap());

    assert_eq!(look_up(7).try_take(), Some(Decided::Granted { has_v4: true, has_v6: false }));
    assert!(client.asked().is_empty());
    assert_eq!(look_up(8).try_take(), None);
    assert_eq!(client.asked().pop().unwrap().name, Some(mapped("wiki.corp.example", 8)));
    let (reply, mut unknown) = Reply::channel();
    client.tell(GrantsCommand::Lookup { mapped: mapped("other.corp.example", 9), decided: reply });
    assert_eq!(unknown.try_take(), Some(Decided::Unknown));
}

#[test]
fn the_host_routes_what_is_known_and_leaves_control_and_relays_outside() {
    let (lan, wiki) = (net("10.0.0.0/24"), named("wiki.corp.example"));
    let client = Client::up(&[&lan, &wiki]);

    let Some(RoutesCommand::Apply { plan, .. }) = client.routes.take_all().pop() else { panic!("no plan") };

    assert!(plan.routes.contains(&"10.0.0.0/24".parse().unwrap()));
    assert!(plan.routes.contains(&"100.96.0.0/11".parse().unwrap()), "stand-ins of names");
    let outside: Vec<String> = plan.outside.iter().map(IpAddr::to_string).collect();
    assert_eq!(outside, ["203.0.113.10", "203.0.113.20"]);
    assert!(!plan.default_route_consent);
    assert_eq!(client.names.lock().unwrap().last(), Some(&vec!["wiki.corp.example".to_owned()]));
}

#[test]
fn a_resource_that_is_gone_is_refused_for_a_moment_before_its_routes_go() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);
    client.is_granted(&lan, &Gateway::new(), HOUR);
    client.told();
    client.routes.take_all();
    let routed = || {
        let Some(RoutesCommand::Apply { plan, .. }) = client.routes.take_all().pop() else {
            panic!("no plan")
        };
        plan.routes.contains(&"10.0.0.0/24".parse().unwrap())
    };

    client.hear(ToNode::ResourceGone(lan.resource));
    assert!(matches!(client.told().access(lan.resource), Some(Access::Denied { .. })));
    assert!(routed());
    client.universe.advance(Duration::from_secs(6));

    assert!(!routed());
    assert!(
        client
            .told()
            .routed()
            .iter()
            .any(|change| matches!(change, RouterChange::Retain(kept) if kept.is_empty()))
    );
}

#[test]
fn relays_are_passed_on_with_the_credential_that_a_blocked_device_needs() {
    let client = Client::new(None);
    client.full_state(&[], Vec::new());

    let told = client.told();
    let relays = told.0.iter().find_map(|command| match command {
        PeersCommand::Relays(relays) => Some(relays),
        _ => None,
    });
    assert_eq!(relays.unwrap().len(), 1);
    assert!(relays.unwrap()[0].credential.is_some());
}

#[test]
fn peers_that_began_anew_are_told_of_relays_and_sessions_again() {
    let lan = net("10.0.0.0/24");
    let client = Client::up(&[&lan]);
    client.is_granted(&lan, &Gateway::new(), HOUR);
    client.told();

    client.tell(GrantsCommand::Peers(PeersFact::Began));

    assert_eq!(client.told().names(), ["relays", "connect"]);
}

#[test]
fn a_thousand_resources_are_a_few_messages_and_one_plan() {
    let resources: Vec<ResourceView> = (0..1000).map(|n| named(&format!("host-{n}.corp.example"))).collect();
    let client = Client::new(None);

    client.full_state(&resources.iter().collect::<Vec<_>>(), Vec::new());

    let told = client.told();
    let put = told.routed().into_iter().filter(|change| matches!(change, RouterChange::Put { .. })).count();
    assert_eq!((put, told.names()), (1000, vec!["route", "relays", "route", "route"]));
    assert_eq!(client.routes.take_all().len(), 1);
    assert_eq!(client.names.lock().unwrap().len(), 1);
}

#[test]
fn what_does_not_fit_into_the_peers_mailbox_follows_in_order() {
    let (lan, gateway) = (net("10.0.0.0/24"), Gateway::new());
    let client = Client::with(None, 1);

    client.full_state(&[&lan], Vec::new());
    let asked = client.asks(&lan);
    client.hear(ToNode::Granted(Box::new(gateway.grants(&asked))));
    let mut names = Vec::new();
    let mut access = None;
    for _ in 0..20 {
        let told = client.told();
        names.extend(told.names());
        access = told.access(lan.resource).or(access);
        client.universe.advance(Duration::from_millis(20));
    }

    assert_eq!(
        names.iter().filter(|name| **name != "route").collect::<Vec<_>>(),
        [&"relays", &"connect", &"hygiene"]
    );
    assert!(matches!(access, Some(Access::Granted(_))), "{access:?}");
}

#[test]
fn candidates_of_a_gateway_reach_its_session_and_ours_reach_control() {
    let lan = net("10.0.0.0/24");
    let (client, gateway) = (Client::up(&[&lan]), Gateway::new());
    client.is_granted(&lan, &gateway, HOUR);
    let slot = client.told().connected()[0].slot;

    let moved = vec![candidate("198.51.100.2:6000")];
    client.hear(ToNode::Candidates { of: Peer::Gateway(gateway.id), candidates: moved.clone() });
    client.tell(GrantsCommand::Peers(PeersFact::Candidates(moved.clone())));

    let told = client.told();
    assert!(
        matches!(&told.0[..], [PeersCommand::Candidates { slot: s, candidates }] if *s == slot && *candidates == moved)
    );
    assert_eq!(client.said(), [FromNode::Candidates(moved.clone())]);
    assert_eq!(client.asks(&lan_of(&client)).offer.candidates, moved, "the next offer carries them");
}

/// Another resource that the client comes to know.
fn lan_of(client: &Client) -> ResourceView {
    let other = net("10.0.9.0/24");
    client.hear(ToNode::ResourceChanged(other.clone()));
    other
}

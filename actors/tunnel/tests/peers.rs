//! The peers of a process, with an inbox for the lane's table.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_runtime::{Address, Answer, Full, Inbox, Intensity, LaneKind, Reply, Restart, Row, Universe};
use actors_tunnel::{
    GatewayApply, LinkChange, LinkConfig, LinkFact, PeerChange, PeerConfig, PeerFact, PeerName, PeerTable,
    Peers, PeersCommand, PeersFact, PeersView, RouterChange, TableCommand, TableFact, Transport, Udp,
    host_addresses,
};
use protocol_control::{
    Candidate, CandidateKind, GrantVersion, InnerAddresses, RelayCredential, RelayOffer, RelayTls, Secret,
};
use protocol_filter::{GatewayRules, PeerGrants};
use protocol_identity::{CertificatePin, DeviceId, RelayId, ResourceId, Secret32, WireguardKey};
use protocol_traversal::{Hygiene, RelaySlot};

const TUN: &str = "postern-gw0";

fn row(kind: &'static str, mailbox: usize) -> Row<()> {
    Row {
        kind,
        parent: "-",
        each: "test",
        lane: LaneKind::Control,
        mailbox,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start: None,
    }
}

struct World {
    universe: Universe,
    peers: Address<Peers>,
    table: Inbox<PeerTable>,
    facts: Arc<Mutex<Vec<PeersFact>>>,
}

impl World {
    /// Just started; nothing has happened.
    fn with_table_mailbox(mailbox: usize) -> Self {
        Self::begin(mailbox, |peers| peers)
    }

    fn begin(mailbox: usize, made: fn(Peers) -> Peers) -> Self {
        let universe = Universe::new::<()>(&[row("Peers", 1024), row("PeerTable", mailbox)]);
        let table = universe.inbox("0");
        let facts = Arc::<Mutex<Vec<PeersFact>>>::default();
        let heard = facts.clone();
        let outlet = actors_runtime::Outlet::to(move |fact| {
            heard.lock().unwrap().push(fact);
            Ok(())
        });
        let address = table.address();
        let factory = move || made(Peers::new(vec![address.clone()], outlet.clone(), TUN.into()));
        let peers = universe.start("", factory).unwrap().address;
        universe.settle();
        Self { universe, peers, table, facts }
    }

    /// One whose table has said that it is empty.
    fn new() -> Self {
        let world = Self::with_table_mailbox(1024);
        world.tell(PeersCommand::Table(empty()));
        world.table();
        world.facts();
        world
    }

    fn tell(&self, command: PeersCommand) {
        assert!(self.peers.tell(command).is_ok());
        self.universe.settle();
    }

    fn link(&self, config: &LinkConfig, what: LinkChange) {
        let fact = LinkFact { relay: config.relay, slot: config.slot, what };
        self.tell(PeersCommand::Table(TableFact::Link(fact)));
    }

    fn allocated(&self, config: &LinkConfig, relayed: &str) {
        self.link(config, LinkChange::Allocated { relayed: vec![address(relayed)] });
    }

    /// What the table was told since the last look.
    fn table(&self) -> Vec<TableCommand> {
        self.universe.settle();
        self.table.take_all()
    }

    fn facts(&self) -> Vec<PeersFact> {
        self.facts.lock().unwrap().drain(..).collect()
    }

    /// The candidates that were said last.
    fn candidates(&self) -> Option<Vec<Candidate>> {
        let candidates = |fact| match fact {
            PeersFact::Candidates(candidates) => Some(candidates),
            _ => None,
        };
        self.facts().into_iter().rev().find_map(candidates)
    }

    fn permit(&self, addresses: &[&str]) -> Answer<()> {
        let (done, answer) = Reply::channel();
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        self.tell(PeersCommand::Permit { addresses, done });
        answer
    }

    fn offer(&self, offers: &[RelayOffer]) -> Vec<LinkConfig> {
        self.tell(PeersCommand::Relays(offers.to_vec()));
        links(&self.table()).unwrap()
    }

    fn view(&self) -> PeersView {
        let (reply, mut answer) = Reply::channel();
        self.tell(PeersCommand::Inspect(reply));
        answer.try_take().unwrap()
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.universe.registry().drops().get(reason).copied().unwrap_or(0)
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn empty() -> TableFact {
    TableFact::Empty { lane: 0, ports: vec![address("0.0.0.0:5000")] }
}

fn names(commands: &[TableCommand]) -> Vec<&'static str> {
    let name = |command: &TableCommand| match command {
        TableCommand::Install(_) => "install",
        TableCommand::Neighbour { .. } => "neighbour",
        TableCommand::Remove { .. } => "remove",
        TableCommand::Retain(_) => "retain",
        TableCommand::Apply { .. } => "apply",
        TableCommand::Revoke { .. } => "revoke",
        TableCommand::Candidates { .. } => "candidates",
        TableCommand::Hygiene { .. } => "hygiene",
        TableCommand::Links(_) => "links",
        TableCommand::Permit(_) => "permit",
        TableCommand::Away(_) => "away",
        TableCommand::Keep(_) => "keep",
        TableCommand::Route(_) => "route",
        TableCommand::NetworkChanged => "network changed",
        TableCommand::Announce => "announce",
    };
    commands.iter().map(name).collect()
}

/// The links that the table was told last.
fn links(commands: &[TableCommand]) -> Option<Vec<LinkConfig>> {
    let links = |command: &TableCommand| match command {
        TableCommand::Links(links) => Some(links.clone()),
        _ => None,
    };
    commands.iter().rev().find_map(links)
}

fn relay(region: &str, address: &str) -> RelayOffer {
    let credential = RelayCredential {
        username: "1:gateway".into(),
        password: Secret::new("hush".into()),
        remaining: Duration::from_secs(3600),
    };
    RelayOffer {
        relay: RelayId::fresh(),
        region: region.into(),
        addresses: vec![address.parse().unwrap()],
        tls: None,
        draining: false,
        credential: Some(credential),
    }
}

fn config(slot: u16) -> PeerConfig {
    PeerConfig {
        slot,
        name: PeerName::Device(DeviceId::fresh()),
        private: WireguardKey::generate().unwrap(),
        public: WireguardKey::generate().unwrap().public(),
        secret: Secret32::new([7; 32]),
        remote_index: 1 << 8,
        inner: InnerAddresses { v4: Ipv4Addr::new(100, 64, 0, 9), v6: "fd70:6f73:7401::9".parse().unwrap() },
        candidates: Vec::new(),
        hygiene: Hygiene::default(),
        rules: None,
    }
}

fn apply(slot: u16, version: u64) -> PeersCommand {
    let apply = GatewayApply {
        grants: PeerGrants::none(GrantVersion(version)),
        rules: Arc::new(GatewayRules::default()),
    };
    PeersCommand::Apply { slot, apply: Box::new(apply) }
}

fn connect(config: &PeerConfig) -> PeersCommand {
    PeersCommand::Connect(Box::new(config.clone()))
}

#[test]
fn at_the_start_the_table_is_asked_to_announce_itself_and_the_process_hears_of_it() {
    let world = World::with_table_mailbox(16);

    assert_eq!(names(&world.table()), ["announce"]);
    assert_eq!(world.facts(), [PeersFact::Began]);
}

#[test]
fn relays_let_only_those_through_who_are_still_there() {
    let world = World::new();
    let device: IpAddr = "192.0.2.9".parse().unwrap();
    let candidate = Candidate { kind: CandidateKind::Reflexive, address: SocketAddr::new(device, 4000) };
    let relay = &world.offer(&[relay("berlin", "198.51.100.1:3478")])[0];
    world.allocated(relay, "198.51.100.1:50000");
    world.tell(connect(&PeerConfig { candidates: vec![candidate], ..config(1) }));
    world.link(relay, LinkChange::Permitted(device));
    let kept = || {
        world.universe.advance(Duration::from_secs(60));
        let kept = world.table().into_iter().rev().find_map(|command| match command {
            TableCommand::Keep(kept) => Some(kept.iter().copied().collect::<Vec<_>>()),
            _ => None,
        });
        kept.unwrap()
    };
    assert_eq!(kept(), [device]);

    world.tell(PeersCommand::Disconnect { slot: 1 });
    let without = kept();
    world.link(relay, LinkChange::Released(device));
    let mut again = world.permit(&["192.0.2.9"]);

    assert!(without.is_empty(), "{without:?}");
    assert!(again.try_take().is_none(), "the relay has to confirm it anew");
    world.link(relay, LinkChange::Permitted(device));
    assert!(again.try_take().is_some());
}

#[test]
fn a_table_that_began_anew_is_filled_again() {
    let world = World::new();
    world.offer(&[relay("lab", "203.0.113.20:3478")]);
    let config = config(3);
    world.tell(connect(&config));
    world.tell(apply(3, 5));
    let moved = vec![Candidate { kind: CandidateKind::Host, address: address("192.0.2.9:5000") }];
    world.tell(PeersCommand::Candidates { slot: 3, candidates: moved.clone() });
    world.table();

    world.tell(PeersCommand::Table(empty()));

    let told = world.table();
    assert_eq!(names(&told), ["links", "install", "apply"]);
    let [
        TableCommand::Links(links),
        TableCommand::Install(installed),
        TableCommand::Apply { slot: 3, apply },
    ] = &told[..]
    else {
        panic!("{:?}", names(&told))
    };
    assert_eq!(links.len(), 1);
    assert_eq!((installed.public, &installed.candidates), (config.public, &moved));
    assert_eq!(apply.grants.version(), GrantVersion(5));
}

#[test]
fn peers_that_began_anew_leave_the_lanes_relays_alone_until_they_know_them() {
    let world = World::with_table_mailbox(16);
    world.table();

    world.tell(PeersCommand::Table(empty()));
    assert!(links(&world.table()).is_none(), "an empty list would end every allocation");

    world.tell(PeersCommand::Relays(Vec::new()));
    assert_eq!(links(&world.table()).map(|links| links.len()), Some(0));
}

#[test]
fn two_relays_are_held_and_stay_as_long_as_they_are_offered() {
    let world = World::new();
    let offers = [
        relay("berlin", "203.0.113.1:3478"),
        relay("berlin", "203.0.113.2:3478"),
        relay("paris", "203.0.113.3:3478"),
    ];

    let first = world.offer(&offers);
    assert_eq!(first.iter().map(|link| link.relay).collect::<Vec<_>>(), [offers[0].relay, offers[2].relay]);
    assert!(first.iter().all(|link| link.credentials.is_some()));
    let again = world.offer(&[offers[2].clone(), offers[1].clone(), offers[0].clone()]);
    let places =
        |links: &[LinkConfig]| links.iter().map(|link| (link.relay, link.slot)).collect::<BTreeSet<_>>();
    assert_eq!(places(&again), places(&first));

    // One goes: the other keeps its place, and the new one takes a place that its predecessor did not have a moment ago.
    let after = world.offer(&offers[1..]);

    let kept = first.iter().find(|link| link.relay == offers[2].relay).unwrap();
    assert!(places(&after).contains(&(offers[2].relay, kept.slot)));
    assert!(!after.iter().any(|link| link.slot == first[0].slot && link.relay != first[0].relay));
}

#[test]
fn a_relay_is_chosen_anew_when_the_sockets_are_known() {
    let world = World::with_table_mailbox(64);
    world.tell(PeersCommand::Relays(vec![relay("lab", "[2001:db8::1]:3478")]));
    assert_eq!(links(&world.table()).unwrap().len(), 1);

    world.tell(PeersCommand::Table(empty()));

    assert_eq!(links(&world.table()).unwrap().len(), 0, "there is no IPv6 socket");
}

#[test]
fn a_permission_waits_for_every_relay_that_has_an_allocation() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478"), relay("paris", "203.0.113.2:3478")]);
    world.allocated(&links[0], "203.0.113.1:50000");
    world.allocated(&links[1], "203.0.113.2:50000");

    let mut answer = world.permit(&["192.0.2.9", "192.0.2.10"]);
    let (one, other): (IpAddr, IpAddr) = ("192.0.2.9".parse().unwrap(), "192.0.2.10".parse().unwrap());
    assert_eq!(names(&world.table()), ["permit"]);
    world.link(&links[0], LinkChange::Permitted(one));
    world.link(&links[0], LinkChange::Permitted(other));
    world.link(&links[1], LinkChange::Permitted(one));
    assert_eq!(answer.try_take(), None);
    world.link(&links[1], LinkChange::Refused(other));

    assert_eq!(answer.try_take(), Some(()), "a refusal is an answer, too");
    assert_eq!(world.permit(&["192.0.2.9"]).try_take(), Some(()), "what is permitted already needs no time");
    assert_eq!(world.dropped("relay_permission_late"), 0);
}

#[test]
fn a_permission_does_not_wait_for_ever() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478")]);
    world.allocated(&links[0], "203.0.113.1:50000");

    let mut answer = world.permit(&["192.0.2.9"]);
    world.universe.advance(Duration::from_millis(700));
    assert_eq!(answer.try_take(), None);
    world.universe.advance(Duration::from_millis(200));

    assert_eq!(answer.try_take(), Some(()));
    assert_eq!(world.dropped("relay_permission_late"), 1);
}

#[test]
fn a_permission_waits_for_an_allocation_that_is_being_made_but_not_without_relays() {
    let world = World::new();
    assert_eq!(world.permit(&["192.0.2.9"]).try_take(), Some(()), "there is no relay to wait for");

    let links = world.offer(&[relay("berlin", "203.0.113.1:3478"), relay("paris", "203.0.113.2:3478")]);
    let mut answer = world.permit(&["192.0.2.9"]);
    assert_eq!(answer.try_take(), None);
    // One of the two is enough: the other may be down.
    world.allocated(&links[1], "203.0.113.2:50000");
    world.link(&links[1], LinkChange::Permitted("192.0.2.9".parse().unwrap()));

    assert_eq!(answer.try_take(), Some(()));
}

#[test]
fn a_lost_allocation_has_no_permissions() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478")]);
    world.allocated(&links[0], "203.0.113.1:50000");
    world.link(&links[0], LinkChange::Permitted("192.0.2.9".parse().unwrap()));

    world.link(&links[0], LinkChange::Lost("the relay does not answer".into()));
    world.allocated(&links[0], "203.0.113.1:50001");

    assert_eq!(world.permit(&["192.0.2.9"]).try_take(), None);
}

#[test]
fn candidates_are_relayed_then_host_then_reflexive_addresses_each_once() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478"), relay("paris", "203.0.113.2:3478")]);

    world.link(
        &links[0],
        LinkChange::Mapped { address: address("198.51.100.1:6000"), round_trip: Duration::ZERO },
    );
    world.link(
        &links[1],
        LinkChange::Mapped { address: address("198.51.100.1:6000"), round_trip: Duration::ZERO },
    );
    world.allocated(&links[1], "203.0.113.2:50000");
    world.allocated(&links[0], "203.0.113.1:50000");

    let hosts = host_addresses(TUN).into_iter().filter(IpAddr::is_ipv4).map(|ip| SocketAddr::new(ip, 5000));
    let mut expected = vec![
        (CandidateKind::Relayed, address("203.0.113.1:50000")),
        (CandidateKind::Relayed, address("203.0.113.2:50000")),
    ];
    expected.extend(hosts.map(|host| (CandidateKind::Host, host)));
    expected.push((CandidateKind::Reflexive, address("198.51.100.1:6000")));
    let candidates = world.candidates().unwrap();
    assert_eq!(candidates.iter().map(|c| (c.kind, c.address)).collect::<Vec<_>>(), expected);

    world.allocated(&links[0], "203.0.113.1:50000");
    assert_eq!(world.candidates(), None, "no news");
    world.link(&links[0], LinkChange::Lost("gone".into()));
    assert!(!world.candidates().unwrap().iter().any(|c| c.address == address("203.0.113.1:50000")));
}

#[test]
fn there_are_never_more_candidates_than_an_offer_holds() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478")]);

    let relayed = (0..40).map(|port| SocketAddr::new("203.0.113.1".parse().unwrap(), 50000 + port)).collect();
    world.link(&links[0], LinkChange::Allocated { relayed });

    assert_eq!(world.candidates().unwrap().len(), protocol_control::MAX_CANDIDATES);
}

#[test]
fn a_round_trip_to_a_relay_is_reported_and_a_report_of_another_relay_is_not_taken_for_it() {
    let world = World::new();
    let links = world.offer(&[relay("berlin", "203.0.113.1:3478")]);
    world.facts();
    let mapped = || LinkChange::Mapped {
        address: address("198.51.100.1:6000"),
        round_trip: Duration::from_millis(12),
    };

    world.link(&LinkConfig { relay: RelayId::fresh(), ..links[0].clone() }, mapped());
    assert_eq!(world.facts(), []);
    world.link(&links[0], mapped());

    let trips = PeersFact::RoundTrips(vec![(links[0].relay, Duration::from_millis(12))]);
    assert!(world.facts().contains(&trips));
    assert_eq!(world.view().links[0].round_trip, Some(Duration::from_millis(12)));
}

#[test]
fn what_a_peer_reports_is_passed_on_and_shown() {
    let world = World::new();
    world.tell(connect(&config(3)));
    let fact = |what| TableFact::Peer(PeerFact { slot: 3, what });

    world.tell(PeersCommand::Table(fact(PeerChange::Established)));
    assert_eq!(world.facts(), [PeersFact::Peer(PeerFact { slot: 3, what: PeerChange::Established })]);
    assert!(world.view().peers[&3].0);
    world.tell(PeersCommand::Table(fact(PeerChange::Expired)));
    assert!(!world.view().peers[&3].0);
    world.tell(PeersCommand::Disconnect { slot: 3 });

    assert!(world.view().peers.is_empty());
}

#[test]
fn another_session_in_a_place_begins_without_grants() {
    let world = World::new();
    world.tell(connect(&config(3)));
    world.tell(apply(3, 5));
    world.tell(connect(&config(3)));
    world.table();

    world.tell(PeersCommand::Table(empty()));

    assert_eq!(names(&world.table()), ["install"], "the grants were another device's");
}

#[test]
fn only_retained_sessions_are_left() {
    let world = World::new();
    for slot in [1, 2, 3] {
        world.tell(connect(&config(slot)));
    }
    world.table();

    world.tell(PeersCommand::Retain([2].into()));

    assert!(matches!(&world.table()[..], [TableCommand::Retain(slots)] if *slots == [2].into()));
    assert_eq!(world.view().peers.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn what_does_not_fit_into_the_tables_mailbox_follows_as_it_is_then() {
    let world = World::with_table_mailbox(4);
    world.table();
    let configs: Vec<PeerConfig> = (1..=20).map(config).collect();

    for config in &configs {
        assert!(world.peers.tell(connect(config)).is_ok());
        assert!(world.peers.tell(apply(config.slot, 1)).is_ok());
    }
    assert!(world.peers.tell(PeersCommand::Revoke { slot: 7, version: GrantVersion(2) }).is_ok());
    assert!(world.peers.tell(apply(7, 2)).is_ok());
    assert!(world.peers.tell(PeersCommand::Revoke { slot: 8, version: GrantVersion(2) }).is_ok());
    assert!(world.peers.tell(PeersCommand::Disconnect { slot: 9 }).is_ok());
    let mut told = Vec::new();
    for _ in 0..100 {
        world.universe.settle();
        told.extend(world.table.take_all());
        world.universe.advance(Duration::from_millis(10));
    }

    let installed: BTreeSet<u16> = told
        .iter()
        .filter_map(|command| match command {
            TableCommand::Install(config) => Some(config.slot),
            _ => None,
        })
        .collect();
    assert!((1..=20).filter(|slot| *slot != 9).all(|slot| installed.contains(&slot)), "{installed:?}");
    let last_of = |wanted: u16| {
        told.iter().rev().find_map(|command| match command {
            TableCommand::Apply { slot, apply } if *slot == wanted => Some(apply.grants.version().0),
            _ => None,
        })
    };
    assert_eq!((last_of(7), last_of(10)), (Some(2), Some(1)));
    let is_blocked = |command: &TableCommand| matches!(command, TableCommand::Revoke { slot: 8, version } if *version == GrantVersion(2));
    assert!(told.iter().any(is_blocked), "a revocation is never lost");
    assert!(told.iter().any(|command| matches!(command, TableCommand::Remove { slot: 9 })));
    assert!(world.dropped("table_command_late") > 0);
    let idle = world.universe.next_deadline().unwrap();
    assert!(idle > Duration::from_secs(10), "nothing is tried for ever: {idle:?}");
}

#[test]
fn changes_of_a_clients_table_keep_their_order_when_they_are_late() {
    let world = World::with_table_mailbox(3);
    world.table();
    let resources: Vec<ResourceId> = (0..10).map(|_| ResourceId::fresh()).collect();
    let change = |resource| {
        PeersCommand::Route(vec![RouterChange::Put { resource, prefixes: Vec::new(), filters: Vec::new() }])
    };

    for resource in &resources[..8] {
        assert!(world.peers.tell(change(*resource)).is_ok());
    }
    world.universe.settle();
    let mut told = world.table.take_all();
    // There is room now, but what is late goes first.
    for resource in &resources[8..] {
        world.tell(change(*resource));
    }
    for _ in 0..20 {
        told.extend(world.table.take_all());
        world.universe.advance(Duration::from_millis(10));
    }

    let order: Vec<ResourceId> = told
        .iter()
        .filter_map(|command| match command {
            TableCommand::Route(changes) => Some(changes),
            _ => None,
        })
        .flatten()
        .filter_map(|change| match change {
            RouterChange::Put { resource, .. } => Some(*resource),
            _ => None,
        })
        .collect();
    assert_eq!(order, resources);
}

#[test]
fn a_change_of_the_network_reaches_the_lanes() {
    let world = World::new();

    world.tell(PeersCommand::NetworkChanged);

    assert_eq!(names(&world.table()), ["network changed"]);
}

#[test]
fn links_have_places_of_their_own() {
    let world = World::new();

    let links = world.offer(&[relay("berlin", "203.0.113.1:3478"), relay("paris", "203.0.113.2:3478")]);

    assert_eq!(links.iter().map(|link| link.slot).collect::<Vec<_>>(), [RelaySlot(0), RelaySlot(1)]);
}

fn with_tls(offer: RelayOffer) -> RelayOffer {
    let addresses = vec![address("203.0.113.1:5349"), address("203.0.113.1:443")];
    RelayOffer { tls: Some(RelayTls { addresses, pin: CertificatePin::of(b"certificate") }), ..offer }
}

fn transports(links: &[LinkConfig]) -> Vec<(Transport, SocketAddr, bool)> {
    links.iter().map(|link| (link.transport(), link.address, link.credentials.is_some())).collect()
}

#[test]
fn a_relay_that_falls_silent_gets_a_connection_until_udp_has_worked_for_a_while() {
    let world = World::new();
    let udp = world.offer(&[with_tls(relay("berlin", "203.0.113.1:3478"))]).remove(0);
    world.allocated(&udp, "203.0.113.1:50000");
    assert_eq!(world.view().udp, Udp::Open);

    world.link(&udp, LinkChange::Silent);
    let both = links(&world.table()).unwrap();
    world.allocated(&both[1], "203.0.113.1:50001");

    let (first, second) = ((Transport::Udp, udp.address, true), address("203.0.113.1:443"));
    assert_eq!(transports(&both), [first, (Transport::Tls, second, true)]);
    assert_eq!(world.view().udp, Udp::Blocked);
    world.link(&udp, LinkChange::Answers);
    assert!(names(&world.table()).contains(&"network changed"), "paths are tried anew");
    world.universe.advance(Duration::from_millis(4_900));
    assert!(links(&world.table()).is_none());
    world.universe.advance(Duration::from_millis(200));
    assert_eq!(transports(&links(&world.table()).unwrap()), [first]);
    assert_eq!(world.view().udp, Udp::Open);
}

#[test]
fn a_relay_that_falls_silent_again_keeps_its_connection() {
    let world = World::new();
    let udp = world.offer(&[with_tls(relay("berlin", "203.0.113.1:3478"))]).remove(0);
    world.link(&udp, LinkChange::Silent);
    world.link(&udp, LinkChange::Answers);
    world.universe.advance(Duration::from_secs(3));
    world.link(&udp, LinkChange::Silent);
    world.table();

    world.universe.advance(Duration::from_secs(10));

    assert!(links(&world.table()).is_none());
    assert_eq!(world.view().links.len(), 2);
}

#[test]
fn a_device_allocates_over_tls_alone_and_its_connection_is_no_address() {
    let world = World::begin(1024, Peers::of_a_device);
    world.tell(PeersCommand::Table(empty()));
    world.table();
    let udp = world.offer(&[with_tls(relay("berlin", "203.0.113.1:3478"))]).remove(0);
    assert!(udp.credentials.is_none());

    world.link(&udp, LinkChange::Silent);
    let both = links(&world.table()).unwrap();
    let mapped = address("198.51.100.1:40000");
    world.link(&both[1], LinkChange::Mapped { address: mapped, round_trip: Duration::from_millis(9) });
    world.allocated(&both[1], "203.0.113.1:50001");

    assert!(both[1].credentials.is_some());
    let candidates = world.candidates().unwrap();
    assert!(candidates.iter().any(|c| c.address == address("203.0.113.1:50001")));
    assert!(!candidates.iter().any(|c| c.address == mapped), "{candidates:?}");
}

#[test]
fn without_tls_at_the_relay_a_silent_one_stays_alone() {
    let world = World::new();
    let udp = world.offer(&[relay("berlin", "203.0.113.1:3478")]).remove(0);

    world.link(&udp, LinkChange::Silent);

    assert_eq!(links(&world.table()).unwrap().len(), 1);
    assert_eq!(world.view().udp, Udp::Unknown);
}

#[test]
fn a_relay_that_is_about_to_end_is_left_before_it_does() {
    let world = World::new();
    let (mut ending, staying) = (relay("berlin", "203.0.113.1:3478"), relay("paris", "203.0.113.2:3478"));
    let both = world.offer(&[ending.clone(), staying.clone()]);
    world.allocated(&both[0], "203.0.113.1:50000");
    world.allocated(&both[1], "203.0.113.2:50000");
    world.facts();

    ending.draining = true;
    let kept = world.offer(&[ending.clone(), staying.clone()]);

    assert_eq!(kept.len(), 2, "it goes on until everybody has left");
    let told = world.candidates().unwrap();
    assert!(!told.iter().any(|candidate| candidate.address == address("203.0.113.1:50000")));
    world.universe.advance(Duration::from_millis(1_600));
    let left = links(&world.table()).unwrap();
    assert_eq!(left.iter().map(|link| link.relay).collect::<Vec<_>>(), [staying.relay]);
    ending.draining = false;
    let back = world.offer(&[ending.clone(), staying]);
    assert_eq!(back.len(), 2, "it is used again when it is back");
}

#[test]
fn a_relay_that_is_back_at_once_gets_a_link_of_its_own() {
    let world = World::new();
    let mut offer = relay("berlin", "203.0.113.1:3478");
    let first = world.offer(&[offer.clone()]).remove(0);
    world.allocated(&first, "203.0.113.1:50000");
    offer.draining = true;
    world.offer(&[offer.clone()]);

    offer.draining = false;
    let again = world.offer(&[offer]);

    assert_eq!(again.len(), 1);
    assert!(world.view().links.iter().all(|link| !link.allocated), "what the old one held is gone");
}

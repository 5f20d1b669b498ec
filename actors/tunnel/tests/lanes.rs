//! The peers of a process with two lanes, with an inbox for each lane's table.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Address, Full, Inbox, Intensity, LaneKind, Outlet, Restart, Row, Universe};
use actors_tunnel::{
    GatewayApply, LinkChange, LinkFact, Neighbour, PeerConfig, PeerName, PeerTable, Peers, PeersCommand,
    PeersFact, TableCommand, TableFact,
};
use protocol_control::{GrantVersion, InnerAddresses, RelayCredential, RelayOffer, Secret};
use protocol_filter::{GatewayRules, PeerGrants};
use protocol_identity::{DeviceId, RelayId, Secret32, WireguardKey};
use protocol_traversal::{Hygiene, RelaySlot};

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
    tables: [Inbox<PeerTable>; 2],
}

impl World {
    fn with_table_mailbox(mailbox: usize) -> Self {
        let universe = Universe::new::<()>(&[row("Peers", 1024), row("PeerTable", mailbox)]);
        let tables: [Inbox<PeerTable>; 2] = ["0", "1"].map(|key| universe.inbox(key));
        let addresses = tables.each_ref().map(Inbox::address).to_vec();
        let facts = Outlet::to(|_: PeersFact| Ok(()));
        let factory = move || Peers::new(addresses.clone(), facts.clone(), "postern-gw0".into());
        let peers = universe.start("", factory).unwrap().address;
        let world = Self { universe, peers, tables };
        world.told();
        world
    }

    fn new() -> Self {
        Self::with_table_mailbox(1024)
    }

    fn tell(&self, command: PeersCommand) {
        assert!(self.peers.tell(command).is_ok());
        self.universe.settle();
    }

    /// What both tables were told since the last look, in words.
    fn told(&self) -> [Vec<String>; 2] {
        self.universe.settle();
        self.tables.each_ref().map(|table| table.take_all().iter().map(word).collect())
    }
}

fn word(command: &TableCommand) -> String {
    match command {
        TableCommand::Install(config) => format!("install {}", config.slot),
        TableCommand::Neighbour { slot, neighbour } => format!("neighbour {slot} on {}", neighbour.lane),
        TableCommand::Remove { slot } => format!("remove {slot}"),
        TableCommand::Retain(slots) => format!("retain {slots:?}"),
        TableCommand::Apply { slot, .. } => format!("apply {slot}"),
        TableCommand::Revoke { slot, .. } => format!("revoke {slot}"),
        TableCommand::Candidates { slot, .. } => format!("candidates {slot}"),
        TableCommand::Hygiene { slot, .. } => format!("hygiene {slot}"),
        TableCommand::Links(links) => format!("{} links", links.len()),
        TableCommand::Away(relays) => format!("{} away", relays.len()),
        TableCommand::Keep(_) => "keep".into(),
        TableCommand::Permit(_) => "permit".into(),
        TableCommand::Route(_) => "route".into(),
        TableCommand::NetworkChanged => "network changed".into(),
        TableCommand::Announce => "announce".into(),
    }
}

/// A device whose number decides its lane.
fn device(slot: u16, number: u8) -> PeerConfig {
    PeerConfig {
        slot,
        name: PeerName::Device(DeviceId::fresh()),
        private: WireguardKey::generate().unwrap(),
        public: WireguardKey::generate().unwrap().public(),
        secret: Secret32::new([7; 32]),
        remote_index: 1 << 8,
        inner: InnerAddresses {
            v4: Ipv4Addr::new(100, 64, 0, number),
            v6: format!("fd70:6f73:7401::{number:x}").parse().unwrap(),
        },
        candidates: Vec::new(),
        hygiene: Hygiene::default(),
        rules: None,
    }
}

fn connect(config: &PeerConfig) -> PeersCommand {
    PeersCommand::Connect(Box::new(config.clone()))
}

fn apply(slot: u16) -> PeersCommand {
    let (grants, rules) = (PeerGrants::none(GrantVersion(1)), Arc::new(GatewayRules::default()));
    PeersCommand::Apply { slot, apply: Box::new(GatewayApply { grants, rules }) }
}

#[test]
fn a_device_is_installed_on_its_lane_and_known_to_the_other() {
    let world = World::new();

    world.tell(connect(&device(1, 4)));
    world.tell(connect(&device(2, 5)));
    world.tell(apply(1));
    world.tell(apply(2));

    let [even, odd] = world.told();
    assert_eq!(even, ["install 1", "neighbour 2 on 1", "apply 1"]);
    assert_eq!(odd, ["neighbour 1 on 0", "install 2", "apply 2"]);
}

#[test]
fn a_device_that_goes_leaves_every_lane() {
    let world = World::new();
    world.tell(connect(&device(1, 5)));
    world.told();

    world.tell(PeersCommand::Disconnect { slot: 1 });
    world.tell(PeersCommand::Retain(BTreeSet::from([9])));

    let [even, odd] = world.told();
    assert_eq!(even, ["remove 1", "retain {9}"]);
    assert_eq!(even, odd);
}

#[test]
fn a_lane_whose_table_began_anew_is_filled_without_the_others_noticing() {
    let world = World::new();
    world.tell(connect(&device(1, 4)));
    world.tell(connect(&device(2, 5)));
    world.told();

    world.tell(PeersCommand::Table(TableFact::Empty { lane: 1, ports: Vec::new() }));

    let [even, odd] = world.told();
    assert_eq!(odd, ["neighbour 1 on 0", "install 2"]);
    assert!(even.is_empty(), "{even:?}");
}

#[test]
fn a_place_that_a_device_of_the_other_lane_takes_is_left_first() {
    let world = World::new();
    world.tell(connect(&device(1, 4)));
    world.told();

    world.tell(connect(&device(1, 5)));

    let [even, odd] = world.told();
    assert_eq!((even, odd), (vec!["neighbour 1 on 1".to_owned()], vec!["install 1".to_owned()]));
}

#[test]
fn what_does_not_fit_into_one_lanes_mailbox_is_told_later_and_the_other_hears_it_at_once() {
    let world = World::with_table_mailbox(2);
    for slot in 1..=6 {
        world.tell(connect(&device(slot, 4)));
        world.tables[1].take_all();
    }

    let mut even = Vec::new();
    for _ in 0..10 {
        even.extend(world.tables[0].take_all().iter().map(word));
        world.universe.advance(Duration::from_millis(20));
    }

    let installed: BTreeSet<String> = even.into_iter().collect();
    assert_eq!(installed, (1..=6).map(|slot| format!("install {slot}")).collect());
    assert!(world.told()[1].iter().all(|told| told.starts_with("neighbour")));
}

#[test]
fn one_lane_holds_the_allocations_and_the_others_hear_which_are_held() {
    let world = World::new();
    let credential = RelayCredential {
        username: "1:gateway".into(),
        password: Secret::new("hush".into()),
        remaining: Duration::from_secs(3600),
    };
    let relay = RelayOffer {
        relay: RelayId::fresh(),
        region: "berlin".into(),
        addresses: vec!["192.0.2.1:3478".parse().unwrap()],
        tls: None,
        draining: false,
        credential: Some(credential),
    };
    let reported = |what| {
        let fact = LinkFact { relay: relay.relay, slot: RelaySlot(0), what };
        world.tell(PeersCommand::Table(TableFact::Link(fact)));
        world.told()
    };

    world.tell(PeersCommand::Relays(vec![relay.clone()]));

    assert_eq!(world.told(), [vec!["1 links".to_owned()], vec!["0 away".to_owned()]]);
    let relayed = vec!["192.0.2.1:50000".parse().unwrap()];
    assert_eq!(reported(LinkChange::Allocated { relayed }), [vec![], vec!["1 away".to_owned()]]);
    assert_eq!(reported(LinkChange::Lost("gone".into())), [vec![], vec!["0 away".to_owned()]]);
}

#[test]
fn neighbours_are_told_with_their_keys() {
    let world = World::new();
    let config = device(1, 5);

    world.tell(connect(&config));

    let told = world.tables[0].take_all();
    let Some(TableCommand::Neighbour { slot: 1, neighbour }) = told.first() else { panic!("no neighbour") };
    assert_eq!(*neighbour, Neighbour { lane: 1, public: config.public });
}

//! Real actors and real sockets on loopback; time is the universe's.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Address, Full, Intensity, LaneKind, Restart, Row, Universe};
use protocol_stun::relay::{Bounds, Limits, Payload, Rate};
use protocol_stun::{
    AllocationClient, AllocationConfig, BindingClient, Credentials, Event, Families, Lost, Output, REALM,
    Received, RelaySecret, channel_header, mint,
};

use crate::gather::Segments;
use crate::socket::{Envelope, source};
use crate::{
    Direction, Door, Listener, ListenerCommand, RelayAddress, RelayCounters, RelayLane, RelaySettings,
    RelaySocket, Request, SOCKET_BUFFER,
};

const SECOND: Duration = Duration::from_secs(1);

#[path = "stream_tests.rs"]
mod stream_tests;

fn rows() -> [Row<()>; 4] {
    let row = |kind, parent, ring, restart, lane| Row {
        kind,
        parent,
        each: "test",
        lane,
        mailbox: 16,
        full: Full::DropNewest,
        ring,
        restart,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start: None,
    };
    [
        row("Listener", "-", 0, Restart::Always, LaneKind::Packet),
        row("Allocation", "Listener", 0, Restart::Never, LaneKind::Packet),
        row("StreamListener", "-", 0, Restart::Always, LaneKind::Control),
        row("Connection", "StreamListener", 0, Restart::Never, LaneKind::Control),
    ]
}

fn settings() -> RelaySettings {
    let loopback = |ip: &str| RelayAddress { local: ip.parse().unwrap(), public: ip.parse().unwrap() };
    RelaySettings {
        realm: REALM.to_owned(),
        secret: Some(RelaySecret::from_bytes(&[7; 32]).unwrap()),
        users: vec![Credentials::new("alice", "wonder")],
        allow: vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()],
        deny: vec![],
        addresses: vec![loopback("127.0.0.1"), loopback("::1")],
        own: vec![],
        listen: vec![],
        ports: 40_000..=60_000,
        most_allocations: Bounds { all: 100, node: 2, source: 50 },
        rate_of_user: Rate::default(),
        rate_of_source: Rate::default(),
        limits: Limits::default(),
    }
}

struct World {
    universe: Universe,
    lane: Rc<RelayLane>,
    listener: Address<Listener>,
    relay: SocketAddr,
    counters: Arc<RelayCounters>,
}

impl World {
    fn new() -> Self {
        Self::with("127.0.0.1:0", settings())
    }

    fn with(listen: &str, settings: RelaySettings) -> Self {
        let universe = Universe::new(&rows());
        let counters = Arc::new(RelayCounters::default());
        let lane = RelayLane::new(&settings, Arc::clone(&counters), universe.instant());
        let socket =
            universe.block_on(async { RelaySocket::open(listen.parse().unwrap(), SOCKET_BUFFER) }).unwrap();
        let relay = socket.local();
        let shared = Rc::clone(&lane);
        let factory = move || Listener::new(Rc::clone(&shared), Door::Socket(Rc::clone(&socket)));
        let listener = universe.start::<Listener>("relay", factory).unwrap().address;
        universe.settle();
        Self { universe, lane, listener, relay, counters }
    }

    fn drops(&self, reason: &str) -> u64 {
        self.universe.registry().drops().get(reason).copied().unwrap_or(0)
    }

    /// Lets actors and sockets work until `holds`, at most 5 s of real time.
    fn until(&self, what: &str, mut holds: impl FnMut() -> bool) {
        for _ in 0..2500 {
            if holds() {
                return;
            }
            self.universe.block_on(async { tokio::time::sleep(Duration::from_millis(2)).await });
        }
        panic!("not within 5 s: {what}");
    }

    fn client(&self) -> Client {
        let mut config = AllocationConfig::new(Credentials::new("alice", "wonder"));
        config.families = Families::V4;
        self.client_with(config)
    }

    fn client_with(&self, config: AllocationConfig) -> Client {
        let bind: SocketAddr = if self.relay.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }.parse().unwrap();
        Client::new(AllocationClient::new(config, rand::random()), udp(bind), self.relay)
    }

    fn allocated(&self) -> Client {
        let client = self.client();
        client.machine.borrow_mut().start(self.universe.now());
        self.until("an allocation", || client.turn(self.universe.now()).0.iter().any(is_allocated));
        client
    }

    /// An allocation with a channel for `peer`.
    fn bound(&self, peer: SocketAddr) -> Client {
        let client = self.allocated();
        self.bind(&client, peer);
        client
    }

    fn bind(&self, client: &Client, peer: SocketAddr) {
        client.machine.borrow_mut().bind(peer, self.universe.now());
        self.until("a channel", || {
            client.turn(self.universe.now());
            client.machine.borrow().channel(peer).is_some()
        });
    }

    /// What the client receives next.
    fn received(&self, client: &Client, count: usize) -> Vec<(SocketAddr, Vec<u8>)> {
        let mut got = Vec::new();
        self.until("packets at the client", || {
            got.extend(client.turn(self.universe.now()).1);
            got.len() >= count
        });
        got
    }

    fn at_peer(&self, peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
        let got = RefCell::new(None);
        self.until("a packet at the peer", || {
            *got.borrow_mut() = take(peer);
            got.borrow().is_some()
        });
        got.into_inner().unwrap()
    }
}

struct Client {
    machine: RefCell<AllocationClient>,
    socket: UdpSocket,
    relay: SocketAddr,
}

impl Client {
    fn new(machine: AllocationClient, socket: UdpSocket, relay: SocketAddr) -> Self {
        Self { machine: RefCell::new(machine), socket, relay }
    }

    /// Sends and receives what there is; gives events and packets.
    fn turn(&self, now: Duration) -> (Vec<Event>, Vec<(SocketAddr, Vec<u8>)>) {
        let mut machine = self.machine.borrow_mut();
        let (mut events, mut packets) = (Vec::new(), Vec::new());
        machine.handle_timeout(now);
        while let Some((datagram, from)) = take(&self.socket) {
            assert_eq!(from, self.relay, "an answer from somewhere else");
            match machine.handle_datagram(&datagram, now) {
                Received::Data { peer, payload } => packets.push((peer, datagram[payload].to_vec())),
                Received::Handled => {}
                Received::Dropped(reason) => panic!("the client dropped {reason}"),
            }
        }
        while let Some(output) = machine.poll_output() {
            match output {
                Output::Send(bytes) => drop(self.socket.send_to(&bytes, self.relay).unwrap()),
                Output::Event(event) => events.push(event),
            }
        }
        (events, packets)
    }

    fn send(&self, peer: SocketAddr, payload: &[u8]) {
        let mut datagram = Vec::new();
        self.machine.borrow_mut().wrap(peer, payload, &mut datagram).unwrap();
        self.socket.send_to(&datagram, self.relay).unwrap();
    }

    fn relayed(&self) -> SocketAddr {
        self.machine.borrow().relayed()[0]
    }
}

fn is_allocated(event: &Event) -> bool {
    matches!(event, Event::Allocated { .. })
}

fn udp(bind: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

fn peer() -> (UdpSocket, SocketAddr) {
    let socket = udp("127.0.0.1:0".parse().unwrap());
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn take(socket: &UdpSocket) -> Option<(Vec<u8>, SocketAddr)> {
    let mut bytes = [0; 4096];
    let (length, from) = socket.recv_from(&mut bytes).ok()?;
    Some((bytes[..length].to_vec(), from))
}

#[test]
fn packets_pass_both_ways_by_indication_and_by_channel() {
    let world = World::new();
    let (socket, peer) = peer();
    let client = world.allocated();
    client.machine.borrow_mut().permit(peer.ip(), world.universe.now());
    world.until("a permission", || {
        client.turn(world.universe.now());
        client.machine.borrow().is_permitted(peer.ip())
    });

    client.send(peer, b"by indication");
    assert_eq!(world.at_peer(&socket), (b"by indication".to_vec(), client.relayed()));
    socket.send_to(b"and back", client.relayed()).unwrap();
    assert_eq!(world.received(&client, 1), [(peer, b"and back".to_vec())]);

    world.bind(&client, peer);
    client.send(peer, b"by channel");
    assert_eq!(world.at_peer(&socket), (b"by channel".to_vec(), client.relayed()));
    socket.send_to(b"and back again", client.relayed()).unwrap();
    assert_eq!(world.received(&client, 1), [(peer, b"and back again".to_vec())]);

    assert_eq!(world.counters.packets(Direction::ToPeer), 2);
    assert_eq!(world.counters.packets(Direction::ToClient), 2);
}

#[test]
fn keepalives_are_not_counted_as_relayed_packets() {
    let world = World::new();
    let client = world.bound(peer().1);
    let before = world.counters.totals();

    client.machine.borrow_mut().check(world.universe.now());
    client.turn(world.universe.now());
    world.until("a Refresh", || world.counters.requests(Request::Refresh) > 0);

    assert_eq!(world.counters.totals().packets, before.packets);
}

#[test]
fn what_is_sent_in_one_call_arrives_as_many_datagrams_in_both_directions() {
    let world = World::new();
    let (socket, peer) = peer();
    let client = world.bound(peer);
    let channel = client.machine.borrow().channel(peer).unwrap();
    let sender = world
        .universe
        .block_on(async { RelaySocket::open("127.0.0.1:0".parse().unwrap(), SOCKET_BUFFER) })
        .unwrap();
    // The client's own socket, so that the five-tuple is the same.
    let mut burst = Vec::new();
    for n in 0..20u8 {
        let length = if n == 19 { 300 } else { 1000 };
        burst.push([channel_header(channel, length).as_slice(), &vec![n; usize::from(length)]].concat());
    }
    for datagram in &burst {
        client.socket.send_to(datagram, world.relay).unwrap();
    }

    let mut got = Vec::new();
    world.until("20 datagrams", || {
        got.extend(std::iter::from_fn(|| take(&socket)).map(|(bytes, _)| bytes));
        got.len() == 20
    });
    for (n, bytes) in got.iter().enumerate() {
        assert_eq!(bytes, &vec![n as u8; if n == 19 { 300 } else { 1000 }]);
    }

    // Back with GSO, from a peer on another port, which the permission covers: indications for each segment.
    let bytes: Vec<u8> = (0..10u8).flat_map(|n| vec![n; 500]).collect();
    let parts: Vec<_> = bytes.chunks(500).map(std::io::IoSlice::new).collect();
    let envelope = Envelope { to: client.relayed(), from: None, ecn: 0 };
    let all = Segments { parts: &parts, each: 1, segment: 500, bytes: 5_000 };
    assert_eq!(sender.send_segments(envelope, all), Ok(()));
    let got = world.received(&client, 10);
    assert_eq!(got.len(), 10);
    for (n, (from, bytes)) in got.iter().enumerate() {
        assert_eq!((from, bytes), (&sender.local(), &vec![n as u8; 500]));
    }

    // And behind the channel's header.
    world.bind(&client, sender.local());
    assert_eq!(sender.send_segments(envelope, all), Ok(()));
    let got = world.received(&client, 10);
    assert_eq!(got.iter().map(|(_, bytes)| bytes[0]).collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
}

#[test]
fn two_allocations_reach_each_other_inside_the_process() {
    let mut settings = settings();
    settings.allow.clear();
    let world = World::with("127.0.0.1:0", settings);
    let (one, other) = (world.allocated(), world.allocated());
    world.bind(&one, other.relayed());
    world.bind(&other, one.relayed());

    one.send(other.relayed(), b"hello");

    assert_eq!(world.received(&other, 1), [(one.relayed(), b"hello".to_vec())]);
    assert_eq!(world.counters.packets(Direction::InProcess), 1);
}

#[test]
fn nothing_passes_without_a_permission_and_every_drop_has_its_reason() {
    let world = World::new();
    let (socket, _) = peer();
    let client = world.allocated();

    socket.send_to(b"unasked", client.relayed()).unwrap();
    world.until("a drop", || world.drops("no_permission") == 1);
    client.socket.send_to(&[&channel_header(0x4000, 1)[..], b"x"].concat(), world.relay).unwrap();
    world.until("a drop", || world.drops("no_channel") == 1);
    socket.send_to(&[&channel_header(0x4000, 1)[..], b"x"].concat(), world.relay).unwrap();
    world.until("a drop", || world.drops("no_allocation") == 1);
    socket.send_to(b"\x01\0\0\0 no STUN", world.relay).unwrap();
    world.until("a drop", || world.drops("not_for_relay") == 1);

    assert!(take(&socket).is_none());
    assert_eq!(client.turn(world.universe.now()).1, []);
}

#[test]
fn a_forbidden_peer_is_refused_by_default() {
    let mut settings = settings();
    settings.allow.clear();
    let world = World::with("127.0.0.1:0", settings);
    let client = world.allocated();
    let mut events = Vec::new();

    client.machine.borrow_mut().permit([127, 0, 0, 1].into(), world.universe.now());
    world.until("a refusal", || {
        events.extend(client.turn(world.universe.now()).0);
        !events.is_empty()
    });

    assert_eq!(events, [Event::Refused { peer: [127, 0, 0, 1].into(), code: 403 }]);
}

#[test]
fn an_ipv6_client_gets_an_ipv6_relayed_address() {
    let world = World::with("[::1]:0", settings());
    let mut config = AllocationConfig::new(mint(&RelaySecret::from_bytes(&[7; 32]).unwrap(), "gw", u64::MAX));
    config.families = Families::V6;
    let client = world.client_with(config);
    let socket = udp("[::1]:0".parse().unwrap());
    let peer = socket.local_addr().unwrap();
    client.machine.borrow_mut().start(world.universe.now());
    world.bind(&client, peer);

    client.send(peer, b"six");

    assert_eq!(world.at_peer(&socket), (b"six".to_vec(), client.relayed()));
    socket.send_to(b"back", client.relayed()).unwrap();
    assert_eq!(world.received(&client, 1), [(peer, b"back".to_vec())]);
}

#[test]
fn one_allocation_can_have_both_families() {
    let world = World::new();
    let client = world.client_with(AllocationConfig::new(Credentials::new("alice", "wonder")));

    client.machine.borrow_mut().start(world.universe.now());
    world.until("an allocation", || client.turn(world.universe.now()).0.iter().any(is_allocated));

    let machine = client.machine.borrow();
    let ips: Vec<IpAddr> = machine.relayed().iter().map(SocketAddr::ip).collect();
    assert_eq!(ips, ["127.0.0.1".parse::<IpAddr>().unwrap(), "::1".parse().unwrap()]);
}

#[test]
fn an_allocation_that_fails_costs_only_its_client() {
    let world = World::new();
    let ((socket, peer), (other_socket, other_peer)) = (peer(), peer());
    let (failing, other) = (world.bound(peer), world.bound(other_peer));
    assert_eq!(world.counters.allocations(), 2);

    {
        // The machine is in use elsewhere: whoever passes the next packet on panics.
        let table = world.lane.held.borrow();
        let parts = table.values().find(|parts| parts.relayed[0].public == failing.relayed()).unwrap();
        let parts = Rc::clone(parts);
        drop(table);
        let _in_use = parts.machine.borrow_mut();
        failing.send(peer, b"x");
        world.until("the end of it", || world.counters.allocations() == 1);
    }

    other.send(other_peer, b"unharmed");
    assert_eq!(world.at_peer(&other_socket).0, b"unharmed");
    assert!(take(&socket).is_none());
    failing.machine.borrow_mut().check(world.universe.now());
    let mut events = Vec::new();
    world.until("the news", || {
        events.extend(failing.turn(world.universe.now()).0);
        !events.is_empty()
    });
    assert_eq!(events, [Event::Lost(Lost::Forgotten)]);
    failing.machine.borrow_mut().start(world.universe.now());
    world.bind(&failing, peer);
    assert_eq!(world.counters.allocations(), 2);
}

#[test]
fn allocations_outlive_a_listener_that_fails() {
    let world = World::new();
    let (socket, peer) = peer();
    let client = world.bound(peer);

    {
        let _in_use = world.lane.held.borrow_mut();
        client.send(peer, b"lost to the panic");
        world.until("a restart", || {
            world.universe.registry().restarts().get("Listener") == Some(&1) || {
                world.universe.advance(Duration::from_millis(50));
                false
            }
        });
    }
    world.universe.advance(2 * SECOND);

    client.send(peer, b"still there");
    assert_eq!(world.at_peer(&socket).0, b"still there");
    socket.send_to(b"and back", client.relayed()).unwrap();
    assert_eq!(world.received(&client, 1), [(peer, b"and back".to_vec())]);
    assert_eq!(world.counters.allocations(), 1);
}

#[test]
fn an_expired_allocation_gives_everything_back() {
    let world = World::new();
    let client = world.bound(peer().1);
    let relayed = client.relayed();

    world.universe.advance(601 * SECOND);

    world.until("the end", || world.counters.allocations() == 0);
    assert!(world.lane.held.borrow().is_empty());
    assert!(world.lane.switchboard.borrow().is_empty());
    assert_eq!(world.lane.quota.borrow().count(), 0);
    world.until("the socket's end", || UdpSocket::bind(relayed).is_ok());
}

#[test]
fn a_released_allocation_gives_everything_back_and_answers_first() {
    let world = World::new();
    let client = world.bound(peer().1);

    client.machine.borrow_mut().release(world.universe.now());
    let mut events = Vec::new();
    world.until("the answer", || {
        events.extend(client.turn(world.universe.now()).0);
        !events.is_empty()
    });

    assert_eq!(events, [Event::Lost(Lost::Released)]);
    world.until("the end", || world.counters.allocations() == 0);
}

#[test]
fn a_user_gets_no_more_than_its_quota_and_a_draining_relay_grants_nothing() {
    let world = World::new();
    let refused = |client: &Client| {
        let mut events = Vec::new();
        client.machine.borrow_mut().start(world.universe.now());
        world.until("a refusal", || {
            events.extend(client.turn(world.universe.now()).0);
            !events.is_empty()
        });
        events
    };
    let (_first, _second) = (world.allocated(), world.allocated());

    assert_eq!(refused(&world.client()), [Event::Lost(Lost::Refused { code: 486 })]);

    world.listener.tell(ListenerCommand::Drain).unwrap();
    world.universe.settle();
    let config = AllocationConfig::new(mint(&RelaySecret::from_bytes(&[7; 32]).unwrap(), "gw", u64::MAX));
    assert_eq!(refused(&world.client_with(config)), [Event::Lost(Lost::Refused { code: 508 })]);
    assert_eq!(world.counters.allocations(), 2);
}

#[test]
fn an_answer_comes_from_the_address_that_was_asked() {
    let world = World::with("0.0.0.0:0", settings());
    let socket = udp("127.0.0.1:0".parse().unwrap());
    let mut asking = BindingClient::new(SECOND, [1; 32]);
    asking.start(Duration::ZERO);
    let Some(protocol_stun::BindingOutput::Send(request)) = asking.poll_output() else {
        panic!("nothing to send")
    };
    let second: SocketAddr = format!("127.0.0.2:{}", world.relay.port()).parse().unwrap();

    socket.send_to(&request, second).unwrap();
    let (answer, from) = world.at_peer(&socket);

    assert_eq!(from, second);
    assert!(asking.handle_datagram(&answer, Duration::ZERO));
    assert_eq!(asking.mapped(), Some(socket.local_addr().unwrap()));
}

#[test]
fn only_a_socket_with_a_choice_names_its_source() {
    let universe = Universe::new(&rows());
    let open =
        |bind: &str| universe.block_on(async { RelaySocket::open(bind.parse().unwrap(), 1 << 16) }).unwrap();
    let local: IpAddr = "127.0.0.1".parse().unwrap();

    assert_eq!(source(&open("127.0.0.1:0"), local), None);
    assert_eq!(source(&open("0.0.0.0:0"), local), Some(local));
}

#[test]
fn a_datagram_that_is_too_long_is_counted_and_does_not_end_segmentation() {
    let world = World::new();
    let socket = world
        .universe
        .block_on(async { RelaySocket::open("127.0.0.1:0".parse().unwrap(), SOCKET_BUFFER) })
        .unwrap();
    let large = vec![0u8; 65_508];

    let envelope = Envelope { to: world.relay, from: None, ecn: 0 };

    assert_eq!(socket.send(envelope, &large), Err("udp_too_big"));
}

#[test]
fn a_kept_port_is_for_its_user_once_and_for_half_a_minute() {
    let world = World::new();
    let user = |node: &str| protocol_stun::relay::User {
        name: node.into(),
        node: node.into(),
        account: protocol_stun::relay::Account::new(""),
    };
    let near = "127.0.0.1".parse().unwrap();
    let pair =
        || world.universe.block_on(async { world.lane.ports.open_pair(protocol_stun::Family::V4, near) });
    let mut kept = world.lane.reservations.borrow_mut();
    let (first, second) = pair().ok().unwrap();
    let port = second.public.port();
    assert_eq!((first.public.port() % 2, port), (0, first.public.port() + 1));

    assert_eq!(kept.keep(7, second, &user("a"), Duration::ZERO), Ok(()));
    assert_eq!(kept.take(7, &user("b"), Duration::ZERO).err(), Some(508));
    assert_eq!(kept.take(7, &user("a"), 29 * SECOND).ok().map(|relayed| relayed.public.port()), Some(port));
    assert_eq!(kept.take(7, &user("a"), 29 * SECOND).err(), Some(508));

    assert_eq!(kept.keep(8, pair().ok().unwrap().1, &user("a"), Duration::ZERO), Ok(()));
    assert_eq!(kept.next(), Some(30 * SECOND));
    assert_eq!(kept.take(8, &user("a"), 30 * SECOND).err(), Some(508));
    assert_eq!(kept.next(), None);
}

#[test]
fn what_the_kernel_drops_before_a_full_buffer_is_counted() {
    let universe = Universe::new(&rows());
    let socket =
        universe.block_on(async { RelaySocket::open("127.0.0.1:0".parse().unwrap(), 4096) }).unwrap();
    let sender = udp("127.0.0.1:0".parse().unwrap());

    for _ in 0..100 {
        sender.send_to(&[0; 1000], socket.local()).unwrap();
    }

    assert_eq!(socket.overflowed(Duration::from_millis(999)), 0, "asked too soon");
    assert!((50..100).contains(&socket.overflowed(SECOND)));
    assert_eq!(socket.overflowed(2 * SECOND), 0);
}

#[test]
fn a_client_is_told_that_nobody_listens_where_its_packets_go() {
    let world = World::new();
    let (socket, peer) = peer();
    let client = world.bound(peer);
    drop(socket);

    client.send(peer, b"anybody there?");

    let mut told = Vec::new();
    world.until("the news", || {
        while let Some((datagram, _)) = take(&client.socket) {
            told.push(datagram);
        }
        !told.is_empty()
    });
    // A Data indication with XOR-PEER-ADDRESS and ICMP (0x8004): port unreachable is type 3, code 3.
    assert_eq!(told[0].get(..2), Some(&[0x00, 0x17][..]));
    assert!(told[0].windows(12).any(|part| part == [0x80, 0x04, 0, 8, 0, 0, 3, 3, 0, 0, 0, 0]), "{told:?}");
    assert_eq!(world.counters.totals().icmp, 1);

    // What is sent after it arrives, at whoever listens by then.
    let again = udp(peer);
    client.send(peer, b"and now?");
    assert_eq!(world.at_peer(&again).0, b"and now?");
}

#[test]
fn only_what_looks_like_wireguard_passes_where_nothing_else_shall() {
    let mut settings = settings();
    settings.limits.payload = Payload::WireGuard;
    let world = World::with("127.0.0.1:0", settings);
    let (socket, peer) = peer();
    let client = world.bound(peer);
    let data = [&[4, 0, 0, 0][..], &[7; 28]].concat();

    client.send(peer, b"something else entirely");
    client.send(peer, &data);
    assert_eq!(world.at_peer(&socket).0, data);
    socket.send_to(b"something else again", client.relayed()).unwrap();
    socket.send_to(&data, client.relayed()).unwrap();
    assert_eq!(world.received(&client, 1), [(peer, data)]);

    assert_eq!(world.drops("payload_refused"), 2);
}

#[test]
fn a_user_has_no_more_relayed_than_its_rate_over_all_its_allocations() {
    let mut settings = settings();
    settings.rate_of_user = Rate { packets: 10, bytes: 0 };
    let world = World::with("127.0.0.1:0", settings);
    let (socket, peer) = peer();
    let clients = [world.bound(peer), world.bound(peer)];

    for client in clients.iter().cycle().take(16) {
        client.send(peer, b"one of many");
    }

    world.until("ten are through and the rest is counted", || world.drops("over_quota") == 6);
    assert_eq!(world.counters.packets(Direction::ToPeer), 10);
    assert!(take(&socket).is_some());
    world.universe.advance(SECOND);
    clients[0].send(peer, b"a second later");
    world.until("more", || world.counters.packets(Direction::ToPeer) == 11);
}

#[test]
fn another_user_cannot_do_anything_with_an_allocation() {
    let mut settings = settings();
    settings.users.push(Credentials::new("mallory", "secret"));
    let world = World::with("127.0.0.1:0", settings);
    let (_socket, peer) = peer();
    let alice = world.bound(peer);
    let mut config = AllocationConfig::new(Credentials::new("mallory", "secret"));
    config.families = Families::V4;
    // The same five-tuple: whoever can send from alice's address.
    let mallory = Client::new(
        AllocationClient::new(config, rand::random()),
        alice.socket.try_clone().unwrap(),
        world.relay,
    );

    mallory.machine.borrow_mut().start(world.universe.now());
    let mut events = Vec::new();
    world.until("a refusal", || {
        events.extend(mallory.turn(world.universe.now()).0);
        !events.is_empty()
    });

    assert_eq!(events, [Event::Lost(Lost::Refused { code: 437 })]);
    assert_eq!(world.counters.allocations(), 1);
    alice.send(peer, b"still here");
    world.until("it goes on", || world.counters.packets(Direction::ToPeer) == 1);
}

#[test]
fn relayed_packets_keep_the_bit_that_forbids_fragments() {
    let world = World::new();
    let relayed = world
        .universe
        .block_on(async { world.lane.ports.open(protocol_stun::Family::V4, [127, 0, 0, 1].into(), false) });
    let Ok(relayed) = relayed else { panic!("no relayed socket") };

    assert!(relayed.socket.forbids_fragments());
}

#[test]
fn malformed_messages_cost_a_counter_and_nothing_else() {
    let world = World::new();
    let socket = udp("127.0.0.1:0".parse().unwrap());
    let (seen, held) = (world.counters.totals(), world.lane.held.borrow().len());
    let mut sent = 0;
    for length in 0..200_u8 {
        for first in [0x00, 0x01, 0x3f, 0x40, 0x7f, 0x80, 0xff] {
            let mut bytes = vec![first; usize::from(length)];
            if let Some(cookie) = bytes.get_mut(4..8) {
                cookie.copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
            }
            socket.send_to(&bytes, world.relay).unwrap();
            sent += 1;
        }
        world.universe.settle();
    }

    world.until("all are counted", || world.universe.registry().drops().values().sum::<u64>() == sent);
    assert_eq!((world.counters.totals(), world.lane.held.borrow().len()), (seen, held));
    assert_eq!(take(&socket), None, "nothing is answered");
}

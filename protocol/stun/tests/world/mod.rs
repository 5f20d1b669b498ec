//! A client, a relay, peers that echo, and the wire between.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use protocol_stun::relay::{
    Allocation, Ask, Authority, Decision, FiveTuple, Front, Granted, Limits, Output as RelayOutput, ToClient,
    Transport, code,
};
use protocol_stun::{
    AllocationClient, AllocationConfig, BindingClient, BindingEvent, BindingOutput, Event, Kind, Output,
    PeerAddressFilter, REALM, Received, RelaySecret, State, channel_header, kind, mint,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const RELAY: &str = "198.51.99.1:3478";
const MS: Duration = Duration::from_millis(1);

/// What goes wrong.
#[derive(Clone, Copy)]
pub struct Faults {
    wire: bool,
    /// Of 100 datagrams.
    lost: u32,
    restarts: bool,
}

impl Faults {
    pub fn all() -> Self {
        Self { wire: true, lost: 15, restarts: true }
    }

    pub fn wire_only() -> Self {
        Self { wire: true, lost: 5, restarts: false }
    }

    pub fn none() -> Self {
        Self { wire: false, lost: 0, restarts: false }
    }
}

#[derive(Clone)]
enum Packet {
    ToRelay { from: SocketAddr, bytes: Vec<u8> },
    ToClient { to: SocketAddr, bytes: Vec<u8> },
    ToPeer { peer: SocketAddr, from: SocketAddr, payload: Vec<u8> },
    FromPeer { peer: SocketAddr, to: SocketAddr, payload: Vec<u8> },
}

/// All of it, under one clock.
pub struct World {
    now: Duration,
    random: StdRng,
    faults: Faults,
    wire: BTreeMap<(Duration, u64), Packet>,
    serial: u64,
    secret: RelaySecret,
    front: Front,
    filter: PeerAddressFilter,
    allocations: BTreeMap<SocketAddr, Allocation>,
    next_port: u16,
    client: AllocationClient,
    binding: BindingClient,
    client_address: SocketAddr,
    start_at: Option<Duration>,
    wished: BTreeSet<SocketAddr>,
    ever_wished: BTreeSet<IpAddr>,
    next_ping: Duration,
    next_disaster: Duration,
    echoed: BTreeSet<SocketAddr>,
    arrived: usize,
    lost: usize,
    sent_by_client: usize,
    mapped: Option<SocketAddr>,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let secret = RelaySecret::from_bytes(&[3; 32]).unwrap();
        let mut binding = BindingClient::new(Duration::from_secs(15), random.random());
        binding.start(Duration::ZERO);
        Self {
            now: Duration::ZERO,
            faults,
            wire: BTreeMap::new(),
            serial: 0,
            front: front(&secret, random.random()),
            filter: filter(),
            allocations: BTreeMap::new(),
            next_port: 50_000,
            client: client(&secret, random.random()),
            binding,
            client_address: at("203.0.113.9:4242"),
            start_at: Some(Duration::ZERO),
            wished: BTreeSet::new(),
            ever_wished: BTreeSet::new(),
            next_ping: Duration::ZERO,
            next_disaster: Duration::from_secs(20),
            echoed: BTreeSet::new(),
            arrived: 0,
            lost: 0,
            sent_by_client: 0,
            mapped: None,
            secret,
            random,
        }
    }

    pub fn arrived(&self) -> usize {
        self.arrived
    }

    pub fn lost(&self) -> usize {
        self.lost
    }

    pub fn sent_by_client(&self) -> usize {
        self.sent_by_client
    }

    pub fn wish_for_some(&mut self) {
        for n in 0..self.random.random_range(1..40) {
            self.wish(peer(n));
        }
        // One that no relay allows.
        self.client.permit([127, 0, 0, 1].into(), self.now);
    }

    pub fn change_some_wishes(&mut self) {
        for _ in 0..self.random.random_range(0..4) {
            let n = self.random.random_range(0..60);
            if self.wished.remove(&peer(n)) {
                self.client.forget(peer(n).ip());
            } else {
                self.wish(peer(n));
            }
        }
    }

    fn wish(&mut self, peer: SocketAddr) {
        self.client.bind(peer, self.now);
        self.wished.insert(peer);
        self.ever_wished.insert(peer.ip());
    }

    /// No faults from now on.
    pub fn calm(&mut self) {
        self.faults = Faults::none();
    }

    /// Everything wished for is confirmed, and packets go to every peer and come back.
    pub fn assert_complete(&mut self) {
        self.calm();
        self.run(Duration::from_secs(1));
        assert_eq!(self.client.state(), State::Allocated);
        assert_eq!(self.mapped, Some(self.client_address));
        for peer in self.wished.clone() {
            assert!(self.client.channel(peer).is_some(), "{peer} has no channel");
        }
        assert!(!self.client.is_permitted([127, 0, 0, 1].into()));
        self.echoed.clear();
        for peer in self.wished.clone() {
            self.ping(peer);
        }
        self.run(Duration::from_secs(2));
        assert_eq!(self.echoed, self.wished);
    }

    /// Lets time pass, deadline by deadline.
    pub fn run(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            self.drain_client();
            let mut next = self.wire.first_key_value().map_or(until, |((at, _), _)| *at).min(until);
            let clients = [self.client.poll_timeout(), self.binding.poll_timeout(), self.start_at];
            let relays = self.allocations.values().filter_map(Allocation::poll_timeout);
            for deadline in clients.into_iter().flatten().chain(relays) {
                next = next.min(deadline);
            }
            if self.faults.wire {
                next = next.min(self.next_ping);
            }
            if self.faults.restarts {
                next = next.min(self.next_disaster);
            }
            if next >= until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            self.step();
        }
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= now) {
            let packet = entry.remove();
            self.deliver(packet);
        }
        if self.start_at.is_some_and(|at| now >= at) {
            self.start_at = None;
            self.client.start(now);
        }
        self.client.handle_timeout(now);
        assert!(self.client.poll_timeout().is_none_or(|next| next > now), "the client spins");
        self.binding.handle_timeout(now);
        assert!(self.binding.poll_timeout().is_none_or(|next| next > now), "the binding client spins");
        for (client, mut allocation) in std::mem::take(&mut self.allocations) {
            allocation.handle_timeout(now);
            assert!(allocation.poll_timeout().is_none_or(|next| next > now), "the allocation spins");
            self.drain_allocation(client, allocation);
        }
        if self.faults.wire && now >= self.next_ping {
            self.next_ping = now + Duration::from_secs(self.random.random_range(1..20));
            if let Some(peer) = self.some_wish() {
                self.ping(peer);
            }
        }
        if self.faults.restarts && now >= self.next_disaster {
            self.next_disaster = now + Duration::from_secs(self.random.random_range(5..80));
            self.disaster();
        }
    }

    fn some_wish(&mut self) -> Option<SocketAddr> {
        let count = self.wished.len();
        (count > 0)
            .then(|| self.random.random_range(0..count))
            .and_then(|n| self.wished.iter().nth(n).copied())
    }

    fn disaster(&mut self) {
        match self.random.random_range(0..3) {
            // The relay starts anew; its secret is kept.
            0 => {
                self.allocations.clear();
                self.front = front(&self.secret, self.random.random());
                self.filter = filter();
            }
            // The client starts anew on the same socket.
            1 => {
                self.client = client(&self.secret, self.random.random());
                self.start_at = Some(self.now + 100 * MS);
                for peer in self.wished.clone() {
                    self.client.bind(peer, self.now);
                }
                self.client.permit([127, 0, 0, 1].into(), self.now);
            }
            // The NAT before the client forgets its mapping.
            _ => {
                let port = self.random.random_range(1024..60_000);
                self.client_address.set_port(port);
            }
        }
    }

    /// Sends a packet that names whom it is for.
    fn ping(&mut self, peer: SocketAddr) {
        let mut bytes = Vec::new();
        if self.client.wrap(peer, peer.to_string().as_bytes(), &mut bytes).is_ok() {
            let from = self.client_address;
            self.put(Packet::ToRelay { from, bytes });
        }
    }

    fn put(&mut self, packet: Packet) {
        let mut copies = 1;
        if self.faults.wire {
            copies = match self.random.random_range(0..100) {
                n if n < self.faults.lost => 0,
                90.. => 2,
                _ => 1,
            };
        }
        for _ in 0..copies {
            let most = if self.faults.wire { 400 } else { 30 };
            let delay = MS * self.random.random_range(5..most);
            self.serial += 1;
            self.wire.insert((self.now + delay, self.serial), packet.clone());
        }
    }

    fn deliver(&mut self, packet: Packet) {
        match packet {
            Packet::ToRelay { from, bytes } => self.at_relay(from, &bytes),
            Packet::ToClient { to, bytes } if to == self.client_address => self.at_client(&bytes),
            // The NAT no longer knows that mapping.
            Packet::ToClient { .. } => {}
            Packet::ToPeer { peer, from, payload } => {
                assert_eq!(String::from_utf8(payload.clone()).unwrap(), peer.to_string(), "misdelivered");
                self.arrived += 1;
                self.put(Packet::FromPeer { peer, to: from, payload });
            }
            Packet::FromPeer { peer, to, payload } => self.at_relayed(peer, to, &payload),
        }
    }

    fn at_client(&mut self, bytes: &[u8]) {
        if self.binding.handle_datagram(bytes, self.now) {
            return;
        }
        if let Received::Data { peer, payload } = self.client.handle_datagram(bytes, self.now) {
            assert_eq!(String::from_utf8(bytes[payload].to_vec()).unwrap(), peer.to_string(), "wrong source");
            self.arrived += 1;
            self.echoed.insert(peer);
        }
    }

    fn drain_client(&mut self) {
        while let Some(output) = self.client.poll_output() {
            match output {
                Output::Send(bytes) => self.send(bytes),
                Output::Event(Event::Lost(why)) => {
                    if std::env::var_os("POSTERN_SEED").is_some() {
                        eprintln!("{:?}: lost: {why:?}", self.now);
                    }
                    self.lost += 1;
                    self.start_at = Some(self.now + Duration::from_secs(1));
                }
                Output::Event(Event::Refused { peer, code }) => {
                    assert_eq!((peer, code), ([127, 0, 0, 1].into(), code::FORBIDDEN));
                }
                Output::Event(Event::NotBound(peer, code)) => panic!("{peer} not bound: {code}"),
                Output::Event(Event::Allocated { mapped, .. }) => {
                    assert_eq!(mapped.ip(), self.client_address.ip())
                }
                Output::Event(Event::Permitted(_) | Event::Bound(..)) => {}
            }
        }
        while let Some(output) = self.binding.poll_output() {
            match output {
                BindingOutput::Send(bytes) => self.send(bytes),
                BindingOutput::Event(BindingEvent::Answered { mapped, .. }) => self.mapped = Some(mapped),
                BindingOutput::Event(BindingEvent::Silent) => self.mapped = None,
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) {
        self.sent_by_client += 1;
        let from = self.client_address;
        self.put(Packet::ToRelay { from, bytes });
    }

    fn at_relay(&mut self, from: SocketAddr, bytes: &[u8]) {
        let decision = match kind(bytes) {
            Kind::Stun => self.front.handle(bytes, from, 1_000, true),
            Kind::ChannelData | Kind::Other => Decision::Indication,
        };
        match decision {
            Decision::Answer(bytes) => self.put(Packet::ToClient { to: from, bytes }),
            Decision::Drop(reason) => panic!("a relay dropped {reason}"),
            Decision::Indication => {
                let Some(allocation) = self.allocations.get(&from) else { return };
                let to_peer = match kind(bytes) {
                    Kind::Stun => allocation.handle_indication(bytes, &self.filter, self.now),
                    Kind::ChannelData | Kind::Other => {
                        allocation.handle_channel_data(bytes, &self.filter, self.now)
                    }
                };
                let Ok(to_peer) = to_peer else { return };
                assert!(self.ever_wished.contains(&to_peer.peer.ip()), "{} was never wanted", to_peer.peer);
                let payload = bytes[to_peer.payload].to_vec();
                self.put(Packet::ToPeer { peer: to_peer.peer, from: to_peer.from, payload });
            }
            Decision::Authenticated(request) => {
                self.filter.saw(&request.user().account, from.ip(), self.now);
                let allocation = match (self.allocations.remove(&from), request.ask()) {
                    (Some(mut allocation), _) => {
                        allocation.handle_request(&request, &self.filter, self.now);
                        allocation
                    }
                    (None, Ask::Allocate(ask)) => {
                        self.next_port += 1;
                        let granted = Granted {
                            five_tuple: FiveTuple {
                                transport: Transport::Udp,
                                client: from,
                                relay: at(RELAY),
                            },
                            relayed: vec![SocketAddr::new(at(RELAY).ip(), self.next_port)],
                            missing: Some((protocol_stun::Family::V6, code::FAMILY_NOT_SUPPORTED)),
                            reservation: None,
                            limits: Limits::default(),
                            seed: self.random.random(),
                        };
                        Allocation::grant(&request, ask.lifetime, granted, self.now)
                    }
                    (None, _) => {
                        let bytes = request.refuse(code::ALLOCATION_MISMATCH);
                        return self.put(Packet::ToClient { to: from, bytes });
                    }
                };
                self.drain_allocation(from, allocation);
            }
        }
    }

    fn drain_allocation(&mut self, client: SocketAddr, mut allocation: Allocation) {
        let mut over = false;
        while let Some(output) = allocation.poll_output() {
            match output {
                RelayOutput::Respond(bytes) => self.put(Packet::ToClient { to: client, bytes }),
                RelayOutput::FamilyReleased(family) => panic!("nobody released {family:?}"),
                RelayOutput::Ended(_) => over = true,
            }
        }
        if !over {
            self.allocations.insert(client, allocation);
        }
    }

    fn at_relayed(&mut self, peer: SocketAddr, to: SocketAddr, payload: &[u8]) {
        let found = self.allocations.iter_mut().find(|(_, allocation)| allocation.relayed().contains(&to));
        let Some((client, allocation)) = found else { return };
        let mut bytes = Vec::new();
        match allocation.handle_from_peer(peer, self.now) {
            Ok(ToClient::Channel(channel)) => {
                bytes.extend(channel_header(channel, payload.len() as u16));
                bytes.extend(payload);
            }
            Ok(ToClient::Indication) => assert!(allocation.data_indication(peer, payload, &mut bytes)),
            Err(_) => return,
        }
        let to = *client;
        self.put(Packet::ToClient { to, bytes });
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Several peers share an address, so that a permission covers more than one channel.
fn peer(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, (n / 3) as u8], 4000 + n))
}

fn front(secret: &RelaySecret, nonce_key: [u8; 32]) -> Front {
    Front::new(Authority::new(Some(secret.clone()), []), REALM, nonce_key)
}

fn filter() -> PeerAddressFilter {
    PeerAddressFilter::new(&["192.0.2.0/24".parse().unwrap()], &[], &[at(RELAY).ip()], &[])
}

fn client(secret: &RelaySecret, seed: [u8; 32]) -> AllocationClient {
    AllocationClient::new(AllocationConfig::new(mint(secret, "acme/gateway", 10_000)), seed)
}

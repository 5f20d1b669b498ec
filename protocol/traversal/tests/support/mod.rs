//! Two agents, the NATs before them, a relay, and a network that obeys a seed.
//!
//! Time moves only to the next arrival, to the next packet of data, or to the deadline that an agent asked for.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use protocol_identity::Secret32;
use protocol_traversal::{
    Agent, AgentConfig, Candidate, CandidateKind, Hygiene, LARGEST_PROBE, Output, PROBE_SIZE, Path, PathKind,
    ProbeKeys, RelaySlot, Role, Via,
};

pub const CLIENT: usize = 0;
pub const GATEWAY: usize = 1;
const SLOT: RelaySlot = RelaySlot(0);
const STUN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 100)), 3478);
pub const RELAYED: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(203, 0, 113, 100)), 50_000);

pub fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// SplitMix64: what the network does follows from the seed alone.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides.max(1)
    }
}

/// How a NAT maps and filters (RFC 4787, sections 4.1 and 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NatKind {
    /// A public address, nothing filtered.
    None,
    /// One port for all destinations, anybody may use it.
    FullCone,
    /// One port for all destinations, only those that were sent to may use it.
    PortRestricted,
    /// A port for each destination, only that one may use it.
    Symmetric,
    /// Port-restricted, but what nobody asked for leaves an entry: the port is taken for its sender then.
    Unfiltered,
}

#[derive(Debug, Clone, Copy)]
struct Binding {
    last: Duration,
    /// It came from outside, and the socket inside never used it.
    stale: bool,
}

/// Bindings live this long (RFC 4787 asks for two minutes; Linux gives 30 seconds to what got no answer).
const BINDING: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Nat {
    pub kind: NatKind,
    pub public: IpAddr,
    /// (public port, other end).
    bindings: BTreeMap<(u16, SocketAddr), Binding>,
    next_port: u16,
    port: u16,
}

impl Nat {
    pub fn new(kind: NatKind, public: [u8; 4]) -> Self {
        Self {
            kind,
            public: IpAddr::V4(Ipv4Addr::from(public)),
            bindings: BTreeMap::new(),
            next_port: 30_000,
            port: 41_000,
        }
    }

    fn expire(&mut self, now: Duration) {
        self.bindings.retain(|_, binding| now.saturating_sub(binding.last) < BINDING);
    }

    /// The source address that `remote` sees.
    fn outbound(&mut self, remote: SocketAddr, now: Duration) -> SocketAddr {
        self.expire(now);
        let existing = self
            .bindings
            .iter()
            .find(|((_, other), binding)| *other == remote && !binding.stale)
            .map(|(key, _)| key.0);
        let port = match (self.kind, existing) {
            (_, Some(port)) => port,
            (NatKind::Symmetric, None) => self.fresh_port(),
            (NatKind::Unfiltered, None) if self.bindings.contains_key(&(self.port, remote)) => {
                self.fresh_port()
            }
            (NatKind::None | NatKind::FullCone | NatKind::PortRestricted | NatKind::Unfiltered, None) => {
                self.port
            }
        };
        self.bindings.insert((port, remote), Binding { last: now, stale: false });
        SocketAddr::new(self.public, port)
    }

    fn fresh_port(&mut self) -> u16 {
        self.next_port += 1;
        self.next_port
    }

    /// Whether a datagram from `remote` to `port` gets in.
    fn inbound(&mut self, port: u16, remote: SocketAddr, now: Duration) -> bool {
        self.expire(now);
        let any = self.bindings.iter().any(|((bound, _), binding)| *bound == port && !binding.stale);
        match self.bindings.get_mut(&(port, remote)) {
            Some(binding) => {
                binding.last = now;
                !binding.stale
            }
            None => match self.kind {
                NatKind::None => port == self.port,
                NatKind::FullCone => any,
                NatKind::PortRestricted | NatKind::Symmetric => false,
                NatKind::Unfiltered => {
                    self.bindings.insert((port, remote), Binding { last: now, stale: true });
                    false
                }
            },
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Payload {
    Probe(Vec<u8>),
    Initiation,
    Response,
    Data,
}

/// A datagram on its way: to which end, to which port of its NAT (none from a relay), from where.
#[derive(Debug, Clone)]
struct Flying {
    end: usize,
    port: Option<u16>,
    path: Path,
    payload: Payload,
}

/// What happens to datagrams on their way.
#[derive(Debug, Clone)]
pub struct Weather {
    pub seed: u64,
    /// In a hundred.
    pub loss: u64,
    pub duplicates: u64,
    pub jitter: Duration,
    pub direct: Duration,
    /// Through the relay, end to end.
    pub relayed: Duration,
}

impl Weather {
    pub fn fair(seed: u64) -> Self {
        Self { seed, loss: 0, duplicates: 0, jitter: ms(1), direct: ms(10), relayed: ms(30) }
    }
}

/// What was seen of one end.
#[derive(Debug, Default, Clone)]
pub struct Seen {
    pub data: Vec<Duration>,
    pub selected: Vec<(Duration, Path)>,
    pub lost: Vec<(Duration, Path)>,
    pub doubted: Vec<Duration>,
    pub holds: Vec<Duration>,
    pub observed: BTreeSet<SocketAddr>,
    pub small: usize,
    pub padded: usize,
    /// When something last went out on a path.
    pub last_sent: BTreeMap<Path, Duration>,
    /// The longest time between two sendings on a path.
    pub pauses: BTreeMap<Path, Duration>,
    proven: BTreeSet<SocketAddr>,
    unanswered: BTreeMap<SocketAddr, VecDeque<Duration>>,
}

pub struct World {
    pub now: Duration,
    pub weather: Weather,
    dice: Dice,
    pub nats: [Nat; 2],
    pub agents: [Agent; 2],
    pub seen: [Seen; 2],
    generations: [u16; 2],
    permitted: BTreeSet<IpAddr>,
    pub relay_up: bool,
    pub direct_up: bool,
    /// Direct datagrams to this end vanish.
    pub deaf_direct: Option<usize>,
    /// Largest UDP payload that direct paths pass.
    pub direct_mtu: usize,
    wire: BTreeMap<(Duration, u64), Flying>,
    sent: u64,
    pub session: [bool; 2],
    initiations: Vec<Duration>,
    next_data: Duration,
    data_every: Duration,
    pub sends_data: [bool; 2],
    next_stun: Duration,
    candidates_after: Vec<(Duration, usize, Candidate)>,
    spins: (Duration, usize),
}

impl World {
    pub fn new(client: NatKind, gateway: NatKind, weather: Weather) -> Self {
        let mut world = Self {
            now: Duration::ZERO,
            dice: Dice(weather.seed),
            nats: [Nat::new(client, [198, 51, 100, 1]), Nat::new(gateway, [198, 51, 100, 2])],
            agents: [agent(Role::Client, 0, weather.seed), agent(Role::Gateway, 0, weather.seed)],
            seen: [Seen::default(), Seen::default()],
            generations: [0, 0],
            permitted: BTreeSet::new(),
            relay_up: true,
            direct_up: true,
            deaf_direct: None,
            direct_mtu: 9000,
            wire: BTreeMap::new(),
            sent: 0,
            session: [false; 2],
            initiations: [0, 250, 1000, 2000, 3000, 4000, 5000, 6000, 7000, 8000].map(ms).to_vec(),
            next_data: Duration::ZERO,
            data_every: ms(20),
            sends_data: [true; 2],
            next_stun: Duration::ZERO,
            candidates_after: Vec::new(),
            spins: (Duration::ZERO, 0),
            weather,
        };
        world.introduce(CLIENT);
        world.introduce(GATEWAY);
        world
    }

    /// Tells the other end where this one is.
    fn introduce(&mut self, end: usize) {
        let reflexive = self.nats[end].outbound(STUN, self.now);
        let mut candidates = vec![Candidate { address: reflexive, kind: CandidateKind::Reflexive }];
        if end == GATEWAY {
            candidates.push(Candidate { address: RELAYED, kind: CandidateKind::Relayed });
            self.agents[GATEWAY].add_relay(SLOT, self.now);
        }
        for candidate in candidates {
            self.agents[1 - end].add_remote(candidate, self.now).unwrap();
        }
    }

    /// The machine is made anew with the same keys, as a supervisor does after a panic.
    pub fn restart(&mut self, end: usize) {
        self.generations[end] += 1;
        self.seen[end].proven.clear();
        self.seen[end].unanswered.clear();
        let role = if end == CLIENT { Role::Client } else { Role::Gateway };
        self.agents[end] = agent(role, self.generations[end], self.weather.seed);
        self.introduce(1 - end);
        if end == GATEWAY {
            self.agents[GATEWAY].add_relay(SLOT, self.now);
        }
    }

    /// The end is behind another NAT from now on. Its new reflexive address reaches the other end a little later.
    pub fn roam(&mut self, end: usize, kind: NatKind, public: [u8; 4], told: bool) {
        self.nats[end] = Nat::new(kind, public);
        if told {
            self.agents[end].network_changed(self.now);
        }
        let address = self.nats[end].outbound(STUN, self.now);
        let candidate = Candidate { address, kind: CandidateKind::Reflexive };
        self.candidates_after.push((self.now + ms(150), 1 - end, candidate));
    }

    /// The client goes on asking for a session, as a tunnel does every five seconds.
    pub fn open_initiations(&mut self) {
        self.initiations = (0..20).map(|at| self.now + secs(at)).collect();
    }

    pub fn run(&mut self, until: Duration) {
        while self.now < until {
            self.flush();
            let timeouts = self.agents.iter().filter_map(Agent::poll_timeout);
            let arrival = self.wire.keys().next().map(|(at, _)| *at);
            let candidate = self.candidates_after.iter().map(|(at, ..)| *at).min();
            let initiation = self.initiations.first().copied().filter(|_| !self.session[CLIENT]);
            let next = timeouts
                .chain(arrival)
                .chain(candidate)
                .chain(initiation)
                .chain([self.next_data, self.next_stun, until])
                .min()
                .unwrap();
            self.now = next.max(self.now);
            self.check_spin();
            self.step();
        }
        self.flush();
    }

    fn check_spin(&mut self) {
        self.spins = if self.spins.0 == self.now { (self.now, self.spins.1 + 1) } else { (self.now, 0) };
        assert!(
            self.spins.1 < 100,
            "a machine asks for a deadline that never passes (seed {})",
            self.weather.seed
        );
    }

    fn step(&mut self) {
        while let Some(entry) = self.wire.first_entry()
            && entry.key().0 <= self.now
        {
            let flying = entry.remove();
            self.arrive(flying);
        }
        for at in (0..self.candidates_after.len()).rev() {
            if self.candidates_after[at].0 <= self.now {
                let (_, end, candidate) = self.candidates_after.remove(at);
                let _ = self.agents[end].add_remote(candidate, self.now);
            }
        }
        if !self.session[CLIENT] && self.initiations.first().is_some_and(|at| *at <= self.now) {
            self.initiations.remove(0);
            for path in self.agents[CLIENT].handshake_paths(self.now) {
                self.note_small(CLIENT, path.remote);
                self.transmit(CLIENT, path, Payload::Initiation);
            }
        }
        if self.next_data <= self.now {
            self.next_data = self.now + self.data_every;
            for end in [CLIENT, GATEWAY] {
                if self.session[end]
                    && self.sends_data[end]
                    && let Some(path) = self.agents[end].selected()
                {
                    self.transmit(end, path, Payload::Data);
                    self.agents[end].handle_sent(self.now);
                    let bytes = usize::from(self.agents[end].path_mtu());
                    self.agents[end].handle_sent_size(bytes, self.now);
                }
            }
        }
        if self.next_stun <= self.now {
            self.next_stun = self.now + secs(10);
            for nat in &mut self.nats {
                nat.outbound(STUN, self.now);
                nat.inbound(nat.port, STUN, self.now);
            }
        }
        for agent in &mut self.agents {
            if agent.poll_timeout().is_some_and(|at| at <= self.now) {
                agent.handle_timeout(self.now);
            }
        }
    }

    fn flush(&mut self) {
        for end in [CLIENT, GATEWAY] {
            let mut buffer = [0; 1500];
            while let Some(output) = self.agents[end].poll_output(&mut buffer) {
                match output {
                    Output::Transmit { path, len } => {
                        if len > PROBE_SIZE {
                            self.seen[end].padded += 1;
                            assert!(
                                self.seen[end].proven.contains(&path.remote),
                                "a padded probe to an address that has not answered"
                            );
                            assert!(len <= LARGEST_PROBE);
                        } else {
                            self.seen[end].small += 1;
                            self.note_small(end, path.remote);
                        }
                        self.transmit(end, path, Payload::Probe(buffer[..len].to_vec()));
                    }
                    Output::Selected { path, hold, .. } => {
                        self.seen[end].selected.push((self.now, path));
                        self.seen[end].holds.push(hold);
                    }
                    Output::Proven { path, .. } => {
                        self.seen[end].proven.insert(path.remote);
                    }
                    Output::Lost { path } => self.seen[end].lost.push((self.now, path)),
                    Output::Doubted { .. } => self.seen[end].doubted.push(self.now),
                    Output::NeedPermission { slot, remote } => {
                        assert_eq!((end, slot), (GATEWAY, SLOT));
                        self.permitted.insert(remote.ip());
                    }
                    Output::Observed { address } => {
                        self.seen[end].observed.insert(address);
                    }
                }
            }
        }
    }

    /// At most five small packets a second to an address that has not answered.
    fn note_small(&mut self, end: usize, remote: SocketAddr) {
        let seen = &mut self.seen[end];
        if seen.proven.contains(&remote) {
            return;
        }
        let sent = seen.unanswered.entry(remote).or_default();
        sent.push_back(self.now);
        if sent.len() > 5 {
            let first = sent.pop_front().unwrap();
            assert!(
                self.now - first >= secs(1),
                "six packets in {:?} to {remote} (seed {})",
                self.now - first,
                self.weather.seed
            );
        }
    }

    fn transmit(&mut self, end: usize, path: Path, payload: Payload) {
        let seen = &mut self.seen[end];
        if let Some(last) = seen.last_sent.insert(path, self.now) {
            let pause = seen.pauses.entry(path).or_default();
            *pause = (*pause).max(self.now - last);
        }
        let size = if let Payload::Probe(bytes) = &payload { bytes.len() } else { 100 };
        let arrival = match (end, path.via) {
            (_, Via::Direct) if path.remote == RELAYED => {
                let source = self.nats[end].outbound(RELAYED, self.now);
                let passes = self.relay_up && end == CLIENT && self.permitted.contains(&source.ip());
                passes.then_some((GATEWAY, None, Path::relayed(SLOT, source), self.weather.relayed))
            }
            (_, Via::Direct) => {
                let source = self.nats[end].outbound(path.remote, self.now);
                let to = 1 - end;
                let passes = self.direct_up
                    && self.deaf_direct != Some(to)
                    && size <= self.direct_mtu
                    && self.nats[to].public == path.remote.ip();
                passes.then_some((to, Some(path.remote.port()), Path::direct(source), self.weather.direct))
            }
            (_, Via::Relay(_)) => {
                let passes = self.relay_up
                    && self.permitted.contains(&path.remote.ip())
                    && self.nats[CLIENT].public == path.remote.ip();
                passes.then_some((
                    CLIENT,
                    Some(path.remote.port()),
                    Path::direct(RELAYED),
                    self.weather.relayed,
                ))
            }
        };
        let Some((end, port, path, delay)) = arrival else {
            return;
        };
        if self.dice.roll(100) < self.weather.loss {
            return;
        }
        let copies = 1 + u64::from(self.dice.roll(100) < self.weather.duplicates);
        for _ in 0..copies {
            let jitter = self.dice.roll(u64::try_from(self.weather.jitter.as_micros()).unwrap());
            self.sent += 1;
            let at = self.now + delay + Duration::from_micros(jitter);
            self.wire.insert((at, self.sent), Flying { end, port, path, payload: payload.clone() });
        }
    }

    fn arrive(&mut self, flying: Flying) {
        let Flying { end, port, path, payload } = flying;
        if let Some(port) = port
            && !self.nats[end].inbound(port, path.remote, self.now)
        {
            return;
        }
        match payload {
            Payload::Probe(datagram) => {
                let _ = self.agents[end].handle_probe(path, &datagram, self.now);
            }
            Payload::Initiation => {
                self.session[GATEWAY] = true;
                self.transmit(end, path, Payload::Response);
            }
            Payload::Response => {
                if !std::mem::replace(&mut self.session[CLIENT], true) {
                    self.agents[end].handle_received(path, self.now);
                }
            }
            Payload::Data => {
                self.seen[end].data.push(self.now);
                self.agents[end].handle_received(path, self.now);
            }
        }
    }

    pub fn kind(&self, end: usize) -> Option<PathKind> {
        self.agents[end].report(self.now).map(|report| report.kind)
    }

    pub fn proven_kind(&self, end: usize) -> Option<PathKind> {
        self.agents[end].report(self.now).filter(|report| report.proven).map(|report| report.kind)
    }

    /// Data has come in during the last `within`.
    pub fn hears(&self, end: usize, within: Duration) -> bool {
        self.seen[end].data.last().is_some_and(|at| self.now - *at < within)
    }

    /// The longest time without data between two moments.
    pub fn longest_gap(&self, end: usize, from: Duration, to: Duration) -> Duration {
        let inside = self.seen[end].data.iter().copied().filter(|at| (from..=to).contains(at));
        let mut last = from;
        let mut gap = Duration::ZERO;
        for at in inside.chain([to]) {
            gap = gap.max(at - last);
            last = at;
        }
        gap
    }
}

pub fn keys(role: Role) -> ProbeKeys {
    let (up, down) = (Secret32::new([1; 32]), Secret32::new([2; 32]));
    match role {
        Role::Client => ProbeKeys::new(&up, &down),
        Role::Gateway => ProbeKeys::new(&down, &up),
    }
}

pub fn agent(role: Role, generation: u16, seed: u64) -> Agent {
    let config = AgentConfig {
        role,
        keys: keys(role),
        generation,
        local_index: if role == Role::Client { 0x100 } else { 0x20000 },
        remote_index: Some(if role == Role::Client { 0x20000 } else { 0x100 }),
        hygiene: Hygiene::default(),
        seed,
    };
    Agent::new(config, Duration::ZERO)
}

/// Whether these two NATs let a direct path come about.
pub fn direct_is_possible(a: NatKind, b: NatKind) -> bool {
    use NatKind::{FullCone, None, PortRestricted, Symmetric, Unfiltered};
    match (a, b) {
        (None | FullCone, _) | (_, None | FullCone) => true,
        (Symmetric, PortRestricted | Symmetric | Unfiltered) | (PortRestricted | Unfiltered, Symmetric) => {
            false
        }
        (PortRestricted | Unfiltered, PortRestricted | Unfiltered) => true,
    }
}

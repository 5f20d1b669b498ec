//! The client's DNS server: answers for resources, passes the rest on to the servers that the host used before.
//!
//! - Parent: the process's root, on a control lane.
//! - Core: [`Stub`], a pure machine.
//! - When it dies: it listens again at once; mapped addresses survive, questions on their way are asked again by whoever
//!   asked, as resolvers do.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, time};
use protocol_names::{
    AccessOutcome, Asker, Mapped, MappedAddresses, Name, Output, Pattern, Ranges, Stub, StubConfig,
    StubDrops, Transport,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::marked::{connect_marked, udp_marked};
use crate::stub_sockets;

/// Where the stub resolver listens: an address of ours on the TUN device, in the part of the mapped range that stands
/// for no name. It must be among the plan's addresses.
pub const STUB_ADDRESS: Ipv4Addr = Ipv4Addr::new(100, 127, 255, 53);

/// Names that have mapped addresses at a time.
const NAMES: usize = 16_384;
/// Connections at a time.
const CONNECTIONS: usize = 64;
/// Answers that wait for a slow connection.
const ANSWERS: usize = 32;
/// A server's answer that comes later is to a question that was given up.
const UPSTREAM: Duration = Duration::from_secs(5);

/// What the stub resolver is made with.
#[derive(Clone, Debug)]
pub struct StubResolverConfig {
    /// Where it listens, by datagram and connection.
    pub listen: SocketAddr,
    /// The device that has that address; without one the loopback device.
    pub device: Option<String>,
    /// The servers that other questions are passed to.
    pub upstreams: Vec<SocketAddr>,
    /// `SO_MARK` of the sockets towards them.
    pub mark: Option<u32>,
}

impl StubResolverConfig {
    /// On the usual address, with servers that are told later.
    pub fn new(device: Option<String>, mark: Option<u32>) -> Self {
        Self { listen: SocketAddr::from((STUB_ADDRESS, 53)), device, upstreams: Vec::new(), mark }
    }
}

/// A name of a resource that somebody wants to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedName {
    /// The resource's name or pattern, as it was told.
    pub resource: String,
    /// The name that was asked for.
    pub name: Name,
    /// The addresses that stand for it.
    pub mapped: Mapped,
}

/// Finds out whether a name may be reached.
pub type AskAccess = Arc<dyn Fn(WantedName) -> Pin<Box<dyn Future<Output = AccessOutcome>>> + Send + Sync>;

/// What a [`StubResolver`] can be told.
#[derive(Clone, Debug)]
pub enum StubCommand {
    /// These names and patterns are resources. What is none is left out, with a warning.
    Names(Vec<String>),
    /// Other questions are passed to these servers.
    Upstreams(Vec<SocketAddr>),
    /// What is known about reaching this name no longer holds.
    Forget(Name),
}

/// What a restarted stub resolver takes over. The factory keeps it.
#[derive(Clone, Debug)]
pub struct KeptNames(Rc<RefCell<Kept>>);

#[derive(Debug)]
struct Kept {
    mapped: MappedAddresses,
    resources: Vec<(Pattern, String)>,
    upstreams: Vec<SocketAddr>,
    /// When the machine's time began: addresses remember when they were last asked for.
    begin: Option<Instant>,
}

impl KeptNames {
    /// No names yet.
    pub fn new(config: &StubResolverConfig) -> Self {
        let mapped = MappedAddresses::new(Ranges::default(), NAMES);
        let upstreams = config.upstreams.clone();
        Self(Rc::new(RefCell::new(Kept { mapped, resources: Vec::new(), upstreams, begin: None })))
    }
}

/// The server.
pub struct StubResolver {
    config: StubResolverConfig,
    kept: KeptNames,
    ask: AskAccess,
    stub: Stub<String>,
    socket: Option<Rc<UdpSocket>>,
    connections: BTreeMap<u64, mpsc::Sender<Vec<u8>>>,
    next_connection: u64,
    counted: StubDrops,
}

impl StubResolver {
    /// A server that asks `ask` about access.
    pub fn new(config: StubResolverConfig, kept: KeptNames, ask: AskAccess) -> Self {
        let mut stub = Stub::new(StubConfig::new(kept.0.borrow().upstreams.clone(), rand::random()));
        stub.set_resources(kept.0.borrow().resources.iter().cloned());
        Self {
            config,
            kept,
            ask,
            stub,
            socket: None,
            connections: BTreeMap::new(),
            next_connection: 0,
            counted: StubDrops::default(),
        }
    }

    /// The machine's time.
    fn now(&self, cx: &Cx<Self>) -> Duration {
        let now = cx.now();
        now.saturating_duration_since(*self.kept.0.borrow_mut().begin.get_or_insert(now))
    }

    fn asked(&mut self, bytes: &[u8], from: Asker, cx: &mut Cx<Self>) {
        let now = self.now(cx);
        self.stub.handle_query(bytes, from, now, &mut self.kept.0.borrow_mut().mapped);
        self.pump(cx);
    }

    /// Does what the machine wants, and sleeps as long as it says.
    fn pump(&mut self, cx: &mut Cx<Self>) {
        while let Some(output) = self.stub.poll_output() {
            match output {
                Output::Answer { to: Asker::Udp(to), bytes } => {
                    let sent = self.socket.as_ref().map(|socket| socket.try_send_to(&bytes, to));
                    if !matches!(sent, Some(Ok(_))) {
                        cx.count_drop("dns_answer_not_sent", 1);
                    }
                }
                Output::Answer { to: Asker::Tcp(connection), bytes } => {
                    let writer = self.connections.get(&connection);
                    if writer.is_none_or(|writer| writer.try_send(bytes).is_err()) {
                        cx.count_drop("dns_answer_not_sent", 1);
                    }
                }
                Output::AskAccess { resource, name, mapped } => self.ask_access(resource, name, mapped, cx),
                Output::Forward { upstream, transport, bytes, id } => {
                    self.forward(upstream, transport, bytes, id, cx)
                }
            }
        }
        let drops = self.stub.drops();
        for ((reason, now), (_, before)) in drops.iter().zip(self.counted.iter()) {
            cx.count_drop(reason, now - before);
        }
        self.counted = drops;
        let begin = self.kept.0.borrow().begin;
        match (self.stub.poll_timeout(), begin) {
            (Some(deadline), Some(begin)) => cx.wake_at(begin + deadline),
            _ => cx.wake_never(),
        }
    }

    fn ask_access(&self, resource: String, name: Name, mapped: Mapped, cx: &mut Cx<Self>) {
        let asking = (self.ask)(WantedName { resource, name: name.clone(), mapped });
        cx.spawn(asking, move |actor, outcome, cx| {
            let now = actor.now(cx);
            actor.stub.handle_access(&name, outcome, now, &mut actor.kept.0.borrow_mut().mapped);
            actor.pump(cx);
        });
    }

    fn forward(
        &self,
        upstream: SocketAddr,
        transport: Transport,
        bytes: Vec<u8>,
        id: u16,
        cx: &mut Cx<Self>,
    ) {
        let mark = self.config.mark;
        let asking = async move {
            let talk = async {
                match transport {
                    Transport::Udp => by_datagram(upstream, mark, &bytes).await,
                    Transport::Tcp => by_connection(upstream, mark, &bytes).await,
                }
            };
            time::timeout(UPSTREAM, talk).await
        };
        cx.spawn(asking, move |actor, answer, cx| {
            match answer {
                Ok(Ok(bytes)) => {
                    actor.stub.handle_answer(upstream, transport, &bytes, &actor.kept.0.borrow().mapped);
                }
                Ok(Err(_)) => {
                    let now = actor.now(cx);
                    actor.stub.handle_failure(id, now);
                }
                // The machine has asked elsewhere by now.
                Err(_) => {}
            }
            actor.pump(cx);
        });
    }

    fn connected(&mut self, stream: tokio::net::TcpStream, cx: &mut Cx<Self>) {
        if self.connections.len() >= CONNECTIONS {
            return cx.count_drop("dns_too_many_connections", 1);
        }
        let connection = self.next_connection;
        self.next_connection += 1;
        let (reader, mut writer) = stream.into_split();
        let (answers, mut waiting) = mpsc::channel::<Vec<u8>>(ANSWERS);
        self.connections.insert(connection, answers);
        let writing = async move {
            while let Some(bytes) = waiting.recv().await {
                if stub_sockets::write_message(&mut writer, &bytes).await.is_err() {
                    break;
                }
            }
        };
        cx.spawn(writing, move |actor, (), _| drop(actor.connections.remove(&connection)));
        Self::read_on(connection, reader, cx);
    }

    fn read_on(connection: u64, reader: OwnedReadHalf, cx: &mut Cx<Self>) {
        cx.spawn(stub_sockets::read_message(reader), move |actor, message, cx| match message {
            Some((bytes, reader)) => {
                actor.asked(&bytes, Asker::Tcp(connection), cx);
                Self::read_on(connection, reader, cx);
            }
            // Answers on their way are still written: the writer ends when its last one is out.
            None => drop(actor.connections.remove(&connection)),
        });
    }
}

/// From a fresh port each time, which a forger has to guess beside the id.
async fn by_datagram(upstream: SocketAddr, mark: Option<u32>, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let socket = udp_marked(upstream, mark).await?;
    socket.send(bytes).await?;
    let mut answer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut answer).await?;
        if answer.first_chunk::<2>() == bytes.first_chunk::<2>() {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn by_connection(upstream: SocketAddr, mark: Option<u32>, bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = connect_marked(upstream, mark).await?;
    let length = u16::try_from(bytes.len()).map_err(|_| std::io::ErrorKind::InvalidData)?;
    stream.write_all(&[&length.to_be_bytes()[..], bytes].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

impl Actor for StubResolver {
    const KIND: &'static str = "StubResolver";
    type Command = StubCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        match stub_sockets::open(self.config.listen, self.config.device.as_deref()) {
            Ok((socket, listener)) => {
                let socket = Rc::new(socket);
                self.socket = Some(Rc::clone(&socket));
                cx.follow(stub_sockets::questions(socket), |actor, (bytes, from), cx| {
                    actor.asked(&bytes, Asker::Udp(from), cx);
                });
                cx.follow(stub_sockets::connections(listener), |actor, stream, cx| {
                    actor.connected(stream, cx)
                });
            }
            Err(error) => {
                tracing::error!(error = %error, listen = %self.config.listen, "cannot answer for names");
                cx.fail();
            }
        }
    }

    fn told(&mut self, command: StubCommand, cx: &mut Cx<Self>) {
        match command {
            StubCommand::Names(names) => {
                let parse = |text: String| match text.parse::<Pattern>() {
                    Ok(pattern) => Some((pattern, text)),
                    Err(error) => {
                        tracing::warn!(error = %error, "the name of a resource is no name");
                        None
                    }
                };
                let resources: Vec<_> = names.into_iter().filter_map(parse).collect();
                self.stub.set_resources(resources.iter().cloned());
                self.kept.0.borrow_mut().resources = resources;
            }
            StubCommand::Upstreams(upstreams) => {
                // Asking ourselves would go in a circle.
                let others: Vec<_> =
                    upstreams.into_iter().filter(|server| *server != self.config.listen).collect();
                self.stub.set_upstreams(others.clone());
                self.kept.0.borrow_mut().upstreams = others;
            }
            StubCommand::Forget(name) => self.stub.forget_access(&name),
        }
        self.pump(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.now(cx);
        self.stub.handle_timeout(now, &mut self.kept.0.borrow_mut().mapped);
        self.pump(cx);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read, Write};
    use std::net::IpAddr;

    use actors_runtime::{Address, LaneKind, Universe};
    use hickory_proto::op::{Message, MessageType, OpCode, Query};
    use hickory_proto::rr::rdata::{A, TXT};
    use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};

    use super::*;
    use crate::testing::{in_bare_namespace, row, tool, until};

    const WIKI: &str = "wiki.corp.example";
    const PANIC: &str = "panic.corp.example";

    fn question(id: u16, host: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.queries.push(Query::query(DnsName::from_ascii(format!("{host}.")).unwrap(), kind));
        message.to_vec().unwrap()
    }

    /// A DNS server of the host's own at `ip`, which answers everything with 198.51.100.7 and a long text.
    fn upstream(ip: &str) -> SocketAddr {
        let address: SocketAddr = (ip.parse::<IpAddr>().unwrap(), 53).into();
        let udp = std::net::UdpSocket::bind(address).unwrap();
        let tcp = std::net::TcpListener::bind(address).unwrap();
        let answer = |bytes: &[u8]| {
            let mut message = Message::from_vec(bytes).unwrap();
            message.metadata.message_type = MessageType::Response;
            let name = message.queries[0].name().clone();
            let text = RData::TXT(TXT::new(vec!["x".repeat(200); 5]));
            let data = if message.queries[0].query_type() == RecordType::TXT {
                text
            } else {
                RData::A(A("198.51.100.7".parse().unwrap()))
            };
            message.answers.push(Record::from_rdata(name, 60, data));
            message.to_vec().unwrap()
        };
        std::thread::spawn(move || {
            let mut buffer = [0; 2000];
            while let Ok((length, from)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(&answer(&buffer[..length]), from);
            }
        });
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = tcp.accept() {
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut bytes).unwrap();
                let answer = answer(&bytes);
                stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&answer).unwrap();
            }
        });
        address
    }

    type Wanted = Arc<std::sync::Mutex<Vec<WantedName>>>;

    struct Bench {
        universe: Universe,
        address: Address<StubResolver>,
        listen: SocketAddr,
        wanted: Wanted,
    }

    impl Bench {
        /// Every wish is answered with `outcome`; `None` leaves them unanswered.
        fn new(listen: &str, outcome: Option<AccessOutcome>) -> Self {
            tool("ip link set lo up");
            let config = StubResolverConfig {
                listen: listen.parse().unwrap(),
                device: None,
                upstreams: vec![upstream("127.0.0.2")],
                mark: None,
            };
            let (listen, wanted) = (config.listen, Wanted::default());
            let heard = wanted.clone();
            let ask: AskAccess = Arc::new(move |wish| {
                let on_purpose = wish.name.as_str() == PANIC;
                heard.lock().unwrap().push(wish);
                assert!(!on_purpose, "on purpose");
                Box::pin(async move {
                    match outcome {
                        Some(outcome) => outcome,
                        None => std::future::pending().await,
                    }
                })
            });
            let universe = Universe::new::<()>(&[row("StubResolver", LaneKind::Control)]);
            let kept = KeptNames::new(&config);
            let factory = move || StubResolver::new(config.clone(), kept.clone(), ask.clone());
            let address = universe.start("", factory).unwrap().address;
            address.tell(StubCommand::Names(vec![WIKI.to_owned(), "no name".to_owned()])).unwrap();
            universe.settle();
            Self { universe, address, listen, wanted }
        }

        fn panicked(&self) -> Vec<WantedName> {
            let wanted = self.wanted.lock().unwrap();
            wanted.iter().filter(|wish| wish.name.as_str() == PANIC).cloned().collect()
        }

        fn ask(&self, bytes: &[u8]) -> Message {
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            let socket = if self.listen.ip().is_loopback() {
                socket
            } else {
                std::net::UdpSocket::bind("0.0.0.0:0").unwrap()
            };
            socket.set_nonblocking(true).unwrap();
            socket.connect(self.listen).unwrap();
            socket.send(bytes).unwrap();
            let mut buffer = [0; 2000];
            let length = Cell::new(0);
            self.universe.block_on(until("the answer", || {
                length.set(socket.recv(&mut buffer).unwrap_or(0));
                length.get() > 0
            }));
            Message::from_vec(&buffer[..length.get()]).unwrap()
        }

        fn ask_by_connection(&self, bytes: Vec<u8>) -> Message {
            let listen = self.listen;
            let client = std::thread::spawn(move || {
                let mut stream = std::net::TcpStream::connect(listen).unwrap();
                stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
                stream.write_all(&bytes).unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
                stream.read_exact(&mut answer).unwrap();
                answer
            });
            self.universe.block_on(until("the answer", || client.is_finished()));
            Message::from_vec(&client.join().unwrap()).unwrap()
        }
    }

    fn addresses(message: &Message) -> Vec<IpAddr> {
        message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
    }

    const GRANTED: AccessOutcome = AccessOutcome::Granted { has_v4: true, has_v6: true };

    #[test]
    fn resources_are_answered_here_and_the_rest_elsewhere() {
        in_bare_namespace(|| {
            tool("ip addr add 100.127.255.53/32 dev lo");
            let bench = Bench::new("100.127.255.53:53", Some(GRANTED));

            let wiki = bench.ask(&question(1, WIKI, RecordType::A));
            let other = bench.ask(&question(2, "www.example.org", RecordType::A));

            let wanted = bench.wanted.lock().unwrap();
            assert_eq!((wanted.len(), wanted[0].resource.as_str()), (1, WIKI));
            assert_eq!(addresses(&wiki), [IpAddr::V4(wanted[0].mapped.v4)]);
            assert!(!Ranges::default().contains("198.51.100.7".parse().unwrap()));
            assert_eq!(addresses(&other), ["198.51.100.7".parse::<IpAddr>().unwrap()]);
        });
    }

    #[test]
    fn a_long_answer_is_fetched_by_connection() {
        in_bare_namespace(|| {
            let bench = Bench::new("127.0.0.1:53", Some(GRANTED));

            let cut = bench.ask(&question(1, "long.example.org", RecordType::TXT));
            let whole = bench.ask_by_connection(question(2, "long.example.org", RecordType::TXT));
            let wiki = bench.ask_by_connection(question(3, WIKI, RecordType::AAAA));

            assert!(cut.metadata.truncation && cut.answers.is_empty());
            assert_eq!((whole.metadata.id, whole.answers.len()), (2, 1));
            assert_eq!(addresses(&wiki).len(), 1);
        });
    }

    #[test]
    fn without_an_outcome_the_answer_comes_after_a_second() {
        in_bare_namespace(|| {
            let bench = Bench::new("127.0.0.1:53", None);
            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.set_nonblocking(true).unwrap();
            socket.send_to(&question(1, WIKI, RecordType::A), bench.listen).unwrap();
            bench.universe.block_on(until("the wish", || !bench.wanted.lock().unwrap().is_empty()));
            bench.universe.advance(Duration::from_millis(999));
            assert!(socket.recv(&mut [0; 500]).is_err());

            bench.universe.advance(Duration::from_millis(1));

            bench.universe.block_on(until("the answer", || socket.recv(&mut [0; 500]).is_ok()));
        });
    }

    #[test]
    fn mapped_addresses_and_names_survive_a_restart() {
        in_bare_namespace(|| {
            let bench = Bench::new("127.0.0.1:53", Some(GRANTED));
            let names = vec![WIKI.to_owned(), PANIC.to_owned()];
            bench.address.tell(StubCommand::Names(names)).unwrap();
            let before = addresses(&bench.ask(&question(1, WIKI, RecordType::A)));

            let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
            socket.send_to(&question(2, PANIC, RecordType::A), bench.listen).unwrap();
            bench.universe.block_on(until("the panic", || !bench.panicked().is_empty()));
            bench.universe.advance(Duration::from_secs(5));

            assert_eq!(bench.universe.registry().restarts()["StubResolver"], 1);
            assert_eq!(addresses(&bench.ask(&question(3, WIKI, RecordType::A))), before);
        });
    }

    #[test]
    fn what_is_not_handled_is_counted() {
        in_bare_namespace(|| {
            let bench = Bench::new("127.0.0.1:53", Some(GRANTED));

            let refused = bench.ask(&question(7, WIKI, RecordType::A)[..20]);
            bench.address.tell(StubCommand::Upstreams(vec![bench.listen])).unwrap();
            bench.universe.settle();
            let failed = bench.ask(&question(8, "www.example.org", RecordType::A));

            assert_eq!(refused.metadata.response_code.low(), 1);
            assert_eq!(failed.metadata.response_code.low(), 2);
            let drops = bench.universe.registry().drops();
            assert_eq!((drops.get("dns_malformed"), drops.get("dns_not_passed")), (Some(&1), Some(&1)));
        });
    }
}

//! Clients that come by TCP and by TLS: real connections on loopback.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use protocol_stun::stream::{Frame, frame, padding};
use protocol_stun::{AllocationClient, AllocationConfig, Credentials, Event, Families, Output, Received};

use super::*;
use crate::{Connections, StreamDoor, StreamListener, Streams, streams};

/// A client's end of a connection, with TLS or without.
enum Wire {
    Tcp(TcpStream),
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, TcpStream>>),
}

impl Wire {
    fn write(&mut self, bytes: &[u8]) {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes).unwrap(),
            Self::Tls(stream) => {
                // Without blocking: a handshake that waits for the relay goes on with the next call.
                let _ = stream.conn.writer().write_all(bytes);
                let _ = stream.conn.complete_io(&mut stream.sock);
            }
        }
    }

    /// What there is; `None` at the end.
    fn read(&mut self, into: &mut Vec<u8>) -> Option<()> {
        let mut bytes = [0; 65_536];
        let read = match self {
            Self::Tcp(stream) => stream.read(&mut bytes),
            Self::Tls(stream) => stream.read(&mut bytes),
        };
        match read {
            Ok(0) => None,
            Ok(n) => {
                into.extend_from_slice(&bytes[..n]);
                Some(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(()),
            Err(_) => None,
        }
    }
}

struct StreamClient {
    machine: AllocationClient,
    wire: Wire,
    waiting: Vec<u8>,
    open: bool,
    events: Vec<Event>,
    packets: Vec<(SocketAddr, Vec<u8>)>,
}

impl StreamClient {
    fn new(wire: Wire) -> Self {
        let mut config = AllocationConfig::new(Credentials::new("alice", "wonder"));
        config.families = Families::V4;
        let mut machine = AllocationClient::new(config, rand::random());
        machine.start(Duration::ZERO);
        Self { machine, wire, waiting: vec![], open: true, events: vec![], packets: vec![] }
    }

    fn turn(&mut self) {
        // Time stands still: on a connection nothing is sent twice.
        while let Some(output) = self.machine.poll_output() {
            match output {
                Output::Send(bytes) => self.wire.write(&bytes),
                Output::Event(event) => self.events.push(event),
            }
        }
        self.open &= self.wire.read(&mut self.waiting).is_some();
        while let Frame::Whole(length) = frame(&self.waiting) {
            let message: Vec<u8> = self.waiting.drain(..length).collect();
            match self.machine.handle_datagram(&message, Duration::ZERO) {
                Received::Data { peer, payload } => self.packets.push((peer, message[payload].to_vec())),
                Received::Handled => {}
                Received::Dropped(reason) => panic!("the client dropped {reason}"),
            }
        }
    }

    fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let mut message = Vec::new();
        self.machine.wrap(peer, payload, &mut message).unwrap();
        if message[0] & 0xc0 == 0x40 {
            message.extend_from_slice(padding(payload.len()));
        }
        self.wire.write(&message);
    }
}

struct StreamWorld {
    world: World,
    address: SocketAddr,
    roots: Option<rustls::RootCertStore>,
}

impl StreamWorld {
    fn new(with_tls: bool, most: usize) -> Self {
        let world = World::new();
        let (sender, receiver) = streams();
        let (lane, arriving) = (Rc::clone(&world.lane), Streams::new(receiver));
        let factory = move || Listener::new(Rc::clone(&lane), Door::Streams(Rc::clone(&arriving)));
        world.universe.start::<Listener>("connections", factory).unwrap();
        let (tls, roots) = with_tls.then(certificate).unzip();
        let open = async {
            StreamDoor::open("127.0.0.1:0".parse().unwrap(), tls, Connections::new(most, most), sender)
        };
        let door = world.universe.block_on(open).unwrap();
        let address = door.local().unwrap();
        world.universe.start::<StreamListener>("tcp", move || StreamListener::new(door.clone())).unwrap();
        world.universe.settle();
        Self { world, address, roots }
    }

    fn connect(&self) -> StreamClient {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_nonblocking(true).unwrap();
        StreamClient::new(match &self.roots {
            None => Wire::Tcp(stream),
            Some(roots) => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_root_certificates(roots.clone())
                    .with_no_client_auth();
                let name = "relay.example".try_into().unwrap();
                let client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
                Wire::Tls(Box::new(rustls::StreamOwned::new(client, stream)))
            }
        })
    }

    fn until(&self, what: &str, client: &mut StreamClient, mut holds: impl FnMut(&StreamClient) -> bool) {
        self.world.until(what, || {
            client.turn();
            holds(client)
        });
    }

    fn allocated(&self) -> StreamClient {
        let mut client = self.connect();
        self.until("an allocation", &mut client, |client| client.events.iter().any(is_allocated));
        client
    }
}

fn certificate() -> (Arc<rustls::ServerConfig>, rustls::RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), roots)
}

#[test]
fn packets_of_any_length_pass_both_ways_over_tcp_and_over_tls() {
    for with_tls in [false, true] {
        let streams = StreamWorld::new(with_tls, 10);
        let (socket, peer) = peer();
        let mut client = streams.allocated();
        client.machine.permit(peer.ip(), Duration::ZERO);
        streams.until("a permission", &mut client, |client| client.machine.is_permitted(peer.ip()));
        client.send(peer, b"by indication");
        assert_eq!(streams.world.at_peer(&socket).0, b"by indication");

        client.machine.bind(peer, Duration::ZERO);
        streams.until("a channel", &mut client, |client| client.machine.channel(peer).is_some());
        for length in [1, 2, 3, 4, 5, 1_399] {
            let payload = vec![7; length];
            client.send(peer, &payload);
            let (got, from) = streams.world.at_peer(&socket);
            assert_eq!(got, payload);
            client.packets.clear();
            socket.send_to(&payload, from).unwrap();
            streams.until("the packet back", &mut client, |client| !client.packets.is_empty());
            assert_eq!(client.packets, [(peer, payload)]);
        }
    }
}

#[test]
fn many_messages_in_one_write_arrive_one_by_one() {
    let streams = StreamWorld::new(false, 10);
    let (socket, peer) = peer();
    let mut client = streams.allocated();
    client.machine.bind(peer, Duration::ZERO);
    streams.until("a channel", &mut client, |client| client.machine.channel(peer).is_some());
    let channel = client.machine.channel(peer).unwrap();

    let mut all = Vec::new();
    for n in 0..100u8 {
        let payload = vec![n; usize::from(n % 7) + 1];
        all.extend(channel_header(channel, payload.len() as u16));
        all.extend(&payload);
        all.extend(padding(payload.len()));
    }
    client.wire.write(&all);

    for n in 0..100u8 {
        assert_eq!(streams.world.at_peer(&socket).0, vec![n; usize::from(n % 7) + 1]);
    }
}

#[test]
fn a_closed_connection_takes_its_allocation_with_it() {
    let streams = StreamWorld::new(false, 10);
    let client = streams.allocated();
    assert_eq!(streams.world.counters.allocations(), 1);

    drop(client);

    streams.world.until("the end", || streams.world.counters.allocations() == 0);
    let _again = streams.allocated();
}

#[test]
fn a_connection_that_speaks_something_else_or_at_length_is_closed_and_counted() {
    let streams = StreamWorld::new(false, 10);
    let mut too_long = channel_header(0x4000, 60_000).to_vec();
    too_long.extend([0; 100]);
    for (bytes, reason) in [(&[0x80; 40][..], "stream_broken"), (&too_long, "stream_message_too_long")] {
        let mut stream = TcpStream::connect(streams.address).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_nonblocking(true).unwrap();

        streams.world.until("the end", || matches!(stream.read(&mut [0; 10]), Ok(0)));
        assert_eq!(streams.world.drops(reason), 1, "{reason}");
    }
}

#[test]
fn a_connection_without_an_allocation_is_closed_after_a_minute_of_silence() {
    let streams = StreamWorld::new(false, 10);
    let mut silent = TcpStream::connect(streams.address).unwrap();
    silent.set_nonblocking(true).unwrap();
    let mut holder = streams.allocated();

    streams.world.universe.advance(Duration::from_secs(80));

    streams.world.until("the end", || matches!(silent.read(&mut [0; 10]), Ok(0)));
    holder.turn();
    assert!(holder.open, "who holds an allocation may be silent");
}

#[test]
fn there_are_no_more_connections_than_allowed() {
    let streams = StreamWorld::new(false, 2);
    let _held = [streams.allocated(), streams.allocated()];
    let mut third = TcpStream::connect(streams.address).unwrap();
    third.set_nonblocking(true).unwrap();

    streams.world.until("the end", || {
        matches!(third.read(&mut [0; 10]), Ok(0) | Err(_)) && streams.world.drops("too_many_connections") == 1
    });
}

#[test]
fn a_tls_handshake_that_never_ends_is_given_up() {
    let streams = StreamWorld::new(true, 10);
    let mut stalled = TcpStream::connect(streams.address).unwrap();
    stalled.set_nonblocking(true).unwrap();
    let mut wrong = TcpStream::connect(streams.address).unwrap();
    wrong.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    streams.world.until("a failed handshake", || streams.world.drops("tls_handshake_failed") == 1);

    streams.world.universe.advance(Duration::from_secs(11));

    streams.world.until("the end", || matches!(stalled.read(&mut [0; 10]), Ok(0)));
    assert_eq!(streams.world.drops("tls_handshake_timeout"), 1);
}

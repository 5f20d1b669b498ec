//! The built program, alone, on loopback: as an operator would try it out.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not the helpers beside them")]

use std::io::{Read as _, Seek as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use protocol_stun::{AllocationClient, AllocationConfig, Credentials, Event, Lost, Output, Received};

const LIMIT: Duration = Duration::from_secs(20);

struct Relay {
    process: Child,
    address: SocketAddr,
    metrics: SocketAddr,
    log: std::fs::File,
    _run_dir: tempfile::TempDir,
}

impl Relay {
    fn start(arguments: &[&str]) -> Self {
        let address = free_udp();
        let metrics = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let run_dir = tempfile::tempdir().unwrap();
        // A file: a pipe that nobody reads would fill up and stop the program.
        let log = tempfile::tempfile().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_postern-relay"))
            .args(["--standalone", "--static-user", "alice:wonder"])
            .args(["--listen", &address.to_string(), "--metrics-listen", &metrics.to_string()])
            .args(["--log", "trace"])
            .arg("--run-dir")
            .arg(run_dir.path())
            .args(arguments)
            .env_remove("POSTERN_CONFIG")
            .stderr(log.try_clone().unwrap())
            .spawn()
            .unwrap();
        let relay = Self { process, address, metrics, log, _run_dir: run_dir };
        relay.until("the relay is ready", |relay| {
            relay.get("/readyz").is_some_and(|page| page.contains("200 OK"))
        });
        relay
    }

    fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !holds(self) {
            assert!(start.elapsed() < LIMIT, "not in time: {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.metrics).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: relay\r\nConnection: close\r\n\r\n").ok()?;
        let mut page = String::new();
        stream.read_to_string(&mut page).ok()?;
        Some(page)
    }

    fn metric(&self, line: &str) -> u64 {
        let page = self.get("/metrics").unwrap();
        let found = page.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(' '));
        found.map_or(0, |value| value.parse().unwrap())
    }

    /// Resident memory in KiB.
    fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse().unwrap()
    }

    /// Lines of its log so far.
    fn lines(&self) -> usize {
        use std::os::unix::fs::FileExt as _;
        let mut text = vec![0; self.log.metadata().unwrap().len() as usize];
        self.log.read_exact_at(&mut text, 0).unwrap();
        text.iter().filter(|byte| **byte == b'\n').count()
    }

    fn signal(&self) {
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.process.id()).unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }

    /// Exit status and log.
    fn end(mut self) -> (Option<i32>, String) {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.process.try_wait().unwrap() {
                break status;
            }
            assert!(start.elapsed() < LIMIT, "it does not end");
            std::thread::sleep(Duration::from_millis(20));
        };
        let mut log = String::new();
        self.log.rewind().unwrap();
        self.log.read_to_string(&mut log).unwrap();
        (status.code(), log)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_udp() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

struct Client {
    machine: AllocationClient,
    socket: UdpSocket,
    relay: SocketAddr,
    start: Instant,
    events: Vec<Event>,
    packets: Vec<(SocketAddr, Vec<u8>)>,
}

impl Client {
    fn new(relay: SocketAddr, password: &str) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
        let mut machine =
            AllocationClient::new(AllocationConfig::new(Credentials::new("alice", password)), rand_seed());
        machine.start(Duration::ZERO);
        Self { machine, socket, relay, start: Instant::now(), events: vec![], packets: vec![] }
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        let mut bytes = [0; 4096];
        while !holds(self) {
            assert!(start.elapsed() < LIMIT, "not in time: {what}; {:?}", self.events);
            self.machine.handle_timeout(self.start.elapsed());
            while let Some(output) = self.machine.poll_output() {
                match output {
                    Output::Send(bytes) => drop(self.socket.send_to(&bytes, self.relay).unwrap()),
                    Output::Event(event) => self.events.push(event),
                }
            }
            let Ok((length, _)) = self.socket.recv_from(&mut bytes) else { continue };
            let received = self.machine.handle_datagram(&bytes[..length], self.start.elapsed());
            if let Received::Data { peer, payload } = received {
                self.packets.push((peer, bytes[payload].to_vec()));
            }
        }
    }

    fn bind(&mut self, peer: SocketAddr) {
        self.machine.bind(peer, self.start.elapsed());
        self.until("a channel", |client| client.machine.channel(peer).is_some());
    }

    fn send(&mut self, peer: SocketAddr, payload: &[u8]) {
        let mut datagram = Vec::new();
        self.machine.wrap(peer, payload, &mut datagram).unwrap();
        self.socket.send_to(&datagram, self.relay).unwrap();
    }
}

/// Transaction ids only have to differ between the clients of a test.
fn rand_seed() -> [u8; 32] {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos();
    let mut seed = [0; 32];
    seed[..16].copy_from_slice(&nanos.to_ne_bytes());
    seed
}

#[test]
fn it_relays_for_its_user_counts_it_and_ends_in_order() {
    let relay = Relay::start(&["--allow-peer", "127.0.0.0/8", "--drain-seconds", "1"]);
    let mut client = Client::new(relay.address, "wonder");
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer_address = peer.local_addr().unwrap();
    client.bind(peer_address);

    client.send(peer_address, b"hello");
    let mut bytes = [0; 64];
    peer.set_read_timeout(Some(LIMIT)).unwrap();
    let (length, from) = peer.recv_from(&mut bytes).unwrap();
    assert_eq!(&bytes[..length], b"hello");
    peer.send_to(b"and back", from).unwrap();
    client.until("the answer", |client| !client.packets.is_empty());
    assert_eq!(client.packets, [(peer_address, b"and back".to_vec())]);

    assert_eq!(relay.metric("postern_relay_packets_total{direction=\"to_peer\"}"), 1);
    assert_eq!(relay.metric("postern_relay_packets_total{direction=\"to_client\"}"), 1);
    assert_eq!(relay.metric("postern_relay_allocations"), 1);
    assert!(relay.resident() < 20 * 1024, "{} KiB", relay.resident());
    relay.signal();
    let (status, log) = relay.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("draining") && !log.contains("wonder"), "{log}");
}

#[test]
fn nobody_reaches_loopback_through_it_by_default() {
    let relay = Relay::start(&[]);
    let mut client = Client::new(relay.address, "wonder");

    client.machine.permit([127, 0, 0, 1].into(), Duration::ZERO);
    client.until("a refusal", |client| {
        client.events.iter().any(|event| matches!(event, Event::Refused { .. }))
    });

    assert!(client.events.contains(&Event::Refused { peer: [127, 0, 0, 1].into(), code: 403 }));
}

#[test]
fn a_wrong_password_is_refused() {
    let relay = Relay::start(&[]);
    let mut client = Client::new(relay.address, "guess");

    client.until("a refusal", |client| !client.events.is_empty());

    assert_eq!(client.events, [Event::Lost(Lost::Credentials)]);
}

#[test]
fn a_client_that_somebody_else_wrote_loses_nothing() {
    if Command::new("turnutils_uclient").arg("-h").output().is_err() {
        eprintln!("skipped: turnutils_uclient (package coturn) is not installed");
        return;
    }
    let relay = Relay::start(&["--allow-peer", "127.0.0.0/8"]);
    let port = relay.address.port().to_string();
    for way in [&["-y"][..], &["-y", "-s"], &["-y", "-c"]] {
        let output = Command::new("timeout")
            .args([
                "60",
                "turnutils_uclient",
                "-u",
                "alice",
                "-w",
                "wonder",
                "-p",
                &port,
                "-n",
                "10",
                "-m",
                "2",
            ])
            .args(way)
            .arg("127.0.0.1")
            .output()
            .unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{way:?}: {said}");
        assert!(said.contains("Total lost packets 0 "), "{way:?}: {said}");
    }
    assert!(relay.metric("postern_relay_packets_total{direction=\"in_process\"}") > 0);
}

/// A certificate for `relay.example` and its key, as files.
fn certificate(dir: &std::path::Path) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["relay.example".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    (certificate.display().to_string(), key.display().to_string())
}

#[test]
fn it_serves_tcp_where_it_serves_udp_and_tls_where_it_is_told() {
    let files = tempfile::tempdir().unwrap();
    let (certificate, key) = certificate(files.path());
    let tls = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();

    let relay =
        Relay::start(&["--tls-cert", &certificate, "--tls-key", &key, "--listen-tls", &tls.to_string()]);

    let binding = b"\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl";
    let mut tcp = TcpStream::connect(relay.address).unwrap();
    tcp.write_all(binding).unwrap();
    let mut answer = [0; 32];
    tcp.read_exact(&mut answer).unwrap();
    assert_eq!(answer.get(..4), Some(&[1, 1, 0, 12][..]));
    // Whoever speaks TLS is greeted with a handshake, and whoever does not, with an alert.
    let mut plain = TcpStream::connect(tls).unwrap();
    plain.write_all(binding).unwrap();
    let mut alert = [0; 1];
    plain.read_exact(&mut alert).unwrap();
    assert_eq!(alert, [0x15]);
}

/// A smallest Allocate request in a UDP packet of its own, from `from` to `to`.
fn forged(from: SocketAddr, to: SocketAddr, id: u32) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { unreachable!("IPv4 only") };
    let mut packet = vec![0x45, 0, 0, 56, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(from.port().to_be_bytes());
    packet.extend(to.port().to_be_bytes());
    packet.extend([0, 36, 0, 0]);
    packet.extend(*b"\x00\x03\x00\x08\x21\x12\xa4\x42forged__");
    packet.extend(id.to_be_bytes());
    packet.extend(*b"\x00\x19\x00\x04\x11\x00\x00\x00");
    packet
}

#[test]
fn a_million_forged_requests_store_nothing_and_a_good_client_is_served_meanwhile() {
    let raw = socket2::Socket::new(
        socket2::Domain::IPV4,
        socket2::Type::RAW,
        Some(socket2::Protocol::from(255)), // IPPROTO_RAW: the packet brings its own IP header (raw(7)).
    );
    let Ok(raw) = raw else {
        eprintln!("skipped: raw sockets need CAP_NET_RAW");
        return;
    };
    let relay = Relay::start(&[]);
    let address = relay.address;
    // What the first answers touch is not what a flood leaves behind.
    let mut first = Client::new(address, "wonder");
    first.until("an allocation", |client| !client.events.is_empty());
    let before = relay.resident();

    let flood = std::thread::spawn(move || {
        let mut sent = 0;
        for n in 0..1_000_000_u32 {
            let from = SocketAddr::from(([127, 0, 0, 1], 535 + (n % 65_000) as u16));
            sent += u32::from(raw.send_to(&forged(from, address, n), &address.into()).is_ok());
        }
        sent
    });
    let mut took = Vec::new();
    while !flood.is_finished() {
        let begun = Instant::now();
        let mut client = Client::new(address, "wonder");
        client.until("an answer", |client| !client.events.is_empty());
        match client.events.remove(0) {
            Event::Allocated { .. } => took.push(begun.elapsed()),
            // On a machine that is busy with other things the flood may keep the socket's buffer full for ten seconds.
            Event::Lost(Lost::Unreachable) => continue,
            other => panic!("{other:?}"),
        }
        client.machine.release(client.start.elapsed());
        client.until("its end", |client| !client.events.is_empty());
    }

    let (sent, grown) = (flood.join().unwrap(), relay.resident().saturating_sub(before));
    took.sort_unstable();
    println!("{sent} requests: {grown} KiB more; {} allocations took {took:?}", took.len());
    assert!(sent > 990_000, "{sent}");
    assert!(grown <= 2048, "{grown} KiB");
    let mut after = Client::new(address, "wonder");
    after.until("an allocation", |client| !client.events.is_empty());
    assert!(matches!(after.events[0], Event::Allocated { .. }), "{:?}", after.events);
}

#[test]
fn a_flood_of_malformed_messages_writes_no_log() {
    let relay = Relay::start(&[]);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let (memory, lines) = (relay.resident(), relay.lines());

    for n in 0..100_000_u32 {
        let mut message = *b"\x00\x03\x00\x08\x21\x12\xa4\x42abcdefghijkl\x00\x19\x00\x44\x11\x00\x00\x00";
        message[8..12].copy_from_slice(&n.to_be_bytes());
        socket.send_to(&message, relay.address).unwrap();
    }

    relay.until("most are counted", |relay| {
        let counted = relay.metric("postern_packets_dropped_total{reason=\"malformed\"}")
            + relay.metric("postern_packets_dropped_total{reason=\"udp_receive_full\"}");
        counted > 50_000
    });
    assert!(relay.resident() <= memory + 1024, "{} KiB, {memory} before", relay.resident());
    assert!(relay.lines() <= lines + 2, "the log has grown by {} lines", relay.lines() - lines);
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_helps() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let run_dir = tempfile::tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_postern-relay"))
        .args(["--standalone", "--static-user", "alice:wonder", "--metrics-listen", "off"])
        .args(["--listen", &taken.local_addr().unwrap().to_string()])
        .arg("--run-dir")
        .arg(run_dir.path())
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("in use") && said.contains("--listen"), "{said}");
}

#[test]
fn check_tries_the_ports_of_connections_and_names_the_flag_that_helps() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let run_dir = tempfile::tempdir().unwrap();

    let output = Command::new(env!("CARGO_BIN_EXE_postern-relay"))
        .args(["check", "--json", "--standalone", "--static-user", "alice:wonder", "--metrics-listen", "off"])
        .args(["--listen", &free_udp().to_string(), "--listen-tcp", &taken.local_addr().unwrap().to_string()])
        .arg("--run-dir")
        .arg(run_dir.path())
        .env_remove("POSTERN_CONFIG")
        .output()
        .unwrap();

    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("tcp-port") && said.contains("--listen-tcp off"), "{said}");
}

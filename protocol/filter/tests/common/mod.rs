//! Grants and packets to test with.
#![allow(dead_code, reason = "each test file uses some of these")]
#![allow(clippy::unwrap_used, reason = "a test")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::ProptestConfig;
use protocol_filter::{
    Applied, Destination, GatewayRules, GrantSpec, GrantVersion, Offload, Output, PeerFilter, PeerGrants,
    Reason, ReplyBuf, TrafficFilter, Verdict,
};
use protocol_identity::{GrantId, PolicyId, ResourceId};
use protocol_packet::{Headers, Ip, TcpFlags, TcpSegment, echo_request, tcp, udp};

pub const DEVICE: &str = "100.64.0.2";
pub const DEVICE_V6: &str = "fd70:6f73:7401::2";
pub const FOREVER: Duration = Duration::from_secs(1_000_000);

pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// The same id for the same number.
pub fn grant_id(number: u128) -> GrantId {
    GrantId(uuid::Uuid::from_u128(number))
}

pub fn grant(number: u128, destination: Destination, filters: &[TrafficFilter], ends: Duration) -> GrantSpec {
    GrantSpec {
        grant: grant_id(number),
        resource: ResourceId(uuid::Uuid::from_u128(number)),
        policy: PolicyId(uuid::Uuid::from_u128(number)),
        destination,
        filters: filters.to_vec(),
        ends,
    }
}

pub fn cidr(text: &str) -> Destination {
    Destination::Cidr(text.parse().unwrap())
}

pub fn wiki(real: &[&str]) -> Destination {
    name("wiki.corp.example", 1, real)
}

/// A name with mapped addresses that end in `number`.
pub fn name(name: &str, number: u8, real: &[&str]) -> Destination {
    Destination::Name {
        name: name.to_owned(),
        mapped_v4: Some([100, 96, 0, number].into()),
        mapped_v6: Some([0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, u16::from(number)].into()),
        real: real.iter().map(|text| ip(text)).collect(),
    }
}

pub fn tcp_port(port: u16) -> TrafficFilter {
    TrafficFilter::Tcp { from: port, to: port }
}

pub fn rules() -> Arc<GatewayRules> {
    Arc::new(GatewayRules { own: vec![ip("192.0.2.1")], ..GatewayRules::default() })
}

/// A filter, its clock and its reply buffer.
pub struct Gateway {
    pub filter: PeerFilter,
    pub out: ReplyBuf,
    pub now: Duration,
    version: u64,
}

impl Gateway {
    pub fn with(grants: Vec<GrantSpec>) -> Self {
        let filter = PeerFilter::new(vec![ip(DEVICE), ip(DEVICE_V6)], rules(), 42);
        let mut gateway = Self { filter, out: ReplyBuf::new(), now: secs(1000), version: 0 };
        gateway.apply(grants);
        gateway
    }

    pub fn apply(&mut self, grants: Vec<GrantSpec>) {
        self.version += 1;
        let grants = PeerGrants::compile(GrantVersion(self.version), grants);
        assert_eq!(self.filter.apply(grants, self.now), Applied::InForce);
    }

    pub fn inward(&mut self, packet: &mut [u8]) -> Verdict {
        self.filter.inward(packet, Offload::default(), self.now, &mut self.out)
    }

    pub fn outward(&mut self, packet: &mut [u8]) -> Verdict {
        self.filter.outward(packet, Offload::default(), self.now, &mut self.out)
    }

    /// Sends a packet of the device; gives what reaches the resource.
    pub fn send_inward(&mut self, mut packet: Vec<u8>) -> Result<Vec<u8>, Reason> {
        let verdict = self.inward(&mut packet);
        passed(packet, verdict)
    }

    /// Sends a packet of the resource; gives what reaches the device.
    pub fn send_outward(&mut self, mut packet: Vec<u8>) -> Result<Vec<u8>, Reason> {
        let verdict = self.outward(&mut packet);
        passed(packet, verdict)
    }

    /// Goes on to `until`, waking exactly when the filter asks for it.
    pub fn wait_until(&mut self, until: Duration) {
        while let Some(next) = self.filter.poll_timeout().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.filter.handle_timeout(self.now);
            let again = self.filter.poll_timeout();
            assert!(again.is_none_or(|again| again > self.now), "asks to be woken for what is done");
        }
        self.now = until;
    }

    pub fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.filter.poll_output()).collect()
    }
}

fn passed(packet: Vec<u8>, verdict: Verdict) -> Result<Vec<u8>, Reason> {
    match verdict {
        Verdict::Forward { length } => {
            assert_eq!(length, packet.len());
            assert!(Ip::parse(&packet).unwrap().transport_checksum_holds(), "a checksum was broken");
            Ok(packet)
        }
        Verdict::Reply(reason) | Verdict::Drop(reason) => Err(reason),
    }
}

pub fn built<E: std::fmt::Debug>(build: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Vec<u8> {
    let mut out = vec![0; 1500];
    let length = build(&mut out).unwrap();
    out.truncate(length);
    out
}

pub fn datagram(from: &str, to: &str) -> Vec<u8> {
    datagram_between(at(from), at(to))
}

pub fn datagram_between(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    built(|out| udp(out, from, to, b"hello"))
}

pub fn ping(from: &str, to: &str, id: u16) -> Vec<u8> {
    built(|out| echo_request(out, ip(from), ip(to), id, 1, b"ping"))
}

/// The reply to an echo request, by the host that it reached.
pub fn pong(request: &[u8]) -> Vec<u8> {
    built(|out| protocol_packet::echo_reply(out, &Ip::parse(request).unwrap()))
}

pub fn segment(
    from: SocketAddr,
    to: SocketAddr,
    flags: TcpFlags,
    numbers: (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let (sequence, acknowledgement) = numbers;
    let segment = TcpSegment {
        source: from,
        destination: to,
        sequence,
        acknowledgement,
        flags,
        window: 65535,
        mss: None,
        payload,
    };
    built(|out| tcp(out, &segment))
}

pub fn syn(from: &str, to: &str) -> Vec<u8> {
    segment(at(from), at(to), TcpFlags::SYN, (1000, 0), b"")
}

pub fn headers(packet: &[u8]) -> Headers {
    *Ip::parse(packet).unwrap().headers()
}

/// Source and destination with ports.
pub fn ends(packet: &[u8]) -> (SocketAddr, SocketAddr) {
    let headers = headers(packet);
    let (source, destination) = headers.ports().unwrap();
    (SocketAddr::new(headers.source, source), SocketAddr::new(headers.destination, destination))
}

/// An answer in the reverse direction of a TCP or UDP packet.
pub fn answer_to(packet: &[u8]) -> Vec<u8> {
    let (from, to) = ends(packet);
    match headers(packet).tcp() {
        Some(tcp) => {
            let flags = if tcp.flags.has(TcpFlags::SYN) { TcpFlags::SYN } else { TcpFlags(0) };
            segment(to, from, flags.with(TcpFlags::ACK), (7000, tcp.sequence_end()), b"")
        }
        None => datagram_between(to, from),
    }
}

/// Failures are saved, with their seed, in a file beside the test, and tried first the next time.
pub fn config() -> ProptestConfig {
    let beside = proptest::test_runner::FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(beside)), ..ProptestConfig::default() }
}

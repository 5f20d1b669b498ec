//! Packets to test with.
#![allow(dead_code, reason = "each test file uses some of these")]

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use protocol_packet::{Ip, Sum, TcpFlags, TcpSegment, echo_request, protocol, tcp, udp};

/// What a generated packet carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carried {
    Tcp { syn: bool },
    Udp,
    UdpWithoutChecksum,
    Echo,
}

/// Two addresses of one family that are not all zeros.
pub fn two_addresses() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    prop_oneof![
        any::<([u8; 4], [u8; 4])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
        any::<([u8; 16], [u8; 16])>().prop_map(|(a, b)| (IpAddr::from(a), IpAddr::from(b))),
    ]
}

pub fn carried() -> impl Strategy<Value = Carried> {
    prop_oneof![
        any::<bool>().prop_map(|syn| Carried::Tcp { syn }),
        Just(Carried::Udp),
        Just(Carried::UdpWithoutChecksum),
        Just(Carried::Echo),
    ]
}

/// A valid packet.
pub fn packet() -> impl Strategy<Value = Vec<u8>> {
    carrying(carried())
}

/// A valid TCP segment, half of them SYN.
pub fn tcp_packet() -> impl Strategy<Value = Vec<u8>> {
    carrying(any::<bool>().prop_map(|syn| Carried::Tcp { syn }))
}

fn carrying(carried: impl Strategy<Value = Carried>) -> impl Strategy<Value = Vec<u8>> {
    (two_addresses(), carried, 1u16.., 1u16.., any::<u32>(), proptest::collection::vec(any::<u8>(), 0..90))
        .prop_map(|((source, destination), carried, source_port, destination_port, sequence, payload)| {
            let mut out = vec![0u8; 256];
            let (from, to) =
                (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port));
            let length = match carried {
                Carried::Tcp { syn } => tcp(
                    &mut out,
                    &TcpSegment {
                        source: from,
                        destination: to,
                        sequence,
                        acknowledgement: sequence ^ 0x5a5a_5a5a,
                        flags: if syn { TcpFlags::SYN } else { TcpFlags::ACK.with(TcpFlags::PSH) },
                        window: 1000,
                        mss: syn.then_some(1460),
                        payload: &payload,
                    },
                ),
                Carried::Udp | Carried::UdpWithoutChecksum => udp(&mut out, from, to, &payload),
                Carried::Echo => echo_request(&mut out, source, destination, source_port, 7, &payload),
            };
            out.truncate(length.unwrap());
            if carried == Carried::UdpWithoutChecksum && source.is_ipv4() {
                out[26..28].copy_from_slice(&[0, 0]);
            }
            out
        })
}

/// Sets the IPv4 header checksum right, so that damage elsewhere is looked at.
pub fn repair_header(packet: &mut [u8]) {
    if packet.len() < 20 || packet[0] >> 4 != 4 {
        return;
    }
    let length = (usize::from(packet[0] & 15) * 4).clamp(20, packet.len());
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = Sum::new().bytes(&packet[..length / 2 * 2]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Offset of the transport checksum.
pub fn checksum_at(ip: &Ip<'_>) -> usize {
    ip.ip_header_len
        + match ip.protocol() {
            protocol::TCP => 16,
            protocol::UDP => 6,
            protocol::ICMP | protocol::ICMPV6 => 2,
            other => panic!("no checksum in protocol {other}"),
        }
}

/// Leaves the pseudo-header's sum in the checksum field, as a TUN device with offloading does.
pub fn make_partial(packet: &mut [u8]) {
    let (at, sum) = {
        let ip = Ip::parse(packet).unwrap();
        let length = ip.ip_payload().len();
        let sum = if ip.protocol() == protocol::ICMP {
            0
        } else {
            Sum::new().pseudo_header(ip.source, ip.destination, ip.protocol(), length).fold()
        };
        (checksum_at(&ip), sum)
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Completes a partial checksum, as the kernel does before the packet leaves.
pub fn complete(packet: &mut [u8]) {
    let (at, sum) = {
        let ip = Ip::parse(packet).unwrap();
        (checksum_at(&ip), Sum::new().bytes(ip.ip_payload()).finish())
    };
    packet[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

/// Failures are saved, with their seed, in a file beside the test, and tried first the next time.
pub fn config() -> ProptestConfig {
    let beside = proptest::test_runner::FileFailurePersistence::WithSource("regressions");
    ProptestConfig { failure_persistence: Some(Box::new(beside)), ..ProptestConfig::default() }
}

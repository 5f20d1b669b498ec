//! A packet is taken whole and right, or refused under the name of what is wrong.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{config, packet, repair_header};
use proptest::prelude::*;
use protocol_packet::{
    Icmp, IcmpKind, Ip, Malformed, TcpFlags, TcpSegment, Transport, Version, echo_request, fuzz_ip, tcp, udp,
};

fn segment(flags: TcpFlags) -> Vec<u8> {
    let mut out = vec![0u8; 100];
    let length = tcp(
        &mut out,
        &TcpSegment {
            source: "10.0.0.1:1234".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            sequence: 1,
            acknowledgement: 2,
            flags,
            window: 3,
            mss: None,
            payload: b"hello",
        },
    );
    out.truncate(length.unwrap());
    out
}

fn datagram(from: &str, to: &str) -> Vec<u8> {
    let mut out = vec![0u8; 100];
    let length = udp(&mut out, from.parse().unwrap(), to.parse().unwrap(), b"hello").unwrap();
    out.truncate(length);
    out
}

fn after(mut packet: Vec<u8>, damage: impl FnOnce(&mut Vec<u8>)) -> Malformed {
    damage(&mut packet);
    repair_header(&mut packet);
    Ip::parse(&packet).unwrap_err()
}

fn with_options(options: &[u8]) -> Vec<u8> {
    assert_eq!(options.len() % 4, 0);
    let mut packet = segment(TcpFlags::ACK);
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    repair_header(&mut packet);
    packet
}

#[test]
fn every_fault_of_an_ipv4_header_has_its_name() {
    let whole = || segment(TcpFlags::ACK);

    assert_eq!(Ip::parse(&[]).unwrap_err(), Malformed::Truncated);
    assert_eq!(after(whole(), |p| p[0] = 0x55), Malformed::Version);
    assert_eq!(after(whole(), |p| p[0] = 0x44), Malformed::HeaderLength);
    assert_eq!(after(whole(), |p| p[2..4].copy_from_slice(&[0, 19])), Malformed::TotalLength);
    assert_eq!(after(whole(), |p| p.truncate(44)), Malformed::Truncated);
    assert_eq!(after(whole(), |p| p[6] = 0x20), Malformed::Fragment);
    assert_eq!(after(whole(), |p| p[7] = 1), Malformed::Fragment);
    assert_eq!(after(whole(), |p| p[9] = 58), Malformed::IcmpVersion);
    let mut damaged = whole();
    damaged[8] ^= 1;
    assert_eq!(Ip::parse(&damaged).unwrap_err(), Malformed::HeaderChecksum);
}

#[test]
fn ipv4_options_are_skipped_but_never_a_source_route() {
    let plain = with_options(&[1, 7, 3, 4]);

    assert_eq!(Ip::parse(&plain).unwrap().tcp().unwrap().destination, 80);
    assert_eq!(Ip::parse(&plain).unwrap().headers_len(), 44);
    assert_eq!(Ip::parse(&with_options(&[131, 4, 4, 0])).unwrap_err(), Malformed::SourceRoute);
    assert_eq!(Ip::parse(&with_options(&[1, 137, 3, 4])).unwrap_err(), Malformed::SourceRoute);
    assert_eq!(Ip::parse(&with_options(&[7, 5, 4, 0])).unwrap_err(), Malformed::Options);
    assert_eq!(Ip::parse(&with_options(&[7, 0, 4, 0])).unwrap_err(), Malformed::Options);
    assert_eq!(Ip::parse(&with_options(&[1, 1, 1, 7])).unwrap_err(), Malformed::Options);
    assert!(Ip::parse(&with_options(&[0, 131, 131, 131])).is_ok(), "nothing counts after the end of options");
}

#[test]
fn ipv6_extension_headers_are_refused_and_fragments_named() {
    let whole = || datagram("[fd00::1]:1000", "[fd00::2]:53");

    assert!(Ip::parse(&whole()).is_ok());
    assert_eq!(after(whole(), |p| p[6] = 44), Malformed::Fragment);
    for number in [0, 43, 50, 51, 60, 135, 139, 140] {
        assert_eq!(after(whole(), |p| p[6] = number), Malformed::ExtensionHeader, "{number}");
    }
    assert_eq!(after(whole(), |p| p[6] = 1), Malformed::IcmpVersion);
    assert_eq!(after(whole(), |p| p[5] += 1), Malformed::Truncated);
    assert_eq!(after(whole(), |p| p.truncate(39)), Malformed::Truncated);
    assert_eq!(after(whole(), |p| p[46..48].copy_from_slice(&[0, 0])), Malformed::UdpChecksum);
}

#[test]
fn every_fault_of_a_transport_header_has_its_name() {
    let tcp = || segment(TcpFlags::ACK);
    let udp = || datagram("10.0.0.1:1000", "10.0.0.2:53");
    let mut echo = vec![0u8; 28];
    echo_request(&mut echo, "10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap(), 1, 1, b"").unwrap();

    assert_eq!(after(tcp(), |p| p[2..4].copy_from_slice(&[0, 39])), Malformed::TcpTruncated);
    assert_eq!(after(tcp(), |p| p[32] = 0x40), Malformed::TcpOffset);
    assert_eq!(after(tcp(), |p| p[32] = 0x70), Malformed::TcpOffset);
    assert_eq!(after(tcp(), |p| p[33] = 0), Malformed::TcpFlags);
    assert_eq!(after(tcp(), |p| p[33] = 0x03), Malformed::TcpFlags);
    assert_eq!(after(tcp(), |p| p[33] = 0x06), Malformed::TcpFlags);
    assert_eq!(after(tcp(), |p| p[20..22].copy_from_slice(&[0, 0])), Malformed::PortZero);
    assert_eq!(after(tcp(), |p| p[22..24].copy_from_slice(&[0, 0])), Malformed::PortZero);
    assert_eq!(after(udp(), |p| p[2..4].copy_from_slice(&[0, 27])), Malformed::UdpTruncated);
    assert_eq!(after(udp(), |p| p[25] += 1), Malformed::UdpLength);
    assert_eq!(after(udp(), |p| p[25] -= 1), Malformed::UdpLength);
    assert_eq!(after(udp(), |p| p[22..24].copy_from_slice(&[0, 0])), Malformed::PortZero);
    assert_eq!(after(echo, |p| p[2..4].copy_from_slice(&[0, 27])), Malformed::IcmpTruncated);
}

#[test]
fn bytes_after_the_packet_are_cut_off() {
    let mut padded = segment(TcpFlags::ACK);
    let length = padded.len();
    padded.extend([0xff; 11]);

    let ip = Ip::parse(&padded).unwrap();

    assert_eq!(ip.bytes().len(), length);
    assert_eq!(ip.payload(), b"hello");
    assert_eq!(ip.tcp().unwrap().payload_len, 5);
}

#[test]
fn traffic_class_is_read_in_both_versions() {
    let mut four = segment(TcpFlags::ACK);
    four[1] = 46 << 2 | 1;
    repair_header(&mut four);
    let mut six = datagram("[fd00::1]:1000", "[fd00::2]:53");
    six[0] = 0x60 | 46 >> 2;
    six[1] = (46 & 3) << 6 | 1 << 4;

    for packet in [four, six] {
        let ip = Ip::parse(&packet).unwrap();
        assert_eq!((ip.dscp, ip.ecn), (46, 1), "{:?}", ip.version);
    }
}

#[test]
fn icmp_that_steers_hosts_is_not_taken_for_an_error() {
    for (version, kinds) in [(Version::V4, [4u8, 5, 13]), (Version::V6, [133, 136, 137])] {
        for kind in kinds {
            let mut packet = vec![0u8; 100];
            let (from, to) = match version {
                Version::V4 => ("10.0.0.1", "10.0.0.2"),
                Version::V6 => ("fd00::1", "fd00::2"),
            };
            let length =
                echo_request(&mut packet, from.parse().unwrap(), to.parse().unwrap(), 1, 1, &[0; 40])
                    .unwrap();
            packet.truncate(length);
            let at = Ip::parse(&packet).unwrap().ip_header_len;
            packet[at] = kind;

            let ip = Ip::parse(&packet).unwrap();

            assert!(
                matches!(ip.transport, Transport::Icmp(Icmp { kind: IcmpKind::Other, .. })),
                "{version:?} type {kind}"
            );
            assert_eq!(ip.quote(&packet).unwrap_err(), Malformed::NotAnError);
        }
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        fuzz_ip(&bytes);
    }

    #[test]
    fn no_damaged_packet_makes_it_panic(
        mut packet in packet(),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        cut in any::<prop::sample::Index>(),
        cuts in any::<bool>(),
    ) {
        for (at, value) in damage {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        if cuts {
            packet.truncate(cut.index(packet.len()));
        }
        repair_header(&mut packet);

        fuzz_ip(&packet);
    }

    #[test]
    fn what_is_taken_has_consistent_lengths(packet in packet()) {
        let ip = Ip::parse(&packet).unwrap();

        prop_assert_eq!(ip.total_len, packet.len());
        prop_assert_eq!(ip.headers_len() + ip.payload().len(), packet.len());
        prop_assert!(ip.transport_checksum_holds());
    }
}

//! Refusals are what a host's stack accepts as such.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::SocketAddr;

use common::{config, packet};
use proptest::prelude::*;
use protocol_packet::{
    IcmpError, IcmpKind, Ip, NotBuilt, Quoted, TcpFlags, TcpSegment, Version, echo_reply, echo_request,
    icmp_error, reset, reset_for, tcp, udp,
};

fn segment(flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; 100];
    let length = tcp(
        &mut out,
        &TcpSegment {
            source: "10.0.0.1:1234".parse().unwrap(),
            destination: "10.0.0.2:80".parse().unwrap(),
            sequence: 1000,
            acknowledgement: 5000,
            flags,
            window: 3,
            mss: None,
            payload,
        },
    );
    out.truncate(length.unwrap());
    out
}

fn reset_of(packet: &[u8]) -> Result<Vec<u8>, NotBuilt> {
    let mut out = vec![0u8; 60];
    let length = reset_for(&mut out, Ip::parse(packet).unwrap().headers())?;
    out.truncate(length);
    Ok(out)
}

#[test]
fn a_syn_is_reset_with_an_acknowledgement_of_it() {
    let reset = reset_of(&segment(TcpFlags::SYN, b"")).unwrap();

    let ip = Ip::parse(&reset).unwrap();
    let tcp = ip.tcp().unwrap();
    assert_eq!(tcp.flags, TcpFlags::RST.with(TcpFlags::ACK));
    assert_eq!((tcp.sequence, tcp.acknowledgement), (0, 1001));
    assert_eq!((tcp.source, tcp.destination), (80, 1234));
    assert!(ip.transport_checksum_holds());
}

#[test]
fn an_acknowledging_segment_is_reset_at_the_number_that_it_expects() {
    let reset = reset_of(&segment(TcpFlags::ACK, b"data")).unwrap();

    let tcp = Ip::parse(&reset).unwrap().tcp().unwrap();
    assert_eq!(tcp.flags, TcpFlags::RST);
    assert_eq!(tcp.sequence, 5000);
}

#[test]
fn a_fin_with_data_counts_whole() {
    let reset = reset_of(&segment(TcpFlags::FIN, b"data")).unwrap();

    assert_eq!(Ip::parse(&reset).unwrap().tcp().unwrap().acknowledgement, 1005);
}

#[test]
fn a_reset_is_not_answered() {
    assert_eq!(reset_of(&segment(TcpFlags::RST, b"")), Err(NotBuilt::NotAnswered));
    assert_eq!(reset_of(&segment(TcpFlags::RST.with(TcpFlags::ACK), b"")), Err(NotBuilt::NotAnswered));
}

#[test]
fn a_known_connection_is_reset_at_the_given_numbers() {
    let mut out = [0u8; 60];
    let (from, to): (SocketAddr, SocketAddr) =
        ("[fd00::1]:80".parse().unwrap(), "[fd00::2]:999".parse().unwrap());

    let length = reset(&mut out, from, to, 7, 9).unwrap();

    let ip = Ip::parse(&out[..length]).unwrap();
    let tcp = ip.tcp().unwrap();
    assert_eq!((tcp.sequence, tcp.acknowledgement), (7, 9));
    assert!(tcp.flags.has(TcpFlags::RST) && tcp.flags.has(TcpFlags::ACK));
    assert_eq!((ip.source, ip.destination), (from.ip(), to.ip()));
    assert!(ip.transport_checksum_holds());
}

#[test]
fn errors_carry_their_numbers_in_both_versions() {
    for (from, to, expected) in [
        ("10.0.0.1:9", "10.0.0.2:53", [(3u8, 13u8), (3, 3), (3, 4)]),
        ("[fd00::1]:9", "[fd00::2]:53", [(1, 1), (1, 4), (2, 0)]),
    ] {
        let mut original = vec![0u8; 2000];
        let length = udp(&mut original, from.parse().unwrap(), to.parse().unwrap(), &[7; 1700]).unwrap();
        original.truncate(length);
        let headers = *Ip::parse(&original).unwrap().headers();
        let errors = [IcmpError::Prohibited, IcmpError::PortUnreachable, IcmpError::TooBig { mtu: 1300 }];

        for (error, numbers) in errors.into_iter().zip(expected) {
            let mut out = [0u8; 1500];
            let length = icmp_error(&mut out, &original, &headers, error, headers.destination).unwrap();

            let ip = Ip::parse(&out[..length]).unwrap();
            let icmp = ip.icmp().unwrap();
            assert_eq!((icmp.kind_number, icmp.code), numbers);
            assert_eq!(length, if ip.version == Version::V4 { 576 } else { 1280 });
            assert!(ip.transport_checksum_holds());
            let quote = ip.quote(&out[..length]).unwrap();
            assert_eq!((quote.source, quote.destination), (headers.source, headers.destination));
            assert_eq!(quote.quoted, Quoted::Udp { source: 9, destination: 53 });
            let mtu = matches!(error, IcmpError::TooBig { .. }).then_some(1300);
            assert_eq!(icmp.mtu(ip.version, ip.ip_payload()), mtu);
        }
    }
}

#[test]
fn errors_and_replies_and_multicast_are_not_answered_with_errors() {
    let mut original = [0u8; 100];
    let to = "224.0.0.251:5353".parse().unwrap();
    let length = udp(&mut original, "10.0.0.1:5353".parse().unwrap(), to, b"?").unwrap();
    let multicast = original[..length].to_vec();
    let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
    let mut request = [0u8; 100];
    let length = echo_request(&mut request, a, b, 1, 2, b"ping").unwrap();
    let request = &request[..length];
    let mut reply = [0u8; 100];
    let length = echo_reply(&mut reply, &Ip::parse(request).unwrap()).unwrap();
    let reply = &reply[..length];
    let mut error = [0u8; 600];
    let prohibited = IcmpError::Prohibited;
    let headers = *Ip::parse(request).unwrap().headers();
    let length = icmp_error(&mut error, request, &headers, prohibited, b).unwrap();
    let error = &error[..length];

    for packet in [&multicast[..], reply, error] {
        let headers = *Ip::parse(packet).unwrap().headers();
        let mut out = [0u8; 600];
        assert_eq!(icmp_error(&mut out, packet, &headers, prohibited, b), Err(NotBuilt::NotAnswered));
    }
}

#[test]
fn a_buffer_that_is_too_small_is_refused() {
    let mut out = [0u8; 39];

    assert_eq!(
        reset_for(&mut out, Ip::parse(&segment(TcpFlags::SYN, b"")).unwrap().headers()),
        Err(NotBuilt::NoRoom)
    );
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn an_echo_reply_mirrors_its_request(packet in packet()) {
        let request = Ip::parse(&packet).unwrap();
        let mut out = [0u8; 256];

        match (request.icmp().map(|icmp| icmp.kind), echo_reply(&mut out, &request)) {
            (Some(IcmpKind::EchoRequest { id, sequence }), Ok(length)) => {
                let reply = Ip::parse(&out[..length]).unwrap();
                prop_assert_eq!(reply.icmp().unwrap().kind, IcmpKind::EchoReply { id, sequence });
                prop_assert_eq!((reply.source, reply.destination), (request.destination, request.source));
                prop_assert_eq!(reply.payload(), request.payload());
                prop_assert!(reply.transport_checksum_holds());
            }
            (None, result) => prop_assert_eq!(result, Err(NotBuilt::NotAnswered)),
            (other, result) => prop_assert!(false, "{:?} {:?}", other, result),
        }
    }
}

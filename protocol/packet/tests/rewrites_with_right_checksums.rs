//! After a rewrite every checksum is what a full computation gives.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::IpAddr;

use common::{complete, config, make_partial, packet, repair_header, tcp_packet, two_addresses};
use proptest::prelude::*;
use protocol_packet::{
    Checksum, IcmpError, IcmpKind, Ip, NotRewritten, Quoted, Rewrite, clamp_mss, icmp_error, protocol,
};

fn to(addresses: (IpAddr, IpAddr), ports: (Option<u16>, Option<u16>), like: &[u8]) -> Rewrite {
    let family = Ip::parse(like).unwrap().source.is_ipv4();
    let usable = |address: IpAddr| (address.is_ipv4() == family).then_some(address);
    Rewrite {
        source: usable(addresses.0),
        destination: usable(addresses.1),
        source_port: ports.0,
        destination_port: ports.1,
    }
}

/// A port, or for ICMP the identifier.
fn source_port(ip: &Ip<'_>) -> u16 {
    match ip.icmp().map(|icmp| icmp.kind) {
        Some(IcmpKind::EchoRequest { id, .. }) => id,
        Some(_) => panic!("only requests are made"),
        None => ip.ports().unwrap().0,
    }
}

/// Whether the IPv4 header checksum of a quote is right.
fn quoted_header_holds(bytes: &[u8]) -> bool {
    let mut copy = bytes.to_vec();
    repair_header(&mut copy);
    copy == bytes
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_whole_checksum_stays_right(
        mut packet in packet(),
        addresses in two_addresses(),
        ports in any::<(Option<u16>, Option<u16>)>(),
    ) {
        let ports = (ports.0.map(|p| p.max(1)), ports.1.map(|p| p.max(1)));
        let change = to(addresses, ports, &packet);
        let headers = *Ip::parse(&packet).unwrap().headers();

        headers.rewrite(&mut packet, &change, Checksum::Full).unwrap();

        let ip = Ip::parse(&packet).unwrap();
        prop_assert!(ip.transport_checksum_holds());
        prop_assert_eq!(ip.source, change.source.unwrap_or(headers.source));
        prop_assert_eq!(ip.destination, change.destination.unwrap_or(headers.destination));
        if let Some(port) = change.source_port {
            prop_assert_eq!(source_port(&ip), port);
        }
        if let (Some(port), Some((_, written))) = (change.destination_port, ip.ports()) {
            prop_assert_eq!(written, port);
        }
        if let Some(udp) = headers.udp() {
            prop_assert_eq!(udp.checksum == 0, ip.udp().unwrap().checksum == 0);
        }
    }

    #[test]
    fn a_partial_checksum_is_right_once_completed(
        mut packet in packet(),
        addresses in two_addresses(),
        ports in any::<(Option<u16>, Option<u16>)>(),
    ) {
        let ports = (ports.0.map(|p| p.max(1)), ports.1.map(|p| p.max(1)));
        make_partial(&mut packet);
        let change = to(addresses, ports, &packet);
        let headers = *Ip::parse(&packet).unwrap().headers();

        headers.rewrite(&mut packet, &change, Checksum::Partial).unwrap();

        complete(&mut packet);
        prop_assert!(Ip::parse(&packet).unwrap().transport_checksum_holds());
    }

    #[test]
    fn a_damaged_packet_stays_damaged(mut packet in packet(), addresses in two_addresses(), bit in 0u8..8) {
        let last = packet.len() - 1;
        let headers = *Ip::parse(&packet).unwrap().headers();
let unprotected = headers.udp().is_some_and(|udp| udp.checksum == 0);
        if unprotected || headers.headers_len() == packet.len() {
            return Ok(());
        }
        packet[last] ^= 1 << bit;

        let change = to(addresses, (Some(9), None), &packet);
        headers.rewrite(&mut packet, &change, Checksum::Full).unwrap();

        prop_assert!(!Ip::parse(&packet).unwrap().transport_checksum_holds());
    }

    #[test]
    fn a_rewrite_and_its_reverse_give_the_same_bytes(mut packet in packet(), addresses in two_addresses(), port in 1u16..) {
        let original = packet.clone();
        let change = to(addresses, (Some(port), None), &packet);
        let headers = *Ip::parse(&packet).unwrap().headers();
        let back = Rewrite {
            source: change.source.map(|_| headers.source),
            destination: change.destination.map(|_| headers.destination),
            source_port: Some(source_port(&Ip::parse(&packet).unwrap())),
            destination_port: None,
        };

        headers.rewrite(&mut packet, &change, Checksum::Full).unwrap();
        headers.rewrite(&mut packet, &back, Checksum::Full).unwrap();

        prop_assert_eq!(packet, original);
    }

    #[test]
    fn a_quoted_packet_is_rewritten_as_if_it_had_been_sent_so(
        original in packet(),
        router in two_addresses(),
        addresses in two_addresses(),
        port in 1u16..,
        cut in any::<bool>(),
    ) {
        let change = to(addresses, (Some(port), None), &original);
        let sent = *Ip::parse(&original).unwrap().headers();
        let mut error = vec![0u8; 1280];
        let router = if router.0.is_ipv4() == sent.source.is_ipv4() { router.0 } else { sent.destination };
        let kept = if cut { sent.ip_header_len + 8 } else { original.len() };
        let Ok(length) =
            icmp_error(&mut error, &original[..kept], &sent, IcmpError::TooBig { mtu: 1300 }, router)
        else {
            return Ok(()); // multicast and the like is not answered
        };
        error.truncate(length);
        let outer = *Ip::parse(&error).unwrap().headers();

        let quote = outer.quote(&error).unwrap();
        quote.rewrite(&mut error, &outer, &change, Checksum::Full).unwrap();

        let mut expected = original.clone();
        sent.rewrite(&mut expected, &change, Checksum::Full).unwrap();
        let ip = Ip::parse(&error).unwrap();
        prop_assert!(ip.transport_checksum_holds());
        prop_assert_eq!(ip.payload(), &expected[..kept.min(ip.payload().len())]);
        prop_assert!(quoted_header_holds(ip.payload()));
        let again = ip.quote(&error).unwrap();
        prop_assert_eq!(again.source, change.source.unwrap_or(sent.source));
        prop_assert_eq!(again.destination, change.destination.unwrap_or(sent.destination));
        let written = match again.quoted {
            Quoted::Tcp { source, .. } | Quoted::Udp { source, .. } => source,
            Quoted::EchoRequest { id } | Quoted::EchoReply { id } => id,
        };
        prop_assert_eq!(written, port);
    }

    #[test]
    fn a_clamped_syn_has_a_right_checksum(mut packet in tcp_packet(), max in 500u16..2000, shifted in any::<bool>()) {
        let headers = *Ip::parse(&packet).unwrap().headers();
        let options = headers.ip_header_len + 20;
        let has_option = headers.tcp().unwrap().header_len == 24;
        if shifted && has_option {
            // The option one byte further on, so that its value straddles two words.
            let payload = packet.split_off(options + 4);
            packet.truncate(options);
            packet.extend([1, 2, 4, 0x05, 0xb4, 1, 1, 0]);
            packet.extend(&payload);
            packet[options - 8] = 0x70;
            let length = packet.len();
            if headers.source.is_ipv4() {
                packet[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            } else {
                packet[4..6].copy_from_slice(&((length - 40) as u16).to_be_bytes());
            }
            repair_header(&mut packet);
            packet[options - 4..options - 2].copy_from_slice(&[0, 0]);
            complete_whole(&mut packet);
        }
        let headers = *Ip::parse(&packet).unwrap().headers();

        let changed = clamp_mss(&mut packet, &headers, max, Checksum::Full);

        prop_assert!(Ip::parse(&packet).unwrap().transport_checksum_holds());
        prop_assert_eq!(changed, has_option && max < 1460);
        if has_option {
            let at = options + if shifted { 3 } else { 2 };
            prop_assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), max.min(1460));
        }
    }
}

/// Computes a TCP checksum from nothing.
fn complete_whole(packet: &mut [u8]) {
    make_partial(packet);
    complete(packet);
}

#[test]
fn an_address_of_the_other_family_changes_nothing() {
    let mut out = vec![0u8; 60];
    let from = "10.0.0.1:1".parse().unwrap();
    let length = protocol_packet::udp(&mut out, from, "10.0.0.2:2".parse().unwrap(), b"x").unwrap();
    out.truncate(length);
    let before = out.clone();
    let headers = *Ip::parse(&out).unwrap().headers();
    let change = Rewrite {
        source: Some("10.9.9.9".parse().unwrap()),
        destination: Some("fd00::1".parse().unwrap()),
        ..Rewrite::default()
    };

    assert_eq!(headers.rewrite(&mut out, &change, Checksum::Full), Err(NotRewritten::Family));

    assert_eq!(out, before);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    let mut out = vec![0u8; 30];
    let (from, to) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    protocol_packet::udp(&mut out, from, to, &[0, 0]).unwrap();
    let headers = *Ip::parse(&out).unwrap().headers();
    // The source port that makes everything else sum to zero.
    let checksum = headers.udp().unwrap().checksum;
    let port = (u32::from(checksum) + 1000) % 0xffff;

    let change = Rewrite { source_port: Some(port as u16), ..Rewrite::default() };
    headers.rewrite(&mut out, &change, Checksum::Full).unwrap();

    let ip = Ip::parse(&out).unwrap();
    assert_eq!(ip.udp().unwrap().checksum, 0xffff);
    assert!(ip.transport_checksum_holds());
    assert_eq!(ip.protocol(), protocol::UDP);
}

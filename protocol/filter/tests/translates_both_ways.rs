//! What a resource sees and what a device sees are two true views of one flow.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::collections::{HashMap, HashSet};

use common::*;
use proptest::prelude::*;
use protocol_filter::{GrantSpec, Offload, Output, Verdict};
use protocol_packet::{Checksum, Ip, Sum, TcpFlags, protocol};

fn two_names_on_one_server() -> Vec<GrantSpec> {
    vec![
        grant(1, name("wiki.corp.example", 1, &["10.0.0.5", "fd00::5"]), &[], FOREVER),
        grant(2, name("git.corp.example", 2, &["10.0.0.5", "fd00::5"]), &[], FOREVER),
        grant(3, cidr("10.0.0.0/8"), &[], FOREVER),
    ]
}

#[test]
fn two_names_on_one_server_do_not_collide() {
    let mut gateway = Gateway::with(two_names_on_one_server());

    let wiki = gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.1:443")).unwrap();
    let git = gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.2:443")).unwrap();
    let direct = gateway.send_inward(syn("100.64.0.2:5000", "10.0.0.5:443")).unwrap();

    let seen: HashSet<_> = [&wiki, &git, &direct].map(|packet| ends(packet)).into_iter().collect();
    assert_eq!(seen.len(), 3, "the server can tell them apart");
    assert_eq!(ends(&wiki), (at("100.64.0.2:5000"), at("10.0.0.5:443")), "the first keeps its port");
    for (sent, shown) in [(&wiki, "100.96.0.1:443"), (&git, "100.96.0.2:443"), (&direct, "10.0.0.5:443")] {
        let answer = gateway.send_outward(answer_to(sent)).unwrap();
        assert_eq!(ends(&answer), (at(shown), at("100.64.0.2:5000")));
    }
}

#[test]
fn two_pings_with_one_identifier_do_not_collide() {
    let mut gateway = Gateway::with(two_names_on_one_server());

    let wiki = gateway.send_inward(ping(DEVICE, "100.96.0.1", 9)).unwrap();
    let git = gateway.send_inward(ping(DEVICE, "100.96.0.2", 9)).unwrap();

    for (sent, shown) in [(&wiki, "100.96.0.1"), (&git, "100.96.0.2")] {
        let reply = gateway.send_outward(pong(sent)).unwrap();
        assert_eq!(reply, pong(&ping(DEVICE, shown, 9)));
    }
}

#[test]
fn a_flow_keeps_its_server_when_the_name_gets_others() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[], FOREVER)]);
    gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.1:443")).unwrap();

    gateway.apply(vec![grant(1, wiki(&["10.0.0.6"]), &[], FOREVER)]);

    let packet = segment(at("100.64.0.2:5000"), at("100.96.0.1:443"), TcpFlags::ACK, (1001, 1), b"x");
    assert_eq!(headers(&gateway.send_inward(packet).unwrap()).destination, ip("10.0.0.5"));
    let fresh = gateway.send_inward(syn("100.64.0.2:5001", "100.96.0.1:443")).unwrap();
    assert_eq!(headers(&fresh).destination, ip("10.0.0.6"));
    assert_eq!(gateway.outputs(), []);
}

#[test]
fn connections_spread_over_servers_and_find_theirs_again_after_a_restart() {
    let servers = ["10.0.0.5", "10.0.0.6", "10.0.0.7"];
    let choose = |servers: &[&str]| {
        let mut gateway = Gateway::with(vec![grant(1, wiki(servers), &[], FOREVER)]);
        (5000..5200u16)
            .map(|port| {
                let sent = gateway.send_inward(syn(&format!("100.64.0.2:{port}"), "100.96.0.1:443")).unwrap();
                (port, headers(&sent).destination)
            })
            .collect::<HashMap<_, _>>()
    };

    let before = choose(&servers);
    let after = choose(&["10.0.0.7", "10.0.0.5", "10.0.0.6"]);

    assert_eq!(before, after, "in whatever order the name server lists them");
    for server in servers {
        assert!(before.values().filter(|chosen| **chosen == ip(server)).count() > 30);
    }
}

#[test]
fn a_name_without_an_address_of_the_family_is_refused_so_that_the_other_is_tried() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[], FOREVER)]);

    let verdict = gateway.inward(&mut syn("[fd70:6f73:7401::2]:5000", "[fd70:6f73:7402::1]:80"));

    assert_eq!(verdict, Verdict::Reply(protocol_filter::Reason::NoAddress));
}

#[test]
fn super_packets_with_partial_checksums_are_translated_and_counted() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[], FOREVER)]);
    let payload = vec![7u8; 1200];
    let mut packet = segment(at("100.64.0.2:5000"), at("100.96.0.1:443"), TcpFlags::ACK, (1, 1), &payload);
    let pseudo = |packet: &[u8]| {
        let headers = headers(packet);
        let length = headers.total_len - headers.ip_header_len;
        Sum::new().pseudo_header(headers.source, headers.destination, protocol::TCP, length).fold()
    };
    let partial = pseudo(&packet);
    packet[36..38].copy_from_slice(&partial.to_be_bytes());
    let offload = Offload { checksum: Checksum::Partial, segment: Some(500) };

    let verdict = gateway.filter.inward(&mut packet, offload, gateway.now, &mut gateway.out);

    assert_eq!(verdict, Verdict::Forward { length: packet.len() });
    assert_eq!(headers(&packet).destination, ip("10.0.0.5"));
    assert_eq!(packet[36..38], pseudo(&packet).to_be_bytes());
    gateway.filter.close(gateway.now);
    let record = gateway.outputs().into_iter().find_map(|output| match output {
        Output::FlowEnded(record) => Some(record),
        Output::ToPeer(_) | Output::ToResource(_) => None,
    });
    let record = record.unwrap();
    assert_eq!((record.packets_in, record.bytes_in), (3, packet.len() as u64));
    assert_eq!(record.name.as_deref(), Some("wiki.corp.example"));
    assert_eq!(record.real, ip("10.0.0.5"));
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    v6: bool,
    protocol: u8,
    port: u16,
    to: u8,
    service: u16,
}

fn sent() -> impl Strategy<Value = Sent> {
    (any::<bool>(), 0u8..3, 5000u16..5004, 0u8..3, 80u16..82)
        .prop_map(|(v6, protocol, port, to, service)| Sent { v6, protocol, port, to, service })
}

fn packet_of(sent: Sent) -> Vec<u8> {
    let device = ip(if sent.v6 { DEVICE_V6 } else { DEVICE });
    let to = ip(match (sent.v6, sent.to) {
        (false, 0) => "100.96.0.1",
        (false, 1) => "100.96.0.2",
        (false, _) => "10.0.0.5",
        (true, 0) => "fd70:6f73:7402::1",
        (true, 1) => "fd70:6f73:7402::2",
        (true, _) => "fd00::5",
    });
    let (from, at) = ((device, sent.port).into(), (to, sent.service).into());
    match sent.protocol {
        0 => segment(from, at, TcpFlags::ACK, (5, 6), b"data"),
        1 => datagram_between(from, at),
        _ => built(|out| protocol_packet::echo_request(out, device, to, sent.port, 3, b"ping")),
    }
}

proptest! {
    #![proptest_config(config())]

    /// Over many colliding flows: what the server would answer comes back as what the device would expect.
    #[test]
    fn the_answer_to_a_translated_packet_is_the_translated_answer(flows in proptest::collection::vec(sent(), 1..40)) {
        let mut grants = two_names_on_one_server();
        grants.push(grant(4, cidr("fd00::/16"), &[], FOREVER));
        let mut gateway = Gateway::with(grants);
        let mut seen = HashMap::new();

        for sent in flows {
            let original = packet_of(sent);
            let translated = gateway.send_inward(original.clone()).unwrap();
            let parsed = Ip::parse(&translated).unwrap();

            let reply = |packet: &[u8]| if sent.protocol == 2 { pong(packet) } else { answer_to(packet) };
            let back = gateway.send_outward(reply(&translated)).unwrap();
            prop_assert_eq!(back, reply(&original));

            // The server sees each flow as one of its own.
            let flow = if sent.protocol == 2 {
                (parsed.source, u16::from_be_bytes([parsed.ip_payload()[4], parsed.ip_payload()[5]]), 0)
            } else {
                let (from, to) = ends(&translated);
                (from.ip(), from.port(), to.port())
            };
            let key = (sent.v6, sent.protocol, sent.port, sent.to, if sent.protocol == 2 { 0 } else { sent.service });
            let other = seen.insert((sent.protocol, flow), key);
            prop_assert!(other.is_none_or(|other| other == key), "two flows look alike to the server");
        }
    }
}

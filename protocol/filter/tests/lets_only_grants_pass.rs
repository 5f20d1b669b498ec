//! What a peer sends passes only where a grant leads; what comes back, only on its own flows.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use protocol_filter::{
    Destination, GatewayRules, GrantVersion, Limits, Offload, PeerFilter, PeerGrants, Reason, ReplyBuf,
    TrafficFilter, Verdict,
};
use protocol_packet::{IcmpError, Ip, Malformed, TcpFlags, icmp_error};

#[test]
fn a_granted_destination_is_reached_and_answers() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.1.0.0/16"), &[], FOREVER)]);

    let sent = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    let answer = gateway.send_outward(answer_to(&sent)).unwrap();

    assert_eq!(ends(&answer), (at("10.1.2.3:80"), at("100.64.0.2:5000")));
}

#[test]
fn nothing_is_reached_before_the_first_grant() {
    let mut filter = PeerFilter::new(vec![ip(DEVICE)], rules(), 1);
    let mut out = ReplyBuf::new();

    let verdict =
        filter.inward(&mut syn("100.64.0.2:5000", "10.1.2.3:80"), Offload::default(), secs(1), &mut out);

    assert_eq!(verdict, Verdict::Reply(Reason::NoGrant));
}

#[test]
fn a_source_that_is_not_the_peers_own_is_dropped() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);

    for source in ["100.64.0.3:5000", "10.1.1.1:5000", "127.0.0.1:5000", "192.0.2.1:5000"] {
        let verdict = gateway.inward(&mut syn(source, "10.1.2.3:80"));
        assert_eq!(verdict, Verdict::Drop(Reason::SpoofedSource), "{source}");
    }
}

#[test]
fn fragments_are_dropped_under_their_name() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);
    let mut packet = datagram("100.64.0.2:5000", "10.1.2.3:80");
    packet[6] = 0x20;
    packet[10..12].copy_from_slice(&[0, 0]);
    let sum = protocol_packet::Sum::new().bytes(&packet[..20]).finish();
    packet[10..12].copy_from_slice(&sum.to_be_bytes());

    assert_eq!(gateway.inward(&mut packet), Verdict::Drop(Reason::Malformed(Malformed::Fragment)));
}

#[test]
fn ports_and_protocols_outside_the_filters_are_refused() {
    let filters = [TrafficFilter::Tcp { from: 80, to: 90 }, TrafficFilter::Udp { from: 53, to: 53 }];
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &filters, FOREVER)]);

    assert!(gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:90")).is_ok());
    assert!(gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:53")).is_ok());
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:91")), Err(Reason::Filtered));
    assert_eq!(gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:80")), Err(Reason::Filtered));
    assert_eq!(gateway.send_inward(ping(DEVICE, "10.1.2.3", 1)), Err(Reason::Filtered));
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5000", "11.1.2.3:90")), Err(Reason::NoGrant));
}

#[test]
fn a_wider_grant_allows_what_a_narrower_one_filters() {
    let mut gateway = Gateway::with(vec![
        grant(1, Destination::Ip(ip("10.1.2.3")), &[tcp_port(22)], FOREVER),
        grant(2, cidr("10.0.0.0/8"), &[tcp_port(80)], FOREVER),
    ]);

    assert!(gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:22")).is_ok());
    assert!(gateway.send_inward(syn("100.64.0.2:5001", "10.1.2.3:80")).is_ok());
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5002", "10.1.2.3:81")), Err(Reason::Filtered));
}

#[test]
fn forbidden_addresses_are_reached_only_by_their_exact_name() {
    let everything = || vec![grant(1, cidr("0.0.0.0/0"), &[], FOREVER), grant(2, cidr("::/0"), &[], FOREVER)];
    let forbidden = [
        "127.0.0.1:80",
        "169.254.169.254:80",
        "169.254.3.4:80",
        "192.0.2.1:80",
        "100.64.0.3:80",
        "100.96.0.9:80",
    ];
    let forbidden_v6 = [
        "[::1]:80",
        "[fe80::1]:80",
        "[fd00:ec2::254]:80",
        "[fd70:6f73:7401::3]:80",
        "[64:ff9b::169.254.169.254]:80",
        "[64:ff9b::192.0.2.1]:80",
    ];

    for (source, targets) in [("100.64.0.2:5000", forbidden), ("[fd70:6f73:7401::2]:5000", forbidden_v6)] {
        for target in targets {
            let mut gateway = Gateway::with(everything());
            assert_eq!(gateway.send_inward(syn(source, target)), Err(Reason::Forbidden), "{target}");

            let mut grants = everything();
            grants.push(grant(3, Destination::Ip(at(target).ip()), &[], FOREVER));
            let mut gateway = Gateway::with(grants);
            assert!(gateway.send_inward(syn(source, target)).is_ok(), "{target}");
        }
    }
    let mut gateway = Gateway::with(everything());
    assert!(gateway.send_inward(syn("100.64.0.2:5000", "8.8.8.8:80")).is_ok());
}

#[test]
fn multicast_is_dropped_without_an_answer() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("0.0.0.0/0"), &[], FOREVER)]);

    let verdict = gateway.inward(&mut datagram("100.64.0.2:5353", "224.0.0.251:5353"));

    assert_eq!(verdict, Verdict::Drop(Reason::Forbidden));
}

#[test]
fn a_name_never_leads_to_a_forbidden_address() {
    let real = ["127.0.0.1", "169.254.169.254", "192.0.2.1"];
    let mut gateway = Gateway::with(vec![grant(1, wiki(&real), &[], FOREVER)]);
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.1:80")), Err(Reason::Forbidden));

    gateway.apply(vec![grant(1, wiki(&["127.0.0.1", "10.0.0.5"]), &[], FOREVER)]);
    for port in 5000..5050 {
        let sent = gateway.send_inward(syn(&format!("100.64.0.2:{port}"), "100.96.0.1:80")).unwrap();
        assert_eq!(headers(&sent).destination, ip("10.0.0.5"));
    }
}

#[test]
fn nothing_outside_the_ceiling_is_reached() {
    let ceiling =
        GatewayRules { ceiling: Some(vec!["10.1.0.0/16".parse().unwrap()]), ..GatewayRules::default() };
    let mut filter = PeerFilter::new(vec![ip(DEVICE)], std::sync::Arc::new(ceiling), 1);
    let grants =
        vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER), grant(2, wiki(&["10.2.0.1"]), &[], FOREVER)];
    filter.apply(PeerGrants::compile(GrantVersion(1), grants), secs(1));
    let mut out = ReplyBuf::new();
    let mut verdict =
        |to: &str| filter.inward(&mut syn("100.64.0.2:5000", to), Offload::default(), secs(1), &mut out);

    assert!(matches!(verdict("10.1.0.1:80"), Verdict::Forward { .. }));
    assert_eq!(verdict("10.2.0.1:80"), Verdict::Reply(Reason::AboveCeiling));
    assert_eq!(verdict("100.96.0.1:80"), Verdict::Reply(Reason::AboveCeiling));
}

#[test]
fn the_resource_side_begins_nothing() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);
    gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    gateway.send_inward(ping(DEVICE, "10.1.2.3", 7)).unwrap();

    for packet in [
        syn("10.1.2.3:80", "100.64.0.2:5001"),
        syn("10.1.2.3:81", "100.64.0.2:5000"),
        syn("10.1.2.4:80", "100.64.0.2:5000"),
        datagram("10.1.2.3:80", "100.64.0.2:5000"),
        ping("10.1.2.3", DEVICE, 7),
    ] {
        assert_eq!(gateway.send_outward(packet), Err(Reason::NoFlow));
    }
    assert_eq!(
        gateway.send_outward(syn("10.1.2.3:80", "100.64.0.9:5000")),
        Err(Reason::NotForPeer),
        "another peer's address"
    );
}

#[test]
fn ping_passes_and_its_reply_too() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[TrafficFilter::Icmp], FOREVER)]);

    let sent = gateway.send_inward(ping(DEVICE, "100.96.0.1", 77)).unwrap();
    let reply = gateway.send_outward(pong(&sent)).unwrap();

    assert_eq!(headers(&sent).destination, ip("10.0.0.5"));
    assert_eq!(headers(&reply).source, ip("100.96.0.1"));
    assert_eq!(gateway.send_outward(pong(&ping(DEVICE, "10.0.0.5", 78))), Err(Reason::NoFlow));
}

#[test]
fn other_protocols_are_not_carried() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);
    let mut gre = datagram("100.64.0.2:5000", "10.1.2.3:80");
    gre[9] = 47;
    gre[10..12].copy_from_slice(&[0, 0]);
    let sum = protocol_packet::Sum::new().bytes(&gre[..20]).finish();
    gre[10..12].copy_from_slice(&sum.to_be_bytes());

    assert_eq!(gateway.send_inward(gre), Err(Reason::NotCarried));
    assert_eq!(gateway.send_inward(pong(&ping("10.1.2.3", DEVICE, 1))), Err(Reason::NotCarried));
}

#[test]
fn refusals_make_applications_fail_at_once() {
    let mut gateway = Gateway::with(vec![]);

    assert_eq!(gateway.inward(&mut syn("100.64.0.2:5000", "10.1.2.3:80")), Verdict::Reply(Reason::NoGrant));
    let tcp = headers(&gateway.out).tcp().unwrap();
    assert!(tcp.flags.has(TcpFlags::RST) && tcp.acknowledgement == 1001);
    assert_eq!(ends(&gateway.out), (at("10.1.2.3:80"), at("100.64.0.2:5000")));

    assert_eq!(
        gateway.inward(&mut datagram("[fd70:6f73:7401::2]:5000", "[fd00::1]:80")),
        Verdict::Reply(Reason::NoGrant)
    );
    let icmp = headers(&gateway.out).icmp().unwrap();
    assert_eq!((icmp.kind_number, icmp.code), (1, 1));

    assert_eq!(gateway.inward(&mut ping(DEVICE, "10.1.2.3", 1)), Verdict::Reply(Reason::NoGrant));
    let icmp = headers(&gateway.out).icmp().unwrap();
    assert_eq!((icmp.kind_number, icmp.code), (3, 13));
}

#[test]
fn refusals_are_limited_and_the_rest_is_dropped_under_the_same_reason() {
    let mut gateway = Gateway::with(vec![]);
    let limits = Limits::default();

    let count = |gateway: &mut Gateway, packets: u32| {
        (0..packets)
            .filter(|_| match gateway.inward(&mut datagram("100.64.0.2:5000", "10.1.2.3:80")) {
                Verdict::Reply(Reason::NoGrant) => true,
                Verdict::Drop(Reason::NoGrant) => false,
                other => panic!("{other:?}"),
            })
            .count() as u32
    };

    assert_eq!(count(&mut gateway, 1000), limits.refusal_burst);
    gateway.now += secs(60);
    assert_eq!(count(&mut gateway, 1000), limits.refusal_burst);
}

#[test]
fn a_full_flow_table_refuses_new_flows_and_keeps_old_ones() {
    let rules = GatewayRules { limits: Limits { flows: 3, ..Limits::default() }, ..GatewayRules::default() };
    let mut filter = PeerFilter::new(vec![ip(DEVICE)], std::sync::Arc::new(rules), 1);
    let grants = vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)];
    filter.apply(PeerGrants::compile(GrantVersion(1), grants), secs(1));
    let mut out = ReplyBuf::new();
    let mut send = |port: u16| {
        let mut packet = syn(&format!("100.64.0.2:{port}"), "10.1.2.3:80");
        filter.inward(&mut packet, Offload::default(), secs(1), &mut out)
    };

    for port in 1..=3 {
        assert!(matches!(send(port), Verdict::Forward { .. }));
    }
    assert_eq!(send(4), Verdict::Reply(Reason::FlowTableFull));
    assert!(matches!(send(1), Verdict::Forward { .. }));
}

#[test]
fn an_error_about_a_live_flow_reaches_the_device_in_its_own_terms() {
    for (device, mapped, real, router) in [
        ("100.64.0.2:5000", "100.96.0.1:80", "10.0.0.5", "10.99.0.1"),
        ("[fd70:6f73:7401::2]:5000", "[fd70:6f73:7402::1]:80", "fd00::5", "fd99::1"),
    ] {
        let mut gateway = Gateway::with(vec![grant(1, wiki(&[real]), &[], FOREVER)]);
        let original = datagram(device, mapped);
        let sent = gateway.send_inward(original.clone()).unwrap();
        let error =
            built(|out| icmp_error(out, &sent, &headers(&sent), IcmpError::TooBig { mtu: 1300 }, ip(router)));

        let seen = gateway.send_outward(error).unwrap();

        let parsed = Ip::parse(&seen).unwrap();
        assert_eq!(parsed.payload(), &original[..], "the quote is what the device sent");
        assert_eq!(parsed.source, at(mapped).ip());
        assert_eq!(parsed.icmp().unwrap().mtu(parsed.version, parsed.ip_payload()), Some(1300));
    }
}

#[test]
fn an_error_of_the_device_reaches_the_resource_in_its_own_terms() {
    let mut gateway = Gateway::with(vec![grant(1, wiki(&["10.0.0.5"]), &[], FOREVER)]);
    let sent = gateway.send_inward(datagram("100.64.0.2:5000", "100.96.0.1:80")).unwrap();
    let answer = answer_to(&sent);
    let seen = gateway.send_outward(answer.clone()).unwrap();
    let error = built(|out| icmp_error(out, &seen, &headers(&seen), IcmpError::PortUnreachable, ip(DEVICE)));

    let told = gateway.send_inward(error).unwrap();

    let parsed = Ip::parse(&told).unwrap();
    assert_eq!(parsed.destination, ip("10.0.0.5"));
    assert_eq!(parsed.payload(), &answer[..]);
}

#[test]
fn errors_about_anything_else_are_dropped() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);
    let sent = gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    let about = |packet: &[u8], from: &str| {
        built(|out| icmp_error(out, packet, &headers(packet), IcmpError::PortUnreachable, ip(from)))
    };

    // About another port, and about a packet that the device never sent.
    let other = about(&datagram("100.64.0.2:5001", "10.1.2.3:80"), "10.1.2.3");
    assert_eq!(gateway.send_outward(other), Err(Reason::UnknownQuote));
    // From the device about a packet of another resource, sent to a third one.
    let answer = answer_to(&sent);
    let mut misled = about(&answer, DEVICE);
    let outer = headers(&misled);
    let change =
        protocol_packet::Rewrite { destination: Some(ip("10.7.7.7")), ..protocol_packet::Rewrite::default() };
    outer.rewrite(&mut misled, &change, protocol_packet::Checksum::Full).unwrap();
    assert_eq!(gateway.send_inward(misled), Err(Reason::UnknownQuote));
    // From the device about a flow that it does not have.
    let unknown = about(&datagram("10.1.2.3:81", "100.64.0.2:5000"), DEVICE);
    assert_eq!(gateway.send_inward(unknown), Err(Reason::UnknownQuote));
    // The real ones pass.
    assert!(gateway.send_outward(about(&sent, "10.1.2.3")).is_ok());
    assert!(gateway.send_inward(about(&answer, DEVICE)).is_ok());
}

#[test]
fn an_error_about_one_inner_address_does_not_reach_another() {
    let (first, second) = (ip(DEVICE), ip("100.64.0.3"));
    let mut filter = PeerFilter::new(vec![first, second], rules(), 1);
    let grants = vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)];
    filter.apply(PeerGrants::compile(GrantVersion(1), grants), secs(1));
    let mut out = ReplyBuf::new();
    let mut sent = datagram("100.64.0.2:5000", "10.1.2.3:80");
    let verdict = filter.inward(&mut sent, Offload::default(), secs(1), &mut out);
    assert!(matches!(verdict, Verdict::Forward { .. }));
    let mut error =
        built(|out| icmp_error(out, &sent, &headers(&sent), IcmpError::PortUnreachable, ip("10.1.2.3")));
    let outer = headers(&error);
    let change = protocol_packet::Rewrite { destination: Some(second), ..Default::default() };
    outer.rewrite(&mut error, &change, protocol_packet::Checksum::Full).unwrap();

    let verdict = filter.outward(&mut error, Offload::default(), secs(1), &mut out);

    assert_eq!(verdict, Verdict::Drop(Reason::UnknownQuote));
}

#[test]
fn bytes_after_the_packet_are_not_forwarded() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]);
    let mut packet = datagram("100.64.0.2:5000", "10.1.2.3:80");
    let length = packet.len();
    packet.extend([0; 9]);

    assert_eq!(gateway.inward(&mut packet), Verdict::Forward { length });
}

#[test]
fn a_table_crosses_threads_and_a_filter_moves() {
    fn sendable<T: Send + Sync>() {}
    fn movable<T: Send>() {}

    sendable::<PeerGrants>();
    sendable::<GatewayRules>();
    movable::<PeerFilter>();
}

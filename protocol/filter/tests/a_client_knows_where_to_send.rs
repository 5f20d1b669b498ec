//! A client's packets go to the peer that serves them, ask for access, or fail at once.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use protocol_filter::{Access, ClientTable, Outward, PeerSlot, Reason, ReplyBuf, TrafficFilter};
use protocol_identity::ResourceId;
use protocol_packet::{IcmpError, TcpFlags, icmp_error, reset};

const OFFICE: PeerSlot = PeerSlot(1);
const CLOUD: PeerSlot = PeerSlot(2);

fn resource(number: u128) -> ResourceId {
    ResourceId(uuid::Uuid::from_u128(number))
}

fn table() -> ClientTable {
    let mut table = ClientTable::new(vec![ip(DEVICE), ip(DEVICE_V6)]);
    table.put(resource(1), vec!["10.0.0.0/8".parse().unwrap()], vec![]);
    table.put(resource(2), vec!["10.1.2.3/32".parse().unwrap()], vec![tcp_port(22)]);
    table.put(
        resource(3),
        vec!["100.96.0.1/32".parse().unwrap(), "fd70:6f73:7402::1/128".parse().unwrap()],
        vec![tcp_port(80), TrafficFilter::Icmp],
    );
    table
}

fn send(table: &ClientTable, packet: &[u8]) -> Outward {
    table.outward(packet, secs(100), &mut ReplyBuf::new())
}

#[test]
fn an_unknown_resource_is_asked_for_then_waited_for_then_used() {
    let mut table = table();
    let packet = syn("[fd70:6f73:7401::2]:5000", "[fd70:6f73:7402::1]:80");

    assert_eq!(send(&table, &packet), Outward::AskAccess(resource(3)));
    table.set(resource(3), Access::Pending);
    assert_eq!(send(&table, &packet), Outward::Wait(resource(3)));
    table.set(resource(3), Access::Granted(OFFICE));
    assert_eq!(send(&table, &packet), Outward::ToPeer { peer: OFFICE, length: packet.len() });
    assert_eq!(table.access(resource(3)), Some(Access::Granted(OFFICE)));
}

#[test]
fn a_denied_resource_is_refused_at_once_and_asked_for_again_later() {
    let mut table = table();
    table.set(resource(3), Access::Denied { again: secs(110) });
    let mut out = ReplyBuf::new();

    let refused = table.outward(&syn("100.64.0.2:5000", "100.96.0.1:80"), secs(109), &mut out);
    assert_eq!(refused, Outward::Refuse(Reason::Denied));
    assert!(headers(&out).tcp().unwrap().flags.has(TcpFlags::RST));
    let refused = table.outward(&ping(DEVICE, "100.96.0.1", 1), secs(109), &mut out);
    assert_eq!(refused, Outward::Refuse(Reason::Denied));
    assert_eq!((headers(&out).icmp().unwrap().kind_number, headers(&out).icmp().unwrap().code), (3, 13));

    let asked = table.outward(&syn("100.64.0.2:5000", "100.96.0.1:80"), secs(110), &mut out);
    assert_eq!(asked, Outward::AskAccess(resource(3)));
}

#[test]
fn the_narrowest_resource_with_that_service_counts() {
    let mut table = table();
    table.set(resource(1), Access::Granted(OFFICE));
    table.set(resource(2), Access::Granted(CLOUD));
    let peer_of = |table: &ClientTable, to: &str| match send(table, &syn("100.64.0.2:5000", to)) {
        Outward::ToPeer { peer, .. } => peer,
        other => panic!("{other:?}"),
    };

    assert_eq!(peer_of(&table, "10.1.2.3:22"), CLOUD);
    assert_eq!(peer_of(&table, "10.1.2.3:23"), OFFICE);
    table.set(resource(2), Access::Denied { again: FOREVER });
    assert_eq!(peer_of(&table, "10.1.2.3:22"), OFFICE, "a wider resource is still granted");
    table.forget_peer(OFFICE);
    assert_eq!(send(&table, &syn("100.64.0.2:5000", "10.1.2.3:22")), Outward::AskAccess(resource(1)));
}

#[test]
fn what_no_resource_has_is_refused() {
    let table = table();

    assert_eq!(send(&table, &syn("100.64.0.2:5000", "100.96.0.1:81")), Outward::Refuse(Reason::Filtered));
    assert_eq!(
        send(&table, &datagram("100.64.0.2:5000", "11.0.0.1:80")),
        Outward::Refuse(Reason::NoResource)
    );
    assert_eq!(
        send(&table, &datagram("100.64.0.2:5353", "224.0.0.251:5353")),
        Outward::Drop(Reason::NoResource)
    );
    assert_eq!(send(&table, &syn("192.168.0.7:5000", "10.1.2.3:22")), Outward::Drop(Reason::SpoofedSource));
}

#[test]
fn a_peer_speaks_only_for_what_is_granted_through_it() {
    let mut table = table();
    table.set(resource(1), Access::Granted(OFFICE));
    table.set(resource(3), Access::Granted(CLOUD));
    let answer = |from: &str| segment(at(from), at("100.64.0.2:5000"), TcpFlags::ACK, (1, 1), b"x");

    assert!(table.inward(&answer("10.5.5.5:443"), OFFICE).is_ok());
    assert_eq!(table.inward(&answer("10.5.5.5:443"), CLOUD), Err(Reason::WrongPeer));
    assert!(table.inward(&answer("100.96.0.1:80"), CLOUD).is_ok());
    assert_eq!(table.inward(&answer("100.96.0.1:81"), CLOUD), Err(Reason::WrongPeer), "another port");
    assert_eq!(table.inward(&answer("100.96.0.1:80"), OFFICE), Err(Reason::WrongPeer));
    assert_eq!(
        table.inward(&datagram("10.5.5.5:443", "100.64.0.3:5000"), OFFICE),
        Err(Reason::NotForPeer),
        "another device's address"
    );
    assert_eq!(table.inward(&ping("10.5.5.5", DEVICE, 1), OFFICE), Err(Reason::NotCarried));
    assert!(table.inward(&pong(&ping(DEVICE, "100.96.0.1", 1)), CLOUD).is_ok());
}

#[test]
fn a_peer_may_still_end_connections_after_its_grant_ended() {
    let mut table = table();
    table.set(resource(3), Access::Granted(OFFICE));
    table.set(resource(3), Access::Denied { again: FOREVER });
    let (device, shown) = (at("100.64.0.2:5000"), at("100.96.0.1:80"));
    let rst = built(|out| reset(out, shown, device, 1, 1));
    let data = segment(shown, device, TcpFlags::ACK, (1, 1), b"x");
    let sent = datagram("100.64.0.2:5000", "100.96.0.1:80");
    let error = built(|out| icmp_error(out, &sent, &headers(&sent), IcmpError::Prohibited, ip("100.96.0.1")));

    assert!(table.inward(&rst, OFFICE).is_ok());
    assert!(table.inward(&error, OFFICE).is_ok());
    assert_eq!(table.inward(&data, OFFICE), Err(Reason::WrongPeer));
    assert_eq!(table.inward(&rst, CLOUD), Err(Reason::WrongPeer));
}

#[test]
fn errors_of_the_host_go_to_the_peer_that_they_are_about() {
    let mut table = table();
    table.set(resource(1), Access::Granted(OFFICE));
    let about = |packet: &[u8]| {
        built(|out| icmp_error(out, packet, &headers(packet), IcmpError::PortUnreachable, ip(DEVICE)))
    };

    let error = about(&datagram("10.5.5.5:53", "100.64.0.2:5000"));
    assert_eq!(send(&table, &error), Outward::ToPeer { peer: OFFICE, length: error.len() });
    let error = about(&datagram("11.5.5.5:53", "100.64.0.2:5000"));
    assert_eq!(send(&table, &error), Outward::Drop(Reason::UnknownQuote));
}

#[test]
fn changing_a_resource_keeps_its_access_and_removing_it_forgets_it() {
    let mut table = table();
    table.set(resource(1), Access::Granted(OFFICE));

    table.put(resource(1), vec!["11.0.0.0/8".parse().unwrap()], vec![]);
    assert!(matches!(send(&table, &syn("100.64.0.2:5000", "11.1.1.1:80")), Outward::ToPeer { .. }));
    assert_eq!(send(&table, &syn("100.64.0.2:5000", "10.1.1.1:80")), Outward::Refuse(Reason::NoResource));
    table.remove(resource(1));
    assert_eq!(send(&table, &syn("100.64.0.2:5000", "11.1.1.1:80")), Outward::Refuse(Reason::NoResource));
    table.retain(|id| id == resource(3));
    assert_eq!(table.access(resource(2)), None);
    assert!(!table.set(resource(2), Access::Pending));
}

//! How a session comes about, and who may start it.

mod support;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use protocol_identity::{Secret32, WireguardKey};
use protocol_tunnel::{
    Admission, DatagramKind, Dropped, Limiter, Opened, Output, Sealed, TunnelIndex, classify,
    peek_initiation, receiver,
};
use support::*;

const T0: Duration = Duration::ZERO;

#[test]
fn packets_wait_for_the_session_and_leave_in_order() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let mut out = [0; 2048];

    assert_eq!(client.seal(&packet(1, 10), &mut out, T0), Sealed::Queued);
    assert_eq!(client.seal(&packet(2, 10), &mut out, T0), Sealed::Queued);
    let initiation = initiations(&mut client).remove(0);
    let (_, response) = deliver(&mut gateway, CLIENT, &initiation, T0);
    let (opened, _keepalive_is_lost) = deliver(&mut client, GATEWAY, &response, T0);

    assert!(opened.proves_source());
    for tag in [1, 2] {
        let len = client.drain(&mut out, T0).unwrap();
        let (opened, received) = deliver(&mut gateway, CLIENT, &out[..len], T0);
        assert!(matches!(opened, Opened::Packet { source, .. } if source == Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(received, packet(tag, 10));
    }
    assert_eq!(client.drain(&mut out, T0), None);
    assert!(gateway.is_established());
}

#[test]
fn the_queue_is_bounded_and_says_so() {
    let keys = Keys::new();
    let mut client = keys.client(T0);
    let mut out = [0; 2048];

    let queued =
        (0..1000).take_while(|_| client.seal(&packet(1, 10), &mut out, T0) == Sealed::Queued).count();

    assert_eq!(queued, 64);
    assert_eq!(client.seal(&packet(1, 10), &mut out, T0), Sealed::Dropped(Dropped::QueueFull));
    assert_eq!(initiations(&mut client).len(), 1, "one handshake for all of them");
}

#[test]
fn a_responder_seals_nothing_and_starts_nothing_before_the_initiators_first_data() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let mut out = [0; 2048];
    let initiation = fresh_initiation(&mut client, T0);
    let (_, response) = deliver(&mut gateway, CLIENT, &initiation, T0);

    assert_eq!(gateway.seal(&packet(9, 10), &mut out, T0), Sealed::Queued);
    assert_eq!(gateway.drain(&mut out, T0), None);
    gateway.handle_timeout(Duration::from_secs(4));
    assert!(initiations(&mut gateway).is_empty(), "no counter-handshake");

    let (_, keepalive) = deliver(&mut client, GATEWAY, &response, T0);
    deliver(&mut gateway, CLIENT, &keepalive, T0);
    assert_eq!(gateway.poll_output(), Some(Output::Established));
    let len = gateway.drain(&mut out, T0).unwrap();
    let (_, received) = deliver(&mut client, GATEWAY, &out[..len], T0);
    assert_eq!(received, packet(9, 10));
}

#[test]
fn a_responder_whose_initiator_stays_silent_starts_a_handshake_after_five_seconds() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let mut out = [0; 2048];
    let initiation = fresh_initiation(&mut client, T0);
    deliver(&mut gateway, CLIENT, &initiation, T0);
    gateway.seal(&packet(9, 10), &mut out, T0);

    let mut now = T0;
    let mut started = None;
    while started.is_none() && now < Duration::from_secs(20) {
        now = gateway.poll_timeout().expect("something waits");
        gateway.handle_timeout(now);
        started = (!initiations(&mut gateway).is_empty()).then_some(now);
    }

    assert_eq!(started.map(|at| at.as_secs()), Some(5));
}

#[test]
fn copies_of_an_initiation_draw_the_same_response_from_every_source() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let initiation = fresh_initiation(&mut client, T0);
    let (_, first) = deliver(&mut gateway, CLIENT, &initiation, T0);

    for host in 2..10 {
        let source = IpAddr::V4(Ipv4Addr::new(198, 51, 100, host));
        let (opened, response) = deliver(&mut gateway, source, &initiation, T0);

        assert!(matches!(opened, Opened::Reply { proves_source: false, .. }));
        assert_eq!(response, first);
    }
    let (_, keepalive) = deliver(&mut client, GATEWAY, &first, T0);
    let (second, _) = deliver(&mut client, GATEWAY, &first, T0);
    assert_eq!(second, Opened::Dropped(Dropped::Unexpected));
    assert_eq!(deliver(&mut gateway, CLIENT, &keepalive, T0).0, Opened::Keepalive);
    assert_both_ways(&mut client, &mut gateway, T0);
}

#[test]
fn without_a_session_fresh_initiations_follow_and_with_one_none_do() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    client.initiate(false, T0);
    let mut sent = initiations(&mut client);
    let mut now = T0;

    while now < Duration::from_millis(3_000) {
        now = client.poll_timeout().unwrap();
        client.handle_timeout(now);
        sent.extend(initiations(&mut client));
    }

    let different: std::collections::BTreeSet<_> = sent.iter().collect();
    assert_eq!(different.len(), 4, "at 0, 0.25, 1 and 3 seconds");
    assert_eq!(sent.len(), 5, "and a copy at 2");
    let (_, response) = deliver(&mut gateway, CLIENT, &sent[4], now);
    deliver(&mut client, GATEWAY, &response, now);
    while now < Duration::from_secs(4) {
        now = client.poll_timeout().unwrap();
        client.handle_timeout(now);
    }
    assert!(initiations(&mut client).is_empty());
}

#[test]
fn an_initiation_leads_to_its_peer_without_a_tunnel() {
    let keys = Keys::new();
    let initiation = fresh_initiation(&mut keys.client(T0), T0);

    assert_eq!(peek_initiation(&keys.gateway, &initiation), Ok(keys.client.public()));
    let stranger = WireguardKey::generate().unwrap();
    assert_eq!(peek_initiation(&stranger, &initiation), Err(Dropped::NotAuthentic));
    assert_eq!(peek_initiation(&keys.gateway, &initiation[1..]), Err(Dropped::Malformed));
}

#[test]
fn every_datagram_with_an_index_names_the_tunnel_and_the_handshake_tells_the_other_ends_index() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let initiation = fresh_initiation(&mut client, T0);
    let (_, response) = deliver(&mut gateway, CLIENT, &initiation, T0);
    let (_, keepalive) = deliver(&mut client, GATEWAY, &response, T0);

    assert_eq!(receiver(&initiation), None);
    assert_eq!(receiver(&response), Some(TunnelIndex::new(3, 0)));
    assert_eq!(receiver(&keepalive), Some(TunnelIndex::new(0x1234, 5)));
    assert_eq!((response[9], keepalive[5]), (0, 5), "the lane is where a packet filter looks");
    assert_eq!(client.remote_index(), Some(TunnelIndex::new(0x1234, 5).receiver_index()));
    assert_eq!(gateway.remote_index(), Some(TunnelIndex::new(3, 0).receiver_index()));
}

#[test]
fn another_pre_shared_key_gives_no_session() {
    let mut keys = Keys::new();
    let mut client = keys.client(T0);
    keys.preshared = Some(Secret32::new([8; 32]));
    let mut gateway = keys.gateway(T0);

    let initiation = fresh_initiation(&mut client, T0);
    let (_, response) = deliver(&mut gateway, CLIENT, &initiation, T0);
    let (opened, _) = deliver(&mut client, GATEWAY, &response, T0);

    assert_eq!(opened, Opened::Dropped(Dropped::NotAuthentic));
    assert!(!client.is_established());
}

#[test]
fn under_load_a_cookie_is_asked_for_and_the_next_initiation_brings_it() {
    let mut keys = Keys::new();
    keys.gateway_limit = 0;
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));

    let initiation = fresh_initiation(&mut client, T0);
    let (asked, cookie) = deliver(&mut gateway, CLIENT, &initiation, T0);
    let (taken, _) = deliver(&mut client, GATEWAY, &cookie, T0);
    let with_cookie = fresh_initiation(&mut client, T0);
    let (opened, response) = deliver(&mut gateway, CLIENT, &with_cookie, T0);

    assert!(!asked.proves_source());
    assert_eq!(classify(&cookie), Some(DatagramKind::Cookie));
    assert_eq!(taken, Opened::Cookie);
    assert!(matches!(opened, Opened::Reply { .. }));
    assert_eq!(classify(&response), Some(DatagramKind::Response));
    let mut reply = [0; 64];
    let limiter = Limiter::new(&keys.gateway.public(), 0);
    assert_eq!(limiter.admit(CLIENT, &initiation, &mut reply), Admission::Cookie);
    let mut damaged = initiation.clone();
    damaged[20] ^= 1;
    assert_eq!(limiter.admit(CLIENT, &damaged, &mut reply), Admission::Refused(Dropped::NotAuthentic));
}

#[test]
fn keys_never_print() {
    let keys = Keys::new();

    let text = format!("{:?} {:?}", keys.client_config(), keys.client(T0));

    assert!(!text.contains("private") && !text.contains("preshared"), "{text}");
}

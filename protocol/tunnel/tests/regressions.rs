//! What others paid for: each of these silenced somebody's tunnel.

mod support;

use std::time::Duration;

use protocol_tunnel::{Dropped, MAX_UNCONFIRMED, Opened, Tunnel};
use support::*;

const T0: Duration = Duration::ZERO;

/// boringtun stores a session for every initiation that it answers, at its number modulo eight.
#[test]
fn eight_initiations_on_a_one_way_path_do_not_deafen_the_live_session() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);

    let mut dropped = 0;
    for _ in 0..8 {
        let initiation = fresh_initiation(&mut client, T0);
        let (opened, _response_is_lost) = deliver(&mut gateway, CLIENT, &initiation, T0);
        dropped += usize::from(opened == Opened::Dropped(Dropped::TooManyUnconfirmed));
    }

    assert_eq!(dropped, 8 - MAX_UNCONFIRMED);
    assert_both_ways(&mut client, &mut gateway, T0);
}

#[test]
fn initiations_that_trickle_in_for_minutes_do_not_deafen_the_live_session() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);

    let mut answered = 0;
    for second in (0..150).step_by(5) {
        let now = Duration::from_secs(second);
        let initiation = fresh_initiation(&mut client, now);
        let (opened, _response_is_lost) = deliver(&mut gateway, CLIENT, &initiation, now);
        answered += usize::from(matches!(opened, Opened::Reply { .. }));
        assert_both_ways(&mut client, &mut gateway, now);
    }

    assert!(answered > 8, "{answered} would have gone around the table of eight");
}

#[test]
fn initiations_of_our_own_that_nobody_answers_do_not_make_room_for_overwriting() {
    let keys = Keys::new();
    for own in 0..16 {
        let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
        connect(&mut client, &mut gateway, T0);
        for _ in 0..own {
            fresh_initiation(&mut gateway, T0);
        }

        for _ in 0..MAX_UNCONFIRMED {
            let initiation = fresh_initiation(&mut client, T0);
            let (opened, _response_is_lost) = deliver(&mut gateway, CLIENT, &initiation, T0);
            assert!(matches!(opened, Opened::Reply { .. }));
            assert_both_ways(&mut client, &mut gateway, T0);
        }
    }
}

#[test]
fn an_unconfirmed_session_is_never_sent_with_even_when_there_was_none_before() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let mut responses = Vec::new();
    let mut now = T0;

    // The eighth would land where boringtun sends from at first; the client holds on to the one before.
    while responses.len() < 8 {
        let initiation = fresh_initiation(&mut client, now);
        if let (Opened::Reply { .. }, response) = deliver(&mut gateway, CLIENT, &initiation, now) {
            responses.push(response);
        }
        now += Duration::from_secs(8);
    }
    let (_, keepalive) = deliver(&mut client, GATEWAY, &responses[6], now);
    deliver(&mut gateway, CLIENT, &keepalive, now);

    assert_both_ways(&mut client, &mut gateway, now);
}

#[test]
fn a_restarted_end_starts_a_handshake_itself_and_is_heard() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);

    let mut gateway = keys.gateway(T0);
    let initiation = fresh_initiation(&mut gateway, T0);
    let (_, response) = deliver(&mut client, GATEWAY, &initiation, T0);
    let (_, keepalive) = deliver(&mut gateway, CLIENT, &response, T0);
    deliver(&mut client, GATEWAY, &keepalive, T0);

    assert_both_ways(&mut client, &mut gateway, T0);
}

#[test]
fn an_end_that_lost_its_session_asks_for_a_new_one_when_data_of_the_old_one_keeps_coming() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);
    let mut gateway = keys.gateway(T0);

    let mut asked = None;
    for tenth in 0..100 {
        let now = Duration::from_millis(tenth * 100);
        let datagram = seal(&mut client, &packet(1, 10), now);
        deliver(&mut gateway, CLIENT, &datagram, now);
        gateway.handle_timeout(now);
        if asked.is_none() && !initiations(&mut gateway).is_empty() {
            asked = Some(now);
        }
    }

    let asked = asked.expect("a handshake");
    assert!((Duration::from_secs(2)..Duration::from_secs(6)).contains(&asked), "{asked:?}");
}

#[test]
fn forged_data_of_unknown_sessions_draws_few_initiations_and_none_while_the_other_end_is_heard() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);
    let mut forged = seal(&mut client, &packet(1, 10), T0);
    forged[4] ^= 0x07;

    let mut drawn = [0, 0];
    for tenth in 0..600 {
        let now = Duration::from_millis(tenth * 100);
        let heard = tenth < 300;
        if heard && tenth % 10 == 0 {
            let datagram = seal(&mut client, &packet(1, 10), now);
            deliver(&mut gateway, CLIENT, &datagram, now);
        }
        let (opened, _) = deliver(&mut gateway, CLIENT, &forged, now);
        assert_eq!(opened, Opened::Dropped(Dropped::UnknownSession));
        gateway.handle_timeout(now);
        drawn[usize::from(heard)] += initiations(&mut gateway).len();
    }

    assert_eq!(drawn, [1, 0], "one that nobody answers; the engine repeats it every five seconds");
}

#[test]
fn both_ends_start_at_once_and_end_with_sessions_that_work() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));

    start_at_once(&mut client, &mut gateway);

    assert_both_ways(&mut client, &mut gateway, T0);
}

/// Each end sends with the session that it asked for itself, so the one that it hears is not the one it sends with.
#[test]
fn after_both_started_at_once_unanswered_initiations_deafen_neither() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    start_at_once(&mut client, &mut gateway);

    for round in 0..20 {
        let now = Duration::from_secs(round * 8);
        let initiation = fresh_initiation(&mut client, now);
        deliver(&mut gateway, CLIENT, &initiation, now);
        let initiation = fresh_initiation(&mut gateway, now);
        deliver(&mut client, GATEWAY, &initiation, now);
        assert_both_ways(&mut client, &mut gateway, now);
    }
}

fn start_at_once(client: &mut Tunnel, gateway: &mut Tunnel) {
    let of_client = fresh_initiation(client, T0);
    let of_gateway = fresh_initiation(gateway, T0);

    let (_, response_to_client) = deliver(gateway, CLIENT, &of_client, T0);
    let (_, response_to_gateway) = deliver(client, GATEWAY, &of_gateway, T0);
    let (_, keepalive_of_client) = deliver(client, GATEWAY, &response_to_client, T0);
    let (_, keepalive_of_gateway) = deliver(gateway, CLIENT, &response_to_gateway, T0);
    deliver(gateway, CLIENT, &keepalive_of_client, T0);
    deliver(client, GATEWAY, &keepalive_of_gateway, T0);
}

/// boringtun goes over to the session that came about last, even when the one that answered is no more.
#[test]
fn a_late_response_of_an_end_that_has_restarted_does_not_deafen_for_long() {
    let keys = Keys::new();
    let (mut former, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let initiation = fresh_initiation(&mut gateway, T0);
    let (_, late) = deliver(&mut former, GATEWAY, &initiation, T0);
    let mut client = keys.client(T0);
    connect(&mut client, &mut gateway, T0);
    deliver(&mut gateway, CLIENT, &late, T0);
    let unheard = seal(&mut gateway, &packet(2, 10), T0);
    // The former client's session had the same number, so it is taken for a forgery.
    assert_eq!(deliver(&mut client, GATEWAY, &unheard, T0).0, Opened::Dropped(Dropped::NotAuthentic));

    for second in 0..6 {
        let now = Duration::from_secs(second);
        let datagram = seal(&mut client, &packet(1, 10), now);
        deliver(&mut gateway, CLIENT, &datagram, now);
        for initiation in initiations(&mut gateway) {
            let (_, response) = deliver(&mut client, GATEWAY, &initiation, now);
            deliver(&mut gateway, CLIENT, &response, now);
        }
    }

    assert_both_ways(&mut client, &mut gateway, Duration::from_secs(6));
}

/// Somebody on the way replays a cookie reply, from wherever he likes.
#[test]
fn replayed_cookie_replies_steer_nothing_and_keep_nothing_alive() {
    let mut keys = Keys::new();
    keys.gateway_limit = 0;
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let initiation = fresh_initiation(&mut client, T0);
    let (_, cookie) = deliver(&mut gateway, CLIENT, &initiation, T0);

    let (first, _) = deliver(&mut client, GATEWAY, &cookie, T0);
    let (second, _) = deliver(&mut client, "192.0.2.66".parse().unwrap(), &cookie, T0);

    assert_eq!(first, Opened::Cookie);
    assert!(!first.proves_source(), "a cookie reply never moves the path");
    assert_eq!(second, Opened::Dropped(Dropped::StaleCookie));
    assert_eq!(client.last_receive(), None);
}

#[test]
fn replayed_data_is_dropped_and_steers_nothing() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);
    let datagram = seal(&mut client, &packet(1, 10), T0);
    deliver(&mut gateway, CLIENT, &datagram, T0);

    let (opened, _) = deliver(&mut gateway, "192.0.2.66".parse().unwrap(), &datagram, T0);

    assert_eq!(opened, Opened::Dropped(Dropped::Replayed));
    assert!(!opened.proves_source());
}

#[test]
fn a_replayed_initiation_of_an_earlier_session_is_refused() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let old = fresh_initiation(&mut client, T0);
    deliver(&mut gateway, CLIENT, &old, T0);
    connect(&mut client, &mut gateway, T0);

    let (opened, _) = deliver(&mut gateway, CLIENT, &old, Duration::from_secs(60));

    assert_eq!(opened, Opened::Dropped(Dropped::Replayed));
    assert_both_ways(&mut client, &mut gateway, Duration::from_secs(60));
}

#[test]
fn no_buffer_size_panics() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    let initiation = fresh_initiation(&mut client, T0);
    for size in 0..148 {
        assert_eq!(
            gateway.open(CLIENT, &initiation, &mut vec![0; size], T0),
            Opened::Dropped(Dropped::BufferTooSmall)
        );
    }
    connect(&mut client, &mut gateway, T0);
    let inner = packet(1, 1000);
    let datagram = seal(&mut client, &inner, T0);

    for size in [0, 1, 147, 148, inner.len(), inner.len() + 31] {
        let mut out = vec![0; size];
        assert_eq!(
            client.seal(&inner, &mut out, T0),
            protocol_tunnel::Sealed::Dropped(Dropped::BufferTooSmall)
        );
        assert_eq!(client.drain(&mut out, T0), None);
        assert_eq!(gateway.open(CLIENT, &datagram, &mut out, T0), Opened::Dropped(Dropped::BufferTooSmall));
    }
    assert!(matches!(
        gateway.open(CLIENT, &datagram, &mut vec![0; datagram.len()], T0),
        Opened::Packet { .. }
    ));
}

#[test]
fn a_counter_beyond_the_limit_is_refused_before_it_is_opened() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);
    let mut datagram = seal(&mut client, &packet(1, 10), T0);

    datagram[8..16].copy_from_slice(&u64::MAX.to_le_bytes());
    let (opened, _) = deliver(&mut gateway, CLIENT, &datagram, T0);

    assert_eq!(opened, Opened::Dropped(Dropped::Replayed));
}

#[test]
fn sealed_content_that_is_no_packet_is_named_so() {
    let keys = Keys::new();
    let (mut client, mut gateway) = (keys.client(T0), keys.gateway(T0));
    connect(&mut client, &mut gateway, T0);

    let datagram = seal(&mut client, &[0xff; 40], T0);
    let (opened, _) = deliver(&mut gateway, CLIENT, &datagram, T0);

    assert_eq!(opened, Opened::Dropped(Dropped::MalformedInner));
}

//! One allocation, request by request and packet by packet.

use super::*;
use crate::channel::channel_header;
use crate::key::{Algorithm, Key};
use crate::relay::{Account, AllocateAsk, Transport};
use crate::wire::Families;
use stun_types::message::Message;
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

const SECOND: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(50);
const RELAYED_V4: &str = "198.51.99.1:50000";
const RELAYED_V6: &str = "[2600:99::1]:50000";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn key() -> Key {
    Key::long_term("alice", "postern", "wonder", Algorithm::Sha1)
}

fn user(name: &str) -> User {
    User { name: name.into(), node: name.into(), account: Account::new("acme") }
}

fn request(id: u128, ask: Ask) -> Request {
    let method = match ask {
        Ask::Allocate(_) => ALLOCATE,
        Ask::Refresh { .. } => REFRESH,
        Ask::CreatePermission { .. } => CREATE_PERMISSION,
        Ask::ChannelBind { .. } => CHANNEL_BIND,
    };
    Request { method, transaction: id.into(), fingerprint: false, key: key(), user: user("alice"), ask }
}

fn allocate() -> Ask {
    Ask::Allocate(AllocateAsk {
        families: Families::Both,
        even_port: false,
        reserve_next: false,
        reservation: None,
        lifetime: None,
    })
}

fn permit(peers: &[&str]) -> Ask {
    Ask::CreatePermission { peers: peers.iter().map(|p| at(p)).collect() }
}

fn bind(channel: u16, peer: &str) -> Ask {
    Ask::ChannelBind { channel, peer: at(peer) }
}

fn filter() -> PeerAddressFilter {
    let allow = ["192.0.2.0/24", "2001:db8::/32"].map(|net| net.parse().unwrap());
    PeerAddressFilter::new(&allow, &[], &[at(RELAYED_V4).ip(), at(RELAYED_V6).ip()], &[])
}

fn granted(relayed: &[&str]) -> Granted {
    Granted {
        five_tuple: FiveTuple {
            transport: Transport::Udp,
            client: at("203.0.113.9:4242"),
            relay: at("198.51.99.1:3478"),
        },
        relayed: relayed.iter().map(|r| at(r)).collect(),
        missing: None,
        reservation: None,
        limits: Limits { permissions: 3, channels: 3, ..Limits::default() },
        seed: [1; 32],
    }
}

fn allocation() -> Allocation {
    let mut allocation =
        Allocation::grant(&request(1, allocate()), None, granted(&[RELAYED_V4, RELAYED_V6]), START);
    assert!(matches!(allocation.poll_output(), Some(Output::Respond(_))));
    allocation
}

/// Asks, and gives the answer's error code (0: success) with whatever else came out.
fn ask_as(name: &str, allocation: &mut Allocation, id: u128, ask: Ask, now: Duration) -> (u16, Vec<Output>) {
    let mut request = request(id, ask);
    request.user = user(name);
    allocation.handle_request(&request, &filter(), now);
    let Some(Output::Respond(bytes)) = allocation.poll_output() else { panic!("no answer") };
    let message = read(&bytes).unwrap();
    assert!(key().verifies(&message));
    assert_eq!(u128::from(message.transaction_id()), id);
    let code = message.attribute::<ErrorCode>().map_or(0, |e| e.code());
    (code, std::iter::from_fn(|| allocation.poll_output()).collect())
}

fn ask(allocation: &mut Allocation, what: Ask, now: Duration) -> u16 {
    ask_as("alice", allocation, 77, what, now).0
}

fn send_indication(peer: &str, payload: &[u8]) -> Vec<u8> {
    let id = TransactionId::from(5);
    Draft::new(MessageClass::Indication, SEND, id)
        .with(&XorPeerAddress::new(at(peer), id))
        .with(&Data::new(payload))
        .finish()
}

fn channel_data(channel: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = channel_header(channel, payload.len() as u16).to_vec();
    datagram.extend(payload);
    datagram
}

#[test]
fn the_answer_names_both_relayed_addresses_the_mapped_one_and_the_lifetime() {
    let mut allocation =
        Allocation::grant(&request(1, allocate()), None, granted(&[RELAYED_V4, RELAYED_V6]), START);

    let Some(Output::Respond(bytes)) = allocation.poll_output() else { panic!("no answer") };

    let message: Message<'_> = read(&bytes).unwrap();
    let id = message.transaction_id();
    assert_eq!(message.nth_attribute::<XorRelayedAddress>(0).unwrap().addr(id), at(RELAYED_V4));
    assert_eq!(message.nth_attribute::<XorRelayedAddress>(1).unwrap().addr(id), at(RELAYED_V6));
    assert_eq!(message.attribute::<XorMappedAddress>().unwrap().addr(id), at("203.0.113.9:4242"));
    assert_eq!(message.attribute::<Lifetime>().unwrap().seconds(), 600);
}

#[test]
fn a_family_that_could_not_be_had_is_named_with_its_reason() {
    let mut granted = granted(&[RELAYED_V4]);
    granted.missing = Some((Family::V6, code::FAMILY_NOT_SUPPORTED));
    let mut allocation = Allocation::grant(&request(1, allocate()), None, granted, START);

    let Some(Output::Respond(bytes)) = allocation.poll_output() else { panic!("no answer") };

    let message = read(&bytes).unwrap();
    let missing = message.attribute::<AddressErrorCode>().unwrap();
    assert_eq!(Family::from_codec(missing.family()), Family::V6);
    assert_eq!(missing.error().code(), 440);
}

#[test]
fn a_reserved_port_is_named_by_its_token() {
    let granted = Granted { reservation: Some(77), ..granted(&[RELAYED_V4]) };
    let mut allocation = Allocation::grant(&request(1, allocate()), None, granted, START);

    let Some(Output::Respond(bytes)) = allocation.poll_output() else { panic!("no answer") };

    assert_eq!(read(&bytes).unwrap().attribute::<ReservationToken>().unwrap().token(), 77);
}

#[test]
fn a_copy_of_the_allocate_request_gets_the_same_answer_and_another_one_a_mismatch() {
    let mut allocation = Allocation::grant(&request(1, allocate()), None, granted(&[RELAYED_V4]), START);
    let first = allocation.poll_output();

    allocation.handle_request(&request(1, allocate()), &filter(), START + SECOND);
    assert_eq!(allocation.poll_output(), first);

    assert_eq!(ask_as("alice", &mut allocation, 2, allocate(), START).0, code::ALLOCATION_MISMATCH);
}

#[test]
fn somebody_else_can_do_nothing_with_it() {
    let mut allocation = allocation();

    for what in
        [permit(&["192.0.2.5:1"]), bind(0x4000, "192.0.2.5:1"), Ask::Refresh { lifetime: None, family: None }]
    {
        assert_eq!(ask_as("mallory", &mut allocation, 3, what, START).0, code::WRONG_CREDENTIALS);
    }
    assert_eq!(ask_as("mallory", &mut allocation, 3, allocate(), START).0, code::ALLOCATION_MISMATCH);
}

#[test]
fn a_node_keeps_its_allocation_under_its_next_credential() {
    let mut allocation = allocation();
    let later = User { node: "alice".into(), ..user("2000:alice") };

    allocation.handle_request(
        &Request { user: later, ..request(9, permit(&["192.0.2.5:1"])) },
        &filter(),
        START,
    );

    assert!(allocation.handle_from_peer(at("192.0.2.5:7"), START).is_ok());
}

#[test]
fn nothing_passes_without_a_permission() {
    let allocation = allocation();
    let send = send_indication("192.0.2.5:7", b"hi");

    assert_eq!(allocation.handle_indication(&send, &filter(), START), Err(DropReason::NoPermission));
    assert_eq!(allocation.handle_from_peer(at("192.0.2.5:7"), START), Err(DropReason::NoPermission));
    assert_eq!(
        allocation.handle_channel_data(&channel_data(0x4000, b"hi"), &filter(), START),
        Err(DropReason::NoChannel)
    );
}

#[test]
fn a_permission_is_for_an_address_and_lasts_300_seconds_whatever_passes() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.5:0"]), START), 0);
    let send = send_indication("192.0.2.5:7", b"hi");
    let last = START + 300 * SECOND - Duration::from_millis(1);

    let to_peer = allocation.handle_indication(&send, &filter(), last).unwrap();
    assert_eq!((to_peer.peer, to_peer.from), (at("192.0.2.5:7"), at(RELAYED_V4)));
    assert_eq!(send[to_peer.payload], *b"hi");
    assert_eq!(allocation.handle_from_peer(at("192.0.2.5:9"), last), Ok(ToClient::Indication));
    assert_eq!(allocation.handle_from_peer(at("192.0.2.6:7"), last), Err(DropReason::NoPermission));

    let over = START + 300 * SECOND;
    assert_eq!(allocation.handle_indication(&send, &filter(), over), Err(DropReason::NoPermission));
    assert_eq!(allocation.handle_from_peer(at("192.0.2.5:7"), over), Err(DropReason::NoPermission));
}

#[test]
fn a_channel_carries_both_ways_and_needs_its_permission_on_every_packet() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, bind(0x4001, "[2001:db8::5]:7"), START), 0);
    let data = channel_data(0x4001, b"hello");

    let to_peer = allocation.handle_channel_data(&data, &filter(), START).unwrap();
    assert_eq!((to_peer.peer, to_peer.from), (at("[2001:db8::5]:7"), at(RELAYED_V6)));
    assert_eq!(data[to_peer.payload], *b"hello");
    assert_eq!(allocation.handle_from_peer(at("[2001:db8::5]:7"), START), Ok(ToClient::Channel(0x4001)));
    assert_eq!(allocation.handle_from_peer(at("[2001:db8::5]:8"), START), Ok(ToClient::Indication));

    let later = START + 400 * SECOND;
    assert_eq!(allocation.handle_channel_data(&data, &filter(), later), Err(DropReason::NoPermission));
    assert_eq!(ask(&mut allocation, permit(&["[2001:db8::5]:0"]), later), 0);
    assert!(allocation.handle_channel_data(&data, &filter(), later).is_ok());
}

#[test]
fn binding_again_renews_the_channel_for_600_seconds_and_its_permission_for_300() {
    let mut allocation = allocation();
    let bound = bind(0x4001, "192.0.2.5:7");
    let data = channel_data(0x4001, b"hello");
    let second = |n: u32| START + n * SECOND;
    assert_eq!(ask(&mut allocation, Ask::Refresh { lifetime: Some(3600 * SECOND), family: None }, START), 0);
    assert_eq!(ask(&mut allocation, bound.clone(), START), 0);
    assert_eq!(ask(&mut allocation, bound.clone(), second(299)), 0);

    assert!(allocation.handle_channel_data(&data, &filter(), second(598)).is_ok());
    assert_eq!(allocation.handle_channel_data(&data, &filter(), second(599)), Err(DropReason::NoPermission));
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.5:0"]), second(700)), 0);
    assert!(allocation.handle_channel_data(&data, &filter(), second(898)).is_ok());
    assert_eq!(allocation.handle_channel_data(&data, &filter(), second(899)), Err(DropReason::NoChannel));
    // Nobody else gets the number while packets for it may be on their way: for 300 seconds more (RFC 8656 §12).
    allocation.handle_timeout(second(899));
    assert_eq!(ask(&mut allocation, bind(0x4001, "192.0.2.6:7"), second(1198)), code::BAD_REQUEST);
    allocation.handle_timeout(second(1199));
    assert_eq!(ask(&mut allocation, bind(0x4001, "192.0.2.6:7"), second(1199)), 0);
}

#[test]
fn a_peer_of_a_family_that_the_allocation_lacks_gets_neither_permission_nor_channel() {
    for (relayed, peer) in [(RELAYED_V4, "[2001:db8::5]:7"), (RELAYED_V6, "192.0.2.5:7")] {
        let mut allocation = Allocation::grant(&request(1, allocate()), None, granted(&[relayed]), START);
        allocation.poll_output();

        assert_eq!(ask(&mut allocation, permit(&[peer]), START), code::PEER_FAMILY_MISMATCH, "{peer}");
        assert_eq!(ask(&mut allocation, bind(0x4000, peer), START), code::PEER_FAMILY_MISMATCH, "{peer}");
        assert_eq!(allocation.counts(), (0, 0));
    }
}

#[test]
fn the_filter_and_the_family_are_asked_before_anything_is_installed() {
    let mut allocation = Allocation::grant(&request(1, allocate()), None, granted(&[RELAYED_V4]), START);
    allocation.poll_output();

    for peer in ["127.0.0.1:7", "10.0.0.1:7", "[::ffff:127.0.0.1]:7", "[::1]:7", "169.254.169.254:80"] {
        assert_eq!(ask(&mut allocation, permit(&[peer]), START), code::FORBIDDEN, "{peer}");
        assert_eq!(ask(&mut allocation, bind(0x4000, peer), START), code::FORBIDDEN, "{peer}");
    }
    assert_eq!(ask(&mut allocation, permit(&["[2001:db8::5]:7"]), START), code::PEER_FAMILY_MISMATCH);
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.5:7", "127.0.0.1:7"]), START), code::FORBIDDEN);
    assert_eq!(allocation.counts(), (0, 0));
    assert_eq!(allocation.handle_from_peer(at("192.0.2.5:7"), START), Err(DropReason::NoPermission));
}

#[test]
fn the_relays_own_address_is_reached_inside_the_process_only() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, permit(&[RELAYED_V4]), START), 0);

    let to_peer = allocation.handle_indication(&send_indication("198.51.99.1:3478", b"x"), &filter(), START);

    assert_eq!(to_peer.unwrap().route, Route::Nowhere);
}

#[test]
fn quotas_bound_permissions_and_channels() {
    let mut allocation = allocation();

    let four = ["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"];
    assert_eq!(ask(&mut allocation, permit(&four), START), code::INSUFFICIENT_CAPACITY);
    assert_eq!(ask(&mut allocation, permit(&four[..3]), START), 0);
    assert_eq!(ask(&mut allocation, permit(&four[..1]), START), 0);
    assert_eq!(ask(&mut allocation, bind(0x4000, "192.0.2.4:1"), START), code::INSUFFICIENT_CAPACITY);
    for (n, port) in (1..=3).enumerate() {
        let peer = format!("192.0.2.1:{port}");
        assert_eq!(ask(&mut allocation, bind(0x4000 + n as u16, &peer), START), 0);
    }
    assert_eq!(ask(&mut allocation, bind(0x4003, "192.0.2.1:4"), START), code::INSUFFICIENT_CAPACITY);
}

#[test]
fn a_taken_channel_and_port_zero_are_bad_requests() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, bind(0x4000, "192.0.2.1:1"), START), 0);

    assert_eq!(ask(&mut allocation, bind(0x4000, "192.0.2.2:1"), START), code::BAD_REQUEST);
    assert_eq!(ask(&mut allocation, bind(0x4001, "192.0.2.1:1"), START), code::BAD_REQUEST);
    assert_eq!(ask(&mut allocation, bind(0x4002, "192.0.2.2:0"), START), code::BAD_REQUEST);
    assert_eq!(ask(&mut allocation, bind(0x4000, "192.0.2.1:1"), START), 0);
}

#[test]
fn it_expires_unless_refreshed_and_says_so_once() {
    let mut allocation = allocation();
    let half = START + 300 * SECOND;
    assert_eq!(ask(&mut allocation, Ask::Refresh { lifetime: None, family: None }, half), 0);
    let end = half + 600 * SECOND;

    assert_eq!(allocation.poll_timeout(), Some(end));
    allocation.handle_timeout(end - SECOND);
    assert_eq!(allocation.poll_output(), None);
    allocation.handle_timeout(end);
    assert_eq!(allocation.poll_output(), Some(Output::Ended(Ended::Expired)));
    allocation.handle_timeout(end + SECOND);
    assert_eq!((allocation.poll_output(), allocation.poll_timeout()), (None, None));
    assert_eq!(allocation.handle_from_peer(at("192.0.2.1:1"), end), Err(DropReason::NoAllocation));
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.1:1"]), end), code::ALLOCATION_MISMATCH);
}

#[test]
fn a_lifetime_stays_between_the_default_and_the_longest() {
    for (asked, given) in [(1, 600), (900, 900), (1_000_000, 3600)] {
        let mut allocation = allocation();
        let ask = Ask::Refresh { lifetime: Some(SECOND * asked), family: None };
        allocation.handle_request(&request(9, ask), &filter(), START);
        assert_eq!(allocation.poll_timeout(), Some(START + SECOND * given));
    }
}

#[test]
fn a_lifetime_of_zero_answers_and_then_ends_it() {
    let mut allocation = allocation();

    let ask = Ask::Refresh { lifetime: Some(Duration::ZERO), family: None };
    let (code, rest) = ask_as("alice", &mut allocation, 9, ask, START);

    assert_eq!((code, rest), (0, vec![Output::Ended(Ended::Released)]));
}

#[test]
fn one_family_of_two_can_be_given_up() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, bind(0x4000, "[2001:db8::5]:7"), START), 0);
    let give_up = Ask::Refresh { lifetime: Some(Duration::ZERO), family: Some(Family::V6) };

    let (code, rest) = ask_as("alice", &mut allocation, 9, give_up.clone(), START);

    assert_eq!((code, rest), (0, vec![Output::FamilyReleased(Family::V6)]));
    assert_eq!(allocation.relayed(), [at(RELAYED_V4)]);
    assert_eq!(allocation.counts(), (0, 0));
    assert_eq!(ask_as("alice", &mut allocation, 9, give_up, START).0, code::PEER_FAMILY_MISMATCH);
}

#[test]
fn expired_entries_are_forgotten_at_the_time_it_asked_for() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.1:1"]), START), 0);
    let due = allocation.poll_timeout().unwrap();
    assert_eq!(due, START + 300 * SECOND);

    allocation.handle_timeout(due);

    assert_eq!(allocation.counts(), (0, 0));
    assert_eq!(allocation.poll_timeout(), Some(START + 600 * SECOND));
}

#[test]
fn a_data_indication_carries_peer_and_payload() {
    let mut allocation = allocation();
    let mut out = Vec::new();

    assert!(allocation.data_indication(at("192.0.2.5:7"), b"hello", &mut out));

    let message = read(&out).unwrap();
    assert!(message.has_class(MessageClass::Indication) && message.has_method(DATA));
    let peer = message.attribute::<XorPeerAddress>().unwrap().addr(message.transaction_id());
    assert_eq!(peer, at("192.0.2.5:7"));
    assert_eq!(out[value_range(&message, Data::TYPE).unwrap()], *b"hello");
    assert!(!allocation.data_indication(at("192.0.2.5:7"), &[0; 65_535], &mut out));
}

#[test]
fn an_indication_with_something_missing_or_strange_is_dropped() {
    let mut allocation = allocation();
    assert_eq!(ask(&mut allocation, permit(&["192.0.2.5:0"]), START), 0);
    let id = TransactionId::from(5);
    let peer = XorPeerAddress::new(at("192.0.2.5:7"), id);
    let draft = || Draft::new(MessageClass::Indication, SEND, id);
    let strange = stun_types::attribute::RawAttribute::new(0x7abc.into(), &[]);

    for bytes in [
        draft().finish(),
        draft().with(&peer).finish(),
        draft().with(&Data::new(b"x")).finish(),
        draft().with(&peer).with(&Data::new(b"x")).with(&strange).finish(),
        send_indication("192.0.2.5:0", b"x"),
    ] {
        assert_eq!(allocation.handle_indication(&bytes, &filter(), START), Err(DropReason::BadIndication));
    }
    let with_df = draft().with(&peer).with(&DontFragment::new()).with(&Data::new(b"x")).finish();
    assert!(allocation.handle_indication(&with_df, &filter(), START).is_ok());
}

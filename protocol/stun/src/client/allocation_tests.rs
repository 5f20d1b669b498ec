//! The client against the relay's own machines, on a wire without faults.

use super::*;
use crate::channel::channel_header;
use crate::credentials::REALM;
use crate::filter::PeerAddressFilter;
use crate::relay::{
    Allocation, Ask as RelayAsk, Authority, Decision, FiveTuple, Front, Granted, Limits,
    Output as RelayOutput, ToClient, Transport,
};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn config() -> AllocationConfig {
    AllocationConfig::new(Credentials::new("alice", "wonder"))
}

fn client() -> AllocationClient {
    AllocationClient::new(config(), [5; 32])
}

struct Relay {
    front: Front,
    filter: PeerAddressFilter,
    allocation: Option<Allocation>,
    families: Vec<&'static str>,
}

impl Relay {
    fn new() -> Self {
        Self::with("wonder", &["198.51.99.1:50000", "[2600:99::1]:50000"])
    }

    fn with(password: &str, families: &[&'static str]) -> Self {
        let own: Vec<IpAddr> = families.iter().map(|f| at(f).ip()).collect();
        Self {
            front: Front::new(Authority::new(None, [Credentials::new("alice", password)]), REALM, [9; 32]),
            filter: PeerAddressFilter::new(&["192.0.2.0/24".parse().unwrap()], &[], &own, &[]),
            allocation: None,
            families: families.to_vec(),
        }
    }

    /// The relay's answers to one datagram.
    fn answer(&mut self, datagram: &[u8], now: Duration) -> Vec<Vec<u8>> {
        match self.front.handle(datagram, at("203.0.113.9:4242"), 0, true) {
            Decision::Answer(bytes) => return vec![bytes],
            Decision::Authenticated(request) => match (&mut self.allocation, request.ask()) {
                (Some(allocation), _) => allocation.handle_request(&request, &self.filter, now),
                (None, RelayAsk::Allocate(ask)) => {
                    let granted = Granted {
                        five_tuple: FiveTuple {
                            transport: Transport::Udp,
                            client: at("203.0.113.9:4242"),
                            relay: at("198.51.99.1:3478"),
                        },
                        relayed: self.families.iter().map(|f| at(f)).collect(),
                        missing: None,
                        reservation: None,
                        limits: Limits::default(),
                        seed: [1; 32],
                    };
                    self.allocation = Some(Allocation::grant(&request, ask.lifetime, granted, now));
                }
                (None, _) => return vec![request.refuse(code::ALLOCATION_MISMATCH)],
            },
            Decision::Indication | Decision::Drop(_) => {}
        }
        let mut answers = Vec::new();
        while let Some(output) = self.allocation.as_mut().and_then(Allocation::poll_output) {
            match output {
                RelayOutput::Respond(bytes) => answers.push(bytes),
                RelayOutput::FamilyReleased(_) => {}
                RelayOutput::Ended(_) => self.allocation = None,
            }
        }
        answers
    }

    fn password(mut self, password: &str) -> Self {
        self.front.set_authority(Authority::new(None, [Credentials::new("alice", password)]));
        self
    }
}

/// Carries datagrams both ways until the client is quiet; gives its events.
fn talk(client: &mut AllocationClient, relay: &mut Relay, now: Duration) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(output) = client.poll_output() {
        match output {
            Output::Send(bytes) => {
                for answer in relay.answer(&bytes, now) {
                    client.handle_datagram(&answer, now);
                }
            }
            Output::Event(event) => events.push(event),
        }
    }
    events
}

fn allocated() -> (AllocationClient, Relay) {
    let (mut client, mut relay) = (client(), Relay::new());
    client.start(Duration::ZERO);
    let events = talk(&mut client, &mut relay, Duration::ZERO);
    assert!(matches!(events.as_slice(), [Event::Allocated { .. }]), "{events:?}");
    (client, relay)
}

/// Lets time pass to `until`, timeout by timeout, with the relay answering at once.
fn pass(client: &mut AllocationClient, relay: &mut Relay, until: Duration) -> Vec<Event> {
    let mut events = Vec::new();
    while let Some(next) = client.poll_timeout().filter(|next| *next <= until) {
        client.handle_timeout(next);
        if let Some(allocation) = &mut relay.allocation {
            allocation.handle_timeout(next);
        }
        events.extend(talk(client, relay, next));
    }
    events
}

/// Lets time pass without a relay; gives the events with their time, and how much was sent.
fn pass_alone(client: &mut AllocationClient, until: Duration) -> (Vec<(Duration, Event)>, usize) {
    let (mut events, mut sent, mut now) = (Vec::new(), 0, Duration::ZERO);
    loop {
        while let Some(output) = client.poll_output() {
            match output {
                Output::Send(_) => sent += 1,
                Output::Event(event) => events.push((now, event)),
            }
        }
        match client.poll_timeout().filter(|next| *next <= until) {
            Some(next) => now = next,
            None => return (events, sent),
        }
        client.handle_timeout(now);
    }
}

#[test]
fn it_allocates_both_families_with_the_relays_challenge() {
    let (client, _) = allocated();

    assert_eq!(client.state(), State::Allocated);
    assert_eq!(client.relayed(), [at("198.51.99.1:50000"), at("[2600:99::1]:50000")]);
    assert_eq!(client.mapped(), Some(at("203.0.113.9:4242")));
}

#[test]
fn wishes_from_before_the_allocation_are_asked_for_then() {
    let (mut client, mut relay) = (client(), Relay::new());
    client.permit(at("192.0.2.1:0").ip(), Duration::ZERO);
    client.bind(at("192.0.2.2:7"), Duration::ZERO);
    assert_eq!(client.poll_output(), None);

    client.start(Duration::ZERO);
    let events = talk(&mut client, &mut relay, Duration::ZERO);

    assert!(events.contains(&Event::Permitted(at("192.0.2.1:0").ip())));
    assert!(events.contains(&Event::Permitted(at("192.0.2.2:0").ip())));
    assert!(events.contains(&Event::Bound(at("192.0.2.2:7"), 0x4001)));
}

#[test]
fn packets_pass_by_indication_and_by_channel_and_come_back() {
    let (mut client, mut relay) = allocated();
    let peer = at("192.0.2.2:7");
    let mut datagram = Vec::new();
    assert_eq!(client.wrap(peer, b"hello", &mut datagram), Err(NotWrapped::NotPermitted));
    client.permit(peer.ip(), Duration::ZERO);
    talk(&mut client, &mut relay, Duration::ZERO);

    client.wrap(peer, b"hello", &mut datagram).unwrap();
    let to_peer = relay
        .allocation
        .as_ref()
        .unwrap()
        .handle_indication(&datagram, &relay.filter, Duration::ZERO)
        .unwrap();
    assert_eq!((to_peer.peer, &datagram[to_peer.payload]), (peer, b"hello".as_slice()));
    let mut back = Vec::new();
    assert!(relay.allocation.as_mut().unwrap().data_indication(peer, b"there", &mut back));
    let Some((who, place)) = client.unwrap(&back) else { panic!("no data") };
    assert_eq!((who, &back[place]), (peer, b"there".as_slice()));

    client.bind(peer, Duration::ZERO);
    talk(&mut client, &mut relay, Duration::ZERO);
    let channel = client.channel(peer).unwrap();
    datagram.clear();
    client.wrap(peer, b"hello", &mut datagram).unwrap();
    assert_eq!(datagram[..4], channel_header(channel, 5));
    let to_peer = relay
        .allocation
        .as_ref()
        .unwrap()
        .handle_channel_data(&datagram, &relay.filter, Duration::ZERO)
        .unwrap();
    assert_eq!((to_peer.peer, &datagram[to_peer.payload]), (peer, b"hello".as_slice()));
    let answer = relay.allocation.as_ref().unwrap().handle_from_peer(peer, Duration::ZERO);
    assert_eq!(answer, Ok(ToClient::Channel(channel)));
}

#[test]
fn everything_stays_alive_for_hours_and_is_said_only_once() {
    let (mut client, mut relay) = allocated();
    let peer = at("192.0.2.2:7");
    client.bind(peer, Duration::ZERO);
    let first = talk(&mut client, &mut relay, Duration::ZERO);
    assert_eq!(first.len(), 2);

    let events = pass(&mut client, &mut relay, 4 * 3600 * SECOND);

    assert_eq!(events, []);
    assert_eq!(client.channel(peer), Some(0x4001));
    let held = relay.allocation.as_ref().unwrap();
    assert_eq!(held.handle_from_peer(peer, 4 * 3600 * SECOND), Ok(ToClient::Channel(0x4001)));
}

#[test]
fn a_refused_peer_costs_the_others_nothing() {
    let (mut client, mut relay) = allocated();
    let mut wanted: Vec<IpAddr> = (1..=5).map(|n| at(&format!("192.0.2.{n}:0")).ip()).collect();
    wanted.push(at("127.0.0.1:0").ip());
    for peer in &wanted {
        client.wishes.permit(*peer);
    }
    client.pump(Duration::ZERO);

    let events = talk(&mut client, &mut relay, Duration::ZERO);

    let refused = Event::Refused { peer: wanted[5], code: code::FORBIDDEN };
    assert_eq!(events.iter().filter(|e| matches!(e, Event::Permitted(_))).count(), 5);
    assert!(events.contains(&refused));
    assert!(!client.is_permitted(wanted[5]));
}

#[test]
fn a_peer_of_a_family_that_is_not_there_is_refused_without_asking() {
    let mut relay = Relay::with("wonder", &["198.51.99.1:50000"]);
    let mut client = client();
    client.start(Duration::ZERO);
    talk(&mut client, &mut relay, Duration::ZERO);

    client.permit("2001:db8::1".parse().unwrap(), Duration::ZERO);

    let refused = Event::Refused { peer: "2001:db8::1".parse().unwrap(), code: code::PEER_FAMILY_MISMATCH };
    assert_eq!(client.poll_output(), Some(Output::Event(refused)));
}

#[test]
fn a_relay_that_does_not_answer_is_lost_within_ten_seconds() {
    let mut client = client();
    client.start(Duration::ZERO);

    let (events, sent) = pass_alone(&mut client, 60 * SECOND);

    assert_eq!(events, [(9750 * MS, Event::Lost(Lost::Unreachable))]);
    assert_eq!(sent, 7);
    assert_eq!((client.state(), client.poll_timeout()), (State::Idle, None));
}

#[test]
fn a_wrong_password_is_said_at_once() {
    let mut relay = Relay::with("other", &["198.51.99.1:50000"]);
    let mut client = client();
    client.start(Duration::ZERO);

    assert_eq!(talk(&mut client, &mut relay, Duration::ZERO), [Event::Lost(Lost::Credentials)]);

    client.set_credentials(Credentials::new("alice", "other"));
    client.start(SECOND);
    assert!(matches!(talk(&mut client, &mut relay, SECOND)[..], [Event::Allocated { .. }]));
}

#[test]
fn newer_credentials_are_for_the_next_allocation_and_leave_this_one_alone() {
    let (mut client, mut relay) = allocated();

    client.set_credentials(Credentials::new("bob", "builder"));
    let events = pass(&mut client, &mut relay, 60 * SECOND);
    client.permit(at("192.0.2.1:0").ip(), 60 * SECOND);

    assert_eq!(events, []);
    assert_eq!(talk(&mut client, &mut relay, 60 * SECOND), [Event::Permitted(at("192.0.2.1:0").ip())]);
    client.release(61 * SECOND);
    assert_eq!(talk(&mut client, &mut relay, 61 * SECOND), [Event::Lost(Lost::Released)]);
    client.start(62 * SECOND);
    assert_eq!(
        talk(&mut client, &mut relay, 62 * SECOND),
        [Event::Lost(Lost::Credentials)],
        "the relay knows no bob"
    );
}

#[test]
fn a_restarted_relay_is_noticed_by_the_keepalive_and_the_wishes_come_back() {
    let (mut client, mut relay) = allocated();
    client.bind(at("192.0.2.2:7"), Duration::ZERO);
    talk(&mut client, &mut relay, Duration::ZERO);
    let mut relay = Relay::new().password("wonder");

    let events = pass(&mut client, &mut relay, 16 * SECOND);
    assert_eq!(events, [Event::Lost(Lost::Forgotten)]);
    assert_eq!(client.channel(at("192.0.2.2:7")), None);

    client.start(16 * SECOND);
    let events = talk(&mut client, &mut relay, 16 * SECOND);
    assert!(events.contains(&Event::Bound(at("192.0.2.2:7"), 0x4001)), "{events:?}");
}

#[test]
fn a_suspicion_is_checked_at_once() {
    let (mut client, _) = allocated();
    let mut restarted = Relay::new();

    client.check(2 * SECOND);

    assert_eq!(talk(&mut client, &mut restarted, 2 * SECOND), [Event::Lost(Lost::Forgotten)]);
}

#[test]
fn what_an_earlier_life_left_behind_is_cleared() {
    let (_, mut relay) = allocated();
    let mut reborn = AllocationClient::new(config(), [6; 32]);

    reborn.start(SECOND);
    let events = talk(&mut reborn, &mut relay, SECOND);

    assert!(matches!(events.as_slice(), [Event::Allocated { .. }]), "{events:?}");
}

#[test]
fn a_stale_nonce_costs_one_round_trip_and_nothing_else() {
    let (mut client, mut relay) = allocated();
    // The relay's nonces live an hour; at 15 s an exchange, none older is ever used, so the key is changed instead.
    relay.front = Front::new(Authority::new(None, [Credentials::new("alice", "wonder")]), REALM, [10; 32]);

    client.permit(at("192.0.2.1:0").ip(), SECOND);

    assert_eq!(talk(&mut client, &mut relay, SECOND), [Event::Permitted(at("192.0.2.1:0").ip())]);
}

#[test]
fn a_relay_whose_nonces_are_never_fresh_is_given_up() {
    let mut client = client();
    client.start(Duration::ZERO);
    let mut events = Vec::new();
    let mut key = 0u8;
    while let Some(output) = client.poll_output() {
        match output {
            Output::Send(bytes) => {
                key += 1;
                let front = Front::new(Authority::default(), REALM, [key; 32]);
                let Decision::Answer(bytes) = front.handle(&bytes, at("203.0.113.9:4242"), 0, true) else {
                    panic!("no answer")
                };
                client.handle_datagram(&bytes, Duration::ZERO);
            }
            Output::Event(event) => events.push(event),
        }
    }

    assert_eq!(events, [Event::Lost(Lost::Refused { code: code::STALE_NONCE })]);
}

#[test]
fn releasing_gives_it_up_at_the_relay() {
    let (mut client, mut relay) = allocated();

    client.release(SECOND);
    assert_eq!(client.state(), State::Releasing);
    assert_eq!(client.wrap(at("192.0.2.1:7"), b"x", &mut Vec::new()), Err(NotWrapped::NotAllocated));
    let events = talk(&mut client, &mut relay, SECOND);

    assert_eq!(events, [Event::Lost(Lost::Released)]);
    assert!(relay.allocation.is_none());
}

#[test]
fn an_answer_with_a_wrong_integrity_or_for_nothing_is_dropped() {
    let (mut client, mut relay) = allocated();
    client.permit(at("192.0.2.1:0").ip(), SECOND);
    let Some(Output::Send(request)) = client.poll_output() else { panic!("nothing sent") };
    let answer = relay.answer(&request, SECOND).remove(0);
    let mut forged = answer.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;

    assert_eq!(client.handle_datagram(&forged, SECOND), Received::Dropped(DropReason::Forged));
    assert_eq!(client.handle_datagram(&request, SECOND), Received::Dropped(DropReason::Unexpected));
    assert_eq!(client.handle_datagram(&answer, SECOND), Received::Handled);
    assert_eq!(client.handle_datagram(&answer, SECOND), Received::Dropped(DropReason::Unexpected));
    assert!(client.is_permitted(at("192.0.2.1:0").ip()));
}

#[test]
fn data_of_strangers_is_dropped_with_its_reason() {
    let (mut client, mut relay) = allocated();
    let mut indication = Vec::new();
    assert!(relay.allocation.as_mut().unwrap().data_indication(at("192.0.2.9:7"), b"x", &mut indication));
    let mut on_channel = channel_header(0x4123, 1).to_vec();
    on_channel.push(b'x');

    assert_eq!(client.handle_datagram(&indication, SECOND), Received::Dropped(DropReason::UnknownPeer));
    assert_eq!(client.handle_datagram(&on_channel, SECOND), Received::Dropped(DropReason::UnknownChannel));
    assert_eq!(
        client.handle_datagram(b"\x20\0\0\0\0\0\0\0", SECOND),
        Received::Dropped(DropReason::Malformed)
    );
}

#[test]
fn a_packet_that_fits_no_datagram_is_refused() {
    let (mut client, mut relay) = allocated();
    client.permit(at("192.0.2.1:0").ip(), Duration::ZERO);
    talk(&mut client, &mut relay, Duration::ZERO);
    let mut out = Vec::new();

    assert_eq!(client.wrap(at("192.0.2.1:7"), &[0; 65_500], &mut out), Err(NotWrapped::TooLong));
    assert_eq!(out, []);
}

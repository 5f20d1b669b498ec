//! A TURN client that somebody else wrote (`turn-client-proto`) against our relay's machines.

#![allow(clippy::unwrap_used, reason = "clippy knows tests by their attribute, not the helpers beside them")]

use std::net::SocketAddr;
use std::time::Duration;

use protocol_stun::relay::{
    Allocation, Ask, Authority, Decision, FiveTuple, Front, Granted, Limits, Output, ToClient, ToPeer,
    Transport,
};
use protocol_stun::{Credentials, Kind, PeerAddressFilter, REALM, channel_header, kind};
use turn_client_proto::api::{
    DelayedMessageOrChannelSend, Transmit, TransmitBuild, TurnClientApi, TurnConfig, TurnEvent, TurnPollRet,
    TurnRecvRet,
};
use turn_client_proto::types::prelude::DelayedTransmitBuild;
use turn_client_proto::types::{AddressFamily, Instant, TransportType, TurnCredentials};
use turn_client_proto::udp::TurnClientUdp;

const CLIENT: &str = "203.0.113.9:4242";
const RELAY: &str = "198.51.99.1:3478";
const RELAYED_V4: &str = "198.51.99.1:50000";
const RELAYED_V6: &str = "[2600:99::1]:50001";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

type Forwarded = (ToPeer, Vec<u8>);

struct Relay {
    front: Front,
    filter: PeerAddressFilter,
    allocation: Option<Allocation>,
}

impl Relay {
    fn new() -> Self {
        let allow = ["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
        Self {
            front: Front::new(Authority::new(None, [Credentials::new("alice", "wonder")]), REALM, [1; 32]),
            filter: PeerAddressFilter::new(&allow, &[], &[at(RELAYED_V4).ip(), at(RELAYED_V6).ip()], &[]),
            allocation: None,
        }
    }

    /// What the relay sends back, and what it sends on.
    fn receive(&mut self, datagram: &[u8], now: Duration) -> (Vec<Vec<u8>>, Option<Forwarded>) {
        if kind(datagram) == Kind::ChannelData {
            let allocation = self.allocation.as_ref().unwrap();
            let to_peer = allocation.handle_channel_data(datagram, &self.filter, now).unwrap();
            let payload = datagram[to_peer.payload.clone()].to_vec();
            return (vec![], Some((to_peer, payload)));
        }
        match self.front.handle(datagram, at(CLIENT), 0, true) {
            Decision::Answer(bytes) => (vec![bytes], None),
            Decision::Indication => {
                let allocation = self.allocation.as_ref().unwrap();
                let to_peer = allocation.handle_indication(datagram, &self.filter, now).unwrap();
                let payload = datagram[to_peer.payload.clone()].to_vec();
                (vec![], Some((to_peer, payload)))
            }
            Decision::Authenticated(request) => {
                match (&mut self.allocation, request.ask()) {
                    (Some(allocation), _) => allocation.handle_request(&request, &self.filter, now),
                    (None, Ask::Allocate(ask)) => {
                        let granted = Granted {
                            five_tuple: FiveTuple {
                                transport: Transport::Udp,
                                client: at(CLIENT),
                                relay: at(RELAY),
                            },
                            relayed: ask
                                .families
                                .each()
                                .iter()
                                .map(|family| match family {
                                    protocol_stun::Family::V4 => at(RELAYED_V4),
                                    protocol_stun::Family::V6 => at(RELAYED_V6),
                                })
                                .collect(),
                            missing: None,
                            reservation: None,
                            limits: Limits::default(),
                            seed: [2; 32],
                        };
                        self.allocation = Some(Allocation::grant(&request, ask.lifetime, granted, now));
                    }
                    (None, _) => return (vec![request.refuse(437)], None),
                }
                let mut answers = Vec::new();
                while let Some(output) = self.allocation.as_mut().and_then(Allocation::poll_output) {
                    match output {
                        Output::Respond(bytes) => answers.push(bytes),
                        Output::FamilyReleased(_) => {}
                        Output::Ended(_) => self.allocation = None,
                    }
                }
                (answers, None)
            }
            Decision::Drop(reason) => panic!("dropped: {reason}"),
        }
    }

    fn back_from(&mut self, peer: SocketAddr, payload: &[u8], now: Duration) -> Vec<u8> {
        let allocation = self.allocation.as_mut().unwrap();
        let mut out = Vec::new();
        match allocation.handle_from_peer(peer, now).unwrap() {
            ToClient::Channel(channel) => {
                out.extend(channel_header(channel, payload.len() as u16));
                out.extend(payload);
            }
            ToClient::Indication => assert!(allocation.data_indication(peer, payload, &mut out)),
        }
        out
    }
}

fn client(families: &[AddressFamily]) -> TurnClientUdp {
    let mut config = TurnConfig::new(TurnCredentials::new("alice", "wonder"));
    config.set_address_family(families[0]);
    for family in families {
        config.add_address_family(*family);
    }
    TurnClientUdp::allocate(at(CLIENT), at(RELAY), config)
}

fn give(client: &mut TurnClientUdp, datagram: Vec<u8>, now: Duration) -> TurnRecvRet<Vec<u8>> {
    let transmit = Transmit::new(datagram, TransportType::Udp, at(RELAY), at(CLIENT));
    client.recv(transmit, instant(now))
}

fn instant(now: Duration) -> Instant {
    Instant::from_nanos(now.as_nanos() as i64)
}

/// Carries datagrams until both are quiet for a second (the client spaces its requests); gives the client's events.
fn talk(client: &mut TurnClientUdp, relay: &mut Relay, now: Duration) -> Vec<TurnEvent> {
    let (mut events, mut at) = (Vec::new(), now);
    while at < now + Duration::from_secs(1) {
        let waits = client.poll(instant(at));
        while let Some(transmit) = client.poll_transmit(instant(at)) {
            for answer in relay.receive(&transmit.data, at).0 {
                give(client, answer, at);
            }
        }
        events.extend(std::iter::from_fn(|| client.poll_event()));
        match waits {
            TurnPollRet::WaitUntil(next) if next > instant(at) => {
                at = Duration::from_nanos(next.as_nanos() as u64)
            }
            _ => at += Duration::from_millis(1),
        }
    }
    events
}

fn send(client: &mut TurnClientUdp, peer: SocketAddr, payload: &[u8], now: Duration) -> Vec<u8> {
    let built: TransmitBuild<DelayedMessageOrChannelSend<&[u8]>> =
        client.send_to(TransportType::Udp, peer, payload, instant(now)).unwrap().unwrap();
    built.data.build()
}

#[test]
fn a_foreign_client_allocates_permits_binds_and_exchanges_packets() {
    let mut relay = Relay::new();
    let mut client = client(&[AddressFamily::IPV4]);
    let now = Duration::from_secs(1);
    let peer = at("192.0.2.5:7777");

    let events = talk(&mut client, &mut relay, now);
    assert!(
        matches!(events[..], [TurnEvent::AllocationCreated(_, address)] if address == at(RELAYED_V4)),
        "{events:?}"
    );

    client.create_permission(TransportType::Udp, peer.ip(), instant(now)).unwrap();
    let events = talk(&mut client, &mut relay, now);
    assert!(matches!(events[..], [TurnEvent::PermissionCreated(_, ip)] if ip == peer.ip()), "{events:?}");

    let datagram = send(&mut client, peer, b"by indication", now);
    assert_eq!(kind(&datagram), Kind::Stun);
    let (_, Some((to_peer, payload))) = relay.receive(&datagram, now) else { panic!("not forwarded") };
    assert_eq!((to_peer.peer, payload.as_slice()), (peer, b"by indication".as_slice()));
    let back = relay.back_from(peer, b"and back", now);
    let TurnRecvRet::PeerData(data) = give(&mut client, back, now) else { panic!("no data") };
    assert_eq!((data.peer, data.data()), (peer, b"and back".as_slice()));

    client.bind_channel(TransportType::Udp, peer, instant(now)).unwrap();
    let events = talk(&mut client, &mut relay, now);
    assert!(matches!(events[..], [TurnEvent::ChannelCreated(_, who)] if who == peer), "{events:?}");
    let datagram = send(&mut client, peer, b"by channel", now);
    assert_eq!(kind(&datagram), Kind::ChannelData);
    let (_, Some((to_peer, payload))) = relay.receive(&datagram, now) else { panic!("not forwarded") };
    assert_eq!((to_peer.peer, payload.as_slice()), (peer, b"by channel".as_slice()));
    let back = relay.back_from(peer, b"and back again", now);
    assert_eq!(kind(&back), Kind::ChannelData);
    let TurnRecvRet::PeerData(data) = give(&mut client, back, now) else { panic!("no data") };
    assert_eq!((data.peer, data.data()), (peer, b"and back again".as_slice()));

    client.delete(instant(now)).unwrap();
    talk(&mut client, &mut relay, now);
    assert!(relay.allocation.is_none());
}

#[test]
fn a_foreign_client_gets_both_families_and_an_ipv6_peer() {
    let mut relay = Relay::new();
    let mut client = client(&[AddressFamily::IPV4, AddressFamily::IPV6]);
    let now = Duration::from_secs(1);
    let peer = at("[2001:db8::5]:7777");

    talk(&mut client, &mut relay, now);
    let mut relayed: Vec<SocketAddr> = client.relayed_addresses().map(|(_, address)| address).collect();
    relayed.sort();
    assert_eq!(relayed, [at(RELAYED_V4), at(RELAYED_V6)]);

    client.create_permission(TransportType::Udp, peer.ip(), instant(now)).unwrap();
    talk(&mut client, &mut relay, now);
    let datagram = send(&mut client, peer, b"six", now);
    let (_, Some((to_peer, _))) = relay.receive(&datagram, now) else { panic!("not forwarded") };
    assert_eq!((to_peer.peer, to_peer.from), (peer, at(RELAYED_V6)));
}

#[test]
fn a_foreign_client_is_told_what_the_filter_refuses() {
    let mut relay = Relay::new();
    let mut client = client(&[AddressFamily::IPV4]);
    let now = Duration::from_secs(1);
    talk(&mut client, &mut relay, now);

    client.create_permission(TransportType::Udp, [127, 0, 0, 1].into(), instant(now)).unwrap();
    let events = talk(&mut client, &mut relay, now);

    assert!(matches!(events[..], [TurnEvent::PermissionCreateFailed(..)]), "{events:?}");
}

#[test]
fn a_foreign_client_keeps_its_allocation_for_hours() {
    let mut relay = Relay::new();
    let mut client = client(&[AddressFamily::IPV4]);
    let peer = at("192.0.2.5:7777");
    let mut now = Duration::from_secs(1);
    talk(&mut client, &mut relay, now);
    client.create_permission(TransportType::Udp, peer.ip(), instant(now)).unwrap();
    client.bind_channel(TransportType::Udp, peer, instant(now)).unwrap();
    talk(&mut client, &mut relay, now);

    // Two hours: past the life of every nonce.
    while now < Duration::from_secs(7_200) {
        now += Duration::from_secs(5);
        talk(&mut client, &mut relay, now);
        if let Some(allocation) = &mut relay.allocation {
            allocation.handle_timeout(now);
        }
    }

    let datagram = send(&mut client, peer, b"still here", now);
    let (_, Some((to_peer, _))) = relay.receive(&datagram, now) else { panic!("not forwarded") };
    assert_eq!(to_peer.peer, peer);
}

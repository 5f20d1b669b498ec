//! Entry points for fuzzing: any bytes, no panic, and the promises of the machines hold.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use stun_types::attribute::{AttributeStaticType, Nonce, Realm, Username};
use stun_types::message::{MessageClass, Method, TransactionId};
use turn_types::attribute::XorPeerAddress;

use crate::client::{AllocationClient, AllocationConfig, BindingClient, Output, Received};
use crate::credentials::{Credentials, REALM};
use crate::filter::{PeerAddressFilter, Route};
use crate::key::{Algorithm, Key};
use crate::nonce::Nonces;
use crate::relay::{
    Allocation, Ask, Authority, Decision, FiveTuple, Front, Granted, Limits, Output as RelayOutput, Request,
    Transport,
};
use crate::wire::{Draft, plain, read};

const NONCE_KEY: [u8; 32] = [1; 32];
const UNIX_NOW: u64 = 1_000;

fn client_address() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 9], 4242))
}

fn relayed() -> SocketAddr {
    SocketAddr::from(([198, 51, 99, 1], 50_000))
}

fn front() -> Front {
    Front::new(Authority::new(None, [Credentials::new("alice", "wonder")]), REALM, NONCE_KEY)
}

fn filter() -> PeerAddressFilter {
    PeerAddressFilter::new(&[], &[], &[relayed().ip()], &[])
}

/// One datagram through every decoder, both machines of a client, and the relay's front.
pub fn fuzz_stun(datagram: &[u8]) {
    let _ = crate::kind(datagram);
    if let Some((_, payload)) = crate::read_channel_header(datagram) {
        assert!(datagram.get(payload).is_some());
    }
    if let Some(message) = read(datagram) {
        let _ = message.attribute::<XorPeerAddress>().map(|a| a.addr(message.transaction_id()));
        for (_, raw) in message.iter_attributes() {
            let _ = raw.to_string();
        }
    }
    if let Decision::Answer(answer) = front().handle(datagram, client_address(), UNIX_NOW, true) {
        assert!(read(&answer).is_some());
        assert!(answer.len() <= 3 * datagram.len());
    }
    let mut binding = BindingClient::new(Duration::from_secs(15), [2; 32]);
    binding.start(Duration::ZERO);
    let _ = binding.handle_datagram(datagram, Duration::ZERO);
    let mut client =
        AllocationClient::new(AllocationConfig::new(Credentials::new("alice", "wonder")), [3; 32]);
    client.start(Duration::ZERO);
    if let Received::Data { payload, .. } = client.handle_datagram(datagram, Duration::ZERO) {
        assert!(datagram.get(payload).is_some());
    }
}

/// A sequence of steps `[operation, length, bytes…]` against one allocation and one client.
pub fn fuzz_relay(script: &[u8]) {
    let mut world = World::new();
    let mut rest = script;
    while let [operation, length, tail @ ..] = rest {
        let (bytes, after) = tail.split_at(usize::from(*length).min(tail.len()));
        world.step(*operation, bytes);
        rest = after;
    }
}

struct World {
    now: Duration,
    front: Front,
    filter: PeerAddressFilter,
    allocation: Option<Allocation>,
    client: AllocationClient,
    to_relay: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let config = AllocationConfig::new(Credentials::new("alice", "wonder"));
        let mut client = AllocationClient::new(config, [3; 32]);
        client.start(Duration::ZERO);
        Self {
            now: Duration::ZERO,
            front: front(),
            filter: filter(),
            allocation: None,
            client,
            to_relay: Vec::new(),
        }
    }

    fn step(&mut self, operation: u8, bytes: &[u8]) {
        match operation % 8 {
            0 => self.at_relay(bytes),
            1 => self.at_relay(&signed(bytes)),
            2 => self.packet_of_peer(bytes),
            3 => {
                self.now += Duration::from_secs(bytes.first().copied().unwrap_or(1).into());
                self.expire();
            }
            4 => self.at_client(bytes),
            5 => self.client.permit(address(bytes).ip(), self.now),
            6 => self.client.bind(address(bytes), self.now),
            _ => {
                let mut out = Vec::new();
                if self.client.wrap(address(bytes), bytes, &mut out).is_ok() {
                    self.at_relay(&out);
                }
            }
        }
        self.exchange();
    }

    fn at_relay(&mut self, datagram: &[u8]) {
        let decision = match crate::kind_at_relay(datagram) {
            crate::Kind::Stun => self.front.handle(datagram, client_address(), UNIX_NOW, true),
            crate::Kind::ChannelData | crate::Kind::Other => Decision::Indication,
        };
        match decision {
            Decision::Answer(answer) => self.at_client(&answer),
            Decision::Authenticated(request) => self.request(&request),
            Decision::Indication => {
                let Some(allocation) = &self.allocation else { return };
                let forwarded = match crate::kind_at_relay(datagram) {
                    crate::Kind::Stun => allocation.handle_indication(datagram, &self.filter, self.now),
                    crate::Kind::ChannelData | crate::Kind::Other => {
                        allocation.handle_channel_data(datagram, &self.filter, self.now)
                    }
                };
                if let Ok(to_peer) = forwarded {
                    assert!(datagram.get(to_peer.payload).is_some());
                    assert!(allocation.handle_from_peer(to_peer.peer, self.now).is_ok());
                    let own = to_peer.peer.ip() == relayed().ip();
                    assert_eq!(to_peer.route == Route::Nowhere, own);
                }
            }
            Decision::Drop(_) => {}
        }
    }

    fn request(&mut self, request: &Request) {
        match (&mut self.allocation, request.ask()) {
            (Some(allocation), _) => allocation.handle_request(request, &self.filter, self.now),
            (None, Ask::Allocate(ask)) => {
                let five_tuple = FiveTuple {
                    transport: Transport::Udp,
                    client: client_address(),
                    relay: SocketAddr::new(relayed().ip(), 3478),
                };
                let granted = Granted {
                    five_tuple,
                    relayed: vec![relayed()],
                    missing: None,
                    reservation: None,
                    limits: Limits::default(),
                    seed: [4; 32],
                };
                self.allocation = Some(Allocation::grant(request, ask.lifetime, granted, self.now));
            }
            (None, Ask::Refresh { .. } | Ask::CreatePermission { .. } | Ask::ChannelBind { .. }) => {
                self.at_client(&request.refuse(crate::relay::code::ALLOCATION_MISMATCH));
            }
        }
    }

    fn packet_of_peer(&mut self, bytes: &[u8]) {
        let peer = address(bytes);
        let Some(allocation) = &mut self.allocation else { return };
        let mut out = Vec::new();
        match allocation.handle_from_peer(peer, self.now) {
            Ok(crate::relay::ToClient::Channel(channel)) => {
                out.extend(crate::channel_header(channel, bytes.len().try_into().unwrap_or(0)));
                out.extend(bytes);
            }
            Ok(crate::relay::ToClient::Indication) => {
                assert!(allocation.data_indication(peer, bytes, &mut out));
            }
            Err(_) => return,
        }
        self.at_client(&out);
    }

    fn at_client(&mut self, datagram: &[u8]) {
        if let Received::Data { payload, .. } = self.client.handle_datagram(datagram, self.now) {
            assert!(datagram.get(payload).is_some());
        }
    }

    fn expire(&mut self) {
        if let Some(allocation) = &mut self.allocation {
            allocation.handle_timeout(self.now);
            assert!(allocation.poll_timeout().is_none_or(|next| next > self.now));
        }
        self.client.handle_timeout(self.now);
        assert!(self.client.poll_timeout().is_none_or(|next| next > self.now));
    }

    /// Lets client and relay talk until both are quiet; bounded, because a script may make them refuse each other for ever.
    fn exchange(&mut self) {
        for _ in 0..64 {
            while let Some(output) = self.client.poll_output() {
                match output {
                    Output::Send(bytes) => self.to_relay.push(bytes),
                    Output::Event(_) => {}
                }
            }
            for bytes in std::mem::take(&mut self.to_relay) {
                self.at_relay(&bytes);
            }
            let mut answers = Vec::new();
            let mut over = false;
            while let Some(output) = self.allocation.as_mut().and_then(Allocation::poll_output) {
                match output {
                    RelayOutput::Respond(bytes) => answers.push(bytes),
                    RelayOutput::FamilyReleased(_) => {}
                    RelayOutput::Ended(_) => over = true,
                }
            }
            if over {
                self.allocation = None;
            }
            if answers.is_empty() {
                return;
            }
            for bytes in answers {
                self.at_client(&bytes);
            }
        }
    }
}

/// A request with a true integrity around attributes from the fuzzer: `[method, attribute bytes…]`.
fn signed(bytes: &[u8]) -> Vec<u8> {
    let (method, attributes) = bytes.split_first().unwrap_or((&3, &[]));
    let mut draft = Draft::new(
        MessageClass::Request,
        Method::new(u16::from(*method % 16)),
        TransactionId::from(u128::from(*method)),
    );
    let mut rest = attributes;
    while let [kind_high, kind_low, length, tail @ ..] = rest {
        let (value, after) = tail.split_at(usize::from(*length).min(tail.len()));
        let kind = u16::from_be_bytes([*kind_high & 0x80, *kind_low]);
        let ending = [Username::TYPE, Realm::TYPE, Nonce::TYPE].iter().any(|t| t.value() == kind);
        if !ending {
            draft = draft.with(&stun_types::attribute::RawAttribute::new(kind.into(), value));
        }
        rest = after;
    }
    draft
        .with_some(Username::new("alice").ok())
        .with_some(Realm::new(REALM).ok())
        .with_some(Nonce::new(&Nonces::new(NONCE_KEY).make(client_address(), UNIX_NOW)).ok())
        .sign(&Key::long_term("alice", REALM, "wonder", Algorithm::Sha1))
}

/// A peer address out of a few bytes: public and private ones, both families, and the relay's own.
fn address(bytes: &[u8]) -> SocketAddr {
    let byte = |n: usize| bytes.get(n).copied().unwrap_or(0);
    let ip: IpAddr = match byte(0) % 4 {
        0 => [198, 51, 99, byte(1)].into(),
        1 => [byte(1), byte(2), byte(3), byte(4)].into(),
        2 => [0x2600, 0, 0, 0, 0, 0, 0, u16::from(byte(1))].into(),
        _ => [0, 0, 0, 0, 0, 0xffff, u16::from_be_bytes([byte(1), byte(2)]), u16::from(byte(3))].into(),
    };
    plain(SocketAddr::new(ip, u16::from_be_bytes([byte(5), byte(6)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            fuzz_stun(&bytes);
            fuzz_relay(&bytes);
        }

        #[test]
        fn anything_behind_a_stun_header_is_survived(
            kind in 0u16..0x4000,
            body in proptest::collection::vec(any::<u8>(), 0..160),
            honest in any::<bool>(),
        ) {
            let body = if honest { body[..body.len() / 4 * 4].to_vec() } else { body };
            let mut bytes = kind.to_be_bytes().to_vec();
            bytes.extend((body.len() as u16).to_be_bytes());
            bytes.extend(crate::wire::MAGIC_COOKIE);
            bytes.extend([7; 12]);
            bytes.extend(body);
            fuzz_stun(&bytes);
        }

        #[test]
        fn any_sequence_of_steps_is_survived(
            steps in proptest::collection::vec((0u8..8, proptest::collection::vec(any::<u8>(), 0..40)), 0..40),
        ) {
            let mut script = Vec::new();
            for (operation, bytes) in steps {
                script.extend([operation, bytes.len() as u8]);
                script.extend(bytes);
            }
            fuzz_relay(&script);
        }
    }

    #[test]
    fn a_signed_allocate_reaches_the_allocation() {
        // ALLOCATE with REQUESTED-TRANSPORT of UDP.
        let mut world = World::new();
        world.step(1, &[3, 0, 0x19, 4, 17, 0, 0, 0]);

        assert!(world.allocation.is_some());
    }
}

//! An allocation that we hold at a relay.
//!
//! The machine allocates with the relay's challenge, keeps the allocation, its permissions and its channels alive, and wraps
//! and unwraps what passes. Its keep-alive is a Refresh: a relay that was restarted is noticed by its answer, and the NAT
//! before us stays open.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use stun_types::attribute::{
    Nonce, PasswordAlgorithm, PasswordAlgorithmValue, PasswordAlgorithms, Realm, Username,
};
use stun_types::message::{MessageClass, Method};
use turn_types::attribute::{
    AdditionalAddressFamily, ChannelNumber, Lifetime, RequestedAddressFamily, RequestedTransport,
    XorPeerAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

use super::data::{DropReason, NotWrapped, Received};
use super::flight::{Flight, Overdue};
use super::wishes::{Ask, Wishes};
use super::{Event, Lost, Output, State};
use crate::credentials::Credentials;
use crate::key::{Algorithm, Key};
use crate::relay::code;
use crate::wire::{Draft, Families, Family, Kind, kind, plain, read, transaction};

/// What an allocation is made with.
#[derive(Debug, Clone)]
pub struct AllocationConfig {
    /// Name and password; the allocation is refreshed with the ones that made it.
    pub credentials: Credentials,
    /// Which relayed addresses.
    pub families: Families,
    /// The lifetime to ask for; the relay may give another.
    pub lifetime: Duration,
    /// The interval of Refresh requests.
    pub keepalive: Duration,
    /// Whether the relay is reached over a connection, so that nothing is sent twice.
    pub reliable: bool,
}

impl AllocationConfig {
    /// Both families, 600 s (the default of RFC 8656 §3.2), a Refresh every 15 s (NAT bindings of UDP may end after 30).
    pub fn new(credentials: Credentials) -> Self {
        Self {
            credentials,
            families: Families::Both,
            lifetime: Duration::from_secs(600),
            keepalive: Duration::from_secs(15),
            reliable: false,
        }
    }

    /// The same over a connection.
    #[must_use]
    pub fn reliable(self) -> Self {
        Self { reliable: true, ..self }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Allocate,
    /// Gives up what an earlier life of ours left on this five-tuple.
    Clear,
    Refresh,
    Release,
    Permit(Vec<IpAddr>),
    Bind(SocketAddr, u16),
}

/// What the relay's challenge gave, and the key that follows from it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) realm: String,
    pub(super) nonce: String,
    pub(super) key: Key,
    pub(super) algorithm: Algorithm,
    /// The ways to make a key that the relay knows, if it says so; every request repeats them (RFC 8489 §9.2.5).
    pub(super) offered: Option<Vec<PasswordAlgorithmValue>>,
}

/// The client's side of one allocation.
#[derive(Debug)]
pub struct AllocationClient {
    pub(super) config: AllocationConfig,
    /// For the next allocation: one that is held answers only to the credentials that made it (RFC 8656, section 5).
    pub(super) next_credentials: Option<Credentials>,
    pub(super) random: StdRng,
    pub(super) state: State,
    pub(super) session: Option<Session>,
    pub(super) flights: Vec<Flight<Request>>,
    pub(super) relayed: Vec<SocketAddr>,
    pub(super) mapped: Option<SocketAddr>,
    pub(super) until: Duration,
    pub(super) refresh_at: Duration,
    pub(super) cleared: u32,
    pub(super) stale: u32,
    /// When the relay last answered something.
    pub(super) answered_at: Duration,
    pub(super) wishes: Wishes,
    pub(super) outputs: VecDeque<Output>,
}

impl AllocationClient {
    /// Nothing is sent before [`Self::start`].
    pub fn new(config: AllocationConfig, seed: [u8; 32]) -> Self {
        Self {
            config,
            next_credentials: None,
            random: StdRng::from_seed(seed),
            state: State::Idle,
            session: None,
            flights: Vec::new(),
            relayed: Vec::new(),
            mapped: None,
            until: Duration::ZERO,
            refresh_at: Duration::ZERO,
            cleared: 0,
            stale: 0,
            answered_at: Duration::ZERO,
            wishes: Wishes::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Asks for an allocation, unless one is held or asked for.
    pub fn start(&mut self, now: Duration) {
        if self.state != State::Idle {
            return;
        }
        if let Some(credentials) = self.next_credentials.take() {
            self.config.credentials = credentials;
        }
        self.state = State::Allocating;
        self.session = None;
        self.cleared = 0;
        self.stale = 0;
        self.send(Request::Allocate, now);
    }

    /// The credentials of the next [`Self::start`].
    pub fn set_credentials(&mut self, credentials: Credentials) {
        self.next_credentials = Some(credentials);
    }

    /// Wants `peer` permitted, now and for as long as it is not forgotten.
    pub fn permit(&mut self, peer: IpAddr, now: Duration) {
        self.wishes.permit(peer);
        self.pump(now);
    }

    /// Wants a channel for `peer` (and it permitted), now and for as long as it is not forgotten.
    pub fn bind(&mut self, peer: SocketAddr, now: Duration) {
        let peer = plain(peer);
        if !self.wishes.bind(peer, now) {
            self.wishes.permit(peer.ip());
            self.event(Event::NotBound(peer, code::INSUFFICIENT_CAPACITY));
        }
        self.pump(now);
    }

    /// Refuses to send to `peer` from now on. The relay forgets it by itself within five minutes.
    pub fn forget(&mut self, peer: IpAddr) {
        self.wishes.forget(peer);
    }

    /// The peers that the relay is asked to let through.
    pub fn wanted(&self) -> impl Iterator<Item = IpAddr> {
        self.wishes.peers()
    }

    /// Asks the relay now whether it still holds the allocation.
    pub fn check(&mut self, now: Duration) {
        if self.state == State::Allocated {
            self.refresh_at = now;
            self.pump(now);
        }
    }

    /// Gives the allocation up.
    pub fn release(&mut self, now: Duration) {
        match self.state {
            State::Idle | State::Releasing => {}
            State::Allocating if self.session.is_none() => self.lose(Lost::Released),
            State::Allocating | State::Allocated => {
                self.state = State::Releasing;
                self.flights.clear();
                self.send(Request::Release, now);
            }
        }
    }

    /// The connection has ended: the allocation went with it (RFC 8656 §3.1), and what was asked is not answered any more.
    pub fn disconnected(&mut self) {
        if self.state != State::Idle {
            self.lose(Lost::Unreachable);
        }
    }

    /// Since when the relay has not answered although it was asked.
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.flights.iter().map(|flight| flight.first_sent.max(self.answered_at)).min()
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// The relayed addresses, at most one of each family.
    pub fn relayed(&self) -> &[SocketAddr] {
        &self.relayed
    }

    /// Our address as the relay saw it.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// Whether the relay has confirmed a permission for `peer`.
    pub fn is_permitted(&self, peer: IpAddr) -> bool {
        self.state == State::Allocated && self.wishes.is_permitted(peer)
    }

    /// The channel that the relay has confirmed for `peer`.
    pub fn channel(&self, peer: SocketAddr) -> Option<u16> {
        if self.state == State::Allocated { self.wishes.channel(plain(peer)) } else { None }
    }

    /// Appends one datagram for the relay that carries `payload` to `peer`.
    ///
    /// # Errors
    /// When it cannot be carried; `out` is untouched then.
    pub fn wrap(&mut self, peer: SocketAddr, payload: &[u8], out: &mut Vec<u8>) -> Result<(), NotWrapped> {
        if self.state != State::Allocated {
            return Err(NotWrapped::NotAllocated);
        }
        if !self.wishes.is_permitted(peer.ip()) {
            return Err(NotWrapped::NotPermitted);
        }
        super::data::wrap(self.channel(peer), peer, payload, &mut self.random, out)
    }

    /// The peer and the place of its packet, if the datagram carries one.
    pub fn unwrap(&self, datagram: &[u8]) -> Option<(SocketAddr, Range<usize>)> {
        self.read_data(datagram).ok()
    }

    fn read_data(&self, datagram: &[u8]) -> Result<(SocketAddr, Range<usize>), DropReason> {
        let held = self.state == State::Allocated;
        match kind(datagram) {
            Kind::ChannelData => {
                let (channel, payload) =
                    crate::channel::read_channel_header(datagram).ok_or(DropReason::Malformed)?;
                let peer = self.wishes.peer(channel).filter(|_| held).ok_or(DropReason::UnknownChannel)?;
                Ok((peer, payload))
            }
            Kind::Stun => {
                let (peer, payload) = super::data::read_indication(datagram)?;
                if held && self.wishes.knows(peer.ip()) {
                    Ok((peer, payload))
                } else {
                    Err(DropReason::UnknownPeer)
                }
            }
            Kind::Other => Err(DropReason::Malformed),
        }
    }

    /// Takes a datagram that came from the relay.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Duration) -> Received {
        match self.read_data(datagram) {
            Ok((peer, payload)) => return Received::Data { peer, payload },
            // Not an indication: perhaps an answer.
            Err(DropReason::Unexpected) => {}
            Err(DropReason::Icmp) => return Received::Handled,
            Err(reason) => return Received::Dropped(reason),
        }
        let Some(message) = read(datagram) else { return Received::Dropped(DropReason::Malformed) };
        match self.handle_answer(&message, now) {
            Ok(()) => {
                self.pump(now);
                Received::Handled
            }
            Err(reason) => Received::Dropped(reason),
        }
    }

    pub(super) fn send(&mut self, request: Request, now: Duration) {
        let id = transaction(&mut self.random);
        let mut draft = Draft::new(MessageClass::Request, method(&request), id);
        match &request {
            Request::Allocate => {
                draft = draft.with(&RequestedTransport::new(RequestedTransport::UDP));
                draft = match self.config.families {
                    Families::V4 => draft,
                    Families::V6 => draft.with(&RequestedAddressFamily::new(Family::V6.to_codec())),
                    Families::Both => draft.with(&AdditionalAddressFamily::new(Family::V6.to_codec())),
                };
                draft = draft.with(&seconds(self.config.lifetime));
            }
            Request::Refresh => draft = draft.with(&seconds(self.config.lifetime)),
            Request::Clear | Request::Release => draft = draft.with(&seconds(Duration::ZERO)),
            Request::Permit(peers) => {
                for peer in peers {
                    draft = draft.with(&XorPeerAddress::new(SocketAddr::new(*peer, 0), id));
                }
            }
            Request::Bind(peer, number) => {
                draft = draft.with(&ChannelNumber::new(*number)).with(&XorPeerAddress::new(*peer, id));
            }
        }
        let bytes = match &self.session {
            Some(session) => draft
                .with_some(Username::new(self.config.credentials.username()).ok())
                .with_some(Realm::new(&session.realm).ok())
                .with_some(Nonce::new(&session.nonce).ok())
                .with_some(session.offered.as_deref().map(PasswordAlgorithms::new))
                .with_some(
                    session.offered.as_ref().map(|_| PasswordAlgorithm::new(session.algorithm.usual_hash())),
                )
                .sign(&session.key),
            None => draft.finish(),
        };
        self.outputs.push_back(Output::Send(bytes.clone()));
        let begin = if self.config.reliable { Flight::once } else { Flight::new };
        self.flights.push(begin(id, request, bytes, now));
    }

    /// Sends what is due.
    fn pump(&mut self, now: Duration) {
        if self.state != State::Allocated {
            return;
        }
        let families: Vec<Family> = self.relayed.iter().map(|a| Family::of(a.ip())).collect();
        for peer in self.wishes.take_unreachable(|peer| families.contains(&Family::of(peer))) {
            self.event(Event::Refused { peer, code: code::PEER_FAMILY_MISMATCH });
        }
        if now >= self.refresh_at && !self.is_on_its_way(&Request::Refresh) {
            self.send(Request::Refresh, now);
        }
        for ask in self.wishes.take_due(now) {
            self.send(
                match ask {
                    Ask::Permit(peers) => Request::Permit(peers),
                    Ask::Bind(peer, number) => Request::Bind(peer, number),
                },
                now,
            );
        }
    }

    fn is_on_its_way(&self, request: &Request) -> bool {
        self.flights.iter().any(|flight| flight.kind == *request)
    }

    pub(super) fn lose(&mut self, why: Lost) {
        self.state = State::Idle;
        self.session = None;
        self.flights.clear();
        self.relayed.clear();
        self.mapped = None;
        self.wishes.reset();
        self.event(Event::Lost(why));
    }

    pub(super) fn event(&mut self, event: Event) {
        self.outputs.push_back(Output::Event(event));
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let flights = self.flights.iter().map(|flight| flight.due).min();
        if self.state != State::Allocated {
            return flights;
        }
        let refresh = (!self.is_on_its_way(&Request::Refresh)).then_some(self.refresh_at);
        [flights, refresh, Some(self.until), self.wishes.next()].into_iter().flatten().min()
    }

    /// Sends again, gives up, refreshes, expires.
    pub fn handle_timeout(&mut self, now: Duration) {
        let mut silent = Vec::new();
        for flight in &mut self.flights {
            match flight.overdue(now) {
                Some(Overdue::Resend(bytes)) => self.outputs.push_back(Output::Send(bytes)),
                Some(Overdue::GiveUp) => silent.push(flight.id),
                None => {}
            }
        }
        for id in silent {
            if let Some(at) = self.flights.iter().position(|flight| flight.id == id) {
                let flight = self.flights.remove(at);
                self.handle_silence(flight.kind, now);
            }
        }
        if self.state == State::Allocated && now >= self.until {
            self.lose(Lost::Expired);
        }
        self.wishes.expire(now);
        self.pump(now);
    }

    fn handle_silence(&mut self, request: Request, now: Duration) {
        match request {
            Request::Allocate | Request::Clear | Request::Refresh => self.lose(Lost::Unreachable),
            Request::Release => self.lose(Lost::Released),
            // Whether the relay is there at all, the Refresh finds out.
            Request::Permit(peers) => {
                self.wishes.ask_again(&peers, now);
                self.refresh_at = now;
            }
            Request::Bind(peer, _) => {
                self.wishes.bind_again(peer, now);
                self.refresh_at = now;
            }
        }
    }
}

pub(super) fn method(request: &Request) -> Method {
    match request {
        Request::Allocate => ALLOCATE,
        Request::Clear | Request::Refresh | Request::Release => REFRESH,
        Request::Permit(_) => CREATE_PERMISSION,
        Request::Bind(..) => CHANNEL_BIND,
    }
}

fn seconds(duration: Duration) -> Lifetime {
    Lifetime::new(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "allocation_tests.rs"]
mod tests;

//! One allocation: relayed addresses, a lifetime, permissions, channels.
//!
//! The caller owns the sockets. It gives requests and packets in, sends what comes out, and asks again no later than
//! [`Allocation::poll_timeout`]. Packets in either direction cost two table look-ups and no memory.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use stun_types::attribute::{AttributeStaticType, ErrorCode, XorMappedAddress};
use stun_types::message::{MessageClass, TransactionId};
use turn_types::attribute::{
    AddressErrorCode, Data, DontFragment, Icmp, Lifetime, ReservationToken, XorPeerAddress, XorRelayedAddress,
};
use turn_types::message::DATA;

use super::channels::{Channels, NotBound};
use super::permissions::Permissions;
use super::{Ask, DropReason, FiveTuple, IcmpError, Limits, Payload, Request, User, code};
use crate::channel::read_channel_header;
use crate::filter::{PeerAddressFilter, Route, Verdict};
use crate::wire::{Draft, Family, plain, read, transaction, value_range};

/// How an allocation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its client said so.
    Released,
    /// Its client did not refresh it.
    Expired,
}

/// What an allocation wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send this to the client.
    Respond(Vec<u8>),
    /// Close the relayed socket of this family; the allocation goes on with the other.
    FamilyReleased(Family),
    /// Close everything; nothing comes after this.
    Ended(Ended),
}

/// A packet of the client that may go to a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToPeer {
    /// Where it goes.
    pub peer: SocketAddr,
    /// The relayed address that it comes from.
    pub from: SocketAddr,
    /// Where the payload lies in the datagram.
    pub payload: Range<usize>,
    /// How it travels.
    pub route: Route,
}

/// How a packet of a peer goes to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToClient {
    /// Behind the header of this channel.
    Channel(u16),
    /// In a Data indication ([`Allocation::data_indication`]).
    Indication,
}

/// What is granted.
#[derive(Debug, Clone)]
pub struct Granted {
    /// The five-tuple.
    pub five_tuple: FiveTuple,
    /// The relayed addresses as others see them, at most one of each family, at least one.
    pub relayed: Vec<SocketAddr>,
    /// A family that was asked for besides, and why there is none (RFC 8656 §7.2).
    pub missing: Option<(Family, u16)>,
    /// What the port after this one is kept under (RFC 8656 §18.9).
    pub reservation: Option<u64>,
    /// The bounds.
    pub limits: Limits,
    /// Random bits for the transaction ids of Data indications.
    pub seed: [u8; 32],
}

/// One allocation.
#[derive(Debug)]
pub struct Allocation {
    five_tuple: FiveTuple,
    user: User,
    relayed: Vec<SocketAddr>,
    limits: Limits,
    until: Duration,
    ended: bool,
    permissions: Permissions,
    channels: Channels,
    next: Duration,
    made_by: TransactionId,
    first_answer: Vec<u8>,
    seed: [u8; 32],
    /// Made of the seed with the first Data indication: where channels are used, there is none.
    random: Option<Box<StdRng>>,
    outputs: VecDeque<Output>,
}

impl Allocation {
    /// Grants an Allocate request. The answer is the first output.
    pub fn grant(request: &Request, lifetime: Option<Duration>, granted: Granted, now: Duration) -> Self {
        let Granted { five_tuple, relayed, missing, reservation, limits, seed } = granted;
        let lifetime = clamp(lifetime, &limits);
        let id = request.transaction;
        let mut draft = request.answer(MessageClass::Success);
        for address in &relayed {
            draft = draft.with(&XorRelayedAddress::new(*address, id));
        }
        let missing = missing.and_then(|(family, code)| {
            Some(AddressErrorCode::new(family.to_codec(), ErrorCode::new(code, "").ok()?))
        });
        let first_answer = draft
            .with_some(missing)
            .with_some(reservation.map(ReservationToken::new))
            .with(&XorMappedAddress::new(five_tuple.client, id))
            .with(&seconds(lifetime))
            .sign(&request.key);
        Self {
            five_tuple,
            user: request.user.clone(),
            relayed: relayed.into_iter().map(plain).collect(),
            limits,
            until: now + lifetime,
            ended: false,
            permissions: Permissions::default(),
            channels: Channels::default(),
            next: now + lifetime,
            made_by: id,
            outputs: VecDeque::from([Output::Respond(first_answer.clone())]),
            first_answer,
            seed,
            random: None,
        }
    }

    /// The five-tuple that it belongs to.
    pub fn five_tuple(&self) -> FiveTuple {
        self.five_tuple
    }

    /// Whose it is.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Its relayed addresses, as others see them.
    pub fn relayed(&self) -> &[SocketAddr] {
        &self.relayed
    }

    /// Numbers of permissions and channels, for whoever wants to look inside.
    pub fn counts(&self) -> (usize, usize) {
        (self.permissions.len(), self.channels.len())
    }

    /// Answers a request of its client.
    pub fn handle_request(&mut self, request: &Request, filter: &PeerAddressFilter, now: Duration) {
        let answer = if self.is_over(now) {
            request.refuse(code::ALLOCATION_MISMATCH)
        } else if request.user.node != self.user.node {
            // A node's later credential has another name; what its earlier one made is still its own.
            let code = match request.ask {
                Ask::Allocate(_) => code::ALLOCATION_MISMATCH,
                Ask::Refresh { .. } | Ask::CreatePermission { .. } | Ask::ChannelBind { .. } => {
                    code::WRONG_CREDENTIALS
                }
            };
            request.refuse(code)
        } else {
            match self.serve(request, filter, now) {
                Ok(answer) => answer,
                Err(code) => request.refuse(code),
            }
        };
        // The answer goes out before the sockets close.
        let after =
            self.outputs.iter().position(|o| !matches!(o, Output::Respond(_))).unwrap_or(self.outputs.len());
        self.outputs.insert(after, Output::Respond(answer));
        self.reckon();
    }

    fn serve(
        &mut self,
        request: &Request,
        filter: &PeerAddressFilter,
        now: Duration,
    ) -> Result<Vec<u8>, u16> {
        let success = || request.answer(MessageClass::Success);
        match &request.ask {
            // A copy of the request that made this allocation is answered again; any other finds it in its way.
            Ask::Allocate(_) if request.transaction == self.made_by => Ok(self.first_answer.clone()),
            Ask::Allocate(_) => Err(code::ALLOCATION_MISMATCH),
            Ask::Refresh { lifetime, family } => {
                let lifetime = self.refresh(*lifetime, *family, now)?;
                Ok(success().with(&seconds(lifetime)).sign(&request.key))
            }
            Ask::CreatePermission { peers } => {
                for peer in peers {
                    self.admit(*peer, filter, now)?;
                }
                if !self.permissions.fits(peers.iter().map(SocketAddr::ip), self.limits.permissions) {
                    return Err(code::INSUFFICIENT_CAPACITY);
                }
                for peer in peers {
                    self.permissions.install(peer.ip(), now);
                }
                Ok(success().sign(&request.key))
            }
            Ask::ChannelBind { channel, peer } => {
                if peer.port() == 0 {
                    return Err(code::BAD_REQUEST);
                }
                self.admit(*peer, filter, now)?;
                self.channels.may_bind(*channel, *peer, self.limits.channels).map_err(|why| match why {
                    NotBound::Taken => code::BAD_REQUEST,
                    NotBound::Full => code::INSUFFICIENT_CAPACITY,
                })?;
                if !self.permissions.fits(std::iter::once(peer.ip()), self.limits.permissions) {
                    return Err(code::INSUFFICIENT_CAPACITY);
                }
                self.channels.bind(*channel, *peer, now);
                self.permissions.install(peer.ip(), now);
                Ok(success().sign(&request.key))
            }
        }
    }

    /// RFC 8656 §7.2 and §8.2 (one family of two).
    fn refresh(
        &mut self,
        lifetime: Option<Duration>,
        family: Option<Family>,
        now: Duration,
    ) -> Result<Duration, u16> {
        if family.is_some_and(|family| self.relayed_of(family).is_none()) {
            return Err(code::PEER_FAMILY_MISMATCH);
        }
        if lifetime != Some(Duration::ZERO) {
            let lifetime = clamp(lifetime, &self.limits);
            self.until = now + lifetime;
            return Ok(lifetime);
        }
        match family {
            Some(family) if self.relayed.len() > 1 => {
                let other = move |ip: IpAddr| Family::of(ip) != family;
                self.relayed.retain(|address| other(address.ip()));
                self.permissions.retain_family(other);
                self.channels.retain_family(other);
                self.outputs.push_back(Output::FamilyReleased(family));
            }
            Some(_) | None => self.end(Ended::Released),
        }
        Ok(Duration::ZERO)
    }

    fn admit(&self, peer: SocketAddr, filter: &PeerAddressFilter, now: Duration) -> Result<(), u16> {
        match filter.judge(peer, &self.user.account, now) {
            Verdict::Refused(_) => Err(code::FORBIDDEN),
            Verdict::Allowed | Verdict::InProcess if self.relayed_of(Family::of(peer.ip())).is_none() => {
                Err(code::PEER_FAMILY_MISMATCH)
            }
            Verdict::Allowed | Verdict::InProcess => Ok(()),
        }
    }

    /// A Send indication of the client.
    ///
    /// # Errors
    /// The reason to count it under.
    pub fn handle_indication(
        &self,
        datagram: &[u8],
        filter: &PeerAddressFilter,
        now: Duration,
    ) -> Result<ToPeer, DropReason> {
        let message = read(datagram).ok_or(DropReason::Malformed)?;
        let peer = message.attribute::<XorPeerAddress>().map_err(|_| DropReason::BadIndication)?;
        let peer = plain(peer.addr(message.transaction_id()));
        let payload = value_range(&message, Data::TYPE).ok_or(DropReason::BadIndication)?;
        let known = [XorPeerAddress::TYPE, Data::TYPE, DontFragment::TYPE];
        let strange = message
            .iter_attributes()
            .map(|(_, raw)| raw.header.get_type())
            .any(|attribute| attribute.comprehension_required() && !known.contains(&attribute));
        if strange || peer.port() == 0 {
            return Err(DropReason::BadIndication);
        }
        let to_peer = self.to_peer(peer, payload, filter, now)?;
        self.admits(datagram, to_peer)
    }

    /// A ChannelData message of the client.
    ///
    /// # Errors
    /// The reason to count it under.
    pub fn handle_channel_data(
        &self,
        datagram: &[u8],
        filter: &PeerAddressFilter,
        now: Duration,
    ) -> Result<ToPeer, DropReason> {
        let (channel, payload) = read_channel_header(datagram).ok_or(DropReason::Malformed)?;
        if self.is_over(now) {
            return Err(DropReason::NoAllocation);
        }
        let peer = self.channels.peer(channel, now).ok_or(DropReason::NoChannel)?;
        let to_peer = self.to_peer(peer, payload, filter, now)?;
        self.admits(datagram, to_peer)
    }

    fn admits(&self, datagram: &[u8], to_peer: ToPeer) -> Result<ToPeer, DropReason> {
        let payload = datagram.get(to_peer.payload.clone()).unwrap_or_default();
        if self.limits.payload.admits(payload) { Ok(to_peer) } else { Err(DropReason::PayloadRefused) }
    }

    /// What passes; what comes from peers is for the caller to look at.
    pub fn payload(&self) -> Payload {
        self.limits.payload
    }

    fn to_peer(
        &self,
        peer: SocketAddr,
        payload: Range<usize>,
        filter: &PeerAddressFilter,
        now: Duration,
    ) -> Result<ToPeer, DropReason> {
        if self.is_over(now) {
            return Err(DropReason::NoAllocation);
        }
        let from = self.relayed_of(Family::of(peer.ip())).ok_or(DropReason::WrongFamily)?;
        if !self.permissions.holds(peer.ip(), now) {
            return Err(DropReason::NoPermission);
        }
        Ok(ToPeer { peer, from, payload, route: filter.route(peer) })
    }

    /// A packet that came from `peer` to a relayed address.
    ///
    /// # Errors
    /// The reason to count it under.
    pub fn handle_from_peer(&self, peer: SocketAddr, now: Duration) -> Result<ToClient, DropReason> {
        if self.is_over(now) {
            return Err(DropReason::NoAllocation);
        }
        let peer = plain(peer);
        if !self.permissions.holds(peer.ip(), now) {
            return Err(DropReason::NoPermission);
        }
        Ok(match self.channels.number(peer, now) {
            Some(channel) => ToClient::Channel(channel),
            None => ToClient::Indication,
        })
    }

    /// Writes the Data indication that carries `payload` of `peer` to the client (RFC 8656 §11.3). `false`: too long.
    pub fn data_indication(&mut self, peer: SocketAddr, payload: &[u8], out: &mut Vec<u8>) -> bool {
        // Header, XOR-PEER-ADDRESS of IPv6, DATA's header and padding must fit the 16 bits of the length, too.
        if payload.len() > usize::from(u16::MAX) - 64 {
            return false;
        }
        let id = self.fresh_id();
        let message = Draft::new(MessageClass::Indication, DATA, id)
            .with(&XorPeerAddress::new(plain(peer), id))
            .with(&Data::new(payload))
            .finish();
        out.extend_from_slice(&message);
        true
    }

    /// Writes the Data indication that tells the client how the network answered to a packet for `peer` (RFC 8656 §11.5).
    ///
    /// # Errors
    /// The reason to count it under.
    pub fn icmp_indication(
        &mut self,
        peer: SocketAddr,
        error: IcmpError,
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), DropReason> {
        let _way = self.handle_from_peer(peer, now)?;
        if !error.is_reported(Family::of(peer.ip())) {
            return Err(DropReason::IcmpNotReported);
        }
        let id = self.fresh_id();
        let message = Draft::new(MessageClass::Indication, DATA, id)
            .with(&XorPeerAddress::new(plain(peer), id))
            .with(&Icmp::new(error.kind, error.code, error.reported_data()))
            .finish();
        out.extend_from_slice(&message);
        Ok(())
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    fn fresh_id(&mut self) -> TransactionId {
        let random = self.random.get_or_insert_with(|| Box::new(StdRng::from_seed(self.seed)));
        transaction(random.as_mut())
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        (!self.ended).then_some(self.next)
    }

    /// Ends what has expired.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.ended {
            return;
        }
        if now >= self.until {
            self.end(Ended::Expired);
        }
        if now >= self.next {
            self.permissions.expire(now);
            self.channels.expire(now);
        }
        self.reckon();
    }

    fn end(&mut self, how: Ended) {
        self.ended = true;
        self.outputs.push_back(Output::Ended(how));
    }

    fn is_over(&self, now: Duration) -> bool {
        self.ended || now >= self.until
    }

    fn relayed_of(&self, family: Family) -> Option<SocketAddr> {
        self.relayed.iter().copied().find(|address| Family::of(address.ip()) == family)
    }

    fn reckon(&mut self) {
        let deadlines = [Some(self.until), self.permissions.next(), self.channels.next()];
        self.next = deadlines.into_iter().flatten().min().unwrap_or(self.until);
    }
}

/// RFC 8656 §7.2: at least the default, at most the maximum.
fn clamp(asked: Option<Duration>, limits: &Limits) -> Duration {
    asked.unwrap_or(limits.lifetime).max(limits.lifetime).min(limits.longest_lifetime)
}

fn seconds(lifetime: Duration) -> Lifetime {
    Lifetime::new(u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX))
}

#[cfg(test)]
#[path = "allocation_tests.rs"]
mod tests;

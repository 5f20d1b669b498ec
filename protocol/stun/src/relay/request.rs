//! One authenticated request: who sent it, what it asks, and how to answer it.

use std::net::SocketAddr;
use std::time::Duration;

use stun_types::attribute::{AttributeFromRaw, AttributeStaticType, AttributeType};
use stun_types::message::{Message, MessageClass, Method, TransactionId};
use turn_types::attribute::{
    AdditionalAddressFamily, ChannelNumber, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorPeerAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH};

use super::{User, code};
use crate::channel::OLDER_CHANNELS;
use crate::key::Key;
use crate::wire::{Draft, Families, Family, plain};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// A new allocation.
    Allocate(AllocateAsk),
    /// More time, or none (zero ends the allocation).
    Refresh {
        /// The time asked for.
        lifetime: Option<Duration>,
        /// Only the relayed address of this family is meant.
        family: Option<Family>,
    },
    /// Peers that may send here and be sent to. Never empty.
    CreatePermission {
        /// Their addresses; the ports mean nothing.
        peers: Vec<SocketAddr>,
    },
    /// A number for a peer.
    ChannelBind {
        /// The number, in [`OLDER_CHANNELS`].
        channel: u16,
        /// The peer.
        peer: SocketAddr,
    },
}

/// The wishes of an Allocate request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AllocateAsk {
    /// Which relayed addresses.
    pub families: Families,
    /// The relayed ports shall be even (RFC 8656 §18.7).
    pub even_port: bool,
    /// The next port shall be kept for another allocation. Then there is one family, and `even_port` is set.
    pub reserve_next: bool,
    /// A port that was kept for this allocation. Then nothing else is asked for.
    pub reservation: Option<u64>,
    /// The time asked for.
    pub lifetime: Option<Duration>,
}

/// An authenticated request.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) transaction: TransactionId,
    pub(crate) fingerprint: bool,
    pub(crate) key: Key,
    pub(crate) user: User,
    pub(crate) ask: Ask,
}

impl Request {
    /// Who sent it.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// What it asks.
    pub fn ask(&self) -> &Ask {
        &self.ask
    }

    /// The answer that refuses it with an error code (see [`code`]).
    pub fn refuse(&self, code: u16) -> Vec<u8> {
        self.answer(MessageClass::Error).with_error(code).sign(&self.key)
    }

    pub(crate) fn answer(&self, class: MessageClass) -> Draft {
        Draft::new(class, self.method, self.transaction).fingerprinted(self.fingerprint)
    }
}

/// Reads what an authenticated request asks; the error code when it makes no sense.
pub(crate) fn read_ask(message: &Message<'_>) -> Result<Ask, u16> {
    match message.method() {
        ALLOCATE => read_allocate(message).map(Ask::Allocate),
        REFRESH => {
            let family = optional::<RequestedAddressFamily>(message, code::FAMILY_NOT_SUPPORTED)?;
            let family = family.map(|f| Family::from_codec(f.family()));
            Ok(Ask::Refresh { lifetime: read_lifetime(message)?, family })
        }
        CREATE_PERMISSION => {
            let peers = read_peers(message)?;
            if peers.is_empty() { Err(code::BAD_REQUEST) } else { Ok(Ask::CreatePermission { peers }) }
        }
        CHANNEL_BIND => {
            let channel = optional::<ChannelNumber>(message, code::BAD_REQUEST)?.map(|c| c.channel());
            let channel = channel.filter(|c| OLDER_CHANNELS.contains(c)).ok_or(code::BAD_REQUEST)?;
            let peer = *read_peers(message)?.first().ok_or(code::BAD_REQUEST)?;
            Ok(Ask::ChannelBind { channel, peer })
        }
        _ => Err(code::BAD_REQUEST),
    }
}

/// RFC 8656 §7.2, the checks that need no state.
fn read_allocate(message: &Message<'_>) -> Result<AllocateAsk, u16> {
    let transport = optional::<RequestedTransport>(message, code::BAD_REQUEST)?.ok_or(code::BAD_REQUEST)?;
    if transport.protocol() != RequestedTransport::UDP {
        return Err(code::TRANSPORT_NOT_SUPPORTED);
    }
    let requested = optional::<RequestedAddressFamily>(message, code::FAMILY_NOT_SUPPORTED)?;
    let additional = optional::<AdditionalAddressFamily>(message, code::BAD_REQUEST)?;
    let families = match (requested, additional) {
        (Some(_), Some(_)) => return Err(code::BAD_REQUEST),
        (Some(family), None) => match Family::from_codec(family.family()) {
            Family::V4 => Families::V4,
            Family::V6 => Families::V6,
        },
        (None, Some(additional)) => match Family::from_codec(additional.family()) {
            Family::V4 => return Err(code::BAD_REQUEST),
            Family::V6 => Families::Both,
        },
        (None, None) => Families::V4,
    };
    let even = optional::<EvenPort>(message, code::BAD_REQUEST)?;
    let reserve_next = even.as_ref().is_some_and(EvenPort::requested);
    let reservation = optional::<ReservationToken>(message, code::BAD_REQUEST)?.map(|token| token.token());
    let more_than_the_reserved = even.is_some() || message.has_attribute(RequestedAddressFamily::TYPE);
    if (reserve_next && families == Families::Both)
        || (reservation.is_some() && (more_than_the_reserved || families == Families::Both))
    {
        return Err(code::BAD_REQUEST);
    }
    let lifetime = read_lifetime(message)?;
    Ok(AllocateAsk { families, even_port: even.is_some(), reserve_next, reservation, lifetime })
}

fn read_lifetime(message: &Message<'_>) -> Result<Option<Duration>, u16> {
    let lifetime = optional::<Lifetime>(message, code::BAD_REQUEST)?;
    Ok(lifetime.map(|l| Duration::from_secs(l.seconds().into())))
}

fn read_peers(message: &Message<'_>) -> Result<Vec<SocketAddr>, u16> {
    let mut peers = Vec::new();
    for (_, raw) in message.iter_attributes().filter(|(_, raw)| is_type(raw, XorPeerAddress::TYPE)) {
        let peer = XorPeerAddress::from_raw(raw).map_err(|_| code::BAD_REQUEST)?;
        peers.push(plain(peer.addr(message.transaction_id())));
    }
    Ok(peers)
}

fn is_type(raw: &stun_types::attribute::RawAttribute<'_>, attribute: AttributeType) -> bool {
    raw.header.get_type() == attribute
}

/// An attribute that may be missing, but not damaged.
fn optional<'a, A: AttributeFromRaw<'a> + AttributeStaticType>(
    message: &'a Message<'a>,
    when_damaged: u16,
) -> Result<Option<A>, u16> {
    match message.raw_attribute(A::TYPE) {
        Some(raw) => A::from_raw(raw).map(Some).map_err(|_| when_damaged),
        None => Ok(None),
    }
}

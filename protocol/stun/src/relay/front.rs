//! What a relay says to strangers: reflexive addresses, challenges, and who is let in.
//!
//! Without state, so that nobody can fill it. What is answered before authentication is small: no SOFTWARE, no reason
//! text, 60 bytes for a challenge, which is at most three times the shortest request.

use std::net::SocketAddr;
use std::time::Duration;

use stun_types::attribute::{
    AttributeStaticType, AttributeType, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce,
    PasswordAlgorithm, Realm, UnknownAttributes, Username, XorMappedAddress,
};
use stun_types::message::{BINDING, Message, MessageClass};
use turn_types::attribute::{
    ChannelNumber, Data, DontFragment, EvenPort, Lifetime, RequestedAddressFamily, RequestedTransport,
    ReservationToken, XorPeerAddress,
};
use turn_types::message::{ALLOCATE, CHANNEL_BIND, CREATE_PERMISSION, REFRESH, SEND};

use super::request::read_ask;
use super::{Authority, DropReason, Request, User, code};
use crate::credentials::Credentials;
use crate::key::{Algorithm, Key};
use crate::nonce::Nonces;
use crate::wire::{Draft, read};

/// The attributes below 0x8000 that a relay understands; others need an answer 420 (RFC 8489 §6.3.1).
const UNDERSTOOD: [AttributeType; 15] = [
    Username::TYPE,
    MessageIntegrity::TYPE,
    MessageIntegritySha256::TYPE,
    PasswordAlgorithm::TYPE,
    Realm::TYPE,
    Nonce::TYPE,
    ChannelNumber::TYPE,
    Lifetime::TYPE,
    XorPeerAddress::TYPE,
    Data::TYPE,
    RequestedAddressFamily::TYPE,
    EvenPort::TYPE,
    RequestedTransport::TYPE,
    DontFragment::TYPE,
    ReservationToken::TYPE,
];

/// What to do with a datagram.
#[derive(Debug)]
pub enum Decision {
    /// Send this back to where it came from.
    Answer(Vec<u8>),
    /// A request whose sender is known: for the allocation of its five-tuple, or to be granted one.
    Authenticated(Request),
    /// A Send indication, for the allocation of its five-tuple.
    Indication,
    /// Nothing.
    Drop(DropReason),
}

/// Tells strangers from users.
#[derive(Debug)]
pub struct Front {
    authority: Authority,
    nonces: Nonces,
    realm: String,
}

impl Front {
    /// For the users of `authority`; `nonce_key` is drawn anew at each start.
    pub fn new(authority: Authority, realm: &str, nonce_key: [u8; 32]) -> Self {
        Self { authority, nonces: Nonces::new(nonce_key), realm: realm.to_owned() }
    }

    /// Replaces the users.
    pub fn set_authority(&mut self, authority: Authority) {
        self.authority = authority;
    }

    /// Looks at one datagram that is STUN (see [`crate::kind`]). `unix_now` is in seconds.
    pub fn handle(&self, datagram: &[u8], source: SocketAddr, now: Duration, unix_now: u64) -> Decision {
        let Some(message) = read(datagram) else { return Decision::Drop(DropReason::Malformed) };
        match (message.class(), message.method()) {
            (MessageClass::Indication, SEND) => Decision::Indication,
            (MessageClass::Request, BINDING) => Decision::Answer(answer_binding(&message, source)),
            (MessageClass::Request, ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND) => {
                self.handle_request(&message, source, now, unix_now)
            }
            (
                MessageClass::Request
                | MessageClass::Indication
                | MessageClass::Success
                | MessageClass::Error,
                _,
            ) => Decision::Drop(DropReason::UnknownMethod),
        }
    }

    fn handle_request(
        &self,
        message: &Message<'_>,
        source: SocketAddr,
        now: Duration,
        unix_now: u64,
    ) -> Decision {
        let (user, key) = match self.authenticate(message, source, now, unix_now) {
            Ok(known) => known,
            Err(code @ (code::UNAUTHENTICATED | code::STALE_NONCE)) => {
                return Decision::Answer(self.challenge(message, code, source, now));
            }
            Err(code) => return Decision::Answer(error(message).with_error(code).finish()),
        };
        let unknown = unknown_attributes(message);
        if !unknown.is_empty() {
            return Decision::Answer(refuse_unknown(message, &unknown).sign(&key));
        }
        match read_ask(message) {
            Ok(ask) => Decision::Authenticated(Request {
                method: message.method(),
                transaction: message.transaction_id(),
                key,
                user,
                ask,
            }),
            Err(code) => Decision::Answer(error(message).with_error(code).sign(&key)),
        }
    }

    /// RFC 8489 §9.2.4. The nonce is looked at before the name: a stranger with a forged address costs one MAC.
    fn authenticate(
        &self,
        message: &Message<'_>,
        source: SocketAddr,
        now: Duration,
        unix_now: u64,
    ) -> Result<(User, Key), u16> {
        let signed = message.has_attribute(MessageIntegrity::TYPE)
            || message.has_attribute(MessageIntegritySha256::TYPE);
        if !signed {
            return Err(code::UNAUTHENTICATED);
        }
        let algorithm = Algorithm::of(message).ok_or(code::BAD_REQUEST)?;
        let username = message.attribute::<Username>().map_err(|_| code::BAD_REQUEST)?;
        let realm = message.attribute::<Realm>().map_err(|_| code::BAD_REQUEST)?;
        let nonce = message.attribute::<Nonce>().map_err(|_| code::BAD_REQUEST)?;
        if !self.nonces.is_fresh(nonce.nonce(), source, now) {
            return Err(code::STALE_NONCE);
        }
        // The unknown cost as much time as those whose password is wrong.
        let known = self.authority.look_up(username.username(), unix_now);
        let (user, credentials) = match known {
            Some((user, credentials)) => (Some(user), credentials),
            None => (None, Credentials::new(username.username(), "")),
        };
        let key =
            Key::long_term(credentials.username(), &self.realm, credentials.expose_password(), algorithm);
        let verified = key.verifies(message);
        match user {
            Some(user) if verified && realm.realm() == self.realm => Ok((user, key)),
            Some(_) | None => Err(code::UNAUTHENTICATED),
        }
    }

    fn challenge(&self, message: &Message<'_>, code: u16, source: SocketAddr, now: Duration) -> Vec<u8> {
        error(message)
            .with_error(code)
            .with_some(Realm::new(&self.realm).ok())
            .with_some(Nonce::new(&self.nonces.make(source, now)).ok())
            .finish()
    }
}

fn error(message: &Message<'_>) -> Draft {
    Draft::new(MessageClass::Error, message.method(), message.transaction_id())
}

fn answer_binding(message: &Message<'_>, source: SocketAddr) -> Vec<u8> {
    let unknown = unknown_attributes(message);
    if !unknown.is_empty() {
        return refuse_unknown(message, &unknown).finish();
    }
    Draft::new(MessageClass::Success, BINDING, message.transaction_id())
        .with(&XorMappedAddress::new(source, message.transaction_id()))
        .finish()
}

fn unknown_attributes(message: &Message<'_>) -> Vec<AttributeType> {
    let mut unknown = Vec::new();
    for (_, raw) in message.iter_attributes() {
        let attribute = raw.header.get_type();
        let understood = UNDERSTOOD.contains(&attribute) || attribute == Fingerprint::TYPE;
        if attribute.comprehension_required() && !understood && !unknown.contains(&attribute) {
            unknown.push(attribute);
        }
    }
    unknown
}

fn refuse_unknown(message: &Message<'_>, unknown: &[AttributeType]) -> Draft {
    error(message).with_error(code::UNKNOWN_ATTRIBUTE).with(&UnknownAttributes::new(unknown))
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;

//! What a relay says to strangers: reflexive addresses, challenges, and who is let in.
//!
//! Without state, so that nobody can fill it. What is answered before authentication is small: no SOFTWARE, no reason
//! text, 84 bytes for a challenge, which is three times the shortest Allocate; nothing longer than three times its request
//! is answered at all. Whoever has no allocation and does not prove who they are is challenged for an Allocate only.

use std::net::SocketAddr;

use stun_types::attribute::{
    AttributeStaticType, AttributeType, Fingerprint, MessageIntegrity, MessageIntegritySha256, Nonce,
    PasswordAlgorithm, PasswordAlgorithmValue, PasswordAlgorithms, Realm, UnknownAttributes, Username,
    XorMappedAddress,
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

/// The ways to make a key of a password, the better one first (RFC 8489 §14.11).
const ALGORITHMS: [PasswordAlgorithmValue; 2] = [PasswordAlgorithmValue::SHA256, PasswordAlgorithmValue::MD5];

/// No answer to somebody unknown is longer than so many times the request.
const AMPLIFICATION: usize = 3;

/// The longest realm with which a challenge keeps to that for the shortest Allocate.
pub const LONGEST_REALM: usize = 8;

/// What to do with a datagram.
#[derive(Debug)]
pub enum Decision {
    /// Send this back to where it came from.
    Answer(Vec<u8>),
    /// A request whose sender is known: for the allocation of its five-tuple, or to be granted one.
    Authenticated(Box<Request>),
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
    /// For the users of `authority`; a realm longer than [`LONGEST_REALM`] leaves the shortest requests unanswered. Nonces of
    /// the same `nonce_key` are good after a restart, too.
    pub fn new(authority: Authority, realm: &str, nonce_key: [u8; 32]) -> Self {
        Self { authority, nonces: Nonces::new(nonce_key), realm: realm.to_owned() }
    }

    /// Replaces the users.
    pub fn set_authority(&mut self, authority: Authority) {
        self.authority = authority;
    }

    /// Looks at one datagram that is STUN (see [`crate::kind`]). `unix_now` is in seconds; `holds`: there is an allocation
    /// for this five-tuple.
    pub fn handle(&self, datagram: &[u8], source: SocketAddr, unix_now: u64, holds: bool) -> Decision {
        self.handle_within(datagram, source, unix_now, holds, || true)
    }

    /// The same; strangers are answered only when `admit` says so, which is asked before an answer costs anything.
    pub fn handle_within(
        &self,
        datagram: &[u8],
        source: SocketAddr,
        unix_now: u64,
        holds: bool,
        mut admit: impl FnMut() -> bool,
    ) -> Decision {
        let Some(message) = read(datagram) else { return Decision::Drop(DropReason::Malformed) };
        match (message.class(), message.method()) {
            (MessageClass::Indication, SEND) => Decision::Indication,
            (MessageClass::Request, BINDING) if admit() => Decision::Answer(answer_binding(&message, source)),
            (MessageClass::Request, BINDING) => Decision::Drop(DropReason::TooManyRequests),
            (MessageClass::Request, method @ (ALLOCATE | REFRESH | CREATE_PERMISSION | CHANNEL_BIND)) => {
                match self.authenticate(&message, source, unix_now) {
                    Ok((user, key)) => decide(&message, user, key),
                    Err(_) if method != ALLOCATE && !holds => Decision::Drop(DropReason::NoAllocation),
                    Err(_) if !admit() => Decision::Drop(DropReason::TooManyRequests),
                    Err(code) => {
                        let answer = self.refuse(&message, code, source, unix_now);
                        if answer.len() > AMPLIFICATION * datagram.len() {
                            return Decision::Drop(DropReason::WouldAmplify);
                        }
                        Decision::Answer(answer)
                    }
                }
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

    /// RFC 8489 §9.2.4. The nonce is looked at before the name: a stranger with a forged address costs one MAC.
    fn authenticate(
        &self,
        message: &Message<'_>,
        source: SocketAddr,
        unix_now: u64,
    ) -> Result<(User, Key), u16> {
        let algorithm = Algorithm::of(message).ok_or(code::UNAUTHENTICATED)?;
        let username = message.attribute::<Username>().map_err(|_| code::BAD_REQUEST)?;
        let realm = message.attribute::<Realm>().map_err(|_| code::BAD_REQUEST)?;
        let nonce = message.attribute::<Nonce>().map_err(|_| code::BAD_REQUEST)?;
        if !self.nonces.is_fresh(nonce.nonce(), source, unix_now) {
            return Err(code::STALE_NONCE);
        }
        let hash = chosen_hash(message)?;
        // The unknown cost as much time as those whose password is wrong.
        let known = self.authority.look_up(username.username(), unix_now);
        let (user, credentials) = match known {
            Some((user, credentials)) => (Some(user), credentials),
            None => (None, Credentials::new(username.username(), "")),
        };
        let key = |hash| {
            let (name, password) = (credentials.username(), credentials.expose_password());
            let key = Key::hashed(name, &self.realm, password, algorithm, hash);
            key.verifies(message).then_some(key)
        };
        // RFC 8489 §9.2.4: MD5 when nothing is said. Many then take the hash that goes with the integrity.
        let key = match hash {
            Some(hash) => key(hash),
            None => key(algorithm.usual_hash()).or_else(|| {
                if algorithm == Algorithm::Sha256 { key(PasswordAlgorithmValue::MD5) } else { None }
            }),
        };
        match (user, key) {
            (Some(user), Some(key)) if realm.realm() == self.realm => Ok((user, key)),
            (Some(_) | None, Some(_) | None) => Err(code::UNAUTHENTICATED),
        }
    }

    /// Refuses somebody who has not proven anything.
    fn refuse(&self, message: &Message<'_>, code: u16, source: SocketAddr, unix_now: u64) -> Vec<u8> {
        let draft = error(message).with_error(code);
        if !matches!(code, code::UNAUTHENTICATED | code::STALE_NONCE) {
            return draft.finish();
        }
        draft
            .with_some(Realm::new(&self.realm).ok())
            .with_some(Nonce::new(&self.nonces.make(source, unix_now)).ok())
            .with(&PasswordAlgorithms::new(&ALGORITHMS))
            .finish()
    }
}

/// What somebody who is known asks for.
fn decide(message: &Message<'_>, user: User, key: Key) -> Decision {
    let unknown = unknown_attributes(message);
    if !unknown.is_empty() {
        return Decision::Answer(refuse_unknown(message, &unknown).sign(&key));
    }
    match read_ask(message) {
        Ok(ask) => Decision::Authenticated(Box::new(Request {
            method: message.method(),
            transaction: message.transaction_id(),
            fingerprint: message.has_attribute(Fingerprint::TYPE),
            key,
            user,
            ask,
        })),
        Err(code) => Decision::Answer(error(message).with_error(code).sign(&key)),
    }
}

/// How the client made its key, if it says so. RFC 8489 §9.2.4: then it must repeat what it was offered, and have chosen
/// one of these, or somebody on the way has changed the offer.
fn chosen_hash(message: &Message<'_>) -> Result<Option<PasswordAlgorithmValue>, u16> {
    let (list, one) = (PasswordAlgorithms::TYPE, PasswordAlgorithm::TYPE);
    if !message.has_attribute(list) && !message.has_attribute(one) {
        return Ok(None);
    }
    let offered = message.attribute::<PasswordAlgorithms>().map_err(|_| code::BAD_REQUEST)?;
    let chosen = message.attribute::<PasswordAlgorithm>().map_err(|_| code::BAD_REQUEST)?;
    if offered.algorithms() != ALGORITHMS {
        return Err(code::BAD_REQUEST);
    }
    Ok(Some(chosen.algorithm()))
}

fn error(message: &Message<'_>) -> Draft {
    Draft::new(MessageClass::Error, message.method(), message.transaction_id())
        .fingerprinted(message.has_attribute(Fingerprint::TYPE))
}

fn answer_binding(message: &Message<'_>, source: SocketAddr) -> Vec<u8> {
    let unknown = unknown_attributes(message);
    if !unknown.is_empty() {
        return refuse_unknown(message, &unknown).finish();
    }
    Draft::new(MessageClass::Success, BINDING, message.transaction_id())
        .fingerprinted(message.has_attribute(Fingerprint::TYPE))
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

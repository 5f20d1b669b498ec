//! What the relay's answers change.

use std::net::SocketAddr;
use std::time::Duration;

use stun_types::attribute::{
    ErrorCode, Nonce, PasswordAlgorithmValue, PasswordAlgorithms, Realm, XorMappedAddress,
};
use stun_types::message::{Message, MessageClass};
use turn_types::attribute::{Lifetime, XorRelayedAddress};

use super::allocation::{AllocationClient, Request, Session, method};
use super::data::DropReason;
use super::flight::Flight;
use super::{Event, Lost, State};
use crate::key::{Algorithm, Key};
use crate::relay::code;
use crate::wire::{Family, plain};

/// Fresh nonces in a row without an answer in between: a relay that never has enough.
const MOST_STALE: u32 = 4;

/// Times that something in the way is cleared: a late copy of our own Allocate can put it there again.
const MOST_CLEARED: u32 = 3;

impl AllocationClient {
    pub(super) fn handle_answer(&mut self, message: &Message<'_>, now: Duration) -> Result<(), DropReason> {
        let at = self
            .flights
            .iter()
            .position(|f| f.id == message.transaction_id())
            .ok_or(DropReason::Unexpected)?;
        let flight = self.flights.get(at).ok_or(DropReason::Unexpected)?;
        if !message.is_response() || message.method() != method(&flight.kind) {
            return Err(DropReason::Unexpected);
        }
        let verified = self.session.as_ref().is_some_and(|session| session.key.verifies(message));
        if message.has_class(MessageClass::Success) {
            if !verified {
                return Err(DropReason::Forged);
            }
            let flight = self.flights.remove(at);
            self.answered_at = now;
            self.stale = 0;
            return self.handle_success(flight, message, now);
        }
        let error = message.attribute::<ErrorCode>().map_err(|_| DropReason::Malformed)?.code();
        let challenge = matches!(error, code::UNAUTHENTICATED | code::STALE_NONCE);
        // Before the challenge there is no key; a challenge never has an integrity.
        if !verified && !challenge && self.session.is_some() {
            return Err(DropReason::Forged);
        }
        if challenge && is_bid_down(message) {
            return Err(DropReason::Forged);
        }
        let flight = self.flights.remove(at);
        self.answered_at = now;
        self.handle_error(flight.kind, error, message, now);
        Ok(())
    }

    fn handle_success(
        &mut self,
        flight: Flight<Request>,
        message: &Message<'_>,
        now: Duration,
    ) -> Result<(), DropReason> {
        let lifetime = message.attribute::<Lifetime>().ok().map(|l| Duration::from_secs(l.seconds().into()));
        let lifetime = lifetime.unwrap_or(self.config.lifetime);
        match flight.kind {
            Request::Allocate => {
                let id = message.transaction_id();
                let mapped =
                    message.attribute::<XorMappedAddress>().map_err(|_| DropReason::Malformed)?.addr(id);
                let nth = |n| message.nth_attribute::<XorRelayedAddress>(n).ok().map(|a| plain(a.addr(id)));
                let relayed: Vec<SocketAddr> = (0..Family::ALL.len()).map_while(nth).collect();
                if relayed.is_empty() {
                    self.lose(Lost::Refused { code: 0 });
                    return Err(DropReason::Malformed);
                }
                self.state = State::Allocated;
                self.relayed.clone_from(&relayed);
                self.mapped = Some(plain(mapped));
                self.hold(lifetime, flight.first_sent, now);
                let rtt = now.saturating_sub(flight.first_sent);
                self.event(Event::Allocated { relayed, mapped: plain(mapped), rtt });
            }
            Request::Clear => self.send(Request::Allocate, now),
            Request::Refresh => self.hold(lifetime, flight.first_sent, now),
            Request::Release => self.lose(Lost::Released),
            Request::Permit(peers) => {
                for peer in peers {
                    if self.wishes.permitted(peer, flight.first_sent) {
                        self.event(Event::Permitted(peer));
                    }
                }
            }
            Request::Bind(peer, number) if self.wishes.peer(number) == Some(peer) => {
                if self.wishes.permitted_by_channel(peer.ip(), flight.first_sent) {
                    self.event(Event::Permitted(peer.ip()));
                }
                if let Some(number) = self.wishes.bound(peer, flight.first_sent) {
                    self.event(Event::Bound(peer, number));
                }
            }
            // Forgotten meanwhile.
            Request::Bind(..) => {}
        }
        Ok(())
    }

    fn hold(&mut self, lifetime: Duration, sent: Duration, now: Duration) {
        self.until = sent + lifetime;
        self.refresh_at = now + self.config.keepalive.min(lifetime / 2);
    }

    fn handle_error(&mut self, request: Request, error: u16, message: &Message<'_>, now: Duration) {
        match (error, &request) {
            (_, Request::Release) => self.lose(Lost::Released),
            (code::UNAUTHENTICATED, _) if self.session.is_some() => self.lose(Lost::Credentials),
            (code::UNAUTHENTICATED | code::STALE_NONCE, _) => self.renew(request, message, now),
            (code::WRONG_CREDENTIALS, Request::Clear) => {
                self.lose(Lost::Refused { code: code::ALLOCATION_MISMATCH });
            }
            (code::WRONG_CREDENTIALS, _) => self.lose(Lost::Credentials),
            (code::ALLOCATION_MISMATCH, Request::Allocate) if self.cleared < MOST_CLEARED => {
                self.cleared += 1;
                self.send(Request::Clear, now);
            }
            // What was in the way has ended by itself.
            (code::ALLOCATION_MISMATCH, Request::Clear) => self.send(Request::Allocate, now),
            (code, Request::Allocate | Request::Clear) => self.lose(Lost::Refused { code }),
            (code::ALLOCATION_MISMATCH, Request::Refresh | Request::Permit(_) | Request::Bind(..)) => {
                self.lose(Lost::Forgotten);
            }
            (code, Request::Refresh) => self.lose(Lost::Refused { code }),
            (code, Request::Permit(peers)) => match peers.as_slice() {
                [peer] => {
                    let peer = *peer;
                    self.wishes.forget(peer);
                    self.event(Event::Refused { peer, code });
                }
                several => self.wishes.ask_alone(several),
            },
            (code @ (code::FORBIDDEN | code::PEER_FAMILY_MISMATCH), Request::Bind(peer, _)) => {
                let peer = peer.ip();
                self.wishes.forget(peer);
                self.event(Event::Refused { peer, code });
            }
            // Without a channel, its packets need a permission of their own.
            (code, Request::Bind(peer, _)) => {
                self.wishes.forget_channel(*peer);
                self.wishes.permit(peer.ip());
                self.event(Event::NotBound(*peer, code));
            }
        }
    }

    /// Takes realm and nonce of a challenge and sends the request again with them.
    fn renew(&mut self, request: Request, message: &Message<'_>, now: Duration) {
        let realm = message.attribute::<Realm>().ok().map(|r| r.realm().to_owned());
        let nonce = message.attribute::<Nonce>().ok().map(|n| n.nonce().to_owned());
        self.stale += 1;
        let (Some(realm), Some(nonce)) = (realm, nonce) else {
            return self.lose(Lost::Refused { code: code::BAD_REQUEST });
        };
        if self.stale > MOST_STALE {
            return self.lose(Lost::Refused { code: code::STALE_NONCE });
        }
        let offered = message.attribute::<PasswordAlgorithms>().ok().map(|o| o.algorithms().to_vec());
        // RFC 8489 §9.2.5: whoever offers algorithms knows MESSAGE-INTEGRITY-SHA256, too.
        let algorithm = match &offered {
            Some(offered) if offered.contains(&PasswordAlgorithmValue::SHA256) => Algorithm::Sha256,
            Some(_) | None => Algorithm::Sha1,
        };
        let credentials = &self.config.credentials;
        let (name, password) = (credentials.username(), credentials.expose_password());
        let key = match self.session.take() {
            Some(session) if session.realm == realm && session.offered == offered => session.key,
            Some(_) | None => Key::long_term(name, &realm, password, algorithm),
        };
        self.session = Some(Session { realm, nonce, key, algorithm, offered });
        self.send(request, now);
    }
}

/// Whether the nonce says that there is a list of password algorithms, and there is none: somebody on the way has struck it
/// out, to have us use the weaker one (RFC 8489 §9.2.5).
fn is_bid_down(message: &Message<'_>) -> bool {
    let Ok(nonce) = message.attribute::<Nonce>() else { return false };
    crate::nonce::offers_algorithms(nonce.nonce()) && message.attribute::<PasswordAlgorithms>().is_err()
}

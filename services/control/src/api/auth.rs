//! Who asks: a bearer token decides the account. Failures are counted by address and slowed down; a right token always
//! passes, since others may share its address.

use std::collections::HashMap;
use std::future::{Ready, ready};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use actix_web::dev::Payload;
use actix_web::http::header;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use actors_control::audit_log;
use actors_control::model::{Account, Kind, Token};
use actors_control::storage::Note;
use protocol_identity::{Token as Bearer, TokenId, TokenKind};

use super::Api;
use super::problem::{Code, Problem};

/// Failed sign-ins that an address may have within [`WINDOW`].
const FAILURES: u32 = 30;
/// How long they count.
const WINDOW: Duration = Duration::from_secs(60);
/// Addresses that are remembered; beyond that the oldest is forgotten.
const ADDRESSES: usize = 4096;

/// Counts failed sign-ins.
#[derive(Debug, Default)]
pub struct Throttle(Mutex<HashMap<IpAddr, (u32, Instant)>>);

impl Throttle {
    /// Hosts of one IPv6 network count as one.
    fn bucket(address: IpAddr) -> IpAddr {
        match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) >> 64 << 64).into()),
            v4 @ IpAddr::V4(_) => v4,
        }
    }

    /// The answer to a failure from an address that failed too often already.
    fn check(&self, address: IpAddr, now: Instant) -> Result<(), Problem> {
        let Ok(failures) = self.0.lock() else { return Ok(()) };
        match failures.get(&Self::bucket(address)) {
            Some((count, since)) if *count >= FAILURES && now.duration_since(*since) < WINDOW => {
                let left = WINDOW.saturating_sub(now.duration_since(*since)).as_secs() + 1;
                Err(Problem::new(Code::SlowDown, format!("too many failed sign-ins; try again in {left} s"))
                    .retry_after(left))
            }
            Some(_) | None => Ok(()),
        }
    }

    fn failed(&self, address: IpAddr, now: Instant) {
        let Ok(mut failures) = self.0.lock() else { return };
        let bucket = Self::bucket(address);
        if !failures.contains_key(&bucket) && failures.len() >= ADDRESSES {
            let oldest = failures.iter().min_by_key(|(_, (_, since))| *since).map(|(address, _)| *address);
            if let Some(oldest) = oldest {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(bucket).or_insert((0, now));
        if now.duration_since(entry.1) >= WINDOW {
            *entry = (0, now);
        }
        entry.0 += 1;
    }
}

/// An administrator of one account, as the guard found them.
#[derive(Debug, Clone)]
pub struct Admin {
    /// The account.
    pub account: Account,
    /// As the log names them.
    pub by: String,
    /// The token that asks.
    pub token: TokenId,
}

/// Finds the account and token of a request.
///
/// # Errors
/// The request has no token, or one that is unknown, ended or for something else; or its address failed too often.
pub async fn authenticate(
    request: &HttpRequest,
    api: &Api,
    accepted: &[TokenKind],
) -> Result<(Account, Token), Problem> {
    let refused = |detail: &str| {
        Problem::new(Code::Unauthenticated, format!("{detail}; send Authorization: Bearer <token>"))
    };
    let source = request.peer_addr().map(|address| address.ip());
    let now = Instant::now();
    let header = request.headers().get(header::AUTHORIZATION).ok_or_else(|| refused("no token was sent"))?;
    let bearer = header
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .and_then(|(_, token)| token.parse::<Bearer>().ok());
    let fail = |detail| {
        if let Some(source) = source {
            api.throttle.check(source, now)?;
            api.throttle.failed(source, now);
        }
        Err(refused(detail))
    };
    // Guessing takes tokens of the right shape; nothing else is held against an address.
    let Some(bearer) = bearer else { return Err(refused("the token is malformed")) };
    if !accepted.contains(&bearer.kind()) {
        return fail("the token is for something else");
    }
    let Some((account, token)) = api.storage.authenticate(bearer.hash()).await? else {
        return fail("the token is not known");
    };
    // A gateway's or relay's token lets nobody new in after its end, which is decided when the node says who it is.
    let joins = matches!(token.kind, TokenKind::Gateway | TokenKind::Relay);
    if token.is_expired(api.clock.now()) && !joins {
        let note = Note {
            action: "refused",
            kind: Kind::Token,
            id: Some(token.id.0),
            name: Some(token.name.clone()),
            detail: serde_json::json!({ "why": "the token has ended" }),
        };
        let failed = fail("the token has ended");
        if failed.as_ref().is_err_and(|problem| problem.code == Code::Unauthenticated) {
            api.note(account.id, "control", note);
        }
        return failed;
    }
    api.tell_audit(audit_log::Command::Used(account.id, token.id));
    Ok((account, token))
}

impl FromRequest for Admin {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        // Behind the guard there always is one.
        let admin = request.extensions().get::<Self>().cloned();
        ready(admin.ok_or_else(|| Problem::new(Code::Unauthenticated, "no token was sent")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_too_often_waits_and_others_do_not() {
        let throttle = Throttle::default();
        let now = Instant::now();
        let bad: IpAddr = "2001:db8::1".parse().unwrap();
        let neighbour: IpAddr = "2001:db8::2".parse().unwrap();
        let other: IpAddr = "198.51.100.7".parse().unwrap();

        for _ in 0..FAILURES {
            assert!(throttle.check(bad, now).is_ok());
            throttle.failed(bad, now);
        }

        assert!(throttle.check(bad, now).is_err());
        assert!(throttle.check(neighbour, now).is_err());
        assert!(throttle.check(other, now).is_ok());
        assert!(throttle.check(bad, now + WINDOW).is_ok());
    }

    #[test]
    fn many_addresses_do_not_fill_the_memory() {
        let throttle = Throttle::default();
        let now = Instant::now();

        for n in 0..u32::try_from(2 * ADDRESSES).unwrap() {
            throttle.failed(IpAddr::V4(n.into()), now);
        }

        assert_eq!(throttle.0.lock().unwrap().len(), ADDRESSES);
    }
}

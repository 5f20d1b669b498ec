//! Nonces without state: the relay recognises its own by their MAC.
//!
//! A nonce begins with the cookie of RFC 8489 §9.2, which says that the relay knows password algorithms: a stranger on the
//! way who strikes their list out of a challenge is found out. Then come the minute it was made in (16 bits) and 72 bits of
//! HMAC-SHA256 over that minute, the client's address and port. 28 characters: with a realm of at most eight and the list
//! of algorithms a challenge has 84 bytes, three times the shortest Allocate.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use subtle::ConstantTimeEq;

/// How long a nonce is accepted: RFC 8489 §9.2.4 wants it to expire; each expiry costs a client one round trip.
pub const LIFETIME: Duration = Duration::from_secs(3600);

const UNIT: u64 = 60;
const MAC_LEN: usize = 9;

/// RFC 8489 §9.2 and §18.1: the cookie, then 24 bits in base64, the leftmost of which stands for password algorithms.
const COOKIE: &str = "obMatJos2gAAA";

/// Characters of a nonce: the cookie, and 11 bytes in base64.
pub const NONCE_LEN: usize = COOKIE.len() + 15;

/// Makes and recognises nonces. Times are seconds since 1970, so that a relay that keeps its key over a restart knows the
/// nonces from before it.
pub struct Nonces(hmac::Key);

impl Nonces {
    /// With a random key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// A nonce for the client at `source`.
    pub fn make(&self, source: SocketAddr, unix_now: u64) -> String {
        let minute = unix_now / UNIT;
        let mut raw = [0u8; 2 + MAC_LEN];
        raw[..2].copy_from_slice(&low_bits(minute));
        raw[2..].copy_from_slice(&self.mac(minute, source));
        let mut nonce = String::with_capacity(NONCE_LEN);
        nonce.push_str(COOKIE);
        URL_SAFE_NO_PAD.encode_string(raw, &mut nonce);
        nonce
    }

    /// Whether `nonce` was made here, for this client, within [`LIFETIME`].
    pub fn is_fresh(&self, nonce: &str, source: SocketAddr, unix_now: u64) -> bool {
        let mut raw = [0u8; 2 + MAC_LEN];
        let Some(text) = nonce.strip_prefix(COOKIE) else { return false };
        if nonce.len() != NONCE_LEN || URL_SAFE_NO_PAD.decode_slice(text, &mut raw) != Ok(raw.len()) {
            return false;
        }
        let present = unix_now / UNIT;
        let made = u16::from_be_bytes([raw[0], raw[1]]);
        let age = u64::from(u16::from_be_bytes(low_bits(present)).wrapping_sub(made));
        let Some(minute) = present.checked_sub(age) else { return false };
        let ours = bool::from(self.mac(minute, source).ct_eq(&raw[2..]));
        ours && age <= LIFETIME.as_secs() / UNIT
    }

    fn mac(&self, minute: u64, source: SocketAddr) -> [u8; MAC_LEN] {
        let address = match source.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&minute.to_be_bytes());
        context.update(&address);
        context.update(&source.port().to_be_bytes());
        let mut out = [0u8; MAC_LEN];
        out.copy_from_slice(&context.sign().as_ref()[..MAC_LEN]);
        out
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Nonces(…)")
    }
}

/// Whether a nonce, of whatever relay, says that the challenge lists password algorithms (RFC 8489 §9.2).
pub(crate) fn offers_algorithms(nonce: &str) -> bool {
    let features = nonce.strip_prefix("obMatJos2").and_then(|rest| rest.get(..4));
    let mut bits = [0u8; 3];
    let decoded = features.map(|features| STANDARD.decode_slice(features, &mut bits));
    matches!(decoded, Some(Ok(3))) && bits[0] & 0x80 != 0
}

fn low_bits(minute: u64) -> [u8; 2] {
    let bytes = minute.to_be_bytes();
    [bytes[6], bytes[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_nonce_is_fresh_for_its_client_and_its_hour() {
        let nonces = Nonces::new([1; 32]);
        let client = source("203.0.113.7:5000");
        for start in [0, HOUR * 2000, 60 * 65_535] {
            let nonce = nonces.make(client, start);

            assert_eq!(nonce.len(), NONCE_LEN);
            assert!(nonces.is_fresh(&nonce, client, start));
            assert!(nonces.is_fresh(&nonce, client, start + HOUR));
            assert!(!nonces.is_fresh(&nonce, client, start + HOUR + 60));
        }
    }

    #[test]
    fn a_nonce_is_stale_for_another_address_port_or_key() {
        let nonces = Nonces::new([1; 32]);
        let nonce = nonces.make(source("203.0.113.7:5000"), HOUR);

        assert!(!nonces.is_fresh(&nonce, source("203.0.113.7:5001"), HOUR));
        assert!(!nonces.is_fresh(&nonce, source("203.0.113.8:5000"), HOUR));
        assert!(!nonces.is_fresh(&nonce, source("[2001:db8::1]:5000"), HOUR));
        assert!(!Nonces::new([2; 32]).is_fresh(&nonce, source("203.0.113.7:5000"), HOUR));
    }

    #[test]
    fn a_nonce_says_that_the_relay_knows_password_algorithms() {
        let nonce = Nonces::new([1; 32]).make(source("203.0.113.7:5000"), HOUR);

        let features = STANDARD.decode(nonce.strip_prefix("obMatJos2").unwrap().get(..4).unwrap()).unwrap();
        assert_eq!(features, [0x80, 0, 0]);
    }

    #[test]
    fn damaged_text_is_stale() {
        let nonces = Nonces::new([1; 32]);
        let client = source("203.0.113.7:5000");
        let nonce = nonces.make(client, HOUR);

        for at in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[at] = if changed[at] == b'Q' { b'Z' } else { b'Q' };
            assert!(!nonces.is_fresh(&String::from_utf8(changed).unwrap(), client, HOUR), "character {at}");
        }
        for text in ["", COOKIE, "short", "äöü-äöü-äöü", "AAAAAAAAAAAAAAAAA"] {
            assert!(!nonces.is_fresh(text, client, HOUR));
        }
    }
}

//! Nonces without state: the relay recognises its own by their MAC.
//!
//! A nonce is the minute it was made in (16 bits) and 80 bits of HMAC-SHA256 over that minute, the client's address and
//! port. 16 characters, so that a challenge stays within three times the shortest request.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use subtle::ConstantTimeEq;

/// How long a nonce is accepted: RFC 8489 §9.2.4 wants it to expire; each expiry costs a client one round trip.
pub const LIFETIME: Duration = Duration::from_secs(3600);

const UNIT: u64 = 60;
const MAC_LEN: usize = 10;

/// Characters of a nonce.
pub const NONCE_LEN: usize = 16;

/// Makes and recognises nonces. The key is drawn anew at each start, so a nonce from before it is stale.
pub struct Nonces(hmac::Key);

impl Nonces {
    /// With a random key.
    pub fn new(key: [u8; 32]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &key))
    }

    /// A nonce for the client at `source`.
    pub fn make(&self, source: SocketAddr, now: Duration) -> String {
        let minute = now.as_secs() / UNIT;
        let mut raw = [0u8; 2 + MAC_LEN];
        raw[..2].copy_from_slice(&low_bits(minute));
        raw[2..].copy_from_slice(&self.mac(minute, source));
        URL_SAFE_NO_PAD.encode(raw)
    }

    /// Whether `nonce` was made here, for this client, within [`LIFETIME`].
    pub fn is_fresh(&self, nonce: &str, source: SocketAddr, now: Duration) -> bool {
        let mut raw = [0u8; 2 + MAC_LEN];
        if nonce.len() != NONCE_LEN || URL_SAFE_NO_PAD.decode_slice(nonce, &mut raw) != Ok(raw.len()) {
            return false;
        }
        let present = now.as_secs() / UNIT;
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

fn low_bits(minute: u64) -> [u8; 2] {
    let bytes = minute.to_be_bytes();
    [bytes[6], bytes[7]]
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_nonce_is_fresh_for_its_client_and_its_hour() {
        let nonces = Nonces::new([1; 32]);
        let client = source("203.0.113.7:5000");
        for start in [Duration::ZERO, HOUR * 2000, Duration::from_secs(60 * 65_535)] {
            let nonce = nonces.make(client, start);

            assert_eq!(nonce.len(), NONCE_LEN);
            assert!(nonces.is_fresh(&nonce, client, start));
            assert!(nonces.is_fresh(&nonce, client, start + HOUR));
            assert!(!nonces.is_fresh(&nonce, client, start + HOUR + Duration::from_secs(60)));
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
    fn damaged_text_is_stale() {
        let nonces = Nonces::new([1; 32]);
        let client = source("203.0.113.7:5000");
        let nonce = nonces.make(client, HOUR);

        for at in 0..nonce.len() {
            let mut changed = nonce.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            assert!(!nonces.is_fresh(&String::from_utf8(changed).unwrap(), client, HOUR));
        }
        for text in ["", "short", "äöü-äöü-äöü", "AAAAAAAAAAAAAAAAA"] {
            assert!(!nonces.is_fresh(text, client, HOUR));
        }
    }
}

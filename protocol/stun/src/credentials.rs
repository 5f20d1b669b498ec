//! Who may use a relay: a name and a password, fixed or valid until a moment that the name says.
//!
//! Time-limited credentials need no talk between relay and control: the name is `<unix expiry>:<node>`, the password is
//! base64(HMAC-SHA1(secret, name)), and both sides know the secret. The relay makes it, control mints with it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::hmac;
use zeroize::Zeroizing;

/// The realm of our relays.
pub const REALM: &str = "postern";

/// Longest name that we mint or accept: RFC 8489 §14.3 allows 508 bytes.
const LONGEST_NAME: usize = 508;

/// The bits that a fresh secret has: as many as the HMAC's output keeps.
const SECRET_LEN: usize = 32;

/// Why a secret or a name is not accepted. Never says what it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The name is not `<unix expiry>:<node>`.
    #[error("not a time-limited user name: expected <unix expiry>:<node>")]
    NotTimeLimited,
    /// The name's time has passed.
    #[error("the credential has expired")]
    Expired,
    /// The secret is shorter than 16 or longer than 64 bytes, or not base64.
    #[error("not a relay secret: expected 16 to 64 bytes in base64")]
    NotASecret,
}

/// What a relay and control share to make and check time-limited credentials. Prints as `RelaySecret(…)`.
#[derive(Clone)]
pub struct RelaySecret(Zeroizing<Vec<u8>>);

impl RelaySecret {
    /// A new secret from the caller's randomness, which fills the slice it is given.
    pub fn generate(random: &mut dyn FnMut(&mut [u8])) -> Self {
        let mut bytes = Zeroizing::new(vec![0u8; SECRET_LEN]);
        random(&mut bytes);
        Self(bytes)
    }

    /// A secret from its bytes.
    ///
    /// # Errors
    /// [`CredentialError::NotASecret`] unless there are 16 to 64.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CredentialError> {
        if (16..=64).contains(&bytes.len()) {
            Ok(Self(Zeroizing::new(bytes.to_vec())))
        } else {
            Err(CredentialError::NotASecret)
        }
    }

    /// A secret from the text of [`Self::to_text`].
    ///
    /// # Errors
    /// [`CredentialError::NotASecret`]; the text is not repeated.
    pub fn from_text(text: &str) -> Result<Self, CredentialError> {
        let bytes =
            Zeroizing::new(URL_SAFE_NO_PAD.decode(text.trim()).map_err(|_| CredentialError::NotASecret)?);
        Self::from_bytes(&bytes)
    }

    /// The secret as text, for a file of mode 0600 or an encrypted session.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(URL_SAFE_NO_PAD.encode(&*self.0))
    }

    /// A key for the relay's nonces that is as secret as this, and says nothing about it.
    pub fn nonce_key(&self) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), b"postern relay: nonces");
        let mut key = [0; 32];
        key.copy_from_slice(tag.as_ref());
        key
    }

    /// The bytes.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for RelaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelaySecret(…)")
    }
}

/// A user name and a password. The password prints as `…`.
#[derive(Clone)]
pub struct Credentials {
    username: String,
    password: Zeroizing<String>,
}

impl Credentials {
    /// From a name and a password.
    pub fn new(username: impl Into<String>, password: impl Into<String>) -> Self {
        Self { username: username.into(), password: Zeroizing::new(password.into()) }
    }

    /// The name.
    pub fn username(&self) -> &str {
        &self.username
    }

    /// The password, to be put where it is needed and nowhere else.
    pub fn expose_password(&self) -> &str {
        &self.password
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, …)", self.username)
    }
}

/// Makes a credential for `node` that a relay with this secret accepts until `expires_unix` (seconds since 1970).
///
/// `node` is a node's id, or `<account>/<node id>`: relays keep the accounts apart when they decide which private
/// addresses may be reached.
pub fn mint(secret: &RelaySecret, node: &str, expires_unix: u64) -> Credentials {
    let username = format!("{expires_unix}:{node}");
    let password = password(secret, &username);
    Credentials { username, password }
}

/// The credential that belongs to a time-limited user name; whether the sender knows its password is for the
/// message's integrity to prove.
///
/// # Errors
/// [`CredentialError::NotTimeLimited`] for any other name, [`CredentialError::Expired`] when its time has come.
pub fn verify(secret: &RelaySecret, username: &str, unix_now: u64) -> Result<Credentials, CredentialError> {
    let (expires, _node) = parse(username).ok_or(CredentialError::NotTimeLimited)?;
    if expires <= unix_now {
        return Err(CredentialError::Expired);
    }
    Ok(Credentials { username: username.into(), password: password(secret, username) })
}

/// Expiry and node of a time-limited name.
pub(crate) fn parse(username: &str) -> Option<(u64, &str)> {
    if username.len() > LONGEST_NAME {
        return None;
    }
    let (expires, node) = username.split_once(':')?;
    if node.is_empty() || expires.is_empty() || !expires.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some((expires.parse().ok()?, node))
}

fn password(secret: &RelaySecret, username: &str) -> Zeroizing<String> {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret.expose());
    Zeroizing::new(STANDARD.encode(hmac::sign(&key, username.as_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret() -> RelaySecret {
        RelaySecret::from_bytes(b"north-sea-lighthouse").unwrap()
    }

    #[test]
    fn a_minted_credential_is_accepted_until_it_expires() {
        let minted = mint(&secret(), "gateway-1", 1_000);

        assert_eq!(minted.username(), "1000:gateway-1");
        let accepted = verify(&secret(), minted.username(), 999).unwrap();
        assert_eq!(accepted.expose_password(), minted.expose_password());
        assert_eq!(verify(&secret(), minted.username(), 1_000).unwrap_err(), CredentialError::Expired);
    }

    #[test]
    fn the_password_is_base64_of_hmac_sha1_over_the_name() {
        // Computed by another implementation: Python's hmac and base64 over the same secret and name.
        let expected = "phRWePVN+7ccSLBEoSD3yQj/V6Y=";

        assert_eq!(mint(&secret(), "gateway-1", 1_000).expose_password(), expected);
    }

    #[test]
    fn another_secret_gives_another_password() {
        let other = RelaySecret::from_bytes(&[7; 32]).unwrap();

        assert_ne!(mint(&secret(), "n", 5).expose_password(), mint(&other, "n", 5).expose_password());
    }

    #[test]
    fn names_that_are_not_time_limited_are_refused() {
        for name in ["", ":", "5:", ":n", "x:n", "-5:n", "+5:n", "99999999999999999999:n", "alice"] {
            assert_eq!(verify(&secret(), name, 0).unwrap_err(), CredentialError::NotTimeLimited, "{name:?}");
        }
        let long = format!("5:{}", "n".repeat(LONGEST_NAME));
        assert_eq!(verify(&secret(), &long, 0).unwrap_err(), CredentialError::NotTimeLimited);
    }

    #[test]
    fn a_secret_reads_back_from_its_own_text() {
        let fresh = RelaySecret::generate(&mut |bytes| bytes.fill(9));

        let read = RelaySecret::from_text(&fresh.to_text()).unwrap();

        assert_eq!(read.expose(), [9; SECRET_LEN]);
        assert_eq!(RelaySecret::from_text("too short").unwrap_err(), CredentialError::NotASecret);
    }

    #[test]
    fn neither_secret_nor_password_prints() {
        let printed = format!("{:?} {:?}", secret(), Credentials::new("alice", "open sesame"));

        assert_eq!(printed, "RelaySecret(…) Credentials(alice, …)");
    }
}

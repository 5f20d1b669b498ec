//! Tokens: 256 random bits with a prefix that says what they are for. Only hashes are stored.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::KeyError;

/// What a token lets its holder do. A token of one kind is refused where another is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TokenKind {
    /// Administers one account through the API.
    Admin,
    /// Joins a gateway to one site.
    Gateway,
    /// Joins a relay.
    Relay,
    /// Signs a service account's devices in.
    ServiceAccount,
}

impl TokenKind {
    /// All kinds, in the order of their names in the documentation.
    pub const ALL: [Self; 4] = [Self::Admin, Self::Gateway, Self::Relay, Self::ServiceAccount];

    /// The prefix that a token of this kind starts with.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Admin => "pst_admin_",
            Self::Gateway => "pst_gateway_",
            Self::Relay => "pst_relay_",
            Self::ServiceAccount => "pst_service_",
        }
    }
}

/// A bearer token in clear. Prints as its prefix and `…`.
#[derive(Clone)]
pub struct Token {
    kind: TokenKind,
    bytes: Zeroizing<[u8; 32]>,
}

/// The text is not a token. The text itself is never repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a token: expected pst_admin_…, pst_gateway_…, pst_relay_… or pst_service_… with 43 characters after the prefix"
)]
pub struct NotAToken;

impl Token {
    /// Draws a new token from the system's randomness.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`] when the system gives none.
    pub fn generate(kind: TokenKind) -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0u8; 32]);
        SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self { kind, bytes })
    }

    /// What the token is for.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// The text to hand to its one holder. This is the only way to see it.
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{}{}", self.kind.prefix(), URL_SAFE_NO_PAD.encode(*self.bytes)))
    }

    /// What is stored instead of the token: SHA-256 over its kind and its bits.
    pub fn hash(&self) -> TokenHash {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(self.kind.prefix().as_bytes());
        context.update(&*self.bytes);
        let mut out = [0u8; 32];
        out.copy_from_slice(context.finish().as_ref());
        TokenHash(out)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        let kind = TokenKind::ALL.into_iter().find(|k| text.starts_with(k.prefix())).ok_or(NotAToken)?;
        let rest = text.get(kind.prefix().len()..).ok_or(NotAToken)?;
        let decoded = Zeroizing::new(URL_SAFE_NO_PAD.decode(rest).map_err(|_| NotAToken)?);
        let bytes = <[u8; 32]>::try_from(decoded.as_slice()).map_err(|_| NotAToken)?;
        Ok(Self { kind, bytes: Zeroizing::new(bytes) })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.kind.prefix())
    }
}

/// The stored form of a token. Compares in constant time.
#[derive(Clone, Copy, Eq)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The bytes, for storage.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// From storage.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_from_its_own_text_and_keeps_its_hash() {
        for kind in TokenKind::ALL {
            let token = Token::generate(kind).unwrap();

            let read = token.reveal().parse::<Token>().unwrap();

            assert_eq!(read.kind(), kind);
            assert_eq!(read.hash(), token.hash());
        }
    }

    #[test]
    fn the_same_bits_for_another_purpose_are_another_token() {
        let token = Token::generate(TokenKind::Gateway).unwrap();
        let text = token.reveal().replace("pst_gateway_", "pst_admin_");

        let other = text.parse::<Token>().unwrap();

        assert_ne!(other.hash(), token.hash());
    }

    #[test]
    fn a_token_never_prints() {
        let token = Token::generate(TokenKind::Admin).unwrap();

        assert_eq!(format!("{token:?}"), "pst_admin_…");
        assert_eq!(format!("{:?}", token.hash()), "TokenHash(…)");
    }

    #[test]
    fn damaged_text_is_refused_without_being_repeated() {
        let error = "pst_admin_secretsecret".parse::<Token>().unwrap_err();

        assert!(!error.to_string().contains("secretsecret"));
    }
}

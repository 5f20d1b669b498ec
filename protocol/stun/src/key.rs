//! The key of one credential: signs and checks MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256.
//!
//! How the key is made of the password (PASSWORD-ALGORITHM) and which integrity attribute it signs with are two choices in
//! RFC 8489 (§9.2.2, §14.5, §14.6), and a client may mix them. The codec ties them together and keeps its key behind a
//! lock, so both are done here, with ring.

use std::fmt;

use md5::{Digest as _, Md5};
use ring::{digest, hmac};
use stun_types::attribute::{
    AttributeStaticType, MessageIntegrity, MessageIntegritySha256, PasswordAlgorithmValue,
};
use stun_types::message::{Message, MessageHeader, MessageWrite, MessageWriteVec};
use subtle::ConstantTimeEq as _;

/// Which integrity attribute a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// MESSAGE-INTEGRITY: HMAC-SHA1 (RFC 8489 §14.5).
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256 (RFC 8489 §14.6).
    Sha256,
}

impl Algorithm {
    /// What a message is signed with; the stronger when it carries both. `None`: not signed.
    pub(crate) fn of(message: &Message<'_>) -> Option<Self> {
        if message.has_attribute(MessageIntegritySha256::TYPE) {
            Some(Self::Sha256)
        } else if message.has_attribute(MessageIntegrity::TYPE) {
            Some(Self::Sha1)
        } else {
            None
        }
    }

    /// The way to make a key that goes with it when nothing else is said.
    pub(crate) fn usual_hash(self) -> PasswordAlgorithmValue {
        match self {
            Self::Sha1 => PasswordAlgorithmValue::MD5,
            Self::Sha256 => PasswordAlgorithmValue::SHA256,
        }
    }
}

/// A long-term key (RFC 8489 §9.2.2). Never prints.
#[derive(Clone)]
pub(crate) struct Key {
    algorithm: Algorithm,
    key: hmac::Key,
}

impl Key {
    /// The key with the hash that is usual for this integrity.
    pub(crate) fn long_term(username: &str, realm: &str, password: &str, algorithm: Algorithm) -> Self {
        Self::hashed(username, realm, password, algorithm, algorithm.usual_hash())
    }

    /// The key made by `hash` (RFC 8489 §18.5.1), for messages signed by `algorithm`.
    pub(crate) fn hashed(
        username: &str,
        realm: &str,
        password: &str,
        algorithm: Algorithm,
        hash: PasswordAlgorithmValue,
    ) -> Self {
        let parts = [username, ":", realm, ":", password];
        let key = |bytes: &[u8]| {
            hmac::Key::new(
                match algorithm {
                    Algorithm::Sha1 => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
                    Algorithm::Sha256 => hmac::HMAC_SHA256,
                },
                bytes,
            )
        };
        let key = match hash {
            PasswordAlgorithmValue::MD5 => {
                let mut md5 = Md5::new();
                parts.iter().for_each(|part| md5.update(part.as_bytes()));
                key(&md5.finalize())
            }
            PasswordAlgorithmValue::SHA256 => {
                let mut sha256 = digest::Context::new(&digest::SHA256);
                parts.iter().for_each(|part| sha256.update(part.as_bytes()));
                key(sha256.finish().as_ref())
            }
        };
        Self { algorithm, key }
    }

    /// Ends `draft` with its integrity.
    pub(crate) fn sign(&self, draft: &mut MessageWriteVec) {
        let unsigned = draft.len();
        match self.algorithm {
            Algorithm::Sha1 => {
                let hmac = self.mac(draft.data(), length_with(unsigned, 20));
                let mut bytes = [0; 20];
                bytes.copy_from_slice(hmac.as_ref());
                draft.push_attribute_unchecked(&MessageIntegrity::new(bytes));
            }
            Algorithm::Sha256 => {
                let hmac = self.mac(draft.data(), length_with(unsigned, 32));
                if let Ok(attribute) = MessageIntegritySha256::new(hmac.as_ref()) {
                    draft.push_attribute_unchecked(&attribute);
                }
            }
        }
    }

    /// Whether the message carries an integrity made with this key. Compares in constant time.
    pub(crate) fn verifies(&self, message: &Message<'_>) -> bool {
        let attribute = match self.algorithm {
            Algorithm::Sha1 => MessageIntegrity::TYPE,
            Algorithm::Sha256 => MessageIntegritySha256::TYPE,
        };
        let Some((offset, raw)) = message.raw_attribute_and_offset(attribute) else { return false };
        let theirs: &[u8] = &raw.value;
        let Some(signed) = message.as_bytes().get(..offset) else { return false };
        let ours = self.mac(signed, length_with(offset, theirs.len()));
        // SHA-256 may be cut, to 16 bytes at the least (RFC 8489 §14.6); the structural check has seen to that.
        let Some(ours) = ours.as_ref().get(..theirs.len()) else { return false };
        !theirs.is_empty() && bool::from(ours.ct_eq(theirs))
    }

    /// Over the message up to its integrity, with the length that it has with it.
    fn mac(&self, signed: &[u8], length: [u8; 2]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(signed.get(..2).unwrap_or_default());
        context.update(&length);
        context.update(signed.get(4..).unwrap_or_default());
        context.sign()
    }
}

/// The header's length field with an integrity attribute of `hmac` bytes behind `unsigned` bytes of message.
fn length_with(unsigned: usize, hmac: usize) -> [u8; 2] {
    let body = (unsigned + 4 + hmac).saturating_sub(MessageHeader::LENGTH);
    u16::try_from(body).unwrap_or(u16::MAX).to_be_bytes()
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({:?}, …)", self.algorithm)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Draft, read};
    use stun_types::message::{BINDING, MessageClass, TransactionId};

    fn key(password: &str, algorithm: Algorithm) -> Key {
        Key::long_term("user", "postern", password, algorithm)
    }

    #[test]
    fn a_signed_message_verifies_with_its_key_and_no_other() {
        for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
            let signed = Draft::new(MessageClass::Request, BINDING, TransactionId::from(1))
                .sign(&key("right", algorithm));

            let message = read(&signed).unwrap();

            assert_eq!(Algorithm::of(&message), Some(algorithm));
            assert!(key("right", algorithm).verifies(&message));
            assert!(!key("wrong", algorithm).verifies(&message));
        }
    }

    #[test]
    fn one_changed_bit_anywhere_does_not_verify() {
        let signed = Draft::new(MessageClass::Request, BINDING, TransactionId::from(1))
            .with_error(400)
            .sign(&key("right", Algorithm::Sha1));

        for bit in 0..signed.len() * 8 {
            let mut changed = signed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let verified = read(&changed).is_some_and(|m| key("right", Algorithm::Sha1).verifies(&m));
            assert!(!verified, "bit {bit}");
        }
    }

    #[test]
    fn a_key_never_prints() {
        assert_eq!(format!("{:?}", key("secret", Algorithm::Sha1)), "Key(Sha1, …)");
    }
}

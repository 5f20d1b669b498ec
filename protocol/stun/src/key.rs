//! The key of one credential: signs and checks MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256.

use std::fmt;

use stun_types::attribute::{
    AttributeStaticType, MessageIntegrity, MessageIntegritySha256, PasswordAlgorithm, PasswordAlgorithmValue,
};
use stun_types::message::{
    IntegrityAlgorithm, IntegrityKey, LongTermKeyCredentials, Message, MessageWrite, MessageWriteVec,
};

/// Which integrity attribute a message carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Algorithm {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, key by MD5 (RFC 8489 §14.5, §9.2.2).
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256, key by SHA-256 (RFC 8489 §14.6, §18.5.1.2).
    Sha256,
}

impl Algorithm {
    /// What a message is signed with; the stronger when it carries both. `None`: not signed, or PASSWORD-ALGORITHM
    /// asks for a key that does not belong to the integrity attribute.
    pub(crate) fn of(message: &Message<'_>) -> Option<Self> {
        let algorithm = if message.has_attribute(MessageIntegritySha256::TYPE) {
            Self::Sha256
        } else if message.has_attribute(MessageIntegrity::TYPE) {
            Self::Sha1
        } else {
            return None;
        };
        if message.has_attribute(PasswordAlgorithm::TYPE) {
            let wanted = match algorithm {
                Self::Sha1 => PasswordAlgorithmValue::MD5,
                Self::Sha256 => PasswordAlgorithmValue::SHA256,
            };
            let asked = message.attribute::<PasswordAlgorithm>().ok()?;
            return (asked.algorithm() == wanted).then_some(algorithm);
        }
        Some(algorithm)
    }

    fn to_codec(self) -> IntegrityAlgorithm {
        match self {
            Self::Sha1 => IntegrityAlgorithm::Sha1,
            Self::Sha256 => IntegrityAlgorithm::Sha256,
        }
    }
}

/// A long-term key (RFC 8489 §9.2.2). Never prints.
#[derive(Clone)]
pub(crate) struct Key {
    algorithm: Algorithm,
    key: IntegrityKey,
}

impl Key {
    pub(crate) fn long_term(username: &str, realm: &str, password: &str, algorithm: Algorithm) -> Self {
        let credentials = LongTermKeyCredentials::new(username.into(), password.into(), realm.into());
        Self { algorithm, key: credentials.make_key(algorithm.to_codec()) }
    }

    /// Ends `draft` with its integrity. The codec's own way of signing is not used: it records its key in a trace span.
    pub(crate) fn sign(&self, draft: &mut MessageWriteVec) {
        let unsigned = draft.len();
        let mut header = [0u8; 4];
        header.copy_from_slice(&draft.data()[..4]);
        match self.algorithm {
            Algorithm::Sha1 => {
                header[2..].copy_from_slice(&length_with(unsigned, 20));
                let hmac =
                    MessageIntegrity::compute(&[&header, &draft.data()[4..]], &self.key).unwrap_or([0; 20]);
                draft.push_attribute_unchecked(&MessageIntegrity::new(hmac));
            }
            Algorithm::Sha256 => {
                header[2..].copy_from_slice(&length_with(unsigned, 32));
                let hmac = MessageIntegritySha256::compute(&[&header, &draft.data()[4..]], &self.key)
                    .unwrap_or([0; 32]);
                if let Ok(attribute) = MessageIntegritySha256::new(&hmac) {
                    draft.push_attribute_unchecked(&attribute);
                }
            }
        }
    }

    /// Whether the message carries an integrity made with this key. Compares in constant time.
    pub(crate) fn verifies(&self, message: &Message<'_>) -> bool {
        message.validate_integrity_with_key(&self.key).is_ok()
    }
}

/// The header's length field with an integrity attribute of `hmac` bytes behind `unsigned` bytes of message.
fn length_with(unsigned: usize, hmac: usize) -> [u8; 2] {
    let body = unsigned + 4 + hmac - crate::wire::HEADER_LEN;
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

//! Keys: the lasting identity (Ed25519), and what a process makes anew at start (X25519, ML-KEM-768).

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ml_kem::{Decapsulate as _, DecapsulationKey, EncapsulationKey, KeyExport as _, MlKem768};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What can go wrong with a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The other end sent something that is no valid key.
    #[error("the key is malformed")]
    Malformed,
    /// The signature does not belong to this key and text.
    #[error("the signature does not fit the key")]
    BadSignature,
    /// The system gave no random bytes.
    #[error("the system gave no random bytes")]
    NoRandomness,
}

/// Fills an array from the system's randomness.
///
/// # Errors
/// [`KeyError::NoRandomness`] when the system gives none.
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, KeyError> {
    let mut bytes = Zeroizing::new([0u8; N]);
    SystemRandom::new().fill(&mut *bytes).map_err(|_| KeyError::NoRandomness)?;
    Ok(bytes)
}

/// 32 secret bytes. Print as `…`, wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret32(Zeroizing<[u8; 32]>);

impl Secret32 {
    /// Takes the bytes over.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for the one place that computes with them.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

macro_rules! public_bytes {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "String", try_from = "String")]
        pub struct $name(pub [u8; 32]);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&STANDARD.encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let text = STANDARD.encode(self.0);
                write!(f, "{}({}…)", stringify!($name), text.get(..8).unwrap_or_default())
            }
        }

        impl From<$name> for String {
            fn from(key: $name) -> Self {
                key.to_string()
            }
        }

        impl TryFrom<String> for $name {
            type Error = KeyError;

            fn try_from(text: String) -> Result<Self, KeyError> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError::Malformed)?;
                bytes.try_into().map(Self).map_err(|_| KeyError::Malformed)
            }
        }
    )*};
}

public_bytes! {
    /// The public half of an [`IdentityKey`]; names an installation for good.
    IdentityPublic;
    /// The public half of a [`WireguardKey`].
    WireguardPublic;
}

/// An Ed25519 signature (RFC 8032).
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({} bytes)", self.0.len())
    }
}

impl IdentityPublic {
    /// Checks that the holder of the identity signed `text`.
    ///
    /// # Errors
    /// [`KeyError::BadSignature`].
    pub fn verify(&self, text: &[u8], signature: &Signature) -> Result<(), KeyError> {
        ring::signature::UnparsedPublicKey::new(&ring::signature::ED25519, &self.0)
            .verify(text, &signature.0)
            .map_err(|_| KeyError::BadSignature)
    }
}

/// The lasting Ed25519 identity of one installation. Stored as its seed, file mode 0600.
pub struct IdentityKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
}

impl IdentityKey {
    /// Makes a new identity.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`] when the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        Self::from_seed(*random::<32>()?)
    }

    /// The identity that was stored as this seed.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when ring refuses the seed.
    pub fn from_seed(seed: [u8; 32]) -> Result<Self, KeyError> {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).map_err(|_| KeyError::Malformed)?;
        Ok(Self { seed: Zeroizing::new(seed), pair })
    }

    /// The seed, for storage.
    pub fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// The public half.
    pub fn public(&self) -> IdentityPublic {
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(self.pair.public_key().as_ref());
        IdentityPublic(bytes)
    }

    /// Signs `text`.
    pub fn sign(&self, text: &[u8]) -> Signature {
        Signature(self.pair.sign(text).as_ref().to_vec())
    }
}

impl fmt::Debug for IdentityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdentityKey({:?}, …)", self.public())
    }
}

/// The X25519 key of one process. Made at start, never leaves the machine.
#[derive(Clone)]
pub struct WireguardKey(x25519_dalek::StaticSecret);

impl WireguardKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`] when the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        Ok(Self(x25519_dalek::StaticSecret::from(*random::<32>()?)))
    }

    /// The public half.
    pub fn public(&self) -> WireguardPublic {
        WireguardPublic(x25519_dalek::PublicKey::from(&self.0).to_bytes())
    }

    /// The key, for the one place that hands it to WireGuard.
    pub fn expose(&self) -> &x25519_dalek::StaticSecret {
        &self.0
    }
}

impl fmt::Debug for WireguardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WireguardKey({:?}, …)", self.public())
    }
}

/// An ML-KEM-768 encapsulation key (FIPS 203), 1,184 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KemPublic(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for KemPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemPublic({} bytes)", self.0.len())
    }
}

/// An ML-KEM-768 ciphertext (FIPS 203), 1,088 bytes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KemCiphertext(#[serde(with = "serde_bytes")] pub Vec<u8>);

impl fmt::Debug for KemCiphertext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KemCiphertext({} bytes)", self.0.len())
    }
}

impl KemPublic {
    /// Draws a shared secret for the holder of the decapsulation key.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the key fails the checks of FIPS 203, section 7.2.
    pub fn encapsulate(&self) -> Result<(KemCiphertext, Secret32), KeyError> {
        let encoded = self.0.as_slice().try_into().map_err(|_| KeyError::Malformed)?;
        let key = EncapsulationKey::<MlKem768>::new(encoded).map_err(|_| KeyError::Malformed)?;
        let message = random::<32>()?;
        let (ciphertext, shared) = key.encapsulate_deterministic(&(*message).into());
        let mut secret = [0u8; 32];
        secret.copy_from_slice(shared.as_slice());
        Ok((KemCiphertext(ciphertext.as_slice().to_vec()), Secret32::new(secret)))
    }
}

/// The ML-KEM-768 key of one process. Made at start, never leaves the machine.
pub struct KemKey(DecapsulationKey<MlKem768>);

impl KemKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`] when the system gives none.
    pub fn generate() -> Result<Self, KeyError> {
        let seed = random::<64>()?;
        Ok(Self(DecapsulationKey::from_seed((*seed).into())))
    }

    /// The public half.
    pub fn public(&self) -> KemPublic {
        KemPublic(self.0.encapsulation_key().to_bytes().as_slice().to_vec())
    }

    /// The secret that the other end drew. A forged ciphertext gives a secret that nobody else has (implicit
    /// rejection, FIPS 203, section 6.3), so the handshake fails later.
    ///
    /// # Errors
    /// [`KeyError::Malformed`] when the ciphertext has the wrong length.
    pub fn decapsulate(&self, ciphertext: &KemCiphertext) -> Result<Secret32, KeyError> {
        let shared = self.0.decapsulate_slice(&ciphertext.0).map_err(|_| KeyError::Malformed)?;
        let mut secret = [0u8; 32];
        secret.copy_from_slice(shared.as_slice());
        Ok(Secret32::new(secret))
    }
}

impl fmt::Debug for KemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KemKey(…)")
    }
}

/// SHA-256.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, bytes).as_ref());
    out
}

/// SHA-256 over a server's certificate (DER). Written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct CertificatePin([u8; 32]);

impl CertificatePin {
    /// The pin of this certificate.
    pub fn of(certificate_der: &[u8]) -> Self {
        let mut out = [0u8; 32];
        out.copy_from_slice(ring::digest::digest(&ring::digest::SHA256, certificate_der).as_ref());
        Self(out)
    }
}

impl fmt::Display for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for CertificatePin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<CertificatePin> for String {
    fn from(pin: CertificatePin) -> Self {
        pin.to_string()
    }
}

impl TryFrom<String> for CertificatePin {
    type Error = NotAPin;

    fn try_from(text: String) -> Result<Self, NotAPin> {
        text.parse()
    }
}

/// The text is not a certificate pin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a certificate pin: expected sha256: and 64 hexadecimal digits")]
pub struct NotAPin;

impl FromStr for CertificatePin {
    type Err = NotAPin;

    fn from_str(text: &str) -> Result<Self, NotAPin> {
        let digits = text.trim().strip_prefix("sha256:").ok_or(NotAPin)?.as_bytes();
        if digits.len() != 64 {
            return Err(NotAPin);
        }
        let mut out = [0u8; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotAPin)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotAPin)?;
        }
        Ok(Self(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_of_the_key_encapsulation_get_the_same_secret() {
        let device = KemKey::generate().unwrap();

        let (ciphertext, sent) = device.public().encapsulate().unwrap();
        let received = device.decapsulate(&ciphertext).unwrap();

        assert_eq!(sent, received);
    }

    #[test]
    fn a_changed_ciphertext_gives_another_secret() {
        let device = KemKey::generate().unwrap();
        let (mut ciphertext, sent) = device.public().encapsulate().unwrap();

        ciphertext.0[7] ^= 1;

        assert_ne!(device.decapsulate(&ciphertext).unwrap(), sent);
    }

    #[test]
    fn malformed_keys_are_refused() {
        assert_eq!(KemPublic(vec![0xff; 1184]).encapsulate().unwrap_err(), KeyError::Malformed);
        assert_eq!(KemPublic(vec![0; 3]).encapsulate().unwrap_err(), KeyError::Malformed);
        assert_eq!("AAAA".parse::<WireguardPublic>().unwrap_err(), KeyError::Malformed);
    }

    #[test]
    fn a_signature_fits_only_its_text_and_its_key() {
        let key = IdentityKey::generate().unwrap();
        let other = IdentityKey::generate().unwrap();

        let signature = key.sign(b"text");

        assert_eq!(key.public().verify(b"text", &signature), Ok(()));
        assert_eq!(key.public().verify(b"texT", &signature), Err(KeyError::BadSignature));
        assert_eq!(other.public().verify(b"text", &signature), Err(KeyError::BadSignature));
    }

    #[test]
    fn secrets_do_not_print() {
        let key = IdentityKey::from_seed([7; 32]).unwrap();

        assert_eq!(format!("{:?}", Secret32::new([7; 32])), "…");
        assert!(format!("{key:?}").ends_with("…)"));
        assert!(!format!("{key:?}").contains("7, 7"));
    }

    #[test]
    fn a_pin_reads_back_from_its_own_text() {
        let pin = CertificatePin::of(b"certificate");

        assert_eq!(pin.to_string().parse::<CertificatePin>(), Ok(pin));
        assert_eq!("sha256:zz".parse::<CertificatePin>(), Err(NotAPin));
    }
}

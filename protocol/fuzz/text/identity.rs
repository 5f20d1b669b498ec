//! What the identity crate reads from text and from keys that others send.

use protocol_identity::{
    AccountId, CertificatePin, IdentityPublic, KemCiphertext, KemKey, KemPublic, Signature, Token,
    WireguardPublic,
};

/// Reads the input as everything that the crate reads.
pub fn fuzz_text(data: &[u8]) {
    let _ = KemPublic(data.to_vec()).encapsulate();
    if let Ok(key) = KemKey::generate() {
        let _ = key.decapsulate(&KemCiphertext(data.to_vec()));
    }
    if let Some((public, signature)) = data.split_first_chunk::<32>() {
        let _ = IdentityPublic(*public).verify(b"text", &Signature(signature.to_vec()));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(token) = text.parse::<Token>() {
        assert_eq!(token.reveal().parse::<Token>().map(|again| again.hash()), Ok(token.hash()));
    }
    if let Ok(id) = text.parse::<AccountId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
    }
    if let Ok(key) = text.parse::<WireguardPublic>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(pin) = text.parse::<CertificatePin>() {
        assert_eq!(pin.to_string().parse::<CertificatePin>().ok(), Some(pin));
    }
}

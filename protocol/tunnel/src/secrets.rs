//! The key schedule of a connection: one shared secret in, three keys out.

use protocol_identity::{Secret32, WireguardPublic};
use ring::hmac;

/// Separates this schedule from every other use of the shared secret.
const SALT: &[u8] = b"postern connection keys 1";

/// What a connection between one client and one gateway is keyed with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionKeys {
    /// WireGuard's pre-shared key.
    pub preshared: Secret32,
    /// Seals the probes that the client sends.
    pub client_to_gateway: Secret32,
    /// Seals the probes that the gateway sends.
    pub gateway_to_client: Secret32,
}

impl ConnectionKeys {
    /// Derives the keys from the ML-KEM-768 shared secret by HKDF-SHA256 (RFC 5869). Both WireGuard keys go into the
    /// derivation, so a secret that is carried over to another pair of ends gives other keys.
    pub fn derive(shared: &Secret32, client: &WireguardPublic, gateway: &WireguardPublic) -> Self {
        let expand = |purpose: &[u8]| {
            Secret32::new(hkdf_sha256(SALT, shared.expose(), &[purpose, &client.0, &gateway.0]))
        };
        Self {
            preshared: expand(b"wireguard pre-shared key"),
            client_to_gateway: expand(b"probes client to gateway"),
            gateway_to_client: expand(b"probes gateway to client"),
        }
    }
}

/// HKDF-SHA256 for exactly one block of output, which cannot fail (RFC 5869, sections 2.2 and 2.3).
fn hkdf_sha256(salt: &[u8], secret: &[u8], info: &[&[u8]]) -> [u8; 32] {
    let extracted = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, salt), secret);
    let mut expansion = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, extracted.as_ref()));
    for part in info {
        expansion.update(part);
    }
    expansion.update(&[1]);
    let mut block = [0u8; 32];
    block.copy_from_slice(expansion.sign().as_ref());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_derivation_is_the_one_of_rfc_5869_appendix_a_1() {
        let salt: Vec<u8> = (0x00..=0x0c).collect();
        let info: Vec<u8> = (0xf0..=0xf9).collect();

        let block = hkdf_sha256(&salt, &[0x0b; 22], &[&info]);

        assert_eq!(block[..8], [0x3c, 0xb2, 0x5f, 0x25, 0xfa, 0xac, 0xd5, 0x7a]);
        assert_eq!(block[8..16], [0x90, 0x43, 0x4f, 0x64, 0xd0, 0x36, 0x2f, 0x2a]);
        assert_eq!(block[16..24], [0x2d, 0x2d, 0x0a, 0x90, 0xcf, 0x1a, 0x5a, 0x4c]);
        assert_eq!(block[24..], [0x5d, 0xb0, 0x2d, 0x56, 0xec, 0xc4, 0xc5, 0xbf]);
    }

    fn keys(shared: u8, client: u8, gateway: u8) -> ConnectionKeys {
        ConnectionKeys::derive(
            &Secret32::new([shared; 32]),
            &WireguardPublic([client; 32]),
            &WireguardPublic([gateway; 32]),
        )
    }

    #[test]
    fn both_ends_derive_the_same_three_different_keys() {
        let keys_of_both = (keys(1, 2, 3), keys(1, 2, 3));

        assert_eq!(keys_of_both.0, keys_of_both.1);
        assert_ne!(keys_of_both.0.preshared, keys_of_both.0.client_to_gateway);
        assert_ne!(keys_of_both.0.client_to_gateway, keys_of_both.0.gateway_to_client);
        assert_ne!(keys_of_both.0.preshared, Secret32::new([0; 32]));
    }

    #[test]
    fn another_secret_or_another_end_gives_other_keys() {
        assert_ne!(keys(1, 2, 3).preshared, keys(9, 2, 3).preshared);
        assert_ne!(keys(1, 2, 3).preshared, keys(1, 9, 3).preshared);
        assert_ne!(keys(1, 2, 3).preshared, keys(1, 2, 9).preshared);
    }

    #[test]
    fn keys_never_print() {
        assert!(!format!("{:?}", keys(0xab, 2, 3)).contains("171"));
        assert_eq!(format!("{:?}", keys(1, 2, 3).preshared), "…");
    }
}

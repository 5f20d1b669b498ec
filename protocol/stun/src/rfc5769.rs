//! The test vectors of RFC 5769, through our own reading and our own keys.

use std::net::SocketAddr;

use stun_types::attribute::{Nonce, Realm, Username, XorMappedAddress};
use stun_types::message::{MessageIntegrityCredentials, ShortTermCredentials};

use crate::key::{Algorithm, Key};
use crate::wire::read;

/// §2.1: sample request.
const REQUEST: &str = "
    00 01 00 58 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 10 53 54 55 4e 20 74 65 73 74 20 63 6c 69 65 6e 74
    00 24 00 04 6e 00 01 ff 80 29 00 08 93 2f f9 b1 51 26 3b 36
    00 06 00 09 65 76 74 6a 3a 68 36 76 59 20 20 20
    00 08 00 14 9a ea a7 0c bf d8 cb 56 78 1e f2 b5 b2 d3 f2 49 c1 b5 71 a2
    80 28 00 04 e5 7a 3b cf";

/// §2.2: sample IPv4 response.
const RESPONSE_V4: &str = "
    01 01 00 3c 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
    00 20 00 08 00 01 a1 47 e1 12 a6 43
    00 08 00 14 2b 91 f5 99 fd 9e 90 c3 8c 74 89 f9 2a f9 ba 53 f0 6b e7 d7
    80 28 00 04 c0 7d 4c 96";

/// §2.3: sample IPv6 response.
const RESPONSE_V6: &str = "
    01 01 00 48 21 12 a4 42 b7 e7 a7 01 bc 34 d6 86 fa 87 df ae
    80 22 00 0b 74 65 73 74 20 76 65 63 74 6f 72 20
    00 20 00 14 00 02 a1 47 01 13 a9 fa a5 d3 f1 79 bc 25 f4 b5 be d2 b9 d9
    00 08 00 14 a3 82 95 4e 4b e6 7b f1 17 84 c9 7c 82 92 c2 75 bf e3 ed 41
    80 28 00 04 c8 fb 0b 4c";

/// §2.4: sample request with long-term authentication.
const LONG_TERM: &str = "
    00 01 00 60 21 12 a4 42 78 ad 34 33 c6 ad 72 c0 29 da 41 2e
    00 06 00 12 e3 83 9e e3 83 88 e3 83 aa e3 83 83 e3 82 af e3 82 b9 00 00
    00 15 00 1c 66 2f 2f 34 39 39 6b 39 35 34 64 36 4f 4c 33 34 6f 4c 39 46 53 54 76 79 36 34 73 41
    00 14 00 0b 65 78 61 6d 70 6c 65 2e 6f 72 67 00
    00 08 00 14 f6 70 24 65 6d d6 4a 3e 02 b8 e0 71 2e 85 c9 a2 8c a8 96 66";

fn bytes(hex: &str) -> Vec<u8> {
    hex.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

fn short_term() -> MessageIntegrityCredentials {
    ShortTermCredentials::new("VOkJxbRl1RmTxUk/WvJxBt".to_owned()).into()
}

#[test]
fn the_request_reads_and_verifies() {
    let bytes = bytes(REQUEST);

    let message = read(&bytes).unwrap();

    assert_eq!(message.attribute::<Username>().unwrap().username(), "evtj:h6vY");
    assert!(message.validate_integrity(&short_term()).is_ok());
}

#[test]
fn the_responses_tell_their_addresses() {
    for (vector, address) in
        [(RESPONSE_V4, "192.0.2.1:32853"), (RESPONSE_V6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let bytes = bytes(vector);

        let message = read(&bytes).unwrap();

        let mapped = message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id());
        assert_eq!(mapped, address.parse::<SocketAddr>().unwrap());
        assert!(message.validate_integrity(&short_term()).is_ok());
    }
}

#[test]
fn the_long_term_request_verifies_with_our_key() {
    let bytes = bytes(LONG_TERM);

    let message = read(&bytes).unwrap();

    let username = message.attribute::<Username>().unwrap().username().to_owned();
    let realm = message.attribute::<Realm>().unwrap().realm().to_owned();
    assert_eq!(username, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}");
    assert_eq!(message.attribute::<Nonce>().unwrap().nonce(), "f//499k954d6OL34oL9FSTvy64sA");
    assert!(Key::long_term(&username, &realm, "TheMatrIX", Algorithm::Sha1).verifies(&message));
    assert!(!Key::long_term(&username, &realm, "TheMatrix", Algorithm::Sha1).verifies(&message));
}

#[test]
fn a_vector_with_any_bit_changed_neither_reads_nor_verifies() {
    let original = bytes(RESPONSE_V4);

    for bit in 0..original.len() * 8 {
        let mut changed = original.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        // A length that swallows the rest of the message makes it one without integrity and fingerprint.
        let passes = read(&changed).is_some_and(|message| message.validate_integrity(&short_term()).is_ok());
        assert!(!passes, "bit {bit}");
    }
}

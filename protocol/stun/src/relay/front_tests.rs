//! What strangers get, and what they do not.

use super::*;
use crate::credentials::{REALM, RelaySecret, mint};
use crate::relay::Ask;
use crate::wire::Families;
use stun_types::attribute::{ErrorCode, Software};
use stun_types::message::{Method, TransactionId};

const UNIX: u64 = 100_000;

fn source() -> SocketAddr {
    "203.0.113.9:4242".parse().unwrap()
}

fn front() -> Front {
    let secret = RelaySecret::from_bytes(&[3; 32]).unwrap();
    Front::new(Authority::new(Some(secret), [Credentials::new("alice", "wonder")]), REALM, [8; 32])
}

fn draft(method: Method) -> Draft {
    Draft::new(MessageClass::Request, method, TransactionId::from(0xfeed))
}

fn handle(front: &Front, datagram: &[u8]) -> Decision {
    front.handle(datagram, source(), UNIX, false)
}

fn answer(decision: Decision) -> Vec<u8> {
    match decision {
        Decision::Answer(bytes) => bytes,
        other => panic!("expected an answer, got {other:?}"),
    }
}

fn code_of(bytes: &[u8]) -> u16 {
    read(bytes).unwrap().attribute::<ErrorCode>().unwrap().code()
}

fn nonce(front: &Front) -> String {
    let challenge = answer(handle(front, &udp(ALLOCATE).finish()));
    read(&challenge).unwrap().attribute::<Nonce>().unwrap().nonce().to_owned()
}

fn authenticated(front: &Front, draft: Draft, user: &str, password: &str, algorithm: Algorithm) -> Vec<u8> {
    draft
        .with(&Username::new(user).unwrap())
        .with(&Realm::new(REALM).unwrap())
        .with(&Nonce::new(&nonce(front)).unwrap())
        .sign(&Key::long_term(user, REALM, password, algorithm))
}

fn udp(method: Method) -> Draft {
    draft(method).with(&RequestedTransport::new(RequestedTransport::UDP))
}

#[test]
fn binding_is_answered_with_the_reflexive_address() {
    let bytes = answer(handle(&front(), &draft(BINDING).finish()));

    let message = read(&bytes).unwrap();
    assert!(message.has_class(MessageClass::Success));
    assert_eq!(message.attribute::<XorMappedAddress>().unwrap().addr(message.transaction_id()), source());
}

#[test]
fn the_answers_to_strangers_are_as_small_as_can_be() {
    let front = front();
    let v6: SocketAddr = "[2001:db8::9]:4242".parse().unwrap();
    let answered = |request: &[u8], from| answer(front.handle(request, from, UNIX, false)).len();

    let binding = draft(BINDING).finish();
    let allocate = udp(ALLOCATE).finish();
    assert_eq!((binding.len(), allocate.len()), (20, 28));
    assert_eq!(answered(&binding, source()), 32);
    assert_eq!(answered(&binding, v6), 44);
    assert_eq!(answered(&allocate, source()), 84);
    assert_eq!(answered(&allocate, v6), 84);
    let marked = draft(BINDING).fingerprinted(true).finish();
    assert_eq!((marked.len(), answered(&marked, source()), answered(&marked, v6)), (28, 40, 52));
}

#[test]
fn no_stranger_gets_more_than_three_times_what_they_sent() {
    let front = front();
    let v6: SocketAddr = "[2001:db8::9]:4242".parse().unwrap();
    let strange = Software::new("a").unwrap();
    for method in [BINDING, ALLOCATE, REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        for request in [draft(method).finish(), draft(method).with(&strange).finish(), udp(method).finish()] {
            for (source, holds) in [(source(), false), (source(), true), (v6, false), (v6, true)] {
                let most = if method == BINDING { 2.2 } else { 3.0 } * request.len() as f64;
                match front.handle(&request, source, UNIX, holds) {
                    Decision::Answer(answer) => assert!(answer.len() as f64 <= most, "{}", answer.len()),
                    Decision::Drop(DropReason::NoAllocation | DropReason::WouldAmplify) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }
    let mut many = draft(BINDING);
    for attribute in 0x2000..0x2020 {
        many = many.with(&stun_types::attribute::RawAttribute::new(AttributeType::new(attribute), &[]));
    }
    let request = many.finish();
    let answer = answer(handle(&front, &request));
    assert_eq!(code_of(&answer), code::UNKNOWN_ATTRIBUTE);
    assert!(answer.len() <= request.len());
}

#[test]
fn who_has_no_allocation_and_proves_nothing_is_answered_for_an_allocate_only() {
    let front = front();
    for method in [REFRESH, CREATE_PERMISSION, CHANNEL_BIND] {
        let padded = draft(method).with(&Software::new("x".repeat(200).as_str()).unwrap());
        let wrong = authenticated(&front, draft(method), "alice", "guess", Algorithm::Sha1);
        for request in [padded.finish(), wrong] {
            assert!(matches!(handle(&front, &request), Decision::Drop(DropReason::NoAllocation)));
            let held = front.handle(&request, source(), UNIX, true);
            assert_eq!(code_of(&answer(held)), code::UNAUTHENTICATED);
        }
        let right = authenticated(&front, draft(method), "alice", "wonder", Algorithm::Sha1);
        assert!(!matches!(handle(&front, &right), Decision::Drop(_)), "what is proven is answered");
    }
}

#[test]
fn a_challenge_offers_both_algorithms_and_its_nonce_says_so() {
    let bytes = answer(handle(&front(), &udp(ALLOCATE).finish()));

    let message = read(&bytes).unwrap();
    let offered = message.attribute::<PasswordAlgorithms>().unwrap();
    assert_eq!(offered.algorithms(), [PasswordAlgorithmValue::SHA256, PasswordAlgorithmValue::MD5]);
    assert!(crate::nonce::offers_algorithms(message.attribute::<Nonce>().unwrap().nonce()));
}

#[test]
fn each_hash_goes_with_each_integrity_and_a_changed_offer_is_noticed() {
    use PasswordAlgorithmValue::{MD5, SHA256};
    let front = front();
    let signed = |offer: Option<&[PasswordAlgorithmValue]>, named, hash, algorithm| {
        let bytes = udp(ALLOCATE)
            .with(&Username::new("alice").unwrap())
            .with(&Realm::new(REALM).unwrap())
            .with(&Nonce::new(&nonce(&front)).unwrap())
            .with_some(offer.map(PasswordAlgorithms::new))
            .with_some(Option::map(named, PasswordAlgorithm::new))
            .sign(&Key::hashed("alice", REALM, "wonder", algorithm, hash));
        handle(&front, &bytes)
    };
    let offer = [SHA256, MD5];

    for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
        for hash in [MD5, SHA256] {
            let decision = signed(Some(&offer), Some(hash), hash, algorithm);
            assert!(matches!(decision, Decision::Authenticated(_)), "{algorithm:?} {hash:?}");
        }
        assert!(matches!(signed(None, None, MD5, algorithm), Decision::Authenticated(_)), "{algorithm:?}");
        for (offer, named) in [
            (None, Some(MD5)),
            (Some(offer.as_slice()), None),
            (Some(&[MD5]), Some(MD5)),
            (Some(&[MD5, SHA256]), Some(MD5)),
        ] {
            assert_eq!(code_of(&answer(signed(offer, named, MD5, algorithm))), code::BAD_REQUEST);
        }
    }
}

#[test]
fn an_answer_has_a_fingerprint_when_its_request_has_one() {
    let front = front();
    for fingerprinted in [true, false] {
        let binding = answer(handle(&front, &draft(BINDING).fingerprinted(fingerprinted).finish()));
        let challenge = answer(handle(&front, &udp(ALLOCATE).fingerprinted(fingerprinted).finish()));
        for bytes in [binding, challenge] {
            assert_eq!(read(&bytes).unwrap().has_attribute(Fingerprint::TYPE), fingerprinted);
        }
        let asked = udp(ALLOCATE).fingerprinted(fingerprinted);
        let asked = authenticated(&front, asked, "alice", "wonder", Algorithm::Sha256);
        let Decision::Authenticated(request) = handle(&front, &asked) else { panic!("not let in") };
        let refused = request.refuse(code::QUOTA_REACHED);
        assert_eq!(read(&refused).unwrap().has_attribute(Fingerprint::TYPE), fingerprinted);
    }
}

#[test]
fn a_nonce_outlives_a_restart_with_the_same_key() {
    let request = authenticated(&front(), udp(ALLOCATE), "alice", "wonder", Algorithm::Sha1);

    assert!(matches!(handle(&front(), &request), Decision::Authenticated(_)));
}

#[test]
fn a_challenge_names_no_software_and_gives_no_reason() {
    let bytes = answer(handle(&front(), &udp(ALLOCATE).finish()));

    let message = read(&bytes).unwrap();
    assert_eq!(code_of(&bytes), code::UNAUTHENTICATED);
    assert_eq!(message.attribute::<ErrorCode>().unwrap().reason(), "");
    assert!(!message.has_attribute(Software::TYPE));
    assert_eq!(message.attribute::<Realm>().unwrap().realm(), REALM);
}

#[test]
fn the_right_password_is_let_in_with_either_integrity() {
    let front = front();
    for algorithm in [Algorithm::Sha1, Algorithm::Sha256] {
        let request = authenticated(&front, udp(ALLOCATE), "alice", "wonder", algorithm);

        let Decision::Authenticated(request) = handle(&front, &request) else { panic!("not let in") };

        assert_eq!(&*request.user().name, "alice");
        let Ask::Allocate(ask) = request.ask() else { panic!("not an allocation") };
        assert_eq!(ask.families, Families::V4);
    }
}

#[test]
fn a_minted_credential_is_let_in_until_it_expires() {
    let front = front();
    let minted = mint(&RelaySecret::from_bytes(&[3; 32]).unwrap(), "acme/gw", UNIX + 1);
    let request =
        authenticated(&front, udp(ALLOCATE), minted.username(), minted.expose_password(), Algorithm::Sha1);

    assert!(matches!(front.handle(&request, source(), UNIX, false), Decision::Authenticated(_)));
    let late = answer(front.handle(&request, source(), UNIX + 1, false));
    assert_eq!(code_of(&late), code::UNAUTHENTICATED);
}

#[test]
fn a_wrong_password_user_or_realm_is_challenged_again() {
    let front = front();
    let wrong_realm = draft(ALLOCATE)
        .with(&Username::new("alice").unwrap())
        .with(&Realm::new("elsewhere").unwrap())
        .with(&Nonce::new(&nonce(&front)).unwrap())
        .sign(&Key::long_term("alice", REALM, "wonder", Algorithm::Sha1));
    for request in [
        authenticated(&front, udp(ALLOCATE), "alice", "guess", Algorithm::Sha1),
        authenticated(&front, udp(ALLOCATE), "mallory", "", Algorithm::Sha1),
        wrong_realm,
    ] {
        assert_eq!(code_of(&answer(handle(&front, &request))), code::UNAUTHENTICATED);
    }
}

#[test]
fn a_nonce_from_elsewhere_or_from_yesterday_is_stale() {
    let front = front();
    let request = authenticated(&front, udp(ALLOCATE), "alice", "wonder", Algorithm::Sha1);

    let elsewhere = answer(front.handle(&request, "203.0.113.9:4243".parse().unwrap(), UNIX, false));
    let later = answer(front.handle(&request, source(), UNIX + 86_400, false));

    assert_eq!(code_of(&elsewhere), code::STALE_NONCE);
    assert_eq!(code_of(&later), code::STALE_NONCE);
    assert!(read(&later).unwrap().has_attribute(Nonce::TYPE));
}

#[test]
fn a_signed_request_without_name_realm_or_nonce_is_a_bad_request() {
    let key = Key::long_term("alice", REALM, "wonder", Algorithm::Sha1);
    let user = Username::new("alice").unwrap();
    let realm = Realm::new(REALM).unwrap();
    for request in [
        draft(ALLOCATE).sign(&key),
        draft(ALLOCATE).with(&user).sign(&key),
        draft(ALLOCATE).with(&user).with(&realm).sign(&key),
    ] {
        assert_eq!(code_of(&answer(handle(&front(), &request))), code::BAD_REQUEST);
    }
}

#[test]
fn unknown_attributes_are_named_to_the_authenticated() {
    let front = front();
    let strange = stun_types::attribute::RawAttribute::new(AttributeType::new(0x7abc), &[1]);
    let request = authenticated(&front, udp(ALLOCATE).with(&strange), "alice", "wonder", Algorithm::Sha1);

    let bytes = answer(handle(&front, &request));

    assert_eq!(code_of(&bytes), code::UNKNOWN_ATTRIBUTE);
    let named = read(&bytes).unwrap().attribute::<UnknownAttributes>().unwrap();
    assert!(named.has_attribute(AttributeType::new(0x7abc)));
    assert!(Key::long_term("alice", REALM, "wonder", Algorithm::Sha1).verifies(&read(&bytes).unwrap()));
}

#[test]
fn asks_that_make_no_sense_get_their_code() {
    use stun_types::AddressFamily::{IPV4, IPV6};
    use turn_types::attribute::AdditionalAddressFamily;
    let family = |f| RequestedAddressFamily::new(f);
    let strange_family =
        stun_types::attribute::RawAttribute::new(RequestedAddressFamily::TYPE, &[9, 0, 0, 0]);
    let additional_v4 =
        stun_types::attribute::RawAttribute::new(AdditionalAddressFamily::TYPE, &[1, 0, 0, 0]);
    let peer = XorPeerAddress::new("192.0.2.5:7".parse().unwrap(), 0xfeed.into());
    let cases = [
        (draft(ALLOCATE), code::BAD_REQUEST),
        (draft(ALLOCATE).with(&RequestedTransport::new(6)), code::TRANSPORT_NOT_SUPPORTED),
        (udp(ALLOCATE).with(&strange_family), code::FAMILY_NOT_SUPPORTED),
        (udp(ALLOCATE).with(&family(IPV4)).with(&AdditionalAddressFamily::new(IPV6)), code::BAD_REQUEST),
        (udp(ALLOCATE).with(&additional_v4), code::BAD_REQUEST),
        (
            udp(ALLOCATE).with(&EvenPort::new(true)).with(&AdditionalAddressFamily::new(IPV6)),
            code::BAD_REQUEST,
        ),
        (udp(ALLOCATE).with(&EvenPort::new(false)).with(&ReservationToken::new(5)), code::BAD_REQUEST),
        (udp(ALLOCATE).with(&family(IPV6)).with(&ReservationToken::new(5)), code::BAD_REQUEST),
        (draft(CREATE_PERMISSION), code::BAD_REQUEST),
        (draft(CHANNEL_BIND).with(&peer), code::BAD_REQUEST),
        (draft(CHANNEL_BIND).with(&ChannelNumber::new(0x4000)), code::BAD_REQUEST),
        (draft(CHANNEL_BIND).with(&ChannelNumber::new(0x8000)).with(&peer), code::BAD_REQUEST),
    ];
    let front = front();

    for (n, (draft, code)) in cases.into_iter().enumerate() {
        let request = authenticated(&front, draft, "alice", "wonder", Algorithm::Sha1);
        assert_eq!(code_of(&answer(handle(&front, &request))), code, "case {n}");
    }
}

#[test]
fn answers_and_strange_methods_are_dropped_not_answered() {
    let front = front();
    for (class, method) in [
        (MessageClass::Success, BINDING),
        (MessageClass::Error, ALLOCATE),
        (MessageClass::Indication, BINDING),
        (MessageClass::Request, Method::new(0x0ff)),
    ] {
        let bytes = Draft::new(class, method, TransactionId::from(1)).finish();
        assert!(matches!(handle(&front, &bytes), Decision::Drop(DropReason::UnknownMethod)));
    }
    assert!(matches!(handle(&front, b"\0\x01\0\x08"), Decision::Drop(DropReason::Malformed)));
}

#[test]
fn the_front_never_prints_a_password() {
    let printed = format!("{:?}", front());

    assert!(!printed.contains("wonder") && printed.contains('…'), "{printed}");
}

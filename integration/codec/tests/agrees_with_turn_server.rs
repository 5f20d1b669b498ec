//! Each datagram is read twice: by our codec, and by that of the crate `turn-server`. They say the same, but for what the
//! table below explains; anything else fails.
//!
//! A row of the table is a property of the datagram and of the outcome, says why the two differ, and has an example, so that a
//! row that no longer holds fails, too.

#![allow(clippy::unwrap_used)]

mod read;

use std::{
    fs, panic,
    path::Path,
    sync::{Mutex, PoisonError},
};

use bytes::BytesMut;
use proptest::{collection::vec, prelude::*, strategy::ValueTree as _, test_runner::TestRunner};
use read::{Outcome, Shape, Value, ours, theirs};
use stun_types::{
    attribute::{Nonce, Realm, Username},
    message::{
        IntegrityAlgorithm, LongTermKeyCredentials, Message, MessageClass, MessageIntegrityCredentials,
        MessageType, MessageWrite as _, MessageWriteExt as _, MessageWriteVec, Method, TransactionId,
    },
};
use turn_server::codec::{
    Attributes,
    crypto::generate_password,
    message::{
        Message as Theirs, MessageEncoder,
        attributes::{Nonce as TheirNonce, PasswordAlgorithm, Realm as TheirRealm, UserName},
        methods,
    },
};

/// A datagram, and one thing that the two say about it differently.
struct Difference<'a> {
    datagram: &'a [u8],
    shape: Shape,
    ours: &'a Outcome,
    theirs: &'a Outcome,
    /// The attribute whose value they read differently; none when they differ on the datagram as a whole.
    value: Option<Values<'a>>,
}

/// An attribute's type and bytes, and what we and they read them as.
type Values<'a> = (u16, &'a [u8], Option<&'a Value>, Option<&'a Value>);

impl Difference<'_> {
    /// We refuse what they take.
    fn only_they_read(&self) -> bool {
        self.value.is_none()
            && *self.ours == Outcome::Refused
            && matches!(self.theirs, Outcome::Message { .. })
    }

    /// What differs is a value of this attribute.
    fn is_value_of(&self, types: &[u16]) -> bool {
        self.value.is_some_and(|(kind, ..)| types.contains(&kind))
    }

    fn raw(&self) -> &[u8] {
        self.value.map_or(&[], |(_, raw, ..)| raw)
    }
}

struct Row {
    why: &'static str,
    holds: fn(&Difference) -> bool,
    example: fn() -> Vec<u8>,
}

/// A Binding request with these bytes behind its header, and an announced length that may be off by some.
fn binding(body: &[u8], off: i32) -> Vec<u8> {
    stun(0x0001, body, off)
}

fn stun(kind: u16, body: &[u8], off: i32) -> Vec<u8> {
    let announced = u16::try_from(i32::try_from(body.len()).unwrap() + off).unwrap();
    let mut bytes = [kind.to_be_bytes(), announced.to_be_bytes()].concat();
    bytes.extend([0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    bytes.extend(body);
    bytes
}

const DIFFERENCES: &[Row] = &[
    Row {
        why: "fewer than four bytes: they assert that there are more, and panic",
        holds: |difference| *difference.theirs == Outcome::Panicked && difference.datagram.len() < 4,
        example: || vec![0, 1, 0],
    },
    Row {
        why: "the padding of the last attribute is missing: they count it as there, and panic at an offset behind the end",
        holds: |difference| {
            *difference.theirs == Outcome::Panicked
                && difference.shape.padding_cut
                && *difference.ours == Outcome::Refused
        },
        example: || binding(&[0, 6, 0, 1, b'a'], 0),
    },
    Row {
        why: "no magic cookie: they still speak RFC 3489, with transactions of 16 bytes; RFC 8489 does not",
        holds: |difference| difference.only_they_read() && !difference.shape.cookie,
        example: || [&[0, 1, 0, 0][..], &[7; 16]].concat(),
    },
    Row {
        why: "bytes behind the announced length: they read them as attributes; we want one datagram to be one message",
        holds: |difference| {
            difference.only_they_read() && difference.shape.announced != Some(difference.datagram.len())
        },
        example: || binding(&[0, 6, 0, 0], -4),
    },
    Row {
        why: "a length that is no multiple of four (RFC 8489 §5): they do not look",
        holds: |difference| {
            difference.only_they_read() && difference.shape.announced.is_some_and(|all| all % 4 != 0)
        },
        example: || binding(&[0], 0),
    },
    Row {
        why: "the last attribute is cut off: they keep those before it; we refuse the message",
        holds: |difference| difference.only_they_read() && difference.shape.value_cut,
        example: || binding(&[0, 6, 0, 5, 1, 2, 3, 4], 0),
    },
    Row {
        why: "an integrity or fingerprint of a strange length, twice, or with anything but its successors behind it (RFC 8489 \
              §14.5): they take it; we refuse it, so that nothing unsigned is ever read beside what is signed",
        holds: |difference| difference.only_they_read() && difference.shape.misplaced,
        example: || binding(&[&[0, 8, 0, 20][..], &[0; 20], &[0, 6, 0, 0]].concat(), 0),
    },
    Row {
        why: "a wrong FINGERPRINT: they never check it",
        holds: |difference| difference.only_they_read() && difference.shape.fingerprint_wrong,
        example: || binding(&[0x80, 0x28, 0, 4, 0, 0, 0, 0], 0),
    },
    Row {
        why: "more than 64 attributes: that is our bound for the work one datagram causes",
        holds: |difference| difference.only_they_read() && difference.shape.attributes > 64,
        example: || binding(&[0x7f, 0x7f, 0, 0].repeat(65), 0),
    },
    Row {
        why: "a type that they have no name for: they refuse the message; ours goes on to who answers or counts it",
        holds: |difference| {
            *difference.theirs == Outcome::Refused
                && matches!(difference.ours, Outcome::Message { kind, .. } if methods::Method::try_from(*kind).is_err())
        },
        example: || stun(0x0002, &[], 0),
    },
    Row {
        why: "a channel from 0x8000 on: they pass it on; neither RFC 5766 nor RFC 8656 has such",
        holds: |difference| {
            matches!(difference.theirs, Outcome::Channel { number: 0x8000.., .. })
                && *difference.ours == Outcome::Refused
        },
        example: || vec![0x80, 1, 0, 0],
    },
    Row {
        why: "bytes behind the payload of a channel: they send them on to the peer; RFC 8656 §12.5 calls them padding",
        holds: |difference| match (difference.ours, difference.theirs) {
            (Outcome::Channel { number, payload }, Outcome::Channel { number: theirs, payload: longer }) => {
                number == theirs && longer.len() > payload.len() && longer.starts_with(payload)
            }
            _ => false,
        },
        example: || vec![0x40, 1, 0, 1, b'a', 0, 0, 0],
    },
    Row {
        why: "CHANNEL-NUMBER shorter than a number: they index behind its end, and panic",
        holds: |difference| {
            difference.is_value_of(&[0x000c])
                && difference.raw().len() < 2
                && matches!(difference.value, Some((_, _, None, Some(Value::Panicked))))
        },
        example: || stun(0x0009, &[0, 0x0c, 0, 1, 0x40, 0, 0, 0], 0),
    },
    Row {
        why: "a value longer than its attribute has (RFC 8656 §18): they read its beginning; we refuse it",
        holds: |difference| {
            let longest = match difference.value {
                Some((0x000c | 0x0018 | 0x0017 | 0x8000, ..)) => 4,
                Some((0x001a, ..)) => 0,
                _ => return false,
            };
            let meant = if difference.is_value_of(&[0x0018]) { 1 } else { longest };
            difference.raw().len() > meant && matches!(difference.value, Some((_, _, None, Some(_))))
        },
        example: || stun(0x0003, &[0, 0x1a, 0, 4, 0, 0, 0, 0], 0),
    },
    Row {
        why: "a family or channel without its reserved bytes: they do not miss them; we refuse it",
        holds: |difference| {
            difference.is_value_of(&[0x000c, 0x0017, 0x8000])
                && difference.raw().len() < 4
                && matches!(difference.value, Some((_, _, None, Some(Value::Is(_)))))
        },
        example: || stun(0x0003, &[0, 0x17, 0, 1, 1, 0, 0, 0], 0),
    },
    Row {
        why: "EVEN-PORT with reserved bits set: RFC 8656 §18.7 says to ignore them; they read it as without reservation",
        holds: |difference| {
            difference.is_value_of(&[0x0018]) && difference.raw().first().is_some_and(|bits| bits & 0x7f != 0)
        },
        example: || stun(0x0003, &[0, 0x18, 0, 1, 0x81, 0, 0, 0], 0),
    },
    Row {
        why: "REQUESTED-TRANSPORT with a protocol that is neither UDP nor TCP, or with reserved bytes that are not zero: they \
              refuse the value; we read it (RFC 8656 §18.8 ignores the reserved), and answer 442 to the protocol",
        holds: |difference| {
            difference.is_value_of(&[0x0019])
                && (!matches!(difference.raw().first(), Some(6 | 17)) || difference.raw()[1..] != [0, 0, 0])
                && matches!(difference.value, Some((_, _, Some(_), None)))
        },
        example: || stun(0x0003, &[0, 0x19, 0, 4, 132, 0, 0, 0], 0),
    },
    Row {
        why: "ADDITIONAL-ADDRESS-FAMILY that asks for IPv4: RFC 8656 §18.11 has nothing but IPv6; they read it",
        holds: |difference| {
            difference.is_value_of(&[0x8000])
                && difference.raw().first() == Some(&1)
                && matches!(difference.value, Some((_, _, None, Some(_))))
        },
        example: || stun(0x0003, &[0x80, 0, 0, 4, 1, 0, 0, 0], 0),
    },
    Row {
        why: "ERROR-CODE with a class that is not 3 to 6, or a number above 99 (RFC 8489 §14.8): they read any",
        holds: |difference| {
            difference.is_value_of(&[0x0009])
                && difference.raw().get(2..4).is_some_and(|code| !(3..=6).contains(&code[0]) || code[1] > 99)
                && matches!(difference.value, Some((.., Some(_))))
        },
        example: || stun(0x0113, &[0, 9, 0, 4, 0, 0, 2, 88], 0),
    },
    Row {
        why: "ERROR-CODE with reserved bits set: RFC 8489 §14.8 says to ignore them; they refuse the first sixteen",
        holds: |difference| {
            difference.is_value_of(&[0x0009])
                && difference.raw().get(..2).is_some_and(|reserved| reserved != [0, 0])
                && matches!(difference.value, Some((_, _, Some(_), None)))
        },
        example: || stun(0x0113, &[0, 9, 0, 4, 0, 1, 4, 1], 0),
    },
    Row {
        why: "USERNAME, REALM or NONCE longer than RFC 8489 §14 allows: they take it; we refuse it",
        holds: |difference| {
            difference.is_value_of(&[0x0006, 0x0014, 0x0015])
                && difference.raw().len() > 508
                && matches!(difference.value, Some((_, _, None, Some(_))))
        },
        example: || binding(&[&[0, 6, 0x02, 0x04][..], &[b'a'; 0x204]].concat(), 0),
    },
];

/// Reads a datagram both ways; the rows of what differs, or what no row explains.
fn compare(datagram: &[u8]) -> Result<Vec<usize>, String> {
    let (ours, theirs) = (ours(datagram), theirs(datagram));
    let mut rows = Vec::new();
    let mut explain = |value| {
        let difference =
            Difference { datagram, shape: Shape::of(datagram), ours: &ours, theirs: &theirs, value };
        let row = DIFFERENCES.iter().position(|row| (row.holds)(&difference));
        let whole = || format!("ours {ours:02x?}, theirs {theirs:02x?}");
        let said = || value.map_or_else(whole, |value: Values| format!("{value:02x?}"));
        rows.push(row.ok_or_else(|| format!("unexplained, {datagram:02x?}: {}", said())));
    };
    match (&ours, &theirs) {
        (
            Outcome::Message { kind, transaction, values },
            Outcome::Message { kind: their_kind, transaction: their_transaction, values: their_values },
        ) if (kind, transaction) == (their_kind, their_transaction) => {
            for (ours, theirs) in values.iter().zip(their_values) {
                assert_eq!(
                    (ours.0, &ours.1),
                    (theirs.0, &theirs.1),
                    "the bytes of an attribute: {datagram:02x?}"
                );
                if ours.2 != theirs.2 {
                    let raw = ours.1.as_deref().unwrap_or_default();
                    explain(Some((ours.0, raw, ours.2.as_ref(), theirs.2.as_ref())));
                }
            }
        }
        (ours, theirs) if ours == theirs => {}
        _ => explain(None),
    }
    rows.into_iter().collect()
}

/// What they panic at is expected; the default hook would fill the log.
fn quietly(run: impl FnOnce()) {
    static ONE_HOOK_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _kept = ONE_HOOK_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let hook = panic::take_hook();
    panic::set_hook(Box::new(|_| {}));
    let outcome = panic::catch_unwind(panic::AssertUnwindSafe(run));
    panic::set_hook(hook);
    if let Err(panic) = outcome {
        let said =
            panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
        panic!("{}", said.unwrap_or("no words"));
    }
}

/// The shortest of them, which are the easiest to read.
fn listed(unexplained: &[String]) -> String {
    let mut shortest: Vec<_> = unexplained.iter().map(String::as_str).collect();
    shortest.sort_by_key(|line| line.len());
    shortest.truncate(8);
    format!("{} of them:\n{}", unexplained.len(), shortest.join("\n"))
}

fn attribute() -> impl Strategy<Value = Vec<u8>> {
    let kinds = prop_oneof![8 => prop::sample::select(read::KINDS.to_vec()), 1 => any::<u16>()];
    let plausible = prop_oneof![
        Just(vec![]),
        Just(vec![0, 0, 2, 88]),
        Just(vec![17, 0, 0, 0]),
        Just(vec![0x80]),
        Just(vec![0x40, 1, 0, 0]),
        Just(vec![1, 0, 0, 0]),
        Just(vec![2, 0, 0, 0]),
        Just(vec![0, 0, 4, 1]),
        Just(b"alice".to_vec()),
        vec(any::<u8>(), 6).prop_map(|rest| [&[0, 1][..], &rest].concat()),
        vec(any::<u8>(), 18).prop_map(|rest| [&[0, 2][..], &rest].concat()),
        vec(any::<u8>(), 8),
        vec(any::<u8>(), 20),
        vec(any::<u8>(), 0..40),
    ];
    (kinds, plausible).prop_map(|(kind, value)| {
        let length = u16::try_from(value.len()).unwrap();
        let mut bytes = [kind.to_be_bytes(), length.to_be_bytes()].concat();
        bytes.extend(&value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    })
}

fn message() -> impl Strategy<Value = Vec<u8>> {
    let kinds =
        prop::sample::select(vec![1_u16, 3, 4, 8, 9, 0x16, 0x17, 0x101, 0x103, 0x104, 0x113, 0x118, 0x119]);
    let kinds = prop_oneof![9 => kinds, 1 => 0_u16..0x4000];
    (kinds, vec(attribute(), 0..6)).prop_map(|(kind, attributes)| stun(kind, &attributes.concat(), 0))
}

/// A message with one thing wrong: a byte changed, the end cut off, or something behind it.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    (message(), any::<prop::sample::Index>(), any::<u8>(), 0_u8..3).prop_map(|(mut bytes, at, byte, how)| {
        let at = at.index(bytes.len());
        match how {
            0 => bytes[at] ^= byte,
            1 => bytes.truncate(at),
            _ => bytes.extend(vec![byte; at % 9]),
        }
        bytes
    })
}

#[test]
fn they_agree_on_generated_messages_but_for_what_is_explained() {
    quietly(|| {
        let mut unexplained = Vec::new();
        let mut runner = TestRunner::deterministic();
        let any_bytes = prop_oneof![4 => message(), 4 => damaged(), 1 => vec(any::<u8>(), 0..60)];
        for _ in 0..10_000 {
            let datagram = any_bytes.new_tree(&mut runner).unwrap().current();
            unexplained.extend(compare(&datagram).err());
        }
        assert!(unexplained.is_empty(), "{}", listed(&unexplained));
    });
}

#[test]
fn they_agree_on_the_corpora_but_for_what_is_explained() {
    quietly(|| {
        let (mut read, mut unexplained) = (0, Vec::new());
        for corpus in ["stun", "relay"] {
            let folder =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../../protocol/fuzz/corpus").join(corpus);
            for entry in fs::read_dir(folder).unwrap() {
                unexplained.extend(compare(&fs::read(entry.unwrap().path()).unwrap()).err());
                read += 1;
            }
        }
        assert!(read > 10, "{read} files");
        assert!(unexplained.is_empty(), "{}", listed(&unexplained));
    });
}

#[test]
fn each_difference_is_still_there() {
    quietly(|| {
        for (at, row) in DIFFERENCES.iter().enumerate() {
            let found = compare(&(row.example)());
            assert!(
                found.as_ref().is_ok_and(|rows| rows.contains(&at)),
                "no longer so: {}: {found:?}",
                row.why
            );
        }
    });
}

fn credentials() -> MessageIntegrityCredentials {
    LongTermKeyCredentials::new("alice".into(), "wonderland".into(), "lab".into()).into()
}

/// An Allocate request that our codec signs.
fn signed(algorithm: IntegrityAlgorithm) -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Request, Method::new(3));
    let mut draft = Message::builder(kind, TransactionId::from(7), MessageWriteVec::new());
    draft.add_attribute(&Username::new("alice").unwrap()).unwrap();
    draft.add_attribute(&Realm::new("lab").unwrap()).unwrap();
    draft.add_attribute(&Nonce::new("nonce").unwrap()).unwrap();
    draft.add_message_integrity(&credentials(), algorithm).unwrap();
    draft.add_fingerprint().unwrap();
    draft.finish()
}

fn they_verify(datagram: &[u8], algorithm: PasswordAlgorithm) -> bool {
    let mut attributes = Attributes::default();
    let message = Theirs::decode(datagram, &mut attributes).unwrap();
    message.verify(&generate_password("alice", "wonderland", "lab", algorithm)).is_ok()
}

/// The same request as they write and sign it.
fn signed_by_them(algorithm: PasswordAlgorithm) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let mut encoder =
        MessageEncoder::new(methods::ALLOCATE_REQUEST, &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7], &mut bytes);
    encoder.append::<UserName>("alice");
    encoder.append::<TheirRealm>("lab");
    encoder.append::<TheirNonce>("nonce");
    encoder.flush(Some(&generate_password("alice", "wonderland", "lab", algorithm))).unwrap();
    bytes.to_vec()
}

#[test]
fn a_message_that_either_writes_and_signs_with_sha_1_is_the_same_to_the_byte() {
    let ours = signed(IntegrityAlgorithm::Sha1);

    assert_eq!(ours, signed_by_them(PasswordAlgorithm::Md5));
    assert!(they_verify(&ours, PasswordAlgorithm::Md5));
    assert!(protocol_stun::wire::read(&ours).unwrap().validate_integrity(&credentials()).is_ok());
}

#[test]
fn what_they_call_sha_256_is_an_hmac_of_sha_1_that_they_verify_only_without_a_fingerprint() {
    let (ours, theirs) = (signed(IntegrityAlgorithm::Sha256), signed_by_them(PasswordAlgorithm::Sha256));
    let read = protocol_stun::wire::read(&theirs).unwrap();

    assert_eq!(read.raw_attribute(0x001c.into()).unwrap().value.len(), 20, "as long as SHA-1");
    assert!(read.validate_integrity(&credentials()).is_err());
    assert!(!they_verify(&ours, PasswordAlgorithm::Sha256));
    // They take what lies before the last attribute as what is signed, unless the integrity is the one of SHA-1.
    assert!(!they_verify(&theirs, PasswordAlgorithm::Sha256));
    let mut bare = theirs[..theirs.len() - 8].to_vec();
    bare[3] -= 8;
    assert!(they_verify(&bare, PasswordAlgorithm::Sha256));
}

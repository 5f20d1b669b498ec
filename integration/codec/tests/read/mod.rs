//! What each codec makes of a datagram, in the same words.

use std::{fmt::Debug, panic};

use protocol_stun::{Kind, kind_at_relay, read_channel_header, wire};
use stun_types::{
    attribute::{
        AttributeFromRaw, AttributeStaticType, ErrorCode, Fingerprint, Nonce, Realm, Username,
        XorMappedAddress,
    },
    message::Message,
};
use turn_server::codec::{
    DecodeResult, Decoder,
    message::{Message as Theirs, attributes as their},
};
use turn_types::attribute as turn;

/// The attributes whose values are compared: all that both know and a relay or its client reads.
pub const KINDS: [u16; 17] = [
    0x0006, 0x0008, 0x0009, 0x000c, 0x000d, 0x0012, 0x0013, 0x0014, 0x0015, 0x0016, 0x0017, 0x0018, 0x0019,
    0x001a, 0x0020, 0x0022, 0x8000,
];

/// A value of an attribute that was there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Is(String),
    Panicked,
}

fn is(value: impl Debug) -> Option<Value> {
    Some(Value::Is(format!("{value:?}")))
}

/// An attribute's type, its bytes if it is there, and what they are read as.
pub type Read = (u16, Option<Vec<u8>>, Option<Value>);

#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    Panicked,
    Refused,
    Channel { number: u16, payload: Vec<u8> },
    Message { kind: u16, transaction: Vec<u8>, values: Vec<Read> },
}

pub fn ours(datagram: &[u8]) -> Outcome {
    match kind_at_relay(datagram) {
        Kind::Stun => wire::read(datagram).map_or(Outcome::Refused, |message| Outcome::Message {
            kind: u16::from_be_bytes([datagram[0], datagram[1]]),
            transaction: u128::from(message.transaction_id()).to_be_bytes()[4..].to_vec(),
            values: KINDS.iter().map(|&kind| our_value(&message, kind)).collect(),
        }),
        Kind::ChannelData => read_channel_header(datagram).map_or(Outcome::Refused, |(number, payload)| {
            Outcome::Channel { number, payload: datagram[payload].to_vec() }
        }),
        Kind::Other => Outcome::Refused,
    }
}

fn our_value<'a>(message: &'a Message<'a>, kind: u16) -> Read {
    fn get<'a, A: AttributeFromRaw<'a> + AttributeStaticType>(message: &'a Message<'a>) -> Option<A> {
        message.attribute::<A>().ok()
    }
    let raw = message.raw_attribute(kind.into()).map(|raw| raw.value.to_vec());
    let transaction = message.transaction_id();
    let value = match kind {
        0x0006 => get::<Username>(message).and_then(|value| is(value.username())),
        0x0009 => get::<ErrorCode>(message).and_then(|value| is((u32::from(value.code()), value.reason()))),
        0x000c => get::<turn::ChannelNumber>(message).and_then(|value| is(value.channel())),
        0x000d => get::<turn::Lifetime>(message).and_then(|value| is(value.seconds())),
        0x0012 => get::<turn::XorPeerAddress>(message).and_then(|value| is(value.addr(transaction))),
        0x0014 => get::<Realm>(message).and_then(|value| is(value.realm())),
        0x0015 => get::<Nonce>(message).and_then(|value| is(value.nonce())),
        0x0016 => get::<turn::XorRelayedAddress>(message).and_then(|value| is(value.addr(transaction))),
        0x0017 => get::<turn::RequestedAddressFamily>(message)
            .and_then(|value| is(value.family() == stun_types::AddressFamily::IPV6)),
        0x0018 => get::<turn::EvenPort>(message).and_then(|value| is(value.requested())),
        0x0019 => get::<turn::RequestedTransport>(message).and_then(|value| is(value.protocol())),
        0x001a => get::<turn::DontFragment>(message).and_then(|_| is(())),
        0x0020 => get::<XorMappedAddress>(message).and_then(|value| is(value.addr(transaction))),
        0x0022 => get::<turn::ReservationToken>(message).and_then(|value| is(value.token())),
        0x8000 => get::<turn::AdditionalAddressFamily>(message)
            .and_then(|value| is(value.family() == stun_types::AddressFamily::IPV6)),
        _ => None,
    };
    (kind, raw, value)
}

pub fn theirs(datagram: &[u8]) -> Outcome {
    let read = || {
        let mut decoder = Decoder::default();
        match decoder.decode(datagram) {
            Err(_) => Outcome::Refused,
            Ok(DecodeResult::ChannelData(data)) => {
                Outcome::Channel { number: data.number(), payload: data.bytes().to_vec() }
            }
            Ok(DecodeResult::Message(message)) => Outcome::Message {
                kind: message.method().into(),
                transaction: message.transaction_id().to_vec(),
                values: KINDS.iter().map(|&kind| their_value(&message, kind)).collect(),
            },
        }
    };
    panic::catch_unwind(read).unwrap_or(Outcome::Panicked)
}

fn their_value(message: &Theirs<'_>, kind: u16) -> Read {
    let raw = their::AttributeType::try_from(kind)
        .ok()
        .and_then(|kind| message.get_for_type(kind))
        .map(<[u8]>::to_vec);
    let value = || match kind {
        0x0006 => message.get::<their::UserName>().and_then(is),
        0x0009 => message.get::<their::ErrorCode>().and_then(|value| {
            // They leave class and number as they travel, a byte each.
            is((u32::from(value.code >> 8) * 100 + u32::from(value.code & 0xff), value.message))
        }),
        0x000c => message.get::<their::ChannelNumber>().and_then(is),
        0x000d => message.get::<their::Lifetime>().and_then(is),
        0x0012 => message.get::<their::XorPeerAddress>().and_then(is),
        0x0014 => message.get::<their::Realm>().and_then(is),
        0x0015 => message.get::<their::Nonce>().and_then(is),
        0x0016 => message.get::<their::XorRelayedAddress>().and_then(is),
        0x0017 => message.get::<their::RequestedAddressFamily>().and_then(|family| is(family == V6)),
        0x0018 => message.get::<their::EvenPort>().and_then(is),
        0x0019 => message.get::<their::RequestedTransport>().and_then(|value| is((value as u32) >> 24)),
        0x001a => message.get::<their::DontFragment>().and_then(is),
        0x0020 => message.get::<their::XorMappedAddress>().and_then(is),
        0x0022 => message.get::<their::ReservationToken>().and_then(is),
        0x8000 => message.get::<their::AdditionalAddressFamily>().and_then(|family| is(family == V6)),
        _ => None,
    };
    let value = panic::catch_unwind(panic::AssertUnwindSafe(value)).unwrap_or(Some(Value::Panicked));
    (kind, raw, value)
}

const V6: their::address::IpFamily = their::address::IpFamily::V6;

/// What is wrong with a datagram that looks like STUN, by its bytes alone.
#[derive(Debug, Default)]
pub struct Shape {
    /// How long it says that it is, with its header.
    pub announced: Option<usize>,
    pub cookie: bool,
    pub attributes: usize,
    pub value_cut: bool,
    pub padding_cut: bool,
    pub misplaced: bool,
    pub fingerprint_wrong: bool,
}

impl Shape {
    /// Walks over all attributes that lie in the datagram, whatever it announces.
    pub fn of(datagram: &[u8]) -> Self {
        let mut shape =
            Self { cookie: datagram.get(4..8) == Some(&[0x21, 0x12, 0xa4, 0x42]), ..Self::default() };
        let number =
            |at: usize| Some(usize::from(u16::from_be_bytes([*datagram.get(at)?, *datagram.get(at + 1)?])));
        shape.announced = number(2).map(|length| 20 + length);
        let (mut at, mut endings) = (20, Vec::new());
        while let (Some(kind), Some(length)) = (number(at), number(at + 2)) {
            shape.attributes += 1;
            let Some(value) = datagram.get(at + 4..at + 4 + length) else {
                shape.value_cut = true;
                break;
            };
            let ending = [(0x0008, 20..=20), (0x001c, 16..=32), (0x8028, 4..=4)]
                .into_iter()
                .enumerate()
                .find(|(_, (of, _))| *of == kind);
            match ending {
                Some((rank, (_, lengths))) => {
                    shape.misplaced |= !lengths.contains(&length) || length % 4 != 0;
                    shape.misplaced |= endings.last().is_some_and(|last| *last >= rank);
                    endings.push(rank);
                }
                None => shape.misplaced |= !endings.is_empty(),
            }
            if kind == 0x8028 && length == 4 {
                let right = Fingerprint::compute(&[&datagram[..at]]);
                let right = u32::from_be_bytes(right) ^ 0x5354_554e;
                shape.fingerprint_wrong |= value != right.to_be_bytes();
            }
            at += 4 + length.next_multiple_of(4);
            shape.padding_cut |= at > datagram.len();
        }
        shape
    }
}

//! What a datagram is, and reading and writing STUN messages.
//!
//! The codec accepts more than we want to (bytes behind the announced length, attributes behind the integrity) and logs each
//! oddity as a warning, which would hand the log to anybody who can send a datagram. [`read`] looks at the structure first and
//! passes on only what is well formed.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::Range;

use stun_types::attribute::{
    AttributeStaticType, AttributeType, AttributeWrite, ErrorCode, Fingerprint, MessageIntegrity,
    MessageIntegritySha256,
};
use stun_types::message::{
    Message, MessageClass, MessageHeader, MessageType, MessageWrite, MessageWriteExt as _, MessageWriteVec,
    Method, TransactionId,
};

use crate::key::Key;

/// RFC 8489 §5: the fixed value of the bytes 4 to 7.
pub const MAGIC_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// RFC 8489 §5: the header's length.
pub const HEADER_LEN: usize = 20;

/// More attributes than any message that we know of carries; a bound for the work that one datagram causes.
const MOST_ATTRIBUTES: usize = 64;

/// What the first bytes of a datagram say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A STUN message (RFC 8489 §5): two zero bits and the magic cookie.
    Stun,
    /// A ChannelData message (RFC 8656 §12.4), channels 0x4000 to 0x4fff.
    ChannelData,
    /// Neither.
    Other,
}

/// Tells STUN, ChannelData and everything else apart by the first bytes alone.
pub fn kind(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0x00..=0x3f) if datagram.get(4..8) == Some(MAGIC_COOKIE.as_slice()) => Kind::Stun,
        Some(0x40..=0x4f) if datagram.len() >= crate::channel::CHANNEL_HEADER_LEN => Kind::ChannelData,
        Some(_) | None => Kind::Other,
    }
}

/// The same at a relay, where nothing but STUN and TURN arrives, so that channels may have the numbers of RFC 5766, too.
pub fn kind_at_relay(datagram: &[u8]) -> Kind {
    match datagram.first() {
        Some(0x50..=0x7f) if datagram.len() >= crate::channel::CHANNEL_HEADER_LEN => Kind::ChannelData,
        Some(_) | None => kind(datagram),
    }
}

/// Whether a datagram that is [`Kind::Stun`] is an indication (RFC 8489 §5: the class bits are 0b01): it carries data, and
/// is not answered.
pub fn is_indication(datagram: &[u8]) -> bool {
    matches!(datagram, [high, low, ..] if high & 0x01 == 0 && low & 0x10 != 0)
}

/// An address family, as TURN asks for them (RFC 8656 §18.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, in the order in which they are tried.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }

    pub(crate) fn to_codec(self) -> stun_types::AddressFamily {
        match self {
            Self::V4 => stun_types::AddressFamily::IPV4,
            Self::V6 => stun_types::AddressFamily::IPV6,
        }
    }

    pub(crate) fn from_codec(family: stun_types::AddressFamily) -> Self {
        match family {
            stun_types::AddressFamily::IPV4 => Self::V4,
            stun_types::AddressFamily::IPV6 => Self::V6,
        }
    }
}

/// Which relayed addresses an allocation has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// One, IPv4.
    V4,
    /// One, IPv6 (REQUESTED-ADDRESS-FAMILY).
    V6,
    /// One of each (ADDITIONAL-ADDRESS-FAMILY).
    Both,
}

impl Families {
    /// The families, IPv4 first.
    pub fn each(self) -> &'static [Family] {
        match self {
            Self::V4 => &[Family::V4],
            Self::V6 => &[Family::V6],
            Self::Both => &Family::ALL,
        }
    }
}

/// The same socket address without flow label and scope, so that equal addresses compare equal.
pub fn plain(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) => SocketAddr::V4(v4),
        SocketAddr::V6(v6) => SocketAddr::V6(SocketAddrV6::new(*v6.ip(), v6.port(), 0, 0)),
    }
}

/// Reads one datagram as one STUN message. `None` for everything that is not exactly one well-formed message:
/// wrong header or length, a cut attribute, anything but FINGERPRINT behind the integrity (RFC 8489 §14.5 lets receivers
/// ignore such attributes; nobody sends them, so they are refused), or a FINGERPRINT that does not match.
pub fn read(datagram: &[u8]) -> Option<Message<'_>> {
    if kind(datagram) != Kind::Stun {
        return None;
    }
    let announced = usize::from(u16::from_be_bytes([*datagram.get(2)?, *datagram.get(3)?]));
    if !announced.is_multiple_of(4) || datagram.len() != HEADER_LEN + announced {
        return None;
    }
    let mut at = HEADER_LEN;
    let mut ended = Ended::Not;
    for _ in 0..MOST_ATTRIBUTES {
        let Some(header) = datagram.get(at..at + 4) else { break };
        let attribute = AttributeType::new(u16::from_be_bytes([header[0], header[1]]));
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let value = datagram.get(at + 4..at + 4 + length)?;
        ended = ended.then(attribute, value.len())?;
        if attribute == Fingerprint::TYPE && Fingerprint::compute(&[datagram.get(..at)?]) != xor_back(value)?
        {
            return None;
        }
        at += 4 + length.next_multiple_of(4);
    }
    if at != datagram.len() {
        return None;
    }
    Message::from_bytes(datagram).ok()
}

/// FINGERPRINT travels XORed with a constant (RFC 8489 §14.7).
fn xor_back(value: &[u8]) -> Option<[u8; 4]> {
    const FINGERPRINT_XOR: u32 = 0x5354_554e;
    let value = u32::from_be_bytes(value.try_into().ok()?);
    Some((value ^ FINGERPRINT_XOR).to_be_bytes())
}

/// The attributes that end a message, in their only order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Ended {
    Not,
    Integrity,
    IntegritySha256,
    Fingerprint,
}

impl Ended {
    fn then(self, attribute: AttributeType, length: usize) -> Option<Self> {
        let (next, well_formed) = match attribute {
            MessageIntegrity::TYPE => (Self::Integrity, length == 20),
            MessageIntegritySha256::TYPE => {
                (Self::IntegritySha256, (16..=32).contains(&length) && length.is_multiple_of(4))
            }
            Fingerprint::TYPE => (Self::Fingerprint, length == 4),
            _ => return (self == Self::Not).then_some(Self::Not),
        };
        (well_formed && next > self).then_some(next)
    }
}

/// Where an attribute's value lies in the datagram that `message` was read from.
pub(crate) fn value_range(message: &Message<'_>, attribute: AttributeType) -> Option<Range<usize>> {
    let (offset, raw) = message.raw_attribute_and_offset(attribute)?;
    let start = offset + 4;
    Some(start..start + raw.value.len())
}

/// 96 random bits for a transaction.
pub(crate) fn transaction(random: &mut impl rand::Rng) -> TransactionId {
    TransactionId::from(random.random::<u128>())
}

/// A message that is being written, and whether it ends with FINGERPRINT.
pub(crate) struct Draft(MessageWriteVec, bool);

impl Draft {
    pub(crate) fn new(class: MessageClass, method: Method, transaction: TransactionId) -> Self {
        let kind = MessageType::from_class_method(class, method);
        Self(Message::builder(kind, transaction, MessageWriteVec::with_capacity(128)), false)
    }

    /// Adds one attribute. The integrity comes last, by [`Self::sign`].
    pub(crate) fn with(mut self, attribute: &dyn AttributeWrite) -> Self {
        self.0.push_attribute_unchecked(attribute);
        self
    }

    /// Adds the attribute when there is one.
    pub(crate) fn with_some<A: AttributeWrite>(self, attribute: Option<A>) -> Self {
        match attribute {
            Some(attribute) => self.with(&attribute),
            None => self,
        }
    }

    /// Adds ERROR-CODE without a reason: the code says it all, and short answers do not amplify.
    pub(crate) fn with_error(self, code: u16) -> Self {
        self.with_some(ErrorCode::new(code, "").ok())
    }

    /// Lets FINGERPRINT end it, or not: an answer has one when its request had (RFC 8489 §7).
    pub(crate) fn fingerprinted(mut self, fingerprinted: bool) -> Self {
        self.1 = fingerprinted;
        self
    }

    /// Ends the message with its integrity.
    pub(crate) fn sign(mut self, key: &Key) -> Vec<u8> {
        key.sign(&mut self.0);
        self.finish()
    }

    /// Ends the message without integrity.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        // Without room for it in the length field the message is too long for anybody.
        if self.1 {
            let _ = self.0.add_fingerprint();
        }
        self.0.finish()
    }
}

const _: () = assert!(HEADER_LEN == MessageHeader::LENGTH);

#[cfg(test)]
mod tests {
    use super::*;
    use stun_types::attribute::Username;
    use stun_types::message::BINDING;

    fn binding() -> Draft {
        Draft::new(MessageClass::Request, BINDING, TransactionId::from(7))
    }

    fn with_fingerprint() -> Vec<u8> {
        binding().fingerprinted(true).finish()
    }

    #[test]
    fn first_bytes_tell_the_protocols_apart() {
        assert_eq!(kind(&binding().finish()), Kind::Stun);
        assert_eq!(kind(&[0x40, 0x00, 0x00, 0x00]), Kind::ChannelData);
        assert_eq!(kind(&[0x4f, 0xff, 0x00]), Kind::Other);
        assert_eq!(kind(&[0x01, 0, 0, 0, 1, 2, 3, 4]), Kind::Other);
        assert_eq!(kind(&[0x20, 0, 0, 0, 1, 2, 3, 4]), Kind::Other);
        assert_eq!(kind(&[]), Kind::Other);
        assert_eq!(kind(&[0x7f, 0xff, 0x00, 0x00]), Kind::Other);
        assert_eq!(kind_at_relay(&[0x7f, 0xff, 0x00, 0x00]), Kind::ChannelData);
        assert_eq!(kind_at_relay(&[0x80, 0xff, 0x00, 0x00]), Kind::Other);
        assert_eq!(kind_at_relay(&binding().finish()), Kind::Stun);
    }

    #[test]
    fn only_indications_are_indications() {
        for class in
            [MessageClass::Request, MessageClass::Indication, MessageClass::Success, MessageClass::Error]
        {
            for method in [BINDING, Method::new(6), Method::new(7), Method::new(0xfff)] {
                let bytes = Draft::new(class, method, TransactionId::from(7)).finish();
                assert_eq!(is_indication(&bytes), class == MessageClass::Indication, "{class:?} {method:?}");
            }
        }
    }

    #[test]
    fn a_message_with_bytes_behind_its_length_is_refused() {
        let mut bytes = binding().finish();
        assert!(read(&bytes).is_some());

        bytes.extend([0, 0, 0, 0]);

        assert!(read(&bytes).is_none());
    }

    #[test]
    fn an_attribute_behind_the_integrity_is_refused() {
        let key = Key::long_term("user", "realm", "password", crate::key::Algorithm::Sha1);
        let mut bytes = binding().sign(&key);
        assert!(read(&bytes).is_some());

        bytes.extend([0x80, 0x22, 0, 4, b'e', b'v', b'i', b'l']);
        bytes[3] += 8;

        assert!(read(&bytes).is_none());
    }

    #[test]
    fn a_wrong_fingerprint_is_refused() {
        let mut bytes = with_fingerprint();
        assert!(read(&bytes).is_some());

        let last = bytes.len() - 1;
        bytes[last] ^= 1;

        assert!(read(&bytes).is_none());
    }

    #[test]
    fn a_cut_attribute_is_refused() {
        let bytes = binding().with(&Username::new("somebody").unwrap()).finish();

        for len in 0..bytes.len() {
            let mut cut = bytes[..len].to_vec();
            if len >= HEADER_LEN {
                cut[3] = (len - HEADER_LEN) as u8;
            }
            assert_eq!(read(&cut).is_some(), len == HEADER_LEN, "{len}");
        }
    }

    #[test]
    fn an_error_answer_carries_no_reason_text() {
        let bytes = Draft::new(MessageClass::Error, BINDING, TransactionId::from(7)).with_error(401).finish();

        assert_eq!(bytes.len(), HEADER_LEN + 8);
    }
}

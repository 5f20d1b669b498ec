//! DNS messages in and out (RFC 1035, EDNS: RFC 6891), with hickory-proto as the codec.

use std::net::IpAddr;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name as DnsName, RData, Record, RecordType};

use crate::mapped::Ranges;
use crate::name::Name;

/// Bytes of a message header (RFC 1035 section 4.1.1).
pub(crate) const HEADER: usize = 12;
/// What fits into one datagram without EDNS (RFC 1035 section 4.2.1).
const PLAIN_UDP: usize = 512;
/// What we accept and send in one datagram: IPv6's smallest MTU less headers (DNS flag day 2020).
pub(crate) const LARGEST_UDP: u16 = 1232;

/// A question that is one question, in a message that parses.
#[derive(Clone, Debug)]
pub(crate) struct Question {
    pub(crate) id: u16,
    pub(crate) query: Query,
    /// The name, when it can be that of a host.
    pub(crate) name: Option<Name>,
    recursion_desired: bool,
    checking_disabled: bool,
    edns: bool,
    /// What the asker takes in one datagram.
    pub(crate) payload: usize,
}

/// Why a message is no question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoQuestion {
    /// Too short to answer, or itself an answer.
    Ignored,
    /// This is what its sender is told.
    Refused(Vec<u8>),
}

/// Whether the first name of a message is written in labels alone. Nothing but the header stands before it, so a
/// pointer (RFC 1035 section 4.1.4) points into that, or at itself, and what it means changes with the header.
fn is_spelled_out(mut name: &[u8]) -> bool {
    while let [length, rest @ ..] = name {
        match length {
            0 => return true,
            1..=63 => name = rest.get(usize::from(*length)..).unwrap_or_default(),
            64.. => return false,
        }
    }
    false
}

impl Question {
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, NoQuestion> {
        let header = bytes.first_chunk::<HEADER>().ok_or(NoQuestion::Ignored)?;
        if header[2] & 0x80 != 0 {
            return Err(NoQuestion::Ignored);
        }
        let refused = |code| Err(NoQuestion::Refused(header_only(header, code)));
        if (header[2] >> 3) & 0x0f != 0 {
            return refused(ResponseCode::NotImp);
        }
        // One question, and answers to nothing (RFC 9619).
        let counts = [header[4], header[5], header[6], header[7], header[8], header[9]];
        if counts != [0, 1, 0, 0, 0, 0] {
            return refused(ResponseCode::FormErr);
        }
        if !is_spelled_out(&bytes[HEADER..]) {
            return refused(ResponseCode::FormErr);
        }
        let Ok(message) = Message::from_vec(bytes) else { return refused(ResponseCode::FormErr) };
        let [query] = &message.queries[..] else { return refused(ResponseCode::FormErr) };
        if message.edns.as_ref().is_some_and(|edns| edns.version() != 0) {
            return refused(ResponseCode::BADVERS);
        }
        let payload = message.edns.as_ref().map_or(PLAIN_UDP, |edns| usize::from(edns.max_payload()));
        Ok(Self {
            id: message.metadata.id,
            query: query.clone(),
            name: query.name().to_ascii().parse().ok(),
            recursion_desired: message.metadata.recursion_desired,
            checking_disabled: message.metadata.checking_disabled,
            edns: message.edns.is_some(),
            payload: payload.clamp(PLAIN_UDP, usize::from(LARGEST_UDP)),
        })
    }

    pub(crate) fn kind(&self) -> RecordType {
        self.query.query_type()
    }

    pub(crate) fn is_internet(&self) -> bool {
        self.query.query_class() == DNSClass::IN
    }

    /// The address that a reverse question is about.
    pub(crate) fn reverse(&self) -> Option<IpAddr> {
        if !self.query.name().to_ascii().to_ascii_lowercase().ends_with("arpa.") {
            return None;
        }
        let net = self.query.name().parse_arpa_name().ok()?;
        let whole = if net.addr().is_ipv4() { 32 } else { 128 };
        (net.prefix_len() == whole).then(|| net.addr())
    }

    /// Whether an answer answers this question.
    pub(crate) fn is_answered_by(&self, answer: &Message) -> bool {
        let [query] = &answer.queries[..] else { return false };
        answer.metadata.message_type == MessageType::Response
            && answer.metadata.op_code == OpCode::Query
            && query.query_type() == self.query.query_type()
            && query.query_class() == self.query.query_class()
            && query.name().eq_ignore_root(self.query.name())
    }

    fn answer(&self, code: ResponseCode) -> Message {
        let mut message = Message::new(self.id, MessageType::Response, OpCode::Query);
        message.metadata.recursion_desired = self.recursion_desired;
        message.metadata.checking_disabled = self.checking_disabled;
        message.metadata.recursion_available = true;
        message.metadata.response_code = code;
        message.queries.push(self.query.clone());
        if self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(LARGEST_UDP);
            message.edns = Some(edns);
        }
        message
    }

    fn encode(&self, message: &Message) -> Vec<u8> {
        // What was decoded can be encoded; a header alone is the honest answer should that ever fail.
        message.to_vec().unwrap_or_else(|_| {
            let [a, b] = self.id.to_be_bytes();
            vec![a, b, 0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0]
        })
    }

    /// An answer without records.
    pub(crate) fn code(&self, code: ResponseCode) -> Vec<u8> {
        self.encode(&self.answer(code))
    }

    /// "Ask again over TCP."
    pub(crate) fn truncated(&self) -> Vec<u8> {
        let mut message = self.answer(ResponseCode::NoError);
        message.metadata.truncation = true;
        self.encode(&message)
    }

    /// An answer with these addresses, or "no such record" when there is none.
    pub(crate) fn addresses(&self, addresses: &[IpAddr], ttl: u32) -> Vec<u8> {
        let mut message = self.answer(ResponseCode::NoError);
        message.answers.extend(addresses.iter().map(|address| {
            let data = match address {
                IpAddr::V4(v4) => RData::A(A(*v4)),
                IpAddr::V6(v6) => RData::AAAA(AAAA(*v6)),
            };
            Record::from_rdata(self.query.name().clone(), ttl, data)
        }));
        self.encode(&message)
    }

    /// The answer to a reverse question: a name, or that there is none.
    pub(crate) fn pointer(&self, name: Option<&Name>, ttl: u32) -> Vec<u8> {
        let target = name.and_then(|name| DnsName::from_ascii(format!("{name}.")).ok());
        let Some(target) = target else { return self.code(ResponseCode::NXDomain) };
        let mut message = self.answer(ResponseCode::NoError);
        if self.kind() == RecordType::PTR {
            message.answers.push(Record::from_rdata(self.query.name().clone(), ttl, RData::PTR(PTR(target))));
        }
        self.encode(&message)
    }
}

/// Whether an answer from outside claims addresses that only we give out: a page of somebody else's could so be made to
/// look like a resource.
pub(crate) fn claims(answer: &Message, ranges: &Ranges) -> bool {
    answer.answers.iter().chain(&answer.additionals).any(|record| match &record.data {
        RData::A(A(v4)) => ranges.contains(IpAddr::V4(*v4)),
        RData::AAAA(AAAA(v6)) => {
            ranges.contains(IpAddr::V6(*v6)) || v6.to_ipv4().is_some_and(|v4| ranges.contains(v4.into()))
        }
        _ => false,
    })
}

/// The answer to something that did not parse: its id, its opcode, and why.
fn header_only(header: &[u8; HEADER], code: ResponseCode) -> Vec<u8> {
    // BADVERS needs an OPT record for its upper bits; without one it would read as NOERROR.
    let low = if code == ResponseCode::BADVERS { ResponseCode::FormErr.low() } else { code.low() };
    let flags = 0x80 | header[2] & 0x79;
    vec![header[0], header[1], flags, low & 0x0f, 0, 0, 0, 0, 0, 0, 0, 0]
}

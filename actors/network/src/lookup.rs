//! One question to one DNS server: building it, and reading the answer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actors_runtime::time;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name as DnsName, RData, RecordType};
use protocol_names::Name;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::marked::{connect_marked, udp_marked};

/// What fits into one datagram everywhere (DNS flag day 2020).
const UDP_PAYLOAD: u16 = 1232;
/// One try by datagram.
const PATIENCE: Duration = Duration::from_millis(1200);
/// Tries by datagram: one is lost now and then.
const TRIES: usize = 2;
/// Connecting, asking and hearing over TCP.
const TCP_PATIENCE: Duration = Duration::from_secs(3);
/// A chain of aliases longer than this goes in circles.
const ALIASES: usize = 16;

/// What a server said about one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) addresses: Vec<IpAddr>,
    /// How long that may be believed; `None` when the answer does not say.
    pub(crate) ttl: Option<u32>,
    /// There is no such name, in no family.
    pub(crate) no_such_name: bool,
}

/// Why a server said nothing useful.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LookupError {
    #[error("the DNS server did not answer")]
    Silent,
    #[error("the DNS server cannot be reached")]
    Unreachable,
    #[error("the DNS server refused or failed")]
    Refused,
    #[error("the DNS server's answer is malformed")]
    Malformed,
}

fn question(id: u16, name: &Name, kind: RecordType) -> Result<Vec<u8>, LookupError> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    let name = DnsName::from_ascii(format!("{name}.")).map_err(|_| LookupError::Malformed)?;
    message.queries.push(Query::query(name, kind));
    let mut edns = Edns::new();
    edns.set_max_payload(UDP_PAYLOAD);
    message.edns = Some(edns);
    message.to_vec().map_err(|_| LookupError::Malformed)
}

/// Whether `answer` answers the question of this id, name and kind.
fn fits(answer: &Message, id: u16, name: &Name, kind: RecordType) -> bool {
    let [query] = &answer.queries[..] else { return false };
    answer.metadata.id == id
        && answer.metadata.message_type == MessageType::Response
        && query.query_type() == kind
        && same(query.name(), name)
}

fn same(dns: &DnsName, name: &Name) -> bool {
    dns.to_ascii().parse::<Name>().as_ref() == Ok(name)
}

/// The addresses at the end of the chain of aliases that starts at `name`.
fn read(answer: &Message, name: &Name) -> Result<Found, LookupError> {
    let no_such_name = match answer.metadata.response_code {
        ResponseCode::NoError => false,
        ResponseCode::NXDomain => true,
        _ => return Err(LookupError::Refused),
    };
    let (mut owner, mut ttl) = (name.clone(), None::<u32>);
    for _ in 0..ALIASES {
        let alias = answer.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(target) if same(&record.name, &owner) => {
                Some((target.0.to_ascii().parse::<Name>().ok()?, record.ttl))
            }
            _ => None,
        });
        let Some((target, lives)) = alias else { break };
        ttl = Some(ttl.unwrap_or(lives).min(lives));
        owner = target;
    }
    let mut addresses = Vec::new();
    for record in answer.answers.iter().filter(|record| same(&record.name, &owner)) {
        if let Some(address) = record.data.ip_addr() {
            ttl = Some(ttl.unwrap_or(record.ttl).min(record.ttl));
            addresses.push(address);
        }
    }
    Ok(Found { addresses, ttl, no_such_name })
}

/// Asks `server` for the addresses of one family.
pub(crate) async fn ask(
    server: SocketAddr,
    mark: Option<u32>,
    name: &Name,
    kind: RecordType,
) -> Result<Found, LookupError> {
    let mut buffer = vec![0; usize::from(UDP_PAYLOAD)];
    for _ in 0..TRIES {
        // A fresh port and id for each try: together they are what a forger has to guess.
        let (id, socket) =
            (rand::random(), udp_marked(server, mark).await.map_err(|_| LookupError::Unreachable)?);
        let asked = question(id, name, kind)?;
        socket.send(&asked).await.map_err(|_| LookupError::Unreachable)?;
        let hear = async {
            loop {
                // A refusal by ICMP arrives as an error.
                let length = socket.recv(&mut buffer).await.map_err(|_| LookupError::Unreachable)?;
                let answer = buffer.get(..length).and_then(|bytes| Message::from_vec(bytes).ok());
                if let Some(answer) = answer.filter(|answer| fits(answer, id, name, kind)) {
                    return Ok(answer);
                }
            }
        };
        match time::timeout(PATIENCE, hear).await {
            Ok(Ok(answer)) if answer.metadata.truncation => {
                return ask_by_stream(server, mark, name, kind).await;
            }
            Ok(Ok(answer)) => return read(&answer, name),
            Ok(Err(error)) => return Err(error),
            Err(_) => {}
        }
    }
    Err(LookupError::Silent)
}

async fn ask_by_stream(
    server: SocketAddr,
    mark: Option<u32>,
    name: &Name,
    kind: RecordType,
) -> Result<Found, LookupError> {
    let id = rand::random();
    let asked = question(id, name, kind)?;
    let talk = async {
        let mut stream = connect_marked(server, mark).await?;
        let length = u16::try_from(asked.len()).unwrap_or(u16::MAX).to_be_bytes();
        stream.write_all(&[&length[..], &asked].concat()).await?;
        let length = stream.read_u16().await?;
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = time::timeout(TCP_PATIENCE, talk).await.map_err(|_| LookupError::Silent)?;
    let answer = answer.map_err(|_| LookupError::Unreachable)?;
    let answer = Message::from_vec(&answer).map_err(|_| LookupError::Malformed)?;
    if fits(&answer, id, name, kind) { read(&answer, name) } else { Err(LookupError::Malformed) }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Record;
    use hickory_proto::rr::rdata::{A, CNAME};

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn record(owner: &str, ttl: u32, data: RData) -> Record {
        Record::from_rdata(DnsName::from_ascii(owner).unwrap(), ttl, data)
    }

    fn alias(owner: &str, ttl: u32, target: &str) -> Record {
        record(owner, ttl, RData::CNAME(CNAME(DnsName::from_ascii(target).unwrap())))
    }

    fn answer(records: Vec<Record>) -> Message {
        let mut message = Message::new(1, MessageType::Response, OpCode::Query);
        message.answers = records;
        message
    }

    #[test]
    fn the_end_of_a_chain_of_aliases_counts_and_strangers_do_not() {
        let message = answer(vec![
            record("real.example.", 60, RData::A(A("198.51.100.1".parse().unwrap()))),
            alias("B.example.", 20, "real.example."),
            alias("a.example.", 300, "b.example."),
            record("stranger.example.", 1, RData::A(A("203.0.113.1".parse().unwrap()))),
        ]);

        let found = read(&message, &name("a.example")).unwrap();

        assert_eq!(found.addresses, ["198.51.100.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(found.ttl, Some(20));
    }

    #[test]
    fn aliases_in_a_circle_lead_nowhere() {
        let message =
            answer(vec![alias("a.example.", 1, "b.example."), alias("b.example.", 1, "a.example.")]);

        assert_eq!(read(&message, &name("a.example")).unwrap().addresses, Vec::<IpAddr>::new());
    }

    #[test]
    fn refusals_are_told_from_names_that_do_not_exist() {
        let mut message = answer(Vec::new());
        message.metadata.response_code = ResponseCode::NXDomain;
        assert!(read(&message, &name("a.example")).unwrap().no_such_name);

        message.metadata.response_code = ResponseCode::ServFail;
        assert_eq!(read(&message, &name("a.example")), Err(LookupError::Refused));
    }
}

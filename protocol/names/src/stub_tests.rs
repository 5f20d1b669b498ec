//! The stub resolver against questions, servers and outcomes that behave well, badly, and not at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{Name as DnsName, RData, Record, RecordType};
use proptest::prelude::*;

use crate::mapped::{MappedAddresses, Ranges};
use crate::name::Name;
use crate::stub::{AccessOutcome, Asker, Output, Stub, StubConfig, Transport};

const WIKI: &str = "wiki.corp.example";
const GRANTED: AccessOutcome = AccessOutcome::Granted { has_v4: true, has_v6: true };

fn server(n: u8) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, n], 53))
}

fn udp(n: u16) -> Asker {
    Asker::Udp(SocketAddr::from(([127, 0, 0, 1], n)))
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn question(id: u16, host: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(DnsName::from_ascii(format!("{host}.")).unwrap(), kind));
    message.to_vec().unwrap()
}

fn reply(asked: &[u8], records: Vec<RData>) -> Vec<u8> {
    let asked = Message::from_vec(asked).unwrap();
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    message.queries = asked.queries.clone();
    let owner = asked.queries[0].name().clone();
    message.answers = records.into_iter().map(|data| Record::from_rdata(owner.clone(), 60, data)).collect();
    message.to_vec().unwrap()
}

fn address(text: &str) -> RData {
    RData::A(A(text.parse().unwrap()))
}

struct Bench {
    stub: Stub<u8>,
    mapped: MappedAddresses,
}

impl Bench {
    fn new(servers: &[u8]) -> Self {
        let mut stub = Stub::new(StubConfig::new(servers.iter().map(|n| server(*n)).collect(), 7));
        stub.set_resources([(WIKI.parse().unwrap(), 1), ("**.deep.example".parse().unwrap(), 2)]);
        Self { stub, mapped: MappedAddresses::new(Ranges::default(), 100) }
    }

    fn ask(&mut self, bytes: &[u8], from: Asker, now: Duration) -> Vec<Output<u8>> {
        self.stub.handle_query(bytes, from, now, &mut self.mapped);
        self.drain()
    }

    fn access(&mut self, host: &str, outcome: AccessOutcome, now: Duration) -> Vec<Output<u8>> {
        self.stub.handle_access(&name(host), outcome, now, &mut self.mapped);
        self.drain()
    }

    fn answer(&mut self, from: SocketAddr, transport: Transport, bytes: &[u8]) -> Vec<Output<u8>> {
        self.stub.handle_answer(from, transport, bytes, &self.mapped);
        self.drain()
    }

    /// Only as far as the machine asked for.
    fn timeout(&mut self) -> (Duration, Vec<Output<u8>>) {
        let now = self.stub.poll_timeout().expect("a deadline");
        self.stub.handle_timeout(now, &mut self.mapped);
        (now, self.drain())
    }

    fn drain(&mut self) -> Vec<Output<u8>> {
        std::iter::from_fn(|| self.stub.poll_output()).collect()
    }

    fn mapped(&self, host: &str, kind: RecordType) -> IpAddr {
        let mapped = self.mapped.get(&name(host)).unwrap();
        if kind == RecordType::A { mapped.v4.into() } else { mapped.v6.into() }
    }
}

/// The one answer in `outputs`: to whom, and what it says.
fn said(outputs: &[Output<u8>]) -> (Asker, Message) {
    let [Output::Answer { to, bytes }] = outputs else { panic!("no single answer: {outputs:?}") };
    (*to, Message::from_vec(bytes).unwrap())
}

fn addresses(message: &Message) -> Vec<IpAddr> {
    message.answers.iter().filter_map(|record| record.data.ip_addr()).collect()
}

fn forwarded(outputs: &[Output<u8>]) -> (SocketAddr, Transport, Vec<u8>, u16) {
    let [Output::Forward { upstream, transport, bytes, id }] = outputs else {
        panic!("not passed on: {outputs:?}")
    };
    (*upstream, *transport, bytes.clone(), *id)
}

#[test]
fn a_resource_is_answered_with_mapped_addresses_once_access_is_granted() {
    for kind in [RecordType::A, RecordType::AAAA] {
        let mut bench = Bench::new(&[1]);

        let asked = bench.ask(&question(42, "Wiki.Corp.Example", kind), udp(5), ms(0));
        let answered = bench.access(WIKI, GRANTED, ms(300));

        assert!(
            matches!(&asked[..], [Output::AskAccess { resource: 1, name, .. }] if *name == self::name(WIKI))
        );
        let (to, message) = said(&answered);
        assert_eq!((to, message.metadata.id), (udp(5), 42));
        assert_eq!(message.metadata.response_code, ResponseCode::NoError);
        assert!(message.metadata.recursion_available && message.metadata.recursion_desired);
        assert_eq!(message.queries[0].name().to_ascii(), "Wiki.Corp.Example.", "the case is the asker's");
        assert_eq!(addresses(&message), [bench.mapped(WIKI, kind)]);
        assert!(message.answers[0].ttl <= 60);
    }
}

#[test]
fn a_name_that_points_into_the_header_is_refused() {
    let mut bench = Bench::new(&[1]);
    let mut pointing = question(0x0007, "a.b", RecordType::A);
    let end = 12 + "1a1b".len();
    assert_eq!(pointing[end], 0);
    pointing.splice(end..=end, [0xc0, 0x00]);

    let told = bench.ask(&pointing, udp(1), ms(0));

    let [Output::Answer { bytes, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(Message::from_vec(bytes).unwrap().metadata.response_code, ResponseCode::FormErr);
}

#[test]
fn a_family_that_the_real_name_lacks_has_no_records() {
    let mut bench = Bench::new(&[1]);
    bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(0));
    bench.ask(&question(2, WIKI, RecordType::AAAA), udp(2), ms(0));

    let answered = bench.access(WIKI, AccessOutcome::Granted { has_v4: true, has_v6: false }, ms(1));

    let messages: Vec<_> = answered.iter().map(|output| said(std::slice::from_ref(output)).1).collect();
    assert_eq!(addresses(&messages[0]), [bench.mapped(WIKI, RecordType::A)]);
    assert_eq!(messages[1].answers, []);
    assert_eq!(messages[1].metadata.response_code, ResponseCode::NoError);
}

#[test]
fn without_access_the_mapped_addresses_are_told_so_that_connecting_is_refused_at_once() {
    for outcome in [AccessOutcome::Denied, AccessOutcome::Offline] {
        let mut bench = Bench::new(&[1]);
        bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(0));

        let answered = bench.access(WIKI, outcome, ms(1));

        assert_eq!(addresses(&said(&answered).1), [bench.mapped(WIKI, RecordType::A)]);
    }
}

#[test]
fn after_a_second_without_outcome_the_mapped_addresses_are_told() {
    let mut bench = Bench::new(&[1]);
    bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(10));

    let (at, answered) = bench.timeout();

    assert_eq!(at, ms(1010));
    assert_eq!(addresses(&said(&answered).1), [bench.mapped(WIKI, RecordType::A)]);
    assert_eq!(bench.stub.poll_timeout(), None);
}

#[test]
fn access_is_asked_for_once_and_a_known_outcome_is_used() {
    let mut bench = Bench::new(&[1]);
    assert_eq!(bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(0)).len(), 1);
    assert_eq!(bench.ask(&question(2, WIKI, RecordType::AAAA), udp(1), ms(0)), []);
    assert_eq!(bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(500)), [], "the same question again");
    assert_eq!(bench.access(WIKI, GRANTED, ms(600)).len(), 2);

    let known = bench.ask(&question(3, WIKI, RecordType::A), udp(1), ms(700));
    bench.stub.forget_access(&name(WIKI));
    let forgotten = bench.ask(&question(4, WIKI, RecordType::A), udp(1), ms(800));

    assert_eq!(addresses(&said(&known).1).len(), 1);
    assert!(matches!(forgotten[..], [Output::AskAccess { .. }]));
}

#[test]
fn no_question_about_a_resource_ever_leaves_the_host() {
    let mut bench = Bench::new(&[1]);
    for kind in
        [RecordType::TXT, RecordType::MX, RecordType::HTTPS, RecordType::ANY, RecordType::SOA, RecordType::NS]
    {
        for host in [WIKI, "deep.example", "a.b.deep.example"] {
            let answered = bench.ask(&question(1, host, kind), udp(1), ms(0));

            let (_, message) = said(&answered);
            assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0));
        }
    }
}

#[test]
fn a_reverse_question_about_our_ranges_is_answered_here() {
    let mut bench = Bench::new(&[1]);
    bench.ask(&question(1, WIKI, RecordType::A), udp(1), ms(0));
    let IpAddr::V4(v4) = bench.mapped(WIKI, RecordType::A) else { panic!() };
    let [a, b, c, d] = v4.octets();

    let known =
        bench.ask(&question(2, &format!("{d}.{c}.{b}.{a}.in-addr.arpa"), RecordType::PTR), udp(1), ms(0));
    let unknown = bench.ask(&question(3, "1.0.96.100.in-addr.arpa", RecordType::PTR), udp(1), ms(0));
    let other = bench.ask(&question(4, "1.2.0.192.in-addr.arpa", RecordType::PTR), udp(1), ms(0));

    assert_eq!(said(&known).1.answers[0].data.to_string(), format!("{WIKI}."));
    assert_eq!(said(&unknown).1.metadata.response_code, ResponseCode::NXDomain);
    forwarded(&other);
}

#[test]
fn another_question_is_passed_on_under_an_id_of_ours_and_answered_under_the_askers() {
    let mut bench = Bench::new(&[1, 2]);

    let asked = bench.ask(&question(42, "www.example.org", RecordType::A), udp(5), ms(0));
    let (upstream, transport, bytes, id) = forwarded(&asked);
    let answered = bench.answer(upstream, transport, &reply(&bytes, vec![address("198.51.100.7")]));

    assert_eq!((upstream, transport), (server(1), Transport::Udp));
    assert_eq!(bytes[..2], id.to_be_bytes());
    assert_eq!(bytes[2..], question(42, "www.example.org", RecordType::A)[2..]);
    let (to, message) = said(&answered);
    assert_eq!((to, message.metadata.id), (udp(5), 42));
    assert_eq!(addresses(&message), ["198.51.100.7".parse::<IpAddr>().unwrap()]);
}

#[test]
fn ids_towards_servers_do_not_repeat_in_a_pattern() {
    let mut bench = Bench::new(&[1]);

    let ids: Vec<u16> = (0..200)
        .map(|n| {
            forwarded(&bench.ask(&question(7, &format!("h{n}.example.org"), RecordType::A), udp(n), ms(0))).3
        })
        .collect();

    let distinct: BTreeSet<_> = ids.iter().collect();
    let steps: BTreeSet<_> = ids.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
    assert_eq!(distinct.len(), 200);
    assert!(steps.len() > 190, "{steps:?}");
}

#[test]
fn forged_answers_are_ignored_and_the_true_one_still_counts() {
    let mut bench = Bench::new(&[1]);
    let asked = bench.ask(&question(42, "www.example.org", RecordType::A), udp(5), ms(0));
    let (upstream, transport, bytes, id) = forwarded(&asked);
    let truth = reply(&bytes, vec![address("198.51.100.7")]);
    let mut wrong_id = truth.clone();
    wrong_id[..2].copy_from_slice(&id.wrapping_add(1).to_be_bytes());
    let mut other_question = question(id, "other.example.org", RecordType::A);
    other_question = reply(&other_question, vec![address("203.0.113.6")]);

    assert_eq!(bench.answer(server(9), transport, &truth), []);
    assert_eq!(bench.answer(upstream, Transport::Tcp, &truth), []);
    assert_eq!(bench.answer(upstream, transport, &wrong_id), []);
    assert_eq!(bench.answer(upstream, transport, &other_question), []);
    assert_eq!(bench.answer(upstream, transport, &bytes), [], "the question itself");
    assert_eq!(bench.answer(upstream, transport, b"x"), []);
    assert_eq!(bench.stub.drops().unasked, 6);

    assert_eq!(addresses(&said(&bench.answer(upstream, transport, &truth)).1).len(), 1);
    assert_eq!(bench.answer(upstream, transport, &truth), [], "a copy");
}

#[test]
fn an_answer_from_outside_cannot_claim_addresses_of_ours() {
    let mut bench = Bench::new(&[1]);
    let asked = bench.ask(&question(42, "evil.example.org", RecordType::A), udp(5), ms(0));
    let (upstream, transport, bytes, _) = forwarded(&asked);

    let answered = bench.answer(upstream, transport, &reply(&bytes, vec![address("100.96.0.9")]));

    assert_eq!(said(&answered).1.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(bench.stub.drops().rebinding, 1);
}

#[test]
fn a_silent_server_is_followed_by_the_next_and_the_one_that_answers_is_asked_first_from_then_on() {
    let mut bench = Bench::new(&[1, 2]);
    let asked = bench.ask(&question(1, "www.example.org", RecordType::A), udp(1), ms(0));
    let (first, _, _, first_id) = forwarded(&asked);

    let (_, again) = bench.timeout();
    let (second, transport, bytes, second_id) = forwarded(&again);
    let answered = bench.answer(second, transport, &reply(&bytes, vec![]));
    let next = bench.ask(&question(2, "www.example.com", RecordType::A), udp(1), ms(9000));

    assert_eq!((first, second), (server(1), server(2)));
    assert_ne!(first_id, second_id);
    said(&answered);
    assert_eq!(forwarded(&next).0, server(2));
}

#[test]
fn a_server_that_refuses_is_not_waited_for_and_in_the_end_the_asker_hears_of_the_failure() {
    let mut bench = Bench::new(&[1, 2]);
    let mut outputs = bench.ask(&question(1, "www.example.org", RecordType::A), udp(1), ms(0));
    let mut asked = Vec::new();
    while let [Output::Forward { upstream, id, .. }] = outputs[..] {
        asked.push(upstream);
        bench.stub.handle_failure(id, ms(0));
        outputs = bench.drain();
    }

    assert_eq!(asked, [server(1), server(2), server(1), server(2)]);
    assert_eq!(said(&outputs).1.metadata.response_code, ResponseCode::ServFail);
    assert_eq!(bench.stub.drops().unanswered, 1);
}

#[test]
fn without_servers_other_names_fail_at_once() {
    let mut bench = Bench::new(&[]);

    let answered = bench.ask(&question(1, "www.example.org", RecordType::A), udp(1), ms(0));

    assert_eq!(said(&answered).1.metadata.response_code, ResponseCode::ServFail);
}

#[test]
fn an_answer_that_is_too_long_for_a_datagram_is_cut_off_and_fits_over_tcp() {
    let long = |bytes: &[u8]| reply(bytes, vec![RData::TXT(TXT::new(vec!["x".repeat(200); 5]))]);
    let mut bench = Bench::new(&[1]);
    let mut spacious = Message::from_vec(&question(2, "a.example.org", RecordType::TXT)).unwrap();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    spacious.edns = Some(edns);

    for (n, (asker, bytes, whole)) in [
        (udp(1), question(1, "a.example.org", RecordType::TXT), false),
        (udp(1), spacious.to_vec().unwrap(), true),
        (Asker::Tcp(7), question(3, "a.example.org", RecordType::TXT), true),
    ]
    .into_iter()
    .enumerate()
    {
        let asked = bench.ask(&bytes, asker, ms(0));
        let (upstream, transport, bytes, _) = forwarded(&asked);
        let (to, message) = said(&bench.answer(upstream, transport, &long(&bytes)));

        assert_eq!((to, transport), (asker, asker.transport()));
        assert_eq!(
            (message.metadata.truncation, message.answers.len()),
            (!whole, usize::from(whole)),
            "case {n}"
        );
    }
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    let good = question(0x1234, WIKI, RecordType::A);
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let code = |outputs: &[Output<u8>]| match outputs {
        [Output::Answer { bytes, .. }] => Some((bytes[..2] == good[..2], bytes[3] & 0x0f)),
        _ => None,
    };
    let mut bench = Bench::new(&[1]);

    assert_eq!(code(&bench.ask(&good[..11], udp(1), ms(0))), None, "no header");
    assert_eq!(code(&bench.ask(&with(2, 0x81), udp(1), ms(0))), None, "an answer");
    assert_eq!(code(&bench.ask(&with(2, 0x29), udp(1), ms(0))), Some((true, 4)), "an update");
    assert_eq!(code(&bench.ask(&with(5, 2), udp(1), ms(0))), Some((true, 1)), "two questions");
    assert_eq!(code(&bench.ask(&with(5, 0), udp(1), ms(0))), Some((true, 1)), "none");
    assert_eq!(code(&bench.ask(&good[..20], udp(1), ms(0))), Some((true, 1)), "cut off");
    assert_eq!((bench.stub.drops().ignored, bench.stub.drops().malformed), (2, 4));
}

#[test]
fn what_waits_is_bounded() {
    let mut bench = Bench::new(&[1]);
    let mut told = 0;
    for n in 0..2000u16 {
        let host = if n % 2 == 0 { WIKI.to_owned() } else { format!("h{n}.example.org") };
        told += bench
            .ask(&question(n, &host, RecordType::A), udp(n), ms(0))
            .iter()
            .filter(|output| matches!(output, Output::Answer { .. }))
            .count();
    }

    let (held, passed) = bench.stub.waiting();
    assert!(held <= 256 && passed <= 512);
    assert_eq!(told, 2000 - held - passed, "whatever does not wait is answered");
}

/// One question of the simulation, and how it was answered.
#[derive(Debug, Default)]
struct Fate {
    host: String,
    answers: Vec<(Duration, ResponseCode, Vec<IpAddr>)>,
}

proptest! {
    /// Servers that lose, delay, repeat and reorder; outcomes that come late or never.
    #[test]
    fn every_question_gets_exactly_one_answer_in_time(
        asks in proptest::collection::vec((0u64..5000, 0usize..6, any::<bool>()), 1..40),
        network in proptest::collection::vec((0u8..4, 0u64..2500), 1..40),
        outcomes in proptest::collection::vec((0u8..5, 0u64..1500), 1..20),
        servers in 1u8..4,
    ) {
        let hosts = [WIKI, "a.deep.example", "deep.example", "www.example.org", "wiki.corp.example.org", "corp.example"];
        let mut bench = Bench::new(&(1..=servers).collect::<Vec<_>>());
        let mut events: BTreeMap<(u64, u32), Event> = BTreeMap::new();
        let mut order = 0;
        let mut put = |events: &mut BTreeMap<_, _>, at: u64, event| {
            order += 1;
            events.insert((at, order), event);
        };
        let mut fates: Vec<Fate> = Vec::new();
        for (n, (at, host, v6)) in asks.iter().enumerate() {
            fates.push(Fate { host: hosts[*host].to_owned(), ..Fate::default() });
            let kind = if *v6 { RecordType::AAAA } else { RecordType::A };
            put(&mut events, *at, Event::Ask(n as u16, question(n as u16, hosts[*host], kind)));
        }
        let (mut network, mut outcomes) = (network.into_iter().cycle(), outcomes.into_iter().cycle());

        loop {
            let next = events.keys().next().map(|(at, _)| ms(*at));
            let now = match (next, bench.stub.poll_timeout()) {
                (None, None) => break,
                (Some(event), Some(deadline)) if deadline < event => deadline,
                (None, Some(deadline)) => deadline,
                (Some(event), _) => event,
            };
            let outputs = match next {
                Some(at) if at == now => {
                    let (_, event) = events.pop_first().unwrap();
                    match event {
                        Event::Ask(n, bytes) => bench.ask(&bytes, udp(n), now),
                        Event::Answer(from, bytes) => bench.answer(from, Transport::Udp, &bytes),
                        Event::Outcome(host, outcome) => bench.access(host.as_str(), outcome, now),
                    }
                }
                _ => bench.timeout().1,
            };
            let at = now.as_millis() as u64;
            for output in outputs {
                match output {
                    Output::Answer { to, bytes } => {
                        let message = Message::from_vec(&bytes).unwrap();
                        let fate = &mut fates[usize::from(message.metadata.id)];
                        prop_assert_eq!(to, udp(message.metadata.id));
                        prop_assert_eq!(message.queries[0].name().to_ascii(), format!("{}.", fate.host));
                        fate.answers.push((now, message.metadata.response_code, addresses(&message)));
                    }
                    Output::AskAccess { name, .. } => {
                        let (kind, delay) = outcomes.next().unwrap();
                        let outcome = match kind {
                            0 => continue,
                            1 => AccessOutcome::Denied,
                            2 => AccessOutcome::Offline,
                            3 => AccessOutcome::Granted { has_v4: true, has_v6: false },
                            _ => GRANTED,
                        };
                        put(&mut events, at + delay, Event::Outcome(name.to_string(), outcome));
                    }
                    Output::Forward { upstream, bytes, .. } => {
                        let asked = Message::from_vec(&bytes).unwrap().queries[0].name().to_ascii();
                        prop_assert!(!asked.starts_with("wiki.corp.example.") || asked.ends_with("org."));
                        prop_assert!(!asked.ends_with("deep.example."));
                        let (kind, delay) = network.next().unwrap();
                        let truth = reply(&bytes, vec![address("198.51.100.7")]);
                        if kind > 0 {
                            put(&mut events, at + delay, Event::Answer(upstream, truth.clone()));
                        }
                        if kind > 2 {
                            put(&mut events, at + delay / 2, Event::Answer(upstream, truth));
                        }
                    }
                }
            }
        }

        for (n, (fate, (asked, _, v6))) in fates.iter().zip(&asks).enumerate() {
            prop_assert_eq!(fate.answers.len(), 1, "question {} {:?}", n, fate);
            let (at, code, given) = &fate.answers[0];
            let took = *at - ms(*asked);
            let resource = fate.host == WIKI || fate.host.ends_with("deep.example");
            if resource {
                prop_assert!(took <= ms(1000));
                prop_assert_eq!(*code, ResponseCode::NoError);
                let kind = if *v6 { RecordType::AAAA } else { RecordType::A };
                prop_assert!(given.is_empty() || *given == [bench.mapped(&fate.host, kind)]);
                prop_assert!(*v6 || !given.is_empty(), "every outcome here has IPv4");
            } else {
                prop_assert!(took <= ms(1500 * 2 * u64::from(servers)));
                prop_assert!(given.is_empty() == (*code == ResponseCode::ServFail));
            }
        }
        prop_assert_eq!(bench.stub.waiting(), (0, 0));
    }

    #[test]
    fn no_conversation_breaks_it(input in proptest::collection::vec(any::<u8>(), 0..400)) {
        crate::fuzz_stub(&input);
    }

    #[test]
    fn no_damage_to_real_messages_breaks_it(
        at in 0usize..60, byte in any::<u8>(), cut in 0usize..60, resource in any::<bool>(),
    ) {
        let host = if resource { WIKI } else { "www.example.org" };
        let mut bytes = question(1, host, RecordType::A);
        let mut damaged = reply(&bytes, vec![address("198.51.100.7")]);
        for message in [&mut bytes, &mut damaged] {
            if let Some(place) = message.get_mut(at) {
                *place = byte;
            }
            message.truncate(message.len().saturating_sub(cut / 20));
        }
        let mut conversation = vec![0, bytes.len() as u8];
        conversation.extend(&bytes);
        conversation.extend([3, damaged.len() as u8]);
        conversation.extend(&damaged);
        conversation.extend([7, 255, 7, 255]);
        crate::fuzz_stub(&conversation);
    }
}

#[derive(Debug)]
enum Event {
    Ask(u16, Vec<u8>),
    Answer(SocketAddr, Vec<u8>),
    Outcome(String, AccessOutcome),
}

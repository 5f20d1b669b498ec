//! The client's stub resolver: answers for resources, passes everything else on.
//!
//! A question about a resource is held until it is known whether the resource may be reached, and is answered with
//! mapped addresses in any case: a denied connection is then refused at once by the tunnel, with a reason that `status`
//! shows, where "no such name" would be a riddle. Names of resources never go to a server outside.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RecordType;

use crate::answer::{NoQuestion, Question, claims};
use crate::held::{Held, Hold};
use crate::mapped::{Mapped, MappedAddresses};
use crate::name::Name;
use crate::pattern::{Pattern, Patterns};
use crate::upstream::{Passed, Retry, Upstreams};

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    /// One message a datagram, cut off when it is too long.
    Udp,
    /// Messages of any length.
    Tcp,
}

/// Who asked, and how the answer gets there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// By datagram.
    Udp(SocketAddr),
    /// Over the TCP connection of this number.
    Tcp(u64),
}

impl Asker {
    /// How it asked.
    pub fn transport(&self) -> Transport {
        match self {
            Self::Udp(_) => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }
}

/// What is known about reaching a resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessOutcome {
    /// It may be reached.
    Granted {
        /// The real name has an IPv4 address.
        has_v4: bool,
        /// The real name has an IPv6 address.
        has_v6: bool,
    },
    /// It may not.
    Denied,
    /// Nobody can be asked at the moment.
    Offline,
}

/// What the machine wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output<K> {
    /// Send this answer.
    Answer {
        /// To whom.
        to: Asker,
        /// The message.
        bytes: Vec<u8>,
    },
    /// Find out whether the resource may be reached, and tell with [`Stub::handle_access`].
    AskAccess {
        /// The resource.
        resource: K,
        /// The name that was asked for.
        name: Name,
        /// The addresses that stand for it.
        mapped: Mapped,
    },
    /// Pass this question on, and hand the answer to [`Stub::handle_answer`], or a failure to [`Stub::handle_failure`].
    Forward {
        /// The server.
        upstream: SocketAddr,
        /// How.
        transport: Transport,
        /// The message.
        bytes: Vec<u8>,
        /// Names this question for a failure: the id that its message carries.
        id: u16,
    },
}

macro_rules! drops {
    ($($(#[$doc:meta])* $name:ident $field:ident,)+) => {
        /// Why something was not handled.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum StubDrop { $($(#[$doc])* $name,)+ }

        /// What was not handled, by reason.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct StubDrops { $($(#[$doc])* pub $field: u64,)+ }

        impl StubDrops {
            fn count(&mut self, reason: StubDrop) {
                match reason { $(StubDrop::$name => self.$field += 1,)+ }
            }

            /// Every reason in `snake_case` with its count.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((concat!("dns_", stringify!($field)), self.$field),)+].into_iter()
            }
        }
    };
}

drops! {
    /// Too short for a message, or an answer where a question is expected. Not answered.
    Ignored ignored,
    /// No question that can be answered. Its sender was told.
    Malformed malformed,
    /// Too many questions on their way, or no server to pass them to. Answered "server failure".
    NotPassed not_passed,
    /// No server answered in time. Answered "server failure".
    Unanswered unanswered,
    /// An answer to no question, or from another than was asked: forged, or late.
    Unasked unasked,
    /// A server's answer that does not parse. Answered "server failure".
    BadAnswer bad_answer,
    /// A server's answer that claims addresses of ours. Answered "server failure".
    Rebinding rebinding,
    /// More names than there are mapped addresses. Answered "server failure".
    NoAddress no_address,
    /// More questions than can wait: answered without waiting.
    NotHeld not_held,
}

/// What the machine is made with.
#[derive(Clone, Debug)]
pub struct StubConfig {
    /// The host's own DNS servers, in order.
    pub upstreams: Vec<SocketAddr>,
    /// From the system's randomness.
    pub seed: u64,
    /// How long a question waits for the outcome of its access request.
    pub patience: Duration,
    /// How long others may keep an answer of ours.
    pub ttl: u32,
}

impl StubConfig {
    /// With the usual times: 1 s and 30 s.
    pub fn new(upstreams: Vec<SocketAddr>, seed: u64) -> Self {
        Self { upstreams, seed, patience: Duration::from_secs(1), ttl: 30 }
    }
}

/// The machine. `K` names a resource.
#[derive(Debug)]
pub struct Stub<K> {
    resources: Patterns<K>,
    held: Held,
    upstreams: Upstreams,
    patience: Duration,
    ttl: u32,
    outputs: VecDeque<Output<K>>,
    drops: StubDrops,
}

impl<K: Clone> Stub<K> {
    /// A resolver that knows no resource yet.
    pub fn new(config: StubConfig) -> Self {
        Self {
            resources: Patterns::default(),
            held: Held::default(),
            upstreams: Upstreams::new(config.upstreams, config.seed),
            patience: config.patience,
            ttl: config.ttl,
            outputs: VecDeque::new(),
            drops: StubDrops::default(),
        }
    }

    /// The names that are resources from now on.
    pub fn set_resources(&mut self, resources: impl IntoIterator<Item = (Pattern, K)>) {
        self.resources = resources.into_iter().collect();
        self.held.forget_outcomes();
    }

    /// The servers that other questions are passed to from now on.
    pub fn set_upstreams(&mut self, upstreams: Vec<SocketAddr>) {
        self.upstreams.set_servers(upstreams);
    }

    /// What was not handled so far.
    pub fn drops(&self) -> StubDrops {
        self.drops
    }

    /// Questions that wait for an outcome, and questions on their way to a server.
    pub fn waiting(&self) -> (usize, usize) {
        (self.held.len(), self.upstreams.len())
    }

    /// Takes a question. `mapped` is kept by the caller, so that it outlives this machine.
    pub fn handle_query(&mut self, bytes: &[u8], from: Asker, now: Duration, mapped: &mut MappedAddresses) {
        let question = match Question::parse(bytes) {
            Ok(question) => question,
            Err(NoQuestion::Ignored) => return self.drops.count(StubDrop::Ignored),
            Err(NoQuestion::Refused(bytes)) => {
                self.drops.count(StubDrop::Malformed);
                return self.outputs.push_back(Output::Answer { to: from, bytes });
            }
        };
        if let Some(address) = question.reverse().filter(|address| mapped.ranges().contains(*address)) {
            let bytes = question.pointer(mapped.name_of(address), self.ttl);
            return self.outputs.push_back(Output::Answer { to: from, bytes });
        }
        let resource =
            question.name.as_ref().and_then(|name| Some((name.clone(), self.resources.find(name)?.clone())));
        match resource {
            Some((name, resource)) => self.answer_for(resource, &name, question, from, now, mapped),
            None => self.pass(question, bytes, from, now),
        }
    }

    fn answer_for(
        &mut self,
        resource: K,
        name: &Name,
        question: Question,
        from: Asker,
        now: Duration,
        mapped: &mut MappedAddresses,
    ) {
        if !question.is_internet() || !matches!(question.kind(), RecordType::A | RecordType::AAAA) {
            let bytes = question.addresses(&[], self.ttl);
            return self.outputs.push_back(Output::Answer { to: from, bytes });
        }
        let Ok(addresses) = mapped.of(name, now) else {
            self.drops.count(StubDrop::NoAddress);
            let bytes = question.code(ResponseCode::ServFail);
            return self.outputs.push_back(Output::Answer { to: from, bytes });
        };
        match self.held.hold(name, from, question, self.patience, now) {
            Hold::Waits { first: false } => {}
            Hold::Waits { first: true } => {
                self.outputs.push_back(Output::AskAccess { resource, name: name.clone(), mapped: addresses });
            }
            Hold::Answer(question, outcome) => {
                if outcome.is_none() {
                    self.drops.count(StubDrop::NotHeld);
                }
                self.answer_mapped(from, &question, addresses, outcome);
            }
        }
    }

    fn answer_mapped(
        &mut self,
        to: Asker,
        question: &Question,
        mapped: Mapped,
        outcome: Option<AccessOutcome>,
    ) {
        let (v4, v6) = match outcome {
            Some(AccessOutcome::Granted { has_v4, has_v6 }) => (has_v4, has_v6),
            // Whoever connects is refused by the tunnel at once, or waits there for the grant.
            Some(AccessOutcome::Denied | AccessOutcome::Offline) | None => (true, true),
        };
        let address = match question.kind() {
            RecordType::A => v4.then_some(IpAddr::V4(mapped.v4)),
            _ => v6.then_some(IpAddr::V6(mapped.v6)),
        };
        let bytes = question.addresses(address.as_slice(), self.ttl);
        self.outputs.push_back(Output::Answer { to, bytes });
    }

    fn pass(&mut self, question: Question, bytes: &[u8], from: Asker, now: Duration) {
        if self.upstreams.is_waiting(&from, &question) {
            return;
        }
        match self.upstreams.pass(from, question, bytes, now) {
            Ok(id) => self.forward(id),
            Err(question) => {
                self.drops.count(StubDrop::NotPassed);
                let bytes = question.code(ResponseCode::ServFail);
                self.outputs.push_back(Output::Answer { to: from, bytes });
            }
        }
    }

    fn forward(&mut self, id: u16) {
        if let Some(passed) = self.upstreams.get(id) {
            let Passed { upstream, transport, bytes, .. } = passed;
            let (upstream, transport, bytes) = (*upstream, *transport, bytes.clone());
            self.outputs.push_back(Output::Forward { upstream, transport, bytes, id });
        }
    }

    /// Takes the outcome of an access request for `name`, or news about it.
    pub fn handle_access(
        &mut self,
        name: &Name,
        outcome: AccessOutcome,
        now: Duration,
        mapped: &mut MappedAddresses,
    ) {
        let waiting = self.held.decided(name, outcome, now);
        self.release(name, waiting, Some(outcome), now, mapped);
    }

    /// The outcome for `name` no longer holds: the next question asks again.
    pub fn forget_access(&mut self, name: &Name) {
        self.held.forget(name);
    }

    fn release(
        &mut self,
        name: &Name,
        waiting: Vec<(Asker, Question)>,
        outcome: Option<AccessOutcome>,
        now: Duration,
        mapped: &mut MappedAddresses,
    ) {
        for (asker, question) in waiting {
            match mapped.of(name, now) {
                Ok(addresses) => self.answer_mapped(asker, &question, addresses, outcome),
                Err(_) => {
                    self.drops.count(StubDrop::NoAddress);
                    let bytes = question.code(ResponseCode::ServFail);
                    self.outputs.push_back(Output::Answer { to: asker, bytes });
                }
            }
        }
    }

    /// Takes what a server sent.
    pub fn handle_answer(
        &mut self,
        upstream: SocketAddr,
        transport: Transport,
        bytes: &[u8],
        mapped: &MappedAddresses,
    ) {
        let Some(id) = bytes.first_chunk::<2>().map(|id| u16::from_be_bytes(*id)) else {
            return self.drops.count(StubDrop::Unasked);
        };
        let Some(passed) = self.upstreams.answered(id, upstream, transport) else {
            return self.drops.count(StubDrop::Unasked);
        };
        let (asker, question) = (passed.asker, &passed.question);
        let reply = match Message::from_vec(bytes) {
            Ok(answer) if !question.is_answered_by(&answer) => {
                // Another question's: whoever sent it does not know ours, so the true answer may still come.
                self.drops.count(StubDrop::Unasked);
                return self.upstreams.put_back(id, passed);
            }
            Ok(answer) if claims(&answer, &mapped.ranges()) => {
                self.drops.count(StubDrop::Rebinding);
                question.code(ResponseCode::ServFail)
            }
            Ok(_) if transport == Transport::Udp && bytes.len() > question.payload => question.truncated(),
            Ok(_) => {
                let mut bytes = bytes.to_vec();
                if let Some(place) = bytes.first_chunk_mut::<2>() {
                    *place = question.id.to_be_bytes();
                }
                bytes
            }
            Err(_) => {
                self.drops.count(StubDrop::BadAnswer);
                question.code(ResponseCode::ServFail)
            }
        };
        self.outputs.push_back(Output::Answer { to: asker, bytes: reply });
    }

    /// The question of this id cannot be asked there (refused, unreachable): the next server is asked at once.
    pub fn handle_failure(&mut self, id: u16, now: Duration) {
        if let Some(retry) = self.upstreams.retry(id, now) {
            self.retried(retry);
        }
    }

    fn retried(&mut self, retry: Retry) {
        match retry {
            Retry::Ask(id) => self.forward(id),
            Retry::GiveUp(passed) => {
                self.drops.count(StubDrop::Unanswered);
                let bytes = passed.question.code(ResponseCode::ServFail);
                self.outputs.push_back(Output::Answer { to: passed.asker, bytes });
            }
        }
    }

    /// What is to be done next.
    pub fn poll_output(&mut self) -> Option<Output<K>> {
        self.outputs.pop_front()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        [self.held.deadline(), self.upstreams.deadline()].into_iter().flatten().min()
    }

    /// Answers what waited too long, asks other servers.
    pub fn handle_timeout(&mut self, now: Duration, mapped: &mut MappedAddresses) {
        for (name, waiting) in self.held.overdue(now) {
            self.release(&name, waiting, None, now, mapped);
        }
        for retry in self.upstreams.overdue(now) {
            self.retried(retry);
        }
    }
}

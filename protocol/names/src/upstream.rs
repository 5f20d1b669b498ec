//! Questions that were passed on to the host's own DNS servers, and how their answers find back.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crate::answer::Question;
use crate::stub::{Asker, Transport};

/// Questions on their way. More than a desktop ever has; a program that asks without end hits it first.
const LIMIT: usize = 512;
/// How long one server may take before the next is asked.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Rounds over all servers.
const ROUNDS: usize = 2;

/// A question on its way.
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) asker: Asker,
    pub(crate) question: Question,
    pub(crate) bytes: Vec<u8>,
    pub(crate) upstream: SocketAddr,
    pub(crate) transport: Transport,
    tries: usize,
    deadline: Duration,
}

/// All questions on their way, by the id that they were passed on with.
#[derive(Debug)]
pub(crate) struct Upstreams {
    servers: Vec<SocketAddr>,
    passed: BTreeMap<u16, Passed>,
    random: u64,
    /// The server that answered last: the others are asked only when it does not.
    preferred: usize,
}

/// What to do about a question whose server stays silent.
#[derive(Debug)]
pub(crate) enum Retry {
    /// Ask this server, with this id.
    Ask(u16),
    /// Nobody answered.
    GiveUp(Box<Passed>),
}

impl Upstreams {
    pub(crate) fn new(servers: Vec<SocketAddr>, seed: u64) -> Self {
        Self { servers, passed: BTreeMap::new(), random: seed, preferred: 0 }
    }

    pub(crate) fn set_servers(&mut self, servers: Vec<SocketAddr>) {
        if servers != self.servers {
            self.preferred = 0;
            self.servers = servers;
        }
    }

    /// Takes a question, or gives it back when there are too many or nobody to ask.
    pub(crate) fn pass(
        &mut self,
        asker: Asker,
        question: Question,
        bytes: &[u8],
        now: Duration,
    ) -> Result<u16, Question> {
        if self.passed.len() >= LIMIT || self.servers.is_empty() {
            return Err(question);
        }
        let Some(upstream) = self.server(0) else { return Err(question) };
        let id = self.fresh_id();
        let mut bytes = bytes.to_vec();
        if let Some(place) = bytes.first_chunk_mut::<2>() {
            *place = id.to_be_bytes();
        }
        let transport = asker.transport();
        let deadline = now + PATIENCE;
        self.passed.insert(id, Passed { asker, question, bytes, upstream, transport, tries: 1, deadline });
        Ok(id)
    }

    pub(crate) fn get(&self, id: u16) -> Option<&Passed> {
        self.passed.get(&id)
    }

    /// Whether the same asker is already waiting for the same question: it asks again, as resolvers do.
    pub(crate) fn is_waiting(&self, asker: &Asker, question: &Question) -> bool {
        self.passed.values().any(|passed| {
            passed.asker == *asker
                && passed.question.id == question.id
                && passed.question.query == question.query
        })
    }

    /// Takes the question out that `id` from `upstream` answers.
    pub(crate) fn answered(&mut self, id: u16, upstream: SocketAddr, transport: Transport) -> Option<Passed> {
        let passed = self.passed.get(&id)?;
        if passed.upstream != upstream || passed.transport != transport {
            return None;
        }
        if let Some(place) = self.servers.iter().position(|server| *server == upstream) {
            self.preferred = place;
        }
        self.passed.remove(&id)
    }

    /// Puts a question back that was answered by something else than an answer.
    pub(crate) fn put_back(&mut self, id: u16, passed: Passed) {
        self.passed.insert(id, passed);
    }

    /// The next deadline.
    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.passed.values().map(|passed| passed.deadline).min()
    }

    /// The questions whose time is up.
    pub(crate) fn overdue(&mut self, now: Duration) -> Vec<Retry> {
        let overdue: Vec<u16> =
            self.passed.iter().filter(|(_, passed)| passed.deadline <= now).map(|(id, _)| *id).collect();
        overdue.into_iter().filter_map(|id| self.retry(id, now)).collect()
    }

    /// Asks the next server with a fresh id, so that a late answer of the first is not mistaken for its.
    pub(crate) fn retry(&mut self, id: u16, now: Duration) -> Option<Retry> {
        let mut passed = self.passed.remove(&id)?;
        let next = self.server(passed.tries);
        let (Some(upstream), true) = (next, passed.tries < ROUNDS * self.servers.len()) else {
            return Some(Retry::GiveUp(Box::new(passed)));
        };
        let id = self.fresh_id();
        if let Some(place) = passed.bytes.first_chunk_mut::<2>() {
            *place = id.to_be_bytes();
        }
        passed.upstream = upstream;
        passed.tries += 1;
        passed.deadline = now + PATIENCE;
        self.passed.insert(id, passed);
        Some(Retry::Ask(id))
    }

    pub(crate) fn len(&self) -> usize {
        self.passed.len()
    }

    fn server(&self, tried: usize) -> Option<SocketAddr> {
        let count = self.servers.len().max(1);
        self.servers.get((self.preferred + tried) % count).copied()
    }

    /// SplitMix64 over a secret seed: nobody outside sees its outputs but the servers that are asked.
    fn fresh_id(&mut self) -> u16 {
        loop {
            self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            let id = ((mixed ^ (mixed >> 31)) >> 16) as u16;
            if !self.passed.contains_key(&id) {
                return id;
            }
        }
    }
}

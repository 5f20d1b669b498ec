//! Asks one DNS server for the addresses of names.
//!
//! - Parent: [`Resolvers`](crate::Resolvers), one child for each server, restarted alone.
//! - Core: a bounded cache by time to live.
//! - When it dies: questions on their way go unanswered here, and the next server is asked; its cache is filled anew.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Reply};
use hickory_proto::rr::RecordType;
use protocol_names::Name;
use tokio::time::Instant;

use crate::lookup::{self, Found, LookupError};

/// Names that are remembered.
const REMEMBERED: usize = 4096;
/// Questions on their way.
const ON_THEIR_WAY: usize = 256;
/// Shorter times to live would let a server make us ask all the time.
const LEAST: Duration = Duration::from_secs(5);
/// Longer ones would keep an address after the name has moved.
const MOST: Duration = Duration::from_secs(300);

/// The real addresses of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// IPv4 first; empty when the name has none.
    pub addresses: Vec<IpAddr>,
    /// How long that may be believed.
    pub ttl: Duration,
}

/// Why a name has no addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The DNS says that there is no such name.
    #[error("there is no such name")]
    NoSuchName,
    /// No server gave a useful answer.
    #[error("no DNS server answered")]
    Unanswered,
    /// The host has no DNS server.
    #[error("the host has no DNS server")]
    NoServer,
}

/// What a [`Resolver`] can be told.
#[derive(Debug)]
pub enum ResolverCommand {
    /// Finds the addresses of a name.
    Query {
        /// The name.
        name: Name,
        /// Hears them. No answer at all means that the actor fell over it: the next server is to be asked.
        done: Reply<Result<Resolved, ResolveError>>,
    },
}

/// The asker of one server.
pub struct Resolver {
    server: SocketAddr,
    mark: Option<u32>,
    known: BTreeMap<Name, (Result<Resolved, ResolveError>, Instant)>,
    asking: BTreeMap<Name, Vec<Reply<Result<Resolved, ResolveError>>>>,
}

impl Resolver {
    /// Asks `server` from sockets with `mark`.
    pub fn new(server: SocketAddr, mark: Option<u32>) -> Self {
        Self { server, mark, known: BTreeMap::new(), asking: BTreeMap::new() }
    }

    fn remember(&mut self, name: &Name, result: &Result<Resolved, ResolveError>, now: Instant) {
        let lives = match result {
            Ok(resolved) => resolved.ttl,
            Err(ResolveError::NoSuchName) => LEAST,
            // Not the server's word, so not to be believed for any time.
            Err(ResolveError::Unanswered | ResolveError::NoServer) => return,
        };
        if self.known.len() >= REMEMBERED {
            self.known.retain(|_, (_, until)| now < *until);
        }
        if self.known.len() < REMEMBERED {
            self.known.insert(name.clone(), (result.clone(), now + lives));
        }
    }
}

impl Actor for Resolver {
    const KIND: &'static str = "Resolver";
    type Command = ResolverCommand;
    type Packets = Never;

    fn told(&mut self, ResolverCommand::Query { name, done }: ResolverCommand, cx: &mut Cx<Self>) {
        if let Some((result, until)) = self.known.get(&name)
            && cx.now() < *until
        {
            return done.send(result.clone());
        }
        if let Some(askers) = self.asking.get_mut(&name) {
            return askers.push(done);
        }
        if self.asking.len() >= ON_THEIR_WAY {
            return done.send(Err(ResolveError::Unanswered));
        }
        self.asking.insert(name.clone(), vec![done]);
        let (server, mark, asked) = (self.server, self.mark, name.clone());
        let work = async move {
            let v4 = lookup::ask(server, mark, &asked, RecordType::A);
            let v6 = lookup::ask(server, mark, &asked, RecordType::AAAA);
            combine(futures_util::future::join(v4, v6).await)
        };
        cx.spawn(work, move |actor, result, cx| {
            actor.remember(&name, &result, cx.now());
            for asker in actor.asking.remove(&name).unwrap_or_default() {
                asker.send(result.clone());
            }
        });
    }
}

/// One family is enough: some servers never answer for the other.
fn combine(
    families: (Result<Found, LookupError>, Result<Found, LookupError>),
) -> Result<Resolved, ResolveError> {
    let (v4, v6) = (families.0.ok(), families.1.ok());
    if v4.is_none() && v6.is_none() {
        return Err(ResolveError::Unanswered);
    }
    let found: Vec<Found> = v4.into_iter().chain(v6).collect();
    if found.iter().all(|found| found.no_such_name) {
        return Err(ResolveError::NoSuchName);
    }
    let ttl = found.iter().filter_map(|found| found.ttl).min();
    let ttl = ttl.map_or(LEAST, |seconds| Duration::from_secs(u64::from(seconds)).clamp(LEAST, MOST));
    Ok(Resolved { addresses: found.into_iter().flat_map(|found| found.addresses).collect(), ttl })
}

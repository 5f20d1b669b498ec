//! Writes to storage, one after the other but many on one way to the disk, and tells followers what was committed.
//!
//! - Parent: none; one for each process.
//! - Core: [`Storage`], behind one trait.
//! - When it dies: a write that was under way is committed or not; its asker gets no answer and asks again. Followers notice
//!   a gap in the sequence and read everything anew. Nothing acknowledged is lost.
//!
//! Told by: the API, offices, the audit log. Tells: offices, the [`Directory`], the [`RelayRegistry`]. Reads go to
//! [`Storage`] directly and do not queue here.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Rejected, Reply};
use protocol_identity::AccountId;

use crate::directory::{self, Directory};
use crate::grant_office::{self, GrantOffice};
use crate::keys;
use crate::relay_registry::{self, RelayRegistry};
use crate::storage::{Committed, Storage, StorageError, Write};

/// Writes that may wait; more are refused, and their askers told that storage is busy.
const MOST_WAITING: usize = 1024;
/// Changes that go to the disk together: one way there takes milliseconds, however much is carried.
const MOST_TOGETHER: usize = 64;
/// Their steps.
const MOST_OPS_TOGETHER: usize = 512;
/// Commits that one follower may be behind before it misses some, notices the gap, and reads everything.
const MOST_BEHIND: usize = 1024;
/// A follower that had no room is told again after this long.
const TELL_AGAIN: Duration = Duration::from_millis(20);

/// The answer to a write.
pub type Written = Result<Arc<Committed>, StorageError>;

/// What the store can be told.
pub enum Command {
    /// Write this.
    Write {
        /// What.
        write: Write,
        /// Who wants to know.
        reply: Option<Reply<Written>>,
    },
}

/// Who is told of commits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Follower {
    Office(String),
    Directory,
    Relays,
}

/// Writes to storage.
pub struct Store {
    storage: Arc<dyn Storage>,
    waiting: VecDeque<(Write, Option<Reply<Written>>)>,
    writing: bool,
    followers: BTreeMap<Follower, VecDeque<Arc<Committed>>>,
}

impl Store {
    /// A store that tells the offices of these accounts.
    pub fn new(storage: Arc<dyn Storage>, accounts: &[(AccountId, String)]) -> Self {
        let offices = accounts.iter().map(|(_, name)| Follower::Office(name.clone()));
        let followers = offices.chain([Follower::Directory, Follower::Relays]);
        Self {
            storage,
            waiting: VecDeque::new(),
            writing: false,
            followers: followers.map(|follower| (follower, VecDeque::new())).collect(),
        }
    }

    fn next(&mut self, cx: &mut Cx<Self>) {
        if self.writing {
            return;
        }
        let (mut writes, mut replies, mut ops) = (Vec::new(), Vec::new(), 0);
        while let Some((write, _)) = self.waiting.front() {
            ops += write.ops.len();
            if !writes.is_empty() && (writes.len() >= MOST_TOGETHER || ops > MOST_OPS_TOGETHER) {
                break;
            }
            let Some((write, reply)) = self.waiting.pop_front() else { break };
            writes.push(write);
            replies.push(reply);
        }
        if writes.is_empty() {
            return;
        }
        self.writing = true;
        let storage = Arc::clone(&self.storage);
        cx.spawn(async move { storage.commit_all(writes).await }, move |store, results, cx| {
            store.writing = false;
            match results {
                Ok(results) => {
                    for (result, reply) in results.into_iter().zip(replies) {
                        store.written(result, reply, cx);
                    }
                }
                Err(error) => {
                    for reply in replies {
                        store.written(Err(error.shared()), reply, cx);
                    }
                    if matches!(error, StorageError::Away(_)) {
                        store.refuse_all();
                    }
                }
            }
            store.next(cx);
        });
    }

    fn written(
        &mut self,
        result: Result<Committed, StorageError>,
        reply: Option<Reply<Written>>,
        cx: &mut Cx<Self>,
    ) {
        let result = result.map(Arc::new);
        if let Ok(committed) = &result {
            self.publish(committed, cx);
        } else if let (Err(error), None) = (&result, &reply) {
            tracing::error!(error = %with_cause(error), "a change could not be written");
        }
        // Followers are told first: whoever gets the answer may rely on it.
        if let Some(reply) = reply {
            reply.send(result);
        }
    }

    /// The database is away: who waits learns it now, and not one after the other.
    fn refuse_all(&mut self) {
        for (_, reply) in self.waiting.drain(..) {
            if let Some(reply) = reply {
                reply.send(Err(StorageError::Away(sqlx::Error::PoolTimedOut)));
            }
        }
    }

    fn publish(&mut self, committed: &Arc<Committed>, cx: &mut Cx<Self>) {
        for (follower, behind) in &mut self.followers {
            // One that is too far behind misses the oldest, not the newest: so it finds the gap whatever comes after.
            if behind.len() >= MOST_BEHIND {
                behind.pop_front();
            }
            behind.push_back(Arc::clone(committed));
            tell(follower, behind, cx);
        }
        self.tell_again(cx);
    }

    fn tell_again(&self, cx: &mut Cx<Self>) {
        if self.followers.values().any(|behind| !behind.is_empty()) {
            cx.wake_after(TELL_AGAIN);
        }
    }
}

/// Tells one follower what it has not heard, as far as it has room.
fn tell(follower: &Follower, behind: &mut VecDeque<Arc<Committed>>, cx: &Cx<Store>) {
    while let Some(committed) = behind.front().map(Arc::clone) {
        let full = match follower {
            Follower::Office(name) => {
                let told = cx.address_of::<GrantOffice>(name).tell(grant_office::Command::Changed(committed));
                matches!(told, Err(Rejected::Full(_)))
            }
            Follower::Directory => {
                let told =
                    cx.address_of::<Directory>(keys::ONLY).tell(directory::Command::Changed(committed));
                matches!(told, Err(Rejected::Full(_)))
            }
            Follower::Relays => {
                let told = cx
                    .address_of::<RelayRegistry>(keys::ONLY)
                    .tell(relay_registry::Command::Changed(committed));
                matches!(told, Err(Rejected::Full(_)))
            }
        };
        if full {
            return;
        }
        behind.pop_front();
    }
}

/// An error with its causes, on one line.
pub fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

impl Actor for Store {
    const KIND: &'static str = "Store";
    type Command = Command;
    type Packets = Never;

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        let Command::Write { write, reply } = command;
        if self.waiting.len() >= MOST_WAITING {
            cx.count_drop("store_full", 1);
            if let Some(reply) = reply {
                reply.send(Err(StorageError::Busy));
            }
            return;
        }
        self.waiting.push_back((write, reply));
        self.next(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        for (follower, behind) in &mut self.followers {
            tell(follower, behind, cx);
        }
        self.tell_again(cx);
    }
}

//! Facts that change nothing but are kept: refused sign-ins, uses of tokens. And the length of the log.
//!
//! - Parent: none; one for each process.
//! - Core: two small buffers.
//! - When it dies: facts of the last half second are lost. Changes are not its business: each is in the log in its own
//!   transaction.
//!
//! Told by: the API and the socket handler. Tells: the [`Store`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Reply};
use protocol_identity::{AccountId, TokenId};
use tokio::time::Instant;

use crate::clock::Clock;
use crate::keys;
use crate::storage::{Note, Op, Storage, Write};
use crate::store::{self, Store};

/// Facts are written together, this long after the first.
const GATHER: Duration = Duration::from_millis(500);
/// Facts of one account that wait to be written; more are dropped and counted, so that an attacker cannot fill the disk.
const MOST: usize = 64;
/// Ends of sessions that wait to be written: every node may go at once.
const MOST_ENDS: usize = 65_536;
/// Ends of sessions in one transaction.
const ENDS_AT_ONCE: usize = 256;
/// The log is kept this long, in rows.
const KEEP_ROWS: u64 = 500_000;
/// How often its length is looked at.
const TRIM_EVERY: Duration = Duration::from_secs(3600);

/// What the log can be told.
#[derive(Debug)]
pub enum Command {
    /// Something happened; who did it, and what.
    Note(AccountId, String, Note),
    /// A token was used.
    Used(AccountId, TokenId),
    /// A node's session ended. Only those who signed in can make these.
    SessionEnded(AccountId, String, Note),
}

/// The audit log.
pub struct AuditLog {
    storage: Arc<dyn Storage>,
    clock: Clock,
    notes: BTreeMap<(AccountId, String), Vec<Note>>,
    ends: Vec<(AccountId, String, Note)>,
    used: BTreeMap<AccountId, BTreeSet<TokenId>>,
    trim_at: Option<Instant>,
}

impl AuditLog {
    /// Nothing yet.
    pub fn new(storage: Arc<dyn Storage>, clock: Clock) -> Self {
        Self {
            storage,
            clock,
            notes: BTreeMap::new(),
            ends: Vec::new(),
            used: BTreeMap::new(),
            trim_at: None,
        }
    }

    fn flush(&mut self, cx: &mut Cx<Self>) {
        let at = self.clock.now();
        self.write_ends(cx);
        for ((account, by), notes) in std::mem::take(&mut self.notes) {
            let ops = notes.into_iter().map(Op::Note).collect();
            let write = Write { account, by, at, ops };
            let store = cx.address_of::<Store>(keys::ONLY);
            if store.tell(store::Command::Write { write, reply: None }).is_err() {
                cx.count_drop("audit_store_full", 1);
            }
        }
        for (account, tokens) in std::mem::take(&mut self.used) {
            let storage = Arc::clone(&self.storage);
            cx.spawn(async move { storage.touch(account, tokens, at).await }, |_, result, _| {
                if let Err(error) = result {
                    tracing::debug!(%error, "the use of a token could not be noted");
                }
            });
        }
    }

    /// Writes the ends of sessions, many in one transaction: every node may have gone at once. What the store does not
    /// take is written later.
    fn write_ends(&mut self, cx: &mut Cx<Self>) {
        let at = self.clock.now();
        let mut accounts = BTreeMap::<AccountId, Vec<(String, Note)>>::new();
        for (account, by, note) in std::mem::take(&mut self.ends) {
            accounts.entry(account).or_default().push((by, note));
        }
        for (account, ends) in accounts {
            for ends in ends.chunks(ENDS_AT_ONCE).map(<[_]>::to_vec) {
                let ops = ends.iter().map(|(by, note)| Op::NoteOf(by.clone(), note.clone())).collect();
                let write = Write { account, by: "control".into(), at, ops };
                let (reply, answer) = Reply::channel();
                let store = cx.address_of::<Store>(keys::ONLY);
                // A store that has no room drops the reply, and the answer says so.
                let _ = store.tell(store::Command::Write { write, reply: Some(reply) });
                cx.spawn(answer, move |log, result, cx| {
                    if !matches!(result, Ok(Ok(_))) {
                        log.keep_ends(account, ends, cx);
                    }
                });
            }
        }
    }

    /// Ends that could not be written are kept for the next time.
    fn keep_ends(&mut self, account: AccountId, ends: Vec<(String, Note)>, cx: &mut Cx<Self>) {
        let room = MOST_ENDS.saturating_sub(self.ends.len());
        let lost = ends.len().saturating_sub(room);
        if lost > 0 {
            cx.count_drop("audit_full", lost as u64);
        }
        self.ends.extend(ends.into_iter().take(room).map(|(by, note)| (account, by, note)));
        self.wake_soon(cx);
    }

    fn wake_soon(&self, cx: &mut Cx<Self>) {
        let soon = cx.now() + GATHER;
        if cx.wakes_at().is_none_or(|at| at > soon) {
            cx.wake_at(soon);
        }
    }

    fn trim(&mut self, cx: &mut Cx<Self>) {
        let storage = Arc::clone(&self.storage);
        cx.spawn(async move { storage.trim_log(KEEP_ROWS).await }, |_, result, _| match result {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "old rows of the audit log were removed"),
            Err(error) => tracing::warn!(%error, "the audit log could not be shortened"),
        });
    }
}

impl Actor for AuditLog {
    const KIND: &'static str = "AuditLog";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.trim_at = Some(cx.now() + TRIM_EVERY);
        cx.wake_after(TRIM_EVERY);
        self.trim(cx);
    }

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            Command::Note(account, by, note) => {
                let waiting: usize = self.notes.values().map(Vec::len).sum();
                if waiting >= MOST {
                    return cx.count_drop("audit_full", 1);
                }
                self.notes.entry((account, by)).or_default().push(note);
            }
            Command::SessionEnded(account, by, note) => {
                if self.ends.len() >= MOST_ENDS {
                    return cx.count_drop("audit_full", 1);
                }
                self.ends.push((account, by, note));
            }
            Command::Used(account, token) => {
                self.used.entry(account).or_default().insert(token);
            }
        }
        self.wake_soon(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.flush(cx);
        let now = cx.now();
        let due = self.trim_at.is_none_or(|at| at <= now);
        if due {
            self.trim(cx);
            self.trim_at = Some(now + TRIM_EVERY);
        }
        cx.wake_at(self.trim_at.unwrap_or(now + TRIM_EVERY));
    }
}

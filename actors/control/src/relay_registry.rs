//! The relays: which are there, and the credentials for them.
//!
//! - Parent: none; one for each process.
//! - Core: [`Relays`], a value that offices get whenever something changes.
//! - When it dies: its book survives; nobody notices.
//!
//! Told by: the [`Directory`](crate::directory::Directory)'s sessions ([`Command::Attach`], [`Command::Draining`]) and itself
//! ([`Command::Detach`]), the [`Store`](crate::store::Store) ([`Command::Changed`]), offices that start ([`Command::Tell`]).
//! Tells: offices. A relay's secret is in this process's memory only; the relay says it at each hello.

mod relays;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Reply};
use protocol_control::{RelayTls, Secret};
use protocol_identity::{AccountId, RelayId};
use protocol_stun::RelaySecret;
use tokio::time::Instant;

use crate::device_session::Node;
use crate::directory::{self, Directory};
use crate::grant_office::{self, GrantOffice};
use crate::keys;
use crate::model::{Kind, Object, Relay};
use crate::storage::{Action, Committed, Storage, list};
pub(crate) use relays::KnownRelay;
pub use relays::Relays;

/// A relay whose session is down goes on working, and is offered for this long to nodes that hold allocations there.
const KEPT_FOR: Duration = Duration::from_secs(600);

/// A relay that said hello.
#[derive(Debug, Clone)]
pub struct Introduced {
    /// Its account.
    pub account: AccountId,
    /// As it is stored.
    pub relay: Relay,
    /// Where it listens for TLS.
    pub tls: Option<RelayTls>,
    /// What its credentials are made from.
    pub secret: Secret,
    /// Tells its session from others.
    pub connection: u64,
}

/// What the registry can be told.
#[derive(Debug)]
pub enum Command {
    /// A relay is connected.
    Attach(Box<Introduced>),
    /// A relay's session has ended.
    Detach(Node, u64),
    /// A relay takes no new allocations from now on.
    Draining(Node, u64),
    /// Changes are committed.
    Changed(Arc<Committed>),
    /// The office of this account wants to know before it begins.
    Tell(AccountId, Reply<Relays>),
}

#[derive(Debug)]
struct Entry {
    account: AccountId,
    relay: Relay,
    /// Said at each hello, and not stored: whoever needs it has a relay that is there.
    tls: Option<RelayTls>,
    secret: Option<RelaySecret>,
    connection: Option<u64>,
    draining: bool,
    /// When it is no longer offered, while its session is down.
    forgotten_at: Option<Instant>,
}

/// What survives a restart of the actor.
#[derive(Debug, Default)]
pub struct Book {
    entries: BTreeMap<RelayId, Entry>,
    loaded: bool,
}

/// The relays.
pub struct RelayRegistry {
    /// Name and id of each account: the keys of the offices.
    accounts: Vec<(AccountId, String)>,
    storage: Arc<dyn Storage>,
    book: Rc<RefCell<Book>>,
    /// Offices that asked before the relays were read.
    asked: Vec<(AccountId, Reply<Relays>)>,
}

impl RelayRegistry {
    /// `book` is kept by the factory.
    pub fn new(
        accounts: Vec<(AccountId, String)>,
        storage: Arc<dyn Storage>,
        book: Rc<RefCell<Book>>,
    ) -> Self {
        Self { accounts, storage, book, asked: Vec::new() }
    }

    /// The relays of an account, as far as they are known by now.
    fn relays(&self, account: AccountId) -> Relays {
        let known = self
            .book
            .borrow()
            .entries
            .values()
            .filter(|entry| entry.account == account)
            .map(|entry| KnownRelay {
                relay: entry.relay.id,
                region: entry.relay.region.clone().unwrap_or_default(),
                addresses: entry.relay.addresses.clone(),
                tls: entry.tls.clone(),
                secret: entry.secret.clone(),
                draining: entry.draining,
                open: entry.connection.is_some() && !entry.draining,
            })
            .collect();
        Relays::new(account, known)
    }

    /// Hands the relays of an account to its office.
    fn publish(&self, account: AccountId, cx: &mut Cx<Self>) {
        if !self.book.borrow().loaded {
            return;
        }
        let relays = self.relays(account);
        for (_, name) in self.accounts.iter().filter(|(id, _)| *id == account) {
            if cx.address_of::<GrantOffice>(name).tell(grant_office::Command::Relays(relays.clone())).is_err()
            {
                // Told again when it has room.
                cx.wake_after(Duration::from_millis(100));
            }
        }
    }

    /// Forgets relays that have been away for long, and wakes when the next one is due.
    fn tidy(&mut self, cx: &mut Cx<Self>) {
        let now = cx.now();
        let due = |entry: &Entry| entry.forgotten_at.is_some_and(|at| at <= now);
        let accounts: Vec<AccountId> = self
            .book
            .borrow()
            .entries
            .values()
            .filter(|entry| due(entry))
            .map(|entry| entry.account)
            .collect();
        self.book.borrow_mut().entries.retain(|_, entry| !due(entry));
        let next = self.book.borrow().entries.values().filter_map(|entry| entry.forgotten_at).min();
        if let Some(next) = next {
            cx.wake_at(next);
        }
        for account in accounts {
            self.publish(account, cx);
        }
    }

    fn of_session(&self, node: Node, connection: u64, change: impl FnOnce(&mut Entry)) -> Option<AccountId> {
        let Node::Relay(relay) = node else { return None };
        let mut book = self.book.borrow_mut();
        let entry = book.entries.get_mut(&relay).filter(|entry| entry.connection == Some(connection))?;
        change(entry);
        Some(entry.account)
    }

    /// Relays that were there before this process started are offered again at once, without credentials until they say
    /// hello: nodes that hold allocations there keep them.
    fn load(&mut self, cx: &mut Cx<Self>) {
        let (storage, accounts) = (Arc::clone(&self.storage), self.accounts.clone());
        let stored = async move {
            let mut stored = Vec::new();
            for (account, _) in accounts {
                let page = crate::storage::Page { limit: usize::MAX, ..Default::default() };
                let relays = list::<Relay>(&*storage, account, page).await?;
                stored.extend(relays.into_iter().map(|relay| (account, relay)));
            }
            Ok::<_, crate::storage::StorageError>(stored)
        };
        cx.spawn(stored, |registry, stored, cx| {
            let stored = match stored {
                Ok(stored) => stored,
                Err(error) => {
                    tracing::error!(%error, "the relays could not be read");
                    return cx.fail();
                }
            };
            let forgotten_at = Some(cx.now() + KEPT_FOR);
            for (account, relay) in stored {
                registry.book.borrow_mut().entries.entry(relay.id).or_insert(Entry {
                    account,
                    relay,
                    tls: None,
                    secret: None,
                    connection: None,
                    draining: false,
                    forgotten_at,
                });
            }
            registry.book.borrow_mut().loaded = true;
            for (account, reply) in std::mem::take(&mut registry.asked) {
                reply.send(registry.relays(account));
            }
            registry.publish_all(cx);
            registry.tidy(cx);
        });
    }

    fn publish_all(&self, cx: &mut Cx<Self>) {
        for (account, _) in &self.accounts {
            self.publish(*account, cx);
        }
    }
}

impl Actor for RelayRegistry {
    const KIND: &'static str = "RelayRegistry";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let loaded = self.book.borrow().loaded;
        if loaded {
            self.tidy(cx);
            self.publish_all(cx);
        } else {
            self.load(cx);
        }
    }

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            Command::Attach(introduced) => {
                let Introduced { account, relay, tls, secret, connection } = *introduced;
                let secret = RelaySecret::from_text(secret.expose()).ok();
                if secret.is_none() {
                    tracing::warn!(relay = %relay.name, "the relay's secret is malformed: nobody can allocate there");
                }
                let entry = Entry {
                    account,
                    relay,
                    tls,
                    secret,
                    connection: Some(connection),
                    draining: false,
                    forgotten_at: None,
                };
                self.book.borrow_mut().entries.insert(entry.relay.id, entry);
                self.publish(account, cx);
            }
            Command::Detach(node, connection) => {
                let forgotten_at = Some(cx.now() + KEPT_FOR);
                let account = self.of_session(node, connection, |entry| {
                    (entry.connection, entry.forgotten_at) = (None, forgotten_at);
                });
                if let Some(account) = account {
                    self.publish(account, cx);
                }
                self.tidy(cx);
            }
            Command::Draining(node, connection) => {
                if let Some(account) = self.of_session(node, connection, |entry| entry.draining = true) {
                    let directory = cx.address_of::<Directory>(keys::ONLY);
                    if directory.tell(directory::Command::Draining(node, connection)).is_err() {
                        tracing::debug!("the directory still shows a draining relay as online");
                    }
                    self.publish(account, cx);
                }
            }
            Command::Changed(committed) => {
                for change in &committed.changes {
                    let known = match &change.action {
                        Action::Put(Object::Relay(relay)) => {
                            let mut book = self.book.borrow_mut();
                            let entry = book.entries.get_mut(&relay.id).filter(|it| it.relay != *relay);
                            entry.map(|entry| entry.relay = relay.clone()).is_some()
                        }
                        Action::Deleted(Kind::Relay, id) => {
                            self.book.borrow_mut().entries.remove(&RelayId(*id)).is_some()
                        }
                        Action::Put(_) | Action::Deleted(..) | Action::Noted => false,
                    };
                    if known {
                        self.publish(committed.account, cx);
                    }
                }
            }
            Command::Tell(account, reply) => {
                let loaded = self.book.borrow().loaded;
                if loaded {
                    reply.send(self.relays(account));
                } else {
                    self.asked.push((account, reply));
                }
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.tidy(cx);
        self.publish_all(cx);
    }
}

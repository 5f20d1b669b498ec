//! Who is connected.
//!
//! - Parent: none; one for each process.
//! - Core: a map; the sessions are its children.
//! - When it dies: its sessions end with it, and their nodes reconnect.
//!
//! Told by: the API's socket handler ([`Command::Accept`]), the [`Store`](crate::store::Store) ([`Command::Changed`]), offices
//! ([`Command::Cut`], [`Command::CloseAccount`]). Tells: offices and the relay registry that a node is gone.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use actors_runtime::{Actor, Address, ChildEnded, Cx, How, Never, Reply};
use protocol_control::{CloseReason, ControlEnd};
use protocol_identity::{AccountId, TokenId};
use tokio::time::Instant;
use uuid::Uuid;

use crate::audit_log::{self, AuditLog};
use crate::clock::Clock;
use crate::device_session::{DeviceSession, Node, Peer, Start, Talks};
use crate::grant_office::{self, GrantOffice};
use crate::keys;
use crate::link::LinkSender;
use crate::model::{Kind, Object};
use crate::relay_registry::{self, Introduced, RelayRegistry};
use crate::storage::{Action, Committed, Everything, Note, Storage, StorageError};

/// A node that proved its identity and was found or made in storage.
pub struct Accept {
    /// Who it is.
    pub peer: Peer,
    /// The machine, which has taken the hello.
    pub end: ControlEnd,
    /// The instant at which the machine's time began.
    pub start: Instant,
    /// The way out.
    pub link: LinkSender,
    /// What a relay said about itself.
    pub relay: Option<Box<Introduced>>,
    /// Gets the session's address; nothing when it could not be started.
    pub reply: Reply<Address<DeviceSession>>,
}

/// What the directory can be told.
pub enum Command {
    /// A node is there.
    Accept(Box<Accept>),
    /// Changes are committed: sessions that they end are closed.
    Changed(Arc<Committed>),
    /// A node does not read what it is told.
    Cut(Node, u64),
    /// The office of an account starts anew and needs every node's hello again.
    CloseAccount(AccountId),
    /// A relay takes no new allocations any more.
    Draining(Node, u64),
    /// Which nodes of an account are connected?
    Online(AccountId, Reply<BTreeMap<Uuid, Presence>>),
    /// Control goes down.
    CloseAll,
}

/// How a connected node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It serves.
    Online,
    /// A relay that takes no new allocations: it is about to end.
    Draining,
}

struct Entry {
    peer: Peer,
    presence: Presence,
    address: Address<DeviceSession>,
    farewell: Rc<Cell<CloseReason>>,
}

/// Who is connected.
pub struct Directory {
    clock: Clock,
    storage: Arc<dyn Storage>,
    sessions: BTreeMap<String, Entry>,
    /// The last row of the change log that it heard of.
    sequence: Option<u64>,
    reading: bool,
    /// Something was missed while everything was being read.
    read_again: bool,
}

impl Directory {
    /// Nobody yet.
    pub fn new(clock: Clock, storage: Arc<dyn Storage>) -> Self {
        Self { clock, storage, sessions: BTreeMap::new(), sequence: None, reading: false, read_again: false }
    }

    fn accept(&mut self, accept: Accept, cx: &mut Cx<Self>) {
        let Accept { peer, end, start, link, relay, reply } = accept;
        self.end(&peer.key, CloseReason::Replaced, cx);
        let talks = match (peer.node, relay) {
            (Node::Relay(_), Some(introduced)) => {
                Talks::ToRegistry(cx.address_of::<RelayRegistry>(keys::ONLY), introduced)
            }
            (Node::Device(_) | Node::Gateway(_), None) => {
                Talks::ToOffice(cx.address_of::<GrantOffice>(&peer.office))
            }
            (Node::Relay(_), None) | (Node::Device(_) | Node::Gateway(_), Some(_)) => return,
        };
        let farewell = Rc::new(Cell::new(CloseReason::ShuttingDown));
        let (clock, key) = (self.clock, peer.key.clone());
        let mut rest = Some(Start { end, link, start });
        let shared = (peer.clone(), Rc::clone(&farewell));
        let child = cx.start_child::<DeviceSession>(key.clone(), move || {
            DeviceSession::new(shared.0.clone(), Rc::clone(&shared.1), talks.clone(), clock, rest.take())
        });
        match child {
            Ok(child) => {
                tracing::info!(node = %key, "connected");
                self.sessions.insert(
                    key,
                    Entry { peer, presence: Presence::Online, address: child.address.clone(), farewell },
                );
                reply.send(child.address);
            }
            Err(error) => tracing::error!(%error, "a session could not be started"),
        }
    }

    /// Ends a session with this last message.
    fn end(&mut self, key: &str, reason: CloseReason, cx: &mut Cx<Self>) {
        let Some(entry) = self.sessions.remove(key) else { return };
        entry.farewell.set(reason);
        cx.stop_child::<DeviceSession>(key);
        Self::report_gone(&entry.peer, cx);
    }

    fn report_gone(peer: &Peer, cx: &Cx<Self>) {
        tracing::info!(node = %peer.key, "disconnected");
        let kind = match peer.node {
            Node::Device(_) => Kind::Device,
            Node::Gateway(_) => Kind::Gateway,
            Node::Relay(_) => Kind::Relay,
        };
        let name = peer.key.rsplit('/').next().unwrap_or_default();
        let note = Note {
            action: "disconnected",
            kind,
            id: Some(node_id(peer.node)),
            name: Some(name.to_owned()),
            detail: serde_json::json!({ "source": peer.source }),
        };
        let ended = audit_log::Command::SessionEnded(peer.account, format!("{kind}:{name}"), note);
        if cx.address_of::<AuditLog>(keys::ONLY).tell(ended).is_err() {
            tracing::debug!(node = %peer.key, "the end of a session could not be noted");
        }
        let told = match peer.node {
            Node::Device(_) | Node::Gateway(_) => cx
                .address_of::<GrantOffice>(&peer.office)
                .tell(grant_office::Command::Detach { node: peer.node, connection: peer.connection })
                .is_ok(),
            Node::Relay(_) => cx
                .address_of::<RelayRegistry>(keys::ONLY)
                .tell(relay_registry::Command::Detach(peer.node, peer.connection))
                .is_ok(),
        };
        if !told {
            tracing::debug!(node = %peer.key, "nobody heard that it is gone");
        }
    }

    fn end_where(&mut self, reason: CloseReason, cx: &mut Cx<Self>, which: impl Fn(&Peer) -> bool) {
        let keys: Vec<String> = self
            .sessions
            .iter()
            .filter(|(_, entry)| which(&entry.peer))
            .map(|(key, _)| key.clone())
            .collect();
        for key in keys {
            self.end(&key, reason, cx);
        }
    }

    /// Whether changes follow the last ones that were heard of.
    fn follows(&mut self, committed: &Committed) -> bool {
        let Some(first) = committed.changes.first() else { return true };
        let before = self.sequence.replace(committed.sequence());
        before.is_none_or(|before| first.sequence == before + 1)
    }

    /// Changes were missed: each session is held against what is stored now.
    fn resync(&mut self, cx: &mut Cx<Self>) {
        if std::mem::replace(&mut self.reading, true) {
            self.read_again = true;
            return;
        }
        tracing::warn!("a gap in the change log: every session is looked at again");
        let accounts: BTreeSet<AccountId> = self.sessions.values().map(|entry| entry.peer.account).collect();
        let storage = Arc::clone(&self.storage);
        let read = async move {
            let mut all = BTreeMap::new();
            for account in accounts {
                all.insert(account, storage.everything(account).await?);
            }
            Ok::<_, StorageError>(all)
        };
        cx.spawn(read, |directory, all, cx| {
            directory.reading = false;
            match all {
                Ok(all) => directory.compare(&all, cx),
                Err(error) => {
                    tracing::error!(%error, "what is stored cannot be read: every node has to come anew");
                    directory.end_where(CloseReason::ShuttingDown, cx, |_| true);
                }
            }
            if std::mem::take(&mut directory.read_again) {
                directory.resync(cx);
            }
        });
    }

    /// Ends the sessions of whoever is not stored any more as it was.
    fn compare(&mut self, all: &BTreeMap<AccountId, Everything>, cx: &mut Cx<Self>) {
        let ended: Vec<(String, CloseReason)> = self
            .sessions
            .iter()
            .filter_map(|(key, entry)| {
                let everything = all.get(&entry.peer.account)?;
                Some((key.clone(), stands(&entry.peer, everything)?))
            })
            .collect();
        for (key, reason) in ended {
            self.end(&key, reason, cx);
        }
    }

    /// A deleted node, token or principal, or a principal that was disabled, has no session any more.
    fn changed(&mut self, committed: &Committed, cx: &mut Cx<Self>) {
        if !self.follows(committed) {
            return self.resync(cx);
        }
        let account = committed.account;
        for change in &committed.changes {
            match &change.action {
                Action::Deleted(Kind::Token, id) => {
                    let token = TokenId(*id);
                    self.end_where(CloseReason::BadToken, cx, |peer| {
                        peer.account == account && peer.token == token
                    });
                }
                // Its end may be another one now: its sessions come back and see.
                Action::Put(Object::Token(token)) => {
                    let token = token.id;
                    self.end_where(CloseReason::ShuttingDown, cx, |peer| {
                        peer.account == account && peer.token == token
                    });
                }
                Action::Deleted(Kind::Principal, id) => {
                    let id = *id;
                    self.end_where(CloseReason::Disabled, cx, |peer| {
                        peer.account == account && peer.principal.is_some_and(|principal| principal.0 == id)
                    });
                }
                Action::Put(Object::Principal(principal)) if principal.disabled => {
                    let id = principal.id;
                    self.end_where(CloseReason::Disabled, cx, |peer| {
                        peer.account == account && peer.principal == Some(id)
                    });
                }
                Action::Put(Object::Device(device)) if device.disabled => {
                    let node = Node::Device(device.id);
                    self.end_where(CloseReason::Disabled, cx, |peer| {
                        peer.account == account && peer.node == node
                    });
                }
                Action::Deleted(Kind::Device | Kind::Gateway | Kind::Relay, id) => {
                    let id = *id;
                    self.end_where(CloseReason::Disabled, cx, |peer| {
                        peer.account == account && node_id(peer.node) == id
                    });
                }
                Action::Put(_) | Action::Deleted(..) | Action::Noted => {}
            }
        }
    }
}

/// Why a node's session must end by what is stored; `None` when it need not.
fn stands(peer: &Peer, everything: &Everything) -> Option<CloseReason> {
    let (mut token, mut node, mut principal) = (None, false, peer.principal.is_none());
    for object in &everything.objects {
        match object {
            Object::Token(it) if it.id == peer.token => token = Some(it),
            Object::Principal(it) if peer.principal == Some(it.id) => principal = !it.disabled,
            Object::Device(it) => node |= peer.node == Node::Device(it.id) && !it.disabled,
            Object::Gateway(it) => node |= peer.node == Node::Gateway(it.id),
            Object::Relay(it) => node |= peer.node == Node::Relay(it.id),
            _ => {}
        }
    }
    match token {
        None => Some(CloseReason::BadToken),
        Some(_) if !node || !principal => Some(CloseReason::Disabled),
        // Its end may be another one now: the node comes back and sees.
        Some(token) if peer.principal.is_some() && token.expires_at != peer.until => {
            Some(CloseReason::ShuttingDown)
        }
        Some(_) => None,
    }
}

/// The id of a node, without its kind.
pub(crate) fn node_id(node: Node) -> Uuid {
    match node {
        Node::Device(id) => id.0,
        Node::Gateway(id) => id.0,
        Node::Relay(id) => id.0,
    }
}

impl Actor for Directory {
    const KIND: &'static str = "Directory";
    type Command = Command;
    type Packets = Never;

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            Command::Accept(accept) => self.accept(*accept, cx),
            Command::Changed(committed) => self.changed(&committed, cx),
            Command::Cut(node, connection) => {
                self.end_where(CloseReason::TooSlow, cx, |peer| {
                    peer.node == node && peer.connection == connection
                });
            }
            Command::CloseAccount(account) => self.end_where(CloseReason::ShuttingDown, cx, |peer| {
                peer.account == account && !matches!(peer.node, Node::Relay(_))
            }),
            Command::Draining(node, connection) => {
                let entries = self.sessions.values_mut();
                for entry in
                    entries.filter(|entry| entry.peer.node == node && entry.peer.connection == connection)
                {
                    entry.presence = Presence::Draining;
                }
            }
            Command::Online(account, reply) => reply.send(
                self.sessions
                    .values()
                    .filter(|entry| entry.peer.account == account)
                    .map(|entry| (node_id(entry.peer.node), entry.presence))
                    .collect(),
            ),
            Command::CloseAll => self.end_where(CloseReason::ShuttingDown, cx, |_| true),
        }
    }

    fn child_ended(&mut self, child: ChildEnded, cx: &mut Cx<Self>) {
        // A successor may live under the key already.
        if self.sessions.get(&child.key).is_some_and(|entry| entry.address.has_ended())
            && let Some(entry) = self.sessions.remove(&child.key)
        {
            if child.how != How::Stopped {
                tracing::warn!(node = %child.key, "the session failed; the node will reconnect");
            }
            Self::report_gone(&entry.peer, cx);
        }
    }
}

//! The grants of one account: decides, has the gateway install them, tells the client, and takes them back.
//!
//! - Parent: none; one for each account.
//! - Core: [`Office`], a pure machine.
//! - When it dies: rebuilt from storage, open grants are re-evaluated; the account's nodes reconnect.
//!
//! Told by: sessions ([`Command::Attach`], [`Command::Said`]), the [`Directory`] ([`Command::Detach`]), the [`Store`]
//! ([`Command::Changed`]), the [`RelayRegistry`] ([`Command::Relays`]), the API ([`Command::Settle`], [`Command::Explain`]).
//! Tells: sessions, the store. While it is behind the change log it decides nothing.

mod answers;
mod changes;
mod explain;
mod model;
mod nodes;
mod office;
mod records;
mod requests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Never, Reply};
use jiff::Timestamp;
use protocol_control::{FromNode, GrantVersion, ToNode};
use protocol_identity::{AccountId, GrantId};
use protocol_policy::Decision;

use crate::clock::Clock;
use crate::countries::Countries;
use crate::device_session::{self, DeviceSession, Node};
use crate::directory::{self, Directory};
use crate::keys;
use crate::model::{Grant, Kind};
use crate::relay_registry::{self, RelayRegistry, Relays};
use crate::storage::{Committed, Everything, Note, Op, Storage, StorageError, Write};
use crate::store::{self, Store};
pub use explain::{Asker, Question};
use office::{Office, Output};
pub use records::Records;

/// The clock may jump: however far the next deadline is, the office looks at the time this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);
/// What a new database of countries takes away ends within a second, like what any other change does.
const LOOK_AT_COUNTRIES: Duration = Duration::from_millis(250);
/// Commands that may wait while the office reads everything.
const MOST_HELD: usize = 8192;

/// What an office can be told.
#[derive(Debug)]
pub enum Command {
    /// A node's session is up and wants its full state.
    Attach {
        /// The node.
        node: Node,
        /// Tells its session from others.
        connection: u64,
        /// Where it comes from.
        source: Option<IpAddr>,
        /// Where it is told things.
        session: Address<DeviceSession>,
    },
    /// A node's session has ended.
    Detach {
        /// The node.
        node: Node,
        /// Which session.
        connection: u64,
    },
    /// A node said something.
    Said {
        /// The node.
        node: Node,
        /// Over which session.
        connection: u64,
        /// What.
        message: Box<FromNode>,
    },
    /// Changes are committed.
    Changed(Arc<Committed>),
    /// The relays are these now.
    Relays(Relays),
    /// Answer when the log is in up to this row, and what follows from it is on its way to the nodes.
    Settle(u64, Reply<()>),
    /// What would be decided, and why? `None`: there is no such device.
    Explain(Question, Reply<Option<Decision>>),
}

/// The grants of one account.
pub struct GrantOffice {
    account: AccountId,
    max_partition: Duration,
    storage: Arc<dyn Storage>,
    countries: Countries,
    clock: Clock,
    /// `None` until everything is read.
    office: Option<Office>,
    sessions: BTreeMap<Node, (u64, Address<DeviceSession>)>,
    held: VecDeque<Command>,
    reading: bool,
    settling: Vec<(u64, Reply<()>)>,
    unwritten: Vec<Op>,
    writing: bool,
}

impl GrantOffice {
    /// An office that reads everything when it starts. No grant outlives `max_partition` without control.
    pub fn new(
        account: AccountId,
        max_partition: Duration,
        storage: Arc<dyn Storage>,
        countries: Countries,
        clock: Clock,
    ) -> Self {
        Self {
            account,
            max_partition,
            storage,
            countries,
            clock,
            office: None,
            sessions: BTreeMap::new(),
            held: VecDeque::new(),
            reading: false,
            settling: Vec::new(),
            unwritten: Vec::new(),
            writing: false,
        }
    }

    fn store(cx: &Cx<Self>) -> Address<Store> {
        cx.address_of::<Store>(keys::ONLY)
    }

    fn write(&self, ops: Vec<Op>) -> Write {
        Write { account: self.account, by: "control".into(), at: self.clock.now(), ops }
    }

    /// Writes that this office starts: its row's number is the epoch that versions begin with. Then reads everything.
    fn load(&mut self, cx: &mut Cx<Self>) {
        let note = Note {
            action: "started",
            kind: Kind::Grant,
            id: None,
            name: None,
            detail: serde_json::json!({}),
        };
        let write = self.write(vec![Op::Note(note)]);
        let (reply, answer) = Reply::channel();
        if Self::store(cx).tell(store::Command::Write { write, reply: Some(reply) }).is_err() {
            return cx.fail();
        }
        // A full state without relays would let nodes drop what they hold there: they are known first.
        let (reply, relays) = Reply::channel();
        let registry = cx.address_of::<RelayRegistry>(keys::ONLY);
        if registry.tell(relay_registry::Command::Tell(self.account, reply)).is_err() {
            tracing::warn!("there is no relay registry: no relays are offered");
        }
        let (storage, account) = (Arc::clone(&self.storage), self.account);
        let everything = async move {
            let epoch = answer.await.map_err(|_| StorageError::Busy)??.sequence();
            let relays = relays.await.unwrap_or_else(|_| Relays::new(account, Vec::new()));
            Ok::<_, StorageError>((epoch, storage.everything(account).await?, relays))
        };
        self.reading = true;
        cx.spawn(everything, |actor, result, cx| match result {
            Ok((epoch, everything, relays)) => {
                let now = actor.clock.now();
                let countries = actor.countries.clone();
                let office = Office::new(
                    actor.account,
                    actor.max_partition,
                    epoch,
                    everything,
                    relays,
                    countries,
                    now,
                );
                tracing::info!(account = %actor.account, grants = office.grants.len(), "the grant office is open");
                actor.office = Some(office);
                actor.caught_up(cx);
            }
            Err(error) => {
                tracing::error!(error = %store::with_cause(&error), "the grant office could not read its account");
                cx.fail();
            }
        });
    }

    /// Reads everything again, after a gap in the log.
    fn reload(&mut self, cx: &mut Cx<Self>) {
        if self.reading {
            return;
        }
        tracing::warn!(account = %self.account, "a gap in the change log: everything is read again");
        self.reading = true;
        let (storage, account) = (Arc::clone(&self.storage), self.account);
        let read = async move { storage.everything(account).await };
        cx.spawn(read, |actor, result: Result<Everything, _>, cx| match result {
            Ok(everything) => {
                let now = actor.clock.now();
                if let Some(office) = &mut actor.office {
                    office.handle_loaded(everything, now);
                }
                actor.caught_up(cx);
            }
            Err(error) => {
                tracing::error!(error = %store::with_cause(&error), "the grant office could not read its account");
                cx.fail();
            }
        });
    }

    /// Everything is read: what came meanwhile is done now, in its order.
    fn caught_up(&mut self, cx: &mut Cx<Self>) {
        self.reading = false;
        while !self.reading {
            let Some(command) = self.held.pop_front() else { break };
            self.handle(command, cx);
        }
        self.settle(cx);
    }

    fn handle(&mut self, command: Command, cx: &mut Cx<Self>) {
        let now = self.clock.now();
        let Some(office) = &mut self.office else { return };
        match command {
            Command::Attach { node, connection, source, session } => {
                self.sessions.insert(node, (connection, session));
                let known = match node {
                    Node::Device(device) => office.handle_device(device, connection, source, now),
                    Node::Gateway(gateway) => office.handle_gateway(gateway, connection, now),
                    Node::Relay(_) => false,
                };
                if !known {
                    self.cut(node, cx);
                }
            }
            Command::Detach { node, connection } => {
                if self.sessions.get(&node).is_some_and(|(current, _)| *current == connection) {
                    self.sessions.remove(&node);
                }
                match node {
                    Node::Device(device) => office.handle_device_gone(device, connection),
                    Node::Gateway(gateway) => office.handle_gateway_gone(gateway, connection),
                    Node::Relay(_) => {}
                }
            }
            Command::Said { node, connection, message } => {
                if self.sessions.get(&node).is_some_and(|(current, _)| *current == connection) {
                    Self::said(office, node, *message, now);
                }
            }
            Command::Changed(committed) => {
                office.handle_changed(&committed, now);
            }
            Command::Relays(relays) => office.handle_relays(relays, now),
            Command::Settle(sequence, reply) => self.settling.push((sequence, reply)),
            Command::Explain(question, reply) => reply.send(office.explain(&question, now)),
        }
        self.settle(cx);
    }

    fn said(office: &mut Office, node: Node, message: FromNode, now: Timestamp) {
        match (node, message) {
            (Node::Device(device), FromNode::RequestAccess(asked)) => {
                office.handle_request(device, asked, now)
            }
            (Node::Device(device), FromNode::Candidates(all)) => office.handle_device_candidates(device, all),
            (Node::Device(device), FromNode::RelayRoundTrips(all)) => {
                office.handle_device_round_trips(device, all)
            }
            (Node::Gateway(gateway), FromNode::Applied(applied)) => office.handle_applied(gateway, *applied),
            (Node::Gateway(gateway), FromNode::Refused { grant, reason }) => {
                office.handle_refused(gateway, grant, reason);
            }
            (Node::Gateway(gateway), FromNode::Ended { grant }) => office.handle_ended(gateway, grant),
            (Node::Gateway(gateway), FromNode::Candidates(all)) => {
                office.handle_gateway_candidates(gateway, all)
            }
            (Node::Gateway(gateway), FromNode::RelayRoundTrips(all)) => {
                office.handle_gateway_round_trips(gateway, all);
            }
            // The session lets nothing else through.
            (Node::Device(_) | Node::Gateway(_) | Node::Relay(_), _) => {}
        }
    }

    /// A database of countries that was replaced is read.
    fn look_at_countries(&mut self, now: Timestamp) {
        match self.countries.renew() {
            None => {}
            Some(Ok(())) => {
                tracing::info!(countries = ?self.countries, "read anew");
                if let Some(office) = &mut self.office {
                    office.handle_countries(self.countries.clone(), now);
                }
            }
            Some(Err(error)) => {
                tracing::warn!(error = %store::with_cause(&error), "the countries stay as they were");
            }
        }
    }

    /// Carries out what the machine wants, answers those who wait for the log, and sets the next deadline.
    fn settle(&mut self, cx: &mut Cx<Self>) {
        while let Some(output) = self.office.as_mut().and_then(Office::poll_output) {
            match output {
                Output::ToDevice(device, message) => self.tell(Node::Device(device), message, cx),
                Output::ToGateway(gateway, message) => self.tell(Node::Gateway(gateway), message, cx),
                Output::Keep(grant) => self.keep(*grant, cx),
                Output::Write(op) => self.unwritten.push(op),
                Output::Reload => self.reload(cx),
            }
        }
        self.flush(cx);
        let Some(office) = &self.office else { return };
        if !self.reading {
            let sequence = office.model.sequence;
            for (_, reply) in self.settling.extract_if(.., |(wanted, _)| *wanted <= sequence) {
                reply.send(());
            }
        }
        let now = self.clock.now();
        let left = Duration::try_from(office.poll_timeout().duration_since(now)).unwrap_or_default();
        let look = if self.countries.are_known() { LOOK_AT_COUNTRIES } else { LOOK_EVERY };
        cx.wake_after(left.min(look));
    }

    fn tell(&mut self, node: Node, message: Box<ToNode>, cx: &mut Cx<Self>) {
        let Some((_, session)) = self.sessions.get(&node) else { return };
        if session.tell(device_session::Command::Deliver(message)).is_err() {
            self.cut(node, cx);
        }
    }

    /// A node that cannot be told something must not go on without it: it is cut, and gets its full state when it is back.
    fn cut(&mut self, node: Node, cx: &mut Cx<Self>) {
        let Some((connection, _)) = self.sessions.remove(&node) else { return };
        match (node, &mut self.office) {
            (Node::Device(device), Some(office)) => office.handle_device_gone(device, connection),
            (Node::Gateway(gateway), Some(office)) => office.handle_gateway_gone(gateway, connection),
            (Node::Relay(_), _) | (_, None) => {}
        }
        if cx.address_of::<Directory>(keys::ONLY).tell(directory::Command::Cut(node, connection)).is_err() {
            tracing::warn!("the directory could not be told to cut a session");
        }
    }

    /// Keeps a grant before the client hears of it: it must survive this process.
    fn keep(&mut self, grant: Grant, cx: &mut Cx<Self>) {
        let (id, version) = (grant.id, grant.version);
        let (reply, answer) = Reply::channel();
        let write = self.write(vec![Op::Put(grant.into())]);
        let told = Self::store(cx).tell(store::Command::Write { write, reply: Some(reply) });
        let written = async move {
            match told {
                Ok(()) => answer.await.unwrap_or(Err(StorageError::Busy)).map(|_| ()),
                Err(_) => Err(StorageError::Busy),
            }
        };
        cx.spawn(written, move |actor, result, cx| actor.kept(id, version, result, cx));
    }

    fn kept(
        &mut self,
        id: GrantId,
        version: GrantVersion,
        result: Result<(), StorageError>,
        cx: &mut Cx<Self>,
    ) {
        if let Err(error) = &result {
            tracing::warn!(error = %store::with_cause(error), "a grant could not be stored");
        }
        let now = self.clock.now();
        if let Some(office) = &mut self.office {
            office.handle_kept(id, version, result.is_ok(), now);
        }
        self.settle(cx);
    }

    /// Writes what has gathered, together; while that is under way the next gathers.
    fn flush(&mut self, cx: &mut Cx<Self>) {
        if self.writing || self.unwritten.is_empty() {
            return;
        }
        let ops = std::mem::take(&mut self.unwritten);
        let write = self.write(ops);
        let (reply, answer) = Reply::channel();
        if let Err(rejected) = Self::store(cx).tell(store::Command::Write { write, reply: Some(reply) }) {
            // The store has no room: again at the next look, which is at most a moment away.
            let store::Command::Write { write, .. } = rejected.into_inner();
            self.unwritten = write.ops;
            return;
        }
        self.writing = true;
        cx.spawn(answer, |actor, result, cx| {
            actor.writing = false;
            if !matches!(result, Ok(Ok(_))) {
                tracing::warn!(
                    "the end of a grant could not be written; it is looked at again at the next start"
                );
            }
            actor.settle(cx);
        });
    }
}

impl Actor for GrantOffice {
    const KIND: &'static str = "GrantOffice";
    type Command = Command;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        // Sessions of a former life are unknown here: their nodes come back with a hello.
        let directory = cx.address_of::<Directory>(keys::ONLY);
        if directory.tell(directory::Command::CloseAccount(self.account)).is_err() {
            tracing::debug!("the directory is not there yet");
        }
        self.load(cx);
    }

    fn told(&mut self, command: Command, cx: &mut Cx<Self>) {
        match command {
            command if !self.reading => self.handle(command, cx),
            command if self.held.len() < MOST_HELD => self.held.push_back(command),
            // The asker sees that nobody answers; a node times out and comes back.
            _ => cx.count_drop("office_held_full", 1),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.clock.now();
        self.look_at_countries(now);
        if let Some(office) = &mut self.office {
            office.handle_timeout(now);
        }
        self.settle(cx);
    }
}

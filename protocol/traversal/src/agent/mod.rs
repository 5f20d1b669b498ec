//! The machine of one end: what it is told, and what it remembers.

mod selection;
mod sending;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use self::selection::Followed;
use self::sending::Item;
use crate::choice::STEADY;
use crate::path::canonical;
use crate::probe::{self, Content, PROBE_SIZE};
use crate::replay::{PATHS, Replay};
use crate::route::{Answer, Route};
use crate::table::{Number, Table};
use crate::{
    Candidate, CandidateKind, Hygiene, LARGEST_PROBE, Path, PathReport, PathView, ProbeError, ProbeKeys,
    Refused, RelaySlot, Via,
};

/// A path that has carried data within this time counts as busy, and is measured more often.
const BUSY: Duration = Duration::from_secs(10);
/// Data moves to a source of authenticated datagrams, while no path is proven, when the old one was silent for this long.
const PROVISIONAL: Duration = Duration::from_millis(100);

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Chooses the path, and says so in its probes.
    Client,
    /// Follows the client's choice as long as that path is heard, and chooses for itself when it is not.
    Gateway,
}

/// What an agent is made of.
#[derive(Debug)]
pub struct AgentConfig {
    /// Which end this is.
    pub role: Role,
    /// The keys of both directions.
    pub keys: ProbeKeys,
    /// Higher than that of every agent that had the same keys before: a counter must never repeat under one key.
    pub generation: u16,
    /// Our own receiver index, which probes tell the other end.
    pub local_index: u32,
    /// The other end's receiver index, when it is known; see [`Agent::set_remote_index`].
    pub remote_index: Option<u32>,
    /// Which addresses may be used.
    pub hygiene: Hygiene,
    /// Spreads keepalives. Not secret.
    pub seed: u64,
}

/// What the agent wants from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send so many bytes of the buffer on this path.
    Transmit {
        /// On which path.
        path: Path,
        /// Bytes of the buffer.
        len: usize,
    },
    /// Data takes this path from now on.
    Selected {
        /// The path.
        path: Path,
        /// The one before.
        previous: Option<Path>,
        /// How long to hold data back first, if that is possible: the new path is faster, and what is still on the old
        /// one must not arrive behind the session's replay window.
        hold: Duration,
    },
    /// An answer has shown that the path works.
    Proven {
        /// The path.
        path: Path,
        /// Round trip of the probe.
        rtt: Duration,
    },
    /// The path has stopped working.
    Lost {
        /// The path.
        path: Path,
    },
    /// Data goes out on this path and nothing comes back: whoever keeps an eye on relays may want to look.
    Doubted {
        /// The path.
        path: Path,
    },
    /// The relay of this allocation must let `remote` through.
    NeedPermission {
        /// Our allocation.
        slot: RelaySlot,
        /// Whom to permit.
        remote: SocketAddr,
    },
    /// The other end sees us at this address: a new reflexive candidate of ours.
    Observed {
        /// The address.
        address: SocketAddr,
    },
}

/// The path agent of one connection.
pub struct Agent {
    config: AgentConfig,
    table: Table,
    sequences: Box<[u64; PATHS]>,
    relays: Vec<RelaySlot>,
    replay: Replay,
    selected: Option<Number>,
    selected_since: Duration,
    /// The last of a path that was selected and is no more, for the report of the change.
    previous: Option<Path>,
    /// How many paths the client has chosen, as far as we know.
    choice: u32,
    followed: Option<Followed>,
    contender: Option<(Number, Duration)>,
    /// Since when data has been sent without anything coming in on the selected path.
    waiting_since: Option<Duration>,
    /// Whether that has been said.
    doubted: bool,
    /// When data last went out or came in.
    last_data: Option<Duration>,
    observed: Option<SocketAddr>,
    dice: u64,
    queue: VecDeque<Item>,
}

impl Agent {
    /// An agent that knows no path.
    pub fn new(config: AgentConfig, now: Duration) -> Self {
        Self {
            dice: config.seed,
            config,
            table: Table::default(),
            sequences: Box::new([0; PATHS]),
            relays: Vec::new(),
            replay: Replay::new(),
            selected: None,
            selected_since: now,
            previous: None,
            choice: 0,
            followed: None,
            contender: None,
            waiting_since: None,
            doubted: false,
            last_data: None,
            observed: None,
            queue: VecDeque::new(),
        }
    }

    /// Probes can be addressed from now on. The signed offer and answer carry the index, or else the handshake tells it,
    /// or the other end's first probe.
    pub fn set_remote_index(&mut self, index: u32, now: Duration) {
        if self.config.remote_index.replace(index).is_none() {
            self.revive_all(now);
        }
    }

    /// Replaces the rules for addresses. Paths that exist stay.
    pub fn set_hygiene(&mut self, hygiene: Hygiene) {
        self.config.hygiene = hygiene;
    }

    /// The other end may be reached at this address, at any time of a connection.
    ///
    /// # Errors
    /// Why the address is not used.
    pub fn add_remote(&mut self, candidate: Candidate, now: Duration) -> Result<(), Refused> {
        let address = canonical(candidate.address);
        self.config.hygiene.check_candidate(address)?;
        if !self.table.name(address, candidate.kind)? {
            return Ok(());
        }
        self.add_path(Path::direct(address), now);
        if behind_relays(address, candidate.kind) {
            for slot in self.relays.clone() {
                self.add_path(Path::relayed(slot, address), now);
            }
        }
        Ok(())
    }

    /// The other end is no longer reached at this address.
    pub fn remove_remote(&mut self, address: SocketAddr, now: Duration) {
        let address = canonical(address);
        self.remove_where(|path| path.remote == address, now);
    }

    /// The slots in which we have allocations.
    pub fn relays(&self) -> &[RelaySlot] {
        &self.relays
    }

    /// We have an allocation in this slot.
    pub fn add_relay(&mut self, slot: RelaySlot, now: Duration) {
        if self.relays.contains(&slot) {
            return;
        }
        self.relays.push(slot);
        let addresses: Vec<_> = self
            .table
            .remotes()
            .iter()
            .filter(|remote| remote.named.is_some_and(|kind| behind_relays(remote.address, kind)))
            .map(|remote| remote.address)
            .collect();
        for address in addresses {
            self.add_path(Path::relayed(slot, address), now);
        }
    }

    /// We have no allocation in this slot any more.
    pub fn remove_relay(&mut self, slot: RelaySlot, now: Duration) {
        self.relays.retain(|relay| *relay != slot);
        self.remove_where(|path| path.via == Via::Relay(slot), now);
    }

    /// Where an initiation goes now, the same bytes on every path. Counts towards what an address may get that has not
    /// answered. Direct paths that rest are left out.
    pub fn handshake_paths(&mut self, now: Duration) -> Vec<Path> {
        let open = |route: &Route| route.is_open() || route.kind == crate::PathKind::Relayed;
        let paths: Vec<_> =
            self.table.iter().filter(|(_, route)| open(route)).map(|(_, route)| route.path).collect();
        paths
            .into_iter()
            .filter(|path| self.table.pace(path.remote).is_some_and(|pace| pace.spend(now)))
            .collect()
    }

    /// Takes a datagram of type 0x20 that came in on `path`.
    ///
    /// # Errors
    /// Why it went no further.
    pub fn handle_probe(&mut self, path: Path, datagram: &[u8], now: Duration) -> Result<(), ProbeError> {
        let path = Path { remote: canonical(path.remote), ..path };
        self.replay.check(probe::peek(datagram)?)?;
        let opened = probe::open(&self.config.keys, datagram)?;
        self.config.hygiene.check_source(path.remote).map_err(ProbeError::Source)?;
        if self.replay.mark(opened.counter) {
            // The other end was made anew, and a client counts its choices anew.
            self.followed = None;
            if self.config.role == Role::Gateway {
                self.choice = 0;
            }
        }
        match opened.content {
            Content::Probe { chosen, meet, choice, sender } => {
                self.set_remote_index(sender, now);
                let number = self.meet(path, now).ok_or(ProbeError::NoRoom)?;
                self.heard(number, now);
                self.answer(number, opened.id, datagram.len(), now);
                self.try_now(number, now);
                match self.config.role {
                    Role::Gateway if chosen => self.follow(number, choice, now),
                    Role::Client if chosen && choice == self.choice => self.leave_for(number, now),
                    Role::Gateway | Role::Client => {}
                }
                if meet && self.config.role == Role::Gateway {
                    self.try_together(now);
                }
            }
            Content::Answer { id, observed, sender, size: _ } => {
                self.set_remote_index(sender, now);
                if let Some(number) = self.table.find(path) {
                    self.answered(number, id, observed, now);
                }
            }
        }
        Ok(())
    }

    /// An authenticated WireGuard datagram came in on `path`. Cheap for the selected path.
    pub fn handle_received(&mut self, path: Path, now: Duration) {
        let path = Path { remote: canonical(path.remote), ..path };
        self.last_data = Some(now);
        if let Some(number) = self.selected
            && self.table.get(number).is_some_and(|route| route.path == path)
        {
            self.heard(number, now);
            return;
        }
        if self.config.hygiene.check_source(path.remote).is_err() {
            return;
        }
        let Some(number) = self.meet(path, now) else {
            return;
        };
        self.heard(number, now);
        let selected = self.selected.and_then(|number| self.table.get(number));
        let settled = selected.is_some_and(|route| {
            let recently = route.last_heard.is_some_and(|at| now.saturating_sub(at) < PROVISIONAL);
            route.proven().is_some() || recently
        });
        if !settled {
            self.select(number, now);
        }
        self.try_now(number, now);
    }

    /// Data went out on the selected path. Once for each batch is enough.
    pub fn handle_sent(&mut self, now: Duration) {
        self.last_data = Some(now);
        if self.selected.is_some() && self.waiting_since.is_none() {
            self.waiting_since = Some(now);
            self.doubted = false;
        }
    }

    /// The largest datagram of data that has gone out on the selected path lately. While some of the size that the path
    /// takes at most go out, that size is checked often. Once for each batch is enough.
    pub fn handle_sent_size(&mut self, bytes: usize, now: Duration) {
        let route = self.selected.and_then(|number| self.table.get_mut(number));
        if let Some(proven) = route.and_then(Route::proven_mut) {
            proven.mtu.sent(bytes, now);
        }
    }

    /// Our own addresses or routes changed: everything is tried again at once, data stays where it is until something
    /// answers.
    pub fn network_changed(&mut self, now: Duration) {
        self.followed = None;
        self.revive_all(now);
    }

    /// When [`Agent::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        // Without the other end's index nothing can be sent.
        self.config.remote_index?;
        let routes = self.table.iter().filter_map(|(_, route)| route.deadline());
        let contender = self.contender.map(|(_, since)| since.saturating_add(STEADY));
        routes.chain(contender).chain(self.suspicion()).chain(self.mtu_due()).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.config.remote_index.is_none() {
            return;
        }
        if self.suspicion().is_some_and(|at| at <= now) {
            self.suspect(now);
        }
        for number in self.table.numbers() {
            self.serve(number, now);
        }
        self.choose(now);
        // What was revived by the loss of another is tried at once.
        for number in self.table.numbers() {
            self.serve(number, now);
        }
        if self.mtu_due().is_some_and(|at| at <= now) {
            self.probe_mtu(now);
        }
    }

    /// Where data goes now. Until a path is proven, where authenticated data came from.
    pub fn selected(&self) -> Option<Path> {
        self.selected.and_then(|number| self.table.get(number)).map(|route| route.path)
    }

    /// Largest UDP payload for the selected path. What is inside the tunnel is 32 bytes smaller.
    pub fn path_mtu(&self) -> u16 {
        let proven = self.selected.and_then(|number| self.table.get(number)).and_then(Route::proven);
        proven.map_or(LARGEST_PROBE as u16, |proven| proven.mtu.payload())
    }

    /// What `status` says about the path that data takes.
    pub fn report(&self, now: Duration) -> Option<PathReport> {
        let route = self.table.get(self.selected?)?;
        let proven = route.proven();
        Some(PathReport {
            kind: route.kind,
            path: route.path,
            proven: proven.is_some(),
            rtt: proven.map(|proven| proven.rtt.smoothed),
            min_rtt: proven.map(|proven| proven.rtt.min),
            loss: proven.map_or(0.0, |proven| proven.loss),
            since: now.saturating_sub(self.selected_since),
            mtu: self.path_mtu(),
        })
    }

    /// All paths.
    pub fn paths(&self) -> impl Iterator<Item = PathView> {
        self.table.iter().map(|(number, route)| PathView {
            path: route.path,
            kind: route.kind,
            proven: route.proven().is_some(),
            selected: self.selected == Some(number),
            rtt: route.proven().map(|proven| proven.rtt.smoothed),
            loss: route.proven().map_or(0.0, |proven| proven.loss),
        })
    }

    /// The path's number; makes it one of ours when it is new.
    fn meet(&mut self, path: Path, now: Duration) -> Option<Number> {
        self.table.find(path).or_else(|| self.add_path(path, now))
    }

    fn add_path(&mut self, path: Path, now: Duration) -> Option<Number> {
        let known = self.table.find(path);
        let number = known.or_else(|| self.table.add(path, self.selected, now))?;
        if let (None, Via::Relay(slot)) = (known, path.via) {
            self.tell(Output::NeedPermission { slot, remote: path.remote });
        }
        Some(number)
    }

    fn remove_where(&mut self, gone: impl Fn(&Path) -> bool, now: Duration) {
        self.previous = self.selected();
        self.table.remove_where(gone);
        // A number that is free may be given to another path.
        self.followed = self.followed.filter(|followed| self.table.get(followed.number).is_some());
        self.contender = self.contender.filter(|(number, _)| self.table.get(*number).is_some());
        if self.selected().is_none() {
            self.selected = None;
            self.followed = None;
            self.waiting_since = None;
            self.revive_all(now);
            self.choose(now);
        }
    }

    /// Whether data takes this path, and has done so lately.
    fn is_busy(&self, number: Number, now: Duration) -> bool {
        self.selected == Some(number) && self.last_data.is_some_and(|at| now.saturating_sub(at) < BUSY)
    }

    fn heard(&mut self, number: Number, now: Duration) {
        if let Some(route) = self.table.get_mut(number) {
            route.heard(now);
        }
        if self.selected == Some(number) {
            self.waiting_since = None;
        }
    }

    /// The other end was heard here: if the path is not proven yet, this is the moment to try.
    fn try_now(&mut self, number: Number, now: Duration) {
        if self.table.get_mut(number).is_some_and(|route| route.try_now(now)) {
            self.probe(number, PROBE_SIZE, now);
        }
    }

    fn answered(&mut self, number: Number, id: u64, observed: SocketAddr, now: Duration) {
        let (jitter, busy) = (self.jitter(), self.is_busy(number, now));
        let Some(route) = self.table.get_mut(number) else {
            return;
        };
        let (answer, path) = (route.answered(id, busy, jitter, now), route.path);
        if answer == Answer::Unknown {
            return;
        }
        self.heard(number, now);
        if let Some(pace) = self.table.pace(path.remote) {
            pace.answered();
        }
        let observed = canonical(observed);
        if path.via == Via::Direct && self.observed != Some(observed) {
            self.observed = Some(observed);
            self.tell(Output::Observed { address: observed });
        }
        match answer {
            Answer::Proves(rtt) => {
                self.tell(Output::Proven { path, rtt });
                self.choose(now);
            }
            Answer::Again => self.choose(now),
            Answer::Padded | Answer::Unknown => {}
        }
    }

    fn revive_all(&mut self, now: Duration) {
        for number in self.table.numbers() {
            if let Some(route) = self.table.get_mut(number) {
                route.revive(now);
            }
        }
        self.contender = None;
        self.waiting_since = None;
    }
}

/// Whether an address can be reached from a relay: private ones cannot.
fn behind_relays(address: SocketAddr, kind: CandidateKind) -> bool {
    match kind {
        CandidateKind::Reflexive | CandidateKind::Relayed => true,
        CandidateKind::Host => !crate::hygiene::is_private(address.ip()),
    }
}

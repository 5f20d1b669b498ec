//! Which path data takes, and when one is given up.

use std::time::Duration;

use super::{Agent, Output, Role};
use crate::PathKind;
use crate::choice::{self, STEADY, Verdict};
use crate::probe::PROBE_SIZE;
use crate::route::{Due, Route};
use crate::table::Number;

/// After data was sent and nothing came back for this long, the path is probed. Longer than most round trips.
const SUSPECT: Duration = Duration::from_millis(400);
/// Proven paths that are kept alive beside the selected one.
const BACKUPS: usize = 3;

/// Direct paths whose rest ends within this are tried together.
const TOGETHER: Duration = Duration::from_secs(5);
/// A gateway rests this much longer than a client, which invites it before: its own try would come too early.
const INVITED_WITHIN: Duration = Duration::from_secs(20);

/// The choice of the client that a gateway follows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Followed {
    pub(super) number: Number,
    choice: u32,
}

impl Agent {
    pub(super) fn follow(&mut self, number: Number, choice: u32, now: Duration) {
        if self.followed.is_some_and(|followed| choice < followed.choice) {
            return;
        }
        self.followed = Some(Followed { number, choice });
        self.choice = choice;
        if self.selected != Some(number) {
            self.select(number, now);
        }
    }

    /// The gateway knows of our choice and sends on another path: it has lost ours.
    pub(super) fn leave_for(&mut self, number: Number, now: Duration) {
        if let Some(selected) = self.selected
            && selected != number
            && self.table.get(selected).is_some_and(|route| route.proven().is_some())
        {
            self.lost(selected, now);
        }
    }

    pub(super) fn serve(&mut self, number: Number, now: Duration) {
        let Some(kind) = self.table.get(number).map(|route| route.kind) else {
            return;
        };
        if kind == PathKind::Direct && self.agrees_to_meet(number, now) {
            return;
        }
        let (needed, mut jitter) = (!self.table.has_proven(kind), self.jitter());
        if self.config.role == Role::Gateway && kind == PathKind::Direct && self.relayed().is_some() {
            jitter += INVITED_WITHIN;
        }
        let due = self.table.get_mut(number).map_or(Due::Nothing, |route| route.due(needed, jitter, now));
        match due {
            Due::Nothing => {}
            Due::Probe if self.is_worthless(number) => {
                if let Some(route) = self.table.get_mut(number) {
                    route.let_go();
                }
            }
            Due::Probe => self.probe(number, PROBE_SIZE, now),
            Due::Lost => self.lost(number, now),
        }
    }

    /// The best proven relayed path, and half of its round trip.
    fn relayed(&self) -> Option<(Number, Duration)> {
        self.table
            .iter()
            .filter(|(_, route)| route.kind == PathKind::Relayed)
            .filter_map(|(number, route)| Some((number, route.proven()?)))
            .min_by_key(|(_, proven)| (proven.is_silent(), choice::cost(proven)))
            .map(|(number, proven)| (number, proven.rtt.smoothed / 2))
    }

    /// A client whose direct path has rested does not just try again: over the relay it invites the gateway to do so at
    /// the moment when it does, too.
    fn agrees_to_meet(&mut self, number: Number, now: Duration) -> bool {
        let is_over = self.table.get(number).and_then(|route| route.rest_left(now)) == Some(Duration::ZERO);
        if !is_over || self.config.role == Role::Gateway || self.table.has_proven(PathKind::Direct) {
            return false;
        }
        let Some((relayed, half)) = self.relayed() else { return false };
        if !self.invite(relayed, now) {
            return false;
        }
        for other in self.table.numbers() {
            if let Some(route) = self.table.get_mut(other)
                && route.kind == PathKind::Direct
                && route.rest_left(now).is_some_and(|left| left <= TOGETHER)
            {
                route.agree(now.saturating_add(half));
            }
        }
        true
    }

    /// The client tries its direct paths now.
    pub(super) fn try_together(&mut self, now: Duration) {
        if self.table.has_proven(PathKind::Direct) {
            return;
        }
        for number in self.table.numbers() {
            let Some(route) = self.table.get_mut(number).filter(|route| route.kind == PathKind::Direct)
            else {
                continue;
            };
            route.meet(now);
            self.serve(number, now);
        }
    }

    /// A proven path that is neither selected nor among the backups. The best relayed one is always a backup.
    pub(super) fn is_worthless(&self, number: Number) -> bool {
        let Some((route, proven)) = self.table.get(number).and_then(|route| Some((route, route.proven()?)))
        else {
            return false;
        };
        let better = |same_kind: bool| {
            let cost = choice::cost(proven);
            self.table.iter().filter(move |(other, candidate)| {
                let cheaper =
                    candidate.proven().is_some_and(|proven| (choice::cost(proven), *other) < (cost, number));
                *other != number && cheaper && (!same_kind || candidate.kind == route.kind)
            })
        };
        self.selected != Some(number) && better(false).count() > BACKUPS && better(true).count() > 0
    }

    pub(super) fn lost(&mut self, number: Number, now: Duration) {
        let Some(route) = self.table.get_mut(number) else {
            return;
        };
        route.revive(now);
        let path = route.path;
        self.tell(Output::Lost { path });
        if self.followed.is_some_and(|followed| followed.number == number) {
            self.followed = None;
        }
        if self.selected == Some(number) {
            // Perhaps it was the network: what rested or was let go may be the way now.
            for other in self.table.numbers() {
                if let Some(route) = self.table.get_mut(other) {
                    route.wake(now);
                }
            }
            self.choose(now);
        }
    }

    pub(super) fn choose(&mut self, now: Duration) {
        if let Some(followed) = self.followed
            && self.config.role == Role::Gateway
        {
            // Followed as long as it is proven or may still become so.
            if self.table.get(followed.number).is_some_and(Route::is_open) {
                self.contender = None;
                return;
            }
            self.followed = None;
        }
        match choice::judge(&self.table, self.selected, self.selected_since) {
            Verdict::Stay => self.contender = None,
            Verdict::Change(number) => self.select(number, now),
            Verdict::Lean(number) => match self.contender {
                Some((contender, since)) if contender == number => {
                    if now.saturating_sub(since) >= STEADY {
                        self.select(number, now);
                    }
                }
                Some(_) | None => self.contender = Some((number, now)),
            },
        }
    }

    pub(super) fn select(&mut self, number: Number, now: Duration) {
        let Some(route) = self.table.get(number) else {
            return;
        };
        let path = route.path;
        let old = self.selected.and_then(|number| self.table.get(number));
        let hold = old.map_or(Duration::ZERO, |old| choice::hold(old, route));
        let previous = old.map(|old| old.path).or(self.previous.take());
        let limit = old.and_then(Route::proven).map(|proven| proven.mtu.payload());
        if let (Some(limit), Some(proven)) = (limit, self.table.get_mut(number).and_then(Route::proven_mut)) {
            proven.mtu.assume(limit);
        }
        self.selected = Some(number);
        self.selected_since = now;
        self.contender = None;
        self.waiting_since = None;
        self.tell(Output::Selected { path, previous, hold });
        if self.config.role == Role::Client {
            self.choice = self.choice.saturating_add(1);
        }
        // The other end follows as soon as it knows.
        self.probe(number, PROBE_SIZE, now);
    }

    /// When the silence of the selected path becomes suspicious.
    pub(super) fn suspicion(&self) -> Option<Duration> {
        let news = self.is_listening() || !self.doubted;
        self.waiting_since.filter(|_| news).map(|since| since.saturating_add(SUSPECT))
    }

    /// Whether every probe on the selected path has been answered.
    fn is_listening(&self) -> bool {
        let selected = self.selected.and_then(|number| self.table.get(number));
        selected.and_then(Route::proven).is_some_and(|proven| !proven.is_silent())
    }

    /// Says so, and probes the selected path, and its backups, so that it is known which of them to take.
    pub(super) fn suspect(&mut self, now: Duration) {
        let Some(selected) = self.selected else {
            return;
        };
        if !std::mem::replace(&mut self.doubted, true)
            && let Some(path) = self.selected()
        {
            self.tell(Output::Doubted { path });
        }
        // A probe that is out already tells as much: whatever it was sent for, the path ends with it.
        if !self.is_listening() {
            return;
        }
        self.probe(selected, PROBE_SIZE, now);
        for number in self.table.numbers() {
            if let Some(route) = self.table.get_mut(number)
                && number != selected
            {
                route.probe_by(now);
            }
        }
    }
}

//! The routes of an agent, each with its number, and the addresses that they lead to.

use std::net::SocketAddr;
use std::time::Duration;

use crate::pace::Pace;
use crate::replay::PATHS;
use crate::route::Route;
use crate::{CandidateKind, MAX_CANDIDATES, Path, PathKind, Refused, Via};

/// The number of a route: what its probes carry, and its place here.
pub(crate) type Number = u8;

/// Paths that are kept at once: sixteen candidates, each directly and through two relays.
const MAX_ROUTES: usize = 48;
/// Addresses that are kept at once: the candidates, and as many that showed themselves.
const MAX_REMOTES: usize = 2 * MAX_CANDIDATES;

#[derive(Debug)]
pub(crate) struct Remote {
    pub address: SocketAddr,
    /// `None` when it was named by nobody but showed itself.
    pub named: Option<CandidateKind>,
    pub pace: Pace,
}

#[derive(Debug, Default)]
pub(crate) struct Table {
    routes: Vec<Option<Route>>,
    remotes: Vec<Remote>,
}

impl Table {
    pub(crate) fn get(&self, number: Number) -> Option<&Route> {
        self.routes.get(usize::from(number))?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, number: Number) -> Option<&mut Route> {
        self.routes.get_mut(usize::from(number))?.as_mut()
    }

    pub(crate) fn find(&self, path: Path) -> Option<Number> {
        self.iter().find(|(_, route)| route.path == path).map(|(number, _)| number)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (Number, &Route)> {
        self.routes.iter().enumerate().filter_map(|(at, route)| Some((number(at), route.as_ref()?)))
    }

    pub(crate) fn numbers(&self) -> impl Iterator<Item = Number> + use<> {
        (0..self.routes.len()).map(number)
    }

    pub(crate) fn remotes(&self) -> &[Remote] {
        &self.remotes
    }

    pub(crate) fn pace(&mut self, address: SocketAddr) -> Option<&mut Pace> {
        self.remotes.iter_mut().find(|remote| remote.address == address).map(|remote| &mut remote.pace)
    }

    /// Whether a route of this kind has been proven.
    pub(crate) fn has_proven(&self, kind: PathKind) -> bool {
        self.iter().any(|(_, route)| route.kind == kind && route.proven().is_some())
    }

    /// Keeps an address that the other end named. False when it was known already.
    pub(crate) fn name(&mut self, address: SocketAddr, kind: CandidateKind) -> Result<bool, Refused> {
        let named = self.remotes.iter().filter(|remote| remote.named.is_some()).count();
        match self.remotes.iter_mut().find(|remote| remote.address == address) {
            Some(remote) if remote.named == Some(kind) => return Ok(false),
            Some(remote) if remote.named.is_some() || named < MAX_CANDIDATES => remote.named = Some(kind),
            None if named < MAX_CANDIDATES => {
                self.remotes.push(Remote { address, named: Some(kind), pace: Pace::default() });
            }
            Some(_) | None => return Err(Refused::TooMany),
        }
        Ok(true)
    }

    /// Whether a path leads through a relay, ours or theirs.
    pub(crate) fn kind_of(&self, path: Path) -> PathKind {
        // Another port of an address with allocations is most likely another allocation.
        let theirs = |remote: &Remote| {
            remote.named == Some(CandidateKind::Relayed) && remote.address.ip() == path.remote.ip()
        };
        match path.via {
            Via::Relay(_) => PathKind::Relayed,
            Via::Direct if self.remotes.iter().any(theirs) => PathKind::Relayed,
            Via::Direct => PathKind::Direct,
        }
    }

    /// Adds a path. When there is no room, the one goes that is worth least: never `keep`, never a proven one.
    pub(crate) fn add(&mut self, path: Path, keep: Option<Number>, now: Duration) -> Option<Number> {
        if let Some(number) = self.find(path) {
            return Some(number);
        }
        if !self.remotes.iter().any(|remote| remote.address == path.remote) {
            if self.remotes.len() >= MAX_REMOTES {
                self.forget_a_remote(keep)?;
            }
            self.remotes.push(Remote { address: path.remote, named: None, pace: Pace::default() });
        }
        if self.iter().count() >= MAX_ROUTES {
            let victim = self
                .iter()
                .filter(|(number, route)| Some(*number) != keep && route.proven().is_none())
                .min_by_key(|(_, route)| (route.is_open(), route.last_heard))
                .map(|(number, _)| number)?;
            self.remove(victim);
        }
        let route = Route::new(path, self.kind_of(path), now);
        match self.routes.iter().position(Option::is_none) {
            Some(at) => {
                *self.routes.get_mut(at)? = Some(route);
                Some(number(at))
            }
            None if self.routes.len() < PATHS => {
                self.routes.push(Some(route));
                Some(number(self.routes.len() - 1))
            }
            None => None,
        }
    }

    pub(crate) fn remove(&mut self, number: Number) {
        if let Some(place) = self.routes.get_mut(usize::from(number)) {
            *place = None;
        }
    }

    pub(crate) fn remove_where(&mut self, gone: impl Fn(&Path) -> bool) {
        for place in &mut self.routes {
            if place.as_ref().is_some_and(|route| gone(&route.path)) {
                *place = None;
            }
        }
        let Self { routes, remotes } = self;
        remotes.retain(|remote| {
            !gone(&Path::direct(remote.address))
                || routes.iter().flatten().any(|route| route.path.remote == remote.address)
        });
    }

    fn forget_a_remote(&mut self, keep: Option<Number>) -> Option<()> {
        let kept = keep.and_then(|number| self.get(number)).map(|route| route.path.remote);
        let at = self.remotes.iter().position(|remote| {
            remote.named.is_none()
                && Some(remote.address) != kept
                && !self
                    .iter()
                    .any(|(_, route)| route.path.remote == remote.address && route.proven().is_some())
        })?;
        let gone = self.remotes.remove(at).address;
        for place in &mut self.routes {
            if place.as_ref().is_some_and(|route| route.path.remote == gone) {
                *place = None;
            }
        }
        Some(())
    }
}

/// Places are below [`PATHS`].
fn number(at: usize) -> Number {
    Number::try_from(at).unwrap_or(Number::MAX)
}

//! What the relay's actors share on one lane, and what survives them.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors_runtime::Drops;
use ipnet::IpNet;
use protocol_stun::relay::{Authority, Bounds, FiveTuple, Front, Limits, Quota, Rate, Strangers, Transport};
use protocol_stun::{Credentials, PeerAddressFilter, RelaySecret};
use rand::Rng;
use tokio::time::Instant;

use crate::allocation::{AllocationCommand, Parts};
use crate::counters::RelayCounters;
use crate::meters::MeterOffice;
use crate::ports::{Ports, Relayed};
use crate::receive::Scratch;
use crate::reservations::Reservations;

/// Lines of the log that others can cause come at most so often.
const GRUMBLE: Duration = Duration::from_secs(10);

/// An address that relayed sockets are opened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayAddress {
    /// One of this host.
    pub local: IpAddr,
    /// What others see; the same, except behind a one-to-one NAT.
    pub public: IpAddr,
}

/// How a relay behaves.
#[derive(Debug, Clone)]
pub struct RelaySettings {
    /// The realm of its challenges.
    pub realm: String,
    /// Time-limited credentials are made with it.
    pub secret: Option<RelaySecret>,
    /// Static users.
    pub users: Vec<Credentials>,
    /// Peer ranges that are allowed besides.
    pub allow: Vec<IpNet>,
    /// Peer ranges that are denied.
    pub deny: Vec<IpNet>,
    /// Addresses of relayed sockets.
    pub addresses: Vec<RelayAddress>,
    /// Every address of this host.
    pub own: Vec<IpAddr>,
    /// The sockets that it listens on.
    pub listen: Vec<SocketAddr>,
    /// Ports of relayed sockets.
    pub ports: RangeInclusive<u16>,
    /// Most allocations.
    pub most_allocations: Bounds,
    /// What each user may have relayed.
    pub rate_of_user: Rate,
    /// What each source of allocations may have relayed.
    pub rate_of_source: Rate,
    /// Bounds of each allocation.
    pub limits: Limits,
}

/// One lane of a relay.
pub struct RelayLane {
    pub(crate) front: Front,
    pub(crate) filter: RefCell<PeerAddressFilter>,
    pub(crate) quota: RefCell<Quota>,
    pub(crate) meters: MeterOffice,
    pub(crate) strangers: RefCell<Strangers>,
    pub(crate) ports: Ports,
    pub(crate) limits: Limits,
    /// Allocations: machines and sockets outlive the listener's actors.
    pub(crate) held: RefCell<HashMap<FiveTuple, Rc<Parts>>>,
    /// The same by relayed address, as others see it.
    pub(crate) switchboard: RefCell<HashMap<SocketAddr, Rc<Parts>>>,
    pub(crate) reservations: RefCell<Reservations>,
    pub(crate) scratch: RefCell<Scratch>,
    /// Memory for one Data indication.
    pub(crate) indication: RefCell<Vec<u8>>,
    pub(crate) counters: Arc<RelayCounters>,
    /// Known as soon as a listener lives.
    drops: OnceCell<Drops>,
    pub(crate) draining: Cell<bool>,
    /// When something that others can cause was last logged.
    grumbled: Cell<Option<Duration>>,
    epoch: Instant,
}

thread_local! {
    static HERE: RefCell<Weak<RelayLane>> = const { RefCell::new(Weak::new()) };
}

impl RelayLane {
    /// The one lane of this thread, made by the first of its listeners.
    pub fn here(make: impl FnOnce() -> Rc<Self>) -> Rc<Self> {
        HERE.with(|here| {
            if let Some(lane) = here.borrow().upgrade() {
                return lane;
            }
            let lane = make();
            *here.borrow_mut() = Rc::downgrade(&lane);
            lane
        })
    }

    /// Made on the lane, once; captured by the factories of its listeners. `epoch`: any moment, by the lane's clock.
    pub fn new(settings: &RelaySettings, counters: Arc<RelayCounters>, epoch: Instant) -> Rc<Self> {
        let authority = Authority::new(settings.secret.clone(), settings.users.iter().cloned());
        let both = settings.addresses.iter().flat_map(|address| [address.local, address.public]);
        let own: Vec<IpAddr> = settings.own.iter().copied().chain(both).collect();
        Rc::new(Self {
            front: Front::new(authority, &settings.realm, nonce_key(settings.secret.as_ref())),
            filter: RefCell::new(PeerAddressFilter::new(
                &settings.allow,
                &settings.deny,
                &own,
                &settings.listen,
            )),
            quota: RefCell::new(Quota::new(settings.most_allocations)),
            meters: MeterOffice::new(settings.rate_of_user, settings.rate_of_source),
            strangers: RefCell::default(),
            ports: Ports::new(settings.addresses.clone(), settings.ports.clone()),
            limits: settings.limits,
            held: RefCell::default(),
            switchboard: RefCell::default(),
            reservations: RefCell::default(),
            scratch: RefCell::new(Scratch::new()),
            indication: RefCell::default(),
            counters,
            drops: OnceCell::new(),
            draining: Cell::new(false),
            grumbled: Cell::new(None),
            epoch,
        })
    }

    /// The machines' time.
    pub(crate) fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.epoch)
    }

    pub(crate) fn instant(&self, at: Duration) -> Instant {
        self.epoch + at
    }

    /// Whether what others can cause may be logged: once in ten seconds.
    pub(crate) fn may_grumble(&self, now: Duration) -> bool {
        let may = self.grumbled.get().is_none_or(|at| now >= at + GRUMBLE);
        if may {
            self.grumbled.set(Some(now));
        }
        may
    }

    /// Takes the counters of the lane's drops.
    pub(crate) fn count_by(&self, drops: Drops) {
        let _the_first_are_those_of_all = self.drops.set(drops);
    }

    /// Counts dropped packets.
    pub(crate) fn count(&self, reason: &'static str, packets: u64) {
        if let Some(drops) = self.drops.get() {
            drops.count(reason, packets);
        }
    }

    /// Takes an allocation into the table.
    pub(crate) fn hold(&self, parts: &Rc<Parts>) {
        for relayed in &parts.relayed {
            self.filter.borrow_mut().opened(relayed.public);
            self.switchboard.borrow_mut().insert(relayed.public, Rc::clone(parts));
        }
        parts.way.allocated(true);
        self.counters.began();
        self.held.borrow_mut().insert(parts.five_tuple, Rc::clone(parts));
    }

    /// The relayed address is no longer one.
    pub(crate) fn forget_relayed(&self, relayed: &Relayed) {
        relayed.socket.close();
        self.filter.borrow_mut().closed(relayed.public);
        self.switchboard.borrow_mut().remove(&relayed.public);
    }

    /// Lets an allocation go, with everything that it held.
    pub(crate) fn let_go(&self, five_tuple: FiveTuple) {
        let Some(parts) = self.held.borrow_mut().remove(&five_tuple) else { return };
        for relayed in &parts.relayed {
            self.forget_relayed(relayed);
        }
        parts.way.allocated(false);
        if let Some(share) = parts.share.take() {
            self.quota.borrow_mut().give_back(share);
        }
        self.counters.ended();
    }

    /// The allocation of a client.
    pub(crate) fn of(&self, five_tuple: FiveTuple) -> Option<Rc<Parts>> {
        self.held.borrow().get(&five_tuple).cloned()
    }

    /// The allocation that has this relayed address.
    pub(crate) fn at(&self, relayed: SocketAddr) -> Option<Rc<Parts>> {
        self.switchboard.borrow().get(&relayed).cloned()
    }

    /// Does what concerns one allocation. If that panics, it is this one that ends, not who does it.
    pub(crate) fn contained(&self, parts: &Parts, packets: u64, carry: impl FnOnce()) {
        // Borrows end with the panic, and what the machine has by then goes with it.
        if catch_unwind(AssertUnwindSafe(carry)).is_err() {
            self.count("actor_panicked", packets);
            if let Some(actor) = &*parts.actor.borrow() {
                let _it_may_have_ended = actor.tell(AllocationCommand::Fail);
            }
        }
    }
}

/// What stands in the list of actors for an allocation.
pub(crate) fn key(five_tuple: FiveTuple) -> String {
    let by = match five_tuple.transport {
        Transport::Udp => "",
        Transport::Tcp => BY_TCP,
    };
    format!("{} at {}{by}", five_tuple.client, five_tuple.relay)
}

/// The allocation that stands there under this key.
pub(crate) fn by_key(key: &str) -> Option<FiveTuple> {
    let (rest, transport) = match key.strip_suffix(BY_TCP) {
        Some(rest) => (rest, Transport::Tcp),
        None => (key, Transport::Udp),
    };
    let (client, relay) = rest.split_once(" at ")?;
    Some(FiveTuple { transport, client: client.parse().ok()?, relay: relay.parse().ok()? })
}

const BY_TCP: &str = " by TCP";

/// Of the secret, so that nonces are good over a restart: a client whose allocation was lost by it hears so at once.
fn nonce_key(secret: Option<&RelaySecret>) -> [u8; 32] {
    secret.map_or_else(|| rand::rng().random(), RelaySecret::nonce_key)
}

/// Seconds since 1970: what the expiry of a time-limited credential is measured by.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_key_of_an_allocation_tells_its_five_tuple() {
        for transport in [Transport::Udp, Transport::Tcp] {
            for (client, relay) in [
                ("192.0.2.1:4000", "203.0.113.1:3478"),
                ("[2001:db8::1]:4000", "[2001:db8::2]:3478"),
                ("[fe80::1%3]:4000", "[fe80::2%3]:443"),
            ] {
                let five_tuple =
                    FiveTuple { transport, client: client.parse().unwrap(), relay: relay.parse().unwrap() };

                assert_eq!(by_key(&key(five_tuple)), Some(five_tuple));
            }
        }
    }
}

//! What the relay's actors share on one lane, and what survives them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actors_runtime::{Address, PacketSender};
use ipnet::IpNet;
use protocol_stun::relay::{Authority, Bounds, FiveTuple, Front, Limits, Quota, Rate, Share, Strangers};
use protocol_stun::{Credentials, PeerAddressFilter, RelaySecret};
use rand::Rng;
use tokio::time::Instant;

use crate::allocation::{Allocation, Packets, Parts};
use crate::counters::RelayCounters;
use crate::meters::MeterOffice;
use crate::pool::Pool;
use crate::ports::{Ports, Relayed};
use crate::reservations::Reservations;
use crate::socket::Scratch;

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

/// An allocation as its lane keeps it: machine and sockets outlive the listener's actors.
pub(crate) struct Held {
    pub(crate) key: Arc<str>,
    pub(crate) parts: Rc<Parts>,
    pub(crate) share: Option<Share>,
    /// Set while its actor lives.
    pub(crate) actor: Option<(Address<Allocation>, PacketSender<Packets>)>,
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
    pub(crate) held: RefCell<HashMap<FiveTuple, Held>>,
    /// The same by the actor's key.
    keys: RefCell<HashMap<Arc<str>, FiveTuple>>,
    /// Relayed addresses, as others see them, to the packet mailboxes of their allocations.
    pub(crate) switchboard: RefCell<HashMap<SocketAddr, PacketSender<Packets>>>,
    pub(crate) reservations: RefCell<Reservations>,
    pub(crate) scratch: RefCell<Scratch>,
    pub(crate) pool: Pool,
    pub(crate) counters: Arc<RelayCounters>,
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
            keys: RefCell::default(),
            switchboard: RefCell::default(),
            reservations: RefCell::default(),
            scratch: RefCell::new(Scratch::new()),
            pool: Pool::default(),
            counters,
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

    /// Takes an allocation into the table.
    pub(crate) fn hold(&self, five_tuple: FiveTuple, held: Held) {
        for relayed in &held.parts.relayed {
            self.filter.borrow_mut().opened(relayed.public);
        }
        held.parts.way.allocated(true);
        self.counters.began();
        self.keys.borrow_mut().insert(Arc::clone(&held.key), five_tuple);
        self.held.borrow_mut().insert(five_tuple, held);
    }

    /// Its actor lives: packets find it.
    pub(crate) fn connect(
        &self,
        five_tuple: FiveTuple,
        address: Address<Allocation>,
        packets: PacketSender<Packets>,
    ) {
        let mut table = self.held.borrow_mut();
        let Some(held) = table.get_mut(&five_tuple) else { return };
        for relayed in &held.parts.relayed {
            self.switchboard.borrow_mut().insert(relayed.public, packets.clone());
        }
        held.actor = Some((address, packets));
    }

    /// The relayed address is no longer one.
    pub(crate) fn forget_relayed(&self, relayed: &Relayed) {
        relayed.socket.close();
        self.filter.borrow_mut().closed(relayed.public);
        self.switchboard.borrow_mut().remove(&relayed.public);
    }

    /// Lets an allocation go, with everything that it held.
    pub(crate) fn let_go(&self, five_tuple: FiveTuple) {
        let Some(mut held) = self.held.borrow_mut().remove(&five_tuple) else { return };
        self.keys.borrow_mut().remove(&held.key);
        for relayed in &held.parts.relayed {
            self.forget_relayed(relayed);
        }
        held.parts.way.allocated(false);
        if let Some(share) = held.share.take() {
            self.quota.borrow_mut().give_back(share);
        }
        self.counters.ended();
    }

    pub(crate) fn by_key(&self, key: &str) -> Option<FiveTuple> {
        self.keys.borrow().get(key).copied()
    }

    pub(crate) fn packets_of(&self, five_tuple: FiveTuple) -> Option<PacketSender<Packets>> {
        let table = self.held.borrow();
        table.get(&five_tuple)?.actor.as_ref().map(|(_, packets)| packets.clone())
    }

    pub(crate) fn address_of(&self, five_tuple: FiveTuple) -> Option<Address<Allocation>> {
        let table = self.held.borrow();
        table.get(&five_tuple)?.actor.as_ref().map(|(address, _)| address.clone())
    }
}

/// Of the secret, so that nonces are good over a restart: a client whose allocation was lost by it hears so at once.
fn nonce_key(secret: Option<&RelaySecret>) -> [u8; 32] {
    secret.map_or_else(|| rand::rng().random(), RelaySecret::nonce_key)
}

/// Seconds since 1970: what the expiry of a time-limited credential is measured by.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

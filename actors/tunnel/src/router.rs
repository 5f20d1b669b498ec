//! Which peer a packet of the host is for.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use actors_network::HostPacket;
use actors_runtime::Outlet;
use ipnet::IpNet;
use protocol_control::{InnerAddresses, TrafficFilter};
use protocol_filter::{Access, ClientTable, Outward, PeerSlot, ReplyBuf};
use protocol_identity::ResourceId;
use protocol_packet::{Buffer, Pool};
use protocol_tunnel::lane_of;

/// Packets that wait for an answer of control, for all resources together. A TCP connection that opens sends one; a few
/// hundred milliseconds of a small burst fit too.
const WAITING: usize = 64;

/// Decides where packets of the host go.
pub enum Router {
    /// At a gateway: by the device's tunnel address.
    Gateway(GatewayRouter),
    /// At a client: by resource.
    Client(Box<ClientRouter>),
}

/// At a gateway: by the device's tunnel address.
pub struct GatewayRouter {
    by_address: HashMap<IpAddr, u16>,
    lane: u8,
    lanes: u8,
}

/// At a client: by resource, with those waiting whose access was asked for.
pub struct ClientRouter {
    table: ClientTable,
    reply: ReplyBuf,
    waiting: VecDeque<(ResourceId, HostPacket)>,
    ask: Outlet<ResourceId>,
}

/// A change of a client's table.
#[derive(Debug, Clone)]
pub enum RouterChange {
    /// The device's own tunnel addresses.
    Inner(InnerAddresses),
    /// A resource, new or changed.
    Put {
        /// The resource.
        resource: ResourceId,
        /// Its prefixes; of a name those of its mapped addresses.
        prefixes: Vec<IpNet>,
        /// What it lets through.
        filters: Vec<TrafficFilter>,
    },
    /// Only these resources stay.
    Retain(BTreeSet<ResourceId>),
    /// What is known about access to a resource; ends are on [`lasting_time`].
    Access {
        /// The resource.
        resource: ResourceId,
        /// What is known.
        access: Access,
    },
}

/// Where a packet of the host goes.
pub(crate) enum Route {
    /// To the peer in this slot.
    Peer(u16),
    /// To a peer of this lane.
    Elsewhere(u8),
    /// Nowhere, and this goes back to the host.
    Answer {
        /// Why, for the counter.
        reason: &'static str,
        /// What goes back.
        answer: Buffer,
    },
    /// It waits for access to this resource.
    Wait(ResourceId),
    /// Nowhere.
    Drop(&'static str),
}

impl Router {
    /// A gateway's router on one of its lanes.
    pub fn gateway(lane: u8, lanes: u8) -> Self {
        Self::Gateway(GatewayRouter { by_address: HashMap::new(), lane, lanes })
    }

    /// A client's router, which asks for access at `ask`.
    pub fn client(ask: Outlet<ResourceId>) -> Self {
        Self::Client(Box::new(ClientRouter {
            table: ClientTable::new(Vec::new()),
            reply: ReplyBuf::new(),
            waiting: VecDeque::with_capacity(WAITING),
            ask,
        }))
    }

    pub(crate) fn add_peer(&mut self, slot: u16, inner: &InnerAddresses) {
        if let Self::Gateway(router) = self {
            router.by_address.insert(inner.v4.into(), slot);
            router.by_address.insert(inner.v6.into(), slot);
        }
    }

    pub(crate) fn remove_peer(&mut self, slot: u16, inner: &InnerAddresses) {
        match self {
            Self::Gateway(router) => {
                for address in [IpAddr::from(inner.v4), IpAddr::from(inner.v6)] {
                    if router.by_address.get(&address) == Some(&slot) {
                        router.by_address.remove(&address);
                    }
                }
            }
            Self::Client(router) => router.table.forget_peer(PeerSlot(slot.into())),
        }
    }

    pub(crate) fn route(&mut self, packet: &mut HostPacket, pool: &Pool, now: Duration) -> Route {
        match self {
            Self::Gateway(router) => match destination(packet.bytes()) {
                Some(address) => match (router.by_address.get(&address), lane_of(address, router.lanes)) {
                    (Some(slot), _) => Route::Peer(*slot),
                    (None, lane) if lane != router.lane => Route::Elsewhere(lane),
                    (None, _) => Route::Drop("no_such_device"),
                },
                None => Route::Drop("malformed"),
            },
            Self::Client(router) => router.route(packet, pool, now),
        }
    }

    /// Keeps a packet until access is decided; the reason if there is no room.
    pub(crate) fn hold(&mut self, resource: ResourceId, packet: HostPacket) -> Option<&'static str> {
        let Self::Client(router) = self else { return Some("no_such_device") };
        if router.waiting.len() >= WAITING {
            return Some("waiting_full");
        }
        router.waiting.push_back((resource, packet));
        None
    }

    /// Changes the table, and returns the packets that are to be routed again.
    pub(crate) fn change_all(&mut self, changes: Vec<RouterChange>) -> Vec<HostPacket> {
        let mut released = Vec::new();
        let mut changes = changes.into_iter().peekable();
        while let Some(change) = changes.next() {
            let RouterChange::Put { resource, prefixes, filters } = change else {
                released.extend(self.change(change));
                continue;
            };
            // Each change of the prefixes builds their table anew: those that follow each other do so once.
            let mut puts = vec![(resource, prefixes, filters)];
            while let Some(RouterChange::Put { resource, prefixes, filters }) =
                changes.next_if(|next| matches!(next, RouterChange::Put { .. }))
            {
                puts.push((resource, prefixes, filters));
            }
            if let Self::Client(router) = self {
                router.table.put_all(puts);
            }
        }
        released
    }

    fn change(&mut self, change: RouterChange) -> Vec<HostPacket> {
        let Self::Client(router) = self else { return Vec::new() };
        let decided = match change {
            RouterChange::Inner(inner) => {
                router.table.set_inner(vec![inner.v4.into(), inner.v6.into()]);
                return Vec::new();
            }
            RouterChange::Put { resource, prefixes, filters } => {
                router.table.put(resource, prefixes, filters);
                return Vec::new();
            }
            RouterChange::Retain(resources) => {
                router.table.retain(|resource| resources.contains(&resource));
                router.waiting.retain(|(resource, _)| resources.contains(resource));
                return Vec::new();
            }
            RouterChange::Access { resource, access } => {
                router.table.set(resource, access);
                match access {
                    Access::Pending => return Vec::new(),
                    Access::Granted(_) | Access::Denied { .. } | Access::Unknown => resource,
                }
            }
        };
        let (again, waiting): (Vec<_>, Vec<_>) =
            router.waiting.drain(..).partition(|(resource, _)| *resource == decided);
        router.waiting.extend(waiting);
        again.into_iter().map(|(_, packet)| packet).collect()
    }

    /// Checks a packet that a gateway sent; its own length.
    pub(crate) fn admit(&self, slot: u16, packet: &[u8]) -> Result<usize, &'static str> {
        let Self::Client(router) = self else { return Err("no_such_device") };
        router.table.inward(packet, PeerSlot(slot.into())).map_err(|reason| reason.as_str())
    }
}

impl ClientRouter {
    fn route(&mut self, packet: &mut HostPacket, pool: &Pool, now: Duration) -> Route {
        match self.table.outward(packet.bytes(), now, &mut self.reply) {
            Outward::ToPeer { peer, length } => {
                packet.truncate(length);
                match u16::try_from(peer.0) {
                    Ok(slot) => Route::Peer(slot),
                    Err(_) => Route::Drop("no_such_peer"),
                }
            }
            Outward::AskAccess(resource) => {
                // Should the question be lost, the next packet asks again.
                if self.ask.tell(resource).is_ok() {
                    self.table.set(resource, Access::Pending);
                }
                Route::Wait(resource)
            }
            Outward::Wait(resource) => Route::Wait(resource),
            Outward::Refuse(reason) => match pool.filled(&self.reply) {
                Some(answer) => Route::Answer { reason: reason.as_str(), answer },
                None => Route::Drop(reason.as_str()),
            },
            Outward::Drop(reason) => Route::Drop(reason.as_str()),
        }
    }
}

/// The destination address of an IP packet, by its fixed offset.
fn destination(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20).and_then(|b| <[u8; 4]>::try_from(b).ok()).map(|b| Ipv4Addr::from(b).into()),
        6 => packet.get(24..40).and_then(|b| <[u8; 16]>::try_from(b).ok()).map(|b| Ipv6Addr::from(b).into()),
        _ => None,
    }
}

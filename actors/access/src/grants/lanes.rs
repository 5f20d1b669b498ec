//! What the lanes and the host have to be told, in order, and no faster than they take it.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actors_network::{HostPlan, RoutesCommand, STUB_ADDRESS};
use actors_runtime::{Cx, Rejected};
use actors_tunnel::{PeersCommand, RouterChange, lasting_time};
use ipnet::IpNet;
use protocol_control::{ResourceAddress, ResourceView};
use protocol_filter::Access;
use protocol_identity::ResourceId;

use super::Grants;
use super::known::{Known, Stand};
use crate::grants::Decided;

/// How long a resource that is gone is still refused, rather than unknown.
const DEPART_WITHIN: Duration = Duration::from_secs(5);
/// How long what did not fit into a neighbour's mailbox waits.
const TRY_AGAIN: Duration = Duration::from_millis(20);
/// Changes of the lanes' table in one message, so that a lane spends well under a millisecond on it.
const MOST_AT_ONCE: usize = 1024;
/// Messages that wait for a neighbour who takes nothing. Then we begin anew, and tell what holds instead of what changed.
const MOST_DUE: usize = 4096;

/// What is still to be told.
#[derive(Default)]
pub(super) struct Due {
    peers: VecDeque<PeersCommand>,
    /// Names and routes.
    pub(super) host: bool,
    again: bool,
}

impl Grants {
    pub(super) fn tell_peers(&mut self, command: PeersCommand) {
        self.due.peers.push_back(command);
    }

    pub(super) fn route(&mut self, change: RouterChange) {
        match self.due.peers.back_mut() {
            Some(PeersCommand::Route(changes)) if changes.len() < MOST_AT_ONCE => changes.push(change),
            Some(_) | None => self.due.peers.push_back(PeersCommand::Route(vec![change])),
        }
    }

    /// Tells what is due; what does not fit follows a little later.
    pub(super) fn flush(&mut self, cx: &mut Cx<Self>) {
        let mut is_late = false;
        while let Some(command) = self.due.peers.pop_front() {
            if let Err(Rejected::Full(command)) = self.peers.tell(command) {
                cx.count_drop("peers_command_late", 1);
                self.due.peers.push_front(command);
                is_late = true;
                break;
            }
        }
        if self.due.peers.len() > MOST_DUE {
            tracing::warn!("the peers take nothing: the grants begin anew");
            return cx.fail();
        }
        if self.due.host {
            self.due.host = !self.tell_host();
            is_late |= self.due.host;
        }
        if is_late && !std::mem::replace(&mut self.due.again, true) {
            let pause = cx.sleep(TRY_AGAIN);
            cx.spawn(pause, |me, (), cx| {
                me.due.again = false;
                me.flush(cx);
            });
        }
    }

    /// Tells the host which names and routes there are. `false`: it could not be told.
    fn tell_host(&self) -> bool {
        let names = self.resources.values().filter_map(|known| match &known.view.address {
            ResourceAddress::Dns(name) => Some(name.clone()),
            ResourceAddress::Cidr(_) | ResourceAddress::Ip(_) => None,
        });
        let told = !matches!(self.settings.names.tell(names.collect()), Err(Rejected::Full(())));
        let Some((_, _, inner)) = &self.device else {
            let cleared = self.routes.tell(RoutesCommand::Clear { done: None });
            return told && !matches!(cleared, Err(Rejected::Full(_)));
        };
        let mut routes: Vec<IpNet> = mapped_ranges();
        let known = self.resources.values().map(|known| &known.view.address);
        for address in known.chain(self.departing.values()) {
            match address {
                ResourceAddress::Cidr(net) => routes.push(net.trunc()),
                ResourceAddress::Ip(address) => routes.push(IpNet::from(*address)),
                ResourceAddress::Dns(_) => {}
            }
        }
        let relays = self.relays.iter().flat_map(|relay| {
            let tls = relay.tls.iter().flat_map(|tls| &tls.addresses);
            relay.addresses.iter().chain(tls).map(|address| address.ip())
        });
        let plan = HostPlan {
            addresses: vec![inner.v4.into(), inner.v6.into(), STUB_ADDRESS.into()],
            routes,
            outside: (self.settings.outside)().into_iter().chain(relays).collect(),
            default_route_consent: false,
        };
        let applied = self.routes.tell(RoutesCommand::Apply { plan: Arc::new(plan), done: None });
        told && !matches!(applied, Err(Rejected::Full(_)))
    }

    pub(super) fn put(&mut self, view: ResourceView) {
        let resource = view.resource;
        if self.departing.remove(&resource).is_some() {
            self.route(RouterChange::Access { resource, access: Access::Unknown });
        }
        match self.resources.get_mut(&resource) {
            Some(known) => {
                if known.view.address != view.address {
                    known.mapped = None;
                }
                known.view = view;
            }
            None => {
                let known = Known { view, mapped: None, stand: Stand::Unused, waiting: Vec::new() };
                self.resources.insert(resource, known);
            }
        }
        self.put_route(resource);
    }

    pub(super) fn put_route(&mut self, resource: ResourceId) {
        let Some(known) = self.resources.get(&resource) else { return };
        let prefixes = match (&known.view.address, &known.mapped) {
            (ResourceAddress::Cidr(net), _) => vec![net.trunc()],
            (ResourceAddress::Ip(address), _) => vec![IpNet::from(*address)],
            (ResourceAddress::Dns(_), None) => Vec::new(),
            (ResourceAddress::Dns(_), Some(mapped)) => {
                vec![IpNet::from(IpAddr::from(mapped.v4)), IpNet::from(IpAddr::from(mapped.v6))]
            }
        };
        let filters = known.view.filters.clone();
        self.route(RouterChange::Put { resource, prefixes, filters });
    }

    /// The set of resources changed: names and routes follow.
    pub(super) fn resources_changed(&mut self) {
        self.due.host = true;
    }

    /// A resource is gone. Its connections are refused for a moment longer, while their ends come in, before its routes
    /// go: otherwise they would hang, and their packets leave on the host's other interfaces.
    pub(super) fn forget(&mut self, resource: ResourceId, cx: &mut Cx<Self>) {
        let Some(known) = self.resources.remove(&resource) else { return };
        for waiting in known.waiting {
            waiting.send(Decided::Unknown);
        }
        self.departing.insert(resource, known.view.address);
        let again = lasting_time() + 2 * DEPART_WITHIN;
        self.route(RouterChange::Access { resource, access: Access::Denied { again } });
        let sleep = cx.sleep(DEPART_WITHIN);
        cx.spawn(sleep, move |me, (), cx| {
            if me.departing.remove(&resource).is_some() {
                me.retain();
                me.resources_changed();
                me.flush(cx);
            }
        });
    }

    /// Only what is known, or going, stays in the lanes' tables.
    pub(super) fn retain(&mut self) {
        let ids = self.resources.keys().chain(self.departing.keys()).copied().collect();
        self.route(RouterChange::Retain(ids));
    }

    /// Ends every connection, and forgets every resource.
    pub(super) fn drop_everything(&mut self, cx: &mut Cx<Self>) {
        let resources: Vec<ResourceId> = self.resources.keys().copied().collect();
        resources.into_iter().for_each(|resource| self.forget(resource, cx));
        self.departing.clear();
        self.retain();
        for gateway in std::mem::take(&mut self.gateways).into_values() {
            self.tell_peers(PeersCommand::Disconnect { slot: gateway.slot });
        }
    }

    pub(super) fn down(&mut self, cx: &mut Cx<Self>) {
        self.drop_everything(cx);
        self.tell_peers(PeersCommand::Relays(Vec::new()));
        self.relays.clear();
        self.device = None;
        self.up = false;
        self.due.host = true;
        cx.wake_never();
    }
}

/// Stand-ins of names: routed into the tunnel whether or not one is in use.
fn mapped_ranges() -> Vec<IpNet> {
    ["100.96.0.0/11", "fd70:6f73:7402::/64"].into_iter().filter_map(|net| net.parse().ok()).collect()
}

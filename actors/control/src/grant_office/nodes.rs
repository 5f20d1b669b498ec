//! Nodes come and go, and say where they are.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use protocol_control::{
    Authorize, Candidate, ClientState, GatewayState, MAX_CANDIDATES, Peer, ResourceView, ToNode, Welcome,
};
use protocol_identity::{DeviceId, GatewayId, GrantId, RelayId, ResourceId};

use super::office::{Office, OnlineDevice, OnlineGateway, Open, remaining};
use crate::model::inner_addresses;
use crate::relay_registry::Relays;

/// A node measures a handful of relays; more is nonsense.
const MAX_ROUND_TRIPS: usize = 64;

impl Office {
    /// The resources that a device knows, as it sees them.
    pub fn known_to(&self, device: DeviceId) -> BTreeMap<ResourceId, ResourceView> {
        let Some(device) = self.model.devices.get(&device) else { return BTreeMap::new() };
        self.model
            .index
            .known_to(device.principal)
            .into_iter()
            .filter_map(|id| {
                self.model.records.resources.get(&id).map(|resource| (id, self.model.view(resource)))
            })
            .collect()
    }

    /// A client is connected: it gets its full state. `false`: there is no such device.
    pub fn handle_device(
        &mut self,
        device: DeviceId,
        connection: u64,
        source: Option<IpAddr>,
        now: Timestamp,
    ) -> bool {
        let Some(record) = self.model.devices.get(&device) else { return false };
        let (principal, host) = (record.principal, record.host);
        let known = self.known_to(device);
        let online = OnlineDevice { connection, source, known: known.clone(), ..OnlineDevice::default() };
        self.devices.insert(device, online);
        // It may come from another address than before: what that changes is changed before it hears of its grants.
        // Nothing waits any more for what its last session asked.
        let own: Vec<GrantId> = self.grants_of_device(device).map(|grant| grant.id).collect();
        for id in &own {
            if let Some(waiting) = self.grants.get_mut(id).and_then(|grant| grant.waiting.as_mut()) {
                waiting.request = 0;
            }
        }
        self.review(&own, now);
        let state = ClientState {
            device,
            account: self.account,
            principal: self
                .model
                .records
                .principals
                .get(&principal)
                .map(|it| it.name.clone())
                .unwrap_or_default(),
            addresses: inner_addresses(host),
            resources: known.into_values().collect(),
            relays: self.relays.offers(device.0, self.credential_lifetime(), now),
            grants: self
                .grants_of_device(device)
                .filter(|grant| grant.confirmed.is_some())
                .map(|grant| (grant.id, grant.resource, grant.gateway, remaining(grant.lease, now)))
                .collect(),
        };
        if let Some(online) = self.devices.get_mut(&device) {
            online.welcomed = true;
        }
        self.tell_device(device, ToNode::Welcome(Box::new(Welcome::Client(state))));
        true
    }

    /// A gateway is connected: it gets its full state. `false`: there is no such gateway.
    pub fn handle_gateway(&mut self, gateway: GatewayId, connection: u64, now: Timestamp) -> bool {
        let Some(record) = self.model.gateways.get(&gateway) else { return false };
        let (site, host) = (record.site, record.host);
        self.gateways.insert(gateway, OnlineGateway { connection, ..OnlineGateway::default() });
        let mut own: Vec<&Open> = self.grants_at(gateway).collect();
        // Renewing a grant changes its version and not the process that asked for it.
        own.sort_by_key(|grant| (grant.offered, grant.version));
        let grants: Vec<Authorize> =
            own.into_iter().filter_map(|grant| self.authorization(grant, now)).collect();
        let moved: Vec<(DeviceId, Vec<Candidate>)> = grants
            .iter()
            .filter_map(|grant| {
                let device = grant.offer.device;
                Some((device, self.devices.get(&device)?.candidates.clone()?))
            })
            .collect();
        let state = GatewayState {
            gateway,
            account: self.account,
            site: self.model.sites.get(&site).map(|site| site.name.clone()).unwrap_or_default(),
            addresses: inner_addresses(host),
            grants,
            relays: self.relays.offers(gateway.0, self.credential_lifetime(), now),
            takes_flows: true,
        };
        self.tell_gateway(gateway, ToNode::Welcome(Box::new(Welcome::Gateway(state))));
        for (device, candidates) in moved {
            self.tell_gateway(gateway, ToNode::Candidates { of: Peer::Device(device), candidates });
        }
        true
    }

    /// A client's session has ended. Its grants stay: the data plane outlives it.
    pub fn handle_device_gone(&mut self, device: DeviceId, connection: u64) {
        if self.devices.get(&device).is_some_and(|online| online.connection == connection) {
            self.devices.remove(&device);
        }
    }

    /// A gateway's session has ended. Its grants stay, and what it was asked it finds in its next full state, if it is
    /// back in time.
    pub fn handle_gateway_gone(&mut self, gateway: GatewayId, connection: u64) {
        if self.gateways.get(&gateway).is_some_and(|online| online.connection == connection) {
            self.gateways.remove(&gateway);
        }
    }

    /// A client has new candidates: its gateways hear of them.
    pub fn handle_device_candidates(&mut self, device: DeviceId, mut candidates: Vec<Candidate>) {
        candidates.truncate(MAX_CANDIDATES);
        let Some(online) = self.devices.get_mut(&device) else { return };
        online.candidates = Some(candidates.clone());
        let mut gateways: Vec<GatewayId> = self.grants_of_device(device).map(|grant| grant.gateway).collect();
        gateways.sort_unstable();
        gateways.dedup();
        for gateway in gateways {
            let candidates = candidates.clone();
            self.tell_gateway(gateway, ToNode::Candidates { of: Peer::Device(device), candidates });
        }
    }

    /// A gateway has new candidates: its clients hear of them.
    pub fn handle_gateway_candidates(&mut self, gateway: GatewayId, mut candidates: Vec<Candidate>) {
        candidates.truncate(MAX_CANDIDATES);
        let mut devices: Vec<DeviceId> = self.grants_at(gateway).map(|grant| grant.device).collect();
        devices.sort_unstable();
        devices.dedup();
        for device in devices {
            let candidates = candidates.clone();
            self.tell_device(device, ToNode::Candidates { of: Peer::Gateway(gateway), candidates });
        }
    }

    /// A client has measured relays.
    pub fn handle_device_round_trips(&mut self, device: DeviceId, measured: Vec<(RelayId, Duration)>) {
        if let Some(online) = self.devices.get_mut(&device) {
            online.round_trips = measured.into_iter().take(MAX_ROUND_TRIPS).collect();
        }
    }

    /// A gateway has measured relays.
    pub fn handle_gateway_round_trips(&mut self, gateway: GatewayId, measured: Vec<(RelayId, Duration)>) {
        if let Some(online) = self.gateways.get_mut(&gateway) {
            online.round_trips = measured.into_iter().take(MAX_ROUND_TRIPS).collect();
        }
    }

    /// Relays came or went: every node hears of all of them.
    pub fn handle_relays(&mut self, relays: Relays, now: Timestamp) {
        self.relays = relays;
        self.offer_relays(now);
    }

    /// Offers the relays to every node, with fresh credentials.
    pub fn offer_relays(&mut self, now: Timestamp) {
        self.credentials_due = self.next_credentials(now);
        let lifetime = self.credential_lifetime();
        for gateway in self.gateways.keys().copied().collect::<Vec<_>>() {
            let offers = self.relays.offers(gateway.0, lifetime, now);
            self.tell_gateway(gateway, ToNode::Relays(offers));
        }
        for device in self.devices.keys().copied().collect::<Vec<_>>() {
            let offers = self.relays.offers(device.0, lifetime, now);
            self.tell_device(device, ToNode::Relays(offers));
        }
    }
}

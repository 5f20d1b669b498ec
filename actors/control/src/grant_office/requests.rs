//! A client asks for access.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use protocol_control::{DenyReason, MappedName, RequestAccess, ResourceAddress, ToNode};
use protocol_identity::{DeviceId, GatewayId, GrantId, RelayId, SiteId};
use protocol_policy::{Decision, OwnView, Verdict};

use super::office::{APPLY_WITHIN, NOTE_AGAIN, Office, Open, Output, Waiting};
use crate::model::{Device, Kind, Resource};
use crate::storage::{Note, Op};

/// What is not measured counts as far away.
const UNMEASURED: Duration = Duration::from_secs(10);
/// Gateways whose round trips fall into one step of this width are equally near: among them load decides.
const EQUALLY_NEAR: Duration = Duration::from_millis(20);

/// A denial as the denied person may know it.
pub(super) fn deny_reason(decision: &Decision) -> DenyReason {
    match decision.own_view() {
        Some(OwnView::DenyRule { rule }) => DenyReason::DenyRule { rule },
        Some(OwnView::Condition { rule, asks_for }) => DenyReason::Condition { rule, attribute: asks_for },
        Some(OwnView::UnknownResource) => DenyReason::UnknownResource,
        Some(OwnView::NoRule | OwnView::Disabled) | None => DenyReason::NoRule,
    }
}

/// Whether the name belongs to the resource: a `dns` resource is asked for by its own name, others without one.
fn name_fits(address: &ResourceAddress, name: Option<&MappedName>) -> bool {
    match (address, name) {
        (ResourceAddress::Dns(own), Some(mapped)) => mapped.name == *own,
        (ResourceAddress::Cidr(_) | ResourceAddress::Ip(_), None) => true,
        (ResourceAddress::Dns(_), None) | (ResourceAddress::Cidr(_) | ResourceAddress::Ip(_), Some(_)) => {
            false
        }
    }
}

impl Office {
    /// A device asks: it is granted what policy allows, through a gateway that serves it, or told why not.
    pub fn handle_request(&mut self, device: DeviceId, asked: RequestAccess, now: Timestamp) {
        let _span =
            tracing::info_span!("access is asked for", %device, resource = %asked.offer.resource).entered();
        let resource = asked.offer.resource;
        let request = asked.request;
        let deny = |office: &mut Self, reason| {
            office.tell_device(device, ToNode::Denied { request, resource, reason });
        };
        let Some(known) = self.model.devices.get(&device) else { return };
        if asked.offer.device != device || asked.offer.verify(&known.identity).is_err() {
            return deny(self, DenyReason::BadRequest);
        }
        // What a device may not know of does not exist for it.
        let target = self
            .model
            .records
            .resources
            .get(&resource)
            .filter(|_| self.model.index.learns(known.principal, resource));
        let Some(target) = target.cloned() else { return deny(self, DenyReason::UnknownResource) };
        if !name_fits(&target.address, asked.name.as_ref()) {
            return deny(self, DenyReason::BadRequest);
        }

        let place = Self::place(device, resource, asked.name.as_ref());
        let open = self.places.get(&place).and_then(|id| self.grants.get(id));
        let since = open.map_or(now, |open| open.since);
        let open = open.map(|open| (open.id, open.gateway));
        let source = self.devices.get(&device).and_then(|online| online.source);
        // A grant that has run out its longest session begins anew when it is asked for again.
        let decision = [since, now]
            .into_iter()
            .filter_map(|since| {
                self.decide(device, resource, source, since, now).map(|decision| (since, decision))
            })
            .reduce(|first, second| if matches!(first.1, Verdict::Allowed { .. }) { first } else { second });
        let Some((since, decision)) = decision else { return };
        let Verdict::Allowed { policy, end } = decision else {
            let Some(decision) = self.explained(device, resource, source, since, now) else { return };
            let reason = deny_reason(&decision);
            if let Some((id, _)) = open {
                self.revoke(id, reason.clone(), &decision.reason());
            }
            self.note_denial(device, &target, &decision, now);
            return deny(self, reason);
        };

        let waiting =
            Some(Waiting { request, until: now.checked_add(APPLY_WITHIN).unwrap_or(Timestamp::MAX) });
        if let Some((id, gateway)) = open {
            if self.gateways.contains_key(&gateway) {
                let lease = self.lease(end, now);
                let view = self.model.view(&target);
                if let Some(grant) = self.grants.get_mut(&id) {
                    (grant.policy, grant.ends, grant.lease, grant.since) = (policy, end, lease, since);
                    (grant.offer, grant.name, grant.source) = (asked.offer, asked.name, source);
                    (grant.view, grant.waiting, grant.looked_ahead) = (view, waiting, false);
                }
                self.authorize(id, now);
                self.offered(id);
                return self.schedule(id);
            }
            // Its gateway is away, and may serve on: without another one the grant stays as it is.
            if self.choose_gateway(target.site, device).is_none() {
                return deny(self, DenyReason::NoGateway);
            }
            // Another one takes over, and the old grant is not in its next full state.
            if self.remove(id).is_some() {
                let detail = serde_json::json!({ "device": device, "resource": resource, "why": "its gateway is away" });
                self.output(Output::Write(Op::End(id, detail)));
            }
        }
        let Some(gateway) = self.choose_gateway(target.site, device) else {
            return deny(self, DenyReason::NoGateway);
        };
        let id = GrantId::fresh();
        let view = self.model.view(&target);
        self.insert(Open {
            id,
            device,
            resource,
            gateway,
            policy,
            relay: self.choose_relay(device, gateway),
            version: protocol_control::GrantVersion(0),
            source,
            offer: asked.offer,
            offered: protocol_control::GrantVersion(0),
            name: asked.name,
            since: now,
            ends: end,
            lease: self.lease(end, now),
            view,
            confirmed: None,
            kept: None,
            waiting,
            looked_ahead: false,
        });
        self.authorize(id, now);
        self.offered(id);
        if let Some(online) = self.devices.get_mut(&device) {
            online.denied.remove(&resource);
        }
    }

    /// The present version of a grant is the one that its offer came with.
    fn offered(&mut self, id: GrantId) {
        if let Some(grant) = self.grants.get_mut(&id) {
            grant.offered = grant.version;
        }
    }

    /// A gateway of the site that is online and in service: the one that the device has a session with, else the nearest,
    /// and of those that are equally near the one with the fewest grants.
    fn choose_gateway(&self, site: SiteId, device: DeviceId) -> Option<GatewayId> {
        let serves = |id: &&GatewayId| {
            self.model.gateways.get(id).is_some_and(|gateway| gateway.site == site && !gateway.draining)
        };
        self.gateways
            .keys()
            .filter(serves)
            .min_by_key(|id| {
                let met = self.grants_of_device(device).any(|grant| grant.gateway == **id);
                let near = self.round_trip(device, **id).as_millis() / EQUALLY_NEAR.as_millis();
                (!met, near, self.load_of(**id), **id)
            })
            .copied()
    }

    /// How far apart a device and a gateway are over the relay that is best for both, as far as they have measured.
    fn round_trip(&self, device: DeviceId, gateway: GatewayId) -> Duration {
        let (Some(device), Some(gateway)) = (self.devices.get(&device), self.gateways.get(&gateway)) else {
            return UNMEASURED;
        };
        let both = |(relay, to): (&RelayId, &Duration)| Some(*to + *gateway.round_trips.get(relay)?);
        device.round_trips.iter().filter_map(both).min().unwrap_or(UNMEASURED)
    }

    fn choose_relay(&self, device: DeviceId, gateway: GatewayId) -> Option<RelayId> {
        let device = self.devices.get(&device).map(|online| &online.round_trips);
        let gateway = self.gateways.get(&gateway).map(|online| &online.round_trips);
        self.relays.open().map(|relay| relay.relay).min_by_key(|relay| {
            let leg = |measured: Option<&BTreeMap<RelayId, Duration>>| {
                measured.and_then(|measured| measured.get(relay)).copied().unwrap_or(UNMEASURED)
            };
            (leg(device) + leg(gateway), *relay)
        })
    }

    fn note_denial(&mut self, device: DeviceId, resource: &Resource, decision: &Decision, now: Timestamp) {
        let name = self.model.devices.get(&device).map(|Device { name, .. }| name.clone());
        let Some(online) = self.devices.get_mut(&device) else { return };
        let noted = online.denied.get(&resource.id);
        if noted
            .is_some_and(|at| Duration::try_from(now.duration_since(*at)).is_ok_and(|ago| ago < NOTE_AGAIN))
        {
            return;
        }
        online.denied.insert(resource.id, now);
        self.output(Output::Write(Op::Note(Note {
            action: "denied",
            kind: Kind::Resource,
            id: Some(resource.id.0),
            name: Some(resource.name.clone()),
            detail: serde_json::json!({ "device": device, "device_name": name, "why": decision.reason() }),
        })));
    }
}

//! The grants of one account as a pure machine: feed it with `handle_*`, drain [`Office::poll_output`], sleep no longer
//! than [`Office::poll_timeout`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use protocol_control::{
    Answer, Authorize, Candidate, DenyReason, GrantVersion, Granted, MappedName, Offer, ResourceView, ToNode,
};
use protocol_identity::{AccountId, DeviceId, GatewayId, GrantId, PolicyId, RelayId, ResourceId};
use protocol_policy::{Context, Decision, Explanation, Reason, Request, Verdict};

use super::model::Model;
use crate::countries::Countries;
use crate::model::{Device, Grant, GrantState, inner_addresses};
use crate::relay_registry::Relays;
use crate::storage::{Everything, Op};

/// How long a gateway may take to install a grant. It asks its relay and resolves names meanwhile.
pub(super) const APPLY_WITHIN: Duration = Duration::from_secs(10);
/// Before a grant ends by time, another rule may carry it on: it is looked at this much earlier.
pub(super) const LOOK_AHEAD: Duration = Duration::from_secs(2);
/// The same denial is noted again only after this long, so that a device that keeps asking cannot fill the log.
pub(super) const NOTE_AGAIN: Duration = Duration::from_secs(60);

/// What the office wants.
#[allow(clippy::large_enum_variant, reason = "they are taken out one by one")]
pub(super) enum Output {
    /// Tell a device.
    ToDevice(DeviceId, Box<ToNode>),
    /// Tell a gateway.
    ToGateway(GatewayId, Box<ToNode>),
    /// Keep a grant, and come back with [`Office::handle_kept`].
    Keep(Box<Grant>),
    /// Write this; nothing waits for it.
    Write(Op),
    /// The log has moved on without us: come back with [`Office::handle_loaded`].
    Reload,
}

/// What a gateway said about a grant.
#[derive(Debug, Clone)]
pub(super) struct Confirmed {
    pub answer: Answer,
    pub has_v4: bool,
    pub has_v6: bool,
}

/// A client that waits for an answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Waiting {
    pub request: u64,
    pub until: Timestamp,
}

/// A grant that the office follows.
#[derive(Debug, Clone)]
pub(super) struct Open {
    pub id: GrantId,
    pub device: DeviceId,
    pub resource: ResourceId,
    pub gateway: GatewayId,
    pub policy: PolicyId,
    pub relay: Option<RelayId>,
    pub version: GrantVersion,
    pub source: Option<IpAddr>,
    pub offer: Offer,
    /// The version under which the offer came: of two processes of a device, the one that offered last lives.
    pub offered: GrantVersion,
    pub name: Option<MappedName>,
    pub since: Timestamp,
    /// When policy ends it.
    pub ends: Option<Timestamp>,
    /// When the gateway ends it unless told otherwise.
    pub lease: Timestamp,
    /// The resource as the gateway was told of it.
    pub view: ResourceView,
    /// Set once the gateway has installed it.
    pub confirmed: Option<Confirmed>,
    /// The version that storage has kept.
    pub kept: Option<GrantVersion>,
    /// The client still has to be told.
    pub waiting: Option<Waiting>,
    /// Whether it was looked at shortly before its end.
    pub looked_ahead: bool,
}

/// What finds the grant of a request: device, resource, and the name for a `dns` resource.
pub(super) type Place = (DeviceId, ResourceId, Option<String>);

/// A connected device.
#[derive(Debug, Default)]
pub(super) struct OnlineDevice {
    pub connection: u64,
    /// Whether it has been sent its full state.
    pub welcomed: bool,
    pub source: Option<IpAddr>,
    /// The resources as it was told of them.
    pub known: BTreeMap<ResourceId, ResourceView>,
    /// What it was denied, and when that was last noted.
    pub denied: BTreeMap<ResourceId, Timestamp>,
    pub round_trips: BTreeMap<RelayId, Duration>,
    pub candidates: Option<Vec<Candidate>>,
}

/// A connected gateway.
#[derive(Debug, Default)]
pub(super) struct OnlineGateway {
    pub connection: u64,
    pub round_trips: BTreeMap<RelayId, Duration>,
}

/// The grants of one account.
pub(super) struct Office {
    pub account: AccountId,
    pub max_partition: Duration,
    pub model: Model,
    pub countries: Countries,
    pub relays: Relays,
    pub devices: BTreeMap<DeviceId, OnlineDevice>,
    pub gateways: BTreeMap<GatewayId, OnlineGateway>,
    pub grants: BTreeMap<GrantId, Open>,
    pub places: BTreeMap<Place, GrantId>,
    of_device: BTreeMap<DeviceId, BTreeSet<GrantId>>,
    of_resource: BTreeMap<ResourceId, BTreeSet<GrantId>>,
    of_gateway: BTreeMap<GatewayId, BTreeSet<GrantId>>,
    agenda: BTreeSet<(Timestamp, GrantId)>,
    due: BTreeMap<GrantId, Timestamp>,
    pub credentials_due: Timestamp,
    epoch: u64,
    counter: u64,
    outputs: VecDeque<Output>,
}

impl Office {
    /// Starts from everything that is stored. `epoch` is higher at each start; versions begin with it, so that they
    /// only ever grow.
    pub fn new(
        account: AccountId,
        max_partition: Duration,
        epoch: u64,
        everything: Everything,
        relays: Relays,
        countries: Countries,
        now: Timestamp,
    ) -> Self {
        let (model, grants) = Model::load(everything, now);
        let mut office = Self {
            account,
            max_partition,
            model,
            countries,
            relays,
            devices: BTreeMap::new(),
            gateways: BTreeMap::new(),
            grants: BTreeMap::new(),
            places: BTreeMap::new(),
            of_device: BTreeMap::new(),
            of_resource: BTreeMap::new(),
            of_gateway: BTreeMap::new(),
            agenda: BTreeSet::new(),
            due: BTreeMap::new(),
            credentials_due: now,
            epoch,
            counter: 0,
            outputs: VecDeque::new(),
        };
        for grant in grants {
            office.adopt(grant);
        }
        let all: Vec<GrantId> = office.grants.keys().copied().collect();
        office.review(&all, now);
        office.credentials_due = office.next_credentials(now);
        office
    }

    /// A stored grant goes on as it was.
    fn adopt(&mut self, grant: Grant) {
        let Grant { state: GrantState { offer, offered, name, view, answer, has_v4, has_v6 }, .. } = grant;
        self.insert(Open {
            id: grant.id,
            device: grant.device,
            resource: grant.resource,
            gateway: grant.gateway,
            policy: grant.policy,
            relay: grant.relay,
            version: grant.version,
            source: grant.source,
            offer,
            offered,
            name,
            since: grant.since,
            ends: grant.ends_at,
            lease: grant.lease_ends_at,
            view,
            confirmed: Some(Confirmed { answer, has_v4, has_v6 }),
            kept: Some(grant.version),
            waiting: None,
            looked_ahead: false,
        });
    }

    pub fn output(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    /// Says something to a device that has its full state.
    pub fn tell_device(&mut self, device: DeviceId, message: ToNode) {
        if self.devices.get(&device).is_some_and(|online| online.welcomed) {
            self.output(Output::ToDevice(device, Box::new(message)));
        }
    }

    /// Says something to a gateway that is connected; one that is away gets everything with its full state.
    pub fn tell_gateway(&mut self, gateway: GatewayId, message: ToNode) {
        if self.gateways.contains_key(&gateway) {
            self.output(Output::ToGateway(gateway, Box::new(message)));
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Timestamp {
        let first = self.agenda.first().map_or(Timestamp::MAX, |(at, _)| *at);
        first.min(self.credentials_due)
    }

    /// A version that no grant of this account had before.
    pub fn next_version(&mut self) -> GrantVersion {
        self.counter += 1;
        GrantVersion((self.epoch << 24) + self.counter)
    }

    pub fn next_credentials(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.max_partition).unwrap_or(Timestamp::MAX)
    }

    /// Credentials live as long as a node may have to do with them: until new ones come, and a partition more.
    pub fn credential_lifetime(&self) -> Duration {
        self.max_partition * 2
    }

    // The book of grants.

    pub fn place(device: DeviceId, resource: ResourceId, name: Option<&MappedName>) -> Place {
        (device, resource, name.map(|mapped| mapped.name.clone()))
    }

    pub fn insert(&mut self, grant: Open) {
        let place = Self::place(grant.device, grant.resource, grant.name.as_ref());
        self.places.insert(place, grant.id);
        let id = grant.id;
        self.of_device.entry(grant.device).or_default().insert(id);
        self.of_resource.entry(grant.resource).or_default().insert(id);
        self.of_gateway.entry(grant.gateway).or_default().insert(id);
        self.grants.insert(id, grant);
        self.schedule(id);
    }

    pub fn remove(&mut self, id: GrantId) -> Option<Open> {
        let grant = self.grants.remove(&id)?;
        take_out(&mut self.of_device, grant.device, id);
        take_out(&mut self.of_resource, grant.resource, id);
        take_out(&mut self.of_gateway, grant.gateway, id);
        let place = Self::place(grant.device, grant.resource, grant.name.as_ref());
        if self.places.get(&place) == Some(&id) {
            self.places.remove(&place);
        }
        if let Some(due) = self.due.remove(&id) {
            self.agenda.remove(&(due, id));
        }
        Some(grant)
    }

    /// The grants of a device.
    pub fn grants_of_device(&self, device: DeviceId) -> impl Iterator<Item = &Open> {
        self.of_device.get(&device).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// The grants for a resource.
    pub fn grants_for(&self, resource: ResourceId) -> impl Iterator<Item = &Open> {
        self.of_resource.get(&resource).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// The grants at a gateway.
    pub fn grants_at(&self, gateway: GatewayId) -> impl Iterator<Item = &Open> {
        self.of_gateway.get(&gateway).into_iter().flatten().filter_map(|id| self.grants.get(id))
    }

    /// How many grants a gateway has.
    pub fn load_of(&self, gateway: GatewayId) -> usize {
        self.of_gateway.get(&gateway).map_or(0, BTreeSet::len)
    }

    /// Writes into the agenda when the grant has to be looked at again.
    pub fn schedule(&mut self, id: GrantId) {
        let Some(grant) = self.grants.get(&id) else { return };
        let before = |at: Timestamp, span: Duration| at.checked_sub(span).unwrap_or(at);
        let mut due = match grant.ends {
            Some(ends) if ends <= grant.lease => {
                if grant.looked_ahead {
                    ends
                } else {
                    before(ends, LOOK_AHEAD)
                }
            }
            // The lease is shorter than the grant: it is renewed at half time, or ends with a device that is away.
            Some(_) | None => {
                if grant.looked_ahead {
                    grant.lease
                } else {
                    before(grant.lease, self.max_partition / 2)
                }
            }
        };
        if let Some(waiting) = grant.waiting {
            due = due.min(waiting.until);
        }
        if let Some(was) = self.due.insert(id, due) {
            self.agenda.remove(&(was, id));
        }
        self.agenda.insert((due, id));
    }

    /// Grants whose time has come.
    pub fn take_due(&mut self, now: Timestamp) -> Vec<GrantId> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.agenda.first().copied() {
            if at > now {
                break;
            }
            self.agenda.remove(&(at, id));
            self.due.remove(&id);
            due.push(id);
        }
        due
    }

    // Deciding.

    /// All that is known of a device that comes from `source`.
    pub fn context(&self, device: &Device, source: Option<IpAddr>) -> Context {
        let country = source.and_then(|source| self.countries.of(source));
        self.model.context(device, source, country)
    }

    /// Decides about a device's access at a moment. `since` is when the access began. `None`: there is no such device.
    pub fn decide(
        &self,
        device: DeviceId,
        resource: ResourceId,
        source: Option<IpAddr>,
        since: Timestamp,
        at: Timestamp,
    ) -> Option<Verdict> {
        let device = self.model.devices.get(&device)?;
        if device.disabled {
            return Some(Verdict::Denied(Reason::DeviceDisabled));
        }
        let context = self.context(device, source);
        let request = Request { principal: device.principal, resource, context: &context, since };
        Some(self.model.index.decide(&request, at))
    }

    /// Why it is so.
    pub fn explained(
        &self,
        device: DeviceId,
        resource: ResourceId,
        source: Option<IpAddr>,
        since: Timestamp,
        at: Timestamp,
    ) -> Option<Decision> {
        let device = self.model.devices.get(&device)?;
        if device.disabled {
            return Some(out_of_service());
        }
        let context = self.context(device, source);
        let request = Request { principal: device.principal, resource, context: &context, since };
        Some(self.model.index.explain(&request, at))
    }

    /// When the gateway ends a grant that policy ends then.
    pub fn lease(&self, ends: Option<Timestamp>, now: Timestamp) -> Timestamp {
        let longest = now.checked_add(self.max_partition).unwrap_or(Timestamp::MAX);
        ends.map_or(longest, |ends| ends.min(longest))
    }

    /// Looks at grants again, at once: what is still allowed is kept without a cut, the rest is revoked.
    pub fn review(&mut self, ids: &[GrantId], now: Timestamp) {
        for id in ids {
            self.review_at(*id, now, now);
        }
    }

    /// Looks at a grant with what will hold at `at`.
    pub fn review_at(&mut self, id: GrantId, at: Timestamp, now: Timestamp) {
        let Some(grant) = self.grants.get(&id) else { return };
        let (device, resource, gateway, since) = (grant.device, grant.resource, grant.gateway, grant.since);
        let source = self.devices.get(&device).map_or(grant.source, |online| online.source);
        let serves = self.model.records.resources.get(&resource).is_some_and(|resource| {
            self.model.gateways.get(&gateway).is_some_and(|gateway| gateway.site == resource.site)
        });
        match self.decide(device, resource, source, since, at) {
            Some(Verdict::Allowed { policy, end }) if serves => self.carry_on(id, policy, end, source, now),
            // A resource that moved to another site is asked for again.
            Some(Verdict::Allowed { .. }) | None => {
                self.revoke(id, DenyReason::Ended, "it moved or is gone");
            }
            Some(Verdict::Denied(_)) => {
                let Some(denied) = self.explained(device, resource, source, since, at) else { return };
                self.revoke(id, super::requests::deny_reason(&denied), &denied.reason());
            }
        }
    }

    /// A grant goes on; the gateway hears of it when its end, its lease or the resource changed.
    fn carry_on(
        &mut self,
        id: GrantId,
        policy: PolicyId,
        ends: Option<Timestamp>,
        source: Option<IpAddr>,
        now: Timestamp,
    ) {
        let online = self.grants.get(&id).is_some_and(|grant| self.devices.contains_key(&grant.device));
        let longest = self.lease(ends, now);
        let half = self.max_partition / 2;
        let view = self.grants.get(&id).and_then(|grant| self.model.records.resources.get(&grant.resource));
        let Some(view) = view.map(|resource| self.model.view(resource)) else { return };
        let Some(grant) = self.grants.get_mut(&id) else { return };
        let renew = longest.duration_since(grant.lease) >= half.try_into().unwrap_or_default() && online;
        let lease = if renew || ends != grant.ends { longest } else { grant.lease };
        let before = (grant.policy, grant.ends, grant.lease, grant.source);
        let changed = before != (policy, ends, lease, source) || grant.view != view;
        (grant.policy, grant.ends, grant.lease, grant.source) = (policy, ends, lease, source);
        grant.view = view;
        if changed {
            grant.looked_ahead = false;
            self.authorize(id, now);
        }
        self.schedule(id);
    }

    /// The whole of a grant for its gateway.
    pub fn authorization(&self, grant: &Open, now: Timestamp) -> Option<Authorize> {
        let device = self.model.devices.get(&grant.device)?;
        Some(Authorize {
            grant: grant.id,
            version: grant.version,
            policy: grant.policy,
            resource: grant.view.clone(),
            name: grant.name.clone(),
            remaining: remaining(grant.lease, now),
            identity: device.identity,
            addresses: inner_addresses(device.host),
            offer: grant.offer.clone(),
            relay: grant.relay,
        })
    }

    /// Tells the gateway of a grant's present state under a new version.
    pub fn authorize(&mut self, id: GrantId, now: Timestamp) {
        let version = self.next_version();
        let Some(grant) = self.grants.get_mut(&id) else { return };
        grant.version = version;
        let gateway = grant.gateway;
        let message = self.grants.get(&id).and_then(|grant| self.authorization(grant, now));
        if let Some(message) = message {
            self.tell_gateway(gateway, ToNode::Authorize(Box::new(message)));
        }
    }

    /// Ends a grant: the gateway first, then the client, then the book.
    pub fn revoke(&mut self, id: GrantId, reason: DenyReason, why: &str) {
        let version = self.next_version();
        let Some(grant) = self.remove(id) else { return };
        self.tell_gateway(grant.gateway, ToNode::Revoke { grant: id, device: grant.device, version });
        self.forget(grant, reason, why);
    }

    /// Ends a grant that its gateway no longer has.
    pub fn forget(&mut self, grant: Open, reason: DenyReason, why: &str) {
        let message = match grant.waiting {
            Some(waiting) => ToNode::Denied { request: waiting.request, resource: grant.resource, reason },
            None => ToNode::Revoked { grant: grant.id, resource: grant.resource, reason },
        };
        self.tell_device(grant.device, message);
        let detail = serde_json::json!({ "device": grant.device, "resource": grant.resource, "why": why });
        self.output(Output::Write(Op::End(grant.id, detail)));
    }

    /// The record of a grant that its gateway has installed.
    pub fn record(grant: &Open) -> Option<Grant> {
        let Confirmed { answer, has_v4, has_v6 } = grant.confirmed.clone()?;
        Some(Grant {
            id: grant.id,
            device: grant.device,
            resource: grant.resource,
            gateway: grant.gateway,
            policy: grant.policy,
            relay: grant.relay,
            version: grant.version,
            source: grant.source,
            state: GrantState {
                offer: grant.offer.clone(),
                offered: grant.offered,
                name: grant.name.clone(),
                view: grant.view.clone(),
                answer,
                has_v4,
                has_v6,
            },
            since: grant.since,
            ends_at: grant.ends,
            lease_ends_at: grant.lease,
        })
    }

    /// The whole of a grant for its client.
    pub fn granted(&self, grant: &Open, request: u64, now: Timestamp) -> Option<Granted> {
        let Confirmed { answer, has_v4, has_v6 } = grant.confirmed.clone()?;
        Some(Granted {
            request,
            grant: grant.id,
            resource: grant.resource,
            name: grant.name.clone(),
            remaining: remaining(grant.lease, now),
            gateway_name: self
                .model
                .gateways
                .get(&grant.gateway)
                .map(|it| it.name.clone())
                .unwrap_or_default(),
            answer,
            has_v4,
            has_v6,
        })
    }
}

fn take_out<K: Ord>(book: &mut BTreeMap<K, BTreeSet<GrantId>>, key: K, id: GrantId) {
    if let Some(grants) = book.get_mut(&key) {
        grants.remove(&id);
        if grants.is_empty() {
            book.remove(&key);
        }
    }
}

/// The decision about whatever a disabled device asks for.
pub(super) fn out_of_service() -> Decision {
    Decision { verdict: Verdict::Denied(Reason::DeviceDisabled), explanation: Explanation::default() }
}

/// What is left of a lease.
pub(super) fn remaining(lease: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(lease.duration_since(now)).unwrap_or_default()
}

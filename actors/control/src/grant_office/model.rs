//! What the office knows of its account: the records, kept up to date by the change log.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use protocol_control::ResourceView;
use protocol_identity::{
    DeviceId, GatewayId, GrantId, GroupId, PolicyId, PrincipalId, ResourceId, SiteId, TokenId,
};
use protocol_policy::{Context, Index};

use super::records::{Records, as_member, as_rule, as_target};
use crate::model::{Device, Gateway, Grant, Kind, Object, Resource, Site, Token};
use crate::storage::{Action, Everything};

/// The records of one account, and the compiled rules, which every change keeps up to date.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The last row of the log that is in it.
    pub sequence: u64,
    pub sites: BTreeMap<SiteId, Site>,
    pub gateways: BTreeMap<GatewayId, Gateway>,
    pub devices: BTreeMap<DeviceId, Device>,
    pub records: Records,
    pub index: Index,
    tokens: BTreeMap<TokenId, Token>,
    devices_of: BTreeMap<PrincipalId, BTreeSet<DeviceId>>,
    signed_in_with: BTreeMap<TokenId, BTreeSet<DeviceId>>,
}

/// What a change touched, so that only that is looked at again.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub resources: BTreeSet<ResourceId>,
    pub principals: BTreeSet<PrincipalId>,
    pub devices: BTreeSet<DeviceId>,
    pub gateways: BTreeSet<GatewayId>,
    pub ended: BTreeSet<GrantId>,
    /// Whether what nodes see of resources, or which of them they know, may have changed.
    pub views: bool,
}

impl Model {
    /// The records, and the grants that were in force.
    pub fn load(everything: Everything, now: Timestamp) -> (Self, Vec<Grant>) {
        let mut model = Self { sequence: everything.sequence, ..Self::default() };
        let mut grants = Vec::new();
        for object in everything.objects {
            match object {
                Object::Grant(grant) => grants.push(*grant),
                Object::Site(it) => drop(model.sites.insert(it.id, it)),
                Object::Gateway(it) => drop(model.gateways.insert(it.id, it)),
                Object::Device(it) => model.put_device(it),
                Object::Token(it) => drop(model.tokens.insert(it.id, it)),
                Object::Resource(it) => drop(model.records.resources.insert(it.id, it)),
                Object::Group(it) => drop(model.records.groups.insert(it.id, it)),
                Object::Principal(it) => drop(model.records.principals.insert(it.id, it)),
                Object::Policy(it) => drop(model.records.policies.insert(it.id, it)),
                Object::Relay(_) => {}
            }
        }
        model.index = model.compile(now);
        (model, grants)
    }

    /// Takes one row of the log in.
    pub fn apply(&mut self, action: Action, touched: &mut Touched, now: Timestamp) {
        match action {
            Action::Put(object) => self.put(object, touched, now),
            Action::Deleted(kind, id) => self.delete(kind, id, touched),
            Action::Noted => {}
        }
    }

    fn put_device(&mut self, device: Device) {
        let id = device.id;
        self.forget_device(id);
        self.devices_of.entry(device.principal).or_default().insert(id);
        if let Some(token) = device.token {
            self.signed_in_with.entry(token).or_default().insert(id);
        }
        self.devices.insert(id, device);
    }

    fn forget_device(&mut self, id: DeviceId) {
        let Some(device) = self.devices.remove(&id) else { return };
        if let Some(devices) = self.devices_of.get_mut(&device.principal) {
            devices.remove(&id);
        }
        if let Some(devices) = device.token.and_then(|token| self.signed_in_with.get_mut(&token)) {
            devices.remove(&id);
        }
    }

    fn put(&mut self, object: Object, touched: &mut Touched, now: Timestamp) {
        match object {
            Object::Site(site) => {
                // Its name is part of what nodes see.
                touched.views = true;
                touched.resources.extend(self.resources_of(site.id));
                self.sites.insert(site.id, site);
            }
            Object::Gateway(gateway) => {
                touched.gateways.insert(gateway.id);
                self.gateways.insert(gateway.id, gateway);
            }
            Object::Device(device) => {
                touched.devices.insert(device.id);
                self.put_device(device);
            }
            Object::Token(token) => {
                touched.devices.extend(self.devices_with(token.id));
                self.tokens.insert(token.id, token);
            }
            Object::Resource(resource) => {
                touched.views = true;
                touched.resources.insert(resource.id);
                self.index.put_resource(as_target(&resource));
                self.records.resources.insert(resource.id, resource);
            }
            Object::Group(group) => {
                let built_in = group.everyone && self.index.everyone() != Some(group.id);
                let before = self.records.groups.get(&group.id).map(|group| group.members.clone());
                let before = before.unwrap_or_default();
                for principal in before.symmetric_difference(&group.members) {
                    touched.views = true;
                    touched.principals.insert(*principal);
                    self.index.set_member(*principal, group.id, group.members.contains(principal));
                }
                self.records.groups.insert(group.id, group);
                if built_in {
                    // It comes with the account, so this is no change that happens twice.
                    touched.views = true;
                    touched.principals.extend(self.records.principals.keys());
                    self.index = self.compile(now);
                }
            }
            Object::Principal(principal) => {
                touched.views = true;
                touched.principals.insert(principal.id);
                let groups = self.index.groups_of(principal.id);
                self.index.put_principal(as_member(&principal, groups));
                self.records.principals.insert(principal.id, principal);
            }
            Object::Policy(policy) => {
                touched.views = true;
                touched.resources.append(&mut self.index.put_rule(as_rule(&policy)));
                self.records.policies.insert(policy.id, policy);
            }
            Object::Relay(_) | Object::Grant(_) => {}
        }
    }

    /// Also lets go what the database lets go with the record.
    fn delete(&mut self, kind: Kind, id: uuid::Uuid, touched: &mut Touched) {
        match kind {
            Kind::Site => {
                self.sites.remove(&SiteId(id));
            }
            Kind::Gateway => {
                touched.gateways.insert(GatewayId(id));
                self.gateways.remove(&GatewayId(id));
            }
            Kind::Device => {
                touched.devices.insert(DeviceId(id));
                self.forget_device(DeviceId(id));
            }
            Kind::Token => {
                touched.devices.extend(self.devices_with(TokenId(id)));
                self.tokens.remove(&TokenId(id));
            }
            Kind::Resource => {
                touched.views = true;
                touched.resources.insert(ResourceId(id));
                self.index.remove_resource(ResourceId(id));
                self.records.resources.remove(&ResourceId(id));
                for policy in self.records.policies.values_mut() {
                    policy.resources.remove(&ResourceId(id));
                }
            }
            Kind::Group => {
                touched.views = true;
                if let Some(before) = self.records.groups.remove(&GroupId(id)) {
                    for member in &before.members {
                        self.index.set_member(*member, before.id, false);
                    }
                    touched.principals.extend(before.members);
                }
            }
            Kind::Principal => {
                let principal = PrincipalId(id);
                touched.views = true;
                touched.principals.insert(principal);
                self.index.remove_principal(principal);
                for device in self.devices_of.remove(&principal).unwrap_or_default() {
                    touched.devices.insert(device);
                    self.forget_device(device);
                }
                self.records.principals.remove(&principal);
                self.tokens.retain(|_, token| token.principal != Some(principal));
                for group in self.records.groups.values_mut() {
                    group.members.remove(&principal);
                }
            }
            Kind::Policy => {
                touched.views = true;
                touched.resources.append(&mut self.index.remove_rule(PolicyId(id)));
                self.records.policies.remove(&PolicyId(id));
            }
            Kind::Grant => {
                touched.ended.insert(GrantId(id));
            }
            Kind::Relay => {}
        }
    }

    fn resources_of(&self, site: SiteId) -> impl Iterator<Item = ResourceId> {
        self.records
            .resources
            .values()
            .filter(move |resource| resource.site == site)
            .map(|resource| resource.id)
    }

    fn devices_with(&self, token: TokenId) -> impl Iterator<Item = DeviceId> {
        self.signed_in_with.get(&token).into_iter().flatten().copied()
    }

    /// The devices of a principal.
    pub fn devices_of(&self, principal: PrincipalId) -> impl Iterator<Item = DeviceId> {
        self.devices_of.get(&principal).into_iter().flatten().copied()
    }

    fn compile(&self, now: Timestamp) -> Index {
        Index::compile(self.records.snapshot(self.records.policies.values()), now)
    }

    /// A resource as nodes see it.
    pub fn view(&self, resource: &Resource) -> ResourceView {
        ResourceView {
            resource: resource.id,
            name: resource.name.clone(),
            site: self.sites.get(&resource.site).map(|site| site.name.clone()).unwrap_or_default(),
            address: resource.address.clone(),
            filters: resource.filters.clone(),
        }
    }

    /// What is known about a device that comes from `source`, which is in `country`.
    pub fn context(&self, device: &Device, source: Option<IpAddr>, country: Option<String>) -> Context {
        let mut posture = BTreeMap::new();
        let reported =
            [("os", &device.os), ("os_version", &device.os_version), ("client_version", &device.version)];
        for (attribute, value) in reported {
            if let Some(value) = value {
                posture.insert(attribute.to_owned(), value.clone());
            }
        }
        let token = device.token.map(|token| self.tokens.get(&token));
        // A service account signs in with its token: its sign-in is as old as that.
        let session_started = token.flatten().map(|token| token.created_at);
        let session_ends = token.and_then(|token| match token {
            Some(token) => token.expires_at,
            // The token that signed the device in is gone, and with it the sign-in.
            None => Some(Timestamp::MIN),
        });
        Context {
            source,
            device_verified: Some(device.verified),
            posture,
            session_started,
            session_ends,
            country,
            provider: None,
        }
    }
}

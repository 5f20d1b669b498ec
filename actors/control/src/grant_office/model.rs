//! What the office knows of its account: the records, kept up to date by the change log.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol_control::ResourceView;
use protocol_identity::{
    DeviceId, GatewayId, GrantId, GroupId, PolicyId, PrincipalId, ResourceId, SiteId, TokenId,
};
use protocol_policy::{Context, Index, Resource as PolicyResource, Rule, Snapshot};
use std::time::Duration;

use crate::model::{Device, Gateway, Grant, Group, Kind, Object, Policy, Principal, Resource, Site, Token};
use crate::storage::{Action, Everything};

/// The records of one account.
#[derive(Debug, Default)]
pub(super) struct Model {
    /// The last row of the log that is in it.
    pub sequence: u64,
    pub sites: BTreeMap<SiteId, Site>,
    pub gateways: BTreeMap<GatewayId, Gateway>,
    pub devices: BTreeMap<DeviceId, Device>,
    pub resources: BTreeMap<ResourceId, Resource>,
    pub principals: BTreeMap<PrincipalId, Principal>,
    groups: BTreeMap<GroupId, Group>,
    policies: BTreeMap<PolicyId, Policy>,
    tokens: BTreeMap<TokenId, Token>,
}

/// What a change touched, so that only that is looked at again.
#[derive(Debug, Default)]
pub(super) struct Touched {
    pub resources: BTreeSet<ResourceId>,
    pub principals: BTreeSet<PrincipalId>,
    pub devices: BTreeSet<DeviceId>,
    pub gateways: BTreeSet<GatewayId>,
    pub ended: BTreeSet<GrantId>,
    /// Whether the index has to be compiled anew.
    pub policy: bool,
}

impl Model {
    /// The records, and the grants that were in force.
    pub fn load(everything: Everything) -> (Self, Vec<Grant>) {
        let mut model = Self { sequence: everything.sequence, ..Self::default() };
        let mut grants = Vec::new();
        for object in everything.objects {
            if let Object::Grant(grant) = object {
                grants.push(*grant);
            } else {
                model.put(object, &mut Touched::default());
            }
        }
        (model, grants)
    }

    /// Takes one row of the log in.
    pub fn apply(&mut self, action: Action, touched: &mut Touched) {
        match action {
            Action::Put(object) => self.put(object, touched),
            Action::Deleted(kind, id) => self.delete(kind, id, touched),
            Action::Noted => {}
        }
    }

    fn put(&mut self, object: Object, touched: &mut Touched) {
        match object {
            Object::Site(site) => {
                touched.resources.extend(self.resources_of(site.id));
                self.sites.insert(site.id, site);
            }
            Object::Gateway(gateway) => {
                touched.gateways.insert(gateway.id);
                self.gateways.insert(gateway.id, gateway);
            }
            Object::Device(device) => {
                touched.devices.insert(device.id);
                self.devices.insert(device.id, device);
            }
            Object::Token(token) => {
                touched.devices.extend(self.devices_with(token.id));
                self.tokens.insert(token.id, token);
            }
            Object::Resource(resource) => {
                touched.policy = true;
                touched.resources.insert(resource.id);
                self.resources.insert(resource.id, resource);
            }
            Object::Group(group) => {
                touched.policy = true;
                touched.principals.extend(&group.members);
                if let Some(before) = self.groups.insert(group.id, group) {
                    touched.principals.extend(before.members);
                }
            }
            Object::Principal(principal) => {
                touched.policy = true;
                touched.principals.insert(principal.id);
                self.principals.insert(principal.id, principal);
            }
            Object::Policy(policy) => {
                touched.policy = true;
                touched.resources.extend(&policy.resources);
                if let Some(before) = self.policies.insert(policy.id, policy) {
                    touched.resources.extend(before.resources);
                }
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
                self.devices.remove(&DeviceId(id));
            }
            Kind::Token => {
                touched.devices.extend(self.devices_with(TokenId(id)));
                self.tokens.remove(&TokenId(id));
            }
            Kind::Resource => {
                touched.policy = true;
                touched.resources.insert(ResourceId(id));
                self.resources.remove(&ResourceId(id));
                for policy in self.policies.values_mut() {
                    policy.resources.remove(&ResourceId(id));
                }
            }
            Kind::Group => {
                touched.policy = true;
                if let Some(before) = self.groups.remove(&GroupId(id)) {
                    touched.principals.extend(before.members);
                }
            }
            Kind::Principal => {
                let principal = PrincipalId(id);
                touched.policy = true;
                touched.principals.insert(principal);
                touched
                    .devices
                    .extend(self.devices.values().filter(|d| d.principal == principal).map(|d| d.id));
                self.principals.remove(&principal);
                self.devices.retain(|_, device| device.principal != principal);
                self.tokens.retain(|_, token| token.principal != Some(principal));
                for group in self.groups.values_mut() {
                    group.members.remove(&principal);
                }
            }
            Kind::Policy => {
                touched.policy = true;
                if let Some(before) = self.policies.remove(&PolicyId(id)) {
                    touched.resources.extend(before.resources);
                }
            }
            Kind::Grant => {
                touched.ended.insert(GrantId(id));
            }
            Kind::Relay => {}
        }
    }

    fn resources_of(&self, site: SiteId) -> impl Iterator<Item = ResourceId> {
        self.resources.values().filter(move |resource| resource.site == site).map(|resource| resource.id)
    }

    fn devices_with(&self, token: TokenId) -> impl Iterator<Item = DeviceId> {
        self.devices.values().filter(move |device| device.token == Some(token)).map(|device| device.id)
    }

    /// The compiled rules.
    pub fn compile(&self) -> Index {
        let mut groups = BTreeMap::<PrincipalId, BTreeSet<GroupId>>::new();
        for group in self.groups.values() {
            for member in &group.members {
                groups.entry(*member).or_default().insert(group.id);
            }
        }
        Index::compile(Snapshot {
            principals: self
                .principals
                .values()
                .map(|principal| protocol_policy::Principal {
                    id: principal.id,
                    disabled: principal.disabled,
                    groups: groups.remove(&principal.id).unwrap_or_default(),
                })
                .collect(),
            everyone: self.groups.values().find(|group| group.everyone).map(|group| group.id),
            resources: self
                .resources
                .values()
                .map(|resource| PolicyResource { id: resource.id, listed: resource.listed })
                .collect(),
            rules: self
                .policies
                .values()
                .map(|policy| Rule {
                    id: policy.id,
                    name: policy.name.clone(),
                    enabled: policy.enabled,
                    effect: policy.effect,
                    groups: policy.groups.clone(),
                    resources: policy.resources.clone(),
                    conditions: policy.conditions.clone(),
                    max_session: policy.max_session_seconds.map(Duration::from_secs),
                })
                .collect(),
        })
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

    /// What is known about a device that comes from `source`.
    pub fn context(&self, device: &Device, source: Option<std::net::IpAddr>) -> Context {
        let mut posture = BTreeMap::new();
        let reported =
            [("os", &device.os), ("os_version", &device.os_version), ("client_version", &device.version)];
        for (attribute, value) in reported {
            if let Some(value) = value {
                posture.insert(attribute.to_owned(), value.clone());
            }
        }
        let session_ends = device.token.and_then(|token| match self.tokens.get(&token) {
            Some(token) => token.expires_at,
            // The token that signed the device in is gone, and with it the sign-in.
            None => Some(Timestamp::MIN),
        });
        Context {
            source,
            device_verified: Some(device.verified),
            posture,
            session_started: None,
            session_ends,
            country: None,
            provider: None,
        }
    }
}

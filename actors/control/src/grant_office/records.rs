//! The records that decisions depend on, as policy sees them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId};
use protocol_policy::{Rule, Snapshot};

use crate::model::{Group, Object, Policy, Principal, Resource};
use crate::storage::Everything;

/// The records of one account that decisions depend on.
#[derive(Debug, Clone, Default)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Records {
    pub principals: BTreeMap<PrincipalId, Principal>,
    pub groups: BTreeMap<GroupId, Group>,
    pub resources: BTreeMap<ResourceId, Resource>,
    pub policies: BTreeMap<PolicyId, Policy>,
}

/// A rule as policy sees it.
pub(super) fn as_rule(policy: &Policy) -> Rule {
    Rule {
        id: policy.id,
        name: policy.name.clone(),
        place: policy.place.clone(),
        enabled: policy.enabled,
        effect: policy.effect,
        groups: policy.groups.clone(),
        principal_labels: policy.principal_labels.clone(),
        resources: policy.resources.clone(),
        resource_labels: policy.resource_labels.clone(),
        conditions: policy.conditions.clone(),
        max_session: policy.max_session_seconds.map(Duration::from_secs),
    }
}

/// A principal as policy sees it.
pub(super) fn as_member(principal: &Principal, groups: BTreeSet<GroupId>) -> protocol_policy::Principal {
    protocol_policy::Principal {
        id: principal.id,
        disabled: principal.disabled,
        groups,
        labels: principal.labels.clone(),
    }
}

/// A resource as policy sees it.
pub(super) fn as_target(resource: &Resource) -> protocol_policy::Resource {
    protocol_policy::Resource { id: resource.id, listed: resource.listed, labels: resource.labels.clone() }
}

impl Records {
    /// The records among everything that is stored.
    pub fn of(everything: Everything) -> Self {
        let mut records = Self::default();
        for object in everything.objects {
            match object {
                Object::Principal(it) => drop(records.principals.insert(it.id, it)),
                Object::Group(it) => drop(records.groups.insert(it.id, it)),
                Object::Resource(it) => drop(records.resources.insert(it.id, it)),
                Object::Policy(it) => drop(records.policies.insert(it.id, it)),
                Object::Site(_)
                | Object::Gateway(_)
                | Object::Relay(_)
                | Object::Device(_)
                | Object::Token(_)
                | Object::Grant(_) => {}
            }
        }
        records
    }

    /// All that decisions depend on, with these rules.
    pub fn snapshot<'a>(&self, policies: impl IntoIterator<Item = &'a Policy>) -> Snapshot {
        let mut groups = BTreeMap::<PrincipalId, BTreeSet<GroupId>>::new();
        for group in self.groups.values() {
            for member in &group.members {
                groups.entry(*member).or_default().insert(group.id);
            }
        }
        let member = |it: &Principal| as_member(it, groups.get(&it.id).cloned().unwrap_or_default());
        Snapshot {
            principals: self.principals.values().map(member).collect(),
            everyone: self.groups.values().find(|group| group.everyone).map(|group| group.id),
            resources: self.resources.values().map(as_target).collect(),
            rules: policies.into_iter().map(as_rule).collect(),
        }
    }
}

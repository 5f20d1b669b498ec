//! The compiled index: decides in the time that the rules of one resource take.

mod change;
mod compiled;
mod explain;
mod held;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use jiff::Timestamp;
use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId};

use crate::{Context, Effect, Labels, Reason, Rule, Selector, Verdict};
use compiled::{Compiled, earlier};
use held::Held;

/// A principal as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// One that is disabled reaches nothing.
    pub disabled: bool,
    /// The groups that it was put into.
    pub groups: BTreeSet<GroupId>,
    /// Its labels.
    pub labels: Labels,
}

/// A resource as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Whether devices learn of it although no rule names it.
    pub listed: bool,
    /// Its labels.
    pub labels: Labels,
}

/// All of one account that decisions depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The principals.
    pub principals: Vec<Principal>,
    /// The built-in group that holds every principal.
    pub everyone: Option<GroupId>,
    /// The resources.
    pub resources: Vec<Resource>,
    /// The rules, in any order.
    pub rules: Vec<Rule>,
}

/// May this principal reach this resource?
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Who asks.
    pub principal: PrincipalId,
    /// What for.
    pub resource: ResourceId,
    /// What is known about who asks.
    pub context: &'a Context,
    /// When the access began: now for a new request, the grant's beginning when one is looked at again.
    pub since: Timestamp,
}

/// A principal as the index holds it.
#[derive(Debug, Default)]
struct Member {
    disabled: bool,
    groups: BTreeSet<GroupId>,
    labels: Labels,
    /// The sets that it is in.
    sets: Held,
    /// A bit for each of them, some of which share one; tells most rules for others apart without looking at them.
    mask: Mask,
}

/// Bits for sets of principals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Mask([u64; 4]);

impl Mask {
    /// The bit that every member has, and only rules for everyone.
    const EVERYONE: Self = Self([1, 0, 0, 0]);

    fn add(&mut self, set: u32) {
        let bit = 1 + set % 255;
        if let Some(word) = self.0.get_mut((bit / 64) as usize) {
            *word |= 1 << (bit % 64);
        }
    }

    fn of(sets: impl IntoIterator<Item = u32>, mut mask: Self) -> Self {
        sets.into_iter().for_each(|set| mask.add(set));
        mask
    }

    fn meets(&self, other: &Self) -> bool {
        let [a, b, c, d] = self.0;
        let [e, f, g, h] = other.0;
        (a & e) | (b & f) | (c & g) | (d & h) != 0
    }
}

/// Ids are drawn evenly by us: their lower half is hash enough.
#[derive(Debug, Default, Clone, Copy)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut eight = [0; 8];
            if let Some(place) = eight.get_mut(..part.len()) {
                place.copy_from_slice(part);
            }
            let mixed = (self.0 ^ u64::from_le_bytes(eight)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.0 = mixed ^ (mixed >> 32);
        }
    }
}

type ById<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// A resource as the index holds it.
#[derive(Debug, Default)]
struct Target {
    listed: bool,
    labels: Labels,
    /// The rules that speak of it: denies first, then by id.
    edges: Vec<Edge>,
    /// The sets of their principals, one after the other: whom they speak of is seen without looking at them.
    sets: Vec<u32>,
}

/// From a resource to a rule.
#[derive(Debug, Clone, Copy)]
struct Edge {
    mask: Mask,
    rule: u32,
    /// Where its sets begin and end.
    sets: (u32, u32),
    allow: bool,
    enabled: bool,
    everyone: bool,
}

impl Target {
    /// Whether an edge's rule speaks of a member.
    fn speaks_of(&self, edge: &Edge, member: &Member) -> bool {
        let sets = || self.sets.get(edge.sets.0 as usize..edge.sets.1 as usize).unwrap_or_default();
        edge.mask.meets(&member.mask) && (edge.everyone || member.sets.holds_any(sets()))
    }
}

/// Sets of principals that rules speak of, by number.
#[derive(Debug, Default)]
struct Sets {
    groups: ById<GroupId, u32>,
    selectors: BTreeMap<Selector, u32>,
    /// Selectors by the first label that they ask for.
    by_label: HashMap<(String, String), Vec<Selector>>,
    next: u32,
}

/// A [`Snapshot`], compiled. A change recomputes only the edges that it touches.
#[derive(Debug, Default)]
pub struct Index {
    everyone: Option<GroupId>,
    sets: Sets,
    members: ById<PrincipalId, Member>,
    targets: ById<ResourceId, Target>,
    rules: Vec<Option<Compiled>>,
    free: Vec<u32>,
    places: ById<PolicyId, u32>,
    /// Rules by the resources that they name.
    named: HashMap<ResourceId, BTreeSet<u32>>,
    /// Resources by their labels.
    labelled: HashMap<(String, String), BTreeSet<ResourceId>>,
    /// Rules by the labels of resources that they ask for.
    selecting: HashMap<(String, String), BTreeMap<Selector, BTreeSet<u32>>>,
    /// The moment from which schedules were worked out.
    made: Timestamp,
}

/// Whether `end` is later than `than`, where `None` is never.
fn ends_later(end: Option<Timestamp>, than: Option<Timestamp>) -> bool {
    match (end, than) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(end), Some(than)) => end > than,
    }
}

impl Index {
    fn rule(&self, place: u32) -> Option<&Compiled> {
        self.rules.get(place as usize)?.as_ref()
    }

    /// A rule that the index holds.
    pub fn rule_of(&self, policy: PolicyId) -> Option<&Rule> {
        self.rule(*self.places.get(&policy)?).map(|compiled| &compiled.rule)
    }

    /// The resources that a rule speaks of, by name or by label.
    pub fn resources_of(&self, policy: PolicyId) -> &[ResourceId] {
        let compiled = self.places.get(&policy).and_then(|place| self.rule(*place));
        compiled.map(|compiled| compiled.targets.as_slice()).unwrap_or_default()
    }

    /// Whether a rule speaks of a principal.
    pub fn speaks_of(&self, policy: PolicyId, principal: PrincipalId) -> bool {
        let compiled = self.places.get(&policy).and_then(|place| self.rule(*place));
        compiled.zip(self.members.get(&principal)).is_some_and(|(rule, member)| rule.speaks_of(member))
    }

    /// The enabled rules that name this resource for this principal, in the order of their ids, denies first.
    pub fn rules_between(
        &self,
        principal: PrincipalId,
        resource: ResourceId,
    ) -> impl Iterator<Item = &Rule> + use<'_> {
        let member = self.members.get(&principal).filter(|member| !member.disabled);
        let pair = member.zip(self.targets.get(&resource));
        pair.into_iter().flat_map(move |(member, target)| {
            target
                .edges
                .iter()
                .filter(|edge| edge.enabled && target.speaks_of(edge, member))
                .filter_map(|edge| self.rule(edge.rule).map(|rule| &rule.rule))
        })
    }

    /// Whether a device of this principal learns that the resource exists: an enabled allow rule names it for the
    /// principal, conditions aside, or it is listed.
    pub fn learns(&self, principal: PrincipalId, resource: ResourceId) -> bool {
        let known = self.members.get(&principal).is_some_and(|member| !member.disabled);
        known
            && self.targets.get(&resource).is_some_and(|target| {
                target.listed
                    || self.rules_between(principal, resource).any(|rule| rule.effect == Effect::Allow)
            })
    }

    /// The resources that devices of this principal learn of.
    pub fn known_to(&self, principal: PrincipalId) -> Vec<ResourceId> {
        let mut known: Vec<ResourceId> =
            self.targets.keys().copied().filter(|resource| self.learns(principal, *resource)).collect();
        known.sort_unstable();
        known
    }

    /// Decides a request at this moment. Nothing is allocated and nothing remembered.
    pub fn decide(&self, request: &Request<'_>, now: Timestamp) -> Verdict {
        let Some(member) = self.members.get(&request.principal) else {
            return Verdict::Denied(Reason::UnknownPrincipal);
        };
        if member.disabled {
            return Verdict::Denied(Reason::PrincipalDisabled);
        }
        let Some(target) = self.targets.get(&request.resource) else {
            return Verdict::Denied(Reason::UnknownResource);
        };

        let mut denies_from = None;
        let mut best: Option<(PolicyId, Option<Timestamp>)> = None;
        let mut named = false;
        for edge in &target.edges {
            named |= edge.allow && edge.enabled;
            if !edge.enabled || !target.speaks_of(edge, member) {
                continue;
            }
            let Some(rule) = self.rule(edge.rule) else { continue };
            if edge.allow {
                if let Some(until) = rule.conforms(request, now)
                    && best.is_none_or(|(_, end)| ends_later(until, end))
                {
                    best = Some((rule.terms.policy, until));
                }
            } else if rule.fires(request.context, now) {
                return Verdict::Denied(Reason::DeniedByRule(rule.terms.policy));
            } else {
                denies_from = earlier(denies_from, rule.begins(request.context, now));
            }
        }
        match best {
            Some((policy, until)) => Verdict::Allowed { policy, end: earlier(until, denies_from) },
            None if named => Verdict::Denied(Reason::NoRuleApplies),
            None => Verdict::Denied(Reason::NoRule),
        }
    }
}

#[cfg(test)]
mod tests;

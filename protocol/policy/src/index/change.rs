//! Compiling, and changing one thing without compiling the rest anew.

use std::collections::BTreeSet;

use jiff::Timestamp;
use protocol_identity::{GroupId, PolicyId, PrincipalId, ResourceId};

use super::compiled::{Compiled, Terms};
use super::held::Held;
use super::{Edge, Index, Mask, Member, Principal, Resource, Snapshot, Target};
use crate::{Effect, Labels, Rule, Selector};

/// Schedules are looked at again after this many seconds.
const PREPARE_AGAIN: i64 = 3600;

fn key((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

impl Target {
    /// Takes an edge in, in this place.
    fn insert(&mut self, at: usize, mut edge: Edge, sets: &[u32]) {
        // Sets of all rules of one resource: far below what 32 bits count.
        let place = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let from = place(self.sets.len());
        self.sets.extend_from_slice(sets);
        edge.sets = (from, place(self.sets.len()));
        self.edges.insert(at, edge);
    }

    /// Takes the edge to a rule out.
    fn remove(&mut self, rule: u32) {
        let Some(at) = self.edges.iter().position(|edge| edge.rule == rule) else { return };
        let (from, to) = self.edges.remove(at).sets;
        self.sets.drain(from as usize..to as usize);
        for edge in self.edges.iter_mut().filter(|edge| edge.sets.0 >= to) {
            edge.sets = (edge.sets.0 - (to - from), edge.sets.1 - (to - from));
        }
    }
}

impl Index {
    /// Compiles a snapshot; schedules are worked out from now on. The order of its parts does not matter.
    pub fn compile(snapshot: Snapshot, now: Timestamp) -> Self {
        let Snapshot { principals, everyone, resources, rules } = snapshot;
        let mut index = Self { everyone, made: now, ..Self::default() };
        for resource in resources {
            index.put_resource(resource);
        }
        for rule in rules {
            index.put_rule(rule);
        }
        // Last, when all selectors are known.
        for principal in principals {
            index.put_principal(principal);
        }
        index
    }

    /// Keeps what is worked out ahead good; call it at least once a day. More often costs nothing.
    pub fn prepare(&mut self, now: Timestamp) {
        if now.duration_since(self.made).as_secs().abs() < PREPARE_AGAIN {
            return;
        }
        self.made = now;
        for schedule in self.rules.iter_mut().flatten().filter_map(|rule| rule.terms.schedule.as_mut()) {
            schedule.prepare(now);
        }
    }

    /// The built-in group that holds every principal.
    pub fn everyone(&self) -> Option<GroupId> {
        self.everyone
    }

    // Principals.

    fn number(&mut self, group: GroupId) -> u32 {
        let next = &mut self.sets.next;
        *self.sets.groups.entry(group).or_insert_with(|| {
            *next += 1;
            *next
        })
    }

    /// Works out which sets a member is in.
    fn refresh(&mut self, mut member: Member) -> Member {
        let mut sets = Held::default();
        for group in &member.groups {
            sets.insert(self.number(*group));
        }
        for (name, value) in &member.labels {
            let selectors = self.sets.by_label.get(&key((name, value))).map(Vec::as_slice);
            for selector in selectors.unwrap_or_default() {
                if selector.selects(&member.labels) {
                    self.sets.selectors.get(selector).into_iter().for_each(|set| sets.insert(*set));
                }
            }
        }
        member.mask = Mask::of(sets.iter(), Mask::EVERYONE);
        member.sets = sets;
        member
    }

    /// A principal is new or changed.
    pub fn put_principal(&mut self, principal: Principal) {
        let Principal { id, disabled, groups, labels } = principal;
        let member = self.refresh(Member { disabled, groups, labels, ..Member::default() });
        self.members.insert(id, member);
    }

    /// A principal is gone.
    pub fn remove_principal(&mut self, id: PrincipalId) {
        self.members.remove(&id);
    }

    /// The groups that a principal was put into.
    pub fn groups_of(&self, id: PrincipalId) -> BTreeSet<GroupId> {
        self.members.get(&id).map(|member| member.groups.clone()).unwrap_or_default()
    }

    /// A principal that is known was put into a group, or taken out of it.
    pub fn set_member(&mut self, id: PrincipalId, group: GroupId, is_in: bool) {
        let set = self.number(group);
        let Some(member) = self.members.get_mut(&id) else { return };
        let changed = if is_in { member.groups.insert(group) } else { member.groups.remove(&group) };
        if !changed {
            return;
        }
        if is_in {
            member.sets.insert(set);
            member.mask.add(set);
        } else {
            member.sets.remove(set);
            member.mask = Mask::of(member.sets.iter(), Mask::EVERYONE);
        }
    }

    // Resources.

    /// The rules that speak of a resource with these labels.
    fn speaking_of(&self, id: ResourceId, labels: &Labels) -> BTreeSet<u32> {
        let mut rules = self.named.get(&id).cloned().unwrap_or_default();
        for (name, value) in labels {
            for (selector, selecting) in self.selecting.get(&key((name, value))).into_iter().flatten() {
                if selector.selects(labels) {
                    rules.extend(selecting);
                }
            }
        }
        rules
    }

    fn edge(&self, place: u32) -> Option<Edge> {
        let compiled = self.rule(place)?;
        let (allow, enabled) = (compiled.rule.effect == Effect::Allow, compiled.rule.enabled);
        let (mask, everyone) = (compiled.mask, compiled.everyone);
        Some(Edge { mask, rule: place, sets: (0, 0), allow, enabled, everyone })
    }

    /// A resource is new or changed.
    pub fn put_resource(&mut self, resource: Resource) {
        let Resource { id, listed, labels } = resource;
        if let Some(target) = self.targets.get_mut(&id)
            && target.labels == labels
        {
            target.listed = listed;
            return;
        }
        self.remove_resource(id);
        let rules = self.speaking_of(id, &labels);
        let mut edges: Vec<Edge> = rules.iter().filter_map(|place| self.edge(*place)).collect();
        edges.sort_by_key(|edge| self.rule(edge.rule).map(Compiled::rank));
        for label in &labels {
            self.labelled.entry(key((label.0, label.1))).or_default().insert(id);
        }
        let mut target = Target { listed, labels, ..Target::default() };
        for edge in edges {
            let sets = self.rule(edge.rule).map(|compiled| compiled.sets.as_slice());
            target.insert(target.edges.len(), edge, sets.unwrap_or_default());
        }
        self.targets.insert(id, target);
        for place in rules {
            if let Some(compiled) = self.rules.get_mut(place as usize).and_then(Option::as_mut) {
                compiled.targets.push(id);
            }
        }
    }

    /// A resource is gone.
    pub fn remove_resource(&mut self, id: ResourceId) {
        let Some(target) = self.targets.remove(&id) else { return };
        for label in &target.labels {
            let label = key((label.0, label.1));
            if let Some(labelled) = self.labelled.get_mut(&label) {
                labelled.remove(&id);
                if labelled.is_empty() {
                    self.labelled.remove(&label);
                }
            }
        }
        for edge in target.edges {
            if let Some(compiled) = self.rules.get_mut(edge.rule as usize).and_then(Option::as_mut) {
                compiled.targets.retain(|target| *target != id);
            }
        }
    }

    // Rules.

    /// The set of the principals that a selector selects.
    fn select(&mut self, selector: &Selector) -> u32 {
        if let Some(set) = self.sets.selectors.get(selector) {
            return *set;
        }
        self.sets.next += 1;
        let set = self.sets.next;
        self.sets.selectors.insert(selector.clone(), set);
        if let Some(first) = selector.first() {
            self.sets.by_label.entry(key(first)).or_default().push(selector.clone());
        }
        for member in self.members.values_mut().filter(|member| selector.selects(&member.labels)) {
            member.sets.insert(set);
            member.mask.add(set);
        }
        set
    }

    /// A rule is new or changed. Says which resources it speaks of, or did.
    pub fn put_rule(&mut self, rule: Rule) -> BTreeSet<ResourceId> {
        let mut touched = self.remove_rule(rule.id);
        let everyone = self.everyone.is_some_and(|everyone| rule.groups.contains(&everyone));
        let mut sets: Vec<u32> = rule.groups.iter().map(|group| self.number(*group)).collect();
        sets.extend(rule.principal_labels.iter().map(|selector| self.select(selector)));
        let mask = if everyone { Mask::EVERYONE } else { Mask::of(sets.iter().copied(), Mask::default()) };

        let place = self.free.pop().unwrap_or_else(|| {
            self.rules.push(None);
            // A rule takes hundreds of bytes: four thousand million of them do not fit any memory.
            u32::try_from(self.rules.len() - 1).unwrap_or(u32::MAX)
        });
        let mut targets: BTreeSet<ResourceId> =
            rule.resources.iter().filter(|id| self.targets.contains_key(id)).copied().collect();
        for resource in &rule.resources {
            self.named.entry(*resource).or_default().insert(place);
        }
        for selector in &rule.resource_labels {
            let Some(first) = selector.first().map(key) else { continue };
            let labelled = self.labelled.get(&first).into_iter().flatten();
            targets
                .extend(labelled.filter(|id| {
                    self.targets.get(id).is_some_and(|target| selector.selects(&target.labels))
                }));
            let selecting = self.selecting.entry(first).or_default();
            selecting.entry(selector.clone()).or_default().insert(place);
        }
        let terms = Terms::new(&rule, self.made);
        self.places.insert(rule.id, place);
        let compiled =
            Compiled { terms, rule, sets, everyone, mask, targets: targets.iter().copied().collect() };
        let (rank, sets) = (compiled.rank(), compiled.sets.clone());
        if let Some(slot) = self.rules.get_mut(place as usize) {
            *slot = Some(compiled);
        }
        let Some(edge) = self.edge(place) else { return touched };
        for id in &targets {
            let Some(target) = self.targets.get_mut(id) else { continue };
            let rules = &self.rules;
            let before = |other: &Edge| {
                let other = rules.get(other.rule as usize).and_then(Option::as_ref);
                other.is_some_and(|other| other.rank() < rank)
            };
            let at = target.edges.partition_point(before);
            target.insert(at, edge, &sets);
        }
        touched.append(&mut targets);
        touched
    }

    /// A rule is gone. Says which resources it spoke of.
    pub fn remove_rule(&mut self, id: PolicyId) -> BTreeSet<ResourceId> {
        let Some(place) = self.places.remove(&id) else { return BTreeSet::new() };
        let compiled = self.rules.get_mut(place as usize).and_then(Option::take);
        let Some(compiled) = compiled else { return BTreeSet::new() };
        self.free.push(place);
        for resource in &compiled.rule.resources {
            if let Some(naming) = self.named.get_mut(resource) {
                naming.remove(&place);
                if naming.is_empty() {
                    self.named.remove(resource);
                }
            }
        }
        for selector in &compiled.rule.resource_labels {
            let Some(first) = selector.first().map(key) else { continue };
            let Some(selecting) = self.selecting.get_mut(&first) else { continue };
            if let Some(rules) = selecting.get_mut(selector) {
                rules.remove(&place);
            }
            selecting.retain(|_, rules| !rules.is_empty());
            if selecting.is_empty() {
                self.selecting.remove(&first);
            }
        }
        for target in &compiled.targets {
            if let Some(target) = self.targets.get_mut(target) {
                target.remove(place);
            }
        }
        compiled.targets.into_iter().collect()
    }
}

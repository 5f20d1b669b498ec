//! The compiled index: decides in the time that the rules of one resource take.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use protocol_identity::{GroupId, PrincipalId, ResourceId};

use crate::condition::Met;
use crate::decision::{Close, Explanation, RuleRef};
use crate::window::Windows;
use crate::{Context, Decision, Effect, Failure, Reason, Rule, Verdict};

/// A principal as policy sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Its id.
    pub id: PrincipalId,
    /// One that is disabled reaches nothing.
    pub disabled: bool,
    /// The groups that it was put into.
    pub groups: BTreeSet<GroupId>,
}

/// A resource as policy sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Its id.
    pub id: ResourceId,
    /// Whether devices learn of it although no rule names it.
    pub listed: bool,
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

/// A [`Snapshot`], compiled.
#[derive(Debug, Default)]
pub struct Index {
    groups: BTreeMap<PrincipalId, Principal>,
    everyone: Option<GroupId>,
    listed: BTreeMap<ResourceId, bool>,
    rules: Vec<Rule>,
    by_resource: BTreeMap<ResourceId, Vec<usize>>,
}

/// How one rule met a request.
struct Outcome {
    /// What keeps an allow from applying.
    failures: Vec<Failure>,
    /// Whether a deny applies: nothing failed, unknowns aside.
    fires: bool,
    /// Up to when what holds now goes on to hold.
    until: Option<Timestamp>,
}

/// Explanations name at most this many rules: a person reads them.
const MOST_CLOSE: usize = 16;

/// The earlier of two ends, where `None` is never.
fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (only, None) | (None, only) => only,
    }
}

impl Index {
    /// Compiles a snapshot. The order of its parts does not matter.
    pub fn compile(snapshot: Snapshot) -> Self {
        let Snapshot { principals, everyone, resources, mut rules } = snapshot;
        rules.sort_by_key(|rule| rule.id);
        let mut by_resource = BTreeMap::<ResourceId, Vec<usize>>::new();
        for (n, rule) in rules.iter().enumerate() {
            for resource in &rule.resources {
                by_resource.entry(*resource).or_default().push(n);
            }
        }
        Self {
            groups: principals.into_iter().map(|principal| (principal.id, principal)).collect(),
            everyone,
            listed: resources.into_iter().map(|resource| (resource.id, resource.listed)).collect(),
            rules,
            by_resource,
        }
    }

    fn rules_of(&self, resource: ResourceId) -> impl Iterator<Item = &Rule> {
        let positions = self.by_resource.get(&resource).map(Vec::as_slice).unwrap_or_default();
        positions.iter().filter_map(|n| self.rules.get(*n))
    }

    fn speaks_of(&self, rule: &Rule, principal: &Principal) -> bool {
        self.everyone.is_some_and(|everyone| rule.groups.contains(&everyone))
            || rule.groups.iter().any(|group| principal.groups.contains(group))
    }

    /// Whether a device of this principal learns that the resource exists: an enabled allow rule names it for the
    /// principal, conditions aside, or it is listed.
    pub fn learns(&self, principal: PrincipalId, resource: ResourceId) -> bool {
        let Some(principal) = self.groups.get(&principal).filter(|principal| !principal.disabled) else {
            return false;
        };
        match self.listed.get(&resource) {
            None => false,
            Some(true) => true,
            Some(false) => self
                .rules_of(resource)
                .any(|rule| rule.enabled && rule.effect == Effect::Allow && self.speaks_of(rule, principal)),
        }
    }

    /// The resources that devices of this principal learn of.
    pub fn known_to(&self, principal: PrincipalId) -> Vec<ResourceId> {
        self.listed.keys().copied().filter(|resource| self.learns(principal, *resource)).collect()
    }

    /// Decides a request at this moment.
    pub fn decide(&self, request: &Request<'_>, now: Timestamp) -> Decision {
        let Some(principal) = self.groups.get(&request.principal) else {
            return Decision::denied(Reason::UnknownPrincipal);
        };
        if principal.disabled {
            return Decision::denied(Reason::PrincipalDisabled);
        }
        if !self.listed.contains_key(&request.resource) {
            return Decision::denied(Reason::UnknownResource);
        }

        let mut denies_from = None;
        let mut best: Option<(&Rule, Option<Timestamp>)> = None;
        let mut close = Vec::new();
        let mut named = false;
        for rule in self.rules_of(request.resource) {
            match rule.effect {
                Effect::Deny if !rule.enabled || !self.speaks_of(rule, principal) => {}
                Effect::Deny => {
                    if meet(rule, request, now).fires {
                        return Decision {
                            verdict: Verdict::Denied(Reason::DeniedByRule),
                            explanation: Explanation { decided: Some(name(rule)), close: Vec::new() },
                        };
                    }
                    denies_from = earlier(denies_from, begins(rule, request, now));
                }
                Effect::Allow => {
                    named |= rule.enabled;
                    let mut outcome = meet(rule, request, now);
                    if !self.speaks_of(rule, principal) {
                        outcome.failures.insert(0, Failure::NotInGroup);
                    }
                    if !rule.enabled {
                        outcome.failures.insert(0, Failure::Disabled);
                    }
                    match outcome.failures.len().checked_sub(1) {
                        None => {
                            if best.is_none_or(|(_, end)| ends_later(outcome.until, end)) {
                                best = Some((rule, outcome.until));
                            }
                        }
                        Some(further) => {
                            let failed = outcome.failures.swap_remove(0);
                            close.push(Close { rule: name(rule), failed, further });
                        }
                    }
                }
            }
        }

        match best {
            Some((rule, until)) => Decision {
                verdict: Verdict::Allowed { policy: rule.id, end: earlier(until, denies_from) },
                explanation: Explanation { decided: Some(name(rule)), close: Vec::new() },
            },
            None => {
                let closest = close.iter().map(|close| close.further).min().unwrap_or(0);
                close.retain(|close| close.further == closest);
                close.truncate(MOST_CLOSE);
                let reason = if named { Reason::NoRuleApplies } else { Reason::NoRule };
                Decision {
                    verdict: Verdict::Denied(reason),
                    explanation: Explanation { decided: None, close },
                }
            }
        }
    }
}

fn name(rule: &Rule) -> RuleRef {
    RuleRef { id: rule.id, name: rule.name.clone(), effect: rule.effect }
}

/// Whether `end` is later than `than`, where `None` is never.
fn ends_later(end: Option<Timestamp>, than: Option<Timestamp>) -> bool {
    match (end, than) {
        (_, None) => false,
        (None, Some(_)) => true,
        (Some(end), Some(than)) => end > than,
    }
}

/// Meets the rule's conditions, and for an allow the ends of the sign-in and of the longest session.
fn meet(rule: &Rule, request: &Request<'_>, now: Timestamp) -> Outcome {
    let mut outcome = Outcome { failures: Vec::new(), fires: true, until: None };
    for met in rule.conditions.meet(request.context, now) {
        match met {
            Met::Holds(until) => outcome.until = earlier(outcome.until, until),
            Met::Unknown(failure) => outcome.failures.push(failure),
            Met::Fails(failure) => {
                outcome.failures.push(failure);
                outcome.fires = false;
            }
        }
    }
    if rule.effect == Effect::Allow {
        // A sum beyond the calendar is no end.
        let longest = rule.max_session.and_then(|longest| request.since.checked_add(longest).ok());
        let end = earlier(request.context.session_ends, longest);
        if end.is_some_and(|end| end <= now) {
            outcome.failures.push(Failure::Ended);
        }
        outcome.until = earlier(outcome.until, end);
    }
    outcome
}

/// When a deny that does not match now will begin to, by time alone: its windows are all that it fails, one opens
/// later, and what holds now still holds then.
fn begins(rule: &Rule, request: &Request<'_>, now: Timestamp) -> Option<Timestamp> {
    let opens = Windows(&rule.conditions.time_windows).next_opening(now)?;
    let fires = rule.conditions.meet(request.context, opens).iter().all(|met| !matches!(met, Met::Fails(_)));
    fires.then_some(opens)
}

#[cfg(test)]
mod tests;

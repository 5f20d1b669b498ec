//! Who gains and who loses what, between two indices.

use std::collections::{BTreeMap, BTreeSet};

use protocol_identity::{PrincipalId, ResourceId};

use crate::words::terms;
use crate::{Effect, Index};

/// One way in which somebody's access to something changes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct AccessChange {
    /// Who.
    pub principal: PrincipalId,
    /// What.
    pub resource: ResourceId,
    /// Whether access is gained, or lost.
    pub gains: bool,
    /// Under which conditions, in words; `always` for none.
    pub condition: String,
    /// By which rule: that which gives the access, or takes it away; that which is gone, when one is.
    pub rule: String,
}

/// The access of one principal to one resource: terms, and the rule that each comes from.
#[derive(Debug, Default, PartialEq, Eq)]
struct Access {
    allows: BTreeMap<String, String>,
    denies: BTreeMap<String, String>,
}

const ALWAYS: &str = "always";

impl Access {
    fn of(index: &Index, principal: PrincipalId, resource: ResourceId) -> Self {
        let mut access = Self::default();
        for rule in index.rules_between(principal, resource) {
            let side = match rule.effect {
                Effect::Allow => &mut access.allows,
                Effect::Deny => &mut access.denies,
            };
            let longest = rule.max_session.filter(|_| rule.effect == Effect::Allow);
            side.entry(terms(&rule.conditions, longest)).or_insert_with(|| rule.name.clone());
        }
        access
    }

    /// Whether there is access at all, under some condition.
    fn is_some(&self) -> bool {
        !self.allows.is_empty() && !self.denies.contains_key(ALWAYS)
    }

    /// The terms that give access. Where it is always there, other terms add nothing.
    fn given(&self) -> BTreeMap<&str, &str> {
        let all = self.allows.iter().map(|(terms, rule)| (terms.as_str(), rule.as_str()));
        let always = self.allows.contains_key(ALWAYS);
        all.filter(|(terms, _)| self.is_some() && (!always || *terms == ALWAYS)).collect()
    }
}

/// Compares the access of principals to resources. Only what a changed rule speaks of, before or after, has to be named.
pub fn access_diff(
    before: &Index,
    after: &Index,
    principals: impl IntoIterator<Item = PrincipalId>,
    resources: &BTreeSet<ResourceId>,
) -> Vec<AccessChange> {
    let mut changes = Vec::new();
    for principal in principals {
        for resource in resources {
            let (old, new) =
                (Access::of(before, principal, *resource), Access::of(after, principal, *resource));
            if old != new {
                compare(principal, *resource, &old, &new, &mut changes);
            }
        }
    }
    changes
}

fn compare(
    principal: PrincipalId,
    resource: ResourceId,
    old: &Access,
    new: &Access,
    changes: &mut Vec<AccessChange>,
) {
    let mut change = |gains: bool, condition: String, rule: &str| {
        changes.push(AccessChange { principal, resource, gains, condition, rule: rule.to_owned() });
    };
    let (was, is) = (old.given(), new.given());
    // Who loses all of it to a deny hears which one.
    let by = new.denies.get(ALWAYS).filter(|_| old.is_some() && !new.is_some());
    for (terms, rule) in &was {
        if !is.contains_key(terms) && !is.contains_key(ALWAYS) {
            // Who had it always keeps it under the terms that are left.
            let left: Vec<&str> = is.keys().copied().collect();
            let lost = match *terms {
                ALWAYS if !left.is_empty() => format!("unless {}", left.join(" or ")),
                terms => terms.to_owned(),
            };
            change(false, lost, by.map_or(*rule, String::as_str));
        }
    }
    for (terms, rule) in &is {
        if !was.contains_key(terms) && !was.contains_key(ALWAYS) {
            change(true, (*terms).to_owned(), rule);
        }
    }
    if old.is_some() && new.is_some() {
        for (terms, rule) in &new.denies {
            if !old.denies.contains_key(terms) {
                change(false, format!("denied: {terms}"), rule);
            }
        }
        for (terms, rule) in &old.denies {
            if !new.denies.contains_key(terms) {
                change(true, format!("no longer denied: {terms}"), rule);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use protocol_identity::{GroupId, PolicyId};
    use uuid::Uuid;

    use super::*;
    use crate::{Conditions, Labels, Principal, Resource, Rule, Snapshot};

    const ANNA: PrincipalId = PrincipalId(Uuid::from_u128(1));
    const WIKI: ResourceId = ResourceId(Uuid::from_u128(2));
    const STAFF: GroupId = GroupId(Uuid::from_u128(3));

    fn rule(name: &str, effect: Effect, conditions: Conditions) -> Rule {
        Rule {
            id: PolicyId(Uuid::from_u128(u128::from(name.as_bytes()[0]))),
            name: name.into(),
            place: None,
            enabled: true,
            effect,
            groups: BTreeSet::from([STAFF]),
            principal_labels: BTreeSet::new(),
            resources: BTreeSet::from([WIKI]),
            resource_labels: BTreeSet::new(),
            conditions,
            max_session: None,
        }
    }

    fn always(name: &str) -> Rule {
        rule(name, Effect::Allow, Conditions::default())
    }

    fn verified(name: &str, effect: Effect) -> Rule {
        rule(name, effect, Conditions { device_verified: Some(true), ..Conditions::default() })
    }

    fn index(rules: Vec<Rule>) -> Index {
        let snapshot = Snapshot {
            principals: vec![Principal {
                id: ANNA,
                disabled: false,
                groups: BTreeSet::from([STAFF]),
                labels: Labels::new(),
            }],
            everyone: None,
            resources: vec![Resource { id: WIKI, listed: false, labels: Labels::new() }],
            rules,
        };
        Index::compile(snapshot, Timestamp::UNIX_EPOCH)
    }

    fn diff(before: Vec<Rule>, after: Vec<Rule>) -> Vec<String> {
        let changes = access_diff(&index(before), &index(after), [ANNA], &BTreeSet::from([WIKI]));
        let word = |change: &AccessChange| if change.gains { "gains" } else { "loses" };
        changes.iter().map(|it| format!("{} {} ({})", word(it), it.condition, it.rule)).collect()
    }

    #[test]
    fn a_new_rule_gives_and_a_removed_one_takes() {
        assert_eq!(diff(vec![], vec![always("a")]), ["gains always (a)"]);
        assert_eq!(diff(vec![verified("a", Effect::Allow)], vec![]), ["loses verified device (a)"]);
    }

    #[test]
    fn what_another_rule_gives_anyway_is_neither_gained_nor_lost() {
        let (all, some) = (always("a"), verified("v", Effect::Allow));

        assert!(diff(vec![all.clone()], vec![all.clone(), some.clone()]).is_empty());
        assert!(diff(vec![all.clone(), some.clone()], vec![all.clone()]).is_empty());
        assert!(diff(vec![all.clone()], vec![always("b")]).is_empty());
        assert_eq!(diff(vec![all, some.clone()], vec![some]), ["loses unless verified device (a)"]);
    }

    #[test]
    fn a_rule_is_narrowed_and_widened() {
        let narrow = verified("a", Effect::Allow);

        assert_eq!(diff(vec![always("a")], vec![narrow.clone()]), ["loses unless verified device (a)"]);
        assert_eq!(diff(vec![narrow], vec![always("a")]), ["gains always (a)"]);
    }

    #[test]
    fn a_deny_takes_all_or_under_its_conditions() {
        let deny = rule("d", Effect::Deny, Conditions::default());
        let sometimes = verified("d", Effect::Deny);

        assert_eq!(diff(vec![always("a")], vec![always("a"), deny.clone()]), ["loses always (d)"]);
        assert_eq!(
            diff(vec![always("a")], vec![always("a"), sometimes.clone()]),
            ["loses denied: verified device (d)"]
        );
        assert_eq!(
            diff(vec![always("a"), sometimes.clone()], vec![always("a")]),
            ["gains no longer denied: verified device (d)"]
        );
        assert!(diff(vec![], vec![deny, sometimes]).is_empty());
    }

    #[test]
    fn a_longer_session_is_gained_and_a_deny_has_none() {
        let hours = |n: u64| Some(std::time::Duration::from_secs(3600 * n));
        let (short, long) =
            (Rule { max_session: hours(1), ..always("a") }, Rule { max_session: hours(8), ..always("a") });
        let deny = Rule { max_session: hours(1), ..rule("d", Effect::Deny, Conditions::default()) };

        assert_eq!(
            diff(vec![short], vec![long]),
            ["loses always, for at most 1h (a)", "gains always, for at most 8h (a)"]
        );
        assert_eq!(diff(vec![always("a")], vec![always("a"), deny]), ["loses always (d)"]);
    }

    #[test]
    fn a_deny_of_what_nobody_has_changes_nothing() {
        let sometimes = verified("d", Effect::Deny);
        let deny = rule("d", Effect::Deny, Conditions::default());

        assert!(diff(vec![], vec![sometimes.clone()]).is_empty());
        assert!(diff(vec![sometimes], vec![]).is_empty());
        assert!(diff(vec![always("a"), deny.clone()], vec![deny.clone()]).is_empty());
        assert_eq!(diff(vec![always("a"), deny], vec![always("a")]), ["gains always (a)"]);
    }
}

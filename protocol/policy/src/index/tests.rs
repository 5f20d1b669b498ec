mod numbers;
mod reasons;

use std::time::Duration;

use protocol_identity::PolicyId;

use super::*;
use crate::{Conditions, Day, Decision, Failure, OwnView, Posture, TimeWindow};

fn id(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(n)
}

const WIKI: u128 = 1;
const ANNA: u128 = 1;

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn rule(n: u128, effect: Effect) -> Rule {
    Rule {
        id: PolicyId(id(n)),
        name: format!("rule-{n}"),
        place: Some(format!("access.toml:{n}")),
        enabled: true,
        effect,
        groups: BTreeSet::from([GroupId(id(1))]),
        principal_labels: BTreeSet::new(),
        resources: BTreeSet::from([ResourceId(id(WIKI))]),
        resource_labels: BTreeSet::new(),
        conditions: Conditions::default(),
        max_session: None,
    }
}

fn labels(all: &[(&str, &str)]) -> Labels {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn resource(n: u128, listed: bool, of: &[(&str, &str)]) -> Resource {
    Resource { id: ResourceId(id(n)), listed, labels: labels(of) }
}

fn snapshot(rules: Vec<Rule>) -> Snapshot {
    Snapshot {
        principals: vec![Principal {
            id: PrincipalId(id(ANNA)),
            disabled: false,
            groups: BTreeSet::from([GroupId(id(1))]),
            labels: Labels::new(),
        }],
        everyone: Some(GroupId(id(99))),
        resources: vec![resource(WIKI, false, &[])],
        rules,
    }
}

fn decide(rules: Vec<Rule>, context: &Context, now: Timestamp) -> Decision {
    let request =
        Request { principal: PrincipalId(id(ANNA)), resource: ResourceId(id(WIKI)), context, since: now };
    Index::compile(snapshot(rules), now).explain(&request, now)
}

const NOW: &str = "2026-11-24T10:00:00Z";

#[test]
fn nothing_is_allowed_by_default() {
    let decision = decide(Vec::new(), &Context::default(), at(NOW));

    assert_eq!(decision.verdict, Verdict::Denied(Reason::NoRule));
    assert_eq!(decision.own_view(), Some(OwnView::NoRule));
}

#[test]
fn a_deny_wins_over_any_allow() {
    let decision = decide(
        vec![rule(1, Effect::Allow), rule(2, Effect::Deny), rule(3, Effect::Allow)],
        &Context::default(),
        at(NOW),
    );

    assert_eq!(decision.verdict, Verdict::Denied(Reason::DeniedByRule(PolicyId(id(2)))));
    assert_eq!(decision.explanation.decided.as_ref().map(|rule| rule.id), Some(PolicyId(id(2))));
    assert_eq!(decision.own_view(), Some(OwnView::DenyRule { rule: "rule-2".into() }));
}

#[test]
fn a_rule_for_everyone_speaks_of_every_principal() {
    let mut open = rule(1, Effect::Allow);
    open.groups = BTreeSet::from([GroupId(id(99))]);

    assert!(decide(vec![open], &Context::default(), at(NOW)).is_allowed());
}

#[test]
fn unknown_never_grants() {
    let verified = |effect| Rule {
        conditions: Conditions { device_verified: Some(true), ..Conditions::default() },
        ..rule(1, effect)
    };
    let unknown = Context::default();

    assert!(!decide(vec![verified(Effect::Allow)], &unknown, at(NOW)).is_allowed());
    assert!(!decide(vec![rule(2, Effect::Allow), verified(Effect::Deny)], &unknown, at(NOW)).is_allowed());
}

#[test]
fn the_grant_takes_the_rule_with_the_latest_end() {
    let short = Rule { max_session: Some(Duration::from_secs(60)), ..rule(1, Effect::Allow) };
    let long = Rule { max_session: Some(Duration::from_secs(3600)), ..rule(2, Effect::Allow) };

    let decision = decide(vec![short, long], &Context::default(), at(NOW));

    assert_eq!(
        decision.verdict,
        Verdict::Allowed { policy: PolicyId(id(2)), end: Some(at("2026-11-24T11:00:00Z")) }
    );
}

#[test]
fn the_grant_ends_when_a_deny_begins_to_match() {
    let night = TimeWindow {
        days: Day::ALL.into_iter().collect(),
        from: "22:00".parse().unwrap(),
        to: "06:00".parse().unwrap(),
        zone: "UTC".parse().unwrap(),
    };
    let closed = Rule {
        conditions: Conditions { time_windows: vec![night], ..Conditions::default() },
        ..rule(2, Effect::Deny)
    };

    let decision = decide(vec![rule(1, Effect::Allow), closed], &Context::default(), at(NOW));

    assert_eq!(
        decision.verdict,
        Verdict::Allowed { policy: PolicyId(id(1)), end: Some(at("2026-11-24T22:00:00Z")) }
    );
}

#[test]
fn the_end_of_the_sign_in_ends_the_grant_whatever_the_rule_gives() {
    let context = Context { session_ends: Some(at("2026-11-24T10:05:00Z")), ..Context::default() };

    let during = decide(vec![rule(1, Effect::Allow)], &context, at(NOW));
    let after = decide(vec![rule(1, Effect::Allow)], &context, at("2026-11-24T10:05:00Z"));

    assert_eq!(
        during.verdict,
        Verdict::Allowed { policy: PolicyId(id(1)), end: Some(at("2026-11-24T10:05:00Z")) }
    );
    assert_eq!(after.explanation.close[0].failed, Failure::Ended);
}

#[test]
fn the_closest_rules_come_with_the_one_condition_that_each_failed() {
    let verified = Rule {
        conditions: Conditions { device_verified: Some(true), ..Conditions::default() },
        ..rule(1, Effect::Allow)
    };
    let others = Rule { groups: BTreeSet::from([GroupId(id(2))]), ..rule(2, Effect::Allow) };
    let far = Rule {
        conditions: Conditions {
            device_verified: Some(true),
            posture: vec![Posture {
                attribute: "os".into(),
                is: BTreeSet::from(["linux".into()]),
                ..Posture::default()
            }],
            ..Conditions::default()
        },
        ..rule(3, Effect::Allow)
    };
    let context = Context { device_verified: Some(false), ..Context::default() };

    let decision = decide(vec![far, others, verified], &context, at(NOW));

    let close: Vec<_> =
        decision.explanation.close.iter().map(|c| (c.rule.name.as_str(), c.failed.condition())).collect();
    assert_eq!(close, [("rule-1", "device_verified"), ("rule-2", "group")]);
    assert_eq!(
        decision.own_view(),
        Some(OwnView::Condition { rule: "rule-1".into(), asks_for: "a verified device".into() })
    );
}

#[test]
fn the_denied_person_never_reads_of_rules_for_other_groups() {
    let others = Rule { groups: BTreeSet::from([GroupId(id(2))]), ..rule(2, Effect::Allow) };

    let decision = decide(vec![others], &Context::default(), at(NOW));

    assert!(decision.reason().contains("rule-2"));
    assert_eq!(decision.own_view(), Some(OwnView::NoRule));
}

#[test]
fn a_disabled_principal_reaches_and_learns_nothing() {
    let mut snapshot = snapshot(vec![rule(1, Effect::Allow)]);
    snapshot.principals[0].disabled = true;
    snapshot.resources[0].listed = true;
    let index = Index::compile(snapshot, at(NOW));
    let context = Context::default();
    let request = Request {
        principal: PrincipalId(id(ANNA)),
        resource: ResourceId(id(WIKI)),
        context: &context,
        since: at(NOW),
    };

    assert_eq!(index.decide(&request, at(NOW)), Verdict::Denied(Reason::PrincipalDisabled));
    assert!(index.known_to(PrincipalId(id(ANNA))).is_empty());
}

#[test]
fn a_device_learns_of_what_is_listed_and_of_what_a_rule_names_conditions_aside() {
    let verified = Rule {
        conditions: Conditions { device_verified: Some(true), ..Conditions::default() },
        ..rule(1, Effect::Allow)
    };
    let mut snapshot = snapshot(vec![verified]);
    snapshot.resources.push(resource(2, true, &[]));
    snapshot.resources.push(resource(3, false, &[]));

    let known = Index::compile(snapshot, at(NOW)).known_to(PrincipalId(id(ANNA)));

    assert_eq!(known, [ResourceId(id(WIKI)), ResourceId(id(2))]);
}

/// Whether Anna, with these labels, reaches a resource with those under one rule.
fn labelled(rule: Rule, own: &[(&str, &str)], of: &[(&str, &str)]) -> bool {
    let mut snapshot = snapshot(vec![rule]);
    snapshot.principals[0].labels = labels(own);
    snapshot.principals[0].groups = BTreeSet::new();
    snapshot.resources = vec![resource(WIKI, false, of)];
    let context = Context::default();
    let request = Request {
        principal: PrincipalId(id(ANNA)),
        resource: ResourceId(id(WIKI)),
        context: &context,
        since: at(NOW),
    };
    matches!(Index::compile(snapshot, at(NOW)).decide(&request, at(NOW)), Verdict::Allowed { .. })
}

#[test]
fn a_rule_speaks_of_principals_and_resources_by_their_labels() {
    let rule = Rule {
        groups: BTreeSet::new(),
        principal_labels: BTreeSet::from(["team=infra,level=senior".parse().unwrap()]),
        resources: BTreeSet::new(),
        resource_labels: BTreeSet::from(["env=production".parse().unwrap(), "env=staging".parse().unwrap()]),
        ..rule(1, Effect::Allow)
    };
    let senior = [("team", "infra"), ("level", "senior")];

    assert!(labelled(rule.clone(), &senior, &[("env", "production")]));
    assert!(labelled(rule.clone(), &senior, &[("env", "staging")]));
    assert!(!labelled(rule.clone(), &senior, &[("env", "test")]));
    assert!(!labelled(rule.clone(), &senior[..1], &[("env", "production")]));
    assert!(!labelled(rule, &[], &[("env", "production")]));
}

#[test]
fn the_deciding_rule_comes_with_its_place() {
    let decision = decide(vec![rule(7, Effect::Allow)], &Context::default(), at(NOW));

    assert_eq!(decision.explanation.decided.unwrap().place.as_deref(), Some("access.toml:7"));
}

#[test]
fn equal_ends_are_settled_by_the_lower_id() {
    let decision = decide(vec![rule(3, Effect::Allow), rule(2, Effect::Allow)], &Context::default(), at(NOW));

    assert_eq!(decision.verdict, Verdict::Allowed { policy: PolicyId(id(2)), end: None });
}

#[test]
fn a_rule_that_is_changed_or_removed_touches_its_resources_and_no_others() {
    let mut snapshot = snapshot(vec![rule(1, Effect::Allow)]);
    snapshot.resources.push(resource(2, false, &[("env", "test")]));
    snapshot.resources.push(resource(3, false, &[]));
    let mut index = Index::compile(snapshot, at(NOW));
    let by_label = Rule {
        resources: BTreeSet::new(),
        resource_labels: BTreeSet::from(["env=test".parse().unwrap()]),
        ..rule(1, Effect::Allow)
    };

    let changed = index.put_rule(by_label);
    let known = index.known_to(PrincipalId(id(ANNA)));
    let removed = index.remove_rule(PolicyId(id(1)));

    assert_eq!(changed, BTreeSet::from([ResourceId(id(WIKI)), ResourceId(id(2))]));
    assert_eq!(known, [ResourceId(id(2))]);
    assert_eq!(removed, BTreeSet::from([ResourceId(id(2))]));
    assert!(index.known_to(PrincipalId(id(ANNA))).is_empty());
    assert!(index.remove_rule(PolicyId(id(1))).is_empty());
}

#[test]
fn a_rule_says_of_whom_and_of_what_it_speaks() {
    let index = Index::compile(snapshot(vec![rule(1, Effect::Allow)]), at(NOW));
    let (policy, anna) = (PolicyId(id(1)), PrincipalId(id(ANNA)));

    assert_eq!(index.rule_of(policy).map(|rule| rule.name.as_str()), Some("rule-1"));
    assert_eq!(index.resources_of(policy), [ResourceId(id(WIKI))]);
    assert!(index.speaks_of(policy, anna));
    assert!(!index.speaks_of(policy, PrincipalId(id(2))));
    assert_eq!(index.groups_of(anna), BTreeSet::from([GroupId(id(1))]));
    assert_eq!(index.everyone(), Some(GroupId(id(99))));
    assert_eq!(index.rules_between(anna, ResourceId(id(WIKI))).count(), 1);
    assert_eq!(index.rule_of(PolicyId(id(2))), None);
    assert!(index.resources_of(PolicyId(id(2))).is_empty());
}

use std::time::Duration;

use jiff::ToSpan as _;
use proptest::prelude::*;
use protocol_identity::PolicyId;

use super::*;
use crate::{ClockTime, Conditions, Day, OwnView, Posture, TimeWindow};

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
        enabled: true,
        effect,
        groups: BTreeSet::from([GroupId(id(1))]),
        resources: BTreeSet::from([ResourceId(id(WIKI))]),
        conditions: Conditions::default(),
        max_session: None,
    }
}

fn snapshot(rules: Vec<Rule>) -> Snapshot {
    Snapshot {
        principals: vec![Principal {
            id: PrincipalId(id(ANNA)),
            disabled: false,
            groups: BTreeSet::from([GroupId(id(1))]),
        }],
        everyone: Some(GroupId(id(99))),
        resources: vec![Resource { id: ResourceId(id(WIKI)), listed: false }],
        rules,
    }
}

fn decide(rules: Vec<Rule>, context: &Context, now: Timestamp) -> Decision {
    let request =
        Request { principal: PrincipalId(id(ANNA)), resource: ResourceId(id(WIKI)), context, since: now };
    Index::compile(snapshot(rules)).decide(&request, now)
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

    assert_eq!(decision.verdict, Verdict::Denied(Reason::DeniedByRule));
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
                at_least: None,
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
    let index = Index::compile(snapshot);
    let context = Context::default();
    let request = Request {
        principal: PrincipalId(id(ANNA)),
        resource: ResourceId(id(WIKI)),
        context: &context,
        since: at(NOW),
    };

    assert_eq!(index.decide(&request, at(NOW)).verdict, Verdict::Denied(Reason::PrincipalDisabled));
    assert!(index.known_to(PrincipalId(id(ANNA))).is_empty());
}

#[test]
fn a_device_learns_of_what_is_listed_and_of_what_a_rule_names_conditions_aside() {
    let verified = Rule {
        conditions: Conditions { device_verified: Some(true), ..Conditions::default() },
        ..rule(1, Effect::Allow)
    };
    let mut snapshot = snapshot(vec![verified]);
    snapshot.resources.push(Resource { id: ResourceId(id(2)), listed: true });
    snapshot.resources.push(Resource { id: ResourceId(id(3)), listed: false });

    let known = Index::compile(snapshot).known_to(PrincipalId(id(ANNA)));

    assert_eq!(known, [ResourceId(id(WIKI)), ResourceId(id(2))]);
}

// The naive evaluator: the words of the semantics, one after the other, without an index and without computing ends.
// Windows are on whole quarters of an hour, in zones without daylight saving, so a walk in quarters sees every change.

const ZONES: [(&str, i64); 3] = [("UTC", 0), ("Asia/Tokyo", 540), ("America/Phoenix", -420)];

fn naive_window(window: &TimeWindow, now: Timestamp) -> bool {
    let zone = window.zone.to_string();
    let offset = ZONES.iter().find(|(name, _)| *name == zone).unwrap().1;
    let minutes = now.as_second() / 60 + offset;
    // 1970-01-01 was a Thursday.
    let day = |days: i64| Day::ALL[(days + 3).rem_euclid(7) as usize];
    let (today, minute) = (minutes.div_euclid(1440), minutes.rem_euclid(1440));
    let number = |time: ClockTime| {
        let text = time.to_string();
        text[..2].parse::<i64>().unwrap() * 60 + text[3..].parse::<i64>().unwrap()
    };
    let (from, to) = (number(window.from), number(window.to));
    let on = |days: i64| window.days.contains(&day(days));
    if from < to {
        on(today) && from <= minute && minute < to
    } else {
        (on(today) && minute >= from) || (on(today - 1) && minute < to)
    }
}

/// `Some(holds)`, or `None` for unknown.
fn naive_conditions(rule: &Rule, context: &Context, now: Timestamp) -> Vec<Option<bool>> {
    let c = &rule.conditions;
    let mut all = Vec::new();
    if !c.time_windows.is_empty() {
        all.push(Some(c.time_windows.iter().any(|window| naive_window(window, now))));
    }
    if !c.source_cidrs.is_empty() {
        all.push(context.source.map(|own| c.source_cidrs.iter().any(|net| net.contains(&own))));
    }
    if let Some(wanted) = c.device_verified {
        all.push(context.device_verified.map(|own| own == wanted));
    }
    for posture in &c.posture {
        all.push(context.posture.get(&posture.attribute).map(|own| posture.is.contains(own)));
    }
    if let Some(most) = c.session_age_seconds {
        all.push(context.session_started.map(|start| now < start + Duration::from_secs(most)));
    }
    if !c.countries.is_empty() {
        all.push(context.country.as_ref().map(|own| c.countries.contains(own)));
    }
    all
}

struct Naive<'a> {
    snapshot: &'a Snapshot,
    context: &'a Context,
    principal: &'a Principal,
    resource: ResourceId,
    since: Timestamp,
}

impl Naive<'_> {
    fn applies(&self, rule: &Rule) -> bool {
        let groups = self.snapshot.everyone.iter().chain(&self.principal.groups);
        rule.enabled
            && rule.resources.contains(&self.resource)
            && groups.into_iter().any(|g| rule.groups.contains(g))
    }

    fn conforms(&self, rule: &Rule, now: Timestamp) -> bool {
        rule.effect == Effect::Allow
            && self.applies(rule)
            && naive_conditions(rule, self.context, now).iter().all(|holds| *holds == Some(true))
            && rule.max_session.is_none_or(|longest| now < self.since + longest)
            && self.context.session_ends.is_none_or(|end| now < end)
    }

    fn denied(&self, now: Timestamp) -> bool {
        self.snapshot.rules.iter().any(|rule| {
            rule.effect == Effect::Deny
                && self.applies(rule)
                && naive_conditions(rule, self.context, now).iter().all(|holds| *holds != Some(false))
        })
    }

    fn allowed(&self, now: Timestamp) -> bool {
        !self.principal.disabled
            && !self.denied(now)
            && self.snapshot.rules.iter().any(|rule| self.conforms(rule, now))
    }

    /// The first quarter at which `holds` is false; `None` after nine days.
    fn ends(&self, now: Timestamp, holds: impl Fn(Timestamp) -> bool) -> Option<Timestamp> {
        (1..9 * 96).map(|quarters| now + (quarters * 15).minutes()).find(|later| !holds(*later))
    }

    /// The latest end over the conforming rules, but not after a deny begins.
    fn end(&self, now: Timestamp) -> Option<Timestamp> {
        let allow = self
            .snapshot
            .rules
            .iter()
            .filter(|rule| self.conforms(rule, now))
            .map(|rule| self.ends(now, |later| self.conforms(rule, later)))
            .reduce(|a, b| a.and_then(|a| b.map(|b| a.max(b))))
            .flatten();
        earlier(allow, self.ends(now, |later| !self.denied(later)))
    }
}

fn arb_window() -> impl Strategy<Value = TimeWindow> {
    (prop::collection::btree_set(prop::sample::select(&Day::ALL[..]), 1..=7), 0u16..96, 0u16..96, 0usize..3)
        .prop_map(|(days, from, to, zone)| TimeWindow {
            days,
            from: ClockTime::from_minutes(from * 15).unwrap(),
            to: ClockTime::from_minutes(to * 15).unwrap(),
            zone: ZONES[zone].0.parse().unwrap(),
        })
}

fn rarely<T: std::fmt::Debug + Clone + 'static>(
    of: impl Strategy<Value = T> + 'static,
) -> impl Strategy<Value = Option<T>> {
    prop_oneof![3 => Just(None), 1 => of.prop_map(Some)]
}

fn quarters(most: u64) -> impl Strategy<Value = u64> {
    (1..most).prop_map(|n| n * 900)
}

fn arb_conditions() -> impl Strategy<Value = Conditions> {
    (
        prop_oneof![2 => Just(Vec::new()), 1 => prop::collection::vec(arb_window(), 1..3)],
        rarely(prop::sample::select(vec!["198.51.100.0/24", "203.0.113.0/24"])),
        rarely(any::<bool>()),
        rarely(prop::sample::select(vec!["linux", "macos"])),
        rarely(quarters(200)),
        rarely(prop::sample::select(vec!["DE", "FR"])),
    )
        .prop_map(|(time_windows, source, device_verified, os, session_age_seconds, country)| {
            Conditions {
                time_windows,
                source_cidrs: source.into_iter().map(|net| net.parse().unwrap()).collect(),
                device_verified,
                posture: os
                    .into_iter()
                    .map(|os| Posture {
                        attribute: "os".into(),
                        is: BTreeSet::from([os.to_owned()]),
                        at_least: None,
                    })
                    .collect(),
                session_age_seconds,
                countries: country.into_iter().map(str::to_owned).collect(),
                providers: BTreeSet::new(),
            }
        })
}

fn arb_rule() -> impl Strategy<Value = Rule> {
    (
        any::<u128>(),
        prop_oneof![9 => Just(true), 1 => Just(false)],
        prop_oneof![3 => Just(Effect::Allow), 1 => Just(Effect::Deny)],
        prop::collection::btree_set(
            (prop::sample::select(vec![1u128, 2, 3, 99])).prop_map(|n| GroupId(id(n))),
            1..3,
        ),
        prop::collection::btree_set((1u128..3).prop_map(|n| ResourceId(id(n))), 1..3),
        arb_conditions(),
        rarely(quarters(60).prop_map(Duration::from_secs)),
    )
        .prop_map(|(n, enabled, effect, groups, resources, conditions, max_session)| Rule {
            id: PolicyId(id(n)),
            name: format!("rule-{n}"),
            enabled,
            effect,
            groups,
            resources,
            conditions,
            max_session,
        })
}

fn arb_context(now: Timestamp) -> impl Strategy<Value = Context> {
    (
        prop::option::of(prop::sample::select(vec!["198.51.100.7", "203.0.113.7", "192.0.2.7"])),
        prop::option::of(any::<bool>()),
        prop::option::of(prop::sample::select(vec!["linux", "macos"])),
        prop::option::of((0i64..100).prop_map(move |n| now - (n * 15).minutes())),
        rarely((1i64..100).prop_map(move |n| now + (n * 15).minutes())),
        prop::option::of(prop::sample::select(vec!["DE", "FR", "IT"])),
    )
        .prop_map(|(source, device_verified, os, session_started, session_ends, country)| Context {
            source: source.map(|address| address.parse().unwrap()),
            device_verified,
            posture: os.into_iter().map(|os| ("os".to_owned(), os.to_owned())).collect(),
            session_started,
            session_ends,
            country: country.map(str::to_owned),
            provider: None,
        })
}

fn arb_now() -> impl Strategy<Value = Timestamp> {
    // Four weeks in quarters from a Sunday on.
    (0i64..4 * 7 * 96).prop_map(|n| at("2026-11-01T00:00:00Z") + (n * 15).minutes())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn the_index_decides_as_the_naive_evaluator_does(
        rules in prop::collection::vec(arb_rule(), 0..6),
        groups in prop::collection::btree_set((1u128..4).prop_map(|n| GroupId(id(n))), 0..3),
        (now, context) in arb_now().prop_flat_map(|now| (Just(now), arb_context(now))),
        shuffle in any::<u64>(),
    ) {
        let snapshot = Snapshot {
            principals: vec![Principal { id: PrincipalId(id(ANNA)), disabled: false, groups }],
            everyone: Some(GroupId(id(99))),
            resources: vec![Resource { id: ResourceId(id(WIKI)), listed: false }],
            rules,
        };
        let mut shuffled = snapshot.clone();
        shuffled.rules.sort_by_key(|rule| rule.id.0.as_u128() as u64 ^ shuffle);
        let request = Request {
            principal: PrincipalId(id(ANNA)),
            resource: ResourceId(id(WIKI)),
            context: &context,
            since: now,
        };
        let naive = Naive {
            snapshot: &snapshot,
            context: &context,
            principal: &snapshot.principals[0],
            resource: ResourceId(id(WIKI)),
            since: now,
        };

        let index = Index::compile(snapshot.clone());
        let decision = index.decide(&request, now);
        let reordered = Index::compile(shuffled).decide(&request, now);

        prop_assert_eq!(&decision, &reordered, "order matters");
        prop_assert_eq!(decision.is_allowed(), naive.allowed(now));
        if let Verdict::Allowed { policy, end } = decision.verdict {
            prop_assert_eq!(end, naive.end(now));
            let rule = snapshot.rules.iter().find(|rule| rule.id == policy).unwrap();
            prop_assert!(naive.conforms(rule, now));
            prop_assert!(index.learns(PrincipalId(id(ANNA)), ResourceId(id(WIKI))));
        }
    }
}

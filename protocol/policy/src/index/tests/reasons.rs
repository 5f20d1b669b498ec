//! Each denial has its reason, and each boundary its side.

use super::*;

fn reason(rules: Vec<Rule>) -> Reason {
    match decide(rules, &Context::default(), at(NOW)).verdict {
        Verdict::Denied(reason) => reason,
        Verdict::Allowed { policy, .. } => panic!("allowed by {policy:?}"),
    }
}

fn for_others(n: u128) -> Rule {
    Rule { groups: BTreeSet::from([GroupId(id(2))]), ..rule(n, Effect::Allow) }
}

fn asking(n: u128, effect: Effect, conditions: Conditions) -> Rule {
    Rule { conditions, ..rule(n, effect) }
}

fn verified(n: u128, effect: Effect) -> Rule {
    asking(n, effect, Conditions { device_verified: Some(true), ..Conditions::default() })
}

#[test]
fn that_no_rule_names_it_is_another_reason_than_that_none_applies() {
    let disabled = Rule { enabled: false, ..rule(1, Effect::Allow) };
    let deny = Rule { groups: BTreeSet::from([GroupId(id(2))]), ..rule(2, Effect::Deny) };

    assert_eq!(reason(vec![for_others(1)]), Reason::NoRuleApplies);
    assert_eq!(reason(vec![for_others(1), for_others(2)]), Reason::NoRuleApplies);
    assert_eq!(reason(vec![verified(1, Effect::Allow)]), Reason::NoRuleApplies);
    assert_eq!(reason(vec![disabled.clone()]), Reason::NoRule);
    assert_eq!(reason(vec![deny.clone()]), Reason::NoRule);
    assert_eq!(reason(vec![disabled, deny]), Reason::NoRule);
}

#[test]
fn who_or_what_is_not_there_is_named() {
    let index = Index::compile(snapshot(vec![rule(1, Effect::Allow)]), at(NOW));
    let context = Context::default();
    let ask = |principal, resource| {
        let (principal, resource) = (PrincipalId(id(principal)), ResourceId(id(resource)));
        index.decide(&Request { principal, resource, context: &context, since: at(NOW) }, at(NOW))
    };

    assert_eq!(ask(9, WIKI), Verdict::Denied(Reason::UnknownPrincipal));
    assert_eq!(ask(ANNA, 9), Verdict::Denied(Reason::UnknownResource));
}

#[test]
fn each_reason_reads_as_a_sentence() {
    let policy = PolicyId(id(1));
    for (reason, text) in [
        (Reason::DeniedByRule(policy), "a policy denies it"),
        (Reason::NoRule, "no policy allows it"),
        (Reason::NoRuleApplies, "no policy allows it to you now"),
        (Reason::UnknownResource, "there is no such resource"),
        (Reason::UnknownPrincipal, "there is no such user or service account"),
        (Reason::PrincipalDisabled, "your user or service account is disabled"),
    ] {
        assert_eq!(reason.to_string(), text);
    }
}

#[test]
fn the_administrator_reads_the_rule_and_what_it_asked_for() {
    let unknown = Context::default();
    let reason = |rules| decide(rules, &unknown, at(NOW)).reason();

    assert_eq!(reason(vec![]), "no policy allows it");
    assert_eq!(reason(vec![rule(1, Effect::Allow)]), "");
    assert_eq!(reason(vec![rule(2, Effect::Deny)]), "policy rule-2 denies it");
    assert_eq!(
        reason(vec![verified(1, Effect::Allow)]),
        "no policy allows it to you now: policy rule-1 came close, but it asks for a verified device"
    );
}

#[test]
fn who_is_disabled_or_asks_for_nothing_that_exists_reads_so() {
    let view = |reason| {
        let explanation = crate::Explanation::default();
        Decision { verdict: Verdict::Denied(reason), explanation }.own_view()
    };

    assert_eq!(view(Reason::UnknownResource), Some(OwnView::UnknownResource));
    assert_eq!(view(Reason::UnknownPrincipal), Some(OwnView::Disabled));
    assert_eq!(view(Reason::PrincipalDisabled), Some(OwnView::Disabled));
    assert_eq!(decide(vec![rule(1, Effect::Allow)], &Context::default(), at(NOW)).own_view(), None);
}

#[test]
fn only_allow_rules_come_close_and_those_furthest_away_are_left_out() {
    let deny = verified(2, Effect::Deny);
    let context = Context { device_verified: Some(false), ..Context::default() };
    let far = Rule { groups: BTreeSet::from([GroupId(id(2))]), ..verified(3, Effect::Allow) };

    let decision = decide(vec![verified(1, Effect::Allow), deny.clone(), far.clone()], &context, at(NOW));
    let alone = decide(vec![deny, far], &context, at(NOW));

    let names = |decision: &Decision| {
        let close = decision.explanation.close.iter();
        close.map(|close| (close.rule.name.clone(), close.further)).collect::<Vec<_>>()
    };
    assert_eq!(names(&decision), [("rule-1".to_owned(), 0)]);
    assert_eq!(names(&alone), [("rule-3".to_owned(), 1)]);
}

#[test]
fn at_most_sixteen_rules_come_close() {
    let decision = decide((1..=20).map(for_others).collect(), &Context::default(), at(NOW));

    assert_eq!(decision.explanation.close.len(), 16);
}

#[test]
fn a_rule_that_is_switched_off_came_close_and_is_nobodys_business() {
    let off = Rule { enabled: false, ..rule(1, Effect::Allow) };

    let decision = decide(vec![off], &Context::default(), at(NOW));

    assert_eq!(decision.explanation.close[0].failed, Failure::Disabled);
    assert_eq!(decision.own_view(), Some(OwnView::NoRule));
}

#[test]
fn a_rule_that_is_switched_off_neither_denies_nor_tells_of_a_resource() {
    let off = |n, effect| Rule { enabled: false, ..rule(n, effect) };

    assert!(
        decide(vec![rule(1, Effect::Allow), off(2, Effect::Deny)], &Context::default(), at(NOW)).is_allowed()
    );
    let index = Index::compile(snapshot(vec![off(1, Effect::Allow)]), at(NOW));
    assert!(index.known_to(PrincipalId(id(ANNA))).is_empty());
    assert_eq!(index.rules_between(PrincipalId(id(ANNA)), ResourceId(id(WIKI))).count(), 0);
}

#[test]
fn a_deny_alone_tells_nobody_of_a_resource() {
    let index = Index::compile(snapshot(vec![rule(1, Effect::Deny)]), at(NOW));

    assert!(index.known_to(PrincipalId(id(ANNA))).is_empty());
}

#[test]
fn a_rule_may_name_more_countries_than_are_looked_at_in_place() {
    let codes = ["AT", "BE", "CH", "DE", "ES", "FR", "IT", "NL"];
    for many in 1..=codes.len() {
        let countries = codes[..many].iter().map(|code| (*code).to_owned()).collect();
        let allow = asking(1, Effect::Allow, Conditions { countries, ..Conditions::default() });
        for (n, code) in codes.iter().enumerate() {
            let context = Context { country: Some((*code).into()), ..Context::default() };
            assert_eq!(
                decide(vec![allow.clone()], &context, at(NOW)).is_allowed(),
                n < many,
                "{code} of {many}"
            );
        }
    }
}

#[test]
fn a_country_that_is_no_two_letters_is_none_of_those_that_are() {
    let countries = BTreeSet::from(["DE".to_owned()]);
    let allow = asking(1, Effect::Allow, Conditions { countries, ..Conditions::default() });
    let odd = asking(
        1,
        Effect::Allow,
        Conditions { countries: BTreeSet::from(["Utopia".to_owned()]), ..Conditions::default() },
    );
    let from = |country: &str| Context { country: Some(country.into()), ..Context::default() };

    for country in ["DEU", "D", "", "de", "\0\0"] {
        assert!(!decide(vec![allow.clone()], &from(country), at(NOW)).is_allowed(), "{country:?}");
    }
    assert!(decide(vec![odd.clone()], &from("Utopia"), at(NOW)).is_allowed());
    assert!(!decide(vec![odd], &from("DE"), at(NOW)).is_allowed());
}

#[test]
fn a_sign_in_is_too_old_from_the_very_second_on() {
    let young = Conditions { session_age_seconds: Some(3600), ..Conditions::default() };
    let since = |text: &str| Context { session_started: Some(at(text)), ..Context::default() };
    let allow = || vec![asking(1, Effect::Allow, young.clone())];
    let deny = || vec![rule(1, Effect::Allow), asking(2, Effect::Deny, young.clone())];

    let end = Some(at("2026-11-24T10:00:01Z"));
    let last = decide(allow(), &since("2026-11-24T09:00:01Z"), at(NOW)).verdict;
    assert_eq!(last, Verdict::Allowed { policy: PolicyId(id(1)), end });
    assert!(!decide(allow(), &since("2026-11-24T09:00:00Z"), at(NOW)).is_allowed());
    assert!(!decide(deny(), &since("2026-11-24T09:00:01Z"), at(NOW)).is_allowed());
    assert!(decide(deny(), &since("2026-11-24T09:00:00Z"), at(NOW)).is_allowed());
}

/// Rules that ask for one condition each.
fn one_condition_each() -> Vec<Conditions> {
    [
        r#"{"source_cidrs":["198.51.100.0/24"]}"#,
        r#"{"device_verified":true}"#,
        r#"{"device_verified":false}"#,
        r#"{"posture":[{"attribute":"os","is":["linux"]}]}"#,
        r#"{"posture":[{"attribute":"client_version","at_least":"1.10"}]}"#,
        r#"{"posture":[{"attribute":"client_version","below":"1.10"}]}"#,
        r#"{"session_age_seconds":3600}"#,
        r#"{"countries":["DE"]}"#,
        r#"{"countries":["AT","BE","CH","DE","ES","FR","IT"]}"#,
        r#"{"providers":["corp"]}"#,
    ]
    .into_iter()
    .map(|json| serde_json::from_str(json).unwrap())
    .collect()
}

#[test]
fn whatever_is_not_known_makes_an_allow_fail_and_a_deny_match() {
    let unknown = Context::default();
    for conditions in one_condition_each() {
        let allow = asking(1, Effect::Allow, conditions.clone());
        let deny = asking(2, Effect::Deny, conditions.clone());

        let allowed = decide(vec![allow], &unknown, at(NOW));
        let denied = decide(vec![rule(1, Effect::Allow), deny], &unknown, at(NOW));

        assert_eq!(allowed.verdict, Verdict::Denied(Reason::NoRuleApplies), "{conditions}");
        assert_eq!(denied.verdict, Verdict::Denied(Reason::DeniedByRule(PolicyId(id(2)))), "{conditions}");
    }
}

#[test]
fn whatever_is_known_and_not_asked_for_makes_neither_an_allow_nor_a_deny_match() {
    let known = |text: &str| text.to_owned();
    let mut context = Context {
        source: Some([203, 0, 113, 7].into()),
        device_verified: Some(false),
        posture: [("os", "macos"), ("client_version", "1.9")].map(|(a, b)| (known(a), known(b))).into(),
        session_started: Some(at("2026-11-24T08:00:00Z")),
        session_ends: None,
        country: Some(known("US")),
        provider: Some(known("other")),
    };
    for conditions in one_condition_each() {
        // Two of them ask for the opposite of the others.
        context.device_verified = conditions.device_verified.map(|wanted| !wanted);
        let below = conditions.posture.iter().any(|posture| posture.below.is_some());
        context.posture.insert("client_version".into(), if below { "1.10" } else { "1.9" }.into());
        let allow = asking(1, Effect::Allow, conditions.clone());
        let deny = asking(2, Effect::Deny, conditions.clone());

        let allowed = decide(vec![allow], &context, at(NOW));
        let denied = decide(vec![rule(1, Effect::Allow), deny], &context, at(NOW));

        assert_eq!(allowed.verdict, Verdict::Denied(Reason::NoRuleApplies), "{conditions}");
        assert!(denied.is_allowed(), "{conditions}");
    }
}

#[test]
fn the_longest_session_counts_from_when_the_access_began() {
    let hour = Rule { max_session: Some(Duration::from_secs(3600)), ..rule(1, Effect::Allow) };
    let index = Index::compile(snapshot(vec![hour]), at(NOW));
    let context = Context::default();
    let since = |text: &str| {
        let (principal, resource) = (PrincipalId(id(ANNA)), ResourceId(id(WIKI)));
        index.decide(&Request { principal, resource, context: &context, since: at(text) }, at(NOW))
    };

    let end = Some(at("2026-11-24T10:00:01Z"));
    assert_eq!(since("2026-11-24T09:00:01Z"), Verdict::Allowed { policy: PolicyId(id(1)), end });
    assert_eq!(since("2026-11-24T09:00:00Z"), Verdict::Denied(Reason::NoRuleApplies));
}

#[test]
fn schedules_are_looked_at_again_after_an_hour_in_either_direction() {
    let mut index = Index::compile(snapshot(vec![]), at(NOW));

    index.prepare(at("2026-11-24T10:59:59Z"));
    assert_eq!(index.made, at(NOW));
    index.prepare(at("2026-11-24T11:00:00Z"));
    assert_eq!(index.made, at("2026-11-24T11:00:00Z"));
    index.prepare(at(NOW));
    assert_eq!(index.made, at(NOW));
}

#[test]
fn a_resource_that_is_removed_is_no_longer_what_a_rule_speaks_of() {
    let both = Rule { resources: [1, 2].map(|n| ResourceId(id(n))).into(), ..rule(1, Effect::Allow) };
    let mut snapshot = snapshot(vec![both]);
    snapshot.resources.push(resource(2, false, &[("env", "test")]));
    let mut index = Index::compile(snapshot, at(NOW));

    index.remove_resource(ResourceId(id(2)));

    assert_eq!(index.resources_of(PolicyId(id(1))), [ResourceId(id(WIKI))]);
    assert_eq!(index.known_to(PrincipalId(id(ANNA))), [ResourceId(id(WIKI))]);
    assert!(index.labelled.is_empty());
}

#[test]
fn a_principal_that_is_removed_reaches_nothing() {
    let mut index = Index::compile(snapshot(vec![rule(1, Effect::Allow)]), at(NOW));

    index.remove_principal(PrincipalId(id(ANNA)));

    assert!(!index.speaks_of(PolicyId(id(1)), PrincipalId(id(ANNA))));
    assert!(index.groups_of(PrincipalId(id(ANNA))).is_empty());
}

#[test]
fn only_resources_with_the_label_are_looked_at_for_a_rule_that_selects_it() {
    let by_label = Rule {
        resources: BTreeSet::new(),
        resource_labels: BTreeSet::from(["env=test".parse().unwrap()]),
        ..rule(1, Effect::Allow)
    };
    let mut snapshot = snapshot(vec![by_label]);
    snapshot.resources.push(resource(2, false, &[("env", "test"), ("team", "a")]));
    snapshot.resources.push(resource(3, false, &[("env", "production")]));
    let index = Index::compile(snapshot, at(NOW));

    let mut labels: Vec<_> = index.labelled.keys().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort_unstable();
    assert_eq!(labels, ["env=production", "env=test", "team=a"]);
    assert_eq!(index.resources_of(PolicyId(id(1))), [ResourceId(id(2))]);
}

#[test]
fn what_a_removed_rule_asked_for_is_forgotten() {
    let by_label = Rule {
        resource_labels: BTreeSet::from(["env=test".parse().unwrap(), "env=test,team=a".parse().unwrap()]),
        ..rule(1, Effect::Allow)
    };
    let other = Rule { id: PolicyId(id(2)), ..by_label.clone() };
    let mut index = Index::compile(snapshot(vec![by_label, other]), at(NOW));

    index.remove_rule(PolicyId(id(1)));
    assert_eq!(index.selecting.len(), 1);
    index.put_resource(resource(3, false, &[("env", "test")]));
    assert_eq!(index.known_to(PrincipalId(id(ANNA))), [ResourceId(id(WIKI)), ResourceId(id(3))]);

    index.remove_rule(PolicyId(id(2)));
    assert!(index.selecting.is_empty() && index.named.is_empty());
}

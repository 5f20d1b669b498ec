use std::time::Duration;

use protocol_control::{DenyReason, ToNode};
use protocol_identity::TokenKind;
use protocol_policy::{Day, TimeWindow};

use super::world::*;
use crate::grant_office::{Asker, Question};
use crate::model::Kind;
use crate::storage::{Action, Change, Committed};
use crate::testing::*;

#[test]
fn when_the_policy_goes_the_gateway_is_told_before_anyone_else() {
    let mut world = World::connected();
    let granted = world.grant(world.lan.id);

    world.delete(Kind::Policy, world.policy.id.0);

    let said = world.said();
    let revoke = said.gateway.first();
    assert!(matches!(revoke, Some(ToNode::Revoke { grant, .. }) if *grant == granted.grant), "{revoke:?}");
    assert_eq!(said.order.first(), Some(&"gateway"));
    let revoked =
        ToNode::Revoked { grant: granted.grant, resource: world.lan.id, reason: DenyReason::NoRule };
    assert_eq!(said.device.first(), Some(&revoked));
    assert!(said.device.contains(&ToNode::ResourceGone(world.lan.id)));
}

#[test]
fn a_grant_that_another_rule_still_allows_is_kept_without_a_cut() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    let other = policy("also", &[&world.engineering], &[&world.lan]);
    world.put(other.clone());
    world.said();

    world.delete(Kind::Policy, world.policy.id.0);

    let said = world.said();
    assert_eq!(said.revokes(), 0);
    assert_eq!(said.authorize().policy, other.id);
    assert!(!said.device.iter().any(|message| matches!(message, ToNode::Revoked { .. })));
}

#[test]
fn a_deny_a_member_that_leaves_and_a_disabled_account_revoke_at_once() {
    type Act = fn(&mut World);
    let acts: [Act; 4] = [
        |world| {
            let mut deny = policy("nobody", &[&world.engineering], &[&world.lan]);
            deny.effect = protocol_policy::Effect::Deny;
            world.put(deny);
        },
        |world| {
            let mut group = world.engineering.clone();
            group.members.clear();
            world.put(group);
        },
        |world| {
            let mut ci = world.ci.clone();
            ci.disabled = true;
            world.put(ci);
        },
        |world| {
            let mut policy = world.policy.clone();
            policy.enabled = false;
            world.put(policy);
        },
    ];
    for (n, act) in acts.into_iter().enumerate() {
        let mut world = World::connected();
        world.grant(world.lan.id);

        act(&mut world);

        assert_eq!(world.said().revokes(), 1, "act {n}");
    }
}

#[test]
fn what_is_deleted_takes_its_grants_along() {
    type Id = fn(&World) -> uuid::Uuid;
    let ids: [(Kind, Id); 4] = [
        (Kind::Device, |world| world.device.0.id.0),
        (Kind::Principal, |world| world.ci.id.0),
        (Kind::Resource, |world| world.lan.id.0),
        (Kind::Gateway, |world| world.gateway.0.id.0),
    ];
    for (kind, id) in ids {
        let mut world = World::connected();
        world.grant(world.lan.id);

        let id = id(&world);
        world.delete(kind, id);

        assert_eq!(world.said().revokes(), 1, "{kind}");
        assert!(world.office.grants.is_empty(), "{kind}");
    }
}

#[test]
fn an_administrator_may_end_one_grant() {
    let mut world = World::connected();
    let granted = world.grant(world.lan.id);

    world.delete(Kind::Grant, granted.grant.0);

    assert_eq!(world.said().revokes(), 1);
}

#[test]
fn a_deleted_token_ends_the_sign_in_of_its_devices() {
    let mut world = World::new();
    let mut first = token(TokenKind::ServiceAccount, "first");
    first.principal = Some(world.ci.id);
    world.device.0.token = Some(first.id);
    world.change(vec![Action::Put(first.clone().into()), Action::Put(world.device.0.clone().into())]);
    world.connect_gateway();
    world.connect_device("198.51.100.7");
    world.said();
    world.grant(world.lan.id);

    world.delete(Kind::Token, first.id.0);

    assert_eq!(world.said().revokes(), 1);
}

#[test]
fn a_change_of_the_resource_reaches_the_gateway_without_a_cut() {
    let mut world = World::connected();
    let granted = world.grant(world.lan.id);
    let mut lan = world.lan.clone();
    lan.filters.clear();

    world.put(lan);

    let said = world.said();
    assert_eq!(said.revokes(), 0);
    let authorize = said.authorize();
    assert_eq!(authorize.grant, granted.grant);
    assert!(authorize.resource.filters.is_empty());
    assert!(matches!(&said.device[..], [ToNode::ResourceChanged(view)] if view.filters.is_empty()));
}

#[test]
fn a_resource_that_moves_to_another_site_is_asked_for_again() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    let plant = site("plant");
    world.put(plant.clone());
    let mut lan = world.lan.clone();
    lan.site = plant.id;

    world.put(lan);

    assert_eq!(world.said().revokes(), 1);
}

#[test]
fn a_device_that_comes_from_elsewhere_loses_what_its_new_address_may_not_have() {
    let mut world = World::connected();
    let mut policy = world.policy.clone();
    policy.conditions.source_cidrs = vec!["198.51.100.0/24".parse().unwrap()];
    world.put(policy);
    world.said();
    world.grant(world.lan.id);

    world.office.handle_device_gone(world.device.0.id, 1);
    assert_eq!(world.said().revokes(), 0, "a session that is down is no reason");
    world.connect_device("203.0.113.7");

    let said = world.said();
    assert_eq!(said.revokes(), 1);
    assert!(
        matches!(&said.device[..], [ToNode::Welcome(_)]),
        "the full state is the first thing that it hears"
    );
}

#[test]
fn a_grant_ends_with_the_longest_session_that_its_rule_gives() {
    let mut world = World::connected();
    let mut policy = world.policy.clone();
    policy.max_session_seconds = Some(3600);
    world.put(policy);
    world.said();

    let granted = world.grant(world.lan.id);
    world.pass(HOUR - Duration::from_secs(1));
    let before = world.said();
    world.pass(Duration::from_secs(1));
    let after = world.said();

    assert_eq!(granted.remaining, HOUR);
    assert_eq!(before.revokes(), 0);
    assert_eq!(after.revokes(), 1);
    // It may be asked for again, and begins anew.
    assert_eq!(world.grant(world.lan.id).remaining, HOUR);
}

#[test]
fn one_rule_carries_on_where_another_one_ends() {
    let mut world = World::connected();
    let window = |from: &str, to: &str| TimeWindow {
        days: Day::ALL.into_iter().collect(),
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        zone: "UTC".parse().unwrap(),
    };
    let mut morning = world.policy.clone();
    morning.conditions.time_windows = vec![window("08:00", "13:00")];
    let mut afternoon = policy("afternoon", &[&world.engineering], &[&world.lan]);
    afternoon.conditions.time_windows = vec![window("13:00", "18:00")];
    world.put(morning);
    world.put(afternoon.clone());
    world.said();

    let granted = world.grant(world.lan.id);
    world.pass(2 * HOUR);
    let carried = world.said();
    world.install(&carried.authorize());
    world.pass(4 * HOUR);

    assert_eq!(granted.remaining, HOUR);
    assert_eq!(carried.revokes(), 0);
    assert_eq!(carried.authorize().policy, afternoon.id);
    assert_eq!(world.said().revokes(), 1, "at the end of the afternoon");
}

#[test]
fn a_lease_is_renewed_at_half_time_while_the_device_is_there() {
    let mut world = World::connected();
    world.grant(world.lan.id);

    world.pass(DAY / 2);
    let renewed = world.said();
    let authorize = renewed.authorize();
    world.install(&authorize);
    world.office.handle_device_gone(world.device.0.id, 1);
    world.pass(DAY / 2 + HOUR);
    let away = world.said();
    world.pass(DAY);
    let over = world.said();

    assert_eq!(authorize.remaining, DAY);
    assert_eq!(away.revokes() + away.authorizes(), 0);
    assert_eq!(over.revokes(), 1);
}

#[test]
fn what_became_forbidden_while_control_was_away_is_revoked_when_it_starts() {
    let mut world = World::connected();
    world.ask(world.lan.id, 1);
    let authorize = world.said().authorize();
    let kept = world.install(&authorize).kept.remove(0);
    let objects = vec![
        world.site.clone().into(),
        world.ci.clone().into(),
        world.engineering.clone().into(),
        world.lan.clone().into(),
        world.gateway.0.clone().into(),
        world.device.0.clone().into(),
        kept.into(),
    ];

    world.office = start(world.account, 2, objects, world.now);
    world.connect_gateway();

    let said = world.said();
    let Some(ToNode::Welcome(welcome)) = said.gateway.first() else { panic!("no full state") };
    let protocol_control::Welcome::Gateway(state) = &**welcome else { panic!("not a gateway's") };
    assert!(state.grants.is_empty());
}

#[test]
fn a_gap_in_the_log_is_never_skipped() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    let change =
        Change { sequence: world.sequence + 2, action: Action::Deleted(Kind::Policy, world.policy.id.0) };

    let next =
        world.office.handle_changed(&Committed { account: world.account, changes: vec![change] }, world.now);

    let said = world.said();
    assert!(!next && said.reload);
    assert_eq!(said.revokes(), 0, "what is behind decides nothing");
    let everything = crate::storage::Everything { sequence: world.sequence + 2, objects: Vec::new() };
    world.office.handle_loaded(everything, world.now);
    assert_eq!(world.said().revokes(), 1);
}

#[test]
fn changes_of_another_account_change_nothing_but_the_place_in_the_log() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    let change =
        Change { sequence: world.sequence + 1, action: Action::Deleted(Kind::Policy, world.policy.id.0) };
    let committed = Committed { account: protocol_identity::AccountId::fresh(), changes: vec![change] };

    let next = world.office.handle_changed(&committed, world.now);

    assert!(next);
    assert_eq!(world.said().revokes(), 0);
    assert_eq!(world.office.model.sequence, world.sequence + 1);
}

#[test]
fn a_device_that_was_denied_hears_when_it_is_allowed() {
    let mut world = World::connected();
    let mut policy = world.policy.clone();
    policy.conditions.device_verified = Some(true);
    world.put(policy.clone());
    world.ask(world.lan.id, 1);
    let denied = world.said();

    policy.conditions.device_verified = None;
    world.put(policy);

    let reason = DenyReason::Condition { rule: "engineers".into(), attribute: "a verified device".into() };
    assert!(denied.device.contains(&ToNode::Denied { request: 1, resource: world.lan.id, reason }));
    assert!(
        matches!(&world.said().device[..], [ToNode::ResourceChanged(view)] if view.resource == world.lan.id)
    );
}

#[test]
fn a_device_that_is_no_longer_verified_and_an_address_in_another_country_lose_what_asks_for_it() {
    let mut world = World::connected();
    world.device.0.verified = true;
    world.put(world.device.0.clone());
    let countries = |code| crate::countries::tests::countries(&[("198.51.100.0/24", code)]);
    world.office.handle_countries(countries("DE"), world.now);
    let mut policy = world.policy.clone();
    policy.conditions.device_verified = Some(true);
    policy.conditions.countries.insert("DE".into());
    world.put(policy);
    world.grant(world.lan.id);
    world.said();

    let mut device = world.device.0.clone();
    device.verified = false;
    world.put(device.clone());
    assert_eq!(world.said().revokes(), 1);

    device.verified = true;
    world.put(device);
    world.grant(world.lan.id);
    world.said();
    world.office.handle_countries(countries("FR"), world.now);
    assert_eq!(world.said().revokes(), 1);
}

#[test]
fn a_disabled_device_loses_what_it_has_and_a_decision_about_it_says_why() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    world.said();
    let mut device = world.device.0.clone();
    device.disabled = true;

    world.put(device.clone());

    assert_eq!(world.said().revokes(), 1);
    let asker = Asker::Device(device.id);
    let question = Question { asker, resource: world.lan.id, at: None, source: None };
    let decision = world.office.explain(&question, world.now).unwrap();
    assert_eq!(decision.reason(), "your device is disabled");
    device.disabled = false;
    world.put(device);
    assert!(world.office.explain(&question, world.now).unwrap().is_allowed());
}

#[test]
fn a_label_that_goes_takes_what_a_rule_gave_by_it() {
    let mut world = World::connected();
    let mut policy = world.policy.clone();
    policy.groups.clear();
    policy.principal_labels.insert("team=infra".parse().unwrap());
    policy.resources.clear();
    policy.resource_labels.insert("env=test".parse().unwrap());
    let labels = |name: &str, value: &str| [(name.to_owned(), value.to_owned())].into_iter().collect();
    world.ci.labels = labels("team", "infra");
    world.put(world.ci.clone());
    world.lan.labels = labels("env", "test");
    world.put(world.lan.clone());
    world.put(policy);
    world.grant(world.lan.id);
    world.said();

    let mut lan = world.lan.clone();
    lan.labels = labels("env", "production");
    world.put(lan);

    let said = world.said();
    assert_eq!(said.revokes(), 1);
    assert!(said.device.contains(&ToNode::ResourceGone(world.lan.id)));
}

#[test]
fn a_change_of_one_resource_says_nothing_of_the_others() {
    let mut world = World::connected();
    let mut lan = world.lan.clone();
    lan.description = Some("nobody sees this".into());
    world.put(lan.clone());
    assert!(world.said().device.is_empty());

    lan.name = "network".into();
    world.put(lan);

    let said = world.said();
    assert_eq!(said.device.len(), 1);
    assert!(matches!(&said.device[0], ToNode::ResourceChanged(view) if view.name == "network"));
}

#[test]
fn a_device_that_was_denied_hears_when_it_is_verified() {
    let mut world = World::connected();
    let mut policy = world.policy.clone();
    policy.conditions.device_verified = Some(true);
    world.put(policy);
    world.ask(world.lan.id, 7);
    world.said();

    world.device.0.verified = true;
    world.put(world.device.0.clone());

    let said = world.said();
    assert!(matches!(&said.device[0], ToNode::ResourceChanged(view) if view.resource == world.lan.id));
}

use protocol_control::{
    Applied, ClientState, DenyReason, GatewayRefusal, GatewayState, RequestAccess, ToNode, Welcome,
};
use protocol_identity::{DeviceId, GatewayId, RelayId, WireguardKey};
use std::time::Duration;

use super::world::*;
use crate::grant_office::office::Office;
use crate::model::{Gateway, Kind, Object};
use crate::storage::Op;
use crate::testing::*;

fn client_state(said: &Said) -> ClientState {
    let welcome = said.device.iter().find_map(|message| match message {
        ToNode::Welcome(welcome) => Some((**welcome).clone()),
        _ => None,
    });
    let Some(Welcome::Client(state)) = welcome else { panic!("no full state") };
    state
}

fn gateway_state(said: &Said) -> GatewayState {
    let Some(ToNode::Welcome(welcome)) = said.gateway.first() else { panic!("no full state first") };
    let Welcome::Gateway(state) = (**welcome).clone() else { panic!("not a gateway's") };
    state
}

#[test]
fn the_gateway_is_told_first_and_the_client_only_when_the_grant_is_installed_and_kept() {
    let mut world = World::connected();

    world.ask(world.wiki.id, 7);
    let asked = world.said();
    let authorize = asked.authorize();
    world.office.handle_applied(world.gateway.0.id, world.applied(&authorize));
    let applied = world.said();
    world.office.handle_kept(authorize.grant, authorize.version, true, world.now);
    let kept = world.said();

    assert!(asked.device.is_empty() && asked.kept.is_empty());
    assert_eq!((authorize.resource.name.as_str(), authorize.resource.site.as_str()), ("wiki", "office"));
    assert_eq!(authorize.identity, world.device.0.identity);
    assert_eq!(authorize.policy, world.policy.id);
    assert_eq!(authorize.remaining, DAY);
    assert!(applied.device.is_empty());
    assert_eq!(applied.kept.len(), 1);
    let granted = kept.granted();
    assert_eq!(
        (granted.request, granted.grant, granted.gateway_name.as_str()),
        (7, authorize.grant, "office-1")
    );
    assert_eq!((granted.has_v4, granted.has_v6), (true, false));
}

#[test]
fn a_listed_resource_without_a_policy_is_known_and_denied_with_the_reason() {
    let mut world = World::new();
    world.delete(Kind::Policy, world.policy.id.0);
    let mut wiki = world.wiki.clone();
    wiki.listed = true;
    world.put(wiki);
    world.connect_gateway();
    world.connect_device("198.51.100.7");

    let state = client_state(&world.said());
    world.ask(world.wiki.id, 7);
    let said = world.said();

    assert_eq!(state.resources.iter().map(|view| view.name.as_str()).collect::<Vec<_>>(), ["wiki"]);
    let denied = ToNode::Denied { request: 7, resource: world.wiki.id, reason: DenyReason::NoRule };
    assert_eq!(said.device, [denied]);
    assert!(said.gateway.is_empty());
    assert!(matches!(&said.written[..], [Op::Note(note)] if note.action == "denied"));
}

#[test]
fn a_denial_that_repeats_is_noted_once_a_minute() {
    let mut world = World::new();
    world.delete(Kind::Policy, world.policy.id.0);
    let mut wiki = world.wiki.clone();
    wiki.listed = true;
    world.put(wiki);
    world.connect_device("198.51.100.7");
    world.said();

    let mut notes = Vec::new();
    for _ in 0..3 {
        world.ask(world.wiki.id, 1);
        world.ask(world.wiki.id, 2);
        notes.push(world.said().written.len());
        world.pass(std::time::Duration::from_secs(40));
    }

    assert_eq!(notes, [1, 0, 1]);
}

#[test]
fn what_a_device_may_not_know_of_does_not_exist_for_it() {
    let mut world = World::connected();
    world.delete(Kind::Policy, world.policy.id.0);
    world.said();

    world.ask(world.wiki.id, 7);

    let denied = ToNode::Denied { request: 7, resource: world.wiki.id, reason: DenyReason::UnknownResource };
    assert_eq!(world.said().device, [denied]);
}

#[test]
fn an_offer_with_swapped_keys_or_of_another_device_is_refused() {
    let mut world = World::connected();
    let bad = |offer| RequestAccess { request: 1, offer, name: None };
    let mut swapped = world.client.offer(&world.device.0, &world.device.1, world.lan.id);
    swapped.wireguard = WireguardKey::generate().unwrap().public();
    let mut other = world.device.0.clone();
    other.id = DeviceId::fresh();
    let stolen = world.client.offer(&other, &world.device.1, world.lan.id);

    for offer in [swapped, stolen] {
        world.office.handle_request(world.device.0.id, bad(offer), world.now);
        let said = world.said();
        let reason = DenyReason::BadRequest;
        assert_eq!(said.device, [ToNode::Denied { request: 1, resource: world.lan.id, reason }]);
        assert!(said.gateway.is_empty());
    }
}

#[test]
fn a_dns_resource_is_asked_for_by_its_own_name_only() {
    let mut world = World::connected();
    let offer = world.client.offer(&world.device.0, &world.device.1, world.wiki.id);

    world.office.handle_request(
        world.device.0.id,
        RequestAccess { request: 1, offer, name: None },
        world.now,
    );

    let reason = DenyReason::BadRequest;
    assert_eq!(world.said().device, [ToNode::Denied { request: 1, resource: world.wiki.id, reason }]);
}

#[test]
fn without_a_gateway_online_the_client_is_told_at_once() {
    let mut world = World::new();
    world.connect_device("198.51.100.7");
    world.said();

    world.ask(world.lan.id, 3);

    let reason = DenyReason::NoGateway;
    assert_eq!(world.said().device, [ToNode::Denied { request: 3, resource: world.lan.id, reason }]);
}

#[test]
fn a_gateway_that_does_not_answer_is_given_up_and_told_so() {
    let mut world = World::connected();
    world.ask(world.lan.id, 3);
    world.said();

    world.pass(std::time::Duration::from_secs(11));

    let said = world.said();
    let reason = DenyReason::NoGateway;
    assert_eq!(said.device, [ToNode::Denied { request: 3, resource: world.lan.id, reason }]);
    assert_eq!(said.revokes(), 1);
}

#[test]
fn a_refusal_of_the_gateway_reaches_the_client() {
    let mut world = World::connected();
    world.ask(world.lan.id, 3);
    let authorize = world.said().authorize();

    world.office.handle_refused(world.gateway.0.id, authorize.grant, GatewayRefusal::AboveCeiling);

    let reason = DenyReason::Gateway(GatewayRefusal::AboveCeiling);
    assert_eq!(world.said().device, [ToNode::Denied { request: 3, resource: world.lan.id, reason }]);
    assert!(world.office.grants.is_empty());
}

#[test]
fn an_answer_of_another_gateway_or_to_an_older_version_changes_nothing() {
    let mut world = World::connected();
    world.ask(world.lan.id, 1);
    let first = world.said().authorize();
    world.ask(world.lan.id, 2);
    let second = world.said().authorize();
    let stranger = gateway("plant-1", &world.site, 3).0.id;

    world.office.handle_applied(world.gateway.0.id, world.applied(&first));
    world.office.handle_applied(stranger, world.applied(&second));

    assert!(world.said().kept.is_empty());
    assert_eq!(first.grant, second.grant);
    assert!(second.version > first.version);
    assert_eq!(world.install(&second).granted().request, 2);
}

#[test]
fn a_second_resource_goes_to_the_gateway_that_the_device_has_a_session_with() {
    let mut world = World::connected();
    let second = gateway("office-2", &world.site, 3);
    world.put(second.0.clone());
    assert!(world.office.handle_gateway(second.0.id, 2, world.now));
    world.grant(world.lan.id);

    world.ask(world.wiki.id, 2);

    let gateways: Vec<_> = world.office.grants.values().map(|grant| grant.gateway).collect();
    assert_eq!(gateways, [world.gateway.0.id; 2]);
}

#[test]
fn when_its_gateway_is_away_another_one_takes_the_client_over() {
    let mut world = World::connected();
    let first = world.grant(world.lan.id);
    let second = gateway("office-2", &world.site, 3);
    world.put(second.0.clone());
    assert!(world.office.handle_gateway(second.0.id, 2, world.now));
    world.office.handle_gateway_gone(world.gateway.0.id, 1);
    world.said();

    world.ask(world.lan.id, 2);

    let said = world.said();
    assert_ne!(said.authorize().grant, first.grant);
    assert!(matches!(&said.written[..], [Op::End(grant, _)] if *grant == first.grant));
    world.connect_gateway();
    assert!(
        gateway_state(&world.said()).grants.is_empty(),
        "the old gateway drops what is not in its full state"
    );
}

#[test]
fn a_gateway_that_is_back_gets_the_whole_set_and_a_new_process_is_passed_on_to_the_client() {
    let mut world = World::connected();
    let granted = world.grant(world.lan.id);
    world.office.handle_gateway_gone(world.gateway.0.id, 1);
    world.gateway_process = WireguardKey::generate().unwrap().public();

    world.connect_gateway();
    let state = gateway_state(&world.said());
    let after = world.install(&state.grants[0]);

    assert_eq!(state.grants.len(), 1);
    assert_eq!(state.grants[0].grant, granted.grant);
    let again = after.granted();
    assert_eq!((again.request, again.answer.wireguard), (0, world.gateway_process));
}

#[test]
fn what_a_dead_process_asked_for_does_not_come_after_the_living_one_because_it_was_renewed() {
    let mut world = World::connected();
    world.grant(world.lan.id);
    let old = world.grant(world.wiki.id);
    world.client = ClientProcess::start();
    world.connect_device("198.51.100.7");
    world.said();
    let new = world.grant(world.lan.id);
    // A change of the resource is a newer version of what the dead process asked for.
    let mut wiki = world.wiki.clone();
    wiki.filters.clear();
    world.put(wiki.clone());
    world.wiki = wiki;
    let renewed = world.said().authorize();
    world.install(&renewed);

    for restarted in [false, true] {
        if restarted {
            let grants = world.office.grants.values().filter_map(Office::record).map(Object::from);
            let objects = world.objects().into_iter().chain(grants).collect();
            world.office = start(world.account, 2, objects, world.now);
        }
        world.office.handle_gateway_gone(world.gateway.0.id, 1);
        world.connect_gateway();

        let state = gateway_state(&world.said());
        assert_eq!((renewed.grant, state.grants.len()), (old.grant, 2));
        assert!(state.grants[0].version > state.grants[1].version);
        assert_eq!(state.grants[1].grant, new.grant, "the living process's offer is the last");
    }
}

#[test]
fn what_a_gateway_was_asked_when_it_went_away_it_finds_when_it_is_back_in_time() {
    let mut world = World::connected();
    world.ask(world.lan.id, 5);
    world.said();
    world.office.handle_gateway_gone(world.gateway.0.id, 1);
    world.pass(std::time::Duration::from_secs(3));

    world.connect_gateway();
    let state = gateway_state(&world.said());

    assert_eq!(world.install(&state.grants[0]).granted().request, 5);
}

#[test]
fn grants_survive_a_start_of_control_without_being_touched() {
    let mut world = World::connected();
    world.ask(world.lan.id, 1);
    let authorize = world.said().authorize();
    let kept = world.install(&authorize).kept.remove(0);
    let installed = kept.state.answer.clone();
    let objects = vec![
        world.site.clone().into(),
        world.ci.clone().into(),
        world.engineering.clone().into(),
        world.lan.clone().into(),
        world.policy.clone().into(),
        world.gateway.0.clone().into(),
        world.device.0.clone().into(),
        kept.into(),
    ];

    world.now += HOUR;
    world.office = start(world.account, 2, objects, world.now);
    world.connect_gateway();
    world.connect_device("198.51.100.7");
    let said = world.said();

    let state = gateway_state(&said);
    assert_eq!(state.grants.len(), 1);
    assert_eq!((state.grants[0].grant, state.grants[0].version), (authorize.grant, authorize.version));
    assert_eq!(state.grants[0].remaining, DAY - HOUR);
    let client = client_state(&said);
    assert_eq!(client.grants, [(authorize.grant, world.lan.id, world.gateway.0.id, DAY - HOUR)]);
    assert_eq!(said.revokes() + said.authorizes(), 0);
    // The gateway says again what it has installed: nothing follows from it.
    let again = Applied {
        grant: authorize.grant,
        version: authorize.version,
        answer: installed,
        has_v4: true,
        has_v6: false,
    };
    world.office.handle_applied(world.gateway.0.id, again);
    let said = world.said();
    assert!(said.kept.is_empty() && said.device.is_empty());
}

#[test]
fn versions_only_grow_over_starts_of_control() {
    let mut world = World::connected();
    let before = world.office.next_version();

    world.office = start(world.account, 2, Vec::new(), world.now);

    assert!(world.office.next_version() > before);
}

#[test]
fn without_another_gateway_a_grant_stays_while_its_own_is_away() {
    let mut world = World::connected();
    let granted = world.grant(world.lan.id);
    world.office.handle_gateway_gone(world.gateway.0.id, 1);
    world.said();

    world.ask(world.lan.id, 2);

    let said = world.said();
    assert!(matches!(said.device[..], [ToNode::Denied { request: 2, reason: DenyReason::NoGateway, .. }]));
    assert!(said.written.is_empty());
    world.connect_gateway();
    let state = gateway_state(&world.said());
    assert_eq!(state.grants.iter().map(|grant| grant.grant).collect::<Vec<_>>(), [granted.grant]);
}

/// A second and a third gateway in the site, all three connected.
fn three_gateways(world: &mut World) -> [GatewayId; 3] {
    let others = [gateway("office-2", &world.site, 3).0, gateway("office-3", &world.site, 4).0];
    for (connection, other) in (2..).zip(&others) {
        world.put(other.clone());
        assert!(world.office.handle_gateway(other.id, connection, world.now));
    }
    [world.gateway.0.id, others[0].id, others[1].id]
}

#[test]
fn a_device_goes_to_the_gateway_that_is_nearest_over_a_relay_that_both_have_measured() {
    let mut world = World::connected();
    let [first, second, third] = three_gateways(&mut world);
    let [berlin, paris] = [RelayId::fresh(), RelayId::fresh()];
    let millis = Duration::from_millis;
    world
        .office
        .handle_device_round_trips(world.device.0.id, vec![(berlin, millis(10)), (paris, millis(90))]);
    world.office.handle_gateway_round_trips(first, vec![(paris, millis(5))]);
    world.office.handle_gateway_round_trips(second, vec![(berlin, millis(15)), (paris, millis(5))]);
    world.office.handle_gateway_round_trips(third, vec![(berlin, millis(70))]);

    world.ask(world.wiki.id, 1);

    let chosen: Vec<_> = world.office.grants.values().map(|grant| grant.gateway).collect();
    assert_eq!(chosen, [second]);
}

#[test]
fn devices_that_are_equally_near_spread_evenly_and_stay_where_they_are() {
    let mut world = World::connected();
    let gateways = three_gateways(&mut world);

    let mut devices = Vec::new();
    for n in 0..30 {
        let (it, key) = device(&format!("laptop-{n}"), &world.ci, 10 + n);
        world.put(it.clone());
        assert!(world.office.handle_device(it.id, 100 + u64::from(n), None, world.now));
        devices.push((it, key));
    }
    for (device, key) in &devices {
        for resource in [world.lan.id, world.lan.id] {
            let offer = world.client.offer(device, key, resource);
            let asked = RequestAccess { request: 1, offer, name: None };
            world.office.handle_request(device.id, asked, world.now);
        }
    }

    let at = |id: GatewayId| world.office.grants.values().filter(|grant| grant.gateway == id).count();
    assert_eq!(gateways.map(at), [10, 10, 10]);
}

#[test]
fn a_gateway_that_is_taken_out_of_service_keeps_what_it_has_and_gets_nothing_new() {
    let mut world = World::connected();
    let [first, second, third] = three_gateways(&mut world);
    let kept = world.grant(world.wiki.id);
    let draining = Gateway { draining: true, ..world.gateway.0.clone() };
    world.put(draining);
    world.put(Gateway { draining: true, ..world.office.model.gateways[&third].clone() });
    world.said();

    world.ask(world.lan.id, 2);
    let lan = world.office.grants.values().find(|grant| grant.resource == world.lan.id).unwrap().gateway;
    world.ask(world.wiki.id, 3);

    assert_eq!(lan, second, "not where the device has a session, since that is out of service");
    let wiki = world.office.grants.values().find(|grant| grant.resource == world.wiki.id).unwrap();
    assert_eq!((wiki.id, wiki.gateway), (kept.grant, first));
}

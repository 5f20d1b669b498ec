//! What somebody on a train, in a hotel or behind two NATs is promised.

mod support;

use std::time::Duration;

use protocol_traversal::{Path, PathKind};
use support::*;

fn world(client: NatKind, gateway: NatKind) -> World {
    World::new(client, gateway, Weather::fair(7))
}

#[test]
fn data_flows_over_the_relay_at_once_and_then_directly() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);

    world.run(ms(100));
    let first = world.seen[GATEWAY].data[0];
    world.run(secs(2));

    assert!(first <= ms(95), "one round trip over the relay and half of another: {first:?}");
    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Direct), "end {end}");
        assert!(world.longest_gap(end, ms(150), secs(2)) < ms(60));
    }
    let moved = world.seen[CLIENT].selected.last().unwrap().0;
    assert!(moved < secs(1), "{moved:?}");
}

#[test]
fn data_moves_as_soon_as_the_direct_path_is_proven() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
    world.direct_up = false;
    world.run(ms(2_000));
    assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Relayed));

    world.direct_up = true;
    world.run(ms(3_000));

    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Direct));
        assert!(world.longest_gap(end, ms(200), ms(3_000)) < ms(60));
    }
}

#[test]
fn two_symmetric_nats_stay_on_the_relay() {
    let mut world = world(NatKind::Symmetric, NatKind::Symmetric);

    world.run(secs(60));

    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Relayed));
        assert!(world.longest_gap(end, secs(1), secs(60)) < ms(60), "nothing is lost on the way");
    }
    let report = world.agents[CLIENT].report(world.now).unwrap();
    assert!(report.rtt.is_some_and(|rtt| rtt >= ms(60) && rtt < ms(65)), "{report:?}");
}

#[test]
fn without_a_relay_the_direct_path_is_found() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
    world.relay_up = false;

    world.run(secs(6));

    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Direct));
        assert!(world.hears(end, ms(100)));
    }
}

#[test]
fn a_direct_path_that_dies_is_left_for_the_relay_within_two_seconds() {
    for deaf in [None, Some(CLIENT), Some(GATEWAY)] {
        let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
        world.run(secs(20));
        assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Direct));

        world.direct_up = deaf.is_some();
        world.deaf_direct = deaf;
        world.run(secs(25));

        for end in [CLIENT, GATEWAY] {
            let gap = world.longest_gap(end, secs(19), secs(25));
            assert!(gap < secs(2), "end {end} heard nothing for {gap:?} when {deaf:?} was deaf");
            assert_eq!(world.proven_kind(end), Some(PathKind::Relayed));
        }
    }
}

#[test]
fn data_that_gets_no_answer_is_doubted_within_half_a_second_whatever_else_is_on_the_way() {
    // Probes go out every five seconds: at some of these moments one of them is the first thing that is lost.
    for moment in (0..6_000).step_by(50).map(ms) {
        let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
        let cut = secs(20) + moment;
        world.run(cut);
        (world.direct_up, world.relay_up) = (false, false);

        world.run(cut + ms(500));

        for end in [CLIENT, GATEWAY] {
            let doubts = world.seen[end].doubted.iter().filter(|at| **at >= cut).count();
            assert_eq!(doubts, 1, "end {end}, cut off at {cut:?}");
        }
    }
}

#[test]
fn a_relay_that_dies_is_left_for_the_direct_path_and_not_missed() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
    world.run(secs(20));
    world.relay_up = false;

    world.run(secs(60));

    for end in [CLIENT, GATEWAY] {
        assert!(world.longest_gap(end, secs(19), secs(60)) < ms(60));
        assert!(world.seen[end].selected.iter().all(|(at, _)| *at < secs(2)));
    }
}

#[test]
fn the_direct_path_is_taken_again_when_it_is_back() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
    world.run(secs(10));
    world.direct_up = false;
    world.run(secs(20));
    assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Relayed));

    world.direct_up = true;
    world.run(secs(70));

    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Direct));
    }
}

#[test]
fn roaming_to_another_uplink_interrupts_for_less_than_two_seconds() {
    let kinds = [NatKind::None, NatKind::FullCone, NatKind::PortRestricted, NatKind::Symmetric];
    for (gateway, after, told) in
        kinds.into_iter().flat_map(|g| kinds.into_iter().flat_map(move |a| [(g, a, true), (g, a, false)]))
    {
        let mut world = world(NatKind::PortRestricted, gateway);
        world.run(secs(20));

        world.roam(CLIENT, after, [198, 51, 100, 77], told);
        world.run(secs(30));

        for end in [CLIENT, GATEWAY] {
            let gap = world.longest_gap(end, secs(19), secs(30));
            assert!(
                gap < secs(2),
                "{gateway:?}, to {after:?}, told {told}: end {end} heard nothing for {gap:?}"
            );
        }
        if direct_is_possible(after, gateway) {
            assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Direct), "{gateway:?} {after:?} {told}");
        }
    }
}

#[test]
fn an_idle_connection_keeps_its_bindings() {
    let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
    world.run(secs(10));
    world.sends_data = [false, false];
    let before: Vec<_> = [CLIENT, GATEWAY].map(|end| world.seen[end].small).to_vec();

    world.run(secs(610));
    let kept: Vec<_> = [CLIENT, GATEWAY].map(|end| world.seen[end].small).to_vec();
    world.sends_data = [true, true];
    world.run(secs(611));

    for end in [CLIENT, GATEWAY] {
        assert!(world.hears(end, ms(100)));
        assert_eq!(world.proven_kind(end), Some(PathKind::Direct));
        assert!(world.seen[end].lost.is_empty());
        for (path, pause) in &world.seen[end].pauses {
            assert!(*pause <= secs(20), "end {end} was silent on {path:?} for {pause:?}");
        }
        let rate = (kept[end] - before[end]) as f32 / 600.0;
        assert!(rate < 0.5, "{rate} packets a second for doing nothing");
    }
}

#[test]
fn traffic_in_one_direction_only_does_not_end_the_path() {
    for sender in [CLIENT, GATEWAY] {
        let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
        world.run(secs(5));
        world.sends_data = [sender == CLIENT, sender == GATEWAY];

        world.run(secs(60));

        assert!(world.longest_gap(1 - sender, secs(5), secs(60)) < ms(60));
        assert!(world.seen.iter().all(|seen| seen.lost.is_empty()));
    }
}

#[test]
fn after_a_restart_of_either_end_data_flows_again_within_a_second() {
    for end in [CLIENT, GATEWAY] {
        let mut world = world(NatKind::PortRestricted, NatKind::PortRestricted);
        world.run(secs(10));

        for round in 1..=3 {
            world.restart(end);
            world.run(secs(10 + 5 * round));
        }

        for end in [CLIENT, GATEWAY] {
            assert!(world.longest_gap(end, secs(9), secs(25)) < secs(1));
            assert_eq!(world.proven_kind(end), Some(PathKind::Direct));
        }
    }
}

#[test]
fn a_smaller_mtu_is_found_and_a_new_black_hole_is_noticed() {
    let mut world = world(NatKind::FullCone, NatKind::FullCone);
    world.direct_mtu = 1400;
    world.run(secs(10));
    assert_eq!(world.agents[CLIENT].path_mtu(), 1372);

    world.direct_mtu = 1320;
    world.run(secs(13));
    assert_eq!(world.agents[CLIENT].path_mtu(), 1312);
    assert_eq!(world.agents[GATEWAY].path_mtu(), 1312);
    assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Direct));

    world.direct_mtu = 9000;
    world.run(secs(60));
    assert_eq!(world.agents[CLIENT].path_mtu(), 1452);
}

#[test]
fn each_end_learns_how_the_other_sees_it() {
    let mut world = world(NatKind::FullCone, NatKind::PortRestricted);

    world.run(secs(5));

    for end in [CLIENT, GATEWAY] {
        let public = world.nats[end].public;
        assert!(world.seen[end].observed.iter().any(|address| address.ip() == public));
    }
}

#[test]
fn the_switch_to_a_faster_path_waits_out_the_difference() {
    let weather = Weather { relayed: ms(100), ..Weather::fair(3) };
    let mut world = World::new(NatKind::FullCone, NatKind::FullCone, weather);
    world.direct_up = false;
    world.run(secs(10));
    world.direct_up = true;
    world.run(secs(60));

    assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Direct));
    let hold = *world.seen[CLIENT].holds.last().unwrap();
    assert!(hold >= ms(85) && hold <= ms(95), "half of 200 ms less 20 ms: {hold:?}");
}

#[test]
fn a_direct_path_that_is_far_worse_is_not_taken_for_long() {
    let weather = Weather { direct: ms(400), relayed: ms(20), ..Weather::fair(3) };
    let mut world = World::new(NatKind::FullCone, NatKind::FullCone, weather);

    world.run(secs(30));

    for end in [CLIENT, GATEWAY] {
        assert_eq!(world.proven_kind(end), Some(PathKind::Relayed));
    }
    assert!(world.seen[CLIENT].selected.len() <= 3, "no flapping: {:?}", world.seen[CLIENT].selected);
}

#[test]
fn a_blocked_pair_rests_and_is_tried_again() {
    let mut blocked = 0;
    for seed in 0..20 {
        let weather = Weather { jitter: ms(10), ..Weather::fair(seed) };
        let mut world = World::new(NatKind::Unfiltered, NatKind::PortRestricted, weather);
        world.run(secs(20));
        blocked += usize::from(world.proven_kind(CLIENT) != Some(PathKind::Direct));

        world.run(secs(300));

        assert_eq!(world.proven_kind(CLIENT), Some(PathKind::Direct), "seed {seed}");
        assert_eq!(world.proven_kind(GATEWAY), Some(PathKind::Direct), "seed {seed}");
    }
    println!("{blocked} of 20 were blocked at first");
}

#[test]
fn two_nats_that_take_early_packets_for_themselves_are_passed_within_a_minute() {
    for seed in 0..20 {
        let weather = Weather { jitter: ms(3), ..Weather::fair(seed) };
        let mut world = World::new(NatKind::Unfiltered, NatKind::Unfiltered, weather);

        world.run(secs(60));

        for end in [CLIENT, GATEWAY] {
            assert_eq!(world.proven_kind(end), Some(PathKind::Direct), "end {end}, seed {seed}");
            assert!(world.longest_gap(end, secs(1), secs(60)) < ms(100), "nothing is lost on the way");
        }
    }
}

#[test]
fn data_from_a_stranger_address_moves_nothing_once_a_path_is_proven() {
    let mut world = world(NatKind::FullCone, NatKind::FullCone);
    world.run(secs(10));
    let before = world.agents[GATEWAY].selected();

    let stranger = Path::direct("192.0.2.66:6666".parse().unwrap());
    world.agents[GATEWAY].handle_received(stranger, world.now);
    world.run(secs(20));

    assert_eq!(world.agents[GATEWAY].selected(), before);
    assert!(world.longest_gap(CLIENT, secs(9), secs(20)) < ms(60));
}

#[test]
fn nothing_is_sent_while_there_is_nobody() {
    let mut world = world(NatKind::Symmetric, NatKind::Symmetric);
    world.relay_up = false;
    world.run(secs(60));
    let before = world.seen[CLIENT].small;

    world.run(secs(660));

    let rate = (world.seen[CLIENT].small - before) as f32 / 600.0;
    assert!(rate < 0.5, "{rate} packets a second into the void");
    assert_eq!(world.agents[CLIENT].selected(), None);
    assert!(
        world.agents[CLIENT].poll_timeout().is_some_and(|at| at > world.now + Duration::from_millis(100))
    );
}

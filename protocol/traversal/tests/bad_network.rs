//! Whatever the NATs, the network and the supervisors do: once it has calmed down, both ends use a proven path, and a
//! direct one where the NATs allow it.

mod support;

use std::time::Duration;

use proptest::prelude::*;
use protocol_traversal::PathKind;
use support::*;

/// The network misbehaves for a minute, and is given two afterwards: longer than the rest of a blocked pair, three times.
const STORM: Duration = Duration::from_secs(60);
const CALM: Duration = Duration::from_secs(120);
/// At the end, probes are counted for so long.
const LAST: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
enum Event {
    Restart(usize),
    Roam { end: usize, kind: NatKind, told: bool },
    Direct(bool),
    Relay(bool),
    Deaf(Option<usize>),
}

fn nat() -> impl Strategy<Value = NatKind> {
    prop::sample::select(vec![
        NatKind::None,
        NatKind::FullCone,
        NatKind::PortRestricted,
        NatKind::Symmetric,
        NatKind::Unfiltered,
    ])
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0..2usize).prop_map(Event::Restart),
        (0..2usize, nat(), any::<bool>()).prop_map(|(end, kind, told)| Event::Roam { end, kind, told }),
        any::<bool>().prop_map(Event::Direct),
        any::<bool>().prop_map(Event::Relay),
        prop::option::of(0..2usize).prop_map(Event::Deaf),
    ]
}

#[derive(Debug, Clone)]
struct Story {
    seed: u64,
    nats: [NatKind; 2],
    loss: u64,
    duplicates: u64,
    jitter_ms: u64,
    direct_ms: u64,
    relayed_ms: u64,
    events: Vec<(u64, Event)>,
}

fn story() -> impl Strategy<Value = Story> {
    let network = (0..60u64, 0..50u64, 1..200u64, 1..150u64, 1..200u64);
    let events = prop::collection::vec((0..60_000u64, event()), 0..8);
    (any::<u64>(), [nat(), nat()], network, events).prop_map(|(seed, nats, network, mut events)| {
        let (loss, duplicates, jitter_ms, direct_ms, relayed_ms) = network;
        events.sort_by_key(|(at, _)| *at);
        Story { seed, nats, loss, duplicates, jitter_ms, direct_ms, relayed_ms, events }
    })
}

fn play(story: &Story) -> World {
    let weather = Weather {
        seed: story.seed,
        loss: story.loss,
        duplicates: story.duplicates,
        jitter: ms(story.jitter_ms),
        direct: ms(story.direct_ms),
        relayed: ms(story.relayed_ms),
    };
    let [client, gateway] = story.nats;
    let mut world = World::new(client, gateway, weather);
    let mut roamed = 0;
    for (at, event) in &story.events {
        world.run(ms(*at));
        match *event {
            Event::Restart(end) => world.restart(end),
            Event::Roam { end, kind, told } => {
                roamed += 1;
                world.roam(end, kind, [198, 51, 100, 10 + roamed], told);
            }
            Event::Direct(up) => world.direct_up = up,
            Event::Relay(up) => world.relay_up = up,
            Event::Deaf(end) => world.deaf_direct = end,
        }
    }
    world.run(STORM);
    (world.direct_up, world.relay_up, world.deaf_direct) = (true, true, None);
    world.weather.loss = 0;
    world.weather.jitter = ms(1);
    world.open_initiations();
    world.run(STORM + CALM - LAST);
    (world.seen[CLIENT].small, world.seen[GATEWAY].small) = (0, 0);
    world.run(STORM + CALM);
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 160, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_ends_end_on_a_proven_path_that_carries_data(story in story()) {
        let world = play(&story);

        let kinds = [world.nats[CLIENT].kind, world.nats[GATEWAY].kind];
        for end in [CLIENT, GATEWAY] {
            prop_assert!(
                world.hears(end, ms(1_000)),
                "end {} of seed {} hears nothing: {:#?}", end, story.seed, world.agents.each_ref().map(|agent| agent.paths().collect::<Vec<_>>())
            );
            let small = world.seen[end].small;
            prop_assert!(small < 300, "end {} of seed {} sent {} probes in the last minute", end, story.seed, small);
            let kind = world.proven_kind(end);
            prop_assert!(kind.is_some(), "end {} of seed {} has no proven path", end, story.seed);
            // Whether an unfiltered NAT lets a pair through is a matter of who comes first.
            // What was lost in the storm still counts a little against the direct path.
            let far_worse = story.direct_ms > story.relayed_ms * 2 + 10;
            if direct_is_possible(kinds[0], kinds[1]) && !kinds.contains(&NatKind::Unfiltered) && !far_worse {
                prop_assert_eq!(
                    kind, Some(PathKind::Direct),
                    "end {} of seed {} with {:?}: {:#?}", end, story.seed, kinds, world.agents.each_ref().map(|agent| agent.paths().collect::<Vec<_>>())
                );
            }
        }
    }
}

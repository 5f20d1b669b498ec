//! Where UDP is blocked, the relay is reached over TLS on port 443, status says so, and UDP is taken again as soon as it works.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use integration_lab::{Nat, RouterPlan, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};
use serde_json::Value;

/// Within which a blocked network is found out.
const FOUND_OUT: Duration = Duration::from_secs(3);
/// The programs of the lab share two cores with other scenarios.
const SLACK: Duration = Duration::from_secs(2);

fn plan(udp: bool) -> RouterPlan {
    RouterPlan { udp, ..Nat::PortRestricted.into() }
}

fn status_of(world: &World, gateway: bool) -> anyhow::Result<Value> {
    if gateway { world.gateway()?.status() } else { world.client()?.status() }
}

fn wait_udp(world: &World, gateway: bool, word: &str, limit: Duration) -> Duration {
    wait::until_true(&format!("udp reads {word}"), limit, || {
        let status = status_of(world, gateway)?;
        if status["udp"] == word {
            Ok(true)
        } else {
            anyhow::bail!("{}: {}", status["udp"], status["relays"])
        }
    })
    .unwrap()
}

fn fetch(world: &World) -> bool {
    let page = format!("http://{WEB_NAME}/");
    world.curl(&["--max-time", "5", "-o", "/dev/null", &page]).unwrap().code == 0
}

#[test]
fn a_client_that_starts_behind_a_blocked_router_goes_over_tls_and_back_to_udp() {
    let world = World::start_on(Plan::default(), |ground| ground.home_nat.set(plan(false))).unwrap();
    let client = world.client().unwrap();

    wait_udp(&world, false, "blocked", FOUND_OUT + SLACK);
    assert!(fetch(&world), "{}", client.status().unwrap());
    client.wait_resource("wiki", "transport", "tls", SLACK).unwrap();
    assert_eq!(client.resource("wiki").unwrap()["path"], "relayed");
    let echoes = world.tool(&format!("udp-ping --to {WEB}:7 --rate 100 --seconds 2")).unwrap();
    assert_eq!(echoes["missing"], 0, "{echoes}");

    world.ground.home_nat.set(plan(true)).unwrap();
    wait_udp(&world, false, "open", Duration::from_secs(10));
    client.wait_resource("wiki", "transport", "udp", Duration::from_secs(20)).unwrap();
    client.wait_resource("wiki", "path", "direct", Duration::from_secs(60)).unwrap();
    assert!(fetch(&world));
}

#[test]
fn a_flow_that_is_cut_off_by_a_blocked_router_goes_on_over_tls_within_seconds() {
    let world = World::start(Plan::default()).unwrap();
    assert!(fetch(&world));
    world.client().unwrap().wait_resource("wiki", "path", "direct", Duration::from_secs(30)).unwrap();
    let words = format!("udp-ping --to {WEB}:7 --rate 20 --seconds 60");
    let tool = integration_lab::program("lab-tool").unwrap();
    let pings = world.ground.home.launch("pings", tool).args(words.split_whitespace()).start().unwrap();

    world.ground.home_nat.set(plan(false)).unwrap();
    let blocked = Instant::now();
    wait_udp(&world, false, "blocked", FOUND_OUT + SLACK);
    world.client().unwrap().wait_resource("wiki", "transport", "tls", Duration::from_secs(10)).unwrap();
    let moved = blocked.elapsed();
    assert!(fetch(&world));

    assert!(moved < Duration::from_secs(10), "{moved:?}");
    drop(pings);
}

#[test]
fn a_gateway_whose_udp_is_blocked_is_reached_all_the_same() {
    let world = World::start_on(Plan::default(), |ground| ground.office_nat.set(plan(false))).unwrap();

    wait_udp(&world, true, "blocked", FOUND_OUT + SLACK);
    wait::until_true("the page comes", Duration::from_secs(20), || Ok(fetch(&world))).unwrap();
    let gateway = world.gateway().unwrap().status().unwrap();
    let is_held = |relay: &Value| relay["transport"] == "tls" && relay["allocated"] == true;
    assert!(gateway["relays"].as_array().unwrap().iter().any(is_held), "{gateway}");

    world.ground.office_nat.set(plan(true)).unwrap();
    wait_udp(&world, true, "open", Duration::from_secs(15));
    world.client().unwrap().wait_resource("wiki", "path", "direct", Duration::from_secs(60)).unwrap();
}

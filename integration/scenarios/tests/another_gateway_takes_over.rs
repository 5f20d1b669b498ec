//! A gateway that is killed and not started again: its clients are served by another one of the site within six seconds.
//! One that is taken out of service gets nothing new.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use integration_lab::wait;
use integration_scenarios::{Plan, World, addresses::WEB_NAME};
use serde_json::Value;

const READY: Duration = Duration::from_secs(15);

/// The gateway that the client's grant for the wiki goes through.
fn serving(world: &World) -> Value {
    world.client().unwrap().resource("wiki").unwrap()["gateway"].clone()
}

#[test]
fn clients_of_a_dead_gateway_are_served_by_another_of_its_site_within_six_seconds() {
    let world = World::start(Plan::default()).unwrap();
    let second = world.second_gateway("office-two").unwrap();
    let gateways = world.admin().unwrap().json(&["gateway", "list"]).unwrap();
    let names = gateways["items"].as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap());
    let first = names.clone().find(|name| *name != "office-two").unwrap().to_owned();
    let page = format!("http://{WEB_NAME}/");
    let fetch = |limit: &str| world.curl(&["--max-time", limit, "-o", "/dev/null", &page]).unwrap().code;

    world.admin().unwrap().say(&format!("gateway update {first} --draining true")).unwrap();
    assert_eq!(fetch("15"), 0);
    let before = serving(&world);
    world.admin().unwrap().say(&format!("gateway update {first} --draining false")).unwrap();
    assert_eq!(fetch("5"), 0);
    second.process.kill().unwrap();
    let killed = Instant::now();
    wait::until_true("the page is there again", READY, || Ok(fetch("1") == 0)).unwrap();
    let served_again = killed.elapsed();

    assert_eq!(before, "office-two", "the first one was out of service");
    assert_eq!(serving(&world), first.as_str());
    eprintln!("served again after {served_again:?}");
    assert!(served_again < Duration::from_secs(6), "{served_again:?}");
}

//! Without a policy nothing is reached, and a resource that is known is refused at once, with the reason.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::Meter;
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
    steps,
};

#[test]
fn nothing_passes_until_a_policy_says_so() {
    let mut world = World::start(Plan { allowed: false, ..Plan::default() }).unwrap();
    let at_the_server = Meter::matching(&world.ground.web, "web", "eth0", "tcp dport 80").unwrap();

    steps::denied(&mut world).unwrap();
    let by_name = world.curl(&["--max-time", "5", &format!("http://{WEB_NAME}/")]).unwrap();
    let by_address = world.curl(&["--max-time", "5", &format!("http://{WEB}/")]).unwrap();

    assert_ne!((by_name.code, by_address.code), (0, 0));
    assert_eq!(at_the_server.read().unwrap().packets, 0);

    world.allow("wiki").unwrap();
    world.client().unwrap().wait_known("wiki", Duration::from_secs(10)).unwrap();
    let page = world.curl(&["--max-time", "10", &format!("http://{WEB_NAME}/")]).unwrap();

    assert!(page.stdout.contains("hello"), "{page:?}");
}

#[test]
fn a_resource_that_is_neither_listed_nor_allowed_stays_unknown() {
    let world = World::start(Plan { allowed: false, ..Plan::default() }).unwrap();

    let status = world.client().unwrap().status().unwrap();

    let names: Vec<_> = status["resources"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["payroll"], "{status}");
}

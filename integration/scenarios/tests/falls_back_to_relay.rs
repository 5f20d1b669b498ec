//! Where no direct path exists, the relay carries everything, and status says so.

#![allow(clippy::unwrap_used)]

use integration_lab::{Nat, RouterPlan};
use integration_scenarios::{Plan, World, addresses::WEB_NAME, steps};

#[test]
fn symmetric_nats_on_both_sides_leave_the_relay() {
    let nat = RouterPlan { ipv6: false, ..Nat::Symmetric.into() };
    let mut world = World::start(Plan { nat, ..Plan::default() }).unwrap();

    steps::relay_only(&mut world).unwrap();
    steps::transfer(&mut world).unwrap();
}

#[test]
fn a_direct_path_that_ends_gives_way_to_the_relay_and_comes_back() {
    let mut world = World::start(Plan::default()).unwrap();
    world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap();

    let figures = steps::relay_only(&mut world).unwrap();

    assert!(figures.contains_key("direct_again_ms"));
}

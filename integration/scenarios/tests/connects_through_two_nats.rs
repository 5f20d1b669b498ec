//! A client behind a NAT reaches a resource behind another: first over the relay, then directly.

#![allow(clippy::unwrap_used)]

use integration_lab::{Nat, RouterPlan};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
    steps,
};

#[test]
fn the_first_byte_comes_over_the_relay_and_then_the_path_is_direct() {
    let mut world = World::start(Plan::default()).unwrap();

    steps::relay_then_direct(&mut world).unwrap();
    steps::transfer(&mut world).unwrap();
}

#[test]
fn the_direct_path_needs_no_ipv6() {
    let nat = RouterPlan { ipv6: false, ..Nat::PortRestricted.into() };
    let mut world = World::start(Plan { nat, ..Plan::default() }).unwrap();

    steps::relay_then_direct(&mut world).unwrap();
}

/// Such a pair becomes direct when the first packets of both ends pass each other, which takes a way of some length: the
/// lab has none, `protocol/traversal/tests/paths.rs` has.
#[test]
fn a_router_that_takes_early_packets_for_itself_does_not_cost_the_connection() {
    let nat = RouterPlan { ipv6: false, ..Nat::Unfiltered.into() };
    let world = World::start(Plan { nat, ..Plan::default() }).unwrap();

    let page = world.curl(&["--max-time", "10", &format!("http://{WEB_NAME}/")]).unwrap();
    let echoes = world.tool(&format!("udp-ping --to {WEB}:7 --rate 50 --seconds 10")).unwrap();

    assert!(page.stdout.contains("hello"), "{page:?}");
    assert_eq!(echoes["missing"], 0, "{echoes}");
}

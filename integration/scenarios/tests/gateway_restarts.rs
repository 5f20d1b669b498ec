//! A gateway that is killed comes back under its supervisor, and its clients are served again within three seconds.

#![allow(clippy::unwrap_used)]

use integration_scenarios::{Plan, World, steps};

#[test]
fn a_killed_gateway_serves_its_client_again_within_three_seconds() {
    let mut world = World::start(Plan::default()).unwrap();

    for _round in 0..3 {
        let figures = steps::gateway_restart(&mut world).unwrap();

        assert!(figures["served_again_ms"].as_f64().unwrap() <= 3000.0, "{figures:?}");
    }
}

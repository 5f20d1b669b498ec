//! Control is killed and started again under traffic: no echo is lost, a download goes on, and all nodes are back.

#![allow(clippy::unwrap_used)]

use integration_scenarios::{Plan, World, steps};

#[test]
fn no_packet_is_lost_while_control_is_away() {
    let mut world = World::start(Plan::default()).unwrap();

    let figures = steps::control_outage(&mut world).unwrap();

    assert!(figures["echoes"].as_u64().unwrap() >= 3000);
    assert!(
        !figures["noticed_ms"].is_null(),
        "a dead control session read as connected during the whole outage"
    );
}

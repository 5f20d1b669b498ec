//! A gateway that is killed comes back under its supervisor, and its clients are served again within three seconds.

#![allow(clippy::unwrap_used)]

use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
    steps,
};

#[test]
fn a_killed_gateway_serves_its_client_again_within_three_seconds() {
    let mut world = World::start(Plan::default()).unwrap();

    for _round in 0..3 {
        let figures = steps::gateway_restart(&mut world).unwrap();

        assert!(figures["served_again_ms"].as_f64().unwrap() <= 3000.0, "{figures:?}");
    }
}

#[test]
fn a_client_that_was_restarted_before_is_served_again_too() {
    let mut world = World::start(Plan::default()).unwrap();
    let by_address = format!("http://{WEB}/");
    let lan = world.curl(&["-o", "/dev/null", &by_address]).unwrap();
    drop(world.client.take());
    world.client = Some(world.client_on(&world.ground.home).unwrap());
    world.wait_connected().unwrap();
    let page = world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap();
    // Another rule takes over what the ended process asked for: its grant is newer than that of the living one.
    let admin = world.admin().unwrap();
    admin.say("policy create also --group engineering --resource office-lan").unwrap();
    admin.delete_policy("engineering-reaches-office-lan").unwrap();

    let figures = steps::gateway_restart(&mut world).unwrap();

    assert_eq!((lan.code, page.code), (0, 0));
    assert!(figures["served_again_ms"].as_f64().unwrap() <= 3000.0, "{figures:?}");
}

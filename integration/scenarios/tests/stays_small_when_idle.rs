//! An idle gateway and an idle client stay under 40 MiB, an idle relay under 20 MiB.

#![allow(clippy::unwrap_used)]

use integration_scenarios::{Plan, World, addresses::WEB_NAME, steps};

const MIB: u64 = 1024 * 1024;

#[test]
fn idle_memory_has_a_ceiling() {
    let mut world = World::start(Plan::default()).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    steps::relay_then_direct(&mut world).unwrap();

    let gateway = world.gateway().unwrap().process.resident_bytes().unwrap();
    let client = world.client().unwrap().process.resident_bytes().unwrap();
    let relay = world.relay().unwrap().process.resident_bytes().unwrap();

    println!(
        "resident: gateway {} KiB, client {} KiB, relay {} KiB",
        gateway / 1024,
        client / 1024,
        relay / 1024
    );
    assert!(gateway < 40 * MIB && client < 40 * MIB && relay < 20 * MIB);
}

//! Everything works, only slower, where the kernel does nothing to many packets at once, or was told not to.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_scenarios::{Plan, World, addresses::WEB_NAME};
use serde_json::json;

/// Both ends with these switches turned off.
fn carries(switches: &[&str]) {
    let off: Vec<String> =
        switches.iter().flat_map(|switch| [(*switch).to_owned(), "off".to_owned()]).collect();
    let plan = Plan { gateway_arguments: off.clone(), client_arguments: off, ..Plan::default() };

    let world = World::start(plan).unwrap();

    let fetched = world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap();
    assert_eq!(fetched.code, 0, "{}", fetched.stderr);
    let client = world.client().unwrap();
    client.wait_resource("wiki", "path", "direct", Duration::from_secs(20)).unwrap();
    for status in [client.status().unwrap(), world.gateway().unwrap().status().unwrap()] {
        let offload = &status["offload"];
        for (switch, field, off) in [
            ("--tun-offload", "tun", json!("off")),
            ("--udp-gso", "udp_gso", json!(false)),
            ("--udp-gro", "udp_gro", json!(false)),
        ] {
            assert_eq!(offload[field] == off, switches.contains(&switch), "{field} in {status}");
        }
    }
}

#[test]
fn without_offload_at_the_tun_device() {
    carries(&["--tun-offload"]);
}

#[test]
fn without_udp_segmentation_in_either_direction() {
    carries(&["--udp-gso", "--udp-gro"]);
}

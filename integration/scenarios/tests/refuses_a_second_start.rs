//! A second start on the same TUN device fails with a clear error, and the first one never notices.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Host, program};
use integration_scenarios::{
    Plan, World,
    addresses::{CONTROL_URL, WEB, WEB_NAME},
};

/// Starts a program beside a running one and returns how it ended and what it said.
fn second_start(host: &Host, name: &str, words: &[&str]) -> (i32, String) {
    let dir = host.dir().join("second");
    let (state, run) = (dir.join("state").display().to_string(), dir.join("run").display().to_string());
    let second = host
        .launch(&format!("second-{name}"), program(name).unwrap())
        .args(words)
        .args(["--state-dir", &state, "--run-dir", &run])
        .start()
        .unwrap();
    (second.wait(Duration::from_secs(10)).unwrap(), second.stderr())
}

#[test]
fn two_gateways_do_not_share_a_device() {
    let world = World::start(Plan::default()).unwrap();
    world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap();
    let token = world.ground.office.dir().join("gateway.token").display().to_string();
    let control = ["--control-url", CONTROL_URL, "--control-pin", world.pin(), "--token-file", &token];

    let words = [&control[..], &["--metrics-listen", "off"]].concat();
    let (code, said) = second_start(&world.ground.office, "postern-gateway", &words);

    assert_eq!(code, 1, "{said}");
    assert!(said.contains("postern-gw0"), "{said}");
    let echoes = world.tool(&format!("udp-ping --to {WEB}:7 --rate 100 --seconds 1")).unwrap();
    assert_eq!(echoes["missing"], 0, "{echoes}");
}

#[test]
fn two_daemons_do_not_share_a_device() {
    let world = World::start(Plan::default()).unwrap();
    let token = world.ground.home.dir().join("client.token").display().to_string();
    let words = [
        "daemon",
        "--control-url",
        CONTROL_URL,
        "--control-pin",
        world.pin(),
        "--token-file",
        &token,
        "--dns",
        "off",
    ];

    let (code, said) = second_start(&world.ground.home, "postern", &words);

    assert_eq!(code, 1, "{said}");
    assert!(said.contains("postern0"), "{said}");
    let echoes = world.tool(&format!("udp-ping --to {WEB}:7 --rate 100 --seconds 1")).unwrap();
    assert_eq!(echoes["missing"], 0, "{echoes}");
}

//! A token that is unknown, or meant for something else, opens nothing, and whoever holds it is told.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{program, wait};
use integration_scenarios::{Plan, World, addresses::CONTROL_URL};

const UNKNOWN: &str = "pst_service_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

#[test]
fn a_client_with_an_unknown_token_is_told_and_stays_out() {
    let world = World::start(Plan::default()).unwrap();
    let host = world.ground.lab.host("stranger").unwrap();
    world.ground.attach(&host, "eth0", &world.ground.home_nat, 7, 9).unwrap();
    let client = world.client_on(&host).unwrap();
    let token = host.dir().join("wrong.token");
    std::fs::write(&token, UNKNOWN).unwrap();
    let token = token.display().to_string();

    let words = ["login", "--control-url", CONTROL_URL, "--control-pin", world.pin(), "--token-file", &token];
    let login = client.postern(&words).unwrap();
    let status = client.status().unwrap();

    assert_eq!(login.code, 2, "{login:?}");
    assert!(login.stderr.contains("token"), "{login:?}");
    assert!(status["control"]["state"] != "connected", "{status}");
    assert!(!format!("{login:?}{status}{}", client.process.stderr()).contains(&UNKNOWN[12..]));
}

#[test]
fn a_gateway_with_a_relays_token_never_joins() {
    let world = World::start(Plan::default()).unwrap();
    let host = world.ground.lab.host("impostor").unwrap();
    world.ground.attach(&host, "eth0", &world.ground.office_nat, 1, 9).unwrap();
    let token = world.ground.internet.dir().join("relay.token").display().to_string();
    let before = world.admin().unwrap().say("gateway list").unwrap();

    let (state, run) = (host.dir().join("state"), host.dir().join("run"));
    let gateway = host
        .launch("postern-gateway", program("postern-gateway").unwrap())
        .args(["--control-url", CONTROL_URL, "--control-pin", world.pin(), "--token-file", &token])
        .args(["--state-dir".as_ref(), state.as_os_str(), "--run-dir".as_ref(), run.as_os_str()])
        .start()
        .unwrap();
    let says_so = || Ok(gateway.stderr().contains("token"));
    wait::until_true("it says that the token is not accepted", Duration::from_secs(10), says_so).unwrap();

    let after = world.admin().unwrap().say("gateway list").unwrap();
    assert_eq!(before["items"].as_array().unwrap().len(), after["items"].as_array().unwrap().len());
}

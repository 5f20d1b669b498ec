//! A control plane that swaps a gateway's key for one of its own does not get in between: the client refuses the answer,
//! says so, and nothing flows.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Lab, program, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{CONTROL, CONTROL_URL, OFFICE_LAN, WEB},
};

#[test]
fn an_answer_with_another_key_than_the_gateway_signed_is_refused() {
    let world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();
    let dir = world.ground.internet.dir().join("puppet");
    let _control = world
        .ground
        .internet
        .launch("puppet-control", program("puppet-control").unwrap())
        .args(["--listen", &format!("{CONTROL}:8443"), "--dir", &dir.display().to_string()])
        .args(["--resource", &format!("lan={OFFICE_LAN}"), "--swap-keys"])
        .start()
        .unwrap();
    let file = |name: &str| dir.join(name).display().to_string();
    let pin = wait::until_true("the puppet is up", Duration::from_secs(10), || {
        Ok(std::fs::read_to_string(dir.join("client.token")).is_ok())
    })
    .and_then(|_| Ok(std::fs::read_to_string(dir.join("certificate.pin"))?))
    .unwrap();
    let office = &world.ground.office;
    let gateway = office
        .launch("postern-gateway", program("postern-gateway").unwrap())
        .args(["--control-url", CONTROL_URL, "--control-pin", &pin, "--token-file", &file("gateway.token")])
        .args(["--state-dir", &office.dir().join("state").display().to_string()])
        .args(["--run-dir", &office.dir().join("run").display().to_string()])
        .args(["--metrics-listen", "off"])
        .start()
        .unwrap();
    let client = world.client_on(&world.ground.home).unwrap();
    let login =
        ["login", "--control-url", CONTROL_URL, "--control-pin", &pin, "--token-file", &file("client.token")];
    client.postern(&login).unwrap().ok().unwrap();
    client.wait_known("lan", Duration::from_secs(10)).unwrap();
    wait::until_true("the gateway has full state", Duration::from_secs(10), || {
        Ok(gateway.stderr().contains("full state"))
    })
    .unwrap();

    let refused = world.curl(&[&format!("http://{WEB}/")]).unwrap();

    assert_ne!(refused.code, 0, "{}", refused.stdout);
    let status = client.status().unwrap();
    let lan = &status["resources"][0];
    assert_eq!(lan["state"], "denied", "{status}");
    assert!(lan["reason"].as_str().unwrap().contains("keys"), "{status}");
    assert!(status["drops"]["answer_bad_signature"].as_u64().unwrap() >= 1, "{status}");
    assert!(!gateway.stderr().contains("device connected"), "{}", gateway.stderr());
}

//! A policy that is taken away ends live flows within a second; a flow that another policy allows is not touched.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{program, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{PAYROLL, WEB, WEB_NAME},
    steps,
};

#[test]
fn a_download_ends_within_a_second_of_the_answer() {
    let mut world = World::start(Plan::default()).unwrap();

    let figures = steps::revoked(&mut world).unwrap();

    assert!(figures["last_byte_after_answer_ms"].as_f64().unwrap() <= 1000.0);
}

#[test]
fn a_grant_that_another_policy_still_allows_is_kept_without_a_cut() {
    let world = World::start(Plan::default()).unwrap();
    let second = "policy create second-way --group engineering --resource office-lan";
    world.admin().unwrap().say(second).unwrap();
    let echoes = world.ground.home.launch("echoes", program("lab-tool").unwrap());
    let words = format!("udp-ping --to {WEB}:7 --rate 100 --seconds 4");
    let echoes = echoes.args(words.split_whitespace()).start().unwrap();
    wait::until_true("the grant is there", Duration::from_secs(10), || {
        Ok(world.client()?.resource("office-lan")?["state"] == "granted")
    })
    .unwrap();

    world.admin().unwrap().delete_policy("engineering-reaches-office-lan").unwrap();
    echoes.wait(Duration::from_secs(15)).unwrap();

    let report: serde_json::Value = serde_json::from_str(&echoes.stdout()).unwrap();
    assert_eq!(report["missing"], 0, "{report}");
    assert_eq!(world.client().unwrap().resource("office-lan").unwrap()["state"], "granted");
}

#[test]
fn udp_fails_fast_after_a_revocation_and_other_resources_go_on() {
    let world = World::start(Plan::default()).unwrap();
    let fetch = |url: &str| world.curl(&["--max-time", "10", "-o", "/dev/null", url]).unwrap();
    assert_eq!(fetch(&format!("http://{WEB}/")).code, 0);
    assert_eq!(fetch(&format!("http://{WEB_NAME}/")).code, 0);

    world.admin().unwrap().delete_policy("engineering-reaches-office-lan").unwrap();
    let client = world.client().unwrap();
    wait::until_true("the grant is gone", Duration::from_secs(2), || {
        Ok(client.resource("office-lan").map_or(true, |one| one["state"] != "granted"))
    })
    .unwrap();
    let echoes = world.tool(&format!("udp-ping --to {WEB}:7 --rate 20 --seconds 1")).unwrap();

    assert_eq!(echoes["received"], 0, "{echoes}");
    assert_eq!(fetch(&format!("http://{WEB_NAME}/")).code, 0);
    assert_ne!(fetch(&format!("http://{PAYROLL}/")).code, 0);
}

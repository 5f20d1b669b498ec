//! The client moves to another uplink in the middle of a download: it goes on within two seconds.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{program, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};

#[test]
fn a_download_goes_on_over_the_other_uplink_within_two_seconds() {
    let world = World::start(Plan::default()).unwrap();
    let home = &world.ground.home;
    world.ground.plug_mobile().unwrap();
    let url = format!("http://{WEB_NAME}/paced/500000/12");
    let download = home.launch("download", "curl").args(["-sS", "--max-time", "60", "-o", "download", &url]);
    let download = download.start().unwrap();
    let words = format!("udp-ping --to {WEB}:7 --rate 100 --seconds 11");
    let echoes =
        home.launch("echoes", program("lab-tool").unwrap()).args(words.split_whitespace()).start().unwrap();
    let arrived =
        || Ok(std::fs::metadata(home.dir().join("download")).is_ok_and(|file| file.len() > 1_000_000));
    wait::until_true("the download is under way", Duration::from_secs(15), arrived).unwrap();

    world.ground.roam().unwrap();

    assert_eq!(download.wait(Duration::from_secs(40)).unwrap(), 0, "{}", download.stderr());
    echoes.wait(Duration::from_secs(20)).unwrap();
    let report: serde_json::Value = serde_json::from_str(&echoes.stdout()).unwrap();
    assert!(report["longest_gap_ms"].as_f64().unwrap() <= 2000.0, "{report}");
    world.client().unwrap().wait_control("connected", Duration::from_secs(30)).unwrap();
}

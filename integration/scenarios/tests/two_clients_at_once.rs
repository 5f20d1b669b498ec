//! Two clients behind the same NAT use the same gateway at the same time and do not get into each other's way.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Host, Process, program};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};

const SIZE: u64 = 5 * 1024 * 1024;

fn download(host: &Host) -> Process {
    let url = format!("http://{WEB_NAME}/bytes/{SIZE}");
    host.launch("download", "curl").args(["-sS", "--max-time", "60", "-o", "body", &url]).start().unwrap()
}

fn echoes(host: &Host) -> Process {
    let words = format!("udp-ping --to {WEB}:7 --rate 100 --seconds 3");
    host.launch("echoes", program("lab-tool").unwrap()).args(words.split_whitespace()).start().unwrap()
}

#[test]
fn each_gets_its_own_bytes_and_its_own_echoes() {
    let world = World::start(Plan::default()).unwrap();
    let phone = world.second_client("phone").unwrap();
    phone.wait_known("wiki", Duration::from_secs(10)).unwrap();
    let hosts = [&world.ground.home, &phone.host];

    let downloads = hosts.map(download);
    let echoes = hosts.map(echoes);

    for download in &downloads {
        assert_eq!(download.wait(Duration::from_secs(70)).unwrap(), 0, "{}", download.stderr());
    }
    for echoes in &echoes {
        echoes.wait(Duration::from_secs(20)).unwrap();
        let report: serde_json::Value = serde_json::from_str(&echoes.stdout()).unwrap();
        assert_eq!(report["missing"], 0, "{report}");
        assert_eq!(report["foreign"], 0, "{report}");
    }
    let sums = hosts.map(|host| host.run(&["sha256sum", "body"]).unwrap().stdout);
    let there = world.curl(&[&format!("http://{WEB_NAME}/sha256/{SIZE}")]).unwrap().stdout;
    assert!(sums.iter().all(|sum| sum.starts_with(there.trim())), "{sums:?} {there}");

    let peers = world.gateway().unwrap().actor_keys("Peer").unwrap();
    assert_eq!(peers.len(), 2, "one actor for each device: {peers:?}");
    let addresses = [world.client().unwrap(), &phone]
        .map(|client| client.status().unwrap()["device"]["addresses"][0].clone());
    assert_ne!(addresses[0], addresses[1]);
}

#[test]
fn taking_one_clients_rights_leaves_the_other_alone() {
    let world = World::start(Plan::default()).unwrap();
    let phone = world.second_client("phone").unwrap();
    phone.wait_known("wiki", Duration::from_secs(10)).unwrap();
    let page = format!("http://{WEB_NAME}/");
    let fetch = |host: &Host| {
        host.try_run(&["curl", "-sS", "--max-time", "8", "-o", "/dev/null", &page]).unwrap().code
    };
    assert_eq!((fetch(&world.ground.home), fetch(&phone.host)), (0, 0));
    let running = echoes(&world.ground.home);

    world.admin().unwrap().say("group update engineering --remove-member phone").unwrap();
    running.wait(Duration::from_secs(15)).unwrap();

    let report: serde_json::Value = serde_json::from_str(&running.stdout()).unwrap();
    assert_eq!(report["missing"], 0, "{report}");
    assert_ne!(fetch(&phone.host), 0);
    assert_eq!(fetch(&world.ground.home), 0);
}

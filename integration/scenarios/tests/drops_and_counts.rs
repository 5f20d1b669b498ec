//! What no grant covers does not pass, and every dropped packet is counted under a reason that somebody can read.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Meter, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{PAYROLL, WEB, WEB_NAME},
};

/// Packets dropped for reasons with this word, at the client and at the gateway together.
fn dropped(world: &World, word: &str) -> u64 {
    let at_the_client = world.client().unwrap().drops(word).unwrap();
    let metrics = world.gateway().unwrap().metrics().unwrap();
    let lines = metrics.lines().filter(|line| line.starts_with("postern_packets_dropped_total{"));
    let reasons = lines.filter(|line| {
        line.split("reason=\"")
            .nth(1)
            .is_some_and(|rest| rest.split('"').next().is_some_and(|reason| reason.contains(word)))
    });
    let at_the_gateway: f64 = reasons.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum();
    at_the_client + at_the_gateway as u64
}

fn counted_at_least(world: &World, word: &str, before: u64, wanted: u64) {
    wait::until_true(&format!("{wanted} drops are counted as {word}"), Duration::from_secs(5), || {
        let now = dropped(world, word);
        anyhow::ensure!(now >= before + wanted, "{before} before, {now} now");
        Ok(true)
    })
    .unwrap();
}

#[test]
fn a_spoofed_inner_source_goes_nowhere() {
    let world = World::start(Plan::default()).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")]).unwrap().code, 0);
    let spoofed = Meter::matching(&world.ground.web, "spoofed", "eth0", "udp dport 7").unwrap();
    world.ground.home.address("lo", &["10.66.0.1/32"]).unwrap();
    let before = dropped(&world, "source");

    for _packet in 0..5 {
        world.tool(&format!("udp-send --bind 10.66.0.1:0 --to {WEB}:7 --listen-ms 50")).unwrap();
    }

    counted_at_least(&world, "source", before, 5);
    assert_eq!(spoofed.read().unwrap().packets, 0);
}

#[test]
fn fragments_go_nowhere() {
    let world = World::start(Plan::default()).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")]).unwrap().code, 0);
    let arrived =
        Meter::matching(&world.ground.web, "fragments", "eth0", "ip daddr 192.168.1.20 meta l4proto udp")
            .unwrap();
    let before = dropped(&world, "fragment");

    let answers = world.tool(&format!("udp-send --to {WEB}:7 --size 4000 --listen-ms 300")).unwrap();

    counted_at_least(&world, "fragment", before, 2);
    assert_eq!(answers, serde_json::json!([]));
    assert_eq!(arrived.read().unwrap().packets, 0);
}

#[test]
fn a_destination_that_no_grant_names_is_refused_at_once() {
    let world = World::start(Plan::default()).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    let arrived = Meter::matching(&world.ground.web, "payroll", "eth0", "ip daddr 192.168.2.0/24").unwrap();
    let before = dropped(&world, "");

    let never_mapped = world.curl(&["http://100.96.77.77/"]).unwrap();
    let not_granted = world.curl(&[&format!("http://{PAYROLL}/")]).unwrap();

    for done in [&never_mapped, &not_granted] {
        assert_eq!(done.code, 7, "refused, not timed out: {done:?}");
        assert!(done.took < Duration::from_secs(1), "{done:?}");
    }
    counted_at_least(&world, "", before, 2);
    assert_eq!(arrived.read().unwrap().packets, 0);
}

#[test]
fn a_port_that_the_filter_does_not_name_is_refused_at_once() {
    let world = World::start(Plan::default()).unwrap();
    let admin = world.admin().unwrap();
    admin
        .say("resource create narrow --site office --ip 192.168.2.30 --filter tcp:80 --filter icmp")
        .unwrap();
    world.allow("narrow").unwrap();
    world.client().unwrap().wait_known("narrow", Duration::from_secs(10)).unwrap();

    let open = world.curl(&["--max-time", "10", "http://192.168.2.30/"]).unwrap();
    let closed = world.curl(&["http://192.168.2.30:81/"]).unwrap();
    let ping = world.ground.home.try_run(&["ping", "-c", "1", "-W", "2", "192.168.2.30"]).unwrap();
    let echoes = world.tool("udp-ping --to 192.168.2.30:7 --rate 20 --seconds 0.5").unwrap();

    assert_eq!(open.code, 0, "{open:?}");
    assert!(closed.code == 7 && closed.took < Duration::from_secs(1), "{closed:?}");
    assert_eq!(ping.code, 0, "{ping:?}");
    assert_eq!(echoes["received"], 0, "{echoes}");
}

#[test]
fn the_gateways_own_ceiling_holds_against_control() {
    let ceiling = ["--allow-resource".to_owned(), "192.168.2.0/24".to_owned()];
    let world = World::start(Plan { gateway_arguments: ceiling.into(), ..Plan::default() }).unwrap();

    let done = world.curl(&["--max-time", "5", &format!("http://{WEB}/")]).unwrap();
    let resource = world.client().unwrap().resource("office-lan").unwrap();

    assert_ne!(done.code, 0);
    assert_eq!(resource["state"], "denied", "{resource}");
    assert!(resource["reason"].as_str().unwrap().contains("ceiling"), "{resource}");
}

#[test]
fn the_gateways_own_addresses_stay_closed() {
    let world = World::start(Plan::default()).unwrap();
    let ssh = world.ground.office.launch("own", program_lab()).args(["http", "--listen", "192.168.1.2:8022"]);
    let _ssh = ssh.start().unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")]).unwrap().code, 0);

    let done = world.curl(&["--max-time", "5", "http://192.168.1.2:8022/"]).unwrap();

    assert_ne!(done.code, 0, "{done:?}");
}

fn program_lab() -> std::path::PathBuf {
    integration_lab::program("lab-tool").unwrap()
}

//! A gateway with two lanes serves two devices on two threads: each keeps its order, little has to be handed over, and
//! what goes through the relay finds its lane too.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Host, Nat, Privilege, Process, RouterPlan, privilege, program};
use integration_scenarios::{
    Client, Node, Plan, World,
    addresses::{WEB, WEB_NAME, WEB6},
};
use serde_json::Value;

const SIZE: u64 = 8 * 1024 * 1024;

fn two_lanes(nat: RouterPlan) -> (World, Client) {
    let gateway_arguments = ["--lanes", "2"].map(str::to_owned).to_vec();
    let world = World::start(Plan { nat, gateway_arguments, ..Plan::default() }).unwrap();
    let phone = world.second_client("phone").unwrap();
    phone.wait_known("wiki", Duration::from_secs(10)).unwrap();
    (world, phone)
}

fn run_tool(host: &Host, name: &str, line: &str) -> Process {
    host.launch(name, program("lab-tool").unwrap()).args(line.split_whitespace()).start().unwrap()
}

fn download(host: &Host, family: &str) -> Process {
    let url = format!("http://{WEB_NAME}/bytes/{SIZE}");
    let body = format!("body{family}");
    host.launch(&format!("download{family}"), "curl")
        .args(["-sS", family, "--max-time", "60", "-o", &body, &url])
        .start()
        .unwrap()
}

/// Both devices download in both families and send numbered datagrams meanwhile.
fn everything_at_once(world: &World, phone: &Client) {
    let hosts = [&world.ground.home, &phone.host];
    let downloads: Vec<_> =
        hosts.iter().flat_map(|host| ["-4", "-6"].map(|family| download(host, family))).collect();
    let echoes: Vec<_> = hosts
        .iter()
        .flat_map(|host| {
            [("echoes-4", WEB.to_owned()), ("echoes-6", format!("[{WEB6}]"))].map(|(name, web)| {
                run_tool(host, name, &format!("udp-ping --to {web}:7 --rate 200 --seconds 3 --size 600"))
            })
        })
        .collect();
    for download in &downloads {
        assert_eq!(download.wait(Duration::from_secs(70)).unwrap(), 0, "{}", download.stderr());
    }
    for echoes in &echoes {
        echoes.wait(Duration::from_secs(30)).unwrap();
        let report: Value = serde_json::from_str(&echoes.stdout()).unwrap();
        assert_eq!((&report["foreign"], &report["reordered"]), (&0.into(), &0.into()), "{report}");
        assert!(report["received"].as_u64().unwrap() >= 500, "{report}");
    }
    let there = world.curl(&[&format!("http://{WEB_NAME}/sha256/{SIZE}")]).unwrap().stdout;
    for host in hosts {
        let sums = host.run(&["sha256sum", "body-4", "body-6"]).unwrap().stdout;
        assert!(sums.lines().all(|sum| sum.starts_with(there.trim())), "{sums} {there}");
    }
}

/// Batches that the peers on a lane's thread have handled.
fn handled(gateway: &Node, thread: &str) -> u64 {
    let actors = gateway.actors().unwrap();
    let rows = actors["actors"].as_array().unwrap().iter();
    rows.filter(|row| row["kind"] == "Peer" && row["thread"] == thread)
        .filter_map(|row| row["handled"].as_u64())
        .sum()
}

#[test]
fn two_devices_have_a_lane_each_and_keep_their_order() {
    let (world, phone) = two_lanes(Nat::PortRestricted.into());
    for client in [world.client().unwrap(), &phone] {
        let page = format!("http://{WEB_NAME}/");
        client.host.run(&["curl", "-sS", "--max-time", "10", "-o", "/dev/null", &page]).unwrap();
        client.wait_resource("wiki", "path", "direct", Duration::from_secs(20)).unwrap();
    }

    everything_at_once(&world, &phone);

    let gateway = world.gateway().unwrap();
    let (one, two) = (handled(gateway, "lane-0"), handled(gateway, "lane-1"));
    let status = gateway.status().unwrap();
    println!("batches of peers on each lane: {one}, {two}; {} {}", status["lanes"], status["steered"]);
    assert!(one > 100 && two > 100, "{one} {two}");
    assert_eq!(status["lanes"].as_array().unwrap().len(), 2);
    assert_eq!(status["steered"]["sockets"], true);
    let strays: u64 =
        status["lanes"].as_array().unwrap().iter().map(|lane| lane["strays"].as_u64().unwrap()).sum();
    // Without the right to load a program the kernel steers the host's packets by what it remembers of flows.
    if privilege() == Privilege::Root {
        assert_eq!(status["steered"]["device"], true);
        assert!(strays < 100, "initiations, and little else: {status}");
    }
    assert_eq!(status["drops"]["handover_full"].as_u64().unwrap_or(0), 0, "{status}");
}

#[test]
fn devices_on_both_lanes_are_reached_through_the_relay() {
    let (world, phone) = two_lanes(RouterPlan { ipv6: false, ..Nat::Symmetric.into() });

    everything_at_once(&world, &phone);

    for client in [world.client().unwrap(), &phone] {
        client.wait_resource("wiki", "path", "relayed", Duration::from_secs(5)).unwrap();
    }
    let status = world.gateway().unwrap().status().unwrap();
    println!("{}", status["lanes"]);
    assert!(status["lanes"][1]["relayed"].as_u64().unwrap() > 100, "{status}");
}

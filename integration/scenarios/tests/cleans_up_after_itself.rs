//! The host is as before when a program has ended, and what a killed predecessor left is cleaned at the next start.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Host, wait};
use integration_scenarios::{Plan, World, addresses::WEB_NAME};

/// What a host has besides its programs: routes, rules, nftables, devices, and the name servers.
fn state_of(host: &Host) -> String {
    let mut text = host.resolv_conf().unwrap();
    for line in [
        "ip -4 route show table all",
        "ip -6 route show table all",
        "ip -4 rule",
        "ip -6 rule",
        "ip -o link",
        "nft list ruleset",
        "cat /proc/sys/net/ipv4/ip_forward",
        "cat /proc/sys/net/ipv6/conf/all/forwarding",
    ] {
        let words: Vec<_> = line.split_whitespace().collect();
        let said = host.run(&words).unwrap().stdout;
        // Caches and counters move by themselves.
        let stable = said.lines().filter(|line| !line.contains("cache") && !line.contains("expires"));
        text.push_str(&format!("{line}\n{}\n", stable.collect::<Vec<_>>().join("\n")));
    }
    text
}

#[test]
fn an_orderly_end_leaves_nothing_on_the_host() {
    let mut world = World::lay_out(integration_lab::Lab::unique().unwrap(), Plan::default()).unwrap();
    let (home, office) = (world.ground.home.clone(), world.ground.office.clone());
    let before = (state_of(&home), state_of(&office));
    world.start_control().unwrap();
    world.configure().unwrap();
    world.start_relay().unwrap();
    world.start_gateway().unwrap();
    world.start_client().unwrap();
    world.wait_connected().unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    assert_ne!(before.0, state_of(&home));
    assert_ne!(before.1, state_of(&office));

    let client = world.client.take().unwrap();
    let gateway = world.gateway.take().unwrap();
    let codes = (
        client.process.stop(Duration::from_secs(5)).unwrap(),
        gateway.process.stop(Duration::from_secs(5)).unwrap(),
    );

    assert_eq!(codes, (0, 0));
    assert_eq!(before.0, state_of(&home));
    assert_eq!(before.1, state_of(&office));
}

#[test]
fn a_killed_client_is_cleaned_up_by_the_next_one() {
    let mut world = World::start(Plan::default()).unwrap();
    let page = format!("http://{WEB_NAME}/");
    assert_eq!(world.curl(&["-o", "/dev/null", &page]).unwrap().code, 0);
    let original = "nameserver 203.0.113.53\noptions timeout:1 attempts:2\n";
    assert_ne!(world.ground.home.resolv_conf().unwrap(), original);

    let client = world.client.take().unwrap();
    client.process.kill().unwrap();
    client.process.wait(Duration::from_secs(5)).unwrap();
    drop(client);
    world.start_client().unwrap();
    wait::until_true("the new one serves", Duration::from_secs(15), || {
        Ok(world.curl(&["--max-time", "2", "-o", "/dev/null", &page])?.code == 0)
    })
    .unwrap();
    let client = world.client.take().unwrap();
    assert_eq!(client.process.stop(Duration::from_secs(5)).unwrap(), 0);

    assert_eq!(world.ground.home.resolv_conf().unwrap(), original);
    let links = world.ground.home.run(&["ip", "-o", "link"]).unwrap().stdout;
    assert!(!links.contains("postern0"), "{links}");
}

//! A path that silently swallows large packets costs no connection: the limit is found, new connections keep to it, a
//! running one goes on, and whoever sends larger packets is told.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::wait;
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME, WEB6},
};

/// Bytes of IP that the home's router lets through: an inner packet has 1,340 with IPv4 outside, 1,280 with IPv6.
const NARROW: u32 = 1400;

fn send_singly(ground: &integration_scenarios::Ground) -> anyhow::Result<()> {
    ground.office.send_singly("eth0")?;
    ground.home.send_singly("eth0")
}

fn gateway_mtu(world: &World) -> anyhow::Result<u64> {
    let status = world.gateway()?.status()?;
    status["devices"][0]["mtu"].as_u64().ok_or_else(|| anyhow::anyhow!("no limit in {status}"))
}

#[test]
fn a_download_goes_on_when_the_path_narrows_and_it_is_noticed_within_three_seconds() {
    let world = World::start_on(Plan::default(), send_singly).unwrap();
    let home = &world.ground.home;
    let url = format!("http://{WEB_NAME}/paced/1000000/10");
    let download = home.launch("download", "curl").args(["-sS", "--max-time", "60", "-o", "download", &url]);
    let download = download.start().unwrap();
    let size = || std::fs::metadata(home.dir().join("download")).map_or(0, |file| file.len());
    let under_way = || Ok(size() > 1_000_000);
    wait::until_true("the download is under way", Duration::from_secs(15), under_way).unwrap();
    world.client().unwrap().wait_resource("wiki", "path", "direct", Duration::from_secs(10)).unwrap();
    assert_eq!(gateway_mtu(&world).unwrap(), 1420);

    world.ground.home_nat.swallow_longer_than(Some(NARROW)).unwrap();

    let noticed =
        wait::until_true("the gateway noticed", Duration::from_secs(10), || Ok(gateway_mtu(&world)? < 1420))
            .unwrap();
    println!("noticed after {noticed:?}; the limit is {}", gateway_mtu(&world).unwrap());
    assert!(noticed <= Duration::from_secs(3), "{noticed:?}");
    let before = size();
    wait::until_true("bytes arrive again", Duration::from_secs(5), || Ok(size() > before + 100_000)).unwrap();
    assert_eq!(download.wait(Duration::from_secs(40)).unwrap(), 0, "{}", download.stderr());
    assert_eq!(size(), 10_000_000);
    assert_eq!(world.client().unwrap().resource("wiki").unwrap()["path"], "direct");
}

#[test]
fn connections_keep_to_a_narrow_path_and_senders_of_larger_packets_are_told_what_fits() {
    let world = World::start_on(Plan::default(), |ground| {
        send_singly(ground)?;
        ground.home_nat.swallow_longer_than(Some(NARROW))
    })
    .unwrap();
    let (home, client) = (&world.ground.home, world.client().unwrap());
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    client.wait_resource("wiki", "path", "direct", Duration::from_secs(15)).unwrap();
    let narrow = || Ok(client.resource("wiki")?["mtu"].as_u64().is_some_and(|mtu| mtu < 1420));
    wait::until_true("the client knows the limit", Duration::from_secs(10), narrow).unwrap();
    wait::until_true("the gateway knows it too", Duration::from_secs(10), || Ok(gateway_mtu(&world)? < 1420))
        .unwrap();
    let limit = client.resource("wiki").unwrap()["mtu"].as_u64().unwrap();

    let swallowed = world.ground.home_nat.swallowed().unwrap();
    for family in ["-4", "-6"] {
        let url = format!("http://{WEB_NAME}/bytes/5000000");
        let down = world.curl(&[family, "-o", "body", &url]).unwrap();
        let up = world.curl(&[family, "-T", "body", &format!("http://{WEB_NAME}/upload")]).unwrap();
        assert_eq!((down.code, up.code), (0, 0), "{} {}", down.stderr, up.stderr);
        assert_eq!(up.json().unwrap()["bytes"], 5_000_000);
    }
    let swallowed = world.ground.home_nat.swallowed().unwrap() - swallowed;
    assert!(swallowed < 100, "probes alone are too long for the path: {swallowed}");

    for (family, address) in [("-4", WEB), ("-6", WEB6)] {
        let ping = ["ping", family, "-M", "do", "-s", "1360", "-c", "2", "-i", "0.3", "-W", "1", address];
        let said = home.try_run(&ping).unwrap();
        let told = if family == "-4" { format!("mtu = {limit}") } else { format!("mtu={limit}") };
        assert!(said.stdout.contains(&told), "{limit}: {} {}", said.stdout, said.stderr);
        let fits = (limit - if family == "-4" { 28 } else { 48 }).to_string();
        let ping = ["ping", family, "-M", "do", "-s", &fits, "-c", "2", "-i", "0.3", "-W", "2", address];
        let said = home.run(&ping).unwrap().stdout;
        assert!(said.contains(" 2 received"), "{said}");
    }
    assert!(client.drops("packet_too_big").unwrap() >= 2);
}

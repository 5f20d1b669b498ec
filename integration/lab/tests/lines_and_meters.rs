//! Loss, rate, counters, and the lab's own servers.

#![allow(clippy::unwrap_used)]

mod street;

use std::time::Duration;

use integration_lab::{Meter, Nat, wait};
use street::{ask, server, street};

#[test]
fn a_lossy_line_loses_about_what_it_was_told() {
    let street = street(Nat::PortRestricted);
    let _echo = server(&street.far, "echo", "udp-echo --listen 203.0.113.1:4000");
    let ping = "udp-ping --to 203.0.113.1:4000 --rate 1000 --seconds 1";
    // Neighbours are found first: a lost question about one holds everything up for a second.
    ask(&street.home, "udp-ping --to 203.0.113.1:4000 --rate 50 --seconds 0.2");

    street.home.lose("eth0", 300).unwrap();
    let lossy = ask(&street.home, ping);
    street.home.lose("eth0", 0).unwrap();
    let healed = ask(&street.home, ping);

    let missing = lossy["missing"].as_u64().unwrap();
    assert!((200..400).contains(&missing), "{lossy}");
    assert_eq!(healed["missing"], 0, "{healed}");
    assert!(healed["p99_ms"].as_f64().is_some(), "{healed}");
}

#[test]
fn a_slow_line_takes_its_time() {
    let street = street(Nat::PortRestricted);
    let _web = server(&street.far, "web", "http --listen 203.0.113.1:80");
    let get = ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "http://203.0.113.1/bytes/500000"];
    let fast = street.home.run(&get).unwrap().took;

    street.far.rate("eth0", Some(2000)).unwrap();
    let slow = street.home.run(&get).unwrap().took;
    street.far.rate("eth0", None).unwrap();

    assert!(slow > Duration::from_millis(1500) && slow > 2 * fast, "fast {fast:?}, slow {slow:?}");
}

#[test]
fn uploads_and_downloads_arrive_as_they_were() {
    let street = street(Nat::PortRestricted);
    let _web = server(&street.far, "web", "http --listen 203.0.113.1:80 --listen [2001:db8:1::1]:80");
    for base in ["http://203.0.113.1", "http://[2001:db8:1::1]"] {
        let curl = |words: &[&str]| {
            street.home.run(&[&["curl", "-sS", "--max-time", "20"], words].concat()).unwrap()
        };
        curl(&["-o", "body", &format!("{base}/bytes/3000001")]);

        let there = curl(&[&format!("{base}/sha256/3000001")]).stdout;
        let here = street.home.run(&["sha256sum", "body"]).unwrap().stdout;
        let back = curl(&["-T", "body", &format!("{base}/upload")]).json().unwrap();

        assert_eq!(here.split_whitespace().next().unwrap(), there);
        assert_eq!(back["sha256"].as_str().unwrap(), there);
        assert_eq!(back["bytes"], 3_000_001);
    }
}

#[test]
fn a_meter_counts_payload_and_knows_when_it_ended() {
    let street = street(Nat::PortRestricted);
    let _web = server(&street.far, "web", "http --listen 203.0.113.1:80");
    let meter = Meter::payload(&street.far, "eth0").unwrap();
    street.home.run(&["ping", "-c", "2", "-i", "0.2", "-q", "203.0.113.1"]).unwrap();
    let before = meter.read().unwrap();
    let watch = meter.watch();

    let started = std::time::Instant::now();
    let get = ["curl", "-sS", "--max-time", "20", "-o", "/dev/null", "http://203.0.113.1/paced/1000000/1"];
    street.home.run(&get).unwrap();
    let ended = started.elapsed();
    wait::until_true("the meter saw it", Duration::from_secs(2), || Ok(watch.tally().bytes > 1_000_000))
        .unwrap();

    let last = watch.last_moved().unwrap().duration_since(started);
    assert_eq!(before.packets, 0, "pings are not payload");
    assert!(
        last <= ended + Duration::from_millis(500) && last > Duration::from_millis(800),
        "{last:?} {ended:?}"
    );
}

#[test]
fn the_name_server_knows_its_zone_and_nothing_else() {
    let street = street(Nat::PortRestricted);
    let dns = server(
        &street.far,
        "dns",
        "dns --listen 203.0.113.2:53 --record wiki.corp.example=10.20.0.10 --record wiki.corp.example=fd20::10",
    );
    street
        .home
        .names(&["203.0.113.2".parse().unwrap()], &[("fixed.example", "192.0.2.9".parse().unwrap())])
        .unwrap();
    let lookup = |kind: &str, name: &str| street.home.try_run(&["getent", kind, name]).unwrap();

    let v4 = lookup("ahostsv4", "wiki.corp.example");
    let v6 = lookup("ahostsv6", "wiki.corp.example");
    let fixed = lookup("ahostsv4", "fixed.example");
    let unknown = lookup("ahostsv4", "other.corp.example");

    assert!(v4.stdout.starts_with("10.20.0.10 "), "{v4:?}");
    assert!(v6.stdout.starts_with("fd20::10 "), "{v6:?}");
    assert!(fixed.stdout.starts_with("192.0.2.9 "), "{fixed:?}");
    assert_ne!(unknown.code, 0);
    assert!(dns.stdout().contains("\"name\":\"wiki.corp.example\""));
}

//! Each kind of NAT does to real UDP packets what its name says.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod street;

use std::time::Duration;

use integration_lab::{Nat, RouterPlan, wait};
use street::{Street, ask, server, street, tool};

/// The outside addresses that the two far addresses see for one inside port.
fn mapped(street: &Street) -> (String, String) {
    let _one = server(&street.far, "one", "udp-observe --listen 203.0.113.1:4000");
    let _other = server(&street.far, "other", "udp-observe --listen 203.0.113.2:4000");
    let send = "udp-send --bind 192.168.7.2:5000 --to 203.0.113.1:4000 --to 203.0.113.2:4000 --answers 2 --listen-ms 1500";
    // A busy machine may lose a datagram; a NAT that lets none through loses all of them.
    let mut tries = (0..3).map(|_| ask(&street.home, send));
    let answers = tries.find(|answers| answers.as_array().unwrap().len() == 2).expect("two answers");
    let seen_by = |address: &str| {
        let answers = answers.as_array().unwrap();
        let answer = answers.iter().find(|answer| answer["from"] == address).unwrap();
        answer["text"].as_str().unwrap().to_owned()
    };
    (seen_by("203.0.113.1:4000"), seen_by("203.0.113.2:4000"))
}

/// Whether a datagram from the far side's second address gets in, after home has spoken to the first one only.
fn lets_strangers_in(street: &Street) -> bool {
    let listener = tool(
        &street.home,
        "listener",
        "udp-send --bind 192.168.7.2:5000 --to 203.0.113.1:4001 --answers 2 --listen-ms 1500",
    );
    let _known = server(&street.far, "known", "udp-observe --listen 203.0.113.1:4001");
    let listener = listener.start().unwrap();
    wait::until_true("home has spoken", Duration::from_secs(5), || Ok(listener.stderr().contains("sent")))
        .unwrap();

    let send = "udp-send --bind 203.0.113.2:4002 --text stranger --listen-ms 1 --to 203.0.113.7:5000";
    ask(&street.far, send);

    assert_eq!(listener.wait(Duration::from_secs(5)).unwrap(), 0);
    let answers: serde_json::Value = serde_json::from_str(&listener.stdout()).unwrap();
    let from = |address: &str| answers.as_array().unwrap().iter().any(|answer| answer["from"] == address);
    assert!(from("203.0.113.1:4001"), "the one that home spoke to is always heard: {answers}");
    from("203.0.113.2:4002")
}

#[test]
fn a_port_restricted_nat_maps_a_port_once_and_lets_only_answers_in() {
    let street = street(Nat::PortRestricted);

    let (one, other) = mapped(&street);

    assert_eq!(one, other);
    assert!(one.starts_with("203.0.113.7:"), "{one}");
    assert!(!lets_strangers_in(&street));
}

#[test]
fn a_symmetric_nat_maps_a_port_anew_for_each_destination() {
    let street = street(Nat::Symmetric);

    let (one, other) = mapped(&street);

    assert_ne!(one, other);
    assert!(!lets_strangers_in(&street));
}

#[test]
fn a_full_cone_nat_lets_strangers_in() {
    let street = street(Nat::FullCone);

    let (one, other) = mapped(&street);

    assert_eq!(one, other);
    assert!(lets_strangers_in(&street));
}

#[test]
fn an_unfiltered_nat_is_blocked_by_what_arrived_too_early() {
    let early = "udp-send --bind 203.0.113.1:4000 --text early --listen-ms 1 --to 203.0.113.7:5000";
    let outward = "udp-send --bind 192.168.7.2:5000 --to 203.0.113.1:4000 --answers 1 --listen-ms 2000";
    let port_seen = |nat: Nat| {
        let street = street(nat);
        ask(&street.far, early);
        let _far = server(&street.far, "far", "udp-observe --listen 203.0.113.1:4000");
        ask(&street.home, outward)[0]["text"].as_str().unwrap().to_owned()
    };

    assert_ne!(port_seen(Nat::Unfiltered), "203.0.113.7:5000");
    assert_eq!(port_seen(Nat::PortRestricted), "203.0.113.7:5000");
}

#[test]
fn without_a_nat_addresses_stay_as_they_are() {
    let street = street(Nat::None);

    let (one, _) = mapped(&street);

    assert_eq!(one, "192.168.7.2:5000");
}

#[test]
fn ipv6_is_not_translated_and_unasked_packets_are_dropped() {
    let street = street(Nat::PortRestricted);
    let _far = server(&street.far, "far", "udp-observe --listen [2001:db8:1::1]:4000");
    let _home = server(&street.home, "home", "udp-observe --listen [2001:db8:7::2]:5001");

    let outward = ask(
        &street.home,
        "udp-send --bind [2001:db8:7::2]:5000 --to [2001:db8:1::1]:4000 --answers 1 --listen-ms 2000",
    );
    let inward =
        ask(&street.far, "udp-send --bind [::]:0 --to [2001:db8:7::2]:5001 --answers 1 --listen-ms 500");

    assert_eq!(outward[0]["text"], "[2001:db8:7::2]:5000");
    assert_eq!(inward, serde_json::json!([]));
}

#[test]
fn a_new_plan_forgets_the_translations_of_the_old_one() {
    let street = street(Nat::PortRestricted);
    let (_, before) = mapped(&street);

    street.router.set(Nat::Symmetric).unwrap();
    let (one, other) = mapped(&street);

    assert_eq!(before, "203.0.113.7:5000");
    assert_ne!(one, other);
}

#[test]
fn blocked_udp_passes_nothing_and_tcp_goes_on() {
    let street = street(Nat::PortRestricted);
    let _echo = server(&street.far, "echo", "udp-echo --listen 203.0.113.1:4000");
    let _web = server(&street.far, "web", "http --listen 203.0.113.1:80");
    let ping = "udp-ping --to 203.0.113.1:4000 --rate 50 --seconds 0.2";
    assert_eq!(ask(&street.home, ping)["received"], 10);

    street.router.set(RouterPlan { udp: false, ..Nat::PortRestricted.into() }).unwrap();

    assert_eq!(ask(&street.home, ping)["received"], 0);
    let page = street.home.run(&["curl", "-sS", "--max-time", "5", "http://203.0.113.1/"]).unwrap();
    assert!(page.stdout.contains("hello"));
}

#[test]
fn a_router_without_ipv6_passes_ipv4_only() {
    let street = street(Nat::PortRestricted);
    let _far = server(&street.far, "far", "udp-echo --listen [2001:db8:1::1]:4000 --listen 203.0.113.1:4000");
    let received = |to: &str| {
        let words = format!("udp-ping --rate 50 --seconds 0.1 --to {to}:4000");
        ask(&street.home, &words)["received"].as_u64().unwrap()
    };
    assert_eq!((received("[2001:db8:1::1]"), received("203.0.113.1")), (5, 5));

    street.router.set(RouterPlan { ipv6: false, ..Nat::PortRestricted.into() }).unwrap();

    assert_eq!((received("[2001:db8:1::1]"), received("203.0.113.1")), (0, 5));
}

#[test]
fn a_new_plan_leaves_tcp_alone_and_a_reboot_does_not() {
    let street = street(Nat::PortRestricted);
    let _web = server(&street.far, "web", "http --listen 203.0.113.1:80");
    let download = |name: &str| {
        let url = "http://203.0.113.1/paced/100000/3";
        let curl = street.home.launch(name, "curl").args(["-sS", "--max-time", "10", "-o", name, url]);
        let curl = curl.start().unwrap();
        let file = street.home.dir().join(name);
        let begun = || Ok(std::fs::metadata(&file).is_ok_and(|file| file.len() > 20_000));
        wait::until_true("the download runs", Duration::from_secs(5), begun).unwrap();
        curl
    };

    let first = download("first");
    street.router.set(Nat::Symmetric).unwrap();
    let survived = first.wait(Duration::from_secs(12)).unwrap();
    let second = download("second");
    street.router.forget().unwrap();
    let ended = second.wait(Duration::from_secs(12)).unwrap();

    assert_eq!(survived, 0, "{}", first.stderr());
    assert_ne!(ended, 0);
}

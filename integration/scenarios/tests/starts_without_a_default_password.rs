//! Control starts on an empty directory with one admin token, and everything else is set up by `postern admin`.

#![allow(clippy::unwrap_used)]

use integration_lab::Lab;
use integration_scenarios::{Plan, World, steps};

#[test]
fn an_empty_directory_becomes_a_control_plane_and_then_a_network() {
    let mut world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();

    steps::first_start(&mut world).unwrap();
    steps::configured(&mut world).unwrap();
}

#[test]
fn init_says_the_same_a_second_time_and_changes_nothing() {
    let world = World::lay_out(Lab::unique().unwrap(), Plan::default()).unwrap();
    let state = world.ground.internet.dir().join("init");
    let program = integration_lab::program("postern-control").unwrap();
    let words = ["init", "--json", "--public-url", "https://203.0.113.10:8443", "--state-dir"];
    let mut argv = vec![program.as_os_str()];
    argv.extend(words.map(std::ffi::OsStr::new));
    argv.push(state.as_os_str());

    let first = world.ground.internet.run(&argv).unwrap().json().unwrap();
    let token = std::fs::read(state.join("admin.token")).unwrap();
    let second = world.ground.internet.run(&argv).unwrap().json().unwrap();

    assert_eq!(first, second);
    assert_eq!(first["url"], "https://203.0.113.10:8443");
    assert!(first["pin"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(token, std::fs::read(state.join("admin.token")).unwrap());
    let text = String::from_utf8(token).unwrap();
    assert!(!first.to_string().contains(text.trim()), "the token itself is not printed");
}

//! The units that ship are valid, and systemd's own analysis finds little to say against them.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use integration_lab::run;

fn unit(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("deploy/systemd").join(name)
}

fn exposure(name: &str) -> f64 {
    let path = unit(name).display().to_string();
    let said = run(&["systemd-analyze", "security", "--offline=true", "--no-pager", &path]).unwrap().stdout;
    let line = said.lines().find(|line| line.contains("Overall exposure level")).unwrap();
    let words = line.split_whitespace().collect::<Vec<_>>();
    words.iter().find_map(|word| word.parse().ok()).unwrap()
}

#[test]
fn the_gateways_exposure_is_at_most_two() {
    assert!(exposure("postern-gateway.service") <= 2.0);
}

#[test]
fn servers_without_a_tunnel_need_even_less() {
    for name in ["postern-relay.service", "postern-control.service"] {
        assert!(exposure(name) <= 1.5, "{name}");
    }
}

#[test]
fn the_gateways_unit_says_what_is_promised() {
    let text = std::fs::read_to_string(unit("postern-gateway.service")).unwrap();
    for promise in ["Type=notify", "WatchdogSec=", "LoadCredential=", "DynamicUser=yes", "Restart=always"] {
        assert!(text.contains(promise), "{promise} is missing");
    }
    assert!(text.lines().any(|line| line == "CapabilityBoundingSet=CAP_NET_ADMIN"));
}

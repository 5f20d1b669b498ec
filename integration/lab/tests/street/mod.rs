//! A street for the tests of this crate: a host at home, its router, and two servers on the far side.
#![allow(dead_code, missing_docs)]

use std::time::Duration;

use integration_lab::{Host, Lab, Launch, Nat, Process, Router, program, wait};

/// `home` (192.168.7.2) behind `router` (203.0.113.7), and `far` with two addresses, 203.0.113.1 and 203.0.113.2.
pub struct Street {
    pub home: Host,
    pub router: Router,
    pub far: Host,
    pub lab: Lab,
}

pub fn street(nat: Nat) -> Street {
    let lab = Lab::unique().unwrap();
    let home = lab.host("home").unwrap();
    let router = lab.router("router").unwrap();
    let far = lab.host("far").unwrap();
    lab.plug(&home, "eth0", &router).unwrap();
    lab.link((router.host(), "outside"), (&far, "eth0")).unwrap();
    home.address("eth0", &["192.168.7.2/24", "2001:db8:7::2/64"]).unwrap();
    router.host().address("inside", &["192.168.7.1/24", "2001:db8:7::1/64"]).unwrap();
    router.host().address("outside", &["203.0.113.7/24", "2001:db8:1::7/64"]).unwrap();
    far.address("eth0", &["203.0.113.1/24", "203.0.113.2/24", "2001:db8:1::1/64"]).unwrap();
    home.default_route("192.168.7.1".parse().unwrap()).unwrap();
    home.default_route("2001:db8:7::1".parse().unwrap()).unwrap();
    far.ip("-6 route add 2001:db8:7::/64 via 2001:db8:1::7").unwrap();
    if nat == Nat::None {
        far.ip("route add 192.168.7.0/24 via 203.0.113.7").unwrap();
    }
    router.set(nat).unwrap();
    Street { home, router, far, lab }
}

pub fn tool(host: &Host, name: &str, words: &str) -> Launch {
    host.launch(name, program("lab-tool").unwrap()).args(words.split_whitespace())
}

/// Starts one of the tool's servers and waits until it says that it listens.
pub fn server(host: &Host, name: &str, words: &str) -> Process {
    let server = tool(host, name, words).start().unwrap();
    wait::until_true("the server listens", Duration::from_secs(5), || Ok(server.stdout().contains("ready")))
        .unwrap();
    server
}

/// Runs the tool to its end and returns the JSON that it prints.
pub fn ask(host: &Host, words: &str) -> serde_json::Value {
    let tool = program("lab-tool").unwrap().display().to_string();
    let argv: Vec<_> = std::iter::once(tool.as_str()).chain(words.split_whitespace()).collect();
    host.run(&argv).unwrap().json().unwrap()
}

//! Control on a real PostgreSQL, which goes away for half a minute: no node is disconnected, writes are refused with the
//! reason, and once it is back everything goes on by itself.

#![allow(clippy::unwrap_used)]

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use integration_lab::{Postgres, program, wait};
use integration_scenarios::Alone;
use serde_json::json;

/// A node that needs no device and no rights: ends with the test.
struct Relay(Child);

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn relay(control: &Alone) -> Relay {
    let (status, made) = control.ask("POST", "/api/v1/relay-tokens", Some(&json!({}))).unwrap();
    assert_eq!(status, 201, "{made}");
    let file = control.dir().join("relay.token");
    std::fs::write(&file, made["token"].as_str().unwrap()).unwrap();
    let pin = std::fs::read_to_string(control.state().join("certificate.pin")).unwrap();
    let child = Command::new(program("postern-relay").unwrap())
        .args(["--control-url", &control.url(), "--control-pin", pin.trim()])
        .args(["--listen", "127.0.0.1:0", "--external-address", "203.0.113.20", "--metrics-listen", "off"])
        .arg("--token-file")
        .arg(&file)
        .arg("--state-dir")
        .arg(control.dir().join("relay"))
        .arg("--run-dir")
        .arg(control.dir().join("relay-run"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(std::fs::File::create(control.dir().join("relay.log")).unwrap())
        .spawn()
        .unwrap();
    let relay = Relay(child);
    wait::until_true("the relay is connected", Duration::from_secs(30), || {
        let (_, relays) = control.ask("GET", "/api/v1/relays", None)?;
        Ok(relays["items"][0]["state"] == "online")
    })
    .unwrap();
    relay
}

#[test]
fn postgresql_that_is_away_for_half_a_minute_costs_no_node_its_session() {
    if !Postgres::possible() {
        eprintln!("not run in a user namespace: PostgreSQL runs as a user of its own");
        return;
    }
    let mut postgres = Postgres::start().unwrap();
    let control = Alone::start("postgres", &["--database", &postgres.url()], &[]).unwrap();
    let _relay = relay(&control);

    postgres.kill();
    let away = Instant::now();
    let mut refusals = Vec::new();
    while away.elapsed() < Duration::from_secs(30) {
        let (status, answer) = control.ask("POST", "/api/v1/sites", Some(&json!({"name": "away"}))).unwrap();
        refusals.push((status, answer["code"].clone(), answer["detail"].clone()));
        std::thread::sleep(Duration::from_secs(1));
    }
    postgres.run().unwrap();
    wait::until_true("control writes again", Duration::from_secs(30), || {
        Ok(control.ask("POST", "/api/v1/sites", Some(&json!({"name": "back"})))?.0 == 201)
    })
    .unwrap();

    assert!(refusals.len() > 3, "{refusals:?}");
    for (status, code, detail) in &refusals {
        assert_eq!((*status, code.as_str()), (503, Some("unavailable")), "{detail}");
        assert!(detail.as_str().unwrap().contains("cannot be reached"), "{detail}");
    }
    let (_, relays) = control.ask("GET", "/api/v1/relays", None).unwrap();
    assert_eq!(relays["items"][0]["state"], "online");
    let log = control.log();
    assert!(!log.contains("disconnected") && !log.contains("panicked"), "{log}");
}

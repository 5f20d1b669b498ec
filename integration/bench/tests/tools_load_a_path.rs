//! The tools that load a path do so between two namespaces, and the forwarder delays and loses what it is told to.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_bench::tools;
use integration_lab::{Host, Lab, Privilege, Process, privilege};
use serde_json::Value;

struct Street {
    _lab: Lab,
    near: Host,
    far: Host,
    middle: Host,
}

/// Two hosts with a forwarder's place between them; `None` where no namespaces can be made.
fn street() -> Option<Street> {
    if privilege() == Privilege::None {
        eprintln!("skipped: namespaces need root");
        return None;
    }
    let lab = Lab::unique().unwrap();
    let (near, middle, far) = (lab.host("near").unwrap(), lab.host("mid").unwrap(), lab.host("far").unwrap());
    lab.link((&near, "eth0"), (&middle, "left")).unwrap();
    lab.link((&middle, "right"), (&far, "eth0")).unwrap();
    near.address("eth0", &["192.0.2.1/24"]).unwrap();
    far.address("eth0", &["192.0.2.2/24"]).unwrap();
    Some(Street { _lab: lab, near, far, middle })
}

impl Street {
    fn forwarder(&self, delay_micros: u64, loss_per_million: u32) -> Process {
        let line = format!(
            "forward --between left right --delay-micros {delay_micros} --loss-per-million {loss_per_million}"
        );
        let forwarder = tools::launch(&self.middle, "forward", &line).unwrap().start().unwrap();
        tools::wait_ready(&forwarder).unwrap();
        forwarder
    }

    fn packets(&self, rate: u64) -> (u64, u64) {
        let sink = "udp-sink --listen 192.0.2.2:5300 --limit-millis 10000";
        let sink = tools::launch(&self.far, "sink", sink).unwrap().start().unwrap();
        tools::wait_ready(&sink).unwrap();
        let line = format!("udp-send --to 192.0.2.2:5300 --size 64 --rate {rate} --millis 500");
        let sent = tools::run_on(&self.near, &line, Duration::from_secs(10)).unwrap();
        sink.wait(Duration::from_secs(10)).unwrap();
        let received: Value = serde_json::from_str(&sink.stdout()).unwrap();
        assert_eq!(received["late"], 0, "{received}");
        (sent["sent"].as_u64().unwrap(), received["received"].as_u64().unwrap())
    }
}

#[test]
fn packets_and_echoes_pass_and_are_counted() {
    let Some(street) = street() else { return };
    let _forwarder = street.forwarder(2_000, 0);

    let line = "ping --to 192.0.2.2 --interval-micros 10000 --millis 300";
    let echoes = tools::run_on(&street.near, line, Duration::from_secs(10)).unwrap();
    let (sent, received) = street.packets(2_000);

    assert_eq!((&echoes["sent"], &echoes["received"]), (&30.into(), &30.into()));
    let p50 = echoes["p50_us"].as_f64().unwrap();
    assert!(p50 >= 4_000.0, "an echo takes the delay twice: {p50}");
    assert!(sent > 0 && sent == received, "{received} of {sent}");
}

#[test]
fn one_of_ten_is_lost_when_that_is_asked_for() {
    let Some(street) = street() else { return };
    let _forwarder = street.forwarder(0, 100_000);

    let (sent, received) = street.packets(2_000);

    // ARP passes the forwarder too, so the count is not exact.
    let expected = sent - sent / 10;
    assert!(received.abs_diff(expected) <= 2, "{received} of {sent}");
}

#[test]
fn a_stream_survives_the_loss_of_packets_out_of_super_packets() {
    let Some(street) = street() else { return };
    if integration_lab::which("iperf3").is_none() {
        eprintln!("skipped: no iperf3");
        return;
    }
    let _forwarder = street.forwarder(1_000, 1_000);
    let server = street.far.launch("iperf3", "iperf3").args(["-s", "-1", "--forceflush"]).start().unwrap();
    integration_lab::wait::until_true("iperf3 listens", Duration::from_secs(5), || {
        Ok(server.stdout().contains("listening"))
    })
    .unwrap();

    let done = street.near.run(&["iperf3", "-c", "192.0.2.2", "-n", "20M", "-J"]).unwrap();

    let end = &done.json().unwrap()["end"];
    // What is still under way when iperf3 ends does not count as received.
    let bytes = |which: &str| end[which]["bytes"].as_f64().unwrap();
    assert!(bytes("sum_received") > 0.8 * bytes("sum_sent"), "{end}");
    assert!(end["sum_sent"]["retransmits"].as_u64().unwrap() > 5, "losses were repaired: {end}");
}

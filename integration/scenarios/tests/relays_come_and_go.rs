//! Relays are restarted and killed under what flows through them: TCP connections go on.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use integration_lab::{Nat, Process, RouterPlan, Signal, program, wait};
use integration_scenarios::{
    Node, Plan, World,
    addresses::{WEB, WEB_NAME},
};
use serde_json::Value;

/// Two relays, and no way between the sites but through them.
fn fleet() -> (World, Node) {
    let nat = RouterPlan { ipv6: false, ..Nat::Symmetric.into() };
    let world = World::start(Plan { nat, ..Plan::default() }).unwrap();
    let second = world.start_second_relay().unwrap();
    let page = format!("http://{WEB_NAME}/");
    assert_eq!(world.curl(&["-o", "/dev/null", &page]).unwrap().code, 0);
    world.client().unwrap().wait_resource("wiki", "path", "relayed", Duration::from_secs(10)).unwrap();
    held_at_both(&world);
    (world, second)
}

/// The gateway holds an allocation at each relay, and the client has had time to prove a path over each.
fn held_at_both(world: &World) {
    wait::until_true("the gateway holds two allocations", Duration::from_secs(30), || {
        let status = world.gateway()?.status()?;
        let held =
            status["relays"].as_array().into_iter().flatten().filter(|relay| relay["allocated"] == true);
        if held.count() == 2 { Ok(true) } else { anyhow::bail!("{}", status["relays"]) }
    })
    .unwrap();
    std::thread::sleep(Duration::from_secs(2));
}

struct Stream {
    echoes: Process,
    download: Process,
    seconds: u64,
}

impl Stream {
    /// Echoes and one TCP connection, for so long.
    fn start(world: &World, seconds: u64) -> Self {
        let home = &world.ground.home;
        let words = format!("udp-ping --rate 200 --seconds {seconds} --to {WEB}:7");
        let echoes = home
            .launch("echoes", program("lab-tool").unwrap())
            .args(words.split_whitespace())
            .start()
            .unwrap();
        let download = home
            .launch("download", "curl")
            .args(["-sS", "--max-time", "120", "-o", "/dev/null", "-w", "%{size_download} %{num_connects}"])
            .arg(format!("http://{WEB_NAME}/paced/500000/{seconds}"))
            .start()
            .unwrap();
        Self { echoes, download, seconds }
    }

    /// The download is whole, over one connection; the longest time without an echo.
    fn end(self) -> f64 {
        let limit = Duration::from_secs(self.seconds + 30);
        self.echoes.wait(limit).unwrap();
        let report: Value = serde_json::from_str(&self.echoes.stdout()).unwrap();
        assert_eq!(self.download.wait(limit).unwrap(), 0, "{}", self.download.stderr());
        assert_eq!(self.download.stdout().trim(), format!("{} 1", 500_000 * self.seconds));
        println!("{report}");
        report["longest_gap_ms"].as_f64().unwrap()
    }
}

#[test]
fn two_relays_are_restarted_one_after_the_other_and_no_connection_is_lost() {
    let (mut world, second) = fleet();
    let stream = Stream::start(&world, 25);
    std::thread::sleep(Duration::from_secs(2));

    let first = world.relay.take().unwrap();
    assert!(first.process.signal(Signal::SIGTERM));
    assert_eq!(first.process.wait(Duration::from_secs(10)).unwrap(), 0);
    drop(first);
    world.start_relay().unwrap();
    held_at_both(&world);
    assert!(second.process.signal(Signal::SIGTERM));
    assert_eq!(second.process.wait(Duration::from_secs(10)).unwrap(), 0);
    drop(second);
    let _second = world.start_second_relay().unwrap();
    held_at_both(&world);

    let gap = stream.end();
    assert!(gap <= 500.0, "a gap of {gap} ms");
}

#[test]
fn a_relay_that_is_killed_costs_its_flows_three_seconds_at_most() {
    let (mut world, second) = fleet();
    let first = world.relay.take().unwrap();
    let stream = Stream::start(&world, 12);
    let relayed = |relay: &Node| relay.metric("postern_relay_packets_total", "").unwrap();
    let before = (relayed(&first), relayed(&second));
    std::thread::sleep(Duration::from_secs(3));

    let carries = relayed(&first) - before.0 > relayed(&second) - before.1;
    let killed = Instant::now();
    if carries { &first } else { &second }.process.kill().unwrap();

    let gap = stream.end();
    assert!(gap <= 3_000.0, "a gap of {gap} ms, {:?} after the kill", killed.elapsed());
}

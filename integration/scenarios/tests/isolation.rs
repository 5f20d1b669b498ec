//! Control messages never slow the packet path down: 20,000 of them a second hit a gateway that is carrying traffic,
//! and neither the traffic nor its echoes notice.

#![allow(clippy::unwrap_used)]

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use integration_lab::{Lab, Process, program, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{CONTROL, WEB, WEB_NAME},
};
use serde_json::Value;

const MESSAGES_A_SECOND: u64 = 20_000;
const SECONDS: u64 = 10;
/// What iperf3 is told to send, and what has to arrive of it.
const PACED: f64 = 300e6;
const ARRIVES: f64 = 0.95;
/// The largest growth of the gateway's memory.
const GROWTH: u64 = 64 * 1024 * 1024;
/// A p99 of a thousand echoes is made of ten of them: one hiccup of the machine decides it. So quiet and loud runs take
/// turns, all of them count, and the p99s are those of all echoes together.
const ROUNDS: usize = 3;
/// How much the flood may lengthen the p99.
const LONGER: f64 = 2.0;
const PROXY: &str = "203.0.113.11";
const PROXY_URL: &str = "https://203.0.113.11:8443";

struct Run {
    bits_per_second: f64,
    echoes: Value,
}

/// The key of control's own certificate: the proxy shows the same certificate, so that the pin holds.
fn control_key(world: &World) -> PathBuf {
    let files =
        fs::read_dir(&world.control().unwrap().state_dir).unwrap().flatten().map(|entry| entry.path());
    let mut keys =
        files.filter(|path| fs::read_to_string(path).is_ok_and(|text| text.contains("PRIVATE KEY")));
    keys.next().unwrap()
}

fn start_proxy(world: &World, order: &str) -> Process {
    let internet = &world.ground.internet;
    internet.address("wan", &[&format!("{PROXY}/24")]).unwrap();
    let certificate = world.control().unwrap().state_dir.join("certificate.pem");
    let proxy = internet
        .launch("control-proxy", "nice")
        // Control would be another machine: here it gets the time that nobody else wants.
        .args([
            "-n",
            "10",
            &program("lab-tool").unwrap().display().to_string(),
            "control-proxy",
            "--order",
            order,
        ])
        .args(["--listen", &format!("{PROXY}:8443"), "--upstream", &format!("{CONTROL}:8443")])
        .args(["--cert".as_ref(), certificate.as_os_str(), "--key".as_ref(), control_key(world).as_os_str()])
        .start()
        .unwrap();
    wait::until_true("the proxy listens", Duration::from_secs(5), || Ok(proxy.stdout().contains("ready")))
        .unwrap();
    proxy
}

/// Paced traffic and echoes for [`SECONDS`]; `meanwhile` begins when both run.
fn traffic(world: &World, meanwhile: impl FnOnce()) -> Run {
    let seconds = SECONDS.to_string();
    let iperf = ["iperf3", "-c", WEB, "-b", "300M", "-t", &seconds, "--json"];
    let home = &world.ground.home;
    let iperf = home.launch("iperf3", iperf[0]).args(&iperf[1..]).start().unwrap();
    let words = format!("udp-ping --to {WEB}:7 --rate 100 --seconds {SECONDS} --each");
    let echoes =
        home.launch("echoes", program("lab-tool").unwrap()).args(words.split_whitespace()).start().unwrap();
    meanwhile();

    let limit = Duration::from_secs(SECONDS + 20);
    assert_eq!(iperf.wait(limit).unwrap(), 0, "{}{}", iperf.stderr(), iperf.stdout());
    echoes.wait(limit).unwrap();
    // Both write behind what the run before wrote.
    let report = last_object(&iperf.stdout());
    Run {
        bits_per_second: report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap(),
        echoes: last_object(&echoes.stdout()),
    }
}

fn last_object(text: &str) -> Value {
    serde_json::Deserializer::from_str(text).into_iter::<Value>().last().unwrap().unwrap()
}

/// Control messages that each kind of actor on the gateway has seen: handled, replaced by a newer one, or dropped by a
/// full mailbox's rule.
fn control_counts(world: &World) -> BTreeMap<String, [u64; 3]> {
    let actors = world.gateway().unwrap().actors().unwrap();
    let mut counts = BTreeMap::new();
    for row in actors["actors"].as_array().unwrap() {
        let entry: &mut [u64; 3] = counts.entry(row["kind"].as_str().unwrap().to_owned()).or_default();
        for (sum, name) in entry.iter_mut().zip(["handled", "coalesced", "dropped"]) {
            *sum += row[name].as_u64().unwrap_or(0);
        }
    }
    counts
}

fn seen(counts: &BTreeMap<String, [u64; 3]>, kind: &str) -> u64 {
    counts.get(kind).map_or(0, |counts| counts.iter().sum())
}

#[test]
fn a_flood_of_control_messages_leaves_packets_alone() {
    let plan = Plan { gateway_control_url: Some(PROXY_URL), ..Plan::default() };
    let mut world = World::lay_out(Lab::unique().unwrap(), plan).unwrap();
    world.start_control().unwrap();
    world.configure().unwrap();
    world.start_relay().unwrap();
    let order = world.ground.internet.dir().join("flood").display().to_string();
    let proxy = start_proxy(&world, &order);
    world.start_gateway().unwrap();
    world.start_client().unwrap();
    world.wait_connected().unwrap();
    let _server = world.ground.web.launch("iperf3", "iperf3").args(["-s", "--forceflush"]).start().unwrap();
    for url in [format!("http://{WEB}/"), format!("http://{WEB_NAME}/")] {
        assert_eq!(world.curl(&["-o", "/dev/null", &url]).unwrap().code, 0);
    }
    world.client().unwrap().wait_resource("office-lan", "path", "direct", Duration::from_secs(30)).unwrap();
    let known = || Ok(proxy.stdout().contains("device known"));
    wait::until_true("the proxy knows a device", Duration::from_secs(5), known).unwrap();

    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        let (without, with) = quiet_and_loud(&world, &proxy, &order, round);
        quiet.extend(without);
        loud.extend(with);
    }

    let (quiet, loud) = (p99(quiet), p99(loud));
    println!("p99 of all echoes: quiet {quiet:.2} ms, loud {loud:.2} ms");
    assert!(
        loud <= LONGER * quiet,
        "the echo's p99 is {loud:.2} ms under the flood and {quiet:.2} ms without"
    );
}

fn p99(mut echoes: Vec<f64>) -> f64 {
    echoes.sort_by(f64::total_cmp);
    echoes[echoes.len() * 99 / 100]
}

/// One run without and one with the flood: the round trips of both. All else has to hold in each.
fn quiet_and_loud(world: &World, proxy: &Process, order: &str, round: usize) -> (Vec<f64>, Vec<f64>) {
    let quiet = traffic(world, || {});
    let memory = world.gateway().unwrap().process.resident_bytes().unwrap();
    let before = control_counts(world);
    let loud = traffic(world, || fs::write(order, format!("{MESSAGES_A_SECOND} {SECONDS}")).unwrap());
    let flooded = || Ok(proxy.stdout().matches("flooded").count() == round);
    wait::until_true("the flood is over", Duration::from_secs(5), flooded).unwrap();
    let growth = world.gateway().unwrap().process.resident_bytes().unwrap().saturating_sub(memory);

    println!("quiet: {:.0} Mbit/s, p99 {} ms", quiet.bits_per_second / 1e6, quiet.echoes["p99_ms"]);
    let (rate, p99) = (loud.bits_per_second / 1e6, &loud.echoes["p99_ms"]);
    println!("loud: {rate:.0} Mbit/s, p99 {p99} ms, memory +{} KiB", growth / 1024);
    println!("{}", proxy.stdout());
    assert!(quiet.bits_per_second >= ARRIVES * PACED, "this machine is too slow for the test itself");
    assert!(loud.bits_per_second >= ARRIVES * PACED, "{:.1} Mbit/s", loud.bits_per_second / 1e6);
    assert_eq!(loud.echoes["missing"], 0, "{:?}", loud.echoes["first_missing"]);
    assert!(growth <= GROWTH, "memory grew by {growth} bytes");

    let sent = MESSAGES_A_SECOND * SECONDS;
    wait::until_true("every message is applied or coalesced", Duration::from_secs(10), || {
        let after = control_counts(world);
        let arrived = seen(&after, "Peers") - seen(&before, "Peers");
        anyhow::ensure!(arrived >= sent, "{arrived} of {sent} at Peers: {before:?} {after:?}");
        Ok(true)
    })
    .unwrap();
    let each = |run: &Run| -> Vec<f64> { serde_json::from_value(run.echoes["each_ms"].clone()).unwrap() };
    (each(&quiet), each(&loud))
}

//! What passes through the tunnel is recorded: who, what, how much, on which path; also what passed while control was away.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::wait;
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};
use serde_json::Value;

const MIB: u64 = 1024 * 1024;
/// A closed TCP connection is over when nothing more came for half a minute.
const CLOSED: Duration = Duration::from_secs(60);

fn flows(world: &World, which: &str) -> Vec<Value> {
    let list = world.admin().unwrap().say(&format!("flows list {which}")).unwrap();
    list["items"].as_array().unwrap().clone()
}

fn download(world: &World, host: &str, bytes: u64) {
    let url = format!("http://{host}/bytes/{bytes}");
    let done = world.curl(&["-o", "/dev/null", &url]).unwrap();
    assert_eq!(done.code, 0, "{}", done.stderr);
}

/// Payload, and at most a tenth of it for the headers of IP and TCP, and the request.
fn carries(flow: &Value, payload: u64) {
    let bytes = flow["bytes_out"].as_u64().unwrap();
    assert!((payload..payload + payload / 10).contains(&bytes), "{flow}");
}

#[test]
fn a_download_is_on_record_also_when_control_was_away_meanwhile() {
    let mut world = World::start(Plan::default()).unwrap();
    download(&world, WEB_NAME, MIB);
    download(&world, WEB, 4096);
    let control = world.control.take().unwrap();
    control.process.kill().unwrap();
    drop(control);
    download(&world, WEB_NAME, 2 * MIB);

    let waiting = || Ok(world.gateway()?.status()?["flow_records"]["waiting"].as_u64() >= Some(3));
    wait::until_true("the gateway keeps three records", CLOSED, waiting).unwrap();
    world.start_control().unwrap();
    let stored = || Ok(flows(&world, "--principal laptop --resource wiki").len() >= 2);
    wait::until_true("control has the records", Duration::from_secs(30), stored).unwrap();

    let wiki = flows(&world, "--principal laptop --resource wiki");
    assert_eq!(wiki.len(), 2, "{wiki:?}");
    let (first, second) = (&wiki[0], &wiki[1]);
    carries(first, MIB);
    carries(second, 2 * MIB);
    for flow in &wiki {
        assert_eq!((&flow["protocol"], &flow["end"]), (&"tcp".into(), &"closed".into()), "{flow}");
        assert_eq!(flow["name"], WEB_NAME, "{flow}");
        assert_eq!(flow["policy"]["name"], "engineering-reaches-wiki", "{flow}");
        assert!(["direct", "relayed"].contains(&flow["path"].as_str().unwrap()), "{flow}");
        assert!(flow["started_at"].as_str() < flow["ended_at"].as_str(), "{flow}");
    }
    assert!(first["started_at"].as_str() < second["started_at"].as_str());
    let lan = flows(&world, "--resource office-lan");
    assert_eq!((lan.len(), &lan[0]["destination"]), (1, &format!("{WEB}:80").into()), "{lan:?}");
    assert_eq!(flows(&world, "--resource wiki --until 1h").len(), 0);
    let empty = || Ok(world.gateway()?.status()?["flow_records"]["waiting"] == 0);
    wait::until_true("nothing waits any more", Duration::from_secs(10), empty).unwrap();
    let export = world.admin().unwrap().postern(&["flows", "export"]).unwrap().ok().unwrap();
    assert_eq!(export.stdout.lines().count(), 3);
    assert!(export.stdout.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
}

#[test]
fn a_revoked_flow_is_on_record_at_once_and_says_so() {
    let world = World::start(Plan::default()).unwrap();
    let page = format!("http://{WEB_NAME}/paced/500000/60");
    let words = ["-sS", "-o", "/dev/null", "-w", "%{size_download}", &page];
    let download = world.ground.home.launch("cut-download", "curl").args(words).start().unwrap();
    wait::until_true("the grant is there", Duration::from_secs(10), || {
        Ok(world.client()?.resource("wiki")?["state"] == "granted")
    })
    .unwrap();

    world.admin().unwrap().delete_policy("engineering-reaches-wiki").unwrap();
    download.wait(Duration::from_secs(10)).unwrap();
    let there = || Ok(!flows(&world, "--resource wiki").is_empty());
    wait::until_true("the flow is on record", Duration::from_secs(10), there).unwrap();

    let flow = flows(&world, "--resource wiki").remove(0);
    assert_eq!((&flow["end"], &flow["principal"]["name"]), (&"revoked".into(), &"laptop".into()), "{flow}");
    assert_eq!(
        flow["policy"]["name"], "engineering-reaches-wiki",
        "the policy is gone, its name is not: {flow}"
    );
    let received: u64 = download.stdout().trim().parse().unwrap();
    assert!(flow["bytes_out"].as_u64().unwrap() >= received, "{received} received, {flow}");
}

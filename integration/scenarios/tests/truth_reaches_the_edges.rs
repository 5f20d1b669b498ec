//! Whatever takes access away ends what flows within a second: a rule edited, a group left, a deny, a filter narrowed, a
//! device that is no longer verified. `POSTERN_EDGE_TRIALS` trials of each; one in ordinary runs.

#![allow(clippy::unwrap_used)]

use std::time::{Duration, Instant};

use integration_lab::{Meter, Watch, program, wait};
use integration_scenarios::{Admin, Plan, World, addresses::WEB};
use serde_json::{Value, json};

/// The promise: live flows end within a second of the answer.
const LIMIT: Duration = Duration::from_secs(1);
/// The counter has stood still when it did so for this long.
const SILENCE: Duration = Duration::from_millis(1500);

const RULE: &str = "policies/engineering-reaches-office-lan";

/// A change: what takes access away, and what gives it back.
struct Change {
    what: &'static str,
    take: (&'static str, String, Option<Value>),
    give: (&'static str, String, Option<Value>),
}

fn changes(device: &str) -> Vec<Change> {
    let patch = |path: &str, body: Value| ("PATCH", path.to_owned(), Some(body));
    let device = format!("devices/{device}");
    let deny =
        json!({"name": "nobody", "effect": "deny", "groups": ["everyone"], "resources": ["office-lan"]});
    let back = json!({"principal": "laptop"});
    vec![
        Change {
            what: "a rule is disabled",
            take: patch(RULE, json!({"enabled": false})),
            give: patch(RULE, json!({"enabled": true})),
        },
        Change {
            what: "a rule is narrowed to another place",
            take: patch(RULE, json!({"conditions": {"source_cidrs": ["192.0.2.0/32"]}})),
            give: patch(RULE, json!({"conditions": {}})),
        },
        Change {
            what: "a group is left",
            take: ("DELETE", "groups/engineering/members/laptop".into(), None),
            give: ("POST", "groups/engineering/members".into(), Some(back)),
        },
        Change {
            what: "a deny is made",
            take: ("POST", "policies".into(), Some(deny)),
            give: ("DELETE", "policies/nobody".into(), None),
        },
        Change {
            what: "a filter is narrowed",
            take: patch("resources/office-lan", json!({"filters": ["tcp:80"]})),
            give: patch("resources/office-lan", json!({"filters": []})),
        },
        Change {
            what: "a device is no longer verified",
            take: patch(&device, json!({"verified": false})),
            give: patch(&device, json!({"verified": true})),
        },
    ]
}

fn call(admin: &Admin, (method, path, body): &(&str, String, Option<Value>)) {
    let (status, answer) = admin.api(method, path, body.as_ref()).unwrap();
    assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
}

fn flows(watch: &Watch) {
    let before = watch.tally().bytes;
    wait::until_true("the echoes flow", Duration::from_secs(20), || Ok(watch.tally().bytes > before + 2_000))
        .unwrap();
}

#[test]
fn each_kind_of_change_ends_what_flows_within_a_second() {
    let trials: usize = std::env::var("POSTERN_EDGE_TRIALS").map_or(1, |text| text.parse().unwrap());
    let world = World::start(Plan::default()).unwrap();
    let admin = world.admin().unwrap();
    let devices = admin.say("device list").unwrap();
    let device = devices["items"][0]["name"].as_str().unwrap().to_owned();
    call(admin, &("PATCH", format!("devices/{device}"), Some(json!({"verified": true}))));
    let watch = Meter::payload(&world.ground.web, "eth0").unwrap().watch();
    let words = format!("udp-ping --to {WEB}:7 --rate 100 --seconds {}", 60 + trials * 60);
    let echoes = world.ground.home.launch("edge-echoes", program("lab-tool").unwrap());
    let _echoes = echoes.args(words.split_whitespace()).start().unwrap();
    flows(&watch);

    let mut took = Vec::new();
    for _ in 0..trials {
        for change in changes(&device) {
            let verified = change.what == "a device is no longer verified";
            if verified {
                let asks = json!({"conditions": {"device_verified": true}});
                call(admin, &("PATCH", RULE.into(), Some(asks)));
                flows(&watch);
            }
            call(admin, &change.take);
            let answered = Instant::now();
            wait::until_true(change.what, Duration::from_secs(15), || {
                Ok(watch.last_moved().is_some_and(|at| at.elapsed() > SILENCE))
            })
            .unwrap();
            let last = watch.last_moved().unwrap().saturating_duration_since(answered);
            eprintln!("{}: {} ms", change.what, last.as_millis());
            took.push((last, change.what));

            call(admin, &change.give);
            if verified {
                call(admin, &("PATCH", RULE.into(), Some(json!({"conditions": {}}))));
            }
            flows(&watch);
        }
    }

    took.sort();
    let p99 = took[(took.len() * 99).div_ceil(100) - 1];
    assert!(p99.0 <= LIMIT, "{p99:?}");
}

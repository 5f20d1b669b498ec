//! A right that is taken away ends what was built on it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use integration_lab::{Meter, wait};
use serde_json::Value;

use super::{Figures, figures, ms};
use crate::{World, addresses::WEB_NAME};

/// The promise: live flows end within a second of the answer.
const LIMIT: Duration = Duration::from_secs(1);
/// The counter has stood still when it did so for this long.
const SILENCE: Duration = Duration::from_secs(2);

/// The policy removed under a download: time from the API's answer to the last payload byte at the resource.
///
/// The policy is there again at the end.
pub fn revoked(world: &mut World) -> Result<Figures> {
    let outcome = revoke(world);
    let policies = world.admin()?.say("policy list")?;
    let named = |policy: &Value| policy["name"] == "engineering-reaches-wiki";
    if !policies["items"].as_array().is_some_and(|items| items.iter().any(named)) {
        world.allow("wiki")?;
    }
    let figures = outcome?;

    let page = format!("http://{WEB_NAME}/");
    wait::until_true("the resource is served again", Duration::from_secs(15), || {
        let done = world.curl(&["--max-time", "3", "-o", "/dev/null", &page])?;
        if done.code == 0 { Ok(true) } else { bail!("curl ended {}: {}", done.code, done.stderr.trim()) }
    })?;
    Ok(figures)
}

fn revoke(world: &World) -> Result<Figures> {
    let watch = Meter::payload(&world.ground.web, "eth0")?.watch();
    let download = world
        .ground
        .home
        .launch("revoked-download", "curl")
        .args(["-sS", "--max-time", "60", "-o", "/dev/null", &format!("http://{WEB_NAME}/paced/2000000/60")])
        .start()?;
    let flowing = || Ok(watch.tally().bytes > 1_000_000);
    wait::until_true("the download flows", Duration::from_secs(15), flowing)?;

    let asked = Instant::now();
    world.admin()?.delete_policy("engineering-reaches-wiki")?;
    let answered = Instant::now();
    wait::until_true("the flow ends", Duration::from_secs(15), || {
        Ok(watch.last_moved().is_some_and(|at| at.elapsed() > SILENCE))
    })?;
    let last = watch.last_moved().context("nothing was counted")?;
    let code = download.wait(Duration::from_secs(3)).context("curl hangs on its connection")?;
    let resource = world.client()?.resource("wiki");

    ensure!(code != 0, "the download ended as if it were whole");
    let after_answer = last.saturating_duration_since(answered);
    ensure!(after_answer <= LIMIT, "payload flowed for {after_answer:?} after the answer");
    let state = resource.map_or(Value::from("unknown"), |resource| resource["state"].clone());
    ensure!(state != "granted", "status still says granted");
    Ok(figures([
        ("last_byte_after_answer_ms", ms(after_answer)),
        ("last_byte_after_request_ms", ms(last.saturating_duration_since(asked))),
        ("curl_exit", Value::from(code)),
    ]))
}

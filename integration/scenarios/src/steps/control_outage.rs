//! The data plane outlives the control plane.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_lab::{program, wait};
use serde_json::Value;

use super::{Figures, fetched, figures, ms, none_missing};
use crate::{
    World,
    addresses::{WEB, WEB_NAME},
};

/// Echoes run this long before control dies…
const BEFORE: Duration = Duration::from_secs(5);
/// …control stays dead this long…
const OUTAGE: Duration = Duration::from_secs(3);
/// …and echoes go on this long after its death.
const AFTER: Duration = Duration::from_secs(10);
/// How long nodes may take to be back: their back-off has jitter.
const BACK: Duration = Duration::from_secs(30);

/// Control killed with -9 and started again; of numbered echoes none is missing, and a download goes on.
pub fn control_outage(world: &mut World) -> Result<Figures> {
    fetched(&world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")])?)?;
    let home = world.ground.home.clone();
    let total = BEFORE + AFTER;
    let seconds = total.as_secs();
    let echoes = home
        .launch("echoes", program("lab-tool")?)
        .args(["udp-ping", "--rate", "200", "--seconds", &seconds.to_string(), "--to", &format!("{WEB}:7")])
        .start()?;
    let started = Instant::now();
    let download = home
        .launch("download", "curl")
        .args(["-sS", "--max-time", "60", "-o", "download", "-w", "%{size_download}"])
        .arg(format!("http://{WEB_NAME}/paced/500000/{seconds}"))
        .start()?;

    at(started + BEFORE);
    let control = world.control.take().context("control does not run")?;
    control.process.kill()?;
    let killed = Instant::now();
    drop(control);
    let noticed = world.client()?.wait_control_not_connected(OUTAGE);
    at(killed + OUTAGE);
    world.start_control()?;
    let served = killed.elapsed();

    wait::until_true("all nodes are back", BACK, || world.all_online())?;
    world.client()?.wait_control("connected", BACK)?;
    let back = killed.elapsed();

    let limit = total + Duration::from_secs(10);
    echoes.wait(limit)?;
    let report: Value = serde_json::from_str(&echoes.stdout())?;
    none_missing(&report)?;
    ensure!(download.wait(limit)? == 0, "the download ended: {}", download.stderr());
    let expected = 500_000 * seconds;
    ensure!(download.stdout().trim() == expected.to_string(), "a download of {} bytes", download.stdout());
    Ok(figures([
        ("echoes", report["sent"].clone()),
        ("missing", report["missing"].clone()),
        ("longest_gap_ms", report["longest_gap_ms"].clone()),
        ("noticed_ms", noticed.map_or(Value::Null, ms)),
        ("control_served_again_ms", ms(served)),
        ("all_back_ms", ms(back)),
    ]))
}

/// Rests until a point of the plan: what is measured is the schedule itself.
fn at(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}

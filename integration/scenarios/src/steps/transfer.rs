//! Bytes arrive as they were sent, in both directions and both families.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Figures, fetched, none_missing};
use crate::{
    World,
    addresses::{WEB, WEB_NAME, WEB6},
};

const SIZE: u64 = 10 * 1024 * 1024;

/// 10 MiB each way with the checksum compared, IPv4 and IPv6; ping; UDP echo.
pub fn transfer(world: &mut World) -> Result<Figures> {
    let mut figures = Figures::new();
    for family in ["4", "6"] {
        let (down, up) = both_ways(world, family)?;
        figures.insert(format!("down_v{family}_mbit_s"), megabits(down));
        figures.insert(format!("up_v{family}_mbit_s"), megabits(up));
    }
    for (family, address) in [("4", WEB), ("6", WEB6)] {
        let ping = ["ping", &format!("-{family}"), "-c", "5", "-i", "0.2", "-W", "2", "-q", address];
        let said = world.ground.home.run(&ping)?.stdout;
        ensure!(said.contains(" 5 received"), "pings are missing: {said}");
        let host = if family == "6" { format!("[{address}]") } else { address.to_owned() };
        let report = world.tool(&format!("udp-ping --to {host}:7 --rate 200 --seconds 1 --size 512"))?;
        none_missing(&report)?;
        figures.insert(format!("udp_echo_v{family}_p50_ms"), report["p50_ms"].clone());
    }
    Ok(figures)
}

/// A download and an upload of the same bytes, by name; the time of each.
fn both_ways(world: &World, family: &str) -> Result<(Duration, Duration)> {
    let curl = |words: &[&str]| -> Result<_> {
        let done = world.curl(&[&["--max-time", "60", &format!("-{family}")], words].concat())?;
        fetched(&done)?;
        Ok(done)
    };
    let down = curl(&["-o", "body", &format!("http://{WEB_NAME}/bytes/{SIZE}")])?;
    let there = curl(&[&format!("http://{WEB_NAME}/sha256/{SIZE}")])?.stdout;
    let here = world.ground.home.run(&["sha256sum", "body"])?.stdout;
    let here = here.split_whitespace().next().context("sha256sum printed nothing")?.to_owned();
    ensure!(here == there.trim(), "IPv{family} download: {here} here, {there} there");
    let up = curl(&["-T", "body", &format!("http://{WEB_NAME}/upload")])?;
    let report = up.json()?;
    ensure!(report["sha256"] == here.as_str() && report["bytes"] == SIZE, "IPv{family} upload: {report}");
    Ok((down.took, up.took))
}

fn megabits(took: Duration) -> Value {
    Value::from((SIZE as f64 * 8.0 / took.as_secs_f64() / 100_000.0).round() / 10.0)
}

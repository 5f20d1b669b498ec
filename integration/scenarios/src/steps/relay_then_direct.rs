//! First over the relay, then direct.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use integration_lab::{Meter, wait};
use serde_json::Value;

use super::{Figures, fetched, figures, ms, none_missing};
use crate::{
    World,
    addresses::{RELAY, RELAY6, WEB, WEB_NAME},
};

/// How long the relay's counter must stand still while traffic flows.
const STILL: Duration = Duration::from_secs(3);
/// How long the way to the direct path may take.
const MOVE: Duration = Duration::from_secs(30);

/// Both by name and by network; direct is proven by the relay's packet counter standing still under traffic.
pub fn relay_then_direct(world: &mut World) -> Result<Figures> {
    let client = world.client()?;
    let relayed = relay_meter(world)?;
    let watched = Mutex::new(Vec::new());
    let done = Mutex::new(false);
    let started = Instant::now();

    let (first, moved) = std::thread::scope(|scope| -> Result<_> {
        scope.spawn(|| {
            while !*lock(&done) {
                if let Ok(resource) = client.resource("wiki") {
                    lock(&watched).push((started.elapsed(), resource));
                }
            }
        });
        let outcome = (|| {
            let page = format!("http://{WEB_NAME}/");
            let first = world.curl(&["-w", "%{time_starttransfer}", "-o", "/dev/null", &page])?;
            fetched(&first)?;
            let over_the_relay = relayed.read()?;
            ensure!(over_the_relay.packets > 0, "the first byte came, and no packet passed the relay");
            client.wait_resource("wiki", "path", "direct", MOVE)?;
            Ok((first, started.elapsed()))
        })();
        *lock(&done) = true;
        outcome
    })?;
    let seen = watched.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner());
    let rtt_on = |path: &str| {
        let on_path = seen.iter().filter(|(_, resource)| resource["path"] == path);
        on_path.filter_map(|(_, resource)| resource["rtt_ms"].as_f64()).next_back()
    };
    let relay_rtt = rtt_on("relayed");
    let moved_at =
        seen.iter().find(|(_, resource)| resource["path"] == "direct").map_or(moved, |(at, _)| *at);

    let lan = world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")])?;
    fetched(&lan)?;
    let still = stands_still(world, &relayed)?;
    let resource = client.resource("wiki")?;
    let direct_rtt = resource["rtt_ms"].as_f64().context("a direct path without a round trip")?;
    Ok(figures([
        ("first_byte_ms", Value::from(first.stdout.trim().parse::<f64>().unwrap_or(f64::NAN) * 1000.0)),
        ("relayed_rtt_ms", relay_rtt.map_or(Value::Null, Value::from)),
        ("direct_rtt_ms", Value::from(direct_rtt)),
        ("moved_after_ms", ms(moved_at)),
        ("relay_still_ms", ms(still)),
    ]))
}

/// Counts what the relay relays, where it enters or leaves the internet's switch: everything at its relayed addresses.
pub fn relay_meter(world: &World) -> Result<Meter> {
    let ports = "udp dport 49152-65535";
    let from_ports = "udp sport 49152-65535";
    let towards = format!("ip daddr {RELAY} {ports} counter name passed\n  ip6 daddr {RELAY6} {ports}");
    let away =
        format!("ip saddr {RELAY} {from_ports} counter name passed\n  ip6 saddr {RELAY6} {from_ports}");
    Meter::matching(
        &world.ground.internet,
        "relayed",
        "wan",
        &format!("{towards} counter name passed\n  {away}"),
    )
}

/// Echoes go through the tunnel until the relay's counter has stood still for [`STILL`] while they did.
pub fn stands_still(world: &World, relayed: &Meter) -> Result<Duration> {
    let rounds = || -> Result<Option<Duration>> {
        let before = relayed.read()?;
        let started = Instant::now();
        let ping = format!("udp-ping --to {WEB}:7 --rate 100 --seconds {}", STILL.as_secs());
        none_missing(&world.tool(&ping)?)?;
        let after = relayed.read()?;
        ensure!(before == after, "{} packets passed the relay meanwhile", after.packets - before.packets);
        Ok(Some(started.elapsed()))
    };
    let (still, _) = wait::until("the relay's counter stands still under traffic", MOVE, rounds)?;
    Ok(still)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

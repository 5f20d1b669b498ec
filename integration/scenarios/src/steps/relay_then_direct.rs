//! First over the relay, then direct.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use integration_lab::{Meter, wait};
use serde_json::Value;

use super::{Figures, fetched, figures, ms, none_missing};
use crate::{
    World,
    addresses::{HOME_OUTSIDE, OFFICE_OUTSIDE, RELAY, RELAY6, WEB, WEB_NAME},
};

/// How long the relay's counter must stand still while traffic flows.
const STILL: Duration = Duration::from_secs(3);
/// How long the way to the direct path may take.
const MOVE: Duration = Duration::from_secs(30);

/// Both by name and by network; direct is proven by the relay's packet counter standing still under traffic.
///
/// In a lab the direct path is proven within milliseconds. So that the relay can be seen at work, the routers hold back
/// what the sites send each other until the first page has come and the relay's round trip is known.
pub fn relay_then_direct(world: &mut World) -> Result<Figures> {
    let client = world.client()?;
    let relayed = relay_meter(world)?;
    hold_back(world, true)?;
    let over_the_relay = first_byte(world, &relayed);
    hold_back(world, false)?;
    let free = Instant::now();
    let (first_byte, relayed_rtt) = over_the_relay?;

    client.wait_resource("wiki", "path", "direct", MOVE)?;
    let moved = free.elapsed();
    fetched(&world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")])?)?;
    let still = stands_still(world, &relayed)?;
    let resource = client.resource("wiki")?;
    let direct_rtt = resource["rtt_ms"].as_f64().context("a direct path without a round trip")?;
    Ok(figures([
        ("first_byte_ms", first_byte),
        ("relayed_rtt_ms", Value::from(relayed_rtt)),
        ("direct_rtt_ms", Value::from(direct_rtt)),
        ("moved_after_ms", ms(moved)),
        ("relay_still_ms", ms(still)),
    ]))
}

/// The first page, over the relay: how long its first byte took, and the round trip that status says.
fn first_byte(world: &World, relayed: &Meter) -> Result<(Value, f64)> {
    let client = world.client()?;
    let first =
        world.curl(&["-w", "%{time_starttransfer}", "-o", "/dev/null", &format!("http://{WEB_NAME}/")])?;
    fetched(&first)?;
    ensure!(relayed.read()?.packets > 0, "the first byte came, and no packet passed the relay");
    let (rtt, _) = wait::until("status says relayed, and the round trip", Duration::from_secs(5), || {
        let resource = client.resource("wiki")?;
        ensure!(resource["path"] == "relayed", "{resource}");
        Ok(resource["rtt_ms"].as_f64())
    })?;
    let seconds: f64 = first.stdout.trim().parse()?;
    Ok((ms(Duration::from_secs_f64(seconds)), rtt))
}

/// Has both routers drop, or pass again, what the two sites send each other directly.
fn hold_back(world: &World, on: bool) -> Result<()> {
    for router in [&world.ground.office_nat, &world.ground.home_nat] {
        let rules = if on {
            format!(
                "  ip daddr {{ {OFFICE_OUTSIDE}, {HOME_OUTSIDE} }} drop\n  \
                 ip6 saddr 2001:db8:7::/64 ip6 daddr 2001:db8:1::/64 drop\n  \
                 ip6 saddr 2001:db8:1::/64 ip6 daddr 2001:db8:7::/64 drop\n"
            )
        } else {
            String::new()
        };
        router.host().nft(&format!(
            "table inet lab_hold\ndelete table inet lab_hold\ntable inet lab_hold {{\n chain forward {{\n  \
             type filter hook forward priority filter - 3\n{rules} }}\n}}\n"
        ))?;
    }
    Ok(())
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

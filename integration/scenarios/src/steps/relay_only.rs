//! No direct path exists: the relay carries everything.

use std::time::Duration;

use anyhow::{Result, ensure};
use integration_lab::{Nat, RouterPlan};
use serde_json::Value;

use super::{Figures, fetched, figures, ms, none_missing, relay_then_direct::relay_meter};
use crate::{
    World,
    addresses::{WEB, WEB_NAME},
};

/// How long the fall back to the relay may take.
const FALL_BACK: Duration = Duration::from_secs(30);

/// 200 echoes there and back at the least: WireGuard adds 32 bytes, IPv4 and UDP 28, and the number of an echo takes 8.
/// Bytes, because what is sent in one call passes the meter as one packet.
const ECHO_BYTES: u64 = 400 * (32 + 28 + 8);

/// Both NATs symmetric, no IPv6 between the sites: the same over the relay, and status says so.
///
/// It ends with the NATs as the plan of the world has them.
pub fn relay_only(world: &mut World) -> Result<Figures> {
    let symmetric = RouterPlan { ipv6: false, ..Nat::Symmetric.into() };
    world.ground.office_nat.set(symmetric)?;
    world.ground.home_nat.set(symmetric)?;
    let outcome = over_the_relay(world);
    world.ground.office_nat.set(world.plan.nat)?;
    world.ground.home_nat.set(world.plan.nat)?;
    let mut figures = outcome?;

    if world.plan.nat.nat == Nat::PortRestricted {
        let back = world.client()?.wait_resource("wiki", "path", "direct", Duration::from_secs(60))?;
        figures.insert("direct_again_ms".to_owned(), ms(back));
    }
    Ok(figures)
}

fn over_the_relay(world: &World) -> Result<Figures> {
    let client = world.client()?;
    let relayed = relay_meter(world)?;
    let page = format!("http://{WEB_NAME}/");

    let (fetch, fell_back) =
        integration_lab::wait::until("the page comes over the relay", FALL_BACK, || {
            let started = std::time::Instant::now();
            let done = world.curl(&["--connect-timeout", "2", "-o", "/dev/null", &page])?;
            fetched(&done)?;
            client.wait_resource("wiki", "path", "relayed", Duration::from_millis(500))?;
            Ok(Some(started.elapsed()))
        })?;
    fetched(&world.curl(&["-o", "/dev/null", &format!("http://{WEB}/")])?)?;
    let before = relayed.read()?;
    none_missing(&world.tool(&format!("udp-ping --to {WEB}:7 --rate 100 --seconds 2"))?)?;
    let after = relayed.read()?;
    let (carried, bytes) = (after.packets - before.packets, after.bytes - before.bytes);
    ensure!(bytes >= ECHO_BYTES, "200 echoes take {ECHO_BYTES} bytes, and the relay carried {bytes}");
    let resource = client.resource("wiki")?;
    ensure!(resource["path"] == "relayed", "status says {resource}");
    Ok(figures([
        ("fell_back_ms", ms(fell_back)),
        ("fetch_ms", ms(fetch)),
        ("relayed_rtt_ms", resource["rtt_ms"].clone()),
        ("relay_packets", Value::from(carried)),
    ]))
}

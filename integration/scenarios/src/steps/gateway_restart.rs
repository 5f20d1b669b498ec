//! A gateway that dies comes back, and so do those it served.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use integration_lab::wait;
use serde_json::Value;

use super::{Figures, fetched, figures, ms};
use crate::{World, addresses::WEB_NAME};

/// The promise.
const LIMIT: Duration = Duration::from_secs(3);

/// Gateway killed with -9 under its supervisor: how long until the client is served again.
pub fn gateway_restart(world: &mut World) -> Result<Figures> {
    let page = format!("http://{WEB_NAME}/");
    let fetch = || world.curl(&["--max-time", "1", "-o", "/dev/null", &page]);
    fetched(&fetch()?)?;
    let gateway = world.gateway()?;
    let starts = gateway.process.starts();

    gateway.process.kill()?;
    let killed = Instant::now();
    wait::until_true("the supervisor starts it again", Duration::from_secs(5), || {
        Ok(gateway.process.starts() > starts)
    })?;
    let restarted = killed.elapsed();
    wait::until_true("the client is served again", Duration::from_secs(30), || {
        let done = fetch()?;
        if done.code == 0 { Ok(true) } else { bail!("curl ended {}: {}", done.code, done.stderr.trim()) }
    })?;
    let served = killed.elapsed();

    ensure!(served <= LIMIT, "served again after {served:?}");
    Ok(figures([
        ("process_back_ms", ms(restarted)),
        ("served_again_ms", ms(served)),
        ("starts", Value::from(gateway.process.starts())),
    ]))
}

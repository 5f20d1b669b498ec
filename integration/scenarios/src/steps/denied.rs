//! Refused at once, with the reason.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Figures, figures, ms};
use crate::{World, addresses::PAYROLL};

/// curl's exit code when the connection was refused.
const CURL_REFUSED: i32 = 7;
/// "At once" to a person; a time-out takes minutes.
const AT_ONCE: Duration = Duration::from_secs(1);

/// A `listed` resource without a policy: `curl` is refused at once, and status says which rule is missing.
pub fn denied(world: &mut World) -> Result<Figures> {
    let client = world.client()?;
    client.wait_known("payroll", Duration::from_secs(10))?;

    let done = world.curl(&[&format!("http://{PAYROLL}/")])?;
    let resource = client.resource("payroll")?;
    let explained = client.postern(&["explain", "payroll", "--json"])?;

    ensure!(done.code == CURL_REFUSED, "curl ended {} after {:?}: {}", done.code, done.took, done.stderr);
    ensure!(done.took < AT_ONCE, "curl took {:?} to be refused", done.took);
    ensure!(resource["state"] == "denied", "status says {resource}");
    let reason = resource["reason"].as_str().context("denied without a reason")?;
    ensure!(reason.contains("policy") || reason.contains("rule"), "the reason names no rule: {reason}");
    ensure!(explained.code == 2, "`postern explain` ended {}", explained.code);
    Ok(figures([("refused_ms", ms(done.took)), ("reason", Value::from(reason))]))
}

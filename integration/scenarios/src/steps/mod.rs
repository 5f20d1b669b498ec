//! The steps of the demo. Each holds one promise, returns its figures, and leaves the world as the next one needs it.

mod control_outage;
mod denied;
mod first_start;
mod gateway_restart;
mod relay_only;
mod relay_then_direct;
mod revoked;
mod transfer;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
pub use control_outage::control_outage;
pub use denied::denied;
pub use first_start::{configured, first_start};
pub use gateway_restart::gateway_restart;
use integration_lab::Done;
pub use relay_only::relay_only;
pub use relay_then_direct::relay_then_direct;
pub use revoked::revoked;
use serde_json::{Map, Value};
pub use transfer::transfer;

use crate::World;

/// What a step measured, by name; units are in the names.
pub type Figures = Map<String, Value>;

/// One line of the demo.
pub struct Step {
    /// Its name in the table and in the JSON.
    pub id: &'static str,
    /// What it shows.
    pub what: &'static str,
    /// Shows it.
    pub run: fn(&mut World) -> Result<Figures>,
    /// Whether nothing after it makes sense when it fails.
    pub foundation: bool,
}

/// All steps, in order.
pub const ALL: &[Step] = &[
    Step {
        id: "first-start",
        what: "control starts on an empty directory: one admin token, no default password",
        run: first_start,
        foundation: true,
    },
    Step {
        id: "configured",
        what: "site, gateway, relay, resources, group, account and policy through `postern admin`",
        run: configured,
        foundation: true,
    },
    Step {
        id: "denied",
        what: "a listed resource without a policy is refused at once, with the reason",
        run: denied,
        foundation: false,
    },
    Step {
        id: "relay-then-direct",
        what: "first byte over the relay, then the move to the direct path",
        run: relay_then_direct,
        foundation: false,
    },
    Step {
        id: "relay-only",
        what: "both NATs symmetric: the same over the relay",
        run: relay_only,
        foundation: false,
    },
    Step {
        id: "transfer",
        what: "10 MiB each way over IPv4 and IPv6, ping, UDP echo",
        run: transfer,
        foundation: false,
    },
    Step {
        id: "control-outage",
        what: "control killed and started again under traffic: nothing is lost",
        run: control_outage,
        foundation: false,
    },
    Step {
        id: "revoked",
        what: "the policy removed under a download: how fast the flow ends",
        run: revoked,
        foundation: false,
    },
    Step {
        id: "gateway-restart",
        what: "gateway killed under its supervisor: how soon the client is served again",
        run: gateway_restart,
        foundation: false,
    },
];

/// Figures from pairs.
pub(crate) fn figures<const N: usize>(pairs: [(&str, Value); N]) -> Figures {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Milliseconds with one decimal.
pub(crate) fn ms(time: Duration) -> Value {
    Value::from((time.as_secs_f64() * 10_000.0).round() / 10.0)
}

/// `curl` fetched the page, or an error with what it said.
pub(crate) fn fetched(done: &Done) -> Result<()> {
    ensure!(done.code == 0, "`{}` ended {}: {}", done.line, done.code, done.stderr.trim());
    Ok(())
}

/// Every echo came back, or an error with the report.
pub(crate) fn none_missing(report: &Value) -> Result<()> {
    if report["missing"] == 0 && report["received"].as_u64().unwrap_or(0) > 0 {
        return Ok(());
    }
    bail!("echoes are missing: {report}")
}

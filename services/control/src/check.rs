//! `postern-control check`: tries what `serve` needs.

use std::net::TcpListener;

use actors_control::sql::{Location, Sql};
use actors_control::storage::Storage as _;
use actors_control::store::with_cause;
use jiff::Timestamp;
use services_chassis::{Check, Failure, check};

use crate::certificate;
use crate::config::{Config, PROGRAM};

/// A clock before this is wrong: this program was written later.
const WRITTEN: &str = "2026-01-01T00:00:00Z";

/// Tries everything and reports.
///
/// # Errors
/// When a check failed.
pub async fn run(config: &Config, as_json: bool) -> Result<(), Failure> {
    let checks = [state_dir(config), database(config).await, certificate(config), ports(config), clock()];
    check::report(&checks, as_json)
}

fn state_dir(config: &Config) -> Check {
    let dir = &config.settings.state_dir;
    let shown = dir.display();
    if !dir.exists() {
        return Check::warn("state", format!("{shown} is not there yet"), "`postern-control init` makes it");
    }
    match tempfile_in(dir) {
        Ok(()) => Check::ok("state", format!("{shown} can be written")),
        Err(error) => Check::fail(
            "state",
            format!("{shown} cannot be written: {error}"),
            "run as the user that it belongs to, or name another with --state-dir",
        ),
    }
}

fn tempfile_in(dir: &std::path::Path) -> std::io::Result<()> {
    let probe = dir.join(".check");
    std::fs::write(&probe, "")?;
    std::fs::remove_file(&probe)
}

async fn database(config: &Config) -> Check {
    if let Location::Sqlite(file) = &config.database
        && !file.exists()
    {
        return Check::warn("database", "there is none yet", "`postern-control init` makes it");
    }
    let opened = async { Sql::open(&config.database).await?.accounts().await }.await;
    match opened {
        Ok(accounts) if accounts.is_empty() => {
            Check::warn("database", "it has no account yet", "`postern-control init` makes one")
        }
        Ok(accounts) => Check::ok("database", format!("opens, {} account(s)", accounts.len())),
        Err(error) => Check::fail(
            "database",
            format!("{} does not open: {}", config.database, with_cause(&error)),
            "see that it belongs to this user and was not written by a newer version",
        ),
    }
}

fn certificate(config: &Config) -> Check {
    if config.tls.is_none() && !config.settings.state_dir.join("certificate.pem").exists() {
        return Check::warn("certificate", "there is none yet", "`postern-control init` makes one");
    }
    Check::from(
        "certificate",
        "certificate and key belong together",
        certificate::server_config(config).map(|_| ()),
    )
}

fn ports(config: &Config) -> Check {
    let running = config.settings.socket(PROGRAM).exists();
    for address in &config.listen {
        if let Err(error) = TcpListener::bind(address) {
            let message = format!("{address} cannot be listened on: {error}");
            return if running && error.kind() == std::io::ErrorKind::AddrInUse {
                Check::ok("ports", format!("{address} is taken, as it seems by the running control"))
            } else {
                Check::fail("ports", message, "choose another one with --listen, or stop what listens there")
            };
        }
    }
    Check::ok("ports", "free")
}

fn clock() -> Check {
    let now = Timestamp::now();
    match WRITTEN.parse::<Timestamp>() {
        Ok(written) if now < written => Check::fail(
            "clock",
            format!("it says {now}, which is over"),
            "set the clock; `timedatectl set-ntp true` keeps it right",
        ),
        Ok(_) | Err(_) => Check::ok("clock", format!("it is {}", now.strftime("%Y-%m-%d %H:%M UTC"))),
    }
}

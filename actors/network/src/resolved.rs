//! Telling systemd-resolved about the names of resources, through `resolvectl`.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use actors_runtime::time;
use protocol_names::Pattern;
use tokio::process::Command;

use crate::resolv_conf;

/// The servers that resolved itself asks: its own stub is not among them.
const UPSTREAMS: &str = "/run/systemd/resolve/resolv.conf";
/// There while it runs.
const SOCKET: &str = "/run/systemd/resolve/io.systemd.Resolve";
const PATIENCE: Duration = Duration::from_secs(5);

/// Why resolved could not be told.
#[derive(Debug, thiserror::Error)]
pub enum ResolvedError {
    /// It does not run.
    #[error("systemd-resolved does not run")]
    NotRunning,
    /// There is no `resolvectl`.
    #[error("resolvectl is not installed")]
    NotInstalled,
    /// It gave no answer.
    #[error("resolvectl did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// It said no.
    #[error("resolvectl refused: {0}")]
    Refused(String),
    /// It could not be run.
    #[error("cannot run resolvectl")]
    NotRun(#[source] io::Error),
}

/// Sends questions about `names` to `server`, which is reached over `device`; all others stay where they went.
pub(crate) async fn set(device: &str, server: IpAddr, names: &[String]) -> Result<(), ResolvedError> {
    if !Path::new(SOCKET).exists() {
        return Err(ResolvedError::NotRunning);
    }
    let domains = routing_domains(names);
    let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
    let server = server.to_string();
    run(&["dns", device, &server]).await?;
    // Without a domain resolved would ask nobody here, and an empty list has to be said as such.
    let none = [""];
    let list = if domains.is_empty() { &none[..] } else { &domains[..] };
    run(&[&["domain", device], list].concat()).await?;
    run(&["default-route", device, "false"]).await
}

/// Forgets the device's settings. They go with the device anyway.
pub(crate) async fn unset(device: &str) -> Result<(), ResolvedError> {
    if !Path::new(SOCKET).exists() {
        return Ok(());
    }
    run(&["revert", device]).await
}

/// The servers that resolved asks for other names.
pub(crate) fn upstreams() -> Vec<SocketAddr> {
    resolv_conf::servers(&resolv_conf::read(Path::new(UPSTREAMS)))
}

/// `~` makes a domain one for routing questions, not for completing names. A pattern is routed by the part of it that has
/// no wildcards; what does not match is passed on by the stub.
fn routing_domains(names: &[String]) -> Vec<String> {
    let mut domains: Vec<String> = names
        .iter()
        .filter_map(|name| name.parse::<Pattern>().ok())
        .map(|pattern| {
            let fixed: Vec<&str> =
                pattern.as_str().rsplit('.').take_while(|label| !label.contains(['*', '?'])).collect();
            format!("~{}", fixed.into_iter().rev().collect::<Vec<_>>().join("."))
        })
        .collect();
    domains.sort();
    domains.dedup();
    domains
}

async fn run(arguments: &[&str]) -> Result<(), ResolvedError> {
    let work = Command::new("resolvectl")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .env("LC_ALL", "C")
        .output();
    let output = time::timeout(PATIENCE, work).await.map_err(|_| ResolvedError::TooSlow)?;
    let output = output.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => ResolvedError::NotInstalled,
        _ => ResolvedError::NotRun(error),
    })?;
    if output.status.success() {
        return Ok(());
    }
    Err(ResolvedError::Refused(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_patterns_become_routing_domains() {
        let names = ["wiki.corp.example", "*.corp.example", "**.corp.example", "web?.lab.example", "no name"];

        let domains = routing_domains(&names.map(str::to_owned));

        assert_eq!(domains, ["~corp.example", "~lab.example", "~wiki.corp.example"]);
    }
}

//! The gateway's own nftables table, through the `nft` program.

use std::io;
use std::net::IpAddr;
use std::process::{Output, Stdio};
use std::time::Duration;

use actors_runtime::time;
use ipnet::IpNet;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// `nft` answers in milliseconds; only a host in trouble needs longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the gateway's host should let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterPlan {
    /// The TUN device.
    pub device: String,
    /// Where the devices' inner addresses come from.
    pub inner: Vec<IpNet>,
    /// Resources see the gateway's address instead of the device's.
    pub masquerade: bool,
    /// Addresses of the gateway itself that are resources.
    pub own: Vec<IpAddr>,
}

/// Why the packet filter could not be set or read.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is no `nft` on the host.
    #[error("nft is not installed: install the package nftables")]
    NotInstalled,
    /// The process may not change the packet filter.
    #[error("not permitted to change the packet filter: CAP_NET_ADMIN is needed")]
    NotPermitted,
    /// `nft` gave no answer.
    #[error("nft did not answer within {} s", PATIENCE.as_secs())]
    TooSlow,
    /// `nft` said no.
    #[error("nft refused: {0}")]
    Refused(String),
    /// `nft` could not be run.
    #[error("cannot run nft")]
    NotRun(#[source] io::Error),
}

/// The table as one transaction that replaces whatever was there.
pub(crate) fn table_text(table: &str, plan: &FilterPlan) -> String {
    let device = &plan.device;
    let mut text = format!("add table inet {table}\ndelete table inet {table}\ntable inet {table} {{\n");
    text.push_str(" chain postrouting {\n  type nat hook postrouting priority srcnat; policy accept;\n");
    if plan.masquerade {
        for net in &plan.inner {
            let family = if matches!(net, IpNet::V4(_)) { "ip" } else { "ip6" };
            text.push_str(&format!("  {family} saddr {net} oifname != \"{device}\" masquerade\n"));
        }
    }
    text.push_str(" }\n chain forward {\n  type filter hook forward priority filter; policy accept;\n");
    // Not from device to device, not from the site to a device unasked, and nothing that escapes masquerading.
    text.push_str(&format!("  iifname \"{device}\" oifname \"{device}\" drop\n"));
    if plan.masquerade {
        text.push_str(&format!("  iifname \"{device}\" ct state invalid drop\n"));
    }
    text.push_str(&format!("  iifname \"{device}\" accept\n"));
    text.push_str(&format!("  oifname \"{device}\" ct state established,related accept\n"));
    text.push_str(&format!("  oifname \"{device}\" drop\n"));
    // The gateway's own services, except those that are resources.
    text.push_str(" }\n chain input {\n  type filter hook input priority filter; policy accept;\n");
    for address in &plan.own {
        let family = if address.is_ipv4() { "ip" } else { "ip6" };
        text.push_str(&format!("  iifname \"{device}\" {family} daddr {address} accept\n"));
    }
    text.push_str(&format!("  iifname \"{device}\" ct state established,related accept\n"));
    text.push_str(&format!("  iifname \"{device}\" drop\n }}\n}}\n"));
    text
}

/// Runs a transaction.
pub(crate) async fn load(text: &str) -> Result<(), NftError> {
    run(&["-f", "-"], text).await.map(|_| ())
}

/// Removes a table if it is there.
pub(crate) async fn remove(table: &str) -> Result<(), NftError> {
    load(&format!("add table inet {table}\ndelete table inet {table}\n")).await
}

/// Whether a table is there.
pub(crate) async fn exists(table: &str) -> Result<bool, NftError> {
    match run(&["list", "table", "inet", table], "").await {
        Ok(_) => Ok(true),
        Err(NftError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every rule of the host.
pub(crate) async fn ruleset() -> Result<Value, NftError> {
    let output = run(&["-j", "list", "ruleset"], "").await?;
    serde_json::from_slice(&output.stdout).map_err(|error| NftError::Refused(error.to_string()))
}

async fn run(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .env("LC_ALL", "C")
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => NftError::NotInstalled,
            _ => NftError::NotRun(error),
        })?;
    let stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin {
            // It may have failed already; its own words say more than a broken pipe.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output =
        time::timeout(PATIENCE, talk).await.map_err(|_| NftError::TooSlow)?.map_err(NftError::NotRun)?;
    if output.status.success() {
        return Ok(output);
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if words.contains("Operation not permitted") {
        return Err(NftError::NotPermitted);
    }
    Err(NftError::Refused(words))
}

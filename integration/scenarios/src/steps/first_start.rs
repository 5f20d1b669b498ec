//! Control on an empty directory, and then everything that the rest needs.

use std::{fs, os::unix::fs::PermissionsExt, time::Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Figures, figures, ms};
use crate::{World, addresses::CONTROL_URL, admin::call};

/// A token of 256 random bits has at least this many characters in any usual alphabet.
const TOKEN_CHARACTERS: usize = 43;

/// Control starts on an empty directory: an admin token shown once, no default password.
pub fn first_start(world: &mut World) -> Result<Figures> {
    let started = Instant::now();
    world.start_control()?;
    let ready = started.elapsed();

    let control = world.control()?;
    let file = control.state_dir.join("admin.token");
    let mode = fs::metadata(&file)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "admin.token has mode {mode:o}");
    let token = world.admin()?.token();
    let secret = token.strip_prefix("pst_admin_").context("the token's kind is not in it")?;
    ensure!(secret.len() >= TOKEN_CHARACTERS, "an admin token of {} characters", secret.len());
    let shown = control.process.stdout();
    ensure!(shown.contains("admin.token"), "the first start does not say where the token is: {shown}");
    ensure!(!control.process.stderr().contains(secret), "the admin token is in the log");

    let refused = |token: Option<&str>| call(&control.host, CONTROL_URL, token, "GET", "sites", None);
    for guess in [None, Some("admin"), Some("postern"), Some("pst_admin_")] {
        let (status, _) = refused(guess)?;
        ensure!(matches!(status, 401 | 429), "{guess:?} was answered {status}");
    }
    for entry in fs::read_dir(&control.state_dir)?.flatten() {
        let name = entry.file_name();
        let holds = fs::read(entry.path()).is_ok_and(|bytes| contains(&bytes, secret.as_bytes()));
        ensure!(!holds || name == "admin.token", "{} holds the admin token in clear", name.to_string_lossy());
    }
    Ok(figures([("ready_ms", ms(ready)), ("token_characters", Value::from(secret.len()))]))
}

/// Everything through `postern admin …`, then relay, gateway and client with the commands that it printed.
pub fn configured(world: &mut World) -> Result<Figures> {
    let started = Instant::now();
    world.configure()?;
    let written = started.elapsed();
    world.start_relay()?;
    world.start_gateway()?;
    world.start_client()?;
    world.wait_connected()?;
    let policies = world.admin()?.say("policy list")?;
    let count = policies["items"].as_array().map_or(0, Vec::len);
    ensure!(count >= 1, "no policy: {policies}");
    Ok(figures([
        ("written_ms", ms(written)),
        ("all_online_ms", ms(started.elapsed())),
        ("policies", Value::from(count)),
    ]))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

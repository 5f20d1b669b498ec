//! Calls of cargo.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

/// `cargo` in the workspace's root. Its standard output is ours only when somebody reads it.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = integration_lab::cargo();
    command.args(arguments).current_dir(root()).stdin(Stdio::null());
    command
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Builds the four programs and the lab's tool, with cargo's own progress on standard error.
///
/// All members at once and not package by package: the features that cargo then chooses are those of `cargo test` on
/// the workspace, so that both share what they build. Without xtask, which is running.
pub fn programs() -> Result<()> {
    succeed(&mut cargo(&["build", "--locked", "--workspace", "--exclude", "xtask", "--bins"]))
}

/// Builds the same with control's feature `chaos`, which no other build has.
pub fn chaotic() -> Result<()> {
    let arguments = ["build", "--locked", "--workspace", "--exclude", "xtask", "--bins"];
    succeed(cargo(&arguments).args(["--features", "postern-control/chaos"]))
}

/// Builds the same as they are released, and the program that measures them.
pub fn released() -> Result<()> {
    succeed(&mut cargo(&["build", "--release", "--locked", "--workspace", "--exclude", "xtask", "--bins"]))
}

/// Whether the programs were built before, so that building them again is quick.
pub fn was_built_before() -> bool {
    integration_lab::program("postern-control").is_ok() && integration_lab::program("postern-gateway").is_ok()
}

/// Format and clippy.
pub fn lint() -> Result<()> {
    format()?;
    clippy()
}

/// `cargo fmt --check`.
pub fn format() -> Result<()> {
    succeed(&mut cargo(&["fmt", "--all", "--check"]))
}

/// `cargo clippy` on everything, warnings are errors.
pub fn clippy() -> Result<()> {
    succeed(&mut cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn succeed(command: &mut Command) -> Result<()> {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let line = format!("cargo {}", words.join(" "));
    let status = command.stdout(Stdio::from(std::io::stderr())).status();
    let status = status.with_context(|| format!("cannot run `{line}`"))?;
    ensure!(status.success(), "`{line}` failed");
    Ok(())
}

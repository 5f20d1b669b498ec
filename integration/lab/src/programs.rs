//! Where the built programs are.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

/// Cargo as a user would call it: without what `cargo run` tells the program that it runs about its own package.
/// Build scripts are run again when that changes, so the two would rebuild each other's dependencies for ever.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let told = |name: &str| {
        ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|start| name.starts_with(start))
            || ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"].contains(&name)
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(told)) {
        command.env_remove(name);
    }
    command
}

/// The folder of the built programs: `POSTERN_BIN_DIR`, or the profile folder that the running test or xtask lies in.
pub fn program_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("POSTERN_BIN_DIR") {
        return Ok(dir.into());
    }
    let exe = std::env::current_exe()?;
    let mut dir = exe.parent().unwrap_or(Path::new("/")).to_owned();
    if dir.ends_with("deps") {
        dir.pop();
    }
    Ok(dir)
}

/// The target folder that cargo fills, from its variable or from where this process lies.
pub fn cargo_target_dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(dir.into());
    }
    let mut dir = program_dir()?;
    dir.pop();
    Ok(dir)
}

/// One of our programs (`postern-gateway`, `lab-tool`), with what to do when it has not been built.
pub fn program(name: &str) -> Result<PathBuf> {
    let path = program_dir()?.join(name);
    if path.is_file() {
        return Ok(path);
    }
    bail!("{} is not built: run `cargo xtask test`, which builds it first, or `cargo build`", path.display());
}

/// A program of the system, by the usual folders (a user's PATH often lacks the `sbin` ones).
pub fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"];
    path.split(':').chain(usual).map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_is_not_told_of_the_package_that_calls_it() {
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some(), "cargo tells tests of their package");

        let command = cargo();

        assert!(command.get_envs().any(|(name, value)| name == "CARGO_PKG_NAME" && value.is_none()));
        assert!(!command.get_envs().any(|(name, _)| name == "CARGO_TARGET_DIR"));
    }
}

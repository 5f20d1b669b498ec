//! What the suites need that is not ours: packages of the distribution, and programs from the Rust registry.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use integration_lab::{Privilege, privilege, which};

use crate::suite::Need;

/// Installs what is missing, or says which command does.
pub fn ensure_all(needs: &[Need], root: &Path) -> Result<()> {
    let mut packages: Vec<&str> = needs
        .iter()
        .filter_map(|need| match need {
            Need::Package { program, package } if which(program).is_none() => Some(*package),
            Need::Package { .. } | Need::Crate { .. } => None,
        })
        .collect();
    packages.sort_unstable();
    packages.dedup();
    if !packages.is_empty() {
        install_packages(&packages)?;
    }
    for need in needs {
        if let Need::Crate { name, version, program } = need {
            install_crate(name, version, program, root)?;
        }
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if privilege() != Privilege::Root {
        bail!("missing packages; install them with: sudo {line}");
    }
    let apt =
        which("apt-get").with_context(|| format!("no apt-get here: install {}", packages.join(", ")))?;
    eprintln!("installing {}", packages.join(" "));
    let run = |arguments: &[&str]| -> Result<bool> {
        let mut command = Command::new(&apt);
        // A package that brings a service would start it; nothing here wants that.
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1");
        Ok(command.stdin(Stdio::null()).stdout(std::io::stderr()).status()?.success())
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    if !run(&install)? {
        ensure!(run(&["update", "--quiet"])? && run(&install)?, "`{line}` failed");
    }
    Ok(())
}

/// Builds a crate's program once for each version; what is there is used.
fn install_crate(name: &str, version: &str, program: &str, root: &Path) -> Result<()> {
    let mark = root.join(format!("{name}-{version}"));
    if mark.exists() && root.join("bin").join(program).exists() {
        return Ok(());
    }
    eprintln!("building {name} {version}, once: some minutes");
    let build = root.join("build");
    let mut command = integration_lab::cargo();
    command.args(["install", "--locked", "--force", name, "--version", version, "--root"]).arg(root);
    command.arg("--target-dir").arg(&build);
    // The folder of this workspace's settings must not reach the others' builds.
    command.current_dir(std::env::temp_dir()).env_remove("CARGO_TARGET_DIR").stdin(Stdio::null());
    let status = command.stdout(Stdio::from(std::io::stderr())).status().context("cannot run cargo")?;
    ensure!(status.success(), "`cargo install {name} --version {version}` failed");
    std::fs::write(&mark, "")?;
    if build.exists() {
        std::fs::remove_dir_all(&build)?;
    }
    Ok(())
}

//! The packages of the system that the demo and the tests call.

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use integration_lab::{Privilege, privilege, which};

/// A program, the package of Debian and Ubuntu that has it, and whether the demo needs it too.
struct Tool {
    program: &'static str,
    package: &'static str,
    demo: bool,
}

const fn tool(program: &'static str, package: &'static str, demo: bool) -> Tool {
    Tool { program, package, demo }
}

const TOOLS: [Tool; 16] = [
    tool("nft", "nftables", true),
    tool("ip", "iproute2", true),
    tool("tc", "iproute2", true),
    tool("ping", "iputils-ping", true),
    tool("curl", "curl", true),
    tool("unshare", "util-linux", true),
    tool("mount", "mount", true),
    tool("iperf3", "iperf3", false),
    tool("turnutils_uclient", "coturn", false),
    tool("chromium-headless-shell", "chromium-headless-shell", false),
    tool("buildah", "buildah", false),
    tool("openssl", "openssl", false),
    tool("pg_ctlcluster", "postgresql", false),
    tool("debootstrap", "debootstrap", false),
    tool("systemd-nspawn", "systemd-container", false),
    tool("systemd-analyze", "systemd", false),
];

#[derive(Args)]
pub struct Setup {
    /// Only say what is missing; exit 1 when something is.
    #[arg(long)]
    check: bool,
}

impl Setup {
    pub fn run(&self) -> Result<ExitCode> {
        let missing = missing(false);
        if missing.is_empty() {
            eprintln!("all tools are there");
            return Ok(ExitCode::SUCCESS);
        }
        if self.check {
            eprintln!("missing: {}", missing.join(" "));
            return Ok(ExitCode::FAILURE);
        }
        install(&missing)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Makes sure that the tools are there: installs them as root, or fails with the command that does.
pub fn ensure_tools(demo_only: bool) -> Result<()> {
    let missing = missing(demo_only);
    if missing.is_empty() { Ok(()) } else { install(&missing) }
}

fn missing(demo_only: bool) -> Vec<&'static str> {
    let wanted = TOOLS.iter().filter(|tool| tool.demo || !demo_only);
    let mut packages: Vec<_> =
        wanted.filter(|tool| which(tool.program).is_none()).map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

fn install(packages: &[&str]) -> Result<()> {
    let line = format!("apt-get install --yes --no-install-recommends {}", packages.join(" "));
    if privilege() != Privilege::Root {
        bail!("missing packages; install them with: sudo {line}");
    }
    let apt =
        which("apt-get").with_context(|| format!("no apt-get here: install {}", packages.join(", ")))?;
    eprintln!("installing {}", packages.join(" "));
    let run = |arguments: &[&str]| -> Result<bool> {
        let mut command = Command::new(&apt);
        command.args(arguments).env("DEBIAN_FRONTEND", "noninteractive");
        // A package that brings a service would start it; nothing here wants coturn's server to run.
        command.env("RUNLEVEL", "1").stdout(std::io::stderr());
        Ok(command.status()?.success())
    };
    let install = [&["install", "--yes", "--no-install-recommends"], packages].concat();
    if !run(&install)? {
        ensure!(run(&["update", "--quiet"])? && run(&install)?, "`{line}` failed");
    }
    Ok(())
}

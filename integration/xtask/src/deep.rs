//! What `cargo xtask test --deep` adds: a million decisions against the reference, and mutants of the policy engine, both of
//! which go on where an earlier run was stopped; many trials of each kind of change; a control plane that is disturbed.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use integration_lab::{cargo_target_dir, program_dir, which};

use crate::build;

/// Decisions that are compared with the reference.
const DECISIONS: &str = "1000000";
/// Trials of each of fifteen kinds of change: 120 together.
const TRIALS: &str = "8";
/// The scenarios that `POSTERN_EDGE_TRIALS` and a disturbed control plane are for.
const EDGES: &str = "truth_reaches_the_edges";

/// The most mutants that may survive, in percent.
const MOST_ALIVE: usize = 15;

fn directory() -> Result<PathBuf> {
    let directory = cargo_target_dir()?.join("deep");
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    Ok(directory)
}

/// What the ordinary tests are told so that they go deeper.
pub fn variables() -> Result<[(&'static str, String); 2]> {
    let progress = directory()?.join("policy-decisions").display().to_string();
    Ok([("POSTERN_POLICY_CASES", DECISIONS.into()), ("POSTERN_POLICY_PROGRESS", progress)])
}

/// What the scenarios are told so that they go deeper.
pub fn trials() -> (&'static str, &'static str) {
    ("POSTERN_EDGE_TRIALS", TRIALS)
}

/// The scenarios that need a control plane with the feature `chaos`.
pub fn disturbed() -> Result<Command> {
    let folder = directory()?.join("chaos");
    fs::create_dir_all(&folder)?;
    build::chaotic()?;
    for program in PROGRAMS {
        fs::copy(program_dir()?.join(program), folder.join(program))
            .with_context(|| format!("cannot copy {program}"))?;
    }
    // What everything else runs is without it again.
    build::programs()?;
    let mut command =
        build::cargo(&["test", "--locked", "--package", "integration-scenarios", "--test", EDGES]);
    command.args(["--", "--ignored", "--test-threads=1"]).env("POSTERN_BIN_DIR", folder);
    Ok(command)
}

/// What scenarios start.
const PROGRAMS: [&str; 7] =
    ["postern", "postern-control", "postern-gateway", "postern-relay", "lab-tool", "puppet", "puppet-nodes"];

/// Mutates the policy engine, and sees whether its tests notice.
pub fn mutants() -> Result<()> {
    if which("cargo-mutants").is_none() {
        let status = build::cargo(&["install", "--locked", "cargo-mutants"]).status()?;
        ensure!(status.success(), "cargo-mutants could not be installed");
    }
    let out = directory()?;
    // Mutants that were caught by an earlier run are not tried again. Survivors make it end with an error of its own.
    build::cargo(&["mutants", "--package", "protocol-policy", "--iterate", "--output"])
        .arg(&out)
        .args(["--", "--lib", "--tests"])
        .status()
        .context("cannot run cargo mutants")?;
    let lines = |name: &str| {
        let text = fs::read_to_string(out.join("mutants.out").join(name)).unwrap_or_default();
        text.lines().filter(|line| !line.trim().is_empty()).count()
    };
    let caught = lines("caught.txt") + lines("previously_caught.txt") + lines("timeout.txt");
    let alive = lines("missed.txt");
    ensure!(caught > 0, "no mutant was tried");
    let share = 100.0 * alive as f64 / (alive + caught) as f64;
    println!("mutants of the policy engine: {alive} of {} alive ({share:.1} %)", alive + caught);
    ensure!(
        alive * 100 <= MOST_ALIVE * (alive + caught),
        "more than {MOST_ALIVE} % of the mutants are alive"
    );
    Ok(())
}

//! What `cargo xtask test --deep` adds: a million decisions against the reference, and mutants of the policy engine, both of
//! which go on where an earlier run was stopped; many trials of each kind of change; a control plane that is disturbed.

use std::{
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use integration_bench::{Need, install};
use integration_lab::{cargo_target_dir, program_dir};

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

/// The crate that is mutated, and where it is.
const MUTATED: (&str, &str) = ("protocol-policy", "protocol/policy");
/// The program that mutates: other versions make other mutants.
const MUTATOR: Need = Need::Crate { name: "cargo-mutants", version: "27.1.0", program: "cargo-mutants" };
/// A run that was stopped loses at most one of so many parts.
const SHARDS: usize = 16;
/// Tests of a mutant that take longer are those of a mutant that hangs: they take a second.
const SECONDS_A_MUTANT: &str = "60";

/// Mutates the policy engine, and sees whether its tests notice.
pub fn mutants() -> Result<()> {
    let directory = directory()?;
    let tools = directory.join("tools");
    install::ensure_all(&[MUTATOR], &tools)?;
    let out = directory.join("mutants");
    begin(&out)?;
    let mut total = Mutants::default();
    for shard in 0..SHARDS {
        let (part, done) = (out.join(shard.to_string()), out.join(format!("{shard}-done")));
        if !done.exists() {
            let mut command = Command::new(tools.join("bin/cargo-mutants"));
            command.args(["mutants", "--package", MUTATED.0, "--jobs", "1", "--timeout", SECONDS_A_MUTANT]);
            command.args(["--sharding", "round-robin", "--shard", &format!("{shard}/{SHARDS}"), "--output"]);
            command.arg(&part).args(["--", "--lib", "--tests"]).current_dir(build::root());
            // Each part builds in a new copy of the workspace; what the crate depends on is built once.
            command.env("CARGO_TARGET_DIR", directory.join("mutants-build")).stdin(Stdio::null());
            let status = command.status().context("cannot run cargo-mutants")?;
            // Everything was tried and caught, something was missed, or something took too long.
            ensure!(matches!(status.code(), Some(0 | 2 | 3)), "cargo-mutants ended with {status}");
            fs::write(&done, "")?;
        }
        total.add(&part.join("mutants.out"))?;
    }
    let (alive, viable) = (total.missed, total.missed + total.caught);
    ensure!(viable > 0, "no mutant was tried");
    let share = 100.0 * alive as f64 / viable as f64;
    println!(
        "mutants of the policy engine: {alive} of {viable} alive ({share:.1} %); {} more do not build",
        total.unviable
    );
    ensure!(alive * 100 <= MOST_ALIVE * viable, "more than {MOST_ALIVE} % of the mutants are alive");
    Ok(())
}

/// Throws away what was found out about another state of the crate.
fn begin(out: &Path) -> Result<()> {
    let mut hasher = DefaultHasher::new();
    format!("{MUTATOR:?}").hash(&mut hasher);
    state(&build::root().join(MUTATED.1), &mut hasher)?;
    let (state, file) = (format!("{:016x}", hasher.finish()), out.join("state"));
    if fs::read_to_string(&file).is_ok_and(|before| before == state) {
        return Ok(());
    }
    if out.exists() {
        fs::remove_dir_all(out).with_context(|| format!("cannot remove {}", out.display()))?;
    }
    fs::create_dir_all(out)?;
    Ok(fs::write(file, state)?)
}

/// Takes the names and contents of all files in a folder in.
fn state(folder: &Path, hasher: &mut DefaultHasher) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    paths.sort();
    for path in paths {
        path.file_name().hash(hasher);
        if path.is_dir() {
            state(&path, hasher)?;
        } else {
            fs::read(&path)?.hash(hasher);
        }
    }
    Ok(())
}

/// How mutants ended.
#[derive(Default)]
struct Mutants {
    caught: usize,
    missed: usize,
    /// Those that the compiler refuses say nothing about tests.
    unviable: usize,
}

impl Mutants {
    fn add(&mut self, out: &Path) -> Result<()> {
        let lines = |name: &str| -> Result<usize> {
            let file = out.join(name);
            let text =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            Ok(text.lines().filter(|line| !line.trim().is_empty()).count())
        };
        self.caught += lines("caught.txt")? + lines("timeout.txt")?;
        self.missed += lines("missed.txt")?;
        self.unviable += lines("unviable.txt")?;
        Ok(())
    }
}

//! `cargo xtask test`: the crates' own tests, the scenarios, and foreign tools.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use integration_lab::{Postgres, Privilege, cargo_target_dir, enter_user_namespace, privilege};

use crate::{build, deep, setup};

/// Scenario files with this prefix drive programs that others wrote.
const FOREIGN: &str = "foreign_";
/// The filter that runs [`codecs`] and nothing else.
const CODECS: &str = "codec";
/// Property tests run this many cases with `--deep`; proptest's own default is 256.
const DEEP_CASES: &str = "4096";

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Tests inside the crates: pure, property, universe, architecture.
    Unit,
    /// The built programs in network namespaces, one promise a file.
    Scenarios,
    /// The built programs against tools of others.
    Foreign,
}

#[derive(Args)]
pub struct Test {
    /// Sixteen times the cases in property tests, a million decisions against the reference, mutants of the policy engine,
    /// 120 trials of changes under flows, a control plane that is disturbed; goes on where an earlier run was stopped.
    #[arg(long)]
    deep: bool,
    /// Only one part.
    #[arg(long)]
    only: Option<Part>,
    /// Part of a scenario's file name, or of a test's name.
    filter: Option<String>,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Default)]
pub struct Count {
    pub passed: u64,
    pub failed: u64,
}

impl std::ops::AddAssign for Count {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl Test {
    pub fn run(&self) -> Result<ExitCode> {
        let wants = |part: Part| self.only.is_none_or(|only| only == part);
        let needs_lab = wants(Part::Scenarios) || wants(Part::Foreign);
        if needs_lab && privilege() != Privilege::UserNamespace {
            setup::ensure_tools(!wants(Part::Foreign))?;
            build::programs()?;
        }
        let mut count = Count::default();
        if wants(Part::Unit) && privilege() != Privilege::UserNamespace {
            count += unit(self.filter.as_deref(), self.deep)?;
            if self.deep && self.filter.as_deref().is_none_or(|filter| "mutants".contains(filter)) {
                match deep::mutants() {
                    Ok(()) => count.passed += 1,
                    Err(error) => {
                        println!("FAILED: {error:#}");
                        count.failed += 1;
                    }
                }
            }
        }
        if wants(Part::Foreign) && self.filter.as_deref().is_none_or(|filter| "postgres".contains(filter)) {
            count += on_postgres()?;
        }
        if wants(Part::Foreign)
            && privilege() != Privilege::UserNamespace
            && self.filter.as_deref().is_none_or(|filter| CODECS.contains(filter))
        {
            count += codecs()?;
        }
        if needs_lab && privilege() == Privilege::None {
            println!("{} passed, {} failed before the scenarios", count.passed, count.failed);
            ensure!(count.failed == 0, "tests failed");
            no_run()?;
            eprintln!("not root: the scenarios run in a user namespace. What it lacks:");
            for lack in Privilege::UserNamespace.lacks() {
                eprintln!("  - {lack}");
            }
            match enter_user_namespace()? {}
        }
        if wants(Part::Scenarios) {
            count += lab(self.filter.as_deref())?;
            count += scenarios(self.filter.as_deref(), false, self.deep)?;
            if self.deep && self.filter.as_deref().is_none_or(|filter| "disturbed".contains(filter)) {
                count += self::count(deep::disturbed()?)?;
            }
        }
        if wants(Part::Foreign) && self.filter.as_deref() != Some(CODECS) {
            count += scenarios(self.filter.as_deref(), true, false)?;
        }
        ensure!(count.passed + count.failed > 0, "no test matches");
        println!("{} passed, {} failed", count.passed, count.failed);
        Ok(if count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// The crates' own tests.
pub fn unit(filter: Option<&str>, deep: bool) -> Result<Count> {
    let mut arguments = vec!["test", "--locked", "--workspace", "--no-fail-fast"];
    arguments.extend(["--exclude", "integration-scenarios", "--exclude", "integration-lab"]);
    arguments.extend(filter);
    let mut count = counted(&arguments, deep)?;
    if filter.is_none_or(|filter| "chaos".contains(filter)) {
        // Deliberate faults are a feature that no other build has; everything but the runtime is shared with the above.
        let with_faults =
            ["test", "--locked", "--workspace", "--features", "actors-runtime/chaos", "--test", "chaos"];
        count += counted(&with_faults, false)?;
    }
    Ok(count)
}

/// The tests of storage once more, on a PostgreSQL of their own.
pub fn on_postgres() -> Result<Count> {
    if !Postgres::possible() {
        eprintln!("not run in a user namespace: the tests of storage on PostgreSQL");
        return Ok(Count::default());
    }
    if Postgres::start().is_err() {
        setup::ensure_tools(false)?;
    }
    let postgres = Postgres::start()?;
    // The same members as the unit tests, so that nothing is built again; the filter leaves storage alone.
    let mut arguments = vec!["test", "--locked", "--workspace", "--lib", "--no-fail-fast"];
    arguments.extend(["--exclude", "integration-scenarios", "--exclude", "integration-lab", "sql::tests"]);
    let mut command = build::cargo(&arguments);
    command.env("POSTERN_TEST_POSTGRES", postgres.url());
    count(command)
}

/// What our codec and that of the crate `turn-server` make of the same datagrams. Built in a folder of its own: that crate
/// is a whole server, and would give the workspace's dependencies other features.
pub fn codecs() -> Result<Count> {
    let target = cargo_target_dir()?.join("foreign/codec");
    let manifest = build::root().join("integration/codec/Cargo.toml");
    let mut command = build::cargo(&["test", "--locked", "--no-fail-fast"]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    count(command)
}

/// The lab's own tests: they need namespaces, and none of the four programs.
pub fn lab(filter: Option<&str>) -> Result<Count> {
    let mut arguments = vec!["test", "--locked", "--package", "integration-lab", "--no-fail-fast"];
    arguments.extend(filter);
    counted(&arguments, false)
}

/// The scenarios, one after the other: each lays out a world, and two worlds would disturb each other's times.
pub fn scenarios(filter: Option<&str>, foreign: bool, deep: bool) -> Result<Count> {
    let mut arguments: Vec<String> =
        ["test", "--locked", "--package", "integration-scenarios", "--no-fail-fast"]
            .map(str::to_owned)
            .into();
    let names = scenario_files()?;
    let ours: Vec<_> = names.iter().filter(|name| name.starts_with(FOREIGN) == foreign).collect();
    let in_name = |name: &&&String| filter.is_none_or(|filter| name.contains(filter));
    let by_name: Vec<_> = ours.iter().filter(in_name).collect();
    let test_name = if by_name.is_empty() { filter } else { None };
    let chosen = if by_name.is_empty() { ours.iter().collect() } else { by_name };
    arguments.extend(chosen.into_iter().flat_map(|name| ["--test".to_owned(), (*name).clone()]));
    arguments.extend(["--", "--test-threads=1"].map(str::to_owned));
    arguments.extend(test_name.map(str::to_owned));
    let mut command = build::cargo(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    if deep {
        command.envs([deep::trials()]);
    }
    count(command)
}

fn scenario_files() -> Result<Vec<String>> {
    let folder = build::root().join("integration/scenarios/tests");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "rs") {
            names.extend(path.file_stem().map(|name| name.to_string_lossy().into_owned()));
        }
    }
    names.sort();
    Ok(names)
}

fn no_run() -> Result<()> {
    let arguments = ["test", "--locked", "--no-run", "-p", "integration-scenarios"];
    ensure!(build::cargo(&arguments).status()?.success(), "the scenarios do not build");
    ensure!(build::cargo(&["test", "--locked", "--no-run", "-p", "integration-lab"]).status()?.success());
    Ok(())
}

/// Runs `cargo test …`, passes its output on, and adds up its closing lines.
fn counted(arguments: &[&str], deep: bool) -> Result<Count> {
    let mut command = build::cargo(arguments);
    if deep {
        command.env("PROPTEST_CASES", DEEP_CASES).envs(deep::variables()?);
    }
    count(command)
}

fn count(mut command: Command) -> Result<Count> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let output = child.stdout.take().context("no output")?;
    let mut count = Count::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            count += closing_line(result);
        }
    }
    let status = child.wait()?;
    if !status.success() && count.failed == 0 {
        // It did not build, or a test ended the process: that is a failure, whatever was counted.
        count.failed = 1;
    }
    Ok(count)
}

/// `ok. 8 passed; 0 failed; …`
fn closing_line(line: &str) -> Count {
    let number_before = |word: &str| {
        let words: Vec<_> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
        let at = words.iter().position(|candidate| *candidate == word)?;
        words.get(at.checked_sub(1)?)?.parse().ok()
    };
    Count { passed: number_before("passed").unwrap_or(0), failed: number_before("failed").unwrap_or(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_line_is_read() {
        let count = closing_line(
            "FAILED. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 4s",
        );

        assert_eq!((count.passed, count.failed), (12, 3));
    }
}

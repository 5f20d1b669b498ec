//! Decisions: our engine and Cedar, by the same rules, in the same run.
//!
//! Both are measured by `policy-measure` (`integration/bench/cedar`), a crate outside the workspace because Cedar is
//! heavy; this suite builds it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Bound, Figure, Measure, Need, Peer, Round, Setup, Suite, Target};

/// The suite.
pub struct Policy;

const RATE: &str = "decisions";
const P50: &str = "p50";
const P99: &str = "p99";
const CHANGE: &str = "change";
const CHANGE_TENFOLD: &str = "change_tenfold";
const COMPILE: &str = "compile";

impl Suite for Policy {
    fn name(&self) -> &'static str {
        "policy"
    }

    fn about(&self) -> &'static str {
        "decisions about 10,000 principals, 1,000 groups, 5,000 rules and 2,000 resources, on one core"
    }

    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }

    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::higher(RATE, "decisions a second on one core, distinct random requests", "1/s"),
            Figure::lower(P50, "one decision, median", "µs"),
            Figure::lower(P99, "one decision, 99th percentile", "µs"),
            Figure::lower(CHANGE, "the slowest kind of change, taken into the index", "ms"),
            Figure::lower(CHANGE_TENFOLD, "the same at ten times that size", "ms"),
            Figure::lower(COMPILE, "compiling everything", "ms"),
        ]
    }

    fn targets(&self) -> Vec<Target> {
        vec![
            Target::new(
                "a million decisions a second on one core",
                Measure::Median(RATE, "ours"),
                Bound::AtLeast(1e6),
            ),
            Target::new("99 % of decisions within 10 µs", Measure::Median(P99, "ours"), Bound::AtMost(10.0)),
            Target::new("one change within 5 ms", Measure::Median(CHANGE, "ours"), Bound::AtMost(5.0)),
            Target::new(
                "one change within 50 ms at ten times the size",
                Measure::Median(CHANGE_TENFOLD, "ours"),
                Bound::AtMost(50.0),
            ),
        ]
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "ours answers with the rule and the end of the access, through the function that the control plane calls; \
             Cedar answers with allowed or denied."
                .into(),
            "What Cedar has no words for is worked out before its clock starts: the time of day in each zone, versions as \
             numbers, the age of the sign-in. Its requests are made before the clock starts too."
                .into(),
            "Cedar has its policies parsed and its entities with their ancestors ready, and a scope that it looks at first. \
             Given all policies it looks at every one; sliced, it is given those alone that speak of the resource, \
             picked before its clock starts. Ours picks them itself, within the clock."
                .into(),
            "Before anything is measured, both decide the same 20,000 requests (1,000 with all policies), and must agree on \
             each. Rules ask for groups, windows, networks, verified devices, countries, versions and the age of the \
             sign-in; everything is known, because Cedar passes over a forbid that asks for something unknown."
                .into(),
            "A change is one of: a rule edited, removed, or pointed at every resource; a group left; a principal disabled; a \
             resource labelled; everybody put into one group. The figure is the slowest that was seen."
                .into(),
        ]
    }

    fn peers(&self, _: &Setup) -> Result<Vec<Box<dyn Peer>>> {
        let program = build()?;
        let agreed = ask(&program, "agree", 1)?;
        let count = |name: &str| agreed.get(name).and_then(Value::as_u64).unwrap_or(u64::MAX);
        ensure!(count("differ") == 0, "the engines differ about {} requests", count("differ"));
        eprintln!("both agree on {} requests, {} of them allowed", count("questions"), count("allowed"));
        Ok(vec![
            Box::new(Ours { program: program.clone() }),
            Box::new(Cedar { program: program.clone(), sliced: false }),
            Box::new(Cedar { program, sliced: true }),
        ])
    }
}

/// Builds the program that measures.
fn build() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("cedar/Cargo.toml");
    let target = integration_lab::cargo_target_dir()?.join("cedar");
    eprintln!("building policy-measure with Cedar; the first time takes about 5 minutes on 2 cores");
    let status = integration_lab::cargo()
        .args(["build", "--release", "--locked", "--manifest-path"])
        .arg(&manifest)
        .arg("--target-dir")
        .arg(&target)
        .stdout(std::io::stderr())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "policy-measure does not build");
    Ok(target.join("release/policy-measure"))
}

fn ask(program: &Path, what: &str, secs: u64) -> Result<Value> {
    let output = Command::new(program)
        .args([what, &secs.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(output.status.success(), "policy-measure {what} failed");
    serde_json::from_slice(&output.stdout).context("policy-measure says something that is not JSON")
}

fn number(answer: &Value, name: &str) -> Result<f64> {
    answer.get(name).and_then(Value::as_f64).with_context(|| format!("policy-measure does not say `{name}`"))
}

fn decisions(program: &Path, peer: &str, round: &mut Round<'_>) -> Result<()> {
    let answer = ask(program, peer, round.secs())?;
    round.record(RATE, number(&answer, "rate")?)?;
    round.record(P50, number(&answer, "p50_us")?)?;
    round.record(P99, number(&answer, "p99_us")?)
}

struct Ours {
    program: PathBuf,
}

impl Peer for Ours {
    fn id(&self) -> &'static str {
        "ours"
    }

    fn label(&self) -> String {
        "Postern".into()
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        round.case("decisions", |round| decisions(&self.program, "ours", round));
        round.case("changes", |round| {
            let answer = ask(&self.program, "changes", 1)?;
            round.record(CHANGE, number(&answer, "worst_ms")?)?;
            round.record(COMPILE, number(&answer, "compile_ms")?)
        });
        round.case("changes at ten times the size", |round| {
            round.record(CHANGE_TENFOLD, number(&ask(&self.program, "changes-tenfold", 1)?, "worst_ms")?)
        });
        Ok(())
    }
}

struct Cedar {
    program: PathBuf,
    /// Whether it is given the policies of the resource alone.
    sliced: bool,
}

impl Peer for Cedar {
    fn id(&self) -> &'static str {
        if self.sliced { "cedar-sliced" } else { "cedar" }
    }

    fn label(&self) -> String {
        if self.sliced { "Cedar, sliced by resource".into() } else { "Cedar, all policies".into() }
    }

    fn version(&self) -> String {
        "cedar-policy 4.14.1".into()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        round.case("decisions", |round| decisions(&self.program, self.id(), round));
        Ok(())
    }
}

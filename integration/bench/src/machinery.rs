//! What actors cost on the packet path: the same core driven by calls and by actors, and how many instructions it takes.
//!
//! Both are measured by examples of `actors-tunnel`, which this suite builds.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::{Figure, Measure, Need, Peer, Round, Setup, Suite, Target, suite::Bound};

/// The suite.
pub struct Machinery;

const KINDS: [[&str; 3]; 2] = [
    ["bulk_ns_by_calls", "bulk_ns_by_actors", "bulk_share_percent"],
    ["sparse_ns_by_calls", "sparse_ns_by_actors", "sparse_share_percent"],
];
const BULK_INSTRUCTIONS: &str = "bulk_instructions";
const SMALL_INSTRUCTIONS: &str = "small_instructions";
/// Packets of one bulk round of the example `core`.
const BULK: f64 = 45.0;
/// Two numbers of rounds: what both have in common is not the packets'.
const ROUNDS: [u32; 2] = [20, 120];

impl Suite for Machinery {
    fn name(&self) -> &'static str {
        "machinery"
    }

    fn about(&self) -> &'static str {
        "the share of the actors in the packet path, and the instructions of its core"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::Package { program: "valgrind", package: "valgrind" }]
    }

    fn figures(&self) -> Vec<Figure> {
        let [bulk, sparse] = KINDS;
        vec![
            Figure::lower(bulk[0], "one peer, 45 full packets a batch, both ends, by calls", "ns"),
            Figure::lower(bulk[1], "the same by actors", "ns"),
            Figure::lower(bulk[2], "share of the actors", "%"),
            Figure::lower(
                sparse[0],
                "1,000 peers, one packet of 200 bytes each a batch, both ends, by calls",
                "ns",
            ),
            Figure::lower(sparse[1], "the same by actors", "ns"),
            Figure::lower(sparse[2], "share of the actors", "%"),
            Figure::lower(
                BULK_INSTRUCTIONS,
                "instructions a full packet of a batch, both ends, without system calls",
                "",
            ),
            Figure::lower(SMALL_INSTRUCTIONS, "instructions a packet of 200 bytes alone, likewise", ""),
        ]
    }

    fn targets(&self) -> Vec<Target> {
        let held = |what, figure, percent| {
            Target::new(what, Measure::Median(figure, "ours"), Bound::AtMost(percent))
        };
        vec![
            held("actors at most 5 % of the packet path with bulk flows", KINDS[0][2], 5.0),
            held("actors at most 15 % with 1,000 sparse peers", KINDS[1][2], 15.0),
        ]
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "A packet is cut, routed, queued, sealed, opened, filtered and joined; no system call is among it, so that the \
             share of the actors is larger than in a process."
                .into(),
            "Time is a packet's over both ends. Instructions are counted by callgrind.".into(),
        ]
    }

    fn peers(&self, _: &Setup) -> Result<Vec<Box<dyn Peer>>> {
        Ok(vec![Box::new(Ours { examples: build()? })])
    }
}

/// Builds the examples, and says where they are.
fn build() -> Result<PathBuf> {
    let status = integration_lab::cargo()
        .args([
            "build",
            "--release",
            "--locked",
            "-p",
            "actors-tunnel",
            "--example",
            "machinery",
            "--example",
            "core",
        ])
        .current_dir(crate::run::root())
        .stdout(std::io::stderr())
        .stdin(Stdio::null())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "the examples of actors-tunnel do not build");
    Ok(integration_lab::cargo_target_dir()?.join("release/examples"))
}

struct Ours {
    examples: PathBuf,
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
        round.case("by calls and by actors", |round| {
            let rounds = (round.secs() * 1_000).to_string();
            let output = run(Command::new(self.examples.join("machinery")).arg(rounds))?;
            let answer: Value =
                serde_json::from_str(&output).context("`machinery` says something that is not JSON")?;
            for figure in KINDS.as_flattened() {
                let value = answer.get(figure).and_then(Value::as_f64);
                round
                    .record(figure, value.with_context(|| format!("`machinery` does not say `{figure}`"))?)?;
            }
            Ok(())
        });
        round.case("instructions", |round| {
            let core = self.examples.join("core");
            round.record(BULK_INSTRUCTIONS, instructions(&core, "bulk")? / BULK)?;
            round.record(SMALL_INSTRUCTIONS, instructions(&core, "small")?)
        });
        Ok(())
    }
}

/// Instructions of one round.
fn instructions(core: &Path, load: &str) -> Result<f64> {
    let mut counted = [0.0; 2];
    for (count, rounds) in counted.iter_mut().zip(ROUNDS) {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(core);
        let output = command
            .args([&rounds.to_string(), load])
            .stdin(Stdio::null())
            .output()
            .context("cannot run valgrind")?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "valgrind failed: {said}");
        *count = collected(&said)
            .with_context(|| format!("valgrind does not say how much it collected: {said}"))?;
    }
    let [few, many] = counted;
    Ok((many - few) / f64::from(ROUNDS[1] - ROUNDS[0]))
}

/// The number after `Collected :`.
fn collected(said: &str) -> Option<f64> {
    let line = said.lines().find(|line| line.contains("Collected"))?;
    line.split_whitespace().next_back()?.parse().ok()
}

fn run(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    ensure!(output.status.success(), "{} failed", command.get_program().display());
    String::from_utf8(output.stdout).context("the output is not text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_valgrind_collected_is_read_out_of_what_it_says() {
        let said = "==1== Events    : Ir\n==1== Collected : 123456\n==1== \n==1== I   refs:      123,456\n";

        assert_eq!(collected(said), Some(123_456.0));
        assert_eq!(collected("valgrind: not found"), None);
    }
}

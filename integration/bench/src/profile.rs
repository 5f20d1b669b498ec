//! Where processor time goes: `perf record` over the processes of a tunnel while they carry a load, as flame graphs.
//!
//! Taken beside the figures and not with them, because being looked at costs time too.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use integration_lab::which;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::suite::{Need, Setup};

/// Samples a second and processor: enough for a picture, and no divisor of the timers' frequencies.
const FREQUENCY: &str = "499";
/// What of a stack is kept, bytes: the deepest of ours is less.
const STACK: &str = "dwarf,8192";
/// Narrower boxes are left out, percent of the width: the file stays below 300 KiB.
const NARROWEST: &str = "0.4";

/// What it needs that is not ours.
pub fn needs() -> Vec<Need> {
    vec![
        Need::Package { program: "perf", package: "linux-perf" },
        Need::Crate { name: "inferno", version: "0.12.8", program: "inferno-flamegraph" },
    ]
}

/// The flame graphs of a suite that lie in a folder, in the order of their names.
pub fn found(suite: &str, folder: &Path) -> Result<Vec<PathBuf>> {
    let begin = format!("{suite}-flame-");
    let ours = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(&begin) && name.ends_with(".svg")
    };
    let entries = fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?;
    let mut found: Vec<_> = entries.into_iter().map(|entry| entry.path()).filter(ours).collect();
    found.sort();
    Ok(found)
}

/// Runs a load, looks at what the processes do meanwhile, and draws `<name>.svg` into the folder for profiles.
pub fn take<R>(
    setup: &Setup,
    pids: &[u32],
    name: &str,
    title: &str,
    load: impl FnOnce() -> Result<R>,
) -> Result<R> {
    let folder = setup.profile.as_deref().context("no profile was asked for")?;
    let (data, stacks) = (folder.join("perf.data"), folder.join("perf.stacks"));
    let recording = Recording::start(pids, &data)?;
    let outcome = load();
    recording.stop()?;
    let outcome = outcome?;

    let mut script = Command::new("perf");
    script.args(["script", "--no-inline", "-i"]).arg(&data);
    let mut script =
        script.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().context("cannot run perf")?;
    let samples = script.stdout.take().context("perf has no output")?;
    let mut collapse = Command::new(setup.program("inferno-collapse-perf"));
    run(collapse.stdin(samples), &stacks)?;
    ensure!(script.wait()?.success(), "`perf script` failed");
    let mut draw = Command::new(setup.program("inferno-flamegraph"));
    draw.args(["--title", title, "--minwidth", NARROWEST, "--hash"]).arg(&stacks);
    run(draw.stdin(Stdio::null()), &folder.join(format!("{name}.svg")))?;
    fs::remove_file(&data)?;
    fs::remove_file(&stacks)?;
    Ok(outcome)
}

/// Runs a command to its end with its output in a file.
fn run(command: &mut Command, output: &Path) -> Result<()> {
    let file = File::create(output).with_context(|| format!("cannot write {}", output.display()))?;
    let name = command.get_program().to_string_lossy().into_owned();
    let status =
        command.stdout(file).stderr(Stdio::null()).status().with_context(|| format!("cannot run {name}"))?;
    ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

/// A recording that goes on.
struct Recording(Child);

impl Recording {
    fn start(pids: &[u32], data: &Path) -> Result<Self> {
        let perf = which("perf").context("there is no perf here")?;
        let pids: Vec<_> = pids.iter().map(u32::to_string).collect();
        let mut command = Command::new(perf);
        command.args(["record", "-q", "-F", FREQUENCY, "--call-graph", STACK, "-p", &pids.join(",")]);
        command.arg("-o").arg(data).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Self(command.spawn().context("cannot run perf")?))
    }

    /// Ends it in order, so that it writes down what it has.
    fn stop(mut self) -> Result<()> {
        ensure!(self.0.try_wait()?.is_none(), "perf cannot look at these processes here; it wants root");
        self.interrupt();
        self.0.wait()?;
        Ok(())
    }

    fn interrupt(&self) {
        if let Ok(pid) = i32::try_from(self.0.id()) {
            let _gone_already = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(None)) {
            self.interrupt();
            let _ended = self.0.wait();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_flame_graphs_of_the_suite_are_found() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tunnel-flame-b.svg", "tunnel-flame-a.svg", "tunnel-tcp.svg", "relay-flame-a.svg"] {
            fs::write(folder.path().join(name), "").unwrap();
        }

        let found = found("tunnel", folder.path()).unwrap();

        let names: Vec<_> = found.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["tunnel-flame-a.svg", "tunnel-flame-b.svg"]);
    }
}

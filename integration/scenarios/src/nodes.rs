//! Running programs of ours, as the scenarios see them from outside.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use integration_lab::{Done, Host, Process, program, wait};
use serde_json::Value;

/// A running `postern-control`, `postern-relay` or `postern-gateway`.
pub struct Node {
    /// Where it runs.
    pub host: Host,
    /// The running program.
    pub process: Process,
    /// Its program's name.
    pub program: &'static str,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its run directory.
    pub run_dir: PathBuf,
    /// Port of `/metrics` on its loopback.
    pub metrics_port: u16,
}

impl Node {
    /// Whether `/readyz` says 200.
    pub fn is_ready(&self) -> Result<bool> {
        let url = format!("http://127.0.0.1:{}/readyz", self.metrics_port);
        let done = self.host.try_run(&[
            "curl",
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "2",
            &url,
        ])?;
        if done.code == 0 && done.stdout == "200" {
            return Ok(true);
        }
        bail!("{}: /readyz says {} {}", self.program, done.stdout, done.stderr.trim())
    }

    /// Waits for readiness.
    pub fn wait_ready(&self, limit: Duration) -> Result<Duration> {
        wait::until_true(&format!("{} is ready", self.program), limit, || self.is_ready())
    }

    /// The text of `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        Ok(self.host.run(&["curl", "-sSf", "--max-time", "2", &url])?.stdout)
    }

    /// The sum of the metrics with this name whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> Result<f64> {
        Ok(sum_of(&self.metrics()?, name, labels))
    }

    /// `<program> status --json`.
    pub fn status(&self) -> Result<Value> {
        let program = program(self.program)?.display().to_string();
        let run_dir = self.run_dir.display().to_string();
        self.host.run(&[program.as_str(), "status", "--json", "--run-dir", &run_dir])?.json()
    }

    /// `<program> actors --json`.
    pub fn actors(&self) -> Result<Value> {
        let program = program(self.program)?.display().to_string();
        let run_dir = self.run_dir.display().to_string();
        self.host.run(&[program.as_str(), "actors", "--json", "--run-dir", &run_dir])?.json()
    }

    /// Keys of the living actors of a kind.
    pub fn actor_keys(&self, kind: &str) -> Result<Vec<String>> {
        let actors = self.actors()?;
        let rows = actors["actors"].as_array().context("no list of actors")?;
        let of_kind = rows.iter().filter(|row| row["kind"] == kind);
        Ok(of_kind.map(|row| row["key"].as_str().unwrap_or_default().to_owned()).collect())
    }
}

/// Adds up samples of a metric in the text format of Prometheus.
pub fn sum_of(text: &str, name: &str, labels: &str) -> f64 {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let named = samples.filter(|line| {
        let rest = line.strip_prefix(name);
        rest.is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(labels)
    });
    named.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

/// A running `postern daemon` with its command line.
pub struct Client {
    /// Where it runs.
    pub host: Host,
    /// The daemon.
    pub process: Process,
    /// Its state directory.
    pub state_dir: PathBuf,
    /// Its run directory.
    pub run_dir: PathBuf,
}

impl Client {
    /// Runs `postern <words>`, whatever comes of it.
    pub fn postern(&self, words: &[&str]) -> Result<Done> {
        let program = program("postern")?.display().to_string();
        let run_dir = self.run_dir.display().to_string();
        self.host.try_run(&[&[program.as_str(), "--run-dir", &run_dir], words].concat())
    }

    /// `postern status --json`.
    pub fn status(&self) -> Result<Value> {
        self.postern(&["status", "--json"])?.ok()?.json()
    }

    /// What status says of one resource.
    pub fn resource(&self, name: &str) -> Result<Value> {
        let status = self.status()?;
        let all = status["resources"].as_array().context("status lists no resources")?;
        let found = all.iter().find(|resource| resource["name"] == name);
        found.cloned().with_context(|| format!("status does not know {name}: {status}"))
    }

    /// Waits until status says that control is in a state.
    pub fn wait_control(&self, state: &str, limit: Duration) -> Result<Duration> {
        wait::until_true(&format!("control reads {state}"), limit, || {
            let status = self.status()?;
            if status["control"]["state"] == state { Ok(true) } else { bail!("{}", status["control"]) }
        })
    }

    /// How long status took to stop reading "connected"; `None` when it never did.
    pub fn wait_control_not_connected(&self, limit: Duration) -> Option<Duration> {
        wait::until_true("control reads not connected", limit, || {
            Ok(self.status()?["control"]["state"] != "connected")
        })
        .ok()
    }

    /// Waits until a field of a resource has a value.
    pub fn wait_resource(&self, name: &str, field: &str, value: &str, limit: Duration) -> Result<Duration> {
        wait::until_true(&format!("{field} of {name} is {value}"), limit, || {
            let resource = self.resource(name)?;
            if resource[field] == value { Ok(true) } else { bail!("{resource}") }
        })
    }

    /// Waits until the client knows a resource.
    pub fn wait_known(&self, name: &str, limit: Duration) -> Result<Duration> {
        wait::until_true(&format!("{name} is known"), limit, || self.resource(name).map(|_| true))
    }

    /// How many packets it dropped for a reason that contains a word, or for any reason with an empty word.
    pub fn drops(&self, word: &str) -> Result<u64> {
        let status = self.status()?;
        let drops = status["drops"].as_object().context("status has no drops")?;
        Ok(drops
            .iter()
            .filter(|(reason, _)| reason.contains(word))
            .filter_map(|(_, count)| count.as_u64())
            .sum())
    }
}

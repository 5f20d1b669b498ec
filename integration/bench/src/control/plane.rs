//! A control plane of its own with its simulated nodes.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result, ensure};
use integration_lab::{program, wait};
use serde_json::{Value, json};

/// How long control may take to be ready.
const READY: Duration = Duration::from_secs(30);

/// Control, its nodes and their directory; all gone when it is dropped.
pub struct Plane {
    dir: PathBuf,
    port: u16,
    nodes: usize,
    control: Child,
    /// Those that come and go, and those that stay: a process of its own, because what is measured is control and not how
    /// busy the others' process is.
    crowd: Option<Puppets>,
    steady: Option<Puppets>,
    changed: u32,
}

/// Nodes that stay connected through a storm.
const STEADY: usize = 100;

/// A process of simulated nodes.
struct Puppets {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Puppets {
    /// The next line of the nodes, which must be of this event.
    fn heard(&mut self, event: &str) -> Result<Value> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let said: Value = serde_json::from_str(&line).with_context(|| format!("the nodes said `{line}`"))?;
        ensure!(said["event"] == event, "the nodes said {said} instead of {event}");
        Ok(said)
    }

    fn tell(&mut self, command: &str, event: &str) -> Result<Value> {
        writeln!(self.input, "{command}")?;
        self.input.flush()?;
        self.heard(event)
    }
}

impl Drop for Puppets {
    fn drop(&mut self) {
        // They may have ended by themselves.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn epoch_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

impl Plane {
    /// Starts control with what a policy change needs, and the nodes, not yet connected.
    pub fn start(nodes: usize) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("pstn-bench-control-{}-{nodes}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let port = free_port()?;
        let control = Command::new(program("postern-control")?)
            .args([
                "serve",
                "--metrics-listen",
                "off",
                "--log",
                "warn",
                "--listen",
                &format!("127.0.0.1:{port}"),
            ])
            .arg("--state-dir")
            .arg(dir.join("state"))
            .arg("--run-dir")
            .arg(dir.join("run"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(dir.join("control.log"))?)
            .spawn()
            .context("cannot start postern-control")?;
        let mut plane = Self { dir, port, nodes, control, crowd: None, steady: None, changed: 0 };
        wait::until_true("control is ready", READY, || {
            let url = format!("https://127.0.0.1:{port}/readyz");
            Ok(Command::new("curl").args(["-skf", "--max-time", "5", &url]).output()?.status.success())
        })?;
        plane.post("sites", &json!({"name": "office"}))?;
        plane.post("groups", &json!({"name": "engineering"}))?;
        let account = plane.post("service-accounts", &json!({"name": "nodes", "groups": ["engineering"]}))?;
        let token = account["token"].as_str().context("no token")?;
        std::fs::write(plane.dir.join("token"), token)?;
        plane.steady = Some(plane.puppets(0, STEADY, STEADY)?);
        plane.crowd = Some(plane.puppets(STEADY, nodes.saturating_sub(STEADY), 0)?);
        Ok(plane)
    }

    fn puppets(&self, first: usize, nodes: usize, steady: usize) -> Result<Puppets> {
        let mut child = Command::new(program("puppet-nodes")?)
            .args(["--connect", &format!("127.0.0.1:{}", self.port), "--nodes", &nodes.to_string()])
            .args(["--first", &first.to_string(), "--steady", &steady.to_string()])
            .arg("--certificate")
            .arg(self.dir.join("state/certificate.pem"))
            .arg("--token")
            .arg(self.dir.join("token"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(self.dir.join(format!("nodes-{first}.log")))?)
            .spawn()
            .context("cannot start puppet-nodes")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let input = stdin.context("no input")?;
        let output = BufReader::new(stdout.context("no output")?);
        let mut puppets = Puppets { child, input, output };
        puppets.heard("ready")?;
        Ok(puppets)
    }

    fn crowd(&mut self) -> Result<&mut Puppets> {
        self.crowd.as_mut().context("the nodes do not run")
    }

    fn steady(&mut self) -> Result<&mut Puppets> {
        self.steady.as_mut().context("the nodes do not run")
    }

    fn post(&self, collection: &str, body: &Value) -> Result<Value> {
        let token = std::fs::read_to_string(self.dir.join("state/admin.token"))?;
        let done = Command::new("curl")
            .args(["-skSf", "--max-time", "60", "-X", "POST", "-H", "Content-Type: application/json"])
            .args(["-H", &format!("Authorization: Bearer {}", token.trim()), "-d", &body.to_string()])
            .arg(format!("https://127.0.0.1:{}/api/v1/{collection}", self.port))
            .output()?;
        ensure!(done.status.success(), "POST {collection}: {}", String::from_utf8_lossy(&done.stderr));
        Ok(serde_json::from_slice(&done.stdout)?)
    }

    /// Connects all nodes.
    pub fn up(&mut self) -> Result<()> {
        self.steady()?.tell("up", "up")?;
        self.crowd()?.tell("up", "up").map(drop)
    }

    /// Resident memory of control, MiB.
    pub fn memory_mib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.control.id()))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
        Ok(kib / 1024.0)
    }

    /// All but the steady nodes reconnect at once: seconds until the last is up, and the 99th percentile of answers to the
    /// steady ones, milliseconds.
    pub fn storm(&mut self) -> Result<(f64, f64)> {
        self.crowd()?.tell("drop", "dropped")?;
        self.steady()?.tell("probe", "probing")?;
        let up = self.crowd()?.tell("up", "up")?;
        let probed = self.steady()?.tell("probed", "probed")?;
        ensure!(probed["count"].as_u64() > Some(0), "nobody was answered: {probed}");
        Ok((up["seconds"].as_f64().context("no time")?, probed["p99_ms"].as_f64().context("no latency")?))
    }

    /// A policy opens one more resource: milliseconds until 99 of 100 nodes know it.
    pub fn change(&mut self) -> Result<f64> {
        self.changed += 1;
        let name = format!("lan-{}", self.changed);
        let address = format!("10.{}.0.0/24", self.changed);
        let resource = json!({"name": name, "kind": "cidr", "address": address, "site": "office"});
        self.post("resources", &resource)?;
        self.steady()?.tell("mark", "marked")?;
        self.crowd()?.tell("mark", "marked")?;
        let asked = epoch_millis();
        self.post("policies", &json!({"name": name, "groups": ["engineering"], "resources": [name]}))?;
        let crowd = self.nodes.saturating_sub(STEADY);
        let mut at = asked;
        for (nodes, puppets) in [(crowd, &mut self.crowd), (STEADY, &mut self.steady)] {
            let puppets = puppets.as_mut().context("the nodes do not run")?;
            let heard = puppets.tell(&format!("changes {nodes}"), "changes")?;
            ensure!(heard["count"].as_u64() == Some(nodes as u64), "not all heard of it: {heard}");
            at = at.max(heard["p99_at_ms"].as_f64().context("no time")?);
        }
        Ok(at - asked)
    }

    /// One node in a hundred reconnects a minute: cores that control used.
    pub fn churn(&mut self, seconds: u64) -> Result<f64> {
        let before = self.processor_seconds()?;
        self.crowd()?.tell(&format!("churn {seconds}"), "churned")?;
        Ok((self.processor_seconds()? - before) / seconds as f64)
    }

    /// Processor time of control so far.
    fn processor_seconds(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.control.id()))?;
        let after = stat.rsplit_once(')').context("no stat")?.1;
        let ticks = |place: usize| -> Result<f64> {
            Ok(after.split_whitespace().nth(place).context("no number")?.parse::<f64>()?)
        };
        // utime and stime; a tick is a hundredth of a second on Linux, whatever the kernel's own is.
        Ok((ticks(11)? + ticks(12)?) / 100.0)
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        (self.crowd, self.steady) = (None, None);
        let _ = self.control.kill();
        let _ = self.control.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

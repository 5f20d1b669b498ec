//! Control alone on the loopback, without a lab around it: for promises that have nothing to do with networks.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use integration_lab::{program, wait};
use serde_json::Value;

/// Control on a port of its own; ends, with its directory, when it is dropped.
pub struct Alone {
    dir: PathBuf,
    child: Child,
    port: u16,
    metrics: u16,
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

impl Alone {
    /// Starts control with these flags beside the usual ones, under this command if one is given.
    ///
    /// # Errors
    /// When it does not become ready.
    pub fn start(name: &str, flags: &[&str], under: &[&str]) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("pstn-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let (port, metrics) = (free_port()?, free_port()?);
        let control = program("postern-control")?;
        let mut words: Vec<String> = under.iter().map(|word| (*word).to_owned()).collect();
        words.push(control.display().to_string());
        words.extend(["serve", "--listen"].map(str::to_owned));
        words.push(format!("127.0.0.1:{port}"));
        words.extend(["--metrics-listen".to_owned(), format!("127.0.0.1:{metrics}")]);
        for (flag, folder) in [("--state-dir", "state"), ("--run-dir", "run")] {
            words.extend([flag.to_owned(), dir.join(folder).display().to_string()]);
        }
        words.extend(flags.iter().map(|flag| (*flag).to_owned()));
        std::fs::create_dir_all(dir.join("state"))?;
        let log = std::fs::File::create(dir.join("control.log"))?;
        let (first, rest) = words.split_first().context("no command")?;
        let child = Command::new(first)
            .args(rest)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {first}"))?;
        let alone = Self { dir, child, port, metrics };
        wait::until_true("control is ready", Duration::from_secs(30), || {
            let url = format!("http://127.0.0.1:{}/readyz", alone.metrics);
            Ok(Command::new("curl").args(["-sf", "--max-time", "5", &url]).output()?.status.success())
        })
        .with_context(|| alone.log())?;
        Ok(alone)
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What it said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("control.log")).unwrap_or_default()
    }

    /// The directory with its state, as its process sees it.
    pub fn state(&self) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{}", self.pid(), self.dir.join("state").display()))
    }

    /// Asks the API; the status and the answer.
    ///
    /// # Errors
    /// When there is no answer at all.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let token = std::fs::read_to_string(self.state().join("admin.token"))?;
        let mut curl = Command::new("curl");
        curl.args(["-sS", "-k", "--max-time", "30", "-X", method, "-w", "\n%{http_code}"]);
        curl.args(["-H", &format!("Authorization: Bearer {}", token.trim())]);
        if let Some(body) = body {
            curl.args(["-H", "Content-Type: application/json", "-d", &body.to_string()]);
        }
        let done = curl.arg(format!("{}{path}", self.url())).stdin(Stdio::null()).output()?;
        ensure!(done.status.success(), "{method} {path}: {}", String::from_utf8_lossy(&done.stderr));
        let said = String::from_utf8_lossy(&done.stdout);
        let (text, status) = said.trim_end().rsplit_once('\n').unwrap_or(("", said.trim()));
        Ok((status.parse()?, serde_json::from_str(text).unwrap_or(Value::Null)))
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

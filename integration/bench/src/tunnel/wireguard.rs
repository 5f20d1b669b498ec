//! Other people's WireGuard in user space, each with the settings that it comes with, configured with `wg`.

use std::{path::PathBuf, process::Command, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use integration_lab::{Host, Process, wait, which};

use super::{
    cases,
    ground::{Ground, TARGET, Way},
    load::Between,
    process::Processes,
};
use crate::{
    machine::first_line,
    suite::{Peer, Round},
};

/// Interfaces of the two ends; a name is known on the whole machine through its socket in /var/run/wireguard.
const NEAR: &str = "pbench-near";
const FAR: &str = "pbench-far";
const PORT: u16 = 51_820;

/// One of them.
pub struct Wireguard {
    ground: Rc<Ground>,
    id: &'static str,
    label: String,
    version: String,
    program: PathBuf,
    arguments: &'static [&'static str],
}

impl Wireguard {
    /// `gotatun-cli`.
    pub fn gotatun(ground: &Rc<Ground>, program: PathBuf) -> Self {
        let version = first_line(Command::new(&program).arg("--version"));
        let arguments = &["--foreground", "--disable-drop-privileges", "--verbosity", "error"];
        let label = "gotatun-cli".to_owned();
        Self { ground: Rc::clone(ground), id: "gotatun", label, version, program, arguments }
    }

    /// `boringtun-cli`.
    pub fn boringtun(ground: &Rc<Ground>, program: PathBuf) -> Self {
        let version = first_line(Command::new(&program).arg("--version"));
        let arguments = &["--foreground", "--disable-drop-privileges"];
        let label = "boringtun-cli".to_owned();
        Self { ground: Rc::clone(ground), id: "boringtun", label, version, program, arguments }
    }

    /// The distribution's `wireguard-go`.
    pub fn go(ground: &Rc<Ground>) -> Self {
        let program = which("wireguard-go").unwrap_or_else(|| "wireguard-go".into());
        let said = first_line(Command::new(&program).arg("--version"));
        let year = said.split_once("0.0.").and_then(|(_, date)| date.get(..4)).map(str::to_owned);
        let label = year.map_or_else(|| "wireguard-go".to_owned(), |year| format!("wireguard-go of {year}"));
        let version = format!("{said}, the distribution's package; its current releases are quicker");
        let arguments = &["--foreground"];
        Self { ground: Rc::clone(ground), id: "wireguard-go", label, version, program, arguments }
    }

    fn start(&self, host: &Host, interface: &str) -> Result<Process> {
        let name = format!("{}-{interface}", self.id);
        let process = host.launch(&name, &self.program).args(self.arguments).arg(interface).start()?;
        wait::until_true(&format!("{} answers `wg`", self.id), Duration::from_secs(10), || {
            ensure!(process.pid().is_some(), "it ended: {}{}", process.stdout(), process.stderr());
            Ok(host.try_run(&["wg", "show", interface])?.code == 0)
        })?;
        Ok(process)
    }

    /// Both ends up, with a handshake done.
    fn connect(&self) -> Result<[Process; 2]> {
        let (near, far) = (&self.ground.near, &self.ground.far);
        let ends = [self.start(near, NEAR)?, self.start(far, FAR)?];
        let mut keys = Vec::new();
        for host in [near, far] {
            let private = host.run(&["wg", "genkey"])?.stdout;
            let public = host.run_with(&["wg", "pubkey"], &private)?.stdout.trim().to_owned();
            keys.push((private, public));
        }
        let [(near_private, near_public), (far_private, far_public)] = keys.as_slice() else {
            anyhow::bail!("two ends have two keys");
        };
        let endpoint = format!("{}:{PORT}", Way::Direct.far());
        let near_words =
            ["allowed-ips", "10.99.0.1/32,10.98.0.0/24", "endpoint", &endpoint, "persistent-keepalive", "25"];
        set(near, NEAR, near_private, far_public, &near_words)?;
        set(far, FAR, far_private, near_public, &["allowed-ips", "10.98.0.1/32"])?;
        for (host, interface, address) in [(near, NEAR, "10.98.0.1/24"), (far, FAR, "10.98.0.2/24")] {
            host.address(interface, &[address])?;
            host.ip(&format!("link set {interface} mtu 1420 up"))?;
        }
        near.ip(&format!("route replace {TARGET}/32 dev {NEAR}"))?;
        wait::until_true("the first echo comes back", Duration::from_secs(10), || {
            Ok(near.try_run(&["ping", "-c1", "-W1", TARGET])?.code == 0)
        })?;
        Ok(ends)
    }
}

fn set(host: &Host, interface: &str, private: &str, peer: &str, words: &[&str]) -> Result<()> {
    let port = PORT.to_string();
    let start =
        ["wg", "set", interface, "listen-port", &port, "private-key", "/dev/stdin", "peer", peer.trim()];
    host.run_with(&[&start, words].concat(), private).context("`wg set` failed")?;
    Ok(())
}

impl Peer for Wireguard {
    fn id(&self) -> &'static str {
        self.id
    }

    fn label(&self) -> String {
        self.label.clone()
    }

    fn version(&self) -> String {
        self.version.clone()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        let ground = Rc::clone(&self.ground);
        ground.open(Way::Direct)?;
        let ends = self.connect()?;
        let processes = Processes::of(&[&ends[0], &ends[1]])?;
        let between = Between { near: &ground.near, far: &ground.far, target: TARGET, processes: &processes };
        cases::idle_memory(round, between);
        cases::streams(round, between);
        cases::small_packets(round, between, false);
        cases::echoes(round, between);
        cases::peak_memory(round, between);
        Ok(())
    }
}

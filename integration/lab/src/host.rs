//! One host: a namespace with its interfaces, names, firewall rules and programs.

use std::{
    ffi::{OsStr, OsString},
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    Launch,
    lab::Shared,
    run::{Done, run_for},
};

/// A namespace of a lab. Clones are the same host.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
    name: String,
    namespace: String,
    dir: PathBuf,
    etc: PathBuf,
    env: Vec<(OsString, OsString)>,
}

impl Host {
    pub(crate) fn new(shared: Arc<Shared>, name: &str, namespace: &str, dir: PathBuf, etc: PathBuf) -> Self {
        Self { shared, name: name.to_owned(), namespace: namespace.to_owned(), dir, etc, env: Vec::new() }
    }

    /// The host's name inside the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name of its namespace, for `ip netns exec`.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its folder: logs of its programs, and room for their state.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same host with a variable that every program started through it sees.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Runs `ip <words>` in the namespace.
    pub fn ip(&self, words: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-netns", &self.namespace]).args(words.split_whitespace());
        run_for(&mut command, None, Duration::from_secs(20))?.ok()?;
        Ok(())
    }

    /// Gives an interface addresses in prefix notation; IPv6 ones are usable at once.
    pub fn address(&self, interface: &str, addresses: &[&str]) -> Result<()> {
        for address in addresses {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            self.ip(&format!("address add {address} dev {interface} {nodad}"))?;
        }
        Ok(())
    }

    /// Sets the default route through a router.
    pub fn default_route(&self, through: IpAddr) -> Result<()> {
        let family = if through.is_ipv6() { "-6" } else { "-4" };
        self.ip(&format!("{family} route replace default via {through}"))
    }

    /// Makes a switch of interfaces of this host.
    pub fn bridge(&self, bridge: &str, ports: &[&str]) -> Result<()> {
        self.ip(&format!("link add {bridge} type bridge"))?;
        self.ip(&format!("link set {bridge} up"))?;
        for port in ports {
            self.ip(&format!("link set {port} master {bridge}"))?;
        }
        Ok(())
    }

    /// Sets a kernel parameter of the namespace, by its dotted name.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        self.run(&["sh", "-c", &format!("echo {value} > {path}")])?;
        Ok(())
    }

    /// Name servers, and names with fixed addresses, for every program of this host and whoever enters it.
    pub fn names(&self, servers: &[IpAddr], known: &[(&str, IpAddr)]) -> Result<()> {
        let resolv: String = servers.iter().map(|server| format!("nameserver {server}\n")).collect();
        let hosts: String = known.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        fs::write(self.etc.join("resolv.conf"), format!("{resolv}options timeout:1 attempts:2\n"))?;
        fs::write(
            self.etc.join("hosts"),
            format!("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 {}\n{hosts}", self.name),
        )?;
        Ok(())
    }

    /// The text of the `resolv.conf` that programs of this host see.
    pub fn resolv_conf(&self) -> Result<String> {
        fs::read_to_string(self.etc.join("resolv.conf")).context("no resolv.conf")
    }

    /// Feeds a script to `nft -f -` in the namespace.
    pub fn nft(&self, script: &str) -> Result<()> {
        let mut command = self.command(&["nft", "-f", "-"]);
        run_for(&mut command, Some(script), Duration::from_secs(20))?.ok()?;
        Ok(())
    }

    /// Drops this share of what arrives on an interface, at random; 0 takes the rule away.
    pub fn lose(&self, interface: &str, per_mille: u32) -> Result<()> {
        let rule = if per_mille == 0 {
            String::new()
        } else {
            format!("numgen random mod 1000 < {per_mille} counter drop\n")
        };
        self.nft(&format!(
            "table netdev lab_loss_{interface}\ndelete table netdev lab_loss_{interface}\n\
             table netdev lab_loss_{interface} {{\n chain arriving {{\n  \
             type filter hook ingress device \"{interface}\" priority 0;\n  {rule} }}\n}}\n"
        ))
    }

    /// Limits what leaves an interface; `None` takes the limit away.
    pub fn rate(&self, interface: &str, kilobits: Option<u32>) -> Result<()> {
        let mut command = Command::new("tc");
        command.args(["-netns", &self.namespace, "qdisc"]);
        match kilobits {
            Some(rate) => {
                let rate = format!("{rate}kbit");
                command.args(["replace", "dev", interface, "root", "tbf", "rate", &rate]);
                command.args(["burst", "64kb", "latency", "100ms"]);
            }
            None => {
                command.args(["del", "dev", interface, "root"]);
            }
        }
        run_for(&mut command, None, Duration::from_secs(20))?.ok()?;
        Ok(())
    }

    /// Lets packets leave an interface one by one, as on a wire, instead of many as one that is cut at the far end.
    pub fn send_singly(&self, interface: &str) -> Result<()> {
        self.ip(&format!("link set {interface} gso_max_segs 1"))
    }

    /// Runs a command to its end and returns what it said, whether it succeeded or not.
    pub fn try_run(&self, argv: &[impl AsRef<OsStr>]) -> Result<Done> {
        self.try_run_for(argv, Duration::from_secs(60))
    }

    /// The same, killed at the limit.
    pub fn try_run_for(&self, argv: &[impl AsRef<OsStr>], limit: Duration) -> Result<Done> {
        run_for(&mut self.command(argv), None, limit)
    }

    /// Runs a command to its end; an error when it fails.
    pub fn run(&self, argv: &[impl AsRef<OsStr>]) -> Result<Done> {
        self.try_run(argv)?.ok()
    }

    /// Runs a command with standard input.
    pub fn run_with(&self, argv: &[impl AsRef<OsStr>], input: &str) -> Result<Done> {
        run_for(&mut self.command(argv), Some(input), Duration::from_secs(60))?.ok()
    }

    /// A program that will go on running in this host; `name` names its logs.
    pub fn launch(&self, name: &str, program: impl AsRef<OsStr>) -> Launch {
        Launch::new(self, name, program.as_ref())
    }

    /// A command line prepared to run in the namespace.
    pub fn command(&self, argv: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).args(argv);
        command.envs(self.env.iter().map(|(name, value)| (name, value))).current_dir(&self.dir);
        command
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

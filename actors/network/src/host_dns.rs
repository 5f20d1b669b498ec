//! Makes the host ask the stub resolver for names, and undoes that.
//!
//! - Parent: the process's root, on a control lane of the client.
//! - Core: [`resolv_file`] and [`resolved`], the two ways a host is told.
//! - When it dies: the host goes on asking the stub resolver; the next incarnation tells it again. On exit the host's own
//!   settings come back, and what a predecessor could not give back is given back at start.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Outlet, Reply};

use crate::resolv_file;
use crate::resolved::{self, ResolvedError};

/// Others write `resolv.conf` too (DHCP clients): how long names are gone then.
const RECHECK: Duration = Duration::from_secs(5);

/// How the host is made to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostDnsMode {
    /// Through resolved where it runs and takes it, else by the file.
    Auto,
    /// Through systemd-resolved: only questions about resources come here.
    Resolved,
    /// By `resolv.conf`: all questions come here, and most are passed on.
    File,
    /// Not at all.
    Off,
}

/// Where the host's DNS settings are.
#[derive(Clone, Debug)]
pub struct HostDnsConfig {
    /// How.
    pub mode: HostDnsMode,
    /// The TUN device, for resolved.
    pub device: String,
    /// Where the stub resolver listens, on port 53.
    pub server: IpAddr,
    /// Usually `/etc/resolv.conf`.
    pub resolv_conf: PathBuf,
    /// Servers for other names instead of those that the host used before; empty for those.
    pub upstreams: Vec<SocketAddr>,
}

impl HostDnsConfig {
    /// The usual places.
    pub fn new(mode: HostDnsMode, device: &str) -> Self {
        Self {
            mode,
            device: device.to_owned(),
            server: IpAddr::V4(crate::STUB_ADDRESS),
            resolv_conf: PathBuf::from("/etc/resolv.conf"),
            upstreams: Vec::new(),
        }
    }
}

/// Why the host could not be told.
#[derive(Debug, thiserror::Error)]
pub enum HostDnsError {
    /// Through resolved.
    #[error("systemd-resolved was not told")]
    Resolved(#[from] ResolvedError),
    /// By the file.
    #[error("{0} cannot be written")]
    File(PathBuf, #[source] io::Error),
}

/// How the host asks now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDnsReport {
    /// [`HostDnsMode::Resolved`], [`HostDnsMode::File`] or [`HostDnsMode::Off`].
    pub mode: HostDnsMode,
    /// Who answers other names.
    pub upstreams: Vec<SocketAddr>,
}

type Done = Option<Reply<Result<HostDnsReport, HostDnsError>>>;

/// What [`HostDns`] can be told.
#[derive(Debug)]
pub enum HostDnsCommand {
    /// Makes the host ask for these names (all of them, names and patterns).
    Apply {
        /// The names of resources.
        names: Vec<String>,
        /// Hears how.
        done: Done,
    },
    /// Looks again, because the host's network changed.
    Refresh,
    /// Gives the host its own settings back.
    Clear {
        /// Hears when that is done.
        done: Option<Reply<()>>,
    },
}

/// What a restarted actor takes over. The factory keeps it.
#[derive(Clone, Debug, Default)]
pub struct KeptHostDns(Rc<RefCell<Option<Vec<String>>>>);

/// The keeper of the host's DNS settings.
pub struct HostDns {
    config: Rc<HostDnsConfig>,
    kept: KeptHostDns,
    upstreams: Outlet<Vec<SocketAddr>>,
    told: Option<Vec<SocketAddr>>,
    /// The mode in force: what `Auto` came to.
    in_force: Option<HostDnsMode>,
    busy: bool,
    waiting: Option<HostDnsCommand>,
}

impl HostDns {
    /// A keeper that tells `upstreams` who answers other names: the stub resolver.
    pub fn new(config: HostDnsConfig, kept: KeptHostDns, upstreams: Outlet<Vec<SocketAddr>>) -> Self {
        Self {
            config: Rc::new(config),
            kept,
            upstreams,
            told: None,
            in_force: None,
            busy: false,
            waiting: None,
        }
    }

    fn next(&mut self, cx: &mut Cx<Self>) {
        if self.busy {
            return;
        }
        let config = Rc::clone(&self.config);
        match self.waiting.take() {
            None => {}
            Some(HostDnsCommand::Refresh) => {
                let names = self.kept.0.borrow().clone();
                if let Some(names) = names {
                    self.waiting = Some(HostDnsCommand::Apply { names, done: None });
                    self.next(cx);
                }
            }
            Some(HostDnsCommand::Apply { names, done }) => {
                self.busy = true;
                cx.spawn(async move { apply(&config, &names).await }, |actor, result, cx| {
                    actor.busy = false;
                    match &result {
                        Ok(report) => actor.applied(report, cx),
                        Err(error) => tracing::error!(error = %error, "names of resources cannot be found"),
                    }
                    if let Some(done) = done {
                        done.send(result);
                    }
                    actor.next(cx);
                });
            }
            Some(HostDnsCommand::Clear { done }) => {
                self.busy = true;
                cx.wake_never();
                cx.spawn(async move { clear(&config).await }, |actor, result, cx| {
                    actor.busy = false;
                    actor.in_force = None;
                    if let Err(error) = result {
                        tracing::warn!(error = %error, "the host's DNS settings could not be given back");
                    }
                    if let Some(done) = done {
                        done.send(());
                    }
                    actor.next(cx);
                });
            }
        }
    }

    fn applied(&mut self, report: &HostDnsReport, cx: &mut Cx<Self>) {
        if self.in_force != Some(report.mode) {
            tracing::info!(mode = ?report.mode, "the host asks for names of resources here");
            self.in_force = Some(report.mode);
        }
        if self.told.as_ref() != Some(&report.upstreams)
            && self.upstreams.tell(report.upstreams.clone()).is_ok()
        {
            self.told = Some(report.upstreams.clone());
        }
        cx.wake_after(RECHECK);
    }
}

async fn apply(config: &HostDnsConfig, names: &[String]) -> Result<HostDnsReport, HostDnsError> {
    let report = |mode, found: Vec<SocketAddr>| {
        let ours = SocketAddr::new(config.server, 53);
        let found = if config.upstreams.is_empty() { found } else { config.upstreams.clone() };
        Ok(HostDnsReport { mode, upstreams: found.into_iter().filter(|server| *server != ours).collect() })
    };
    let by_resolved = || resolved::set(&config.device, config.server, names);
    match config.mode {
        HostDnsMode::Off => {
            report(HostDnsMode::Off, crate::dns_servers(&crate::resolv_conf::read(&config.resolv_conf)))
        }
        HostDnsMode::Resolved => {
            by_resolved().await?;
            report(HostDnsMode::Resolved, resolved::upstreams())
        }
        HostDnsMode::Auto if by_resolved().await.is_ok() => {
            report(HostDnsMode::Resolved, resolved::upstreams())
        }
        HostDnsMode::Auto | HostDnsMode::File => {
            let original = resolv_file::take(&config.resolv_conf, config.server)
                .map_err(|error| HostDnsError::File(config.resolv_conf.clone(), error))?;
            report(HostDnsMode::File, original.servers())
        }
    }
}

async fn clear(config: &HostDnsConfig) -> Result<(), HostDnsError> {
    let file = give_back(&config.resolv_conf);
    if matches!(config.mode, HostDnsMode::Auto | HostDnsMode::Resolved) {
        // The settings go with the device; a device that is not there has none.
        let _ = resolved::unset(&config.device).await;
    }
    file
}

fn give_back(path: &Path) -> Result<(), HostDnsError> {
    resolv_file::give_back(path).map_err(|error| HostDnsError::File(path.to_path_buf(), error))
}

/// Gives `resolv.conf` back if it is ours, for code that cannot wait.
///
/// # Errors
/// The file cannot be written.
pub fn clean_host_dns_blocking(config: &HostDnsConfig) -> Result<(), HostDnsError> {
    give_back(&config.resolv_conf)
}

impl Actor for HostDns {
    const KIND: &'static str = "HostDns";
    type Command = HostDnsCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let names = self.kept.0.borrow().clone();
        self.waiting = Some(match names {
            Some(names) => HostDnsCommand::Apply { names, done: None },
            None => HostDnsCommand::Clear { done: None },
        });
        self.next(cx);
    }

    fn told(&mut self, command: HostDnsCommand, cx: &mut Cx<Self>) {
        match &command {
            HostDnsCommand::Apply { names, .. } => *self.kept.0.borrow_mut() = Some(names.clone()),
            HostDnsCommand::Clear { .. } => *self.kept.0.borrow_mut() = None,
            // What waits will look anyway.
            HostDnsCommand::Refresh if self.waiting.is_some() => return,
            HostDnsCommand::Refresh => {}
        }
        // The newest wins: each says everything.
        self.waiting = Some(command);
        self.next(cx);
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let taken =
            self.in_force == Some(HostDnsMode::File) && !resolv_file::is_ours(&self.config.resolv_conf);
        if taken && self.waiting.is_none() {
            tracing::info!("somebody else wrote the host's DNS settings; they are taken over again");
            self.waiting = Some(HostDnsCommand::Refresh);
            self.next(cx);
        }
        cx.wake_after(RECHECK);
    }

    fn stopped(&mut self, _: &mut Cx<Self>) {
        if let Err(error) = clean_host_dns_blocking(&self.config) {
            tracing::error!(error = %error, "the host's DNS settings could not be given back");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use actors_runtime::{Address, LaneKind, Universe};

    use super::*;
    use crate::testing::{row, until};

    const TEXT: &str = "nameserver 192.0.2.1\n";

    type Heard = Arc<Mutex<Vec<Vec<SocketAddr>>>>;

    fn started(config: HostDnsConfig) -> (Universe, Address<HostDns>, Heard) {
        let universe = Universe::new::<()>(&[row("HostDns", LaneKind::Control)]);
        let (kept, heard) = (KeptHostDns::default(), Heard::default());
        let ear = heard.clone();
        let outlet = Outlet::to(move |upstreams| {
            ear.lock().unwrap().push(upstreams);
            Ok(())
        });
        let factory = move || HostDns::new(config.clone(), kept.clone(), outlet.clone());
        let address = universe.start("", factory).unwrap().address;
        (universe, address, heard)
    }

    fn file(text: &str) -> (tempfile::TempDir, HostDnsConfig) {
        let folder = tempfile::tempdir().unwrap();
        let resolv_conf = folder.path().join("resolv.conf");
        fs::write(&resolv_conf, text).unwrap();
        (folder, HostDnsConfig { resolv_conf, ..HostDnsConfig::new(HostDnsMode::File, "postern0") })
    }

    fn apply_to(universe: &Universe, address: &Address<HostDns>) -> HostDnsReport {
        let (done, answer) = Reply::channel();
        let names = vec!["wiki.corp.example".to_owned()];
        address.tell(HostDnsCommand::Apply { names, done: Some(done) }).unwrap();
        universe.block_on(answer).unwrap().unwrap()
    }

    fn servers(config: &HostDnsConfig) -> Vec<String> {
        let text = fs::read_to_string(&config.resolv_conf).unwrap();
        crate::dns_servers(&text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_host_asks_here_until_the_end_and_the_stub_hears_whom_it_asked_before() {
        let (_folder, config) = file(TEXT);
        let (universe, address, heard) = started(config.clone());

        let report = apply_to(&universe, &address);

        assert_eq!(
            report,
            HostDnsReport { mode: HostDnsMode::File, upstreams: vec!["192.0.2.1:53".parse().unwrap()] }
        );
        assert_eq!(servers(&config), ["100.127.255.53:53"]);
        assert_eq!(*heard.lock().unwrap(), [report.upstreams]);
        universe.stop(&address);
        universe.settle();
        assert_eq!(fs::read_to_string(&config.resolv_conf).unwrap(), TEXT);
    }

    #[test]
    fn what_a_crashed_predecessor_left_is_given_back_at_start() {
        let (_folder, config) = file(TEXT);
        let (crashed, address, _) = started(config.clone());
        apply_to(&crashed, &address);
        // A killed process runs nothing on its way out.
        std::mem::forget(crashed);
        assert_eq!(servers(&config), ["100.127.255.53:53"]);

        let (universe, _address, _) = started(config.clone());
        universe.block_on(until("the original", || servers(&config) == ["192.0.2.1:53"]));
    }

    #[test]
    fn settings_that_somebody_else_writes_are_taken_over_with_their_servers() {
        let (_folder, config) = file(TEXT);
        let (universe, address, heard) = started(config.clone());
        apply_to(&universe, &address);

        fs::write(&config.resolv_conf, "nameserver 192.0.2.2\n").unwrap();
        universe.advance(RECHECK);

        universe.block_on(until("taken over", || heard.lock().unwrap().len() == 2));
        assert_eq!(servers(&config), ["100.127.255.53:53"]);
        assert_eq!(heard.lock().unwrap()[1], ["192.0.2.2:53".parse().unwrap()]);
        universe.stop(&address);
        universe.settle();
        assert_eq!(servers(&config), ["192.0.2.2:53"]);
    }

    #[test]
    fn given_servers_win_and_off_changes_nothing() {
        let (_folder, mut config) = file(TEXT);
        config.mode = HostDnsMode::Off;
        config.upstreams = vec!["192.0.2.7:5353".parse().unwrap()];
        let (universe, address, heard) = started(config.clone());

        let report = apply_to(&universe, &address);

        assert_eq!(report.mode, HostDnsMode::Off);
        assert_eq!(*heard.lock().unwrap(), [config.upstreams.clone()]);
        assert_eq!(fs::read_to_string(&config.resolv_conf).unwrap(), TEXT);
    }

    #[test]
    fn where_resolved_does_not_run_the_file_is_written() {
        if Path::new("/run/systemd/resolve/io.systemd.Resolve").exists() {
            eprintln!("skipped: systemd-resolved runs here");
            return;
        }
        let (_folder, config) = file(TEXT);
        let (universe, address, _) = started(HostDnsConfig { mode: HostDnsMode::Auto, ..config.clone() });

        assert_eq!(apply_to(&universe, &address).mode, HostDnsMode::File);

        let (_other, only) = file(TEXT);
        let (universe, address, _) = started(HostDnsConfig { mode: HostDnsMode::Resolved, ..only.clone() });
        let (done, answer) = Reply::channel();
        address.tell(HostDnsCommand::Apply { names: Vec::new(), done: Some(done) }).unwrap();
        assert!(matches!(
            universe.block_on(answer).unwrap(),
            Err(HostDnsError::Resolved(ResolvedError::NotRunning))
        ));
        assert_eq!(fs::read_to_string(&only.resolv_conf).unwrap(), TEXT);
    }
}

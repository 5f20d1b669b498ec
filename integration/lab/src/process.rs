//! Programs that go on running, as values: dropping one ends it.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
pub use nix::sys::signal::Signal;
use nix::{sys::signal, unistd::Pid};

use crate::Host;

/// What systemd waits before it restarts a service when its unit says nothing.
const RESTART_DELAY: Duration = Duration::from_millis(100);

/// A program about to be started in a host.
#[must_use]
pub struct Launch {
    host: Host,
    name: String,
    argv: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    restart: bool,
    outside: bool,
}

impl Launch {
    pub(crate) fn new(host: &Host, name: &str, program: &OsStr) -> Self {
        Self {
            host: host.clone(),
            name: name.to_owned(),
            argv: vec![program.to_owned()],
            env: Vec::new(),
            restart: false,
            outside: false,
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.argv.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<T: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = T>) -> Self {
        self.argv.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Adds a variable.
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Starts it again 100 ms after it died, as systemd does, until the value is dropped or told to stop.
    pub fn supervised(mut self) -> Self {
        self.restart = true;
        self
    }

    /// Starts it beside the namespace and not in it: for a program that enters the namespace by itself.
    pub(crate) fn outside(mut self) -> Self {
        self.outside = true;
        self
    }

    /// Starts it.
    pub fn start(self) -> Result<Process> {
        let log = |ending: &str| self.host.dir().join(format!("{}.{ending}", self.name));
        let kept = Arc::new(Kept {
            stdout: log("out"),
            stderr: log("err"),
            running: Mutex::new(Running { child: None, ended: None }),
            starts: AtomicU32::new(0),
            stopping: AtomicBool::new(false),
            launch: self,
        });
        kept.launch.host.shared().keep_process(&kept)?;
        kept.start()?;
        if kept.launch.restart {
            let supervised = Arc::downgrade(&kept);
            std::thread::Builder::new().name("lab-supervisor".into()).spawn(move || {
                while let Some(kept) = supervised.upgrade() {
                    if !kept.supervise() {
                        break;
                    }
                    drop(kept);
                    std::thread::sleep(Duration::from_millis(5));
                }
            })?;
        }
        Ok(Process { kept })
    }
}

pub(crate) struct Kept {
    launch: Launch,
    stdout: PathBuf,
    stderr: PathBuf,
    running: Mutex<Running>,
    starts: AtomicU32,
    stopping: AtomicBool,
}

struct Running {
    child: Option<Child>,
    ended: Option<(ExitStatus, Instant)>,
}

impl Kept {
    fn start(&self) -> Result<()> {
        let append = |path: &Path| File::options().create(true).append(true).open(path);
        let mut command: Command = if self.launch.outside {
            crate::run::command_of(&self.launch.argv)?
        } else {
            self.launch.host.command(&self.launch.argv)
        };
        command.envs(self.launch.env.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::null())
            .stdout(append(&self.stdout)?)
            .stderr(append(&self.stderr)?)
            .process_group(0);
        let mut running = self.running();
        if self.stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", self.launch.name))?;
        *running = Running { child: Some(child), ended: None };
        self.starts.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// One look of the supervisor; false when there is nothing left to supervise.
    fn supervise(&self) -> bool {
        if self.stopping.load(Ordering::Acquire) || self.launch.host.shared().is_closing() {
            return false;
        }
        let ended = { self.running().look() };
        if ended.is_some_and(|(_, at)| at.elapsed() >= RESTART_DELAY) {
            let _tried_again_at_the_next_look = self.start();
        }
        true
    }

    fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn signal(&self, signal: Signal) -> bool {
        let mut running = self.running();
        running.look();
        match &running.child {
            Some(child) => {
                kill_group(child.id(), signal);
                true
            }
            None => false,
        }
    }

    pub(crate) fn ask_to_end(&self) {
        self.stopping.store(true, Ordering::Release);
        self.signal(Signal::SIGTERM);
    }

    pub(crate) fn end_within(&self, grace: Duration) -> Option<ExitStatus> {
        let asked = Instant::now();
        loop {
            if let Some((status, _)) = self.running().look() {
                return Some(status);
            }
            if asked.elapsed() > grace && !self.signal(Signal::SIGKILL) {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn last_words(&self, lines: usize) -> String {
        let text = fs::read(&self.stderr).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<_> = text.lines().collect();
        let tail = all[all.len().saturating_sub(lines)..].join("\n    ");
        let ended = self.running().look().map(|(status, _)| format!(" ({status})")).unwrap_or_default();
        format!("--- {} on {}{ended}:\n    {tail}\n", self.launch.name, self.launch.host.name())
    }
}

impl Running {
    /// Reaps the child when it has ended; after that its id is never signalled again.
    fn look(&mut self) -> Option<(ExitStatus, Instant)> {
        if let Some(child) = &mut self.child
            && let Ok(Some(status)) = child.try_wait()
        {
            self.child = None;
            self.ended = Some((status, Instant::now()));
        }
        self.ended
    }
}

/// A running program. Dropping it sends SIGTERM, and SIGKILL to its whole group when it has not ended after 2 s.
pub struct Process {
    kept: Arc<Kept>,
}

impl Process {
    /// The id of the process that runs now; `None` when it has ended.
    pub fn pid(&self) -> Option<u32> {
        let mut running = self.kept.running();
        running.look();
        running.child.as_ref().map(Child::id)
    }

    /// How often it was started.
    pub fn starts(&self) -> u32 {
        self.kept.starts.load(Ordering::Acquire)
    }

    /// Sends a signal to its process group; false when it has ended.
    pub fn signal(&self, signal: Signal) -> bool {
        self.kept.signal(signal)
    }

    /// Kills it with -9. A supervised one comes back.
    pub fn kill(&self) -> Result<()> {
        if self.signal(Signal::SIGKILL) { Ok(()) } else { bail!("{} does not run", self.kept.launch.name) }
    }

    /// Ends it with SIGTERM, for good, and returns its exit code (128 + signal when one ended it).
    pub fn stop(&self, grace: Duration) -> Result<i32> {
        self.kept.ask_to_end();
        let status = self.kept.end_within(grace).context("it was never started")?;
        Ok(code_of(status))
    }

    /// Waits until it ends by itself, and returns its exit code.
    pub fn wait(&self, limit: Duration) -> Result<i32> {
        let what = format!("{} ends", self.kept.launch.name);
        let (status, _) = crate::wait::until(&what, limit, || Ok(self.kept.running().look()))?;
        Ok(code_of(status.0))
    }

    /// What it has written to standard output so far, over all its starts.
    pub fn stdout(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.kept.stdout).unwrap_or_default()).into_owned()
    }

    /// What it has written to standard error so far, over all its starts.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.kept.stderr).unwrap_or_default()).into_owned()
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.kept.launch.name))?;
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kilobytes: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kilobytes * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kept.ask_to_end();
        self.kept.end_within(Duration::from_secs(2));
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Signals a process group that this process made and has not reaped yet.
pub(crate) fn kill_group(leader: u32, with: Signal) {
    if let Ok(leader) = i32::try_from(leader) {
        let _gone_already = signal::killpg(Pid::from_raw(leader), with);
    }
}

pub(crate) fn kill_one(pid: u32, with: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        let _gone_already = signal::kill(Pid::from_raw(pid), with);
    }
}

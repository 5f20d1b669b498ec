//! The lab: it makes namespaces, remembers what it made, and removes all of it.

use std::{
    fs::{self, File},
    io::{Read, Write},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    Host, Privilege, privilege,
    process::{self, Kept},
    run::{run, run_for},
};

/// Where every running lab has a locked file that lists its namespaces; what a dead lab left is found through it.
const REGISTER: &str = "/run/postern-lab";

/// How the names of all folders begin that labs make; only such are ever removed.
const DIR_PREFIX: &str = "postern-lab.";

/// How long a program has to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(2);

/// A set of namespaces with one prefix, and everything that runs in them.
pub struct Lab {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    prefix: String,
    dir: PathBuf,
    record: PathBuf,
    lock: File,
    made: Mutex<Made>,
    closing: AtomicBool,
    by_signal: AtomicBool,
    torn_down: Mutex<bool>,
}

#[derive(Default)]
struct Made {
    namespaces: Vec<String>,
    dirs: Vec<PathBuf>,
    processes: Vec<Weak<Kept>>,
}

impl Lab {
    /// A lab with a prefix of its own: any number of them live side by side.
    pub fn unique() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Self::open(&format!("pl{}x{number}", std::process::id()))
    }

    /// A lab whose namespaces are called `<prefix>-<host>`: one on a machine at a time.
    pub fn named(prefix: &str) -> Result<Self> {
        Self::open(prefix)
    }

    fn open(prefix: &str) -> Result<Self> {
        if privilege() == Privilege::None {
            bail!("network namespaces need root, or `cargo xtask`, which enters a user namespace by itself");
        }
        fs::create_dir_all(REGISTER).with_context(|| format!("cannot make {REGISTER}"))?;
        sweep()?;
        let record = Path::new(REGISTER).join(prefix);
        let lock = File::options().create(true).append(true).read(true).open(&record)?;
        if lock.try_lock().is_err() {
            bail!(
                "a lab called `{prefix}` is running already; end it first ({} is locked)",
                record.display()
            );
        }
        let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join(format!("{DIR_PREFIX}XXXXXX")))?;
        writeln!(&lock, "dir {}", dir.display())?;
        let shared = Arc::new(Shared {
            prefix: prefix.to_owned(),
            dir,
            record,
            lock,
            made: Mutex::default(),
            closing: AtomicBool::new(false),
            by_signal: AtomicBool::new(false),
            torn_down: Mutex::new(false),
        });
        crate::signals::register(&shared)?;
        Ok(Self { shared })
    }

    /// A new namespace `<prefix>-<name>`, with loopback up and duplicate address detection off.
    pub fn host(&self, name: &str) -> Result<Host> {
        let namespace = format!("{}-{name}", self.shared.prefix);
        self.shared.add_namespace(&namespace)?;
        let dir = self.shared.dir.join(name);
        fs::create_dir_all(&dir)?;
        let etc = Path::new("/etc/netns").join(&namespace);
        fs::create_dir_all(&etc).with_context(|| format!("cannot make {}", etc.display()))?;
        let host = Host::new(Arc::clone(&self.shared), name, &namespace, dir, etc);
        host.names(&[], &[])?;
        host.sysctl("net.ipv6.conf.all.accept_dad", "0")?;
        host.sysctl("net.ipv6.conf.default.accept_dad", "0")?;
        host.ip("link set lo up")?;
        Ok(host)
    }

    /// A virtual cable between an interface of one host and an interface of another, both up.
    pub fn link(&self, one: (&Host, &str), other: (&Host, &str)) -> Result<()> {
        let (near, far) = (one.0.namespace(), other.0.namespace());
        let words = [
            "ip", "link", "add", one.1, "netns", near, "type", "veth", "peer", "name", other.1, "netns", far,
        ];
        run(&words)?;
        one.0.ip(&format!("link set {} up", one.1))?;
        other.0.ip(&format!("link set {} up", other.1))
    }

    /// The folder of the lab: logs and state of everything in it. It goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// A folder of the lab's in another place, made by whoever asks; it goes with the lab.
    pub(crate) fn dir_in(&self, parent: &Path, name: &str) -> Result<PathBuf> {
        let dir = parent.join(format!("{DIR_PREFIX}{}.{name}", self.shared.prefix));
        writeln!(&self.shared.lock, "dir {}", dir.display())?;
        self.shared.made().dirs.push(dir.clone());
        Ok(dir)
    }

    /// The last lines that each program of the lab wrote to standard error, for a message about a failure.
    pub fn last_words(&self, lines: usize) -> String {
        self.shared.last_words(lines)
    }

    /// Removes everything now, and says what could not be removed.
    pub fn close(self) -> Result<()> {
        self.shared.tear_down();
        let left = self.shared.leavings();
        if left.is_empty() { Ok(()) } else { bail!("left behind: {}", left.join(", ")) }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.shared.last_words(12));
        }
        self.shared.tear_down();
        crate::signals::rest_when_interrupted();
    }
}

impl Shared {
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    pub(crate) fn is_closing_for_signal(&self) -> bool {
        self.by_signal.load(Ordering::Acquire)
    }

    pub(crate) fn tear_down_for_signal(&self) {
        self.by_signal.store(true, Ordering::Release);
        self.tear_down();
    }

    fn add_namespace(&self, namespace: &str) -> Result<()> {
        let mut made = self.made();
        if self.is_closing() {
            bail!("the lab is being torn down");
        }
        // Written down before it is made, so that a crash in between leaves nothing unknown.
        writeln!(&self.lock, "namespace {namespace}")?;
        run(&["ip", "netns", "add", namespace])?;
        made.namespaces.push(namespace.to_owned());
        Ok(())
    }

    pub(crate) fn keep_process(&self, process: &Arc<Kept>) -> Result<()> {
        let mut made = self.made();
        if self.is_closing() {
            bail!("the lab is being torn down");
        }
        made.processes.retain(|process| process.strong_count() > 0);
        made.processes.push(Arc::downgrade(process));
        Ok(())
    }

    fn made(&self) -> std::sync::MutexGuard<'_, Made> {
        self.made.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Stops the programs, the last started first, then removes the namespaces and folders. Once; later calls wait.
    pub(crate) fn tear_down(&self) {
        self.closing.store(true, Ordering::Release);
        let mut torn_down = self.torn_down.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if *torn_down {
            return;
        }
        let (namespaces, dirs, processes) = {
            let made = self.made();
            (made.namespaces.clone(), made.dirs.clone(), made.processes.clone())
        };
        let alive: Vec<_> = processes.iter().rev().filter_map(Weak::upgrade).collect();
        for process in &alive {
            process.ask_to_end();
        }
        for process in &alive {
            process.end_within(GRACE);
        }
        remove_namespaces(&namespaces);
        for dir in dirs.iter().chain([&self.dir]) {
            remove_dir(dir);
        }
        let _gone = fs::remove_file(&self.record);
        *torn_down = true;
    }

    fn leavings(&self) -> Vec<String> {
        let made = self.made();
        let paths = made.namespaces.iter().flat_map(|namespace| {
            [format!("/run/netns/{namespace}"), format!("/etc/netns/{namespace}")].map(PathBuf::from)
        });
        paths
            .chain([self.dir.clone()])
            .filter(|path| path.exists())
            .map(|path| path.display().to_string())
            .collect()
    }

    fn last_words(&self, lines: usize) -> String {
        let processes: Vec<_> = self.made().processes.iter().filter_map(Weak::upgrade).collect();
        let mut text = String::new();
        for process in processes {
            text.push_str(&process.last_words(lines));
        }
        text
    }
}

/// Removes what labs left whose process is gone: their record is there, and nobody holds its lock.
fn sweep() -> Result<()> {
    for entry in fs::read_dir(REGISTER)?.flatten() {
        let Ok(mut record) = File::options().read(true).append(true).open(entry.path()) else { continue };
        if record.try_lock().is_err() {
            continue;
        }
        let mut text = String::new();
        record.read_to_string(&mut text)?;
        let words = |kind: &str| -> Vec<String> {
            text.lines()
                .filter_map(|line| line.strip_prefix(kind))
                .map(|rest| rest.trim().to_owned())
                .collect()
        };
        remove_namespaces(&words("namespace "));
        for dir in words("dir ").iter().map(Path::new) {
            remove_dir(dir);
        }
        let _gone = fs::remove_file(entry.path());
    }
    Ok(())
}

fn remove_namespaces(namespaces: &[String]) {
    for namespace in namespaces {
        for _round in 0..20 {
            let pids = pids_in(namespace);
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                process::kill_one(pid, Signal::SIGKILL);
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    for namespace in namespaces {
        if Path::new("/run/netns").join(namespace).exists() {
            let _gone = run(&["ip", "netns", "del", namespace]);
        }
        let _gone = fs::remove_dir_all(Path::new("/etc/netns").join(namespace));
    }
}

/// Removes a folder that a lab made; its name says so. One of control groups holds files that nobody can remove.
fn remove_dir(dir: &Path) {
    if !dir.file_name().is_some_and(|name| name.to_string_lossy().starts_with(DIR_PREFIX)) {
        return;
    }
    if dir.starts_with("/sys/fs/cgroup") {
        let _gone =
            run(&["find", &dir.display().to_string(), "-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
    } else {
        let _gone = fs::remove_dir_all(dir);
    }
}

fn pids_in(namespace: &str) -> Vec<u32> {
    if !Path::new("/run/netns").join(namespace).exists() {
        return Vec::new();
    }
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "pids", namespace]);
    let done = run_for(&mut command, None, Duration::from_secs(10));
    done.map(|done| done.stdout.lines().filter_map(|line| line.trim().parse().ok()).collect())
        .unwrap_or_default()
}

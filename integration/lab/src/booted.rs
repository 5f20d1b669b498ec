//! A really booted Linux system in a host's namespace: systemd as process 1, from a cached tree of Debian or Ubuntu.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Host, Lab, Privilege, Process, Signal, privilege,
    process::kill_one,
    run::{run, run_for},
    which,
};

/// Trees are kept here between runs: making one takes a minute and the network.
const CACHE: &str = "/var/cache/postern-lab";
/// What the tree has beyond a minimal system.
const PACKAGES: &str = "systemd,systemd-sysv,nftables,iproute2";
/// Making a tree takes about 75 s; a slow mirror takes longer.
const TREE_LIMIT: Duration = Duration::from_secs(480);

/// A running system. Dropping it halts it.
pub struct Booted {
    process: Process,
    host: Host,
    root: PathBuf,
}

impl Lab {
    /// Boots a system in the namespace of a host. `prepare` may change the tree before: it gets the path of its root.
    ///
    /// The system has `/dev/net/tun`, open to everybody as on most distributions, and CAP_NET_ADMIN.
    pub fn boot(&self, host: &Host, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Booted> {
        ensure!(privilege() == Privilege::Root, "booting a system needs root on the machine");
        let nspawn = which("systemd-nspawn").context("no systemd-nspawn: `cargo xtask setup` installs it")?;
        let tree = cached_tree()?;
        let root = self.dir_in(Path::new(CACHE), host.name())?;
        run(&["cp".as_ref(), "-a".as_ref(), "--reflink=auto".as_ref(), tree.as_os_str(), root.as_os_str()])?;
        prepare(&root)?;

        // The machine's own node may be closed to others, and a mode set inside would change it outside.
        let node = root.join("opt/tun");
        run(&["mknod", "-m", "0666", &node.display().to_string(), "c", "10", "200"])?;
        let groups = self.control_groups(host.name())?;
        let into_groups: String =
            groups.iter().map(|group| format!("echo $$ > {}/cgroup.procs; ", group.display())).collect();
        let machine = host.namespace().replace('.', "-");
        let process = host
            .launch("booted", "sh")
            .args(["-c", &format!("{into_groups}exec \"$@\""), "sh"])
            .arg(nspawn)
            .args([
                "--quiet",
                "--boot",
                "--register=no",
                "--keep-unit",
                "--console=pipe",
                "--resolv-conf=off",
            ])
            .args([format!("--directory={}", root.display()), format!("--machine={machine}")])
            .arg(format!("--network-namespace-path=/run/netns/{}", host.namespace()))
            .arg("--capability=CAP_NET_ADMIN")
            .arg(format!("--bind={}:/dev/net/tun", node.display()))
            .outside()
            .start()?;
        Ok(Booted { process, host: host.clone(), root })
    }

    /// Control groups of the system's own, so that what it leaves in them can be removed.
    fn control_groups(&self, name: &str) -> Result<Vec<PathBuf>> {
        let candidates = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let mut groups = Vec::new();
        for parent in candidates.map(Path::new) {
            if parent.join("cgroup.procs").exists() {
                let group = self.dir_in(parent, name)?;
                fs::create_dir_all(&group)?;
                groups.push(group);
            }
        }
        Ok(groups)
    }
}

impl Booted {
    /// The root of its file system, seen from outside.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What its console printed.
    pub fn console(&self) -> String {
        format!("{}{}", self.process.stdout(), self.process.stderr())
    }

    /// Ids, as seen from outside, of processes in its namespace with a program's name.
    pub fn pids_of(&self, program: &str) -> Vec<u32> {
        let mut command = Command::new("ip");
        command.args(["netns", "pids", self.host.namespace()]);
        let Ok(done) = run_for(&mut command, None, Duration::from_secs(10)) else { return Vec::new() };
        let pids = done.stdout.lines().filter_map(|line| line.trim().parse().ok());
        // The kernel keeps 15 characters of a name.
        let name: String = program.chars().take(15).collect();
        pids.filter(|pid: &u32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name)
        })
        .collect()
    }

    /// Signals the one process in its namespace with a program's name, and returns its id.
    pub fn signal_program(&self, program: &str, signal: Signal) -> Result<u32> {
        match self.pids_of(program).as_slice() {
            [pid] => {
                kill_one(*pid, signal);
                Ok(*pid)
            }
            pids => bail!("there is not one {program} but {}", pids.len()),
        }
    }

    /// Halts it and waits for that.
    pub fn halt(self) -> Result<i32> {
        self.process.stop(Duration::from_secs(15))
    }
}

/// The tree of this machine's own distribution: what was built here runs there.
fn cached_tree() -> Result<PathBuf> {
    fs::create_dir_all(CACHE)?;
    let lock = File::options().create(true).append(true).open(Path::new(CACHE).join("lock"))?;
    lock.lock()?;
    let release = fs::read_to_string("/etc/os-release")?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    let suite = suite.context("/etc/os-release names no suite")?.trim_matches('"');
    let tree = Path::new(CACHE).join(suite);
    if tree.join("usr/lib/systemd/systemd").exists() || tree.join("lib/systemd/systemd").exists() {
        return Ok(tree);
    }
    let debootstrap = which("debootstrap").context("no debootstrap: `cargo xtask setup` installs it")?;
    let part = Path::new(CACHE).join(format!("{suite}.part"));
    if part.exists() {
        fs::remove_dir_all(&part)?;
    }
    eprintln!("making a tree of {suite} in {CACHE}, once: about 75 s");
    let mut command = Command::new(debootstrap);
    command.args(["--variant=minbase", &format!("--include={PACKAGES}"), suite]).arg(&part);
    run_for(&mut command, None, TREE_LIMIT)?.ok().context("debootstrap failed")?;
    fs::rename(&part, &tree)?;
    Ok(tree)
}

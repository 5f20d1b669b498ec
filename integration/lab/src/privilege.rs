//! Root, or a user namespace that looks like root.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result, bail};

use crate::programs::which;

/// Set in the process that runs inside the user namespace.
const MARK: &str = "POSTERN_LAB_USER_NAMESPACE";

/// What this process may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Privilege {
    /// Root on the machine: everything works.
    Root,
    /// Root of an own user, network and mount namespace.
    UserNamespace,
    /// Neither: [`enter_user_namespace`] helps.
    None,
}

impl Privilege {
    /// What does not work, in words for a person; empty for root.
    pub fn lacks(self) -> Vec<String> {
        let mut lacks = Vec::new();
        if self != Self::Root {
            lacks.push(
                "booting a container with systemd-nspawn: scenario runs_under_systemd needs root".to_owned(),
            );
            lacks.push(
                "entering the namespaces from another shell: use the nsenter line that is printed".to_owned(),
            );
            if std::fs::File::options().read(true).write(true).open("/dev/net/tun").is_err() {
                lacks.push(
                    "/dev/net/tun: not open to you, and no tunnel works without it; `sudo chmod 0666 /dev/net/tun` \
                     is what most distributions ship"
                        .to_owned(),
                );
            }
        }
        lacks
    }
}

/// What this process may do, as found.
pub fn privilege() -> Privilege {
    if std::env::var_os(MARK).is_some() {
        Privilege::UserNamespace
    } else if nix::unistd::geteuid().is_root() {
        Privilege::Root
    } else {
        Privilege::None
    }
}

/// Makes the mounts that `ip netns` needs on folders that this user cannot write: an own `/run`, and an `/etc` that
/// points at the real one, except for the files that every namespace of the lab replaces.
const PREPARE: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=755 lab-run /run
mkdir -p /run/netns /run/postern-lab /run/host-etc
mount --rbind /etc /run/host-etc
mount -t tmpfs -o mode=755 lab-etc /etc
for entry in /run/host-etc/* /run/host-etc/.[!.]*; do
    [ -e "$entry" ] || [ -L "$entry" ] || continue
    case "${entry##*/}" in netns|resolv.conf|hosts) ;; *) ln -s "$entry" /etc/ ;; esac
done
mkdir /etc/netns
cp -L /run/host-etc/hosts /etc/hosts 2>/dev/null || : > /etc/hosts
cp -L /run/host-etc/resolv.conf /etc/resolv.conf 2>/dev/null || : > /etc/resolv.conf
mount -t sysfs lab-sys /sys 2>/dev/null || true
ip link set lo up
exec "$@"
"#;

/// Starts this program again, with the same arguments, inside its own user, network and mount namespace.
///
/// Returns only when that failed. Call it before any thread is started and after everything that needs the real
/// network.
pub fn enter_user_namespace() -> Result<std::convert::Infallible> {
    let Some(unshare) = which("unshare") else { bail!("`unshare` (package util-linux) is missing") };
    let probe = crate::run::run_for(
        Command::new(&unshare).args(["--user", "--map-root-user", "--net", "--mount", "true"]),
        None,
        std::time::Duration::from_secs(10),
    )?;
    if probe.code != 0 {
        let restricted = std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
        let hint = if restricted.is_ok_and(|text| text.trim() == "1") {
            "this system forbids it: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or use root"
        } else {
            "run as root instead"
        };
        bail!("cannot make a user namespace ({}); {hint}", probe.stderr.trim());
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let error = Command::new(unshare)
        .args(["--user", "--map-root-user", "--net", "--mount", "--", "sh", "-c", PREPARE, "sh"])
        .arg(std::env::current_exe()?)
        .args(std::env::args_os().skip(1))
        .env(MARK, "1")
        .env("PATH", format!("{path}:/usr/sbin:/sbin"))
        .exec();
    Err(error).context("cannot enter a user namespace")
}

//! Where it ran.

use std::{fs, process::Command};

use serde::Serialize;

/// The machine, as far as figures depend on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Machine {
    /// Processor, as the kernel names it.
    pub cpu: String,
    /// How many processors this process may use.
    pub cores: usize,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Kernel release.
    pub kernel: String,
    /// Distribution.
    pub system: String,
    /// Whether it is a virtual machine, and what kind, if the kernel says so.
    pub virtualization: String,
    /// The compiler of our programs.
    pub rustc: String,
    /// The congestion control that TCP uses when nobody chooses.
    pub congestion_control: String,
}

impl Machine {
    /// Looks at this one. What cannot be read is empty.
    pub fn look() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let kilobytes: u64 =
            field(&meminfo, "MemTotal").split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        let hypervisor = fs::read_to_string("/sys/hypervisor/type").unwrap_or_default();
        let flagged = field(&cpuinfo, "flags").split_whitespace().any(|flag| flag == "hypervisor");
        let virtualization = match (hypervisor.trim(), flagged) {
            ("", true) => "virtual machine".to_owned(),
            (kind, _) => kind.to_owned(),
        };
        Self {
            cpu: field(&cpuinfo, "model name"),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            memory_mib: kilobytes / 1024,
            kernel: read("/proc/sys/kernel/osrelease"),
            system: assigned(&release, "PRETTY_NAME"),
            virtualization,
            rustc: first_line(Command::new("rustc").arg("--version")),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }

    /// On one line.
    pub fn line(&self) -> String {
        let kind = if self.virtualization.is_empty() {
            String::new()
        } else {
            format!(" ({})", self.virtualization)
        };
        format!(
            "{} cores of {}{kind}, {} MiB, Linux {}, {}, {}, TCP {}",
            self.cores,
            self.cpu,
            self.memory_mib,
            self.kernel,
            self.system,
            self.rustc,
            self.congestion_control
        )
    }
}

/// The first line that a command prints, on either output; empty when it cannot be run.
pub fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return String::new() };
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

/// Commit of a folder's sources, with `+` when something was changed since.
pub fn commit(root: &std::path::Path) -> String {
    let git = |arguments: &[&str]| {
        Command::new("git")
            .arg("-C")
            .arg(root)
            .args(arguments)
            .output()
            .ok()
            .filter(|done| done.status.success())
    };
    let Some(done) = git(&["rev-parse", "--short=12", "HEAD"]) else { return String::new() };
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|done| !done.stdout.is_empty());
    format!("{}{}", String::from_utf8_lossy(&done.stdout).trim(), if changed { "+" } else { "" })
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// `name : value`, the first one.
fn field(text: &str, name: &str) -> String {
    let named = text.lines().filter_map(|line| line.split_once(':')).find(|(key, _)| key.trim() == name);
    named.map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

/// `NAME="value"`.
fn assigned(text: &str, name: &str) -> String {
    let named = text.lines().filter_map(|line| line.split_once('=')).find(|(key, _)| *key == name);
    named.map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read() {
        assert_eq!(field("processor\t: 0\nmodel name\t: EPYC\nmodel name\t: other\n", "model name"), "EPYC");
        assert_eq!(assigned("NAME=x\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME"), "Debian 12");
    }

    #[test]
    fn this_machine_has_a_kernel_and_a_processor() {
        let machine = Machine::look();

        assert!(machine.cores > 0 && !machine.kernel.is_empty());
        assert!(machine.line().contains(&machine.kernel));
    }
}

//! What the measured processes use, as the kernel accounts for it.

use std::fs;

use anyhow::{Context, Result};
use integration_lab::Process;

/// The processes that together make a tunnel.
#[derive(Debug, Clone, Default)]
pub struct Processes {
    /// Process ids, the near end first.
    pub pids: Vec<u32>,
}

impl Processes {
    /// Of running programs.
    pub fn of(programs: &[&Process]) -> Result<Self> {
        let pid = |program: &&Process| {
            program.pid().with_context(|| format!("a program has ended: {}", program.stderr().trim()))
        };
        Ok(Self { pids: programs.iter().map(pid).collect::<Result<_>>()? })
    }

    /// User and system time of all of them so far, in seconds. Its step is 10 ms.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let hertz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")? as f64;
        let mut ticks = 0;
        for pid in &self.pids {
            ticks +=
                cpu_ticks(&fs::read_to_string(format!("/proc/{pid}/stat"))?).context("no times in stat")?;
        }
        Ok(ticks as f64 / hertz)
    }

    /// A line of `/proc/PID/status` in MiB, for each process: `VmRSS`, `VmHWM`.
    pub fn memory_mib(&self, line: &str) -> Result<Vec<f64>> {
        let one = |pid: &u32| {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let kilobytes = kilobytes(&status, line).with_context(|| format!("no {line} in status"))?;
            Ok(kilobytes as f64 / 1024.0)
        };
        self.pids.iter().map(one).collect()
    }
}

/// `utime + stime`; the name before may hold anything, so fields are counted from its closing bracket.
fn cpu_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

fn kilobytes(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_behind_any_name() {
        let stat = "42 (a) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 12345 0 0\n";

        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("42 (cut"), None);
    }

    #[test]
    fn memory_is_found_by_its_whole_name() {
        let status = "Name:\tx\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";

        assert_eq!(kilobytes(status, "VmRSS"), Some(1024));
        assert_eq!(kilobytes(status, "VmHWM"), Some(2048));
        assert_eq!(kilobytes(status, "Vm"), None);
    }

    #[test]
    fn this_process_uses_time_and_memory() {
        let own = Processes { pids: vec![std::process::id()] };

        assert!(own.cpu_seconds().unwrap() >= 0.0);
        assert!(own.memory_mib("VmRSS").unwrap()[0] > 1.0);
    }
}

//! The kernel's counters of TCP in a namespace.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use integration_lab::Host;

/// `/proc/net/netstat` of a host, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpCounters(BTreeMap<String, u64>);

impl TcpCounters {
    /// Reads them.
    pub fn read(host: &Host) -> Result<Self> {
        Self::parse(&host.run(&["cat", "/proc/net/netstat"])?.stdout)
            .context("/proc/net/netstat has no TcpExt")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("TcpExt:"));
        let (names, values) = (rows.next()?, rows.next()?);
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        Some(Self(pairs.map(|(name, value)| (name.to_owned(), value.parse().unwrap_or(0))).collect()))
    }

    /// How much these have grown since, together.
    pub fn grown(&self, since: &Self, names: &[&str]) -> u64 {
        let of = |counters: &Self, name: &str| counters.0.get(name).copied().unwrap_or(0);
        names.iter().map(|name| of(self, name).saturating_sub(of(since, name))).sum()
    }
}

/// Times that a sender saw its segments arrive in another order than it sent them.
pub const REORDERED: [&str; 3] = ["TCPTSReorder", "TCPSACKReorder", "TCPRenoReorder"];
/// Segments that a receiver had to keep because one before them was missing.
pub const OUT_OF_ORDER: [&str; 1] = ["TCPOFOQueue"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_two_lines() {
        let text = |reordered: u64| {
            format!(
                "TcpExt: SyncookiesSent TCPSACKReorder TCPTSReorder\nTcpExt: 1 {reordered} 2\nIpExt: InNoRoutes\nIpExt: 9\n"
            )
        };
        let (before, after) = (TcpCounters::parse(&text(3)).unwrap(), TcpCounters::parse(&text(8)).unwrap());

        assert_eq!(after.grown(&before, &REORDERED), 5);
        assert_eq!(after.grown(&before, &OUT_OF_ORDER), 0, "a counter that a kernel lacks has not grown");
        assert_eq!(TcpCounters::parse("IpExt: a\nIpExt: 1\n"), None);
    }
}

//! How much of everything there may be: flags, and what they come to.

use actors_relay::Connections;
use clap::{Args, ValueEnum};
use protocol_stun::relay::{Bounds, Limits, Payload, Rate};
use serde::Deserialize;

/// One for each port of the default range leaves none free; this leaves a fifth.
const MOST_ALLOCATIONS: usize = 12_000;
/// A gateway holds one, and another for a moment while it changes its address.
const MOST_EACH: usize = 16;
/// A large office behind one address.
const MOST_OF_SOURCE: usize = 4_096;
/// Each costs a descriptor, and about 40 KiB with TLS.
const MOST_CONNECTIONS: usize = 4_096;
/// As many of one source: an office whose firewall lets nothing but TLS through.
const MOST_CONNECTIONS_OF_SOURCE: usize = 512;

/// What the relay passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum PayloadFlag {
    /// Everything
    Any,
    /// Only what looks like WireGuard, STUN or a path probe of Postern
    WireGuard,
}

/// Flags about how much there may be; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Limits")]
pub struct LimitFlags {
    /// What is relayed: any, or wireguard (WireGuard, STUN and path probes), so that the relay is no tunnel for everything;
    /// default any
    #[arg(long, env = "POSTERN_PAYLOAD", value_name = "KIND")]
    pub payload: Option<PayloadFlag>,
    /// Most allocations in all; default 12000
    #[arg(long, env = "POSTERN_MAX_ALLOCATIONS", value_name = "NUMBER")]
    pub max_allocations: Option<usize>,
    /// Most allocations of one user; default 16
    #[arg(long, env = "POSTERN_MAX_ALLOCATIONS_PER_USER", value_name = "NUMBER")]
    pub max_allocations_per_user: Option<usize>,
    /// Most allocations of one IPv4 address, or one /64 of IPv6; default 4096
    #[arg(long, env = "POSTERN_MAX_ALLOCATIONS_PER_SOURCE", value_name = "NUMBER")]
    pub max_allocations_per_source: Option<usize>,
    /// Payload that one user may have relayed in a second, both ways together; default 0, which is no bound
    #[arg(long, env = "POSTERN_MAX_BYTES_PER_USER", value_name = "BYTES")]
    pub max_bytes_per_user: Option<u64>,
    /// Packets that one user may have relayed in a second; default 0, which is no bound
    #[arg(long, env = "POSTERN_MAX_PACKETS_PER_USER", value_name = "NUMBER")]
    pub max_packets_per_user: Option<u64>,
    /// Payload that the clients of one address (or /64) may have relayed in a second; default 0, which is no bound
    #[arg(long, env = "POSTERN_MAX_BYTES_PER_SOURCE", value_name = "BYTES")]
    pub max_bytes_per_source: Option<u64>,
    /// Packets that the clients of one address (or /64) may have relayed in a second; default 0, which is no bound
    #[arg(long, env = "POSTERN_MAX_PACKETS_PER_SOURCE", value_name = "NUMBER")]
    pub max_packets_per_source: Option<u64>,
    /// Most TCP and TLS connections; default 4096, of one address (or /64) 512
    #[arg(long, env = "POSTERN_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub max_connections: Option<usize>,
}

impl LimitFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            payload: self.payload.or(file.payload),
            max_allocations: self.max_allocations.or(file.max_allocations),
            max_allocations_per_user: self.max_allocations_per_user.or(file.max_allocations_per_user),
            max_allocations_per_source: self.max_allocations_per_source.or(file.max_allocations_per_source),
            max_bytes_per_user: self.max_bytes_per_user.or(file.max_bytes_per_user),
            max_packets_per_user: self.max_packets_per_user.or(file.max_packets_per_user),
            max_bytes_per_source: self.max_bytes_per_source.or(file.max_bytes_per_source),
            max_packets_per_source: self.max_packets_per_source.or(file.max_packets_per_source),
            max_connections: self.max_connections.or(file.max_connections),
        }
    }

    /// Most allocations.
    pub fn allocations(&self) -> Bounds {
        Bounds {
            all: self.max_allocations.unwrap_or(MOST_ALLOCATIONS),
            node: self.max_allocations_per_user.unwrap_or(MOST_EACH),
            source: self.max_allocations_per_source.unwrap_or(MOST_OF_SOURCE),
        }
    }

    /// What a user may have relayed.
    pub fn of_user(&self) -> Rate {
        Rate { packets: self.max_packets_per_user.unwrap_or(0), bytes: self.max_bytes_per_user.unwrap_or(0) }
    }

    /// What a source may have relayed.
    pub fn of_source(&self) -> Rate {
        Rate {
            packets: self.max_packets_per_source.unwrap_or(0),
            bytes: self.max_bytes_per_source.unwrap_or(0),
        }
    }

    /// Bounds of each allocation.
    pub fn each(&self) -> Limits {
        let payload = match self.payload {
            Some(PayloadFlag::WireGuard) => Payload::WireGuard,
            Some(PayloadFlag::Any) | None => Payload::Any,
        };
        Limits { payload, ..Limits::default() }
    }

    /// The places of connections.
    pub fn connections(&self) -> Connections {
        let most = self.max_connections.unwrap_or(MOST_CONNECTIONS);
        Connections::new(most, most.min(MOST_CONNECTIONS_OF_SOURCE))
    }
}

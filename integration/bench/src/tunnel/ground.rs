//! The ground of the suite: a near host and a far one, and three ways between them.
//!
//! ```text
//!   near ── direct0 ─────────────────── direct0 ── far      the bare pair
//!   near ── long0 ── forwarder (mid) ── long0 ──── far      the same with a delay, and losses when asked for
//!   near ── hub0 ─────── hub ────────── hub0 ───── far      control and relay; nothing is forwarded here
//! ```
//!
//! Traffic goes to one address of the far host, whichever way and whoever carries it. Every address stands alone (/32)
//! and looks public: ours sends to no private address, and to none of a network that it is in, because somebody named it.

use anyhow::Result;
use integration_lab::{Host, Lab, Process};

use crate::tools;

/// The address that every stream, packet and echo goes to.
pub const TARGET: &str = "10.99.0.1";
/// Where control and the relay listen.
pub const HUB: &str = "203.0.113.14";

/// How many more clients there are, each with a host and a cable of its own.
pub const CLIENTS: usize = 8;

/// A way between the hosts, the only one that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// The bare pair.
    Direct,
    /// Through the forwarder.
    Long(Road),
    /// Neither: what connects has to use the relay.
    Relayed,
}

/// What the forwarder does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Road {
    /// Round trip in milliseconds.
    pub round_trip_ms: u64,
    /// Lost packets of a million, each way.
    pub loss_per_million: u32,
}

impl Way {
    /// The far host's address on this way.
    pub fn far(self) -> &'static str {
        match self {
            Self::Direct => "203.0.113.2",
            Self::Long(_) => "203.0.113.6",
            Self::Relayed => "203.0.113.13",
        }
    }
}

/// The namespaces.
pub struct Ground {
    /// Owns all the rest.
    _lab: Lab,
    /// Where clients run.
    pub near: Host,
    /// Where gateways run, and the servers.
    pub far: Host,
    /// Control and relay.
    pub hub: Host,
    /// The forwarder's.
    pub mid: Host,
    /// More clients.
    pub clients: Vec<Host>,
}

impl Ground {
    /// Lays it out; no way is open yet.
    pub fn lay_out() -> Result<Self> {
        let lab = Lab::named("pbench")?;
        let (near, far) = (lab.host("near")?, lab.host("far")?);
        let (hub, mid) = (lab.host("hub")?, lab.host("mid")?);
        lab.link((&near, "direct0"), (&far, "direct0"))?;
        lab.link((&near, "long0"), (&mid, "left"))?;
        lab.link((&mid, "right"), (&far, "long0"))?;
        lab.link((&near, "hub0"), (&hub, "near0"))?;
        lab.link((&far, "hub0"), (&hub, "far0"))?;
        let hub_address = format!("{HUB}/32");
        for (host, interface, address) in [
            (&near, "direct0", "203.0.113.1/32"),
            (&far, "direct0", "203.0.113.2/32"),
            (&near, "long0", "203.0.113.5/32"),
            (&far, "long0", "203.0.113.6/32"),
            (&near, "hub0", "203.0.113.9/32"),
            (&far, "hub0", "203.0.113.13/32"),
            (&hub, "far0", hub_address.as_str()),
        ] {
            host.address(interface, &[address])?;
        }
        near.ip(&format!("route add {hub_address} dev hub0"))?;
        far.ip(&format!("route add {hub_address} dev hub0"))?;
        hub.ip("route add 203.0.113.9/32 dev near0")?;
        hub.ip("route add 203.0.113.13/32 dev far0")?;
        far.address("lo", &[&format!("{TARGET}/32")])?;
        far.sysctl("net.ipv4.ip_forward", "1")?;
        hub.ip("route add 198.51.100.0/24 via 203.0.113.13")?;
        let mut clients = Vec::with_capacity(CLIENTS);
        for number in 1..=CLIENTS {
            let client = lab.host(&format!("client{number}"))?;
            let port = format!("client{number}");
            lab.link((&client, "eth0"), (&far, &port))?;
            let (own, gateway) =
                (format!("198.51.100.{}", 4 * number + 2), format!("198.51.100.{}", 4 * number + 1));
            client.address("eth0", &[&format!("{own}/32")])?;
            far.address(&port, &[&format!("{gateway}/32")])?;
            client.ip(&format!("route add {gateway}/32 dev eth0"))?;
            far.ip(&format!("route add {own}/32 dev {port}"))?;
            client.default_route(gateway.parse()?)?;
            clients.push(client);
        }
        // Windows must hold a bandwidth-delay product of some 20 MB.
        for host in [&near, &far] {
            host.sysctl("net.ipv4.tcp_rmem", "\"4096 131072 67108864\"")?;
            host.sysctl("net.ipv4.tcp_wmem", "\"4096 65536 67108864\"")?;
            // What one peer's connections have taught about a path is not for the next one's.
            host.sysctl("net.ipv4.tcp_no_metrics_save", "1")?;
        }
        let ground = Self { _lab: lab, near, far, hub, mid, clients };
        ground.open(Way::Relayed)?;
        Ok(ground)
    }

    /// Opens one way and closes the others. What it returns has to be kept while the way is used.
    pub fn open(&self, way: Way) -> Result<Option<Process>> {
        let ways = [
            ("direct0", way == Way::Direct, ["203.0.113.1", "203.0.113.2"]),
            ("long0", matches!(way, Way::Long(_)), ["203.0.113.5", "203.0.113.6"]),
        ];
        for (interface, open, [near, far]) in ways {
            for (host, other) in [(&self.near, far), (&self.far, near)] {
                host.ip(&format!("link set {interface} {}", if open { "up" } else { "down" }))?;
                if open {
                    // The route went away with the interface.
                    host.ip(&format!("route replace {other}/32 dev {interface}"))?;
                }
            }
        }
        let Way::Long(road) = way else { return Ok(None) };
        let line = format!(
            "forward --between left right --delay-micros {} --loss-per-million {}",
            road.round_trip_ms * 500,
            road.loss_per_million
        );
        let forwarder = tools::launch(&self.mid, "forward", &line)?.start()?;
        tools::wait_ready(&forwarder)?;
        Ok(Some(forwarder))
    }
}

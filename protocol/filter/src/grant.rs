//! What a grant says.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use ipnet::IpNet;
use protocol_identity::{GrantId, PolicyId, ResourceId};
use serde::{Deserialize, Serialize};

/// Counts up with every change of a device's grants at a gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct GrantVersion(pub u64);

/// Traffic that a resource lets through. An empty list means everything that is carried: TCP, UDP and ICMP echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrafficFilter {
    /// TCP to ports `from..=to`.
    Tcp {
        /// First port.
        from: u16,
        /// Last port.
        to: u16,
    },
    /// UDP to ports `from..=to`.
    Udp {
        /// First port.
        from: u16,
        /// Last port.
        to: u16,
    },
    /// ICMP and ICMPv6 echo.
    Icmp,
}

/// What a new flow asks for at its destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// TCP to a port.
    Tcp(u16),
    /// UDP to a port.
    Udp(u16),
    /// ICMP echo.
    Icmp,
}

impl TrafficFilter {
    /// Whether it lets this through.
    pub fn lets(self, service: Service) -> bool {
        match (self, service) {
            (Self::Tcp { from, to }, Service::Tcp(port)) | (Self::Udp { from, to }, Service::Udp(port)) => {
                (from..=to).contains(&port)
            }
            (Self::Icmp, Service::Icmp) => true,
            (Self::Tcp { .. } | Self::Udp { .. } | Self::Icmp, _) => false,
        }
    }

    /// Whether a list of filters lets this through.
    pub fn any(filters: &[Self], service: Service) -> bool {
        filters.is_empty() || filters.iter().any(|filter| filter.lets(service))
    }
}

/// Where a grant leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Destination {
    /// Every address of a prefix, except the forbidden ones.
    Cidr(IpNet),
    /// One address; may be the gateway's own.
    Ip(IpAddr),
    /// A name: the client sends to mapped addresses, the gateway to real ones.
    Name {
        /// The name, lower case, without the final dot.
        name: String,
        /// The IPv4 address that the client shows to its applications.
        mapped_v4: Option<Ipv4Addr>,
        /// The IPv6 address that the client shows to its applications.
        mapped_v6: Option<Ipv6Addr>,
        /// What the gateway resolved, both families.
        real: Vec<IpAddr>,
    },
}

impl Destination {
    /// The prefixes that a device addresses it by.
    pub fn prefixes(&self) -> impl Iterator<Item = IpNet> + '_ {
        let (first, second) = match self {
            Self::Cidr(net) => (Some(net.trunc()), None),
            Self::Ip(address) => (Some(IpNet::from(*address)), None),
            Self::Name { mapped_v4, mapped_v6, .. } => (
                mapped_v4.map(|address| IpNet::from(IpAddr::V4(address))),
                mapped_v6.map(|address| IpNet::from(IpAddr::V6(address))),
            ),
        };
        first.into_iter().chain(second)
    }
}

/// One grant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantSpec {
    /// Its id.
    pub grant: GrantId,
    /// The resource that it opens.
    pub resource: ResourceId,
    /// The policy that gave it.
    pub policy: PolicyId,
    /// Where it leads.
    pub destination: Destination,
    /// What passes; empty lets everything pass that is carried.
    pub filters: Vec<TrafficFilter>,
    /// When it ends, on the machine's clock. On the wire it is the time that remains: see [`arrived`](Self::arrived).
    pub ends: Duration,
}

impl GrantSpec {
    /// Makes the remaining time that came over the wire an end on this machine's clock.
    #[must_use]
    pub fn arrived(self, now: Duration) -> Self {
        Self { ends: now.saturating_add(self.ends), ..self }
    }
}

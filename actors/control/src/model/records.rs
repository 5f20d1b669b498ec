//! The records.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use jiff::Timestamp;
use protocol_control::{
    Answer, GrantVersion, InnerAddresses, MappedName, Offer, ResourceAddress, ResourceView, TrafficFilter,
};
use protocol_identity::{
    DeviceId, GatewayId, GrantId, GroupId, IdentityPublic, PolicyId, PrincipalId, RelayId, ResourceId,
    SiteId, TokenHash, TokenId, TokenKind,
};
use protocol_policy::{Conditions, Effect, Labels, Selector};
use serde::{Deserialize, Serialize};

/// A place with resources.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Site {
    pub id: SiteId,
    pub name: String,
    pub description: Option<String>,
    pub created_at: Timestamp,
}

/// An installation of `postern-gateway`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Gateway {
    pub id: GatewayId,
    pub name: String,
    pub site: SiteId,
    /// The token it last came with.
    pub token: Option<TokenId>,
    /// Pinned at first use.
    pub identity: IdentityPublic,
    /// Its number within the account's tunnel addresses; see [`inner_addresses`].
    pub host: u32,
    /// Taken out of service: it keeps what it has, and gets nothing new.
    pub draining: bool,
    pub version: Option<String>,
    pub last_seen_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// An installation of `postern-relay`.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Relay {
    pub id: RelayId,
    pub name: String,
    pub region: Option<String>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    /// Its STUN and TURN sockets, as seen from outside.
    pub addresses: Vec<SocketAddr>,
    /// The token it last came with.
    pub token: Option<TokenId>,
    /// Pinned at first use.
    pub identity: IdentityPublic,
    pub version: Option<String>,
    pub last_seen_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// An installation of the client.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Device {
    pub id: DeviceId,
    pub name: String,
    pub principal: PrincipalId,
    /// The token it last signed in with.
    pub token: Option<TokenId>,
    /// Pinned at first use.
    pub identity: IdentityPublic,
    /// Its number within the account's tunnel addresses; see [`inner_addresses`].
    pub host: u32,
    pub verified: bool,
    /// Taken out of service by an administrator.
    pub disabled: bool,
    pub os: Option<String>,
    pub os_version: Option<String>,
    pub version: Option<String>,
    pub last_seen_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

/// What an admin token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Read everything, and ask for decisions.
    Read,
    /// Write sites, gateways, relays, resources and the tokens that join them.
    Network,
    /// Write groups, service accounts, policies, devices and grants.
    Access,
    /// Everything, other admin tokens included.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Network, Self::Access, Self::Admin];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Network => "network",
            Self::Access => "access",
            Self::Admin => "admin",
        }
    }
}

/// A token; never the token itself.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Token {
    pub id: TokenId,
    pub name: String,
    pub kind: TokenKind,
    pub hash: TokenHash,
    /// The site that a gateway token joins to.
    pub site: Option<SiteId>,
    /// The principal that a service account's token signs in.
    pub principal: Option<PrincipalId>,
    /// The region of relays that join with it.
    pub region: Option<String>,
    pub latitude: Option<f64>,
    pub longitude: Option<f64>,
    /// What an admin token may do; empty for the others.
    pub scopes: BTreeSet<Scope>,
    /// Whether several installations may use it. One that is not is pinned to the first that does.
    pub many: bool,
    /// The installation that it is pinned to.
    pub identity: Option<IdentityPublic>,
    pub expires_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
    pub created_at: Timestamp,
}

impl Token {
    /// Whether its time is over.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|end| end <= now)
    }

    /// A token for any number of installations, without an end, that opens nothing yet.
    pub fn new(id: TokenId, name: String, kind: TokenKind, hash: TokenHash, at: Timestamp) -> Self {
        Self {
            id,
            name,
            kind,
            hash,
            site: None,
            principal: None,
            region: None,
            latitude: None,
            longitude: None,
            scopes: BTreeSet::new(),
            many: true,
            identity: None,
            expires_at: None,
            last_used_at: None,
            created_at: at,
        }
    }

    /// An admin token that may do everything.
    pub fn admin(name: String, hash: TokenHash, at: Timestamp) -> Self {
        let scopes = BTreeSet::from([Scope::Admin]);
        Self { scopes, ..Self::new(TokenId::fresh(), name, TokenKind::Admin, hash, at) }
    }

    /// Whether an admin token reaches so far. Whoever may write may read.
    pub fn allows(&self, needed: Scope) -> bool {
        self.scopes.contains(&Scope::Admin)
            || self.scopes.contains(&needed)
            || (needed == Scope::Read && !self.scopes.is_empty())
    }
}

/// What is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Resource {
    pub id: ResourceId,
    pub name: String,
    pub address: ResourceAddress,
    pub site: SiteId,
    /// Whether devices learn of it although no rule names it.
    pub listed: bool,
    /// Empty: everything.
    pub filters: Vec<TrafficFilter>,
    /// What rules may select it by.
    pub labels: Labels,
    pub description: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A set of principals.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Group {
    pub id: GroupId,
    pub name: String,
    /// The built-in one, which holds every principal whatever `members` says.
    pub everyone: bool,
    pub members: BTreeSet<PrincipalId>,
    pub created_at: Timestamp,
}

/// A service account.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Principal {
    pub id: PrincipalId,
    pub name: String,
    pub disabled: bool,
    /// What rules may select it by.
    pub labels: Labels,
    pub created_at: Timestamp,
}

/// A rule.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Policy {
    pub id: PolicyId,
    pub name: String,
    pub enabled: bool,
    pub effect: Effect,
    pub groups: BTreeSet<GroupId>,
    /// It also speaks of principals with these labels.
    pub principal_labels: BTreeSet<Selector>,
    pub resources: BTreeSet<ResourceId>,
    /// It also speaks of resources with these labels.
    pub resource_labels: BTreeSet<Selector>,
    pub conditions: Conditions,
    pub max_session_seconds: Option<u64>,
    /// Where it is written, if it came out of a file: `access.toml:12`.
    pub place: Option<String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What both ends said when a grant was set up. Public keys only.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GrantState {
    /// The device's keys and candidates.
    pub offer: Offer,
    /// The version under which the offer came.
    #[serde(default)]
    pub offered: GrantVersion,
    /// The name that was looked up, for a `dns` resource.
    pub name: Option<MappedName>,
    /// The resource as the gateway was told of it.
    pub view: ResourceView,
    /// The gateway's keys and candidates.
    pub answer: Answer,
    /// Whether the resource has IPv4 addresses.
    pub has_v4: bool,
    /// Whether the resource has IPv6 addresses.
    pub has_v6: bool,
}

/// One decision in force.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Grant {
    pub id: GrantId,
    pub device: DeviceId,
    pub resource: ResourceId,
    pub gateway: GatewayId,
    pub policy: PolicyId,
    /// The relay that the connection starts through.
    pub relay: Option<RelayId>,
    pub version: GrantVersion,
    /// The device's address as control last saw it.
    pub source: Option<IpAddr>,
    pub state: GrantState,
    pub since: Timestamp,
    /// When policy ends it; `None` when time alone never does.
    pub ends_at: Option<Timestamp>,
    /// When the gateway ends it unless control says otherwise: never later than `ends_at`.
    pub lease_ends_at: Timestamp,
}

/// The tunnel addresses of the node with this number: from 100.64.0.0/11 and fd70:6f73:7401::/64.
pub fn inner_addresses(host: u32) -> InnerAddresses {
    InnerAddresses {
        v4: Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + host % (1 << 21)),
        v6: Ipv6Addr::from(
            u128::from(Ipv6Addr::new(0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, 0)) + u128::from(host),
        ),
    }
}

/// The highest number that has an address of its own: the last but one of 100.64.0.0/11.
pub(crate) const MAX_HOST: u32 = (1 << 21) - 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_addresses_of_its_own_in_the_reserved_ranges() {
        assert_eq!(inner_addresses(1).v4, Ipv4Addr::new(100, 64, 0, 1));
        assert_eq!(inner_addresses(1).v6.to_string(), "fd70:6f73:7401::1");
        assert_eq!(inner_addresses(MAX_HOST).v4, Ipv4Addr::new(100, 95, 255, 254));
    }
}

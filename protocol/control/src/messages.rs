//! The messages, from the node's and from control's side.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ipnet::IpNet;
use protocol_filter::{GrantVersion, TrafficFilter};
use protocol_identity::{
    AccountId, CertificatePin, DeviceId, GatewayId, GrantId, IdentityPublic, PolicyId, RelayId, ResourceId,
    Signature,
};
use serde::{Deserialize, Serialize};

use crate::access::{Answer, Candidate, InnerAddresses, MappedName, Offer};
use crate::flows::FlowBatch;

mod secret {
    use super::{Deserialize, Serialize, fmt};

    /// Text that never prints.
    #[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(transparent)]
    pub struct Secret(String);

    impl Secret {
        /// Takes the text over.
        pub fn new(text: String) -> Self {
            Self(text)
        }

        /// The text, for the one place that needs it.
        pub fn expose(&self) -> &str {
            &self.0
        }
    }

    impl fmt::Debug for Secret {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("…")
        }
    }
}
pub use secret::Secret;

/// What a resource is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResourceAddress {
    /// Every address of a prefix.
    Cidr(IpNet),
    /// One address; may be the gateway's own.
    Ip(IpAddr),
    /// A DNS name, lower case, without the final dot.
    Dns(String),
}

/// A resource as a node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceView {
    /// Its id.
    pub resource: ResourceId,
    /// Its name.
    pub name: String,
    /// The name of its site.
    pub site: String,
    /// What it is.
    pub address: ResourceAddress,
    /// What it lets through.
    pub filters: Vec<TrafficFilter>,
}

/// How to reach a relay, with a credential for whoever allocates there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayOffer {
    /// The relay.
    pub relay: RelayId,
    /// Its region's name.
    pub region: String,
    /// Its STUN and TURN sockets over UDP.
    pub addresses: Vec<SocketAddr>,
    /// The same over TLS, for nodes whose UDP is blocked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RelayTls>,
    /// It is about to end: whoever uses it goes elsewhere, while it still works.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// For gateways, and for clients that must allocate.
    pub credential: Option<RelayCredential>,
}

/// Where a relay is reached over TLS, and how it is recognised there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayTls {
    /// Its sockets, as seen from outside.
    pub addresses: Vec<SocketAddr>,
    /// The certificate that it shows.
    pub pin: CertificatePin,
}

/// A time-limited TURN credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayCredential {
    /// `<unix expiry>:<node>`.
    pub username: String,
    /// Its password.
    pub password: Secret,
    /// How long it is good for, from now.
    pub remaining: Duration,
}

/// What a node says about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// Its lasting identity.
    pub identity: IdentityPublic,
    /// Over [`challenge_text`] of the nonce, by that identity.
    pub signature: Signature,
    /// Its name for people, at most 255 bytes; the host's name unless configured.
    pub name: String,
    /// The version of its program.
    pub program: String,
    /// What it is.
    pub role: RoleHello,
}

/// What a node is, with what only that kind has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RoleHello {
    /// A device.
    Client {
        /// The operating system, for posture.
        os: String,
        /// Its version.
        os_version: String,
    },
    /// A gateway.
    Gateway {
        /// The grants that are in force there, so that control can see drift.
        grants: Vec<GrantId>,
    },
    /// A relay.
    Relay {
        /// Where it listens, as seen from outside.
        addresses: Vec<SocketAddr>,
        /// Where it listens for TLS, if it does.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tls: Option<Box<RelayTls>>,
        /// Its region's name.
        region: String,
        /// Latitude and longitude, degrees.
        coordinates: Option<(f64, f64)>,
        /// The secret that its credentials are made from.
        secret: Secret,
    },
}

/// The text that a node signs to prove its identity.
pub fn challenge_text(nonce: &[u8]) -> Vec<u8> {
    let mut text = b"postern session v1\n".to_vec();
    text.extend_from_slice(nonce);
    text
}

/// A request for access.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RequestAccess {
    /// Comes back with the answer.
    pub request: u64,
    /// The resource and the keys.
    pub offer: Offer,
    /// The name that was looked up, for a `dns` resource.
    pub name: Option<MappedName>,
}

/// The gateway has installed a grant.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Applied {
    /// From the [`Authorize`].
    pub grant: GrantId,
    /// From the [`Authorize`].
    pub version: GrantVersion,
    /// Goes to the client.
    pub answer: Answer,
    /// Whether the resource has IPv4 addresses.
    pub has_v4: bool,
    /// Whether the resource has IPv6 addresses.
    pub has_v6: bool,
}

/// Why a gateway did not install a grant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GatewayRefusal {
    /// The gateway's own ceiling (`--allow-resource`) does not have the destination.
    AboveCeiling,
    /// The device's identity is another one than the pinned.
    IdentityChanged,
    /// The offer's signature or keys are wrong.
    BadOffer,
    /// The name has no address.
    NameNotFound,
    /// No free slot for another peer.
    Full,
}

/// What a node says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromNode {
    /// The first message, an answer to the challenge.
    Hello(Hello),
    /// Client: asks for access.
    RequestAccess(RequestAccess),
    /// Gateway: a grant is installed.
    Applied(Box<Applied>),
    /// Gateway: a grant is not installed.
    Refused {
        /// From the [`Authorize`].
        grant: GrantId,
        /// Why.
        reason: GatewayRefusal,
    },
    /// Gateway: a grant reached its end by the gateway's clock, or was revoked as told.
    Ended {
        /// The grant.
        grant: GrantId,
    },
    /// Client or gateway: new candidates for every connection of this node.
    Candidates(Vec<Candidate>),
    /// Client or gateway: measured round trips to relays.
    RelayRoundTrips(Vec<(RelayId, Duration)>),
    /// Relay: no new allocations from now on.
    Draining,
    /// Answer to [`ToNode::Ping`].
    Pong(u64),
    /// Gateway: flows that have ended; only to a control whose [`GatewayState`] says that it takes them.
    Flows(Box<FlowBatch>),
}

/// The first message to a client after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClientState {
    /// The device that this installation is.
    pub device: DeviceId,
    /// Its account.
    pub account: AccountId,
    /// The principal's name.
    pub principal: String,
    /// The device's tunnel addresses.
    pub addresses: InnerAddresses,
    /// All that it knows of.
    pub resources: Vec<ResourceView>,
    /// Where to ask for reflexive addresses.
    pub relays: Vec<RelayOffer>,
    /// Grants in force, to be kept; others have ended. `(grant, resource, gateway, remaining)`.
    pub grants: Vec<(GrantId, ResourceId, GatewayId, Duration)>,
}

/// The first message to a gateway after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GatewayState {
    /// The gateway that this installation is.
    pub gateway: GatewayId,
    /// Its account.
    pub account: AccountId,
    /// The name of its site.
    pub site: String,
    /// The gateway's tunnel addresses.
    pub addresses: InnerAddresses,
    /// The whole set of grants: what is not in it is dropped. They stand in the order in which they were asked for, so
    /// that of a device's offers the one of its living process is the last.
    pub grants: Vec<Authorize>,
    /// Where to allocate.
    pub relays: Vec<RelayOffer>,
    /// Whether control stores [`FromNode::Flows`]; one that is older than this program does not say so.
    #[serde(default)]
    pub takes_flows: bool,
}

/// The first message to a relay after its hello.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RelayState {
    /// The relay that this installation is.
    pub relay: RelayId,
}

/// The full state of a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Welcome {
    /// For a client.
    Client(ClientState),
    /// For a gateway.
    Gateway(GatewayState),
    /// For a relay.
    Relay(RelayState),
}

/// Tells a gateway to let a device reach a resource. Idempotent: the same grant with a newer version replaces it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Authorize {
    /// The grant.
    pub grant: GrantId,
    /// The version of the device's grants that this makes.
    pub version: GrantVersion,
    /// The policy that gave it.
    pub policy: PolicyId,
    /// The resource, with address and filters.
    pub resource: ResourceView,
    /// The name that was looked up, for a `dns` resource.
    pub name: Option<MappedName>,
    /// How long the grant is good for, from now.
    pub remaining: Duration,
    /// The device's identity; the gateway pins it at first use.
    pub identity: IdentityPublic,
    /// The device's tunnel addresses.
    pub addresses: InnerAddresses,
    /// The device's keys and candidates.
    pub offer: Offer,
    /// The relay that the connection starts through.
    pub relay: Option<RelayId>,
}

/// The client may reach a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// From the [`RequestAccess`]; 0 when control says it unasked, as after a gateway's restart.
    pub request: u64,
    /// The grant.
    pub grant: GrantId,
    /// The resource.
    pub resource: ResourceId,
    /// The name that was looked up, for a `dns` resource.
    pub name: Option<MappedName>,
    /// How long the grant is good for, from now.
    pub remaining: Duration,
    /// The gateway's name for people.
    pub gateway_name: String,
    /// The gateway's answer.
    pub answer: Answer,
    /// Whether the resource has IPv4 addresses.
    pub has_v4: bool,
    /// Whether the resource has IPv6 addresses.
    pub has_v6: bool,
}

/// Why a device may not reach a resource, in its own person's words: never other principals, groups or addresses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DenyReason {
    /// No rule names the resource for this principal.
    NoRule,
    /// A deny rule matches.
    DenyRule {
        /// Its name.
        rule: String,
    },
    /// A rule would allow it, but a condition fails.
    Condition {
        /// The rule's name.
        rule: String,
        /// The device's own attribute that fails.
        attribute: String,
    },
    /// No gateway of the site is online.
    NoGateway,
    /// The gateway refused.
    Gateway(GatewayRefusal),
    /// The resource is unknown to this device.
    UnknownResource,
    /// The request is malformed or its signature is wrong.
    BadRequest,
    /// The grant ended or was revoked.
    Ended,
}

impl fmt::Display for DenyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRule => {
                f.write_str("no policy allows it: ask an administrator for a rule that names this resource")
            }
            Self::DenyRule { rule } => write!(f, "the policy \"{rule}\" denies it"),
            Self::Condition { rule, attribute } => write!(f, "the policy \"{rule}\" asks for {attribute}"),
            Self::NoGateway => f.write_str("no gateway of its site is online"),
            Self::Gateway(GatewayRefusal::AboveCeiling) => {
                f.write_str("the gateway's own ceiling (--allow-resource) does not have it")
            }
            Self::Gateway(GatewayRefusal::IdentityChanged) => {
                f.write_str("the gateway knows this device by another identity key")
            }
            Self::Gateway(GatewayRefusal::BadOffer) => f.write_str("the gateway refused this device's keys"),
            Self::Gateway(GatewayRefusal::NameNotFound) => {
                f.write_str("the gateway found no address for the name")
            }
            Self::Gateway(GatewayRefusal::Full) => f.write_str("the gateway has no room for another device"),
            Self::UnknownResource => f.write_str("there is no such resource for this device"),
            Self::BadRequest => f.write_str("control refused the request as malformed"),
            Self::Ended => f.write_str("the grant ended or was revoked"),
        }
    }
}

/// Why control closes a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloseReason {
    /// The token is unknown, ended, or for something else.
    BadToken,
    /// The signature does not fit the identity.
    BadSignature,
    /// The token or device belongs to another identity key.
    IdentityChanged,
    /// A message was malformed, out of sequence or not for this role.
    BadMessage,
    /// The node did not read fast enough; it gets full state when it is back.
    TooSlow,
    /// The same installation connected again.
    Replaced,
    /// The device, principal, site or token was disabled or deleted.
    Disabled,
    /// Control is shutting down.
    ShuttingDown,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadToken => "control does not accept this token: make a new one with `postern admin`",
            Self::BadSignature => "the signature does not fit the identity key",
            Self::IdentityChanged => "control knows this installation by another identity key",
            Self::BadMessage => "control refused a message",
            Self::TooSlow => "this node did not read fast enough",
            Self::Replaced => "the same installation connected again",
            Self::Disabled => "this installation was disabled",
            Self::ShuttingDown => "control is shutting down",
        })
    }
}

impl CloseReason {
    /// Whether trying again soon can help.
    pub fn is_final(self) -> bool {
        match self {
            Self::BadToken | Self::BadSignature | Self::IdentityChanged | Self::Disabled => true,
            Self::BadMessage | Self::TooSlow | Self::Replaced | Self::ShuttingDown => false,
        }
    }
}

/// What control says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToNode {
    /// The first message.
    Challenge {
        /// 32 random bytes.
        #[serde(with = "serde_bytes")]
        nonce: Vec<u8>,
    },
    /// The full state.
    Welcome(Box<Welcome>),
    /// Client: a resource is new or changed.
    ResourceChanged(ResourceView),
    /// Client: a resource is gone.
    ResourceGone(ResourceId),
    /// Client and gateway: all relays, anew.
    Relays(Vec<RelayOffer>),
    /// Client: access.
    Granted(Box<Granted>),
    /// Client: no access.
    Denied {
        /// From the [`RequestAccess`].
        request: u64,
        /// The resource.
        resource: ResourceId,
        /// Why.
        reason: DenyReason,
    },
    /// Client: a grant has ended.
    Revoked {
        /// The grant.
        grant: GrantId,
        /// The resource.
        resource: ResourceId,
        /// Why.
        reason: DenyReason,
    },
    /// Gateway: install a grant.
    Authorize(Box<Authorize>),
    /// Gateway: end a grant at once.
    Revoke {
        /// The grant.
        grant: GrantId,
        /// Its device.
        device: DeviceId,
        /// The version of the device's grants that this makes.
        version: GrantVersion,
    },
    /// Client: a gateway has new candidates. Gateway: a device has.
    Candidates {
        /// Whose.
        of: Peer,
        /// All of them.
        candidates: Vec<Candidate>,
    },
    /// Gateway: a batch of flows is stored, and all before it in its stream.
    FlowsStored {
        /// From the [`FlowBatch`].
        stream: u64,
        /// From the [`FlowBatch`].
        sequence: u64,
    },
    /// Wants a [`FromNode::Pong`] with the same number.
    Ping(u64),
    /// The last message.
    Close(CloseReason),
}

/// The other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// A device, at a gateway.
    Device(DeviceId),
    /// A gateway, at a device.
    Gateway(GatewayId),
}

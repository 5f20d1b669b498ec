//! What a gateway holds about one device: its session and its grants.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use protocol_control::{
    Authorize, Candidate, GatewayRefusal, GrantVersion, InnerAddresses, Offer, ResourceAddress,
};
use protocol_filter::{Destination, GrantSpec};
use protocol_identity::{GrantId, KemCiphertext, Secret32, WireguardPublic};
use tokio::time::Instant;

/// Processes of a device that are remembered as gone. A grant that an older one asked for is renewed with its old offer.
const GONE_PROCESSES: usize = 16;

/// A grant in force.
pub(crate) struct Held {
    pub(crate) authorize: Authorize,
    /// On [`lasting_time`](actors_tunnel::lasting_time).
    pub(crate) ends: Duration,
    /// The addresses behind the name of a `dns` resource.
    pub(crate) real: Vec<IpAddr>,
}

/// A device that has, or had, a grant.
pub(crate) struct Device {
    /// Its place on the lane.
    pub(crate) slot: u16,
    /// The offer that began the session.
    pub(crate) offer: Offer,
    pub(crate) inner: InnerAddresses,
    pub(crate) secret: Secret32,
    pub(crate) ciphertext: KemCiphertext,
    pub(crate) candidates: Vec<Candidate>,
    pub(crate) grants: BTreeMap<GrantId, Held>,
    pub(crate) version: GrantVersion,
    /// Grants whose installation control wants to hear of.
    pub(crate) unconfirmed: BTreeSet<GrantId>,
    /// Without a grant, the device is forgotten then.
    pub(crate) forget_at: Option<Instant>,
    gone: VecDeque<WireguardPublic>,
}

impl Device {
    /// A device whose process offers these keys, in the place of an older process of it, if there was one.
    pub(crate) fn begin(
        slot: u16,
        offer: Offer,
        inner: InnerAddresses,
        old: Option<Self>,
    ) -> Result<Self, GatewayRefusal> {
        let (ciphertext, secret) = offer.kem.encapsulate().map_err(|_| GatewayRefusal::BadOffer)?;
        let mut device = Self {
            slot,
            inner,
            secret,
            ciphertext,
            candidates: offer.candidates.clone(),
            offer,
            grants: BTreeMap::new(),
            version: GrantVersion::default(),
            unconfirmed: BTreeSet::new(),
            forget_at: None,
            gone: VecDeque::new(),
        };
        if let Some(old) = old {
            // What was granted to the device stays granted; each grant is confirmed with the new keys.
            (device.grants, device.version, device.gone) = (old.grants, old.version, old.gone);
            if device.gone.len() == GONE_PROCESSES {
                device.gone.pop_front();
            }
            device.gone.push_back(old.offer.wireguard);
        }
        Ok(device)
    }

    /// Whether the session goes on with an offer: it is this process's, or one that was overtaken by this process.
    pub(crate) fn serves(&self, offer: &Offer) -> bool {
        self.offer.same_process(offer)
            || self.gone.contains(&offer.wireguard)
            || self.grants.values().any(|held| held.authorize.offer.wireguard == offer.wireguard)
    }

    /// Grants for the lanes.
    pub(crate) fn specs(&self) -> Vec<GrantSpec> {
        self.grants.values().map(Held::spec).collect()
    }
}

impl Held {
    fn spec(&self) -> GrantSpec {
        let destination = match (&self.authorize.resource.address, &self.authorize.name) {
            (ResourceAddress::Cidr(net), _) => Destination::Cidr(*net),
            (ResourceAddress::Ip(address), _) => Destination::Ip(*address),
            (ResourceAddress::Dns(name), None) => {
                Destination::Name { name: name.clone(), mapped_v4: None, mapped_v6: None, real: Vec::new() }
            }
            (ResourceAddress::Dns(_), Some(mapped)) => Destination::Name {
                name: mapped.name.clone(),
                mapped_v4: Some(mapped.v4),
                mapped_v6: Some(mapped.v6),
                real: self.real.clone(),
            },
        };
        GrantSpec {
            grant: self.authorize.grant,
            resource: self.authorize.resource.resource,
            policy: self.authorize.policy,
            destination,
            filters: self.authorize.resource.filters.clone(),
            ends: self.ends,
        }
    }

    /// The name that was looked up, for a `dns` resource.
    pub(crate) fn name(&self) -> Option<&str> {
        self.authorize.name.as_ref().map(|mapped| mapped.name.as_str())
    }

    /// Which families the resource has addresses of.
    pub(crate) fn families(&self) -> (bool, bool) {
        match self.authorize.resource.address {
            ResourceAddress::Cidr(net) => (net.network().is_ipv4(), net.network().is_ipv6()),
            ResourceAddress::Ip(address) => (address.is_ipv4(), address.is_ipv6()),
            ResourceAddress::Dns(_) => {
                (self.real.iter().any(IpAddr::is_ipv4), self.real.iter().any(IpAddr::is_ipv6))
            }
        }
    }
}

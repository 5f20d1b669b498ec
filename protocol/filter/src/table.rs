//! A peer's grants, compiled for lookups.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prefix_trie::PrefixMap;
use protocol_identity::{GrantId, PolicyId, ResourceId};

use crate::{Destination, GrantSpec, GrantVersion};

/// One immutable, versioned table of a peer's grants. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PeerGrants {
    version: GrantVersion,
    grants: Arc<[Granted]>,
    index: Arc<Index>,
}

/// A grant with what its flows carry of it.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub spec: GrantSpec,
    pub ticket: Ticket,
}

/// What a flow knows of the grant that admits it.
#[derive(Debug, Clone)]
pub(crate) struct Ticket {
    pub grant: GrantId,
    pub resource: ResourceId,
    pub policy: PolicyId,
    /// The name that leads to a name's addresses.
    pub name: Option<Arc<str>>,
    pub ends: Duration,
}

impl PeerGrants {
    /// Compiles a table. Of the order of `grants` nothing depends.
    pub fn compile(version: GrantVersion, mut grants: Vec<GrantSpec>) -> Self {
        // Of equal prefixes the most specific kind counts first, then the later end, so that flows move seldom.
        grants.sort_by(|a, b| {
            (rank(&a.destination), std::cmp::Reverse(a.ends), a.grant).cmp(&(
                rank(&b.destination),
                std::cmp::Reverse(b.ends),
                b.grant,
            ))
        });
        let grants: Arc<[Granted]> = grants
            .into_iter()
            .map(|mut spec| {
                let name = match &mut spec.destination {
                    Destination::Name { name, real, .. } => {
                        // Servers rotate their answers; the choice for a flow must not depend on that.
                        real.sort_unstable();
                        real.dedup();
                        Some(Arc::from(name.as_str()))
                    }
                    Destination::Cidr(_) | Destination::Ip(_) => None,
                };
                let (grant, resource, policy, ends) = (spec.grant, spec.resource, spec.policy, spec.ends);
                Granted { spec, ticket: Ticket { grant, resource, policy, name, ends } }
            })
            .collect();
        let prefixes = grants
            .iter()
            .enumerate()
            .flat_map(|(at, granted)| granted.spec.destination.prefixes().map(move |p| (p, at)));
        let index = Arc::new(Index::new(prefixes));
        Self { version, grants, index }
    }

    /// The table of a peer that may reach nothing.
    pub fn none(version: GrantVersion) -> Self {
        Self::compile(version, Vec::new())
    }

    /// Its version.
    pub fn version(&self) -> GrantVersion {
        self.version
    }

    /// The grants, in no particular order.
    pub fn grants(&self) -> impl ExactSizeIterator<Item = &GrantSpec> {
        self.grants.iter().map(|granted| &granted.spec)
    }

    /// Every grant that leads to `destination` as the device addresses it, longest prefix first.
    pub fn leading_to(&self, destination: IpAddr) -> impl Iterator<Item = &GrantSpec> {
        self.granted(destination).map(|granted| &granted.spec)
    }

    pub(crate) fn granted(&self, destination: IpAddr) -> impl Iterator<Item = &Granted> {
        self.index.lookup(destination).iter().filter_map(|at| self.grants.get(*at))
    }
}

fn rank(destination: &Destination) -> u8 {
    match destination {
        Destination::Name { .. } => 0,
        Destination::Ip(_) => 1,
        Destination::Cidr(_) => 2,
    }
}

/// Prefixes to positions: one longest-prefix match finds all that cover an address.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    v4: PrefixMap<Ipv4Net, Box<[usize]>>,
    v6: PrefixMap<Ipv6Net, Box<[usize]>>,
}

impl Index {
    /// `prefixes` in the order that counts among equal ones.
    pub(crate) fn new(prefixes: impl Iterator<Item = (IpNet, usize)>) -> Self {
        let (mut v4, mut v6) = (BTreeMap::new(), BTreeMap::new());
        for (net, at) in prefixes {
            // By length first, so that a shorter prefix is in the trie before the longer ones that it covers.
            match net.trunc() {
                IpNet::V4(net) => v4.entry((net.prefix_len(), net)).or_insert_with(Vec::new).push(at),
                IpNet::V6(net) => v6.entry((net.prefix_len(), net)).or_insert_with(Vec::new).push(at),
            }
        }
        let mut index = Self::default();
        for ((_, net), mut positions) in v4 {
            positions.extend(index.v4.get_lpm(&net).map_or(&[][..], |(_, covering)| covering));
            index.v4.insert(net, positions.into());
        }
        for ((_, net), mut positions) in v6 {
            positions.extend(index.v6.get_lpm(&net).map_or(&[][..], |(_, covering)| covering));
            index.v6.insert(net, positions.into());
        }
        index
    }

    /// The positions whose prefix covers `address`, longest first.
    pub(crate) fn lookup(&self, address: IpAddr) -> &[usize] {
        match address {
            IpAddr::V4(v4) => self.v4.get_lpm(&Ipv4Net::from(v4)).map_or(&[], |(_, positions)| positions),
            IpAddr::V6(v6) => self.v6.get_lpm(&Ipv6Net::from(v6)).map_or(&[], |(_, positions)| positions),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn one_lookup_finds_every_covering_prefix_longest_first(
            nets in proptest::collection::vec((any::<u8>(), any::<u8>(), 0u8..=16), 0..24),
            address in any::<(u8, u8)>(),
        ) {
            let nets: Vec<IpNet> = nets
                .into_iter()
                .map(|(a, b, length)| IpNet::new(IpAddr::from([a & 3, b & 7, 0, 0]), length).unwrap())
                .collect();
            let address = IpAddr::from([address.0 & 3, address.1 & 7, 1, 1]);

            let index = Index::new(nets.iter().enumerate().map(|(at, net)| (*net, at)));

            let mut expected: Vec<usize> = (0..nets.len()).filter(|at| nets[*at].contains(&address)).collect();
            expected.sort_by_key(|at| std::cmp::Reverse(nets[*at].prefix_len()));
            prop_assert_eq!(index.lookup(address), &expected[..]);
        }
    }
}

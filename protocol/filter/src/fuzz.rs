//! One input for a fuzz target: a script of packets, changes and waits against one filter.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol_identity::{GrantId, PolicyId, ResourceId};

use crate::client::{Access, ClientTable, PeerSlot};
use crate::{
    Destination, GatewayRules, GrantSpec, GrantVersion, Offload, PeerFilter, PeerGrants, ReplyBuf,
    TrafficFilter,
};

/// Runs the bytes as a script: a step's kind, its length, its content. Nothing must panic.
pub fn fuzz_filter(input: &[u8]) {
    let device = IpAddr::from([100, 64, 0, 2]);
    let device_v6 = IpAddr::from([0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, 2]);
    let resource = ResourceId(uuid_of(1));
    let mut filter = PeerFilter::new(vec![device, device_v6], Arc::new(GatewayRules::default()), 1);
    let mut client = ClientTable::new(vec![device, device_v6]);
    let mut out = ReplyBuf::new();
    let mut now = Duration::from_secs(1);
    let mut version = 1;
    let mut rest = input;
    filter.apply(PeerGrants::compile(GrantVersion(version), grants(now, 0xff)), now);
    for grant in grants(now, 0xff) {
        client.put(resource, grant.destination.prefixes().collect(), grant.filters);
    }
    client.set(resource, Access::Granted(PeerSlot(0)));
    while let [kind, length, after @ ..] = rest {
        let (content, after) = after.split_at(usize::from(*length).min(after.len()));
        rest = after;
        let mut packet = content.to_vec();
        match kind % 6 {
            0 => {
                let _ = filter.inward(&mut packet, Offload::default(), now, &mut out);
            }
            1 => {
                let _ = filter.outward(&mut packet, Offload::default(), now, &mut out);
            }
            2 => {
                version += 1;
                let mask = content.first().copied().unwrap_or(0);
                filter.apply(PeerGrants::compile(GrantVersion(version), grants(now, mask)), now);
            }
            3 => filter.revoke(GrantVersion(version + u64::from(*length & 1))),
            4 => {
                let _ = client.outward(&packet, now, &mut out);
                let _ = client.inward(&packet, PeerSlot(0));
            }
            _ => {
                now += Duration::from_secs(u64::from(*length));
                filter.handle_timeout(now);
                debug_assert!(filter.poll_timeout().is_none_or(|next| next > now), "would be woken for ever");
            }
        }
        while filter.poll_output().is_some() {}
    }
    filter.close(now);
    debug_assert_eq!(filter.flows(), 0);
}

fn grants(now: Duration, mask: u8) -> Vec<GrantSpec> {
    let destinations = [
        Destination::Cidr(ipnet::IpNet::V4(ipnet::Ipv4Net::new_assert([10, 0, 0, 0].into(), 8))),
        Destination::Ip(IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5])),
        Destination::Name {
            name: "wiki.corp.example".to_owned(),
            mapped_v4: Some([100, 96, 0, 1].into()),
            mapped_v6: Some([0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, 1].into()),
            real: vec![[10, 0, 0, 5].into(), [10, 0, 0, 6].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 5].into()],
        },
    ];
    let chosen = destinations.into_iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1);
    chosen
        .map(|(at, destination)| GrantSpec {
            grant: GrantId(uuid_of(at as u128)),
            resource: ResourceId(uuid_of(at as u128)),
            policy: PolicyId(uuid_of(at as u128)),
            destination,
            filters: if mask & 0x80 == 0 {
                vec![TrafficFilter::Tcp { from: 1, to: 1024 }]
            } else {
                Vec::new()
            },
            ends: now + Duration::from_secs(u64::from(mask) * 4),
        })
        .collect()
}

fn uuid_of(number: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(number)
}

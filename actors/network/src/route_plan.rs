//! Which routes the host gets, and which control may not have: pure decisions.
//!
//! The tunnel's routes live in a routing table of their own, which a rule shows to every packet that does not carry our
//! mark. So our own sockets, which carry it, never see the tunnel, whatever is routed into it. Inside the table the
//! longest prefix wins against the host's other routes too: a more specific route of the host gets a `throw` entry,
//! which sends the lookup back to the host's tables.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What the host should look like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPlan {
    /// Our addresses on the device.
    pub addresses: Vec<IpAddr>,
    /// What is reached through the tunnel.
    pub routes: Vec<IpNet>,
    /// Control and relays: always reached outside the tunnel, by every process of the host.
    pub outside: Vec<IpAddr>,
    /// The person agreed to having the default route taken.
    pub default_route_consent: bool,
}

/// Why a route was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteRefusal {
    /// It, or it with others, would take a large part of the Internet without consent.
    #[error("taking the default route needs your consent")]
    NeedsConsent,
    /// It is the address of a relay or of control.
    #[error("it is the address of a relay or of the control plane")]
    OwnServer,
    /// Loopback, link-local, multicast and the like stay on the host.
    #[error("this range never leaves the host or its link")]
    StaysLocal,
}

/// One entry of our table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Entry {
    /// Into the tunnel.
    Tunnel(IpNet),
    /// Back to the host's own tables.
    Throw(IpNet),
}

impl Entry {
    pub(crate) fn net(self) -> IpNet {
        let (Self::Tunnel(net) | Self::Throw(net)) = self;
        net
    }

    pub(crate) fn is_tunnel(self) -> bool {
        matches!(self, Self::Tunnel(_))
    }
}

/// The table that a plan comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) entries: BTreeSet<Entry>,
    pub(crate) refused: Vec<(IpNet, RouteRefusal)>,
}

/// A share of an address space above this needs consent: a quarter of IPv4, which no private range comes near.
const V4_CONSENT: u64 = 1 << 30;
/// The same for IPv6 in units of 2^64: a 64th, more than all unique local addresses (a 128th), less than 2000::/3.
const V6_CONSENT: u128 = 1 << 58;

impl Table {
    /// The table for `plan` on a host whose own tables hold `host`.
    pub(crate) fn of(plan: &HostPlan, host: &[IpNet]) -> Self {
        let mut refused = Vec::new();
        let wanted: BTreeSet<IpNet> = plan.routes.iter().map(IpNet::trunc).collect();
        let mut tunnel = BTreeSet::new();
        for route in wanted {
            if stays_local(&route) {
                refused.push((route, RouteRefusal::StaysLocal));
            } else if plan.outside.iter().any(|server| route == IpNet::from(*server)) {
                refused.push((route, RouteRefusal::OwnServer));
            } else {
                tunnel.insert(route);
            }
        }
        if !plan.default_route_consent {
            let (v4, v6) = (large_v4(&tunnel), large_v6(&tunnel));
            tunnel.retain(|route| {
                // When the sum is too large, what is kept is what a site can plausibly have: nothing wider than a /8
                // of IPv4 or a /32 of IPv6, and the private and unique local ranges.
                let takes = match route {
                    IpNet::V4(net) => v4 && net.prefix_len() < 8,
                    IpNet::V6(net) => v6 && net.prefix_len() < 32 && !net.network().is_unique_local(),
                };
                if takes {
                    refused.push((*route, RouteRefusal::NeedsConsent));
                }
                !takes
            });
            if large_v4(&tunnel) {
                drop_public(
                    &mut tunnel,
                    &mut refused,
                    |route| matches!(route, IpNet::V4(net) if !net.network().is_private()),
                );
            }
            if large_v6(&tunnel) {
                drop_public(
                    &mut tunnel,
                    &mut refused,
                    |route| matches!(route, IpNet::V6(net) if !net.network().is_unique_local()),
                );
            }
        }
        let outside = plan.outside.iter().map(|server| IpNet::from(*server));
        let specific =
            host.iter().map(IpNet::trunc).filter(|net| net.prefix_len() > 0 && !tunnel.contains(net));
        let throws: BTreeSet<IpNet> =
            specific.chain(outside).filter(|net| tunnel.iter().any(|route| route.contains(net))).collect();
        let entries =
            tunnel.into_iter().map(Entry::Tunnel).chain(throws.into_iter().map(Entry::Throw)).collect();
        Self { entries, refused }
    }
}

fn drop_public(
    tunnel: &mut BTreeSet<IpNet>,
    refused: &mut Vec<(IpNet, RouteRefusal)>,
    public: impl Fn(&IpNet) -> bool,
) {
    tunnel.retain(|route| {
        let drop = public(route);
        if drop {
            refused.push((*route, RouteRefusal::NeedsConsent));
        }
        !drop
    });
}

fn large_v4(routes: &BTreeSet<IpNet>) -> bool {
    let nets: Vec<Ipv4Net> =
        routes.iter().filter_map(|net| if let IpNet::V4(net) = net { Some(*net) } else { None }).collect();
    Ipv4Net::aggregate(&nets).iter().map(|net| 1u64 << (32 - net.prefix_len())).sum::<u64>() > V4_CONSENT
}

fn large_v6(routes: &BTreeSet<IpNet>) -> bool {
    let nets: Vec<Ipv6Net> =
        routes.iter().filter_map(|net| if let IpNet::V6(net) = net { Some(*net) } else { None }).collect();
    let share = |net: &Ipv6Net| 1u128 << 64u8.saturating_sub(net.prefix_len());
    Ipv6Net::aggregate(&nets).iter().filter(|net| net.prefix_len() < 64).map(share).sum::<u128>() > V6_CONSENT
}

/// Ranges that mean the host itself or its link: RFC 6890 (0/8, 127/8, 169.254/16, 240/4), RFC 5771 (224/4), RFC 4291
/// (::/128, ::1, fe80::/10, ff00::/8). A default route covers them, but is more than them.
fn stays_local(net: &IpNet) -> bool {
    let inside = |range: &str| range.parse::<IpNet>().is_ok_and(|range| range.contains(net));
    ["0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "fe80::/10", "ff00::/8"]
        .into_iter()
        .any(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    fn plan(routes: &[&str]) -> HostPlan {
        HostPlan { routes: routes.iter().map(|r| net(r)).collect(), ..HostPlan::default() }
    }

    fn tunnel(table: &Table) -> Vec<String> {
        let only = |entry: &Entry| if let Entry::Tunnel(net) = entry { Some(net.to_string()) } else { None };
        table.entries.iter().filter_map(only).collect()
    }

    fn throws(table: &Table) -> Vec<String> {
        let only = |entry: &Entry| if let Entry::Throw(net) = entry { Some(net.to_string()) } else { None };
        table.entries.iter().filter_map(only).collect()
    }

    #[test]
    fn a_plain_route_goes_into_the_tunnel() {
        let table = Table::of(&plan(&["10.20.0.7/16", "fd00:1::/64"]), &[]);

        assert_eq!(tunnel(&table), ["10.20.0.0/16", "fd00:1::/64"]);
        assert!(table.refused.is_empty());
    }

    #[test]
    fn the_default_route_is_refused_without_consent_in_every_disguise() {
        let disguises: [&[&str]; 6] = [
            &["0.0.0.0/0"],
            &["0.0.0.0/1", "128.0.0.0/1"],
            &["::/0"],
            &["2000::/3"],
            &["8000::/1", "::/1"],
            &["2000::/4", "3000::/4"],
        ];
        for routes in disguises {
            let table = Table::of(&plan(routes), &[]);

            assert!(tunnel(&table).is_empty(), "{routes:?}");
            assert!(table.refused.iter().all(|(_, why)| *why == RouteRefusal::NeedsConsent), "{routes:?}");
        }
    }

    #[test]
    fn many_small_routes_that_add_up_to_the_internet_are_refused() {
        let mut wanted = plan(&["10.0.0.0/8"]);
        wanted.routes.extend((1..=126u8).map(|n| net(&format!("{n}.0.0.0/8"))));

        let table = Table::of(&wanted, &[]);

        assert_eq!(tunnel(&table), ["10.0.0.0/8"]);
    }

    #[test]
    fn private_ranges_together_need_no_consent() {
        let routes = ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

        let table = Table::of(&plan(&routes), &[]);

        assert_eq!(tunnel(&table).len(), routes.len());
    }

    #[test]
    fn with_consent_the_default_route_is_taken_and_the_local_network_stays() {
        let consenting = HostPlan { default_route_consent: true, ..plan(&["0.0.0.0/0"]) };

        let table = Table::of(&consenting, &[net("192.168.1.0/24"), net("0.0.0.0/0")]);

        assert_eq!(tunnel(&table), ["0.0.0.0/0"]);
        assert_eq!(throws(&table), ["192.168.1.0/24"]);
    }

    #[test]
    fn a_more_specific_route_of_the_host_wins_and_an_equal_one_does_not() {
        let host = [net("10.1.2.0/24"), net("10.9.0.0/16"), net("192.0.2.0/24")];

        let table = Table::of(&plan(&["10.0.0.0/8", "10.9.0.0/16"]), &host);

        assert_eq!(throws(&table), ["10.1.2.0/24"]);
    }

    #[test]
    fn relays_and_control_are_never_reached_through_the_tunnel() {
        let servers = vec!["10.1.2.3".parse().unwrap(), "203.0.113.9".parse().unwrap()];
        let mut wanted = plan(&["10.1.0.0/16", "203.0.113.9/32"]);
        wanted.outside = servers;

        let table = Table::of(&wanted, &[]);

        assert_eq!(tunnel(&table), ["10.1.0.0/16"]);
        assert_eq!(throws(&table), ["10.1.2.3/32"]);
        assert_eq!(table.refused, [(net("203.0.113.9/32"), RouteRefusal::OwnServer)]);
    }

    #[test]
    fn ranges_of_the_host_and_its_link_stay_there() {
        for local in
            ["127.0.0.0/8", "127.0.0.53/32", "169.254.169.254/32", "224.0.0.251/32", "::1/128", "fe80::/64"]
        {
            let table = Table::of(&plan(&[local]), &[]);

            assert!(table.entries.is_empty(), "{local}");
            assert_eq!(table.refused, [(net(local), RouteRefusal::StaysLocal)]);
        }
    }
}

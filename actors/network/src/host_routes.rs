//! Brings the host to a [`HostPlan`], and back: what [`Routes`](crate::Routes) does, without the actor.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use rtnetlink::IpVersion;

use crate::netlink::{Netlink, NetlinkError, Rule};
use crate::route_plan::{HostPlan, RouteRefusal, Table};

/// `SO_MARK` of every socket of ours that must stay outside the tunnel.
pub const SOCKET_MARK: u32 = 0x5074_0000;
/// The bits of the mark that count; the rest belongs to others.
pub const SOCKET_MARK_MASK: u32 = 0xffff_0000;
/// `rtm_protocol` of routes and rules of ours (none of the registered ones in rtnetlink.h).
pub const ROUTE_PROTOCOL: u8 = 0x50;

/// Where the routes of one process live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutesConfig {
    /// The TUN device.
    pub device: String,
    /// What its packets may measure.
    pub mtu: u16,
    /// The routing table, above 255; two processes on one host need two.
    pub table: u32,
    /// The priority of the rule that leads there, before `main` (32,766).
    pub priority: u32,
    /// The mark of the sockets that the rule leaves alone.
    pub mark: u32,
}

impl RoutesConfig {
    /// Table and priority of the client.
    pub fn client(device: &str) -> Self {
        Self {
            device: device.to_owned(),
            mtu: crate::TUN_MTU,
            table: 20_596,
            priority: 5_106,
            mark: SOCKET_MARK,
        }
    }

    /// Table and priority of the gateway, so that both can run on one host.
    pub fn gateway(device: &str) -> Self {
        Self { table: 20_597, priority: 5_107, ..Self::client(device) }
    }

    fn rule(&self) -> Rule {
        Rule {
            mark: self.mark,
            mask: SOCKET_MARK_MASK,
            table: self.table,
            priority: self.priority,
            protocol: ROUTE_PROTOCOL,
        }
    }
}

/// What a plan came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AppliedRoutes {
    /// Routes that lead into the tunnel now.
    pub routes: Vec<IpNet>,
    /// Routes that were left out, each with the reason.
    pub refused: Vec<(IpNet, RouteRefusal)>,
    /// Addresses that the device has now.
    pub addresses: Vec<IpAddr>,
    /// The host does not speak IPv6 on this device: IPv6 addresses and routes were left out.
    pub without_ipv6: bool,
}

/// Makes the host's device, table and rules what `plan` says. Only what differs is changed, so flows are not cut.
pub(crate) async fn apply(config: &RoutesConfig, plan: Arc<HostPlan>) -> Result<AppliedRoutes, NetlinkError> {
    let netlink = Netlink::connect()?;
    let index = netlink.link_index(&config.device).await?;
    netlink.link_up(index, config.mtu, crate::TUN_SEGMENTS).await?;
    let (addresses, without_ipv6) = set_addresses(&netlink, index, &plan.addresses).await?;
    let speaks = |net: &IpNet| !(without_ipv6 && matches!(net, IpNet::V6(_)));
    let host = netlink.host_routes().await?;
    let table = Table::of(&plan, &host);
    let wanted: BTreeSet<_> = table.entries.iter().copied().filter(|entry| speaks(&entry.net())).collect();
    let present: BTreeSet<_> = netlink.entries(config.table, ROUTE_PROTOCOL).await?.into_iter().collect();
    // A prefix can change from tunnel to throw: the kernel would keep both.
    for entry in present.difference(&wanted) {
        netlink.delete_entry(*entry, config.table, ROUTE_PROTOCOL).await?;
    }
    for entry in wanted.difference(&present) {
        netlink.add_entry(*entry, index, config.table, ROUTE_PROTOCOL).await?;
    }
    netlink.add_rule(IpVersion::V4, &config.rule()).await?;
    if !without_ipv6 {
        netlink.add_rule(IpVersion::V6, &config.rule()).await?;
    }
    let routes = wanted.iter().filter(|entry| entry.is_tunnel()).map(|entry| entry.net()).collect();
    Ok(AppliedRoutes { routes, refused: table.refused, addresses, without_ipv6 })
}

async fn set_addresses(
    netlink: &Netlink,
    index: u32,
    wanted: &[IpAddr],
) -> Result<(Vec<IpAddr>, bool), NetlinkError> {
    let present = netlink.addresses(index).await?;
    let link_local = |address: &IpAddr| matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    for address in present.iter().filter(|address| !wanted.contains(address) && !link_local(address)) {
        netlink.delete_address(index, *address).await?;
    }
    let (mut set, mut without_ipv6) = (Vec::new(), false);
    for address in wanted {
        match netlink.add_address(index, *address).await {
            Ok(()) => set.push(*address),
            // disable_ipv6 answers EACCES or EPERM, a kernel without IPv6 EOPNOTSUPP or EAFNOSUPPORT.
            Err(error) if address.is_ipv6() => {
                tracing::warn!(error = %error, "no IPv6 inside the tunnel: the host does not take the address");
                without_ipv6 = true;
            }
            Err(error) => return Err(error),
        }
    }
    Ok((set, without_ipv6))
}

/// Removes rules and routes of ours, also those of a predecessor that crashed. The device goes with its descriptor.
///
/// # Errors
/// What the kernel refused; the rest is removed all the same.
pub async fn clean_routes(config: &RoutesConfig) -> Result<(), NetlinkError> {
    let netlink = Netlink::connect()?;
    let rule = config.rule();
    let mut outcome = netlink.delete_rules(IpVersion::V4, &rule).await;
    outcome = outcome.and(netlink.delete_rules(IpVersion::V6, &rule).await);
    for entry in netlink.entries(config.table, ROUTE_PROTOCOL).await? {
        outcome = outcome.and(netlink.delete_entry(entry, config.table, ROUTE_PROTOCOL).await);
    }
    outcome
}

/// The same for code that cannot wait: exit, and panics on the way there. Takes a few milliseconds.
///
/// # Errors
/// As [`clean_routes`].
pub fn clean_routes_blocking(config: &RoutesConfig) -> Result<(), NetlinkError> {
    let config = config.clone();
    crate::blocking::run("routes-cleaner", move || async move { clean_routes(&config).await })
        .unwrap_or_else(|error| Err(NetlinkError::Refused("start the cleaner", error)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drops::EdgeDrops;
    use crate::lane_tun::{LaneTun, TunConfig};
    use crate::testing::{in_namespace, tool};
    use crate::tun_open::Offload;

    fn plan(routes: &[&str]) -> Arc<HostPlan> {
        Arc::new(HostPlan {
            addresses: vec!["100.64.0.7".parse().unwrap(), "fd70:6f73:7401::7".parse().unwrap()],
            routes: routes.iter().map(|route| route.parse().unwrap()).collect(),
            outside: vec!["10.1.0.1".parse().unwrap()],
            default_route_consent: false,
        })
    }

    fn tun() -> std::rc::Rc<LaneTun> {
        let config = TunConfig { name: "postern0".to_owned(), offload: Offload::Off };
        LaneTun::open(&config, EdgeDrops::alone()).unwrap()
    }

    #[test]
    fn a_plan_is_put_in_place_changed_and_removed() {
        in_namespace(|| async {
            let (_tun, config) = (tun(), RoutesConfig::client("postern0"));
            tool("ip link add lan type veth peer name peer");
            tool("ip link set peer up");
            tool("ip addr add 10.1.2.1/24 dev lan");
            tool("ip link set lan up");
            tool("ip link set lo up");
            let rules = |family: &str| tool(&format!("ip {family} rule show"));
            let before = (rules("-4"), rules("-6"));

            let applied = apply(&config, plan(&["10.1.0.0/16", "192.0.2.0/24", "fd01::/64"])).await.unwrap();

            assert_eq!(applied.routes.len(), 3);
            assert!(!applied.without_ipv6);
            let through = |to: &str| tool(&format!("ip route get {to}"));
            assert!(through("10.1.7.7").contains("dev postern0"), "{}", through("10.1.7.7"));
            assert!(through("10.1.7.7").contains("src 100.64.0.7"));
            assert!(through("fd01::5").contains("dev postern0"));
            assert!(through("fd01::5").contains("src fd70:6f73:7401::7"));
            assert!(through("10.1.2.9").contains("dev lan"), "the host's more specific route wins");
            assert!(!tool("ip -6 addr show dev postern0").contains("fe80"));

            apply(&config, plan(&["192.0.2.0/25"])).await.unwrap();

            let table = tool("ip route show table 20596");
            assert_eq!(table.split_whitespace().next(), Some("192.0.2.0/25"), "{table}");
            assert_eq!(table.lines().count(), 1, "{table}");

            clean_routes_blocking(&config).unwrap();

            assert_eq!((rules("-4"), rules("-6")), before);
            assert_eq!(tool("ip route show table 20596"), "");
        });
    }

    #[test]
    fn marked_sockets_and_own_servers_stay_outside_the_tunnel() {
        in_namespace(|| async {
            let (_tun, config) = (tun(), RoutesConfig::client("postern0"));
            tool("ip link add wan type veth peer name peer");
            tool("ip link set peer up");
            tool("ip addr add 198.51.100.2/24 dev wan");
            tool("ip link set wan up");
            tool("ip route add default via 198.51.100.1");

            apply(&config, plan(&["10.1.0.0/16"])).await.unwrap();

            assert!(tool("ip route get 10.1.0.1").contains("dev wan"), "control is reached outside");
            assert!(tool("ip route get 10.1.0.2").contains("dev postern0"));
            let marked = tool(&format!("ip route get 10.1.0.2 mark {SOCKET_MARK:#x}"));
            assert!(marked.contains("dev wan"), "{marked}");
        });
    }

    #[test]
    fn the_leavings_of_a_crashed_predecessor_are_removed() {
        in_namespace(|| async {
            let config = RoutesConfig::client("postern0");
            let crashed = tun();
            tool("ip link set lo up");
            apply(&config, plan(&["10.1.0.0/16"])).await.unwrap();
            drop(crashed);
            assert!(tool("ip rule show").contains("fwmark 0x50740000"));
            assert!(
                tool("ip route show table 20596").contains("throw 10.1.0.1"),
                "throws have no device to go with"
            );

            clean_routes(&config).await.unwrap();

            assert!(!tool("ip rule show").contains("fwmark"));
            assert_eq!(tool("ip route show table 20596"), "");
        });
    }

    #[test]
    fn a_host_without_ipv6_gets_ipv4_alone() {
        in_namespace(|| async {
            std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
            let (_tun, config) = (tun(), RoutesConfig::client("postern0"));

            let applied = apply(&config, plan(&["10.1.0.0/16", "fd01::/64"])).await.unwrap();

            assert!(applied.without_ipv6);
            assert_eq!(applied.addresses, ["100.64.0.7".parse::<IpAddr>().unwrap()]);
            assert_eq!(applied.routes, ["10.1.0.0/16".parse::<IpNet>().unwrap()]);
        });
    }

    #[test]
    fn a_missing_device_is_named() {
        in_namespace(|| async {
            let result = apply(&RoutesConfig::client("postern0"), plan(&[])).await;

            assert_eq!(result.unwrap_err().to_string(), "there is no device postern0");
        });
    }
}

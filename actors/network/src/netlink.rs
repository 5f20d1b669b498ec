//! The few rtnetlink operations that routes and the link watcher need.

use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::In6AddrGenMode;
use rtnetlink::packet_route::link::{AfSpecInet6, AfSpecUnspec, LinkAttribute, LinkFlags};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};
use rtnetlink::{Handle, IpVersion, LinkUnspec, RouteMessageBuilder};

use crate::route_plan::Entry;

/// What the kernel answered.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// There is no device of this name.
    #[error("there is no device {0}")]
    NoDevice(String),
    /// The process may not change the network.
    #[error("not permitted to {0}: CAP_NET_ADMIN is needed")]
    NotPermitted(&'static str),
    /// The kernel refused.
    #[error("cannot {0}")]
    Refused(&'static str, #[source] io::Error),
    /// The conversation with the kernel broke.
    #[error("cannot talk to the kernel about {0}: {1}")]
    Broken(&'static str, String),
}

impl NetlinkError {
    fn errno(&self) -> Option<i32> {
        if let Self::Refused(_, error) = self { error.raw_os_error() } else { None }
    }
}

fn failed(what: &'static str) -> impl Fn(rtnetlink::Error) -> NetlinkError {
    move |error| match error {
        rtnetlink::Error::NetlinkError(message) => {
            let error = message.to_io();
            match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => NetlinkError::NotPermitted(what),
                _ => NetlinkError::Refused(what, error),
            }
        }
        other => NetlinkError::Broken(what, other.to_string()),
    }
}

/// Does nothing when it is so already.
fn already(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if error.errno() == Some(libc::EEXIST) => Ok(()),
        other => other,
    }
}

/// Does nothing when it was so already.
fn gone(result: Result<(), NetlinkError>) -> Result<(), NetlinkError> {
    match result {
        Err(error) if matches!(error.errno(), Some(libc::ESRCH | libc::ENOENT | libc::ENODEV)) => Ok(()),
        other => other,
    }
}

/// A conversation with the kernel; ends when dropped.
pub(crate) struct Netlink {
    handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    pub(crate) fn connect() -> Result<Self, NetlinkError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| NetlinkError::Refused("open a netlink socket", error))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    pub(crate) async fn link_index(&self, device: &str) -> Result<u32, NetlinkError> {
        let mut links = self.handle.link().get().match_name(device).execute();
        match links.try_next().await {
            Ok(Some(link)) => Ok(link.header.index),
            Ok(None) => Err(NetlinkError::NoDevice(device.to_owned())),
            Err(error) => match failed("find the device")(error) {
                error if error.errno() == Some(libc::ENODEV) => {
                    Err(NetlinkError::NoDevice(device.to_owned()))
                }
                error => Err(error),
            },
        }
    }

    /// Sets MTU, the longest super-packet and state; no link-local address, because the tunnel has no link.
    pub(crate) async fn link_up(&self, index: u32, mtu: u16, segments: u32) -> Result<(), NetlinkError> {
        let quiet = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
            In6AddrGenMode::None,
        )])]);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(quiet).build();
        // Without IPv6 there is nothing to silence.
        let _ = self.handle.link().set(message).execute().await;
        let shorter = LinkAttribute::GsoMaxSegs(segments);
        let message = LinkUnspec::new_with_index(index).append_extra_attribute(shorter).build();
        // Where the kernel refuses this, super-packets take two sends instead of one.
        let _ = self.handle.link().set(message).execute().await;
        let message = LinkUnspec::new_with_index(index).mtu(u32::from(mtu)).up().build();
        self.handle.link().set(message).execute().await.map_err(failed("bring the device up"))
    }

    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<IpAddr>, NetlinkError> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let list: Vec<_> =
            request.execute().try_collect().await.map_err(failed("list the addresses of the device"))?;
        Ok(list.iter().filter_map(|message| address_of(&message.attributes)).collect())
    }

    pub(crate) async fn add_address(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let mut request = self.handle.address().add(index, address, bits);
        let message = request.message_mut();
        // Nobody else is on this link, so there is nothing to detect, and routes are made by us alone.
        message.header.flags = AddressHeaderFlags::Nodad;
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad | AddressFlags::Noprefixroute));
        already(request.execute().await.map_err(failed("add an address")))
    }

    pub(crate) async fn delete_address(&self, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let message = self.handle.address().add(index, address, bits).message_mut().clone();
        gone(self.handle.address().del(message).execute().await.map_err(failed("remove an address")))
    }

    async fn routes(&self, version: IpVersion) -> Result<Vec<RouteMessage>, NetlinkError> {
        let message = match version {
            IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        match self.handle.route().get(message).execute().try_collect().await {
            Ok(routes) => Ok(routes),
            // A kernel without IPv6 knows no IPv6 routes.
            Err(_) if matches!(version, IpVersion::V6) => Ok(Vec::new()),
            Err(error) => Err(failed("list routes")(error)),
        }
    }

    async fn all_routes(&self) -> Result<Vec<RouteMessage>, NetlinkError> {
        let mut routes = self.routes(IpVersion::V4).await?;
        routes.extend(self.routes(IpVersion::V6).await?);
        Ok(routes)
    }

    /// Destinations that the host's main table routes by itself.
    pub(crate) async fn host_routes(&self) -> Result<Vec<IpNet>, NetlinkError> {
        let main = |route: &RouteMessage| {
            table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
                && route.header.kind == RouteType::Unicast
        };
        let routes = self.all_routes().await?;
        let is_link_local =
            |net: &IpNet| matches!(net, IpNet::V6(net) if net.network().is_unicast_link_local());
        Ok(routes.iter().filter(|r| main(r)).filter_map(destination).filter(|n| !is_link_local(n)).collect())
    }

    /// The gateways of the host's default routes, as the kernel lists them.
    pub(crate) async fn default_routes(&self) -> Result<Vec<DefaultRoute>, NetlinkError> {
        let routes = self.all_routes().await?;
        Ok(routes
            .iter()
            .filter(|route| {
                table_of(route) == u32::from(RouteHeader::RT_TABLE_MAIN)
                    && route.header.kind == RouteType::Unicast
                    && route.header.destination_prefix_length == 0
            })
            .map(DefaultRoute::of)
            .collect())
    }

    /// The entries of our table that carry our protocol number.
    pub(crate) async fn entries(&self, table: u32, protocol: u8) -> Result<Vec<Entry>, NetlinkError> {
        let ours = |route: &&RouteMessage| {
            table_of(route) == table && route.header.protocol == RouteProtocol::from(protocol)
        };
        let routes = self.all_routes().await?;
        Ok(routes
            .iter()
            .filter(ours)
            .filter_map(|route| match route.header.kind {
                RouteType::Throw => destination(route).map(Entry::Throw),
                _ => destination(route).map(Entry::Tunnel),
            })
            .collect())
    }

    pub(crate) async fn add_entry(
        &self,
        entry: Entry,
        index: u32,
        table: u32,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let message = entry_message(entry, Some(index), table, protocol)?;
        already(self.handle.route().add(message).replace().execute().await.map_err(failed("add a route")))
    }

    pub(crate) async fn delete_entry(
        &self,
        entry: Entry,
        table: u32,
        protocol: u8,
    ) -> Result<(), NetlinkError> {
        let message = entry_message(entry, None, table, protocol)?;
        gone(self.handle.route().del(message).execute().await.map_err(failed("remove a route")))
    }

    /// The rule that shows our table to everything without our mark.
    pub(crate) async fn add_rule(&self, version: IpVersion, rule: &Rule) -> Result<(), NetlinkError> {
        let mut request = self.handle.rule().add();
        *request.message_mut() = rule.message(version);
        already(request.execute().await.map_err(failed("add a routing rule")))
    }

    pub(crate) async fn delete_rules(&self, version: IpVersion, rule: &Rule) -> Result<(), NetlinkError> {
        let family = matches!(version, IpVersion::V6);
        let listed: Result<Vec<RuleMessage>, _> =
            self.handle.rule().get(version).execute().try_collect().await;
        let rules = match listed {
            Ok(rules) => rules,
            Err(_) if family => return Ok(()),
            Err(error) => return Err(failed("list routing rules")(error)),
        };
        for message in rules {
            let ours =
                message.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::from(rule.protocol)))
                    && message.attributes.contains(&RuleAttribute::Table(rule.table));
            if ours {
                gone(
                    self.handle.rule().del(message).execute().await.map_err(failed("remove a routing rule")),
                )?;
            }
        }
        Ok(())
    }

    /// Every address of the host with its device and whether that is up.
    pub(crate) async fn host_addresses(&self) -> Result<Vec<(u32, IpAddr)>, NetlinkError> {
        let list: Vec<_> =
            self.handle.address().get().execute().try_collect().await.map_err(failed("list addresses"))?;
        let usable =
            AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
        Ok(list
            .iter()
            .filter(|message| !message.header.flags.intersects(usable))
            .filter_map(|message| Some((message.header.index, address_of(&message.attributes)?)))
            .collect())
    }

    /// Devices that are up: index and name.
    pub(crate) async fn links_up(&self) -> Result<Vec<(u32, String)>, NetlinkError> {
        let list: Vec<_> =
            self.handle.link().get().execute().try_collect().await.map_err(failed("list links"))?;
        Ok(list
            .into_iter()
            .filter(|link| link.header.flags.contains(LinkFlags::Up))
            .filter_map(|link| {
                let name = link.attributes.into_iter().find_map(|attribute| match attribute {
                    LinkAttribute::IfName(name) => Some(name),
                    _ => None,
                })?;
                Some((link.header.index, name))
            })
            .collect())
    }
}

/// A default route of the host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct DefaultRoute {
    pub(crate) device: Option<u32>,
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) metric: u32,
}

impl DefaultRoute {
    fn of(route: &RouteMessage) -> Self {
        let mut this = Self { device: None, gateway: None, metric: 0 };
        for attribute in &route.attributes {
            match attribute {
                RouteAttribute::Oif(index) => this.device = Some(*index),
                RouteAttribute::Gateway(address) => this.gateway = ip_of(address),
                RouteAttribute::Priority(metric) => this.metric = *metric,
                _ => {}
            }
        }
        this
    }
}

/// The rule `not fwmark <mark>/<mask> lookup <table>`.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pub(crate) mark: u32,
    pub(crate) mask: u32,
    pub(crate) table: u32,
    pub(crate) priority: u32,
    pub(crate) protocol: u8,
}

impl Rule {
    fn message(&self, version: IpVersion) -> RuleMessage {
        let mut message = RuleMessage::default();
        message.header.family = match version {
            IpVersion::V4 => AddressFamily::Inet,
            IpVersion::V6 => AddressFamily::Inet6,
        };
        message.header.action = RuleAction::ToTable;
        message.header.flags = RuleFlags::Invert;
        message.attributes = vec![
            RuleAttribute::Priority(self.priority),
            RuleAttribute::FwMark(self.mark),
            RuleAttribute::FwMask(self.mask),
            RuleAttribute::Table(self.table),
            RuleAttribute::Protocol(RouteProtocol::from(self.protocol)),
        ];
        message
    }
}

fn entry_message(
    entry: Entry,
    index: Option<u32>,
    table: u32,
    protocol: u8,
) -> Result<RouteMessage, NetlinkError> {
    let (net, kind) = match entry {
        Entry::Tunnel(net) => (net, RouteType::Unicast),
        Entry::Throw(net) => (net, RouteType::Throw),
    };
    let builder = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(net.network(), net.prefix_len())
        .map_err(|error| NetlinkError::Broken("a route", error.to_string()))?
        .table_id(table)
        .kind(kind)
        .protocol(RouteProtocol::from(protocol));
    let builder = match (entry, index) {
        (Entry::Tunnel(IpNet::V4(_)), Some(index)) => builder.scope(RouteScope::Link).output_interface(index),
        (Entry::Tunnel(IpNet::V6(_)), Some(index)) => builder.output_interface(index),
        (Entry::Tunnel(_), None) => builder.scope(RouteScope::NoWhere),
        (Entry::Throw(_), _) => builder,
    };
    Ok(builder.build())
}

fn table_of(route: &RouteMessage) -> u32 {
    let long = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    long.unwrap_or(u32::from(route.header.table))
}

fn destination(route: &RouteMessage) -> Option<IpNet> {
    let bits = route.header.destination_prefix_length;
    let address = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    let unspecified = match route.header.address_family {
        AddressFamily::Inet => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        _ => return None,
    };
    IpNet::new(address.unwrap_or(unspecified), bits).ok()
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// The host's own end: `IFA_LOCAL` where there is one, because `IFA_ADDRESS` is the other end of a point-to-point link.
fn address_of(attributes: &[AddressAttribute]) -> Option<IpAddr> {
    let local = attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

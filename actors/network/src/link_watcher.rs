//! Tells when the host's network changes: addresses, uplinks, routes.
//!
//! - Parent: the process's root, on a control lane.
//! - Core: comparing two [`NetworkState`]s.
//! - When it dies: the next incarnation reads the whole state and tells it, so no change is lost.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, Outlet};
use futures_util::StreamExt;
use ipnet::IpNet;
use rtnetlink::MulticastGroup;

use crate::netlink::{Netlink, NetlinkError};

/// Changes come in bursts (link, address, route): this much silence ends one.
const SETTLE: Duration = Duration::from_millis(250);
/// A network that never falls silent is looked at this often.
const AT_LEAST: Duration = Duration::from_secs(2);
/// The kernel drops notifications when its buffer is full, so the state is compared now and then anyway.
const RECHECK: Duration = Duration::from_secs(30);

/// An address of the host that the outside could reach.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostAddress {
    /// The address: never loopback or link-local.
    pub ip: IpAddr,
    /// The device that has it.
    pub device: String,
}

/// A default route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uplink {
    /// The device it leaves by.
    pub device: String,
    /// The router, unless the link has only one other end.
    pub gateway: Option<IpAddr>,
    /// The kernel's preference: less is better.
    pub metric: u32,
}

/// What the host's network is like.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkState {
    /// Addresses on devices that are up, ours left out.
    pub addresses: Vec<HostAddress>,
    /// Default routes.
    pub uplinks: Vec<Uplink>,
    /// What the host's main table routes.
    pub routes: Vec<IpNet>,
}

/// The network is different from what was told before; the first one tells how it is at start.
#[derive(Clone, Debug)]
pub struct NetworkChanged {
    /// How it is now.
    pub now: Arc<NetworkState>,
    /// Addresses or default routes changed: paths may be gone, and there may be better ones.
    pub uplink: bool,
}

/// What a [`LinkWatcher`] can be told.
#[derive(Debug)]
pub enum LinkCommand {
    /// Tells the state again, whether or not it changed.
    Tell,
}

/// The watcher.
pub struct LinkWatcher {
    ours: Vec<String>,
    recipients: Vec<Outlet<NetworkChanged>>,
    told: Option<Arc<NetworkState>>,
    /// When the burst that is going on began.
    since: Option<tokio::time::Instant>,
    busy: bool,
}

impl LinkWatcher {
    /// Tells `recipients`; `ours` names the devices of this process, whose addresses are no news.
    pub fn new(ours: Vec<String>, recipients: Vec<Outlet<NetworkChanged>>) -> Self {
        Self { ours, recipients, told: None, since: None, busy: false }
    }

    fn look(&mut self, cx: &mut Cx<Self>) {
        self.since = None;
        cx.wake_after(RECHECK);
        if self.busy {
            return;
        }
        self.busy = true;
        let ours = self.ours.clone();
        cx.spawn(async move { read_network(&ours).await }, |actor, state, _| {
            actor.busy = false;
            match state {
                Ok(state) => actor.compare(state),
                Err(error) => tracing::warn!(error = %error, "the host's network cannot be read"),
            }
        });
    }

    fn compare(&mut self, state: NetworkState) {
        let uplink = self
            .told
            .as_ref()
            .is_none_or(|told| (&told.addresses, &told.uplinks) != (&state.addresses, &state.uplinks));
        if self.told.as_deref() == Some(&state) {
            return;
        }
        let now = Arc::new(state);
        self.told = Some(Arc::clone(&now));
        for recipient in &self.recipients {
            if recipient.tell(NetworkChanged { now: Arc::clone(&now), uplink }).is_err() {
                // It will hear the next comparison.
                self.told = None;
            }
        }
    }
}

/// Reads the host's network; `ours` names devices to leave out.
///
/// # Errors
/// What the kernel refused.
pub async fn read_network(ours: &[String]) -> Result<NetworkState, NetlinkError> {
    let netlink = Netlink::connect()?;
    let links: Vec<_> = netlink
        .links_up()
        .await?
        .into_iter()
        .filter(|(_, name)| name != "lo" && !ours.contains(name))
        .collect();
    let name_of = |index: u32| links.iter().find(|(i, _)| *i == index).map(|(_, name)| name.clone());
    let mut addresses: Vec<_> = netlink
        .host_addresses()
        .await?
        .into_iter()
        .filter(|(_, ip)| !stays_on_link(ip))
        .filter_map(|(index, ip)| Some(HostAddress { ip, device: name_of(index)? }))
        .collect();
    let mut uplinks: Vec<_> = netlink
        .default_routes()
        .await?
        .into_iter()
        .filter_map(|route| {
            Some(Uplink { device: name_of(route.device?)?, gateway: route.gateway, metric: route.metric })
        })
        .collect();
    let mut routes = netlink.host_routes().await?;
    addresses.sort();
    uplinks.sort();
    routes.sort();
    Ok(NetworkState { addresses, uplinks, routes })
}

fn stays_on_link(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// A stream with an item for each notification; ends when the conversation with the kernel does.
fn notifications() -> Result<impl futures_util::Stream<Item = ()>, NetlinkError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ];
    let (connection, handle, messages) = rtnetlink::new_multicast_connection(&groups)
        .map_err(|error| NetlinkError::Refused("listen to the kernel", error))?;
    let connection = Aborting(tokio::spawn(connection));
    // Both live as long as the stream.
    Ok(messages.map(move |_| {
        let _ = (&connection, &handle);
    }))
}

struct Aborting(tokio::task::JoinHandle<()>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Actor for LinkWatcher {
    const KIND: &'static str = "LinkWatcher";
    type Command = LinkCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        match notifications() {
            Ok(stream) => {
                // Notified and done are told apart, because the end of the stream has to be noticed.
                let stream = stream.map(Some).chain(futures_util::stream::once(async { None }));
                cx.follow(stream, |actor, notified: Option<()>, cx| {
                    if notified.is_none() {
                        return cx.fail();
                    }
                    let now = cx.now();
                    let since = *actor.since.get_or_insert(now);
                    cx.wake_at((now + SETTLE).min(since + AT_LEAST));
                });
            }
            Err(error) => tracing::warn!(error = %error, "network changes are noticed late"),
        }
        self.look(cx);
    }

    fn told(&mut self, command: LinkCommand, cx: &mut Cx<Self>) {
        match command {
            LinkCommand::Tell => {
                self.told = None;
                self.look(cx);
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.look(cx);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use actors_runtime::{LaneKind, Universe};

    use super::*;
    use crate::testing::{in_bare_namespace, row, tool, until};

    type Heard = Arc<Mutex<Vec<NetworkChanged>>>;

    fn watching() -> (Universe, Heard) {
        let universe = Universe::new::<()>(&[row("LinkWatcher", LaneKind::Control)]);
        let heard = Heard::default();
        let ear = heard.clone();
        let outlet = Outlet::to(move |change| {
            ear.lock().unwrap().push(change);
            Ok(())
        });
        let factory = move || LinkWatcher::new(vec!["postern0".to_owned()], vec![outlet.clone()]);
        universe.start("", factory).unwrap();
        universe.block_on(until("the first state", || !heard.lock().unwrap().is_empty()));
        (universe, heard)
    }

    /// Lets notifications arrive and the burst end, until `holds`.
    fn settle_until(universe: &Universe, holds: impl Fn() -> bool) {
        for _ in 0..200 {
            universe.block_on(async { tokio::time::sleep(Duration::from_millis(10)).await });
            universe.advance(SETTLE);
            if holds() {
                return;
            }
        }
        panic!("nothing was told");
    }

    #[test]
    fn a_new_uplink_is_told_and_our_own_device_is_not() {
        in_bare_namespace(|| {
            tool("ip link set lo up");
            let (universe, heard) = watching();
            assert_eq!(*heard.lock().unwrap()[0].now, NetworkState::default());
            assert!(heard.lock().unwrap()[0].uplink);

            tool("ip link add wan type veth peer name postern0");
            tool("ip addr add 100.64.0.7/32 dev postern0");
            tool("ip addr add 198.51.100.2/24 dev wan");
            tool("ip link set postern0 up");
            tool("ip link set wan up");
            tool("ip route add default via 198.51.100.1 metric 7");
            settle_until(&universe, || {
                heard.lock().unwrap().last().is_some_and(|c| !c.now.uplinks.is_empty())
            });

            let heard = heard.lock().unwrap();
            let last = heard.last().unwrap();
            assert!(last.uplink);
            let addresses: Vec<_> =
                last.now.addresses.iter().map(|a| (a.ip.to_string(), a.device.as_str())).collect();
            assert_eq!(addresses, [("198.51.100.2".to_owned(), "wan")]);
            let gateway = Some("198.51.100.1".parse().unwrap());
            assert_eq!(last.now.uplinks, [Uplink { device: "wan".to_owned(), gateway, metric: 7 }]);
        });
    }

    #[test]
    fn a_route_that_is_no_uplink_says_so() {
        in_bare_namespace(|| {
            for command in [
                "ip link add lan type veth peer name peer",
                "ip link set peer up",
                "ip addr add 10.5.0.1/24 dev lan",
                "ip link set lan up",
            ] {
                tool(command);
            }
            let (universe, heard) = watching();
            let before = heard.lock().unwrap().len();

            tool("ip route add 10.77.0.0/16 via 10.5.0.9");
            settle_until(&universe, || heard.lock().unwrap().len() > before);

            let heard = heard.lock().unwrap();
            let last = heard.last().unwrap();
            assert!(!last.uplink);
            assert!(last.now.routes.contains(&"10.77.0.0/16".parse().unwrap()));
        });
    }

    #[test]
    fn a_recipient_that_was_full_is_told_later() {
        in_bare_namespace(|| {
            let universe = Universe::new::<()>(&[row("LinkWatcher", LaneKind::Control)]);
            let ear = Arc::new(Mutex::new(0));
            let counted = ear.clone();
            let outlet: Outlet<NetworkChanged> = Outlet::to(move |_| {
                *counted.lock().unwrap() += 1;
                Err(actors_runtime::Rejected::Full(()))
            });
            universe.start("", move || LinkWatcher::new(Vec::new(), vec![outlet.clone()])).unwrap();
            universe.block_on(until("the first try", || *ear.lock().unwrap() == 1));

            universe.advance(RECHECK);
            universe.block_on(until("the second try", || *ear.lock().unwrap() == 2));
        });
    }
}

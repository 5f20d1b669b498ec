//! Every actor of a gateway, in start order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use actors_access::{
    Admissions, AdmissionsCommand, AdmissionsSettings, ControlSession, Lookup, SessionSettings,
};
use actors_network::{
    EdgeDrops, FilterPlan, GrantedOffloads, HostFilter, HostFilterCommand, HostFilterConfig, KeptFilter,
    KeptPlan, LaneSockets, LaneTun, LinkWatcher, NetworkChanged, Offloads, Resolvers, ResolversCommand,
    ResolversConfig, Routes, RoutesCommand, RoutesConfig, SOCKET_MARK, TunConfig, TunDevice, UdpConfig,
    UdpSocket,
};
use actors_runtime::{
    Address, Boot, Drops, Full, Intensity, LaneKind, Outlet, Registry, Reply, Restart, Row, StartError,
};
use actors_tunnel::{PeerTable, Peers, PeersCommand, Router, TunnelLane};
use ipnet::IpNet;
use protocol_identity::{IdentityKey, WireguardKey};
use tokio::time::Instant;

use crate::progress::Progress;

/// What the actors of a gateway share.
pub struct Gateway {
    /// The name of the TUN device.
    pub tun: String,
    /// The most offload to ask for.
    pub offload: Offloads,
    /// What the kernel granted.
    pub granted: GrantedOffloads,
    /// UDP addresses, at most one a family.
    pub listen: Vec<SocketAddr>,
    /// The host's packet filter, as long as none of the host's own addresses is a resource.
    pub filter: FilterPlan,
    /// Where the host's packet filter lives.
    pub filter_config: HostFilterConfig,
    /// Where names are looked up.
    pub resolvers: ResolversConfig,
    /// The session with control.
    pub session: Arc<SessionSettings>,
    /// The identity of this installation.
    pub identity: Arc<IdentityKey>,
    /// The WireGuard key of this process.
    pub wireguard: WireguardKey,
    /// The local ceiling, if there is one.
    pub ceiling: Option<Vec<IpNet>>,
    /// Where the devices' identities are pinned.
    pub pins: PathBuf,
    /// Told when the gateway serves.
    pub progress: Arc<Progress>,
}

/// A quick mistake is survived; one that comes back at once is somebody else's to handle.
const INTENSITY: Intensity = Intensity { restarts: 5, within: Duration::from_secs(60) };

/// A peer that cannot be kept up costs the lane's table a restart: not more often than this.
const CHILD_INTENSITY: Intensity = Intensity { restarts: 10, within: Duration::from_secs(60) };

const fn root(
    kind: &'static str,
    each: &'static str,
    lane: LaneKind,
    mailbox: usize,
    ring: usize,
    start: fn(&Boot<'_, Gateway>) -> Result<(), StartError>,
) -> Row<Gateway> {
    Row {
        kind,
        parent: "-",
        each,
        lane,
        mailbox,
        full: Full::Refuse,
        ring,
        restart: Restart::Always,
        intensity: INTENSITY,
        start: Some(start),
    }
}

const fn child(
    kind: &'static str,
    parent: &'static str,
    each: &'static str,
    lane: LaneKind,
    mailbox: usize,
    ring: usize,
) -> Row<Gateway> {
    Row {
        kind,
        parent,
        each,
        lane,
        mailbox,
        full: Full::Refuse,
        ring,
        restart: Restart::Always,
        intensity: CHILD_INTENSITY,
        start: None,
    }
}

/// The table.
pub static TREE: &[Row<Gateway>] = &[
    root("Peers", "process", LaneKind::Control, 8192, 0, start_peers),
    root("PeerTable", "packet lane", LaneKind::Packet, 8192, 64, start_peer_table),
    child("Peer", "PeerTable", "connected device", LaneKind::Packet, 64, 256),
    child("RelayLink", "PeerTable", "allocation that we hold at a relay", LaneKind::Packet, 256, 256),
    root("UdpSocket", "lane and family", LaneKind::Packet, 8, 0, start_udp),
    root("TunDevice", "TUN queue", LaneKind::Packet, 8, 0, start_tun),
    root("Routes", "process", LaneKind::Control, 16, 0, start_routes),
    root("HostFilter", "process", LaneKind::Control, 16, 0, start_host_filter),
    root("LinkWatcher", "process", LaneKind::Control, 16, 0, start_link_watcher),
    root("Resolvers", "process", LaneKind::Control, 256, 0, start_resolvers),
    child("Resolver", "Resolvers", "upstream DNS server", LaneKind::Control, 256, 0),
    root("Admissions", "process", LaneKind::Control, 4096, 0, start_admissions),
    root("ControlSession", "process", LaneKind::Control, 1024, 0, start_control_session),
];

/// The lane's descriptors, opened by whichever actor of the lane starts first.
fn lane(gateway: &LaneParts) -> Result<Rc<TunnelLane>, StartError> {
    TunnelLane::here(|| {
        let drops = EdgeDrops::new(&gateway.registry);
        let offload = gateway.offload;
        let socket =
            |wanted: fn(&SocketAddr) -> bool| {
                gateway.listen.iter().copied().find(wanted).map(|address| {
                    UdpConfig::on(address).marked(SOCKET_MARK).offloaded(offload.gso, offload.gro)
                })
            };
        let sockets =
            LaneSockets::open(socket(SocketAddr::is_ipv4), socket(SocketAddr::is_ipv6), drops.clone())
                .map_err(|error| StartError::failed("cannot open the UDP sockets", error))?;
        let tun = LaneTun::open(&TunConfig { name: gateway.tun.clone(), offload: offload.tun }, drops)
            .map_err(|error| StartError::failed("cannot open the TUN device", error))?;
        let _ = gateway.granted.set(Offloads::granted(&sockets, &tun));
        let drops = Drops::new(&gateway.registry);
        Ok(TunnelLane::new(0, Instant::now(), sockets, tun, Router::gateway(), drops))
    })
}

/// What opening a lane needs, on its way to the lane's thread.
struct LaneParts {
    tun: String,
    offload: Offloads,
    granted: GrantedOffloads,
    listen: Vec<SocketAddr>,
    registry: Arc<Registry>,
}

impl LaneParts {
    fn of(boot: &Boot<'_, Gateway>) -> Self {
        Self {
            tun: boot.context.tun.clone(),
            offload: boot.context.offload,
            granted: boot.context.granted.clone(),
            listen: boot.context.listen.clone(),
            registry: boot.registry().clone(),
        }
    }
}

fn start_peers(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let table = boot.address::<PeerTable>("0");
    let facts = boot.address::<Admissions>("").outlet(AdmissionsCommand::Peers);
    let tun = boot.context.tun.clone();
    boot.start::<Peers, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || Peers::new(table.clone(), facts.clone(), tun.clone())
    })?;
    Ok(())
}

fn start_peer_table(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let parts = LaneParts::of(boot);
    let key = boot.context.wireguard.clone();
    let facts = boot.address::<Peers>("").outlet(PeersCommand::Table);
    boot.try_start::<PeerTable, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = lane(&parts)?;
        Ok(move || PeerTable::new(lane.clone(), key.clone(), facts.clone()))
    })?;
    Ok(())
}

fn start_udp(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    for (key, is_v4) in [("v4", true), ("v6", false)] {
        if !boot.context.listen.iter().any(|address| address.is_ipv4() == is_v4) {
            continue;
        }
        let parts = LaneParts::of(boot);
        boot.try_start::<UdpSocket, _>(&boot.lane(LaneKind::Packet)?, key, move || {
            let lane = lane(&parts)?;
            let sockets = lane.sockets();
            let socket = if is_v4 { sockets.v4.clone() } else { sockets.v6.clone() };
            let socket =
                socket.ok_or_else(|| StartError::failed("no socket of this family", "the host lacks it"))?;
            Ok(move || UdpSocket::new(socket.clone(), lane.clone()))
        })?;
    }
    Ok(())
}

fn start_tun(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let parts = LaneParts::of(boot);
    boot.try_start::<TunDevice, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = lane(&parts)?;
        Ok(move || TunDevice::new(lane.tun().clone(), lane.clone()))
    })?;
    Ok(())
}

fn start_routes(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let config = RoutesConfig::gateway(&boot.context.tun);
    boot.start::<Routes, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptPlan::default();
        move || Routes::new(config.clone(), kept.clone())
    })?;
    Ok(())
}

fn start_host_filter(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let config = boot.context.filter_config.clone();
    let filter = boot.start::<HostFilter, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptFilter::new(&config);
        move || HostFilter::new(config.clone(), kept.clone())
    })?;
    let _ = filter.tell(HostFilterCommand::Apply { plan: boot.context.filter.clone(), done: None });
    Ok(())
}

fn start_link_watcher(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let ours = vec![boot.context.tun.clone()];
    let routes = boot.address::<Routes>("").outlet(|_: NetworkChanged| RoutesCommand::Refresh);
    let resolvers = boot.address::<Resolvers>("").outlet(|_: NetworkChanged| ResolversCommand::Refresh);
    let peers = boot.address::<Peers>("").outlet(|_: NetworkChanged| PeersCommand::NetworkChanged);
    let uplinks =
        Outlet::to(move |changed: NetworkChanged| if changed.uplink { peers.tell(changed) } else { Ok(()) });
    boot.start::<LinkWatcher, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || LinkWatcher::new(ours.clone(), vec![routes.clone(), resolvers.clone(), uplinks.clone()])
    })?;
    Ok(())
}

fn start_resolvers(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let config = boot.context.resolvers.clone();
    boot.start::<Resolvers, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || Resolvers::new(config.clone())
    })?;
    Ok(())
}

/// Asks the resolvers. A name that is none has no address.
fn lookup(resolvers: Address<Resolvers>) -> Lookup {
    Arc::new(move |name| {
        let (done, answer) = Reply::channel();
        let asked = match name.parse() {
            Ok(name) => resolvers.tell(ResolversCommand::Resolve { name, done }).is_ok(),
            Err(_) => false,
        };
        Box::pin(async move {
            if !asked {
                return Vec::new();
            }
            match answer.await {
                Ok(Ok(resolved)) => resolved.addresses,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "the name of a resource has no address");
                    Vec::new()
                }
                Err(_) => Vec::new(),
            }
        })
    })
}

fn start_admissions(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let gateway = boot.context;
    let progress = gateway.progress.clone();
    let settings = Arc::new(AdmissionsSettings {
        identity: gateway.identity.clone(),
        wireguard: gateway.wireguard.clone(),
        ceiling: gateway.ceiling.clone(),
        tun: gateway.tun.clone(),
        lookup: lookup(boot.address::<Resolvers>("")),
        pins: Some(gateway.pins.clone()),
        ready: Box::new(move || progress.serving()),
        begun: AtomicBool::new(false),
    });
    let peers = boot.address::<Peers>("");
    let control = boot.address::<ControlSession>("");
    let routes = boot.address::<Routes>("");
    let filter = gateway.filter.clone();
    let own_resources = boot.address::<HostFilter>("").outlet(move |own| {
        let plan = FilterPlan { own, ..filter.clone() };
        HostFilterCommand::Apply { plan, done: None }
    });
    boot.start::<Admissions, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || {
            let (settings, own_resources) = (settings.clone(), own_resources.clone());
            Admissions::new(settings, peers.clone(), control.clone(), routes.clone(), own_resources)
        }
    })?;
    Ok(())
}

fn start_control_session(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let settings = boot.context.session.clone();
    let events = boot.address::<Admissions>("").outlet(AdmissionsCommand::Session);
    boot.start::<ControlSession, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || ControlSession::new(settings.clone(), events.clone())
    })?;
    Ok(())
}

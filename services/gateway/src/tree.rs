//! Every actor of a gateway, in start order.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actors_access::{
    Admissions, AdmissionsCommand, AdmissionsSettings, ControlSession, FlowLog, FlowLogCommand, FlowMeter,
    KeptFlows, KeptStreams, Lookup, RelayStreams, SessionEvent, SessionSettings,
};
use actors_network::{
    EdgeDrops, FilterPlan, GrantedOffloads, HostFilter, HostFilterCommand, HostFilterConfig, KeptFilter,
    KeptPlan, LaneSockets, LaneTun, LinkWatcher, NetworkChanged, Offload, Offloads, Resolvers,
    ResolversCommand, ResolversConfig, Routes, RoutesCommand, RoutesConfig, SOCKET_MARK, Sharing, TunConfig,
    TunDevice, UdpConfig, UdpSocket,
};
use actors_runtime::{
    Address, Boot, Drops, Full, Intensity, LaneKind, LaneRef, Outlet, Registry, Rejected, Reply, Restart,
    Row, StartError,
};
use actors_tunnel::{
    Crossings, PeerChange, PeerFact, PeerTable, Peers, PeersCommand, Router, TableFact, TunnelLane,
};
use ipnet::IpNet;
use protocol_control::{ToNode, Welcome};
use protocol_identity::{IdentityKey, WireguardKey};
use protocol_tunnel::{Classic, Extended, Limiter, SOCKET_PROGRAM, device_program};
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
    /// Where the packet lanes hand over to each other what belongs to another.
    pub crossings: Arc<Crossings>,
    /// What the first lane has opened.
    pub opened: Arc<OnceLock<Opened>>,
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
    /// Where flow records wait while this process does not run.
    pub flows: PathBuf,
    /// What flow records may take while control is away, bytes.
    pub flow_spool: usize,
    /// What becomes of flow records.
    pub flow_meter: Arc<FlowMeter>,
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
    root("FlowLog", "process", LaneKind::Control, 4096, 0, start_flow_log),
    root("Peers", "process", LaneKind::Control, 8192, 0, start_peers),
    root("PeerTable", "packet lane", LaneKind::Packet, 8192, 64, start_peer_table),
    child("Peer", "PeerTable", "connected device", LaneKind::Packet, 64, 256),
    child("RelayLink", "PeerTable", "allocation that we hold at a relay", LaneKind::Packet, 256, 256),
    root("UdpSocket", "lane and family", LaneKind::Packet, 8, 0, start_udp),
    root("TunDevice", "TUN queue", LaneKind::Packet, 8, 0, start_tun),
    root("Routes", "process", LaneKind::Control, 16, 0, start_routes),
    root("HostFilter", "process", LaneKind::Control, 16, 0, start_host_filter),
    root("RelayStreams", "process", LaneKind::Control, 16, 0, start_relay_streams),
    root("LinkWatcher", "process", LaneKind::Control, 16, 0, start_link_watcher),
    root("Resolvers", "process", LaneKind::Control, 256, 0, start_resolvers),
    child("Resolver", "Resolvers", "upstream DNS server", LaneKind::Control, 256, 0),
    root("Admissions", "process", LaneKind::Control, 4096, 0, start_admissions),
    root("ControlSession", "process", LaneKind::Control, 1024, 0, start_control_session),
];

/// What the first lane has opened, for the others to share.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The addresses that its sockets have got.
    pub listen: Vec<SocketAddr>,
    /// What the kernel granted.
    pub offload: Offload,
    /// Whether programs of ours bring packets to their lanes: the sockets', and the device's.
    pub steered: (bool, bool),
}

/// What opening a lane needs, on its way to the lane's thread.
struct LaneParts {
    index: u8,
    tun: String,
    offload: Offloads,
    granted: GrantedOffloads,
    listen: Vec<SocketAddr>,
    registry: Arc<Registry>,
    crossings: Arc<Crossings>,
    opened: Arc<OnceLock<Opened>>,
}

impl LaneParts {
    /// Of each packet lane, with the lane.
    fn of<'a>(boot: &'a Boot<'_, Gateway>) -> impl Iterator<Item = (&'a LaneRef, Self)> {
        boot.lanes(LaneKind::Packet).zip(0..).map(|(lane, index)| {
            let parts = Self {
                index,
                tun: boot.context.tun.clone(),
                offload: boot.context.offload,
                granted: boot.context.granted.clone(),
                listen: boot.context.listen.clone(),
                registry: boot.registry().clone(),
                crossings: boot.context.crossings.clone(),
                opened: boot.context.opened.clone(),
            };
            (lane, parts)
        })
    }

    /// The lane's descriptors, opened by whichever actor of the lane starts first; the lanes start in their order.
    fn lane(&self) -> Result<Rc<TunnelLane>, StartError> {
        TunnelLane::here(|| {
            let drops = EdgeDrops::new(&self.registry);
            // The device first: it is what a second process must not get past.
            let tun = match self.opened.get() {
                None => LaneTun::open(&self.tun_config(self.offload.tun), drops.clone()),
                Some(opened) => LaneTun::join(&self.tun_config(opened.offload), drops.clone()),
            };
            let tun = tun.map_err(|error| StartError::failed("cannot open the TUN device", error))?;
            let sockets = LaneSockets::open(
                self.socket(SocketAddr::is_ipv4),
                self.socket(SocketAddr::is_ipv6),
                drops.clone(),
            )
            .map_err(|error| StartError::failed("cannot open the UDP sockets", error))?;
            if self.index == 0 {
                let listen = sockets.iter().map(|socket| socket.local_addr()).collect();
                let steered = self.steer(&sockets, &tun);
                let _ = self.granted.set(Offloads::granted(&sockets, &tun));
                let _ = self.opened.set(Opened { listen, offload: tun.offload(), steered });
            }
            let drops = Drops::new(&self.registry);
            let router = Router::gateway(self.index, self.crossings.lanes());
            let crossings = self.crossings.clone();
            Ok(TunnelLane::new(self.index, Instant::now(), sockets, tun, router, drops, crossings))
        })
    }

    fn tun_config(&self, offload: Offload) -> TunConfig {
        TunConfig { name: self.tun.clone(), offload }
    }

    fn socket(&self, wanted: fn(&SocketAddr) -> bool) -> Option<UdpConfig> {
        let opened = self.opened.get();
        let listen = opened.map_or(&self.listen, |opened| &opened.listen);
        let address = listen.iter().copied().find(wanted)?;
        let sharing = match (self.crossings.lanes(), self.index) {
            (1, _) => Sharing::Alone,
            (_, 0) => Sharing::First,
            (_, _) => Sharing::Next,
        };
        let config = UdpConfig::on(address).marked(SOCKET_MARK);
        Some(UdpConfig { sharing, ..config.offloaded(self.offload.gso, self.offload.gro) })
    }

    /// Lets the kernel bring packets to their lanes. Where it refuses, they are handed over.
    fn steer(&self, sockets: &LaneSockets, tun: &LaneTun) -> (bool, bool) {
        let lanes = self.crossings.lanes();
        if lanes == 1 {
            return (false, false);
        }
        let program = SOCKET_PROGRAM.map(Classic::bytes);
        let sockets = sockets.iter().all(|socket| match socket.steer(&program) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "datagrams are spread over the lanes by the kernel's hash");
                false
            }
        });
        let device = match tun.steer(&device_program(lanes).map(Extended::bytes)) {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(%error, "the host's packets are spread over the lanes by the kernel's memory of flows");
                false
            }
        };
        (sockets, device)
    }
}

/// Before the peers, so that it ends after them and has their last flows.
fn start_flow_log(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let (path, most) = (boot.context.flows.clone(), boot.context.flow_spool);
    let (meter, control) = (boot.context.flow_meter.clone(), boot.address::<ControlSession>(""));
    boot.start::<FlowLog, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptFlows::open(Some(&path), most, meter);
        move || FlowLog::new(kept.clone(), control.clone())
    })?;
    Ok(())
}

fn start_peers(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let tables: Vec<_> =
        LaneParts::of(boot).map(|(_, parts)| boot.address::<PeerTable>(&parts.index.to_string())).collect();
    let facts = boot.address::<Admissions>("").outlet(AdmissionsCommand::Peers);
    let tun = boot.context.tun.clone();
    boot.start::<Peers, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || Peers::new(tables.clone(), facts.clone(), tun.clone())
    })?;
    Ok(())
}

fn start_peer_table(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let key = boot.context.wireguard.clone();
    let limiter = Limiter::new(&key.public(), Limiter::DEFAULT_LIMIT);
    for (lane, parts) in LaneParts::of(boot) {
        let facts = facts(boot);
        let streams = boot.address::<RelayStreams>("").outlet(|command| command);
        let (key, limiter) = (key.clone(), limiter.clone());
        boot.try_start::<PeerTable, _>(lane, &parts.index.to_string(), move || {
            let lane = parts.lane()?;
            Ok(move || {
                PeerTable::new(lane.clone(), key.clone(), limiter.clone(), facts.clone())
                    .with_streams(streams.clone())
            })
        })?;
    }
    Ok(())
}

/// What the tables report, to whom it is for.
fn facts(boot: &Boot<'_, Gateway>) -> Outlet<TableFact> {
    let peers = boot.address::<Peers>("").outlet(PeersCommand::Table);
    let flows = boot.address::<FlowLog>("").outlet(FlowLogCommand::Ended);
    let meter = boot.context.flow_meter.clone();
    Outlet::to(move |fact| {
        let ended = match fact {
            TableFact::Peer(PeerFact { what: PeerChange::FlowEnded(ended), .. }) => vec![*ended],
            TableFact::Flows(ended) => ended,
            fact => return peers.tell(fact),
        };
        let count = ended.len() as u64;
        flows.tell(ended).inspect_err(|_| meter.count_dropped(count))
    })
}

/// On the last control lane, where nothing else lives.
fn start_relay_streams(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    let Some(lane) = boot.lanes(LaneKind::Control).last() else {
        return Err(StartError::failed("there is no lane for connections to relays", "no control lane"));
    };
    boot.start::<RelayStreams, _>(lane, "", move || {
        let kept = KeptStreams::default();
        move || RelayStreams::new(Some(SOCKET_MARK), kept.clone())
    })?;
    Ok(())
}

fn start_udp(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    for (key, is_v4) in [("v4", true), ("v6", false)] {
        if !boot.context.listen.iter().any(|address| address.is_ipv4() == is_v4) {
            continue;
        }
        for (lane, parts) in LaneParts::of(boot) {
            let key = if parts.index == 0 { key.to_owned() } else { format!("{key}-{}", parts.index) };
            boot.try_start::<UdpSocket, _>(lane, &key, move || {
                let lane = parts.lane()?;
                let sockets = lane.sockets();
                let socket = if is_v4 { sockets.v4.clone() } else { sockets.v6.clone() };
                let socket = socket
                    .ok_or_else(|| StartError::failed("no socket of this family", "the host lacks it"))?;
                Ok(move || UdpSocket::new(socket.clone(), lane.clone()))
            })?;
        }
    }
    Ok(())
}

fn start_tun(boot: &Boot<'_, Gateway>) -> Result<(), StartError> {
    for (lane, parts) in LaneParts::of(boot) {
        boot.try_start::<TunDevice, _>(lane, &parts.index.to_string(), move || {
            let lane = parts.lane()?;
            Ok(move || TunDevice::new(lane.tun().clone(), lane.clone()))
        })?;
    }
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
        lanes: gateway.crossings.lanes(),
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
    let admissions = boot.address::<Admissions>("").outlet(AdmissionsCommand::Session);
    let flows = boot.address::<FlowLog>("");
    let events = Outlet::to(move |event| {
        let flow_news = match &event {
            SessionEvent::Up(welcome) => match &**welcome {
                Welcome::Gateway(state) => Some(FlowLogCommand::Up { takes_flows: state.takes_flows }),
                Welcome::Client(_) | Welcome::Relay(_) => None,
            },
            SessionEvent::Message(message) => match **message {
                ToNode::FlowsStored { stream, sequence } => {
                    // One that finds no room is sent again, and confirmed again.
                    let _ = flows.tell(FlowLogCommand::Stored { stream, sequence });
                    return Ok(());
                }
                _ => None,
            },
            SessionEvent::Down => Some(FlowLogCommand::Down),
        };
        match flow_news {
            // The session starts over if either has no room.
            Some(news) => flows.tell(news).map_err(|_| Rejected::Full(())).and(admissions.tell(event)),
            None => admissions.tell(event),
        }
    });
    boot.start::<ControlSession, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || ControlSession::new(settings.clone(), events.clone())
    })?;
    Ok(())
}

//! Every actor of the daemon, in start order.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actors_access::control_session::Command as Session;
use actors_access::{
    ControlSession, Grants, GrantsCommand, GrantsSettings, KeptStreams, RelayStreams, SessionState,
    SessionStatus,
};
use actors_network::{
    EdgeDrops, GrantedOffloads, HostDns, HostDnsCommand, HostDnsConfig, KeptHostDns, KeptNames, KeptPlan,
    LaneSockets, LaneTun, LinkWatcher, NetworkChanged, Offloads, Routes, RoutesCommand, RoutesConfig,
    SOCKET_MARK, StubCommand, StubResolver, StubResolverConfig, TunConfig, TunDevice, UdpConfig, UdpSocket,
};
use actors_runtime::{Boot, Drops, Full, Intensity, LaneKind, Outlet, Registry, Restart, Row, StartError};
use actors_tunnel::{Crossings, PeerTable, Peers, PeersCommand, Router, TunnelLane};
use protocol_identity::{KemKey, ResourceId};
use protocol_tunnel::Limiter;
use tokio::time::Instant;

use crate::daemon::Client;
use crate::names;

/// A quick mistake is survived; one that comes back at once ends the process, for systemd to start it again.
const INTENSITY: Intensity = Intensity { restarts: 5, within: Duration::from_secs(60) };
/// A peer that cannot be kept up costs the lane's table a restart: not more often than this.
const CHILD_INTENSITY: Intensity = Intensity { restarts: 10, within: Duration::from_secs(60) };

const fn root(
    kind: &'static str,
    each: &'static str,
    lane: LaneKind,
    mailbox: usize,
    ring: usize,
    start: fn(&Boot<'_, Client>) -> Result<(), StartError>,
) -> Row<Client> {
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
    mailbox: usize,
    ring: usize,
) -> Row<Client> {
    Row {
        kind,
        parent,
        each,
        lane: LaneKind::Packet,
        mailbox,
        full: Full::Refuse,
        ring,
        restart: Restart::Always,
        intensity: CHILD_INTENSITY,
        start: None,
    }
}

/// The table. The local socket comes last: when it answers, everything else is there.
pub static TREE: &[Row<Client>] = &[
    root("Peers", "process", LaneKind::Control, 1024, 0, start_peers),
    root("PeerTable", "packet lane", LaneKind::Packet, 1024, 64, start_peer_table),
    child("Peer", "PeerTable", "connected gateway", 64, 256),
    child("RelayLink", "PeerTable", "relay that we measure or allocate at", 256, 256),
    root("UdpSocket", "lane and family", LaneKind::Packet, 8, 0, start_udp),
    root("TunDevice", "TUN queue", LaneKind::Packet, 8, 0, start_tun),
    root("Routes", "process", LaneKind::Control, 16, 0, start_routes),
    root("StubResolver", "process", LaneKind::Control, 64, 0, start_stub_resolver),
    root("HostDns", "process", LaneKind::Control, 16, 0, start_host_dns),
    root("Grants", "process", LaneKind::Control, 1024, 0, start_grants),
    root("ControlSession", "process", LaneKind::Control, 256, 0, start_control_session),
    root("RelayStreams", "process", LaneKind::Control, 16, 0, start_relay_streams),
    root("LinkWatcher", "process", LaneKind::Control, 8, 0, start_link_watcher),
];

/// What opening a lane needs, on its way to the lane's thread.
struct LaneParts {
    tun: String,
    offload: Offloads,
    granted: GrantedOffloads,
    listen: Vec<SocketAddr>,
    registry: Arc<Registry>,
    ask: Outlet<ResourceId>,
}

impl LaneParts {
    fn of(boot: &Boot<'_, Client>) -> Self {
        let want = |resource| GrantsCommand::Want { resource, decided: None };
        Self {
            tun: boot.context.config.tun.clone(),
            offload: boot.context.config.offload,
            granted: boot.context.granted.clone(),
            listen: boot.context.config.listen.clone(),
            registry: boot.registry().clone(),
            ask: boot.address::<Grants>("").outlet(want),
        }
    }

    /// The lane's descriptors, opened by whichever actor of the lane starts first.
    fn lane(&self) -> Result<Rc<TunnelLane>, StartError> {
        TunnelLane::here(|| {
            let drops = EdgeDrops::new(&self.registry);
            let offload = self.offload;
            let socket = |wanted: fn(&SocketAddr) -> bool| {
                self.listen.iter().copied().find(wanted).map(|address| {
                    UdpConfig::on(address).marked(SOCKET_MARK).offloaded(offload.gso, offload.gro)
                })
            };
            let sockets =
                LaneSockets::open(socket(SocketAddr::is_ipv4), socket(SocketAddr::is_ipv6), drops.clone())
                    .map_err(|error| StartError::failed("cannot open the UDP sockets", error))?;
            let tun = LaneTun::open(&TunConfig { name: self.tun.clone(), offload: offload.tun }, drops)
                .map_err(|error| StartError::failed("cannot open the TUN device", error))?;
            let _ = self.granted.set(Offloads::granted(&sockets, &tun));
            let router = Router::client(self.ask.clone());
            let drops = Drops::new(&self.registry);
            Ok(TunnelLane::new(0, Instant::now(), sockets, tun, router, drops, Crossings::new(1)))
        })
    }
}

fn start_peers(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let tables = vec![boot.address::<PeerTable>("0")];
    let facts = boot.address::<Grants>("").outlet(GrantsCommand::Peers);
    let tun = boot.context.config.tun.clone();
    boot.start::<Peers, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || Peers::new(tables.clone(), facts.clone(), tun.clone()).of_a_device()
    })?;
    Ok(())
}

fn start_peer_table(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let parts = LaneParts::of(boot);
    let key = boot.context.wireguard.clone();
    let facts = boot.address::<Peers>("").outlet(PeersCommand::Table);
    let streams = boot.address::<RelayStreams>("").outlet(|command| command);
    boot.try_start::<PeerTable, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = parts.lane()?;
        let limiter = Limiter::new(&key.public(), Limiter::DEFAULT_LIMIT);
        Ok(move || {
            PeerTable::new(lane.clone(), key.clone(), limiter.clone(), facts.clone())
                .with_streams(streams.clone())
        })
    })?;
    Ok(())
}

fn start_udp(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    for address in &boot.context.config.listen {
        let is_v4 = address.is_ipv4();
        let parts = LaneParts::of(boot);
        let key = if is_v4 { "v4" } else { "v6" };
        boot.try_start::<UdpSocket, _>(&boot.lane(LaneKind::Packet)?, key, move || {
            let lane = parts.lane()?;
            let sockets = lane.sockets();
            let socket = if is_v4 { sockets.v4.clone() } else { sockets.v6.clone() };
            let socket =
                socket.ok_or_else(|| StartError::failed("no socket of this family", "the host lacks it"))?;
            Ok(move || UdpSocket::new(socket.clone(), lane.clone()))
        })?;
    }
    Ok(())
}

fn start_tun(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let parts = LaneParts::of(boot);
    boot.try_start::<TunDevice, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = parts.lane()?;
        Ok(move || TunDevice::new(lane.tun().clone(), lane.clone()))
    })?;
    Ok(())
}

fn start_routes(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let config = RoutesConfig::client(&boot.context.config.tun);
    boot.start::<Routes, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptPlan::default();
        move || Routes::new(config.clone(), kept.clone())
    })?;
    Ok(())
}

fn start_stub_resolver(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let mut config = StubResolverConfig::new(Some(boot.context.config.tun.clone()), Some(SOCKET_MARK));
    config.upstreams.clone_from(&boot.context.config.dns_upstream);
    let ask = names::access_through(boot.address::<Grants>(""));
    boot.start::<StubResolver, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptNames::new(&config);
        move || StubResolver::new(config.clone(), kept.clone(), ask.clone())
    })?;
    Ok(())
}

fn start_host_dns(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let config = HostDnsConfig {
        resolv_conf: boot.context.config.resolv_conf.clone(),
        upstreams: boot.context.config.dns_upstream.clone(),
        ..HostDnsConfig::new(names::host_mode(boot.context.config.dns), &boot.context.config.tun)
    };
    let upstreams = boot.address::<StubResolver>("").outlet(StubCommand::Upstreams);
    boot.start::<HostDns, _>(&boot.lane(LaneKind::Control)?, "", move || {
        let kept = KeptHostDns::default();
        move || HostDns::new(config.clone(), kept.clone(), upstreams.clone())
    })?;
    Ok(())
}

/// On the last control lane, where nothing else lives.
fn start_relay_streams(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let Some(lane) = boot.lanes(LaneKind::Control).last() else {
        return Err(StartError::failed("there is no lane for connections to relays", "no control lane"));
    };
    boot.start::<RelayStreams, _>(lane, "", move || {
        let kept = KeptStreams::default();
        move || RelayStreams::new(Some(SOCKET_MARK), kept.clone())
    })?;
    Ok(())
}

fn start_link_watcher(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let ours = vec![boot.context.config.tun.clone()];
    let routes = boot.address::<Routes>("").outlet(|_: NetworkChanged| RoutesCommand::Refresh);
    let host_dns = boot.address::<HostDns>("").outlet(|_: NetworkChanged| HostDnsCommand::Refresh);
    let peers =
        uplink_only(boot.address::<Peers>("").outlet(|_: NetworkChanged| PeersCommand::NetworkChanged));
    let control = boot.address::<ControlSession>("").outlet(|_: NetworkChanged| Session::Reconnect);
    let control = uplink_only(reconnect(boot.context.session.status.clone(), control));
    let recipients = vec![routes, host_dns, peers, control];
    boot.start::<LinkWatcher, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || LinkWatcher::new(ours.clone(), recipients.clone())
    })?;
    Ok(())
}

/// Passes on only changes that may cost paths.
fn uplink_only(to: Outlet<NetworkChanged>) -> Outlet<NetworkChanged> {
    Outlet::to(move |change: NetworkChanged| if change.uplink { to.tell(change) } else { Ok(()) })
}

/// The session is opened anew over a new uplink; its old connection may take minutes to be seen as dead. What is wanted
/// down stays down, and the first report (the state at start) is no change.
fn reconnect(status: SessionStatus, to: Outlet<NetworkChanged>) -> Outlet<NetworkChanged> {
    let first = AtomicBool::new(true);
    Outlet::to(move |change: NetworkChanged| {
        let is_first = first.swap(false, Ordering::Relaxed);
        match status.get() {
            SessionState::Connecting | SessionState::Connected | SessionState::Offline(_) if !is_first => {
                to.tell(change)
            }
            SessionState::Connecting
            | SessionState::Connected
            | SessionState::Offline(_)
            | SessionState::Refused(_)
            | SessionState::SignedOut
            | SessionState::Paused => Ok(()),
        }
    })
}

fn start_grants(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let client = boot.context;
    let kem = KemKey::generate().map_err(|error| StartError::failed("cannot make a key", error))?;
    let outside = client.outside.clone();
    let settings = Arc::new(GrantsSettings {
        identity: client.identity.clone(),
        wireguard: client.wireguard.clone(),
        kem,
        tun: client.config.tun.clone(),
        pins: Some(client.state.pins()),
        outside: Box::new(move || outside.addresses()),
        names: names::names_to(boot.address::<StubResolver>(""), boot.address::<HostDns>("")),
        begun: AtomicBool::new(false),
    });
    let peers = boot.address::<Peers>("");
    let control = boot.address::<ControlSession>("");
    let routes = boot.address::<Routes>("");
    boot.start::<Grants, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || Grants::new(settings.clone(), peers.clone(), control.clone(), routes.clone())
    })?;
    Ok(())
}

fn start_control_session(boot: &Boot<'_, Client>) -> Result<(), StartError> {
    let settings = boot.context.session.clone();
    let events = boot.address::<Grants>("").outlet(GrantsCommand::Session);
    boot.start::<ControlSession, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || ControlSession::new(settings.clone(), events.clone())
    })?;
    Ok(())
}

//! One end of a tunnel without control: what its lane costs, and nothing else.
//!
//! `lane client|gateway TUN OWN-ADDRESS PEER-ADDRESS DIRECTORY [RESOURCE] [no-tun-offload]` opens the
//! device, exchanges public keys with the other end through files in the directory, and carries packets until it is
//! ended. The gateway grants RESOURCE (an address of its own, without restrictions on ports). Addresses and routes are
//! the caller's business.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, missing_docs)]

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_network::{EdgeDrops, LaneSockets, LaneTun, Offload, TunConfig, TunDevice, UdpConfig, UdpSocket};
use actors_runtime::{
    Boot, Drops, Full, Intensity, LaneKind, Outlet, Registry, Restart, Row, StartError, Tree,
};
use actors_tunnel::{
    Crossings, GatewayApply, PeerConfig, PeerName, PeerTable, Router, RouterChange, TableCommand, TunnelLane,
};
use protocol_control::{Candidate, CandidateKind, InnerAddresses};
use protocol_filter::{Access, Destination, GatewayRules, GrantSpec, GrantVersion, PeerGrants, PeerSlot};
use protocol_identity::{
    DeviceId, GatewayId, GrantId, PolicyId, ResourceId, Secret32, WireguardKey, WireguardPublic,
};
use protocol_traversal::Hygiene;
use protocol_tunnel::Limiter;
use tokio::time::Instant;

struct End {
    is_client: bool,
    tun: String,
    own: SocketAddr,
    offload: Offload,
    private: WireguardKey,
    registry: Arc<Registry>,
}

const fn row(
    kind: &'static str,
    parent: &'static str,
    ring: usize,
    start: Option<fn(&Boot<'_, End>) -> Result<(), StartError>>,
) -> Row<End> {
    Row {
        kind,
        parent,
        each: "one",
        lane: LaneKind::Packet,
        mailbox: 64,
        full: Full::Refuse,
        ring,
        restart: Restart::Always,
        intensity: Intensity { restarts: 3, within: Duration::from_secs(10) },
        start,
    }
}

static TREE: &[Row<End>] = &[
    row("PeerTable", "-", 64, Some(start_table)),
    row("Peer", "PeerTable", 256, None),
    row("RelayLink", "PeerTable", 256, None),
    row("UdpSocket", "-", 0, Some(start_udp)),
    row("TunDevice", "-", 0, Some(start_tun)),
];

type Parts = (bool, String, SocketAddr, Offload, Arc<Registry>);

fn parts(end: &End) -> Parts {
    (end.is_client, end.tun.clone(), end.own, end.offload, end.registry.clone())
}

fn lane((is_client, tun, own, offload, registry): &Parts) -> Result<Rc<TunnelLane>, StartError> {
    TunnelLane::here(|| {
        let drops = EdgeDrops::new(registry);
        let sockets = LaneSockets::open(Some(UdpConfig::on(*own)), None, drops.clone())
            .map_err(|error| StartError::failed("cannot open the socket", error))?;
        let tun = LaneTun::open(&TunConfig { name: tun.clone(), offload: *offload }, drops)
            .map_err(|error| StartError::failed("cannot open the device", error))?;
        let router = if *is_client { Router::client(Outlet::to(|_| Ok(()))) } else { Router::gateway(0, 1) };
        let drops = Drops::new(registry);
        Ok(TunnelLane::new(0, Instant::now(), sockets, tun, router, drops, Crossings::new(1)))
    })
}

fn start_table(boot: &Boot<'_, End>) -> Result<(), StartError> {
    let (parts, key) = (parts(boot.context), boot.context.private.clone());
    boot.try_start::<PeerTable, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = lane(&parts)?;
        let limiter = Limiter::new(&key.public(), Limiter::DEFAULT_LIMIT);
        Ok(move || PeerTable::new(lane.clone(), key.clone(), limiter.clone(), Outlet::to(|_| Ok(()))))
    })?;
    Ok(())
}

fn start_udp(boot: &Boot<'_, End>) -> Result<(), StartError> {
    let parts = parts(boot.context);
    boot.try_start::<UdpSocket, _>(&boot.lane(LaneKind::Packet)?, "v4", move || {
        let lane = lane(&parts)?;
        let socket = lane.sockets().v4.clone().unwrap();
        Ok(move || UdpSocket::new(socket.clone(), lane.clone()))
    })?;
    Ok(())
}

fn start_tun(boot: &Boot<'_, End>) -> Result<(), StartError> {
    let parts = parts(boot.context);
    boot.try_start::<TunDevice, _>(&boot.lane(LaneKind::Packet)?, "0", move || {
        let lane = lane(&parts)?;
        Ok(move || TunDevice::new(lane.tun().clone(), lane.clone()))
    })?;
    Ok(())
}

/// Writes our key, waits for the other end's.
fn exchange(directory: &str, is_client: bool, own: &WireguardKey) -> WireguardPublic {
    let (mine, other) = if is_client { ("client", "gateway") } else { ("gateway", "client") };
    let path = |name: &str| format!("{directory}/{name}.key");
    std::fs::write(path(&format!("{mine}.new")), own.public().0).unwrap();
    std::fs::rename(path(&format!("{mine}.new")), path(mine)).unwrap();
    loop {
        if let Some(key) = std::fs::read(path(other)).ok().and_then(|bytes| bytes.try_into().ok()) {
            return WireguardPublic(key);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [role, tun, own, peer, directory, rest @ ..] = &arguments[..] else {
        eprintln!("lane client|gateway TUN OWN PEER DIRECTORY [RESOURCE] [no-tun-offload]");
        std::process::exit(64);
    };
    let is_client = role == "client";
    let resource: IpAddr = rest.first().map_or("10.78.0.1", String::as_str).parse().unwrap();
    let off = |flag: &str| rest.iter().any(|given| given == flag);
    let private = WireguardKey::generate().unwrap();
    let public = exchange(directory, is_client, &private);
    let inner = |n: u8| InnerAddresses {
        v4: [100, 64, 0, n].into(),
        v6: format!("fd70:6f73:7401::{n}").parse().unwrap(),
    };
    let config = PeerConfig {
        slot: 0,
        name: if is_client {
            PeerName::Gateway(GatewayId::fresh())
        } else {
            PeerName::Device(DeviceId::fresh())
        },
        private: private.clone(),
        public,
        secret: Secret32::new([7; 32]),
        remote_index: 0,
        inner: inner(2),
        candidates: vec![Candidate { kind: CandidateKind::Reflexive, address: peer.parse().unwrap() }],
        hygiene: Hygiene::default(),
        rules: (!is_client).then(|| Arc::new(GatewayRules::default())),
    };
    let tree = Tree::new(TREE);
    let end = End {
        is_client,
        tun: tun.clone(),
        own: own.parse().unwrap(),
        offload: if off("no-tun-offload") { Offload::Off } else { Offload::TcpUdp },
        private,
        registry: tree.registry(),
    };
    let ids = (ResourceId::fresh(), GrantId::fresh(), PolicyId::fresh());
    let status = tree.run_with(end, move |handle| {
        let table = handle.address::<PeerTable>("0");
        let mut commands = vec![TableCommand::Install(Box::new(config))];
        if is_client {
            commands.push(TableCommand::Route(vec![
                RouterChange::Inner(inner(2)),
                RouterChange::Put { resource: ids.0, prefixes: vec![resource.into()], filters: Vec::new() },
                RouterChange::Access { resource: ids.0, access: Access::Granted(PeerSlot(0)) },
            ]));
        } else {
            let grant = GrantSpec {
                grant: ids.1,
                resource: ids.0,
                policy: ids.2,
                destination: Destination::Ip(resource),
                filters: Vec::new(),
                ends: Duration::MAX,
            };
            let grants = PeerGrants::compile(GrantVersion(1), vec![grant]);
            let apply = GatewayApply { grants, rules: Arc::new(GatewayRules::default()) };
            commands.push(TableCommand::Apply { slot: 0, apply: Box::new(apply) });
        }
        for command in commands {
            assert!(table.tell(command).is_ok());
        }
    });
    std::process::exit(status.unwrap());
}

//! `postern-gateway serve`: puts together what the actors share, and runs them.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actors_access::{Endpoint, FlowMeter, SessionSettings, SessionStatus, Target};
use actors_network::GrantedOffloads;
use actors_network::{
    FilterPlan, HostFilter, HostFilterCommand, HostFilterConfig, ResolversConfig, SOCKET_MARK,
};
use actors_runtime::{Reply, Tree, TreeHandle};
use actors_tunnel::Crossings;
use ipnet::IpNet;
use protocol_control::{Introduction, RoleHello};
use protocol_identity::{Token, TokenKind, WireguardKey};
use services_chassis::{Chassis, Failure, Metrics, Sample, chain, identity_file};

use crate::config::{Config, PROGRAM};
use crate::progress::Progress;
use crate::status;
use crate::tree::{Gateway, TREE};

/// The program's version.
const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The nftables table of this program.
pub const FILTER_TABLE: &str = "postern";
/// How often the packet filter is asked after while it stands in the way of readiness.
const LOOK_WHILE_WAITING: Duration = Duration::from_secs(2);
/// How often afterwards. The filter itself looks more often, and repairs what it can.
const LOOK: Duration = Duration::from_secs(30);

/// Runs until a signal.
///
/// # Errors
/// When something that the gateway needs is not there, or a part of it kept failing.
pub fn serve(config: &Config) -> Result<(), Failure> {
    let tree = Tree::new(TREE).control_lanes(2).packet_lanes(usize::from(config.lanes));
    let chassis = Chassis::start(PROGRAM, VERSION, config.settings.clone(), &tree.registry())?;
    let progress = Arc::new(Progress::new(chassis.readiness().clone()));
    let gateway = gateway(config, progress.clone())?;
    let session = gateway.session.status.clone();
    let granted = gateway.granted.clone();
    watch_flows(chassis.metrics(), &gateway.flow_meter);
    let flows = gateway.flow_meter.clone();
    let lanes = status::Lanes { crossings: gateway.crossings.clone(), opened: gateway.opened.clone() };
    let url = config.control_url.as_ref().map(ToString::to_string);
    chassis.run(tree, gateway, move |handle| {
        tokio::task::spawn_local(watch_filter(handle.clone(), progress.clone()));
        status::desk(handle, session, url, progress, granted, lanes, flows)
    })
}

fn gateway(config: &Config, progress: Arc<Progress>) -> Result<Gateway, Failure> {
    let target = Target { endpoint: endpoint(config)?, token: token(config)? };
    let state_dir = &config.settings.state_dir;
    let identity = Arc::new(identity_file::identity(state_dir)?);
    let name = config.node.name();
    let introduction = move || Introduction {
        name: name.clone(),
        program: VERSION.into(),
        // Control tells the whole set with the session, and does not ask what is here.
        role: RoleHello::Gateway { grants: Vec::new() },
    };
    Ok(Gateway {
        tun: config.tun.clone(),
        offload: config.offload,
        granted: GrantedOffloads::default(),
        crossings: Crossings::new(config.lanes),
        opened: Arc::default(),
        listen: config.listen.iter().copied().filter(|address| speaks_family_of(*address)).collect(),
        filter: FilterPlan {
            device: config.tun.clone(),
            inner: device_ranges(),
            masquerade: config.masquerade,
            own: Vec::new(),
        },
        filter_config: HostFilterConfig {
            table: FILTER_TABLE.into(),
            state_file: Some(config.settings.run_dir.join("sysctl.json")),
        },
        resolvers: ResolversConfig {
            servers: (!config.dns.is_empty()).then(|| config.dns.clone()),
            mark: Some(SOCKET_MARK),
            ..ResolversConfig::default()
        },
        session: Arc::new(SessionSettings {
            target: Mutex::new(Some(target)),
            identity: identity.clone(),
            introduction: Box::new(introduction),
            status: SessionStatus::default(),
        }),
        identity,
        wireguard: WireguardKey::generate().map_err(|error| Failure::failed(chain(&error)))?,
        ceiling: config.ceiling.clone(),
        pins: state_dir.join("known-devices"),
        flows: state_dir.join("flows.spool"),
        flow_spool: config.flow_spool,
        flow_meter: Arc::default(),
        progress,
    })
}

/// How control is reached.
///
/// # Errors
/// When that is not said, or whom to take for control cannot be read.
pub fn endpoint(config: &Config) -> Result<Endpoint, Failure> {
    let url = config.control_url.clone().ok_or_else(|| {
        Failure::usage("the address of control is not given")
            .fix("start it as `postern admin gateway-token create` printed it, with --control-url https://HOST:PORT")
    })?;
    let tls = config.trust.client_config().map_err(|error| Failure::usage(chain(&error)))?;
    Ok(Endpoint { url, tls, mark: Some(SOCKET_MARK) })
}

/// The gateway's token.
///
/// # Errors
/// When there is none, or it is for something else.
pub fn token(config: &Config) -> Result<Token, Failure> {
    config.node.token(TokenKind::Gateway)?.ok_or_else(|| {
        Failure::usage("there is no token").fix(
            "name the file with --token-file, or set POSTERN_TOKEN; `postern admin gateway-token create --site SITE` makes one",
        )
    })
}

fn watch_flows(metrics: &Metrics, meter: &Arc<FlowMeter>) {
    let flows = meter.clone();
    metrics.counter(
        "postern_gateway_flow_records_stored",
        "Records of flows that control has stored",
        move || vec![Sample::plain(flows.stored())],
    );
    let flows = meter.clone();
    metrics.counter(
        "postern_gateway_flow_records_dropped",
        "Records of flows that were lost for want of room",
        move || vec![Sample::plain(flows.dropped())],
    );
    let flows = meter.clone();
    #[allow(clippy::cast_precision_loss)] // The spool holds less than 2^52.
    metrics.gauge(
        "postern_gateway_flow_records_waiting",
        "Records of flows that wait for control",
        move || vec![Sample::plain(flows.waiting() as f64)],
    );
}

/// Where the devices' tunnel addresses come from.
fn device_ranges() -> Vec<IpNet> {
    ["100.64.0.0/11", "fd70:6f73:7401::/64"].into_iter().filter_map(|net| net.parse().ok()).collect()
}

/// Whether the host has this address family at all. Any other trouble with the address is found when it is opened.
fn speaks_family_of(address: SocketAddr) -> bool {
    let any_port = SocketAddr::new(address.ip(), 0);
    match UdpSocket::bind(any_port) {
        Ok(_) => true,
        Err(error) => {
            let lacks = matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EPROTONOSUPPORT))
                || (address.ip().is_unspecified() && error.kind() == io::ErrorKind::AddrNotAvailable);
            if lacks {
                tracing::warn!("the host lacks {}", if address.is_ipv4() { "IPv4" } else { "IPv6" });
            }
            !lacks
        }
    }
}

/// Asks the packet filter from time to time whether anything is against it.
async fn watch_filter(handle: TreeHandle, progress: Arc<Progress>) {
    let filter = handle.address::<HostFilter>("");
    loop {
        let (done, report) = Reply::channel();
        if filter.tell(HostFilterCommand::Inspect { done }).is_ok()
            && let Ok(report) = report.await
        {
            progress.filter(&report);
        }
        tokio::time::sleep(if progress.is_filter_in_place() { LOOK } else { LOOK_WHILE_WAITING }).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_that_the_host_has_stays_and_a_foreign_address_is_no_missing_family() {
        assert!(speaks_family_of("127.0.0.1:5000".parse().unwrap()));
        assert!(speaks_family_of("192.0.2.1:5000".parse().unwrap()));
    }
}

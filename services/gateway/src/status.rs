//! `postern-gateway status`: what the running gateway does.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actors_access::{Admissions, AdmissionsCommand, AdmissionsView, FlowMeter, SessionState, SessionStatus};
use actors_network::{GrantedOffloads, OffloadReport};
use actors_runtime::{Actor, Address, Reply, TreeHandle};
use actors_tunnel::{Crossings, LaneReport, PathSummary, Peers, PeersCommand, PeersView, Udp};
use protocol_traversal::PathKind;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use services_chassis::local::{Desk, ask};
use services_chassis::{Failure, chain};

use crate::config::PROGRAM;
use crate::progress::Progress;
use crate::tree::Opened;

/// The gateway answers from memory.
const PATIENCE: Duration = Duration::from_secs(5);

/// What there is to know; the answer of the local socket and the output of `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    schema: u32,
    ready: bool,
    /// What is missing.
    reason: Option<String>,
    control: Control,
    devices: Vec<Device>,
    relays: Vec<Relay>,
    /// Whether UDP passes, as far as relays show it: `open`, `blocked` (they answer over TLS only) or `unknown`.
    #[serde(default)]
    udp: String,
    /// The threads that carry packets, in their order.
    #[serde(default)]
    lanes: Vec<Lane>,
    /// Whether the kernel brings datagrams and the host's packets to their lanes.
    #[serde(default)]
    steered: Steered,
    /// Where clients may reach this gateway.
    candidates: Vec<SocketAddr>,
    /// What became of the records of flows.
    #[serde(default)]
    flow_records: FlowRecords,
    /// What the kernel does to many packets at once; `null` before the lane has found out.
    #[serde(default)]
    offload: Option<OffloadReport>,
    drops: std::collections::BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Control {
    state: String,
    url: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Device {
    device: String,
    grants: usize,
    connected: bool,
    path: Option<String>,
    rtt_ms: Option<f64>,
    /// The longest packet that its path takes, inside the tunnel, bytes.
    mtu: Option<u16>,
    /// How its packets leave this host: `udp` or `tls`.
    #[serde(default)]
    transport: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Relay {
    address: SocketAddr,
    /// `udp` or `tls`.
    #[serde(default)]
    transport: String,
    allocated: bool,
    rtt_ms: Option<f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Lane {
    /// Packets that the kernel brought here although they belonged to another lane, which has got them.
    strays: u64,
    /// Packets between this lane's devices and a relay, whose allocation another lane holds.
    relayed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct FlowRecords {
    /// Control has them.
    stored: u64,
    /// They wait for control.
    waiting: u64,
    /// There was no room for them.
    dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Steered {
    sockets: bool,
    device: bool,
}

/// What the lanes have to say.
#[derive(Clone)]
pub struct Lanes {
    /// What they hand over to each other.
    pub crossings: Arc<Crossings>,
    /// What the first one has opened.
    pub opened: Arc<OnceLock<Opened>>,
}

impl Lanes {
    fn tell(&self, status: &mut Status) {
        let lanes = self.crossings.reports();
        status.lanes = lanes.map(|LaneReport { strays, relayed }| Lane { strays, relayed }).collect();
        if let Some(opened) = self.opened.get() {
            let (sockets, device) = opened.steered;
            status.steered = Steered { sockets, device };
        }
    }
}

#[derive(Deserialize)]
struct Request {
    r#do: String,
}

/// What answers the requests of the command line.
pub fn desk(
    handle: &TreeHandle,
    session: SessionStatus,
    url: Option<String>,
    progress: Arc<Progress>,
    granted: GrantedOffloads,
    lanes: Lanes,
    flows: Arc<FlowMeter>,
) -> Desk {
    let handle = handle.clone();
    Rc::new(move |line| {
        let (handle, session, url) = (handle.clone(), session.clone(), url.clone());
        let (progress, granted, lanes) = (progress.clone(), granted.clone(), lanes.clone());
        let flows = flows.clone();
        Box::pin(async move {
            let request: Request =
                serde_json::from_str(&line).map_err(|error| Failure::usage(chain(&error)))?;
            if request.r#do != "status" {
                return Err(Failure::usage(format!("{PROGRAM} knows no request `{}`", request.r#do)));
            }
            let admitted = inspect(&handle.address::<Admissions>(""), AdmissionsCommand::Inspect).await?;
            let peers = inspect(&handle.address::<Peers>(""), PeersCommand::Inspect).await?;
            let mut status = status(&admitted, &peers, session.get(), progress.get().err());
            status.control.url = url;
            status.offload = granted.get().map(|offloads| offloads.report());
            lanes.tell(&mut status);
            status.flow_records =
                FlowRecords { stored: flows.stored(), waiting: flows.waiting(), dropped: flows.dropped() };
            status.drops =
                handle.registry().drops().into_iter().map(|(reason, n)| (reason.to_owned(), n)).collect();
            Ok(json!({ "status": status }))
        })
    })
}

async fn inspect<A: Actor, T>(
    actor: &Address<A>,
    command: impl FnOnce(Reply<T>) -> A::Command,
) -> Result<T, Failure> {
    let (reply, answer) = Reply::channel();
    let busy = || Failure::failed("the gateway is too busy to answer").fix("try again");
    actor.tell(command(reply)).map_err(|_| busy())?;
    answer.await.map_err(|_| busy())
}

fn status(
    admitted: &AdmissionsView,
    peers: &PeersView,
    session: SessionState,
    reason: Option<String>,
) -> Status {
    let (state, why) = match session {
        SessionState::Connecting => ("connecting", None),
        SessionState::Connected => ("connected", None),
        SessionState::Offline(why) => ("offline", Some(why)),
        SessionState::Refused(why) => ("refused", Some(why)),
        SessionState::SignedOut => ("signed-out", None),
        SessionState::Paused => ("down", None),
    };
    let devices = admitted.devices.iter().map(|(device, slot, grants)| {
        let (connected, path) = peers.peers.get(slot).copied().unwrap_or((false, None));
        let round_trip = path.and_then(|path| path.round_trip);
        let path = path.filter(|_| connected);
        let transport = path.map(|path| path.transport.name().to_owned());
        let (path, mtu) = (path.map(|path| kind(&path).to_owned()), path.map(|path| path.mtu));
        Device {
            device: device.to_string(),
            grants: *grants,
            connected,
            path,
            rtt_ms: round_trip.map(milliseconds),
            mtu,
            transport,
        }
    });
    let relays = peers.links.iter().map(|link| Relay {
        address: link.address,
        transport: link.transport.name().to_owned(),
        allocated: link.allocated,
        rtt_ms: link.round_trip.map(milliseconds),
    });
    Status {
        schema: 1,
        ready: reason.is_none(),
        reason,
        control: Control { state: state.into(), url: None, reason: why },
        devices: devices.collect(),
        relays: relays.collect(),
        udp: peers.udp.name().to_owned(),
        lanes: Vec::new(),
        steered: Steered::default(),
        candidates: peers.candidates.iter().map(|candidate| candidate.address).collect(),
        flow_records: FlowRecords::default(),
        offload: None,
        drops: std::collections::BTreeMap::new(),
    }
}

fn kind(path: &PathSummary) -> &'static str {
    match path.kind {
        PathKind::Direct => "direct",
        PathKind::Relayed => "relayed",
    }
}

fn milliseconds(round_trip: Duration) -> f64 {
    (round_trip.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Asks the running gateway and prints the answer.
///
/// # Errors
/// When it does not answer.
pub fn show(socket: &Path, as_json: bool) -> Result<(), Failure> {
    let mut answer = ask(PROGRAM, socket, &json!({"do": "status"}), PATIENCE)?;
    let status = answer.get_mut("status").map_or(Value::Null, Value::take);
    if as_json {
        println!("{status}");
        return Ok(());
    }
    let status: Status = serde_json::from_value(status).map_err(|_| {
        Failure::failed("the answer of the gateway cannot be read").fix("is it of the same version?")
    })?;
    print!("{}", draw(&status));
    Ok(())
}

fn draw(status: &Status) -> String {
    let mut text = String::new();
    let detail = |text: &Option<String>| text.as_ref().map_or_else(String::new, |text| format!(": {text}"));
    let said = if status.ready { "ready" } else { "not ready" };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{said}{}", detail(&status.reason));
    let Control { state, url, reason } = &status.control;
    let _ = writeln!(text, "control  {state}  {}{}", url.as_deref().unwrap_or("-"), detail(reason));
    let ms = |rtt: Option<f64>| rtt.map_or_else(|| "-".into(), |rtt| format!("{rtt} ms"));
    if status.udp == Udp::Blocked.name() {
        let _ = writeln!(text, "udp      blocked: relays are reached over TLS");
    }
    for Relay { address, transport, allocated, rtt_ms } in &status.relays {
        let _ = writeln!(
            text,
            "relay    {address}  {transport}  {}  {}",
            if *allocated { "allocated" } else { "-" },
            ms(*rtt_ms)
        );
    }
    for Device { device, grants, connected, path, rtt_ms, transport: _, mtu: _ } in &status.devices {
        let path = if *connected { path.as_deref().unwrap_or("connected") } else { "not connected" };
        let _ = writeln!(text, "device   {device}  {grants} grants  {path}  {}", ms(*rtt_ms));
    }
    if let Some(offload) = &status.offload {
        let _ = writeln!(text, "offload  {}", offload.words());
    }
    let FlowRecords { stored, waiting, dropped } = status.flow_records;
    if (stored, waiting, dropped) != (0, 0, 0) {
        let _ = writeln!(text, "flows    {stored} recorded, {waiting} wait for control, {dropped} lost");
    }
    for (reason, count) in status.drops.iter().filter(|(_, count)| **count > 0) {
        let _ = writeln!(text, "dropped  {count}  {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use protocol_identity::DeviceId;

    use super::*;

    #[test]
    fn a_device_shows_its_path_only_while_it_is_connected() {
        let (near, gone) = (DeviceId::fresh(), DeviceId::fresh());
        let admitted = AdmissionsView { devices: vec![(near, 1, 2), (gone, 2, 1)], ready: true };
        let path = PathSummary {
            kind: PathKind::Direct,
            round_trip: Some(Duration::from_micros(12_340)),
            remote: "192.0.2.1:5000".parse().unwrap(),
            proven: true,
            mtu: 1380,
            transport: actors_tunnel::Transport::Udp,
        };
        let peers =
            PeersView { peers: [(1, (true, Some(path))), (2, (false, None))].into(), ..PeersView::default() };

        let status = status(&admitted, &peers, SessionState::Connected, None);

        assert_eq!(
            (status.devices[0].path.as_deref(), status.devices[0].rtt_ms, status.devices[0].mtu),
            (Some("direct"), Some(12.3), Some(1380))
        );
        assert_eq!((status.devices[1].path.as_deref(), status.devices[1].connected), (None, false));
    }

    #[test]
    fn what_is_missing_is_said_first() {
        let offline = SessionState::Offline("control cannot be reached".into());
        let missing = Some("control was not reached yet".to_owned());

        let status = status(&AdmissionsView::default(), &PeersView::default(), offline, missing);

        let text = draw(&status);
        assert!(text.starts_with("not ready: control was not reached yet\ncontrol  offline"), "{text}");
        let again: Status = serde_json::from_value(serde_json::to_value(&status).unwrap()).unwrap();
        assert_eq!(again, status);
    }
}

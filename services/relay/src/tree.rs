//! Every actor of a relay, in start order.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors_access::{ControlSession, SessionEvent, SessionSettings};
use actors_relay::{
    Connections, Door, Listener, RelayCounters, RelayLane, RelaySettings, RelaySocket, SOCKET_BUFFER,
    StreamDoor, StreamListener, Streams, StreamsReceiver, StreamsSender,
};
use actors_runtime::{Boot, Full, Intensity, LaneKind, Outlet, Restart, Row, StartError, Tree};
use services_chassis::chain;
use tokio::time::Instant;

/// What the actors of a relay share.
pub struct Relay {
    /// UDP addresses that clients send to.
    pub listen: Vec<SocketAddr>,
    /// The way of connections to the packet lane.
    pub streams: (StreamsSender, StreamsReceiver),
    /// How it behaves.
    pub settings: Arc<RelaySettings>,
    /// What it counts.
    pub counters: Arc<RelayCounters>,
    /// Where clients connect to.
    pub doors: Doors,
    /// The session with control, and who hears of it; a standalone relay has none.
    pub session: Option<(Arc<SessionSettings>, Outlet<SessionEvent>)>,
}

/// Where clients connect to.
pub struct Doors {
    /// Addresses, TLS where it is spoken, and whether the address may be missing, because nobody asked for it.
    pub open: Vec<(SocketAddr, Option<Arc<rustls::ServerConfig>>, bool)>,
    /// Places of connections.
    pub connections: Connections,
    /// Those of them with TLS that could be opened, for control to know.
    pub opened: OpenedTls,
}

/// Where TLS is spoken.
pub type OpenedTls = Arc<Mutex<Vec<SocketAddr>>>;

/// The key of the listener that all connections come in by.
pub const STREAMS: &str = "connections";

/// A quick mistake is survived; one that comes back at once is somebody else's to handle.
const INTENSITY: Intensity = Intensity { restarts: 5, within: Duration::from_secs(60) };

/// The table.
pub static TREE: &[Row<Relay>] = &[
    Row {
        kind: "Listener",
        parent: "-",
        each: "UDP address, and all connections",
        lane: LaneKind::Packet,
        mailbox: 16,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: INTENSITY,
        start: Some(start_listeners),
    },
    Row {
        kind: "Allocation",
        parent: "Listener",
        each: "TURN allocation",
        lane: LaneKind::Packet,
        // Requests of one client: it repeats what is dropped. Their places are memory of each allocation.
        mailbox: 16,
        full: Full::DropNewest,
        // Who receives a packet passes it on in the same turn.
        ring: 0,
        restart: Restart::Never,
        intensity: INTENSITY,
        start: None,
    },
    Row {
        kind: "StreamListener",
        parent: "-",
        each: "TCP or TLS address",
        lane: LaneKind::Control,
        mailbox: 1,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: INTENSITY,
        start: Some(start_stream_listeners),
    },
    Row {
        kind: "Connection",
        parent: "StreamListener",
        each: "TCP or TLS connection",
        lane: LaneKind::Control,
        mailbox: 1,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Never,
        intensity: INTENSITY,
        start: None,
    },
    Row {
        kind: "ControlSession",
        parent: "-",
        each: "process, unless standalone",
        lane: LaneKind::Control,
        mailbox: 64,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: INTENSITY,
        start: Some(start_control_session),
    },
];

/// The table as a tree that can be run: one control lane for the session, another for connections, whose TLS would hold
/// the session up.
pub fn table() -> Tree<Relay> {
    Tree::new(TREE).control_lanes(2)
}

fn start_listeners(boot: &Boot<'_, Relay>) -> Result<(), StartError> {
    let relay = boot.context;
    let lane_of = |relay: &Relay| {
        let (settings, counters) = (Arc::clone(&relay.settings), Arc::clone(&relay.counters));
        move || RelayLane::here(|| RelayLane::new(&settings, counters, Instant::now()))
    };
    for listen in relay.listen.clone() {
        let lane = lane_of(relay);
        boot.try_start::<Listener, _>(&boot.lane(LaneKind::Packet)?, &listen.to_string(), move || {
            let (lane, door) = (lane(), Door::Socket(open(listen)?));
            Ok(move || Listener::new(Rc::clone(&lane), door.clone()))
        })?;
    }
    let (lane, receiver) = (lane_of(relay), relay.streams.1.clone());
    boot.start::<Listener, _>(&boot.lane(LaneKind::Packet)?, STREAMS, move || {
        let (lane, door) = (lane(), Door::Streams(Streams::new(receiver)));
        move || Listener::new(Rc::clone(&lane), door.clone())
    })?;
    Ok(())
}

fn start_stream_listeners(boot: &Boot<'_, Relay>) -> Result<(), StartError> {
    let relay = boot.context;
    let Some(lane) = boot.lanes(LaneKind::Control).last() else {
        return Err(StartError::failed("there is no lane for connections", "no control lane"));
    };
    for (listen, tls, may_be_missing) in relay.doors.open.clone() {
        let (connections, sender) = (relay.doors.connections.clone(), relay.streams.0.clone());
        let is_tls = tls.is_some();
        let started = boot.try_start::<StreamListener, _>(lane, &listen.to_string(), move || {
            let door = StreamDoor::open(listen, tls, connections, sender)
                .map_err(|error| StartError::failed(format!("cannot listen on TCP {listen}"), error))?;
            Ok(move || StreamListener::new(door.clone()))
        });
        match started {
            Ok(_) if is_tls => {
                relay.doors.opened.lock().unwrap_or_else(PoisonError::into_inner).push(listen);
            }
            Ok(_) => {}
            Err(error @ StartError::Failed { .. }) if may_be_missing => {
                tracing::warn!(%listen, error = %chain(&error), "clients cannot connect here; name addresses with --listen-tcp and --listen-tls");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn open(listen: SocketAddr) -> Result<Rc<RelaySocket>, StartError> {
    let socket = RelaySocket::open(listen, SOCKET_BUFFER).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::AddrInUse => {
                format!("{listen} is in use by another process (choose another with --listen)")
            }
            _ => format!("cannot listen on {listen}"),
        };
        StartError::failed(what, error)
    })?;
    // The kernel doubles what it is asked for, if it gives it at all.
    if socket.receive_buffer() < SOCKET_BUFFER {
        tracing::warn!(
            bytes = socket.receive_buffer(),
            "the host limits socket buffers: bursts will be lost; raise net.core.rmem_max and wmem_max"
        );
    }
    Ok(socket)
}

fn start_control_session(boot: &Boot<'_, Relay>) -> Result<(), StartError> {
    let Some((settings, events)) = boot.context.session.clone() else { return Ok(()) };
    boot.start::<ControlSession, _>(&boot.lane(LaneKind::Control)?, "", move || {
        move || ControlSession::new(settings.clone(), events.clone())
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_the_one_that_the_documentation_remembers() {
        let remembered = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trees/relay.txt");

        assert_eq!(
            table().render(),
            std::fs::read_to_string(remembered).unwrap(),
            "update docs/trees/relay.txt"
        );
    }
}

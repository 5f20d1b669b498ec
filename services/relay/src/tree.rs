//! Every actor of a relay, in start order.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_access::{ControlSession, SessionEvent, SessionSettings};
use actors_relay::{Listener, RelayCounters, RelayLane, RelaySettings, RelaySocket, SOCKET_BUFFER};
use actors_runtime::{Boot, Full, Intensity, LaneKind, Outlet, Restart, Row, StartError};
use tokio::time::Instant;

/// What the actors of a relay share.
pub struct Relay {
    /// UDP addresses that clients send to.
    pub listen: Vec<SocketAddr>,
    /// How it behaves.
    pub settings: Arc<RelaySettings>,
    /// What it counts.
    pub counters: Arc<RelayCounters>,
    /// The session with control, and who hears of it; a standalone relay has none.
    pub session: Option<(Arc<SessionSettings>, Outlet<SessionEvent>)>,
}

/// A quick mistake is survived; one that comes back at once is somebody else's to handle.
const INTENSITY: Intensity = Intensity { restarts: 5, within: Duration::from_secs(60) };

/// The table.
pub static TREE: &[Row<Relay>] = &[
    Row {
        kind: "Listener",
        parent: "-",
        each: "address that clients send to",
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
        // Requests of one client: it repeats what is dropped.
        mailbox: 64,
        full: Full::DropNewest,
        // GRO buffers: 128 of 64 packets are 8 ms at a million packets a second.
        ring: 128,
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

fn start_listeners(boot: &Boot<'_, Relay>) -> Result<(), StartError> {
    let relay = boot.context;
    for listen in relay.listen.clone() {
        let (settings, counters) = (Arc::clone(&relay.settings), Arc::clone(&relay.counters));
        boot.try_start::<Listener, _>(&boot.lane(LaneKind::Packet)?, &listen.to_string(), move || {
            let lane = RelayLane::here(|| RelayLane::new(&settings, counters, Instant::now()));
            let socket = open(listen)?;
            Ok(move || Listener::new(Rc::clone(&lane), Rc::clone(&socket)))
        })?;
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
    use actors_runtime::Tree;

    use super::*;

    #[test]
    fn the_table_is_the_one_that_the_documentation_remembers() {
        let remembered = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/trees/relay.txt");

        assert_eq!(
            Tree::new(TREE).render(),
            std::fs::read_to_string(remembered).unwrap(),
            "update docs/trees/relay.txt"
        );
    }
}

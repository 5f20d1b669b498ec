//! Between connections, which live on a control lane, and their allocations on a packet lane.
//!
//! A connection hands whole messages over, many at a time, and gets what is to be written back the same way. Both ways are
//! bounded. A connection that finds its way full stops reading until there is room, so that its sender is slowed down by
//! TCP; what a client does not read is dropped by the lane and counted.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use actors_runtime::{HandoverReceiver, HandoverSender, handover};

/// Reads of connections on their way to a lane; each has at most 64 KiB, and what does not fit waits in its connection.
const INWARD: usize = 256;
/// Sends that wait for one connection: 32 full GRO buffers, 2 MiB, are 20 ms at 800 Mbit/s.
const OUTWARD: usize = 32;

/// One connection of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ConnectionId(u64);

impl ConnectionId {
    pub(crate) fn next() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a connection tells its lane.
pub(crate) enum FromStream {
    /// It is there.
    Opened { id: ConnectionId, client: SocketAddr, relay: SocketAddr, back: Back },
    /// It brought whole messages, one behind the other.
    Messages { id: ConnectionId, bytes: Vec<u8> },
    /// It is gone.
    Closed { id: ConnectionId },
}

/// The lane's end of a connection.
#[derive(Clone)]
pub(crate) struct Back {
    out: HandoverSender<Vec<u8>>,
    allocated: Arc<AtomicBool>,
}

/// The connection's end of it.
#[derive(Clone)]
pub(crate) struct Front {
    pub(crate) out: HandoverReceiver<Vec<u8>>,
    allocated: Arc<AtomicBool>,
}

impl Back {
    pub(crate) fn pair() -> (Self, Front) {
        let (sender, receiver) = handover(OUTWARD);
        let allocated = Arc::new(AtomicBool::new(false));
        (Self { out: sender, allocated: Arc::clone(&allocated) }, Front { out: receiver, allocated })
    }

    pub(crate) fn push(&self, bytes: Vec<u8>) -> Result<(), &'static str> {
        self.out.push(bytes).map_err(|_| "stream_send_full")
    }

    pub(crate) fn allocated(&self, allocated: bool) {
        self.allocated.store(allocated, Ordering::Relaxed);
    }
}

impl Front {
    /// Whether the client has proven who it is, and holds an allocation.
    pub(crate) fn is_allocated(&self) -> bool {
        self.allocated.load(Ordering::Relaxed)
    }
}

/// The way of all connections to one lane; made before the lanes start.
pub fn streams() -> (StreamsSender, StreamsReceiver) {
    let (sender, receiver) = handover(INWARD);
    (StreamsSender(sender), StreamsReceiver(receiver))
}

/// What a [`StreamListener`](crate::StreamListener) is made with.
#[derive(Clone)]
pub struct StreamsSender(pub(crate) HandoverSender<FromStream>);

/// What the [`Listener`](crate::Listener) of all connections is made with.
#[derive(Clone)]
pub struct StreamsReceiver(pub(crate) HandoverReceiver<FromStream>);

/// The connections that a lane knows; it outlives the listener's actors.
pub struct Streams {
    pub(crate) incoming: HandoverReceiver<FromStream>,
    pub(crate) open: RefCell<HashMap<ConnectionId, Open>>,
}

#[derive(Clone)]
pub(crate) struct Open {
    pub(crate) client: SocketAddr,
    pub(crate) relay: SocketAddr,
    pub(crate) back: Back,
}

impl Streams {
    /// On the lane.
    pub fn new(receiver: StreamsReceiver) -> Rc<Self> {
        Rc::new(Self { incoming: receiver.0, open: RefCell::default() })
    }
}

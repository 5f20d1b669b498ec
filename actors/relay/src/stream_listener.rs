//! One TCP socket that clients connect to, for STUN over TCP or over TLS.
//!
//! - Parent: none, a root on the lane of connections; one for each listening address. Its children are the
//!   [`Connection`]s of its clients.
//! - Core: none; it accepts, within bounds.
//! - When it dies: its connections end and their clients connect again; it is restarted on the same descriptor.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use actors_runtime::{Actor, ChildEnded, Cx, Never, time};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};

use crate::connection::{Accepted, Connection};
use crate::streams::{ConnectionId, FromStream, StreamsSender};

/// A pause after accepting has failed, for want of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);
/// The lane has no room for the news of an end: it is told again.
const AGAIN: Duration = Duration::from_millis(10);
/// What was sent and not acknowledged for so long ends a connection: its client is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// How many connections there may be; shared by the listeners of a process.
#[derive(Clone)]
pub struct Connections(Arc<Mutex<Counts>>);

struct Counts {
    most: usize,
    most_each: usize,
    count: usize,
    each: HashMap<IpAddr, usize>,
}

impl Connections {
    /// At most `most` in all, and `most_each` of one IPv4 address or one /64 of IPv6.
    pub fn new(most: usize, most_each: usize) -> Self {
        Self(Arc::new(Mutex::new(Counts { most, most_each, count: 0, each: HashMap::new() })))
    }

    fn take(&self, client: IpAddr) -> Option<Taken> {
        let source = source(client);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = counts.each.get(&source).copied().unwrap_or(0);
        if counts.count >= counts.most || held >= counts.most_each {
            return None;
        }
        counts.count += 1;
        counts.each.insert(source, held + 1);
        Some(Taken(self.clone(), source))
    }
}

/// One place; it is given back with this.
struct Taken(Connections, IpAddr);

impl Drop for Taken {
    fn drop(&mut self) {
        let mut counts = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.count = counts.count.saturating_sub(1);
        if let Some(held) = counts.each.get_mut(&self.1) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                counts.each.remove(&self.1);
            }
        }
    }
}

/// Who owns an address: all of a /64 is one host's (RFC 4291 §2.5.4).
fn source(client: IpAddr) -> IpAddr {
    match client {
        IpAddr::V4(_) => client,
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}

/// A listener cannot be told anything: whether there are new allocations, the lane decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamListenerCommand {}

/// What a listener is made of; it outlives the actor.
#[derive(Clone)]
pub struct StreamDoor {
    listener: Rc<TcpListener>,
    tls: Option<Arc<rustls::ServerConfig>>,
    connections: Connections,
    lane: StreamsSender,
}

impl StreamDoor {
    /// Opens `listen`. With `tls` the clients speak TLS. Inside the lane's event loop.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn open(
        listen: SocketAddr,
        tls: Option<Arc<rustls::ServerConfig>>,
        connections: Connections,
        lane: StreamsSender,
    ) -> io::Result<Self> {
        let kind = socket2::Type::STREAM.nonblocking().cloexec();
        let socket = socket2::Socket::new(socket2::Domain::for_address(listen), kind, None)?;
        if listen.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(1024)?;
        let listener = Rc::new(TcpListener::from_std(socket.into())?);
        Ok(Self { listener, tls, connections, lane })
    }

    /// The address that it is bound to.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn local(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The actor.
pub struct StreamListener {
    door: StreamDoor,
    living: HashMap<String, (ConnectionId, Taken)>,
    /// Ends that the lane has not heard of.
    closed: Vec<ConnectionId>,
}

impl StreamListener {
    /// Accepts at `door`.
    pub fn new(door: StreamDoor) -> Self {
        Self { door, living: HashMap::new(), closed: Vec::new() }
    }

    fn accepted(&mut self, stream: TcpStream, client: SocketAddr, cx: &mut Cx<Self>) {
        let client = protocol_stun::plain(client);
        let Some(taken) = self.door.connections.take(client.ip()) else {
            return cx.count_drop("too_many_connections", 1);
        };
        let Ok(relay) = stream.local_addr() else { return cx.count_drop("connection_gone", 1) };
        // What these change is how soon the end of a client is noticed, and small messages leave at once.
        let _ = stream.set_nodelay(true);
        let _ = SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let id = ConnectionId::next();
        let accepted = Accepted {
            id,
            stream,
            client,
            relay: protocol_stun::plain(relay),
            tls: self.door.tls.clone(),
            lane: self.door.lane.clone(),
        };
        let accepted = Rc::new(RefCell::new(Some(accepted)));
        let key = client.to_string();
        match cx.start_child::<Connection>(key.clone(), move || Connection::new(Rc::clone(&accepted))) {
            Ok(_) => drop(self.living.insert(key, (id, taken))),
            Err(error) => {
                tracing::debug!(%error, "connection not started");
                cx.count_drop("connection_not_started", 1);
            }
        }
    }

    fn tell(&mut self, cx: &mut Cx<Self>) {
        let lane = &self.door.lane.0;
        self.closed.retain(|id| lane.push(FromStream::Closed { id: *id }).is_err());
        if self.closed.is_empty() { cx.wake_never() } else { cx.wake_after(AGAIN) }
    }
}

impl Actor for StreamListener {
    const KIND: &'static str = "StreamListener";
    type Command = StreamListenerCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let accept = futures_util::stream::unfold(Rc::clone(&self.door.listener), |listener| async {
            match listener.accept().await {
                Ok(accepted) => Some((Some(accepted), listener)),
                Err(_) => {
                    time::sleep(PAUSE).await;
                    Some((None, listener))
                }
            }
        });
        cx.follow(accept, |listener, accepted, cx| match accepted {
            Some((stream, client)) => listener.accepted(stream, client, cx),
            None => cx.count_drop("accept_failed", 1),
        });
    }

    fn told(&mut self, command: StreamListenerCommand, _cx: &mut Cx<Self>) {
        match command {}
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        self.tell(cx);
    }

    fn child_ended(&mut self, child: ChildEnded, cx: &mut Cx<Self>) {
        if let Some((id, _taken)) = self.living.remove(&child.key) {
            self.closed.push(id);
            self.tell(cx);
        }
    }
}

impl Drop for StreamListener {
    /// After a failure nobody would tell the lane that the connections are gone.
    fn drop(&mut self) {
        let living = self.living.drain().map(|(_, (id, _))| id);
        for id in self.closed.drain(..).chain(living) {
            if self.door.lane.0.push(FromStream::Closed { id }).is_err() {
                tracing::warn!(
                    "the lane could not be told of a connection's end: its allocation ends by itself"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_gets_its_share_and_gives_it_back() {
        let connections = Connections::new(3, 2);
        let (one, other) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());

        let first = connections.take(one).unwrap();
        let _second = connections.take(other).unwrap();
        assert!(connections.take(one).is_none(), "one /64 is one source");
        let _third = connections.take([192, 0, 2, 1].into()).unwrap();
        assert!(connections.take([192, 0, 2, 2].into()).is_none(), "there are no more in all");

        drop(first);
        assert!(connections.take(one).is_some());
    }
}

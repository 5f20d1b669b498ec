//! One connection of a client, TCP or TLS.
//!
//! - Parent: [`StreamListener`](crate::StreamListener), one child for each accepted connection, never restarted.
//! - Core: [`frame`](protocol_stun::stream::frame), which cuts the stream into messages.
//! - When it dies: its client connects again; the allocation goes with it (RFC 8656 §3.1), no other notices.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Never, time};
use futures_util::future::{Either, FutureExt as _, select};
use futures_util::stream::StreamExt as _;
use protocol_stun::stream::{Frame, LONGEST, frame};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::streams::{Back, ConnectionId, FromStream, Front, StreamsSender};

/// A handshake takes three round trips at the most, and a path whose round trip is longer than three seconds works for nobody.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be silent that holds no allocation.
const SILENCE: Duration = Duration::from_secs(60);
/// How often that is looked at.
const LOOK: Duration = Duration::from_secs(15);
/// The longest message of somebody who holds no allocation: a request with a long name and a long realm has 1,400 bytes.
const LONGEST_OF_STRANGERS: usize = 2_048;
/// What one read may bring, before and after an allocation is held.
const READ: (usize, usize) = (2_048, 32_768);
/// How long a connection rests whose lane has no room.
const REST: Duration = Duration::from_millis(1);

/// A connection cannot be told anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionCommand {}

/// What a connection is made of.
pub(crate) struct Accepted {
    pub(crate) id: ConnectionId,
    pub(crate) stream: TcpStream,
    pub(crate) client: SocketAddr,
    pub(crate) relay: SocketAddr,
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    pub(crate) lane: StreamsSender,
}

/// The actor.
pub struct Connection {
    accepted: Rc<RefCell<Option<Accepted>>>,
    heard: Rc<Cell<Option<Instant>>>,
    front: Option<Front>,
}

impl Connection {
    pub(crate) fn new(accepted: Rc<RefCell<Option<Accepted>>>) -> Self {
        Self { accepted, heard: Rc::default(), front: None }
    }
}

impl Actor for Connection {
    const KIND: &'static str = "Connection";
    type Command = ConnectionCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let Some(accepted) = self.accepted.take() else { return cx.stop() };
        let (back, front) = Back::pair();
        self.front = Some(front.clone());
        self.heard.set(Some(cx.now()));
        cx.wake_after(LOOK);
        let heard = Rc::clone(&self.heard);
        cx.spawn(carry(accepted, back, front, heard), |_, ending, cx| {
            if let Some(reason) = ending {
                cx.count_drop(reason, 1);
            }
            cx.stop();
        });
    }

    fn told(&mut self, command: ConnectionCommand, _cx: &mut Cx<Self>) {
        match command {}
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let silent =
            self.heard.get().is_none_or(|heard| cx.now().saturating_duration_since(heard) >= SILENCE);
        let allocated = self.front.as_ref().is_some_and(Front::is_allocated);
        if silent && !allocated {
            return cx.stop();
        }
        cx.wake_after(LOOK);
    }
}

/// Carries a connection from its handshake to its end; gives the reason to count it under when it was broken.
async fn carry(
    accepted: Accepted,
    back: Back,
    front: Front,
    heard: Rc<Cell<Option<Instant>>>,
) -> Option<&'static str> {
    let Accepted { id, stream, client, relay, tls, lane } = accepted;
    let reader = Reader { id, lane, front: front.clone(), heard };
    let opened = FromStream::Opened { id, client, relay, back };
    match tls {
        None => {
            reader.hand_over(opened).await;
            both(stream, reader, front, Writes::Together).await
        }
        Some(tls) => match time::timeout(HANDSHAKE, TlsAcceptor::from(tls).accept(stream)).await {
            Ok(Ok(stream)) => {
                reader.hand_over(opened).await;
                both(stream, reader, front, Writes::Apart).await
            }
            Ok(Err(_)) => Some("tls_handshake_failed"),
            Err(_) => Some("tls_handshake_timeout"),
        },
    }
}

/// How messages that wait together are written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Writes {
    /// In one piece.
    Together,
    /// Each in a TLS record of its own: there are clients (coturn's) that take a record for a message.
    Apart,
}

async fn both(
    stream: impl AsyncRead + AsyncWrite,
    reader: Reader,
    front: Front,
    writes: Writes,
) -> Option<&'static str> {
    let (input, output) = tokio::io::split(stream);
    let (reading, writing) = (reader.read(input).boxed_local(), write(output, front, writes).boxed_local());
    match select(reading, writing).await {
        Either::Left((reason, _)) => reason,
        Either::Right((_broken, _)) => None,
    }
}

/// Writes what the lane wants written.
async fn write(mut output: impl AsyncWrite + Unpin, mut front: Front, writes: Writes) -> io::Result<()> {
    while let Some(bytes) = front.out.next().await {
        put(&mut output, &bytes, writes).await?;
        while let Some(Some(bytes)) = front.out.next().now_or_never() {
            put(&mut output, &bytes, writes).await?;
        }
        output.flush().await?;
    }
    Ok(())
}

async fn put(output: &mut (impl AsyncWrite + Unpin), bytes: &[u8], writes: Writes) -> io::Result<()> {
    if writes == Writes::Together {
        return output.write_all(bytes).await;
    }
    let mut rest = bytes;
    while let Frame::Whole(length) = frame(rest) {
        let (message, behind) = rest.split_at(length);
        output.write_all(message).await?;
        rest = behind;
    }
    Ok(())
}

struct Reader {
    id: ConnectionId,
    lane: StreamsSender,
    front: Front,
    heard: Rc<Cell<Option<Instant>>>,
}

impl Reader {
    /// Reads until the end of the stream; the reason, when what it brought was no message.
    async fn read(self, mut input: impl AsyncRead + Unpin) -> Option<&'static str> {
        let mut waiting = Vec::new();
        loop {
            let (longest, room) =
                if self.front.is_allocated() { (LONGEST, READ.1) } else { (LONGEST_OF_STRANGERS, READ.0) };
            waiting.reserve(room);
            match input.read_buf(&mut waiting).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => self.heard.set(Some(time::now())),
            }
            let mut whole = 0;
            loop {
                match frame(waiting.get(whole..).unwrap_or_default()) {
                    Frame::Whole(length) | Frame::Part(length) if length > longest => {
                        return Some("stream_message_too_long");
                    }
                    Frame::Whole(length) => whole += length,
                    Frame::Part(_) => break,
                    Frame::Broken => return Some("stream_broken"),
                }
            }
            if whole > 0 {
                let rest = waiting.split_off(whole);
                let bytes = std::mem::replace(&mut waiting, rest);
                self.hand_over(FromStream::Messages { id: self.id, bytes }).await;
            }
        }
    }

    /// Rests while the lane has no room: the client's TCP is slowed down by that.
    async fn hand_over(&self, mut what: FromStream) {
        while let Err(back) = self.lane.0.push(what) {
            what = back;
            time::sleep(REST).await;
        }
    }
}

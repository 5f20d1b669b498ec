//! Connections to relays, for nodes whose UDP is blocked: TLS, on the port that everything lets through.
//!
//! - Parent: none, a root on a control lane of its own, because bulk TLS would hold other actors up.
//! - Core: [`frame`](protocol_stun::stream::frame), which cuts a stream into messages.
//! - When it dies: its connections end, and their links allocate anew over the next ones, which it opens when it is back.
//!
//! Told by: the [`RelayLink`](actors_tunnel::RelayLink) that wants a connection. Tells: the same, through the connection's
//! two bounded ways.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, HandoverReceiver, HandoverSender, Never, TaskHandle, time};
use actors_tunnel::{FromStream, StreamCommand, StreamId, StreamWanted};
use futures_util::future::{Either, FutureExt as _, select, select_ok};
use futures_util::stream::StreamExt as _;
use protocol_stun::stream::{Frame, frame};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::connection::tcp_to;
use crate::trust::Trust;

/// TCP and TLS together take no longer, whichever address answers.
const CONNECT_WITHIN: Duration = Duration::from_secs(8);
/// The next address is tried after this, beside those before (RFC 8305 §5).
const NEXT_ADDRESS: Duration = Duration::from_millis(250);
/// The first pause before a connection that failed is tried again. Doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest such pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A connection that lasted this long has worked: the next is opened without much ado.
const LASTED: Duration = Duration::from_secs(30);
/// What was sent and not acknowledged for so long ends a connection. An allocation's own silence ends after the same time.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// What one read may bring.
const READ: usize = 32_768;
/// How long a connection rests whose lane has no room.
const REST: Duration = Duration::from_millis(1);

/// Opens connections, and keeps them open.
pub struct RelayStreams {
    /// `SO_MARK` that keeps connections out of the tunnel.
    mark: Option<u32>,
    kept: KeptStreams,
    running: BTreeMap<StreamId, TaskHandle>,
}

/// What survives a restart of the actor: which connections are wanted.
#[derive(Debug, Clone, Default)]
pub struct KeptStreams(Rc<RefCell<BTreeMap<StreamId, StreamWanted>>>);

/// How a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    /// Nothing answers, or nothing that speaks TLS with the right certificate.
    #[error("the relay cannot be reached over TLS")]
    Unreachable(#[source] io::Error),
    /// It took too long.
    #[error("the relay did not answer over TLS within {} s", CONNECT_WITHIN.as_secs())]
    TimedOut,
    /// It was there, and ended.
    #[error("the connection to the relay has ended")]
    Closed,
    /// What came was no message.
    #[error("the relay sent something that is neither STUN nor TURN")]
    Broken,
}

impl RelayStreams {
    /// `kept` is kept by the factory.
    pub fn new(mark: Option<u32>, kept: KeptStreams) -> Self {
        Self { mark, kept, running: BTreeMap::new() }
    }

    fn run(&mut self, wanted: StreamWanted, pause: Duration, wait: Duration, cx: &mut Cx<Self>) {
        let (id, mark, began) = (wanted.id, self.mark, cx.now());
        let sleep = cx.sleep(wait);
        let connection = async move {
            sleep.await;
            let ended = carry(&wanted, mark).await;
            tell(&wanted.inward, FromStream::Closed).await;
            (wanted, ended)
        };
        let task = cx.spawn(connection, move |me, (wanted, ended), cx| {
            if matches!(ended, Ended::Broken) {
                cx.count_drop("stream_broken", 1);
            }
            let lasted = cx.now().saturating_duration_since(began) >= LASTED;
            let pause = if lasted { FIRST_PAUSE } else { pause };
            tracing::debug!(error = %ended, ?pause, "a connection to a relay ended");
            me.running.remove(&id);
            if me.kept.0.borrow().contains_key(&id) {
                me.run(wanted, (pause * 2).min(LONGEST_PAUSE), pause, cx);
            }
        });
        self.running.insert(id, task);
    }
}

impl Actor for RelayStreams {
    const KIND: &'static str = "RelayStreams";
    type Command = StreamCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let wanted: Vec<StreamWanted> = self.kept.0.borrow().values().cloned().collect();
        for wanted in wanted {
            self.run(wanted, FIRST_PAUSE, Duration::ZERO, cx);
        }
    }

    fn told(&mut self, command: StreamCommand, cx: &mut Cx<Self>) {
        match command {
            StreamCommand::Open(wanted) => {
                if self.kept.0.borrow_mut().insert(wanted.id, (*wanted).clone()).is_none() {
                    self.run(*wanted, FIRST_PAUSE, Duration::ZERO, cx);
                }
            }
            StreamCommand::Reopen(id) => {
                let wanted = self.kept.0.borrow().get(&id).cloned();
                if let (Some(wanted), Some(task)) = (wanted, self.running.remove(&id)) {
                    task.abort();
                    self.run(wanted, FIRST_PAUSE, Duration::ZERO, cx);
                }
            }
            StreamCommand::Close(id) => {
                self.kept.0.borrow_mut().remove(&id);
                if let Some(task) = self.running.remove(&id) {
                    task.abort();
                }
            }
        }
    }
}

/// Carries a connection from its handshake to its end.
async fn carry(wanted: &StreamWanted, mark: Option<u32>) -> Ended {
    let trust = Trust { pin: Some(wanted.relay.pin), ca_file: None };
    let tls = match trust.client_config() {
        Ok(tls) => tls,
        Err(error) => return Ended::Unreachable(io::Error::other(error)),
    };
    let connecting = connect(&wanted.relay.addresses, &tls, mark);
    let stream = match time::timeout(CONNECT_WITHIN, connecting).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Ended::Unreachable(error),
        Err(_) => return Ended::TimedOut,
    };
    // What the lane wanted written to an earlier connection is for nobody.
    while wanted.outward.pop().is_some() {}
    tell(&wanted.inward, FromStream::Opened).await;
    let (input, output) = tokio::io::split(stream);
    let reading = read(input, &wanted.inward).boxed_local();
    let writing = write(output, wanted.outward.clone()).boxed_local();
    match select(reading, writing).await {
        Either::Left((ended, _)) => ended,
        Either::Right((_broken, _)) => Ended::Closed,
    }
}

/// The first of the addresses that shows the right certificate.
async fn connect(
    addresses: &[SocketAddr],
    tls: &Arc<ClientConfig>,
    mark: Option<u32>,
) -> io::Result<TlsStream<TcpStream>> {
    let tries = addresses.iter().zip(0u32..).map(|(address, nth)| {
        async move {
            time::sleep(NEXT_ADDRESS * nth).await;
            let tcp = tcp_to(*address, mark).await?;
            SockRef::from(&tcp).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
            TlsConnector::from(tls.clone()).connect(name(address.ip()), tcp).await
        }
        .boxed_local()
    });
    let tries: Vec<_> = tries.collect();
    if tries.is_empty() {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    }
    select_ok(tries).await.map(|(stream, _)| stream)
}

fn name(ip: IpAddr) -> ServerName<'static> {
    ServerName::IpAddress(ip.into())
}

/// Reads until the stream ends, and hands whole messages over.
async fn read(mut input: impl AsyncRead + Unpin, lane: &HandoverSender<FromStream>) -> Ended {
    let mut waiting = Vec::new();
    loop {
        waiting.reserve(READ);
        match input.read_buf(&mut waiting).await {
            Ok(0) | Err(_) => return Ended::Closed,
            Ok(_) => {}
        }
        let mut whole = 0;
        loop {
            match frame(waiting.get(whole..).unwrap_or_default()) {
                Frame::Whole(length) => whole += length,
                Frame::Part(_) => break,
                Frame::Broken => return Ended::Broken,
            }
        }
        if whole > 0 {
            let rest = waiting.split_off(whole);
            let bytes = std::mem::replace(&mut waiting, rest);
            tell(lane, FromStream::Messages(bytes)).await;
        }
    }
}

/// Writes what the lane wants written; all that waits goes together.
async fn write(mut output: impl AsyncWrite + Unpin, mut lane: HandoverReceiver<Vec<u8>>) -> io::Result<()> {
    while let Some(bytes) = lane.next().await {
        output.write_all(&bytes).await?;
        while let Some(bytes) = lane.pop() {
            output.write_all(&bytes).await?;
        }
        output.flush().await?;
    }
    Ok(())
}

/// Rests while the lane has no room: the relay's TCP is slowed down by that.
async fn tell(lane: &HandoverSender<FromStream>, mut what: FromStream) {
    while let Err(back) = lane.push(what) {
        what = back;
        time::sleep(REST).await;
    }
}

#[cfg(test)]
mod tests;

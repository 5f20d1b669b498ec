//! The WebSocket sessions of nodes: checks the token, takes the hello, and hands the session to its actor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use actix_web::http::header;
use actix_web::rt::spawn;
use actix_web::{HttpRequest, HttpResponse, ResponseError as _, web};
use actix_ws::{AggregatedMessage, AggregatedMessageStream, CloseCode, Session};
use actors_control::device_session::{self, DeviceSession, Node, Peer};
use actors_control::directory::{self, Accept};
use actors_control::link::{LinkReceiver, link};
use actors_control::model::{Account, Kind, Object, Token};
use actors_control::relay_registry::Introduced;
use actors_control::storage::{Join, Note, Op, StorageError, Write};
use actors_control::store::with_cause;
use actors_runtime::{Address, Rejected, Reply};
use protocol_control::{
    CloseReason, ControlEnd, ControlOutput, Hello, MAX_FROM_NODE, RoleHello, SUBPROTOCOL, ToNode,
};
use protocol_identity::TokenKind;
use tokio::time::{Instant, timeout};
use tracing::Instrument as _;

use super::Api;
use super::auth::authenticate;
use super::problem::{Code, Problem};

/// A node that takes nothing from its socket for this long is cut.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// How often a reader looks whether the actor has room again.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Tells the sessions of this process apart.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// `GET /session`
pub async fn session(
    request: HttpRequest,
    body: web::Payload,
    api: web::Data<Api>,
) -> Result<HttpResponse, actix_web::Error> {
    let accepted = [TokenKind::ServiceAccount, TokenKind::Gateway, TokenKind::Relay];
    let (account, token) = match authenticate(&request, &api, &accepted).await {
        Ok(found) => found,
        Err(problem) => return Ok(problem.error_response()),
    };
    let speaks = request
        .headers()
        .get_all(header::SEC_WEBSOCKET_PROTOCOL)
        .filter_map(|value| value.to_str().ok())
        .any(|value| value.split(',').any(|offered| offered.trim() == SUBPROTOCOL));
    if !speaks {
        let detail = format!("this address takes WebSocket sessions with the subprotocol {SUBPROTOCOL} only");
        return Ok(Problem::new(Code::UpgradeRequired, detail).error_response());
    }
    let source = request.peer_addr().map(|address| address.ip().to_canonical());
    let (response, session, stream) = actix_ws::handle_with_protocols(&request, body, &[SUBPROTOCOL])?;
    let stream =
        stream.max_frame_size(MAX_FROM_NODE).aggregate_continuations().max_continuation_size(MAX_FROM_NODE);
    let visit = Visit { api, account, token, source, session, stream };
    spawn(visit.run());
    Ok(response)
}

/// One connection, from its first message on.
struct Visit {
    api: web::Data<Api>,
    account: Account,
    token: Token,
    source: Option<std::net::IpAddr>,
    session: Session,
    stream: AggregatedMessageStream,
}

/// Why a session did not come up.
enum Refused {
    /// The socket is gone, or the node said nonsense.
    Gone,
    /// The node is told why.
    Because(CloseReason),
}

impl Visit {
    async fn run(mut self) {
        let start = Instant::now();
        let Ok(nonce) = protocol_identity::random::<32>() else {
            tracing::error!("the system gave no random bytes");
            return self.hang_up(None).await;
        };
        let Ok(mut end) = ControlEnd::new(*nonce, Duration::ZERO) else { return self.hang_up(None).await };
        let joining = tracing::info_span!("node joins", token_name = %self.token.name);
        match self.greet(&mut end, start).instrument(joining).await {
            Ok((peer, relay)) => self.serve(end, start, peer, relay).await,
            Err(Refused::Gone) => self.hang_up(None).await,
            Err(Refused::Because(reason)) => {
                tracing::debug!(%reason, token = %self.token.name, "a node was refused");
                if end.send(&ToNode::Close(reason)).is_ok() {
                    let _ = self.send_all(&mut end).await;
                }
                self.hang_up(Some(reason)).await;
            }
        }
    }

    async fn hang_up(self, reason: Option<CloseReason>) {
        let code = match reason {
            Some(CloseReason::BadMessage) => CloseCode::Other(4400),
            Some(CloseReason::BadToken | CloseReason::Disabled) => CloseCode::Other(4401),
            Some(CloseReason::IdentityChanged | CloseReason::BadSignature) => CloseCode::Other(4403),
            Some(CloseReason::TooSlow) => CloseCode::Other(4408),
            Some(CloseReason::Replaced) => CloseCode::Other(4409),
            Some(CloseReason::ShuttingDown) | None => CloseCode::Away,
        };
        let _ = timeout(WRITE_WITHIN, self.session.close(Some(code.into()))).await;
    }

    /// Sends what the machine has to say. `Some`: the node has introduced itself.
    async fn send_all(&mut self, end: &mut ControlEnd) -> Result<Option<Box<Hello>>, Refused> {
        let mut introduced = None;
        while let Some(output) = end.poll_output() {
            match output {
                ControlOutput::Send(bytes) => {
                    let sent = timeout(WRITE_WITHIN, self.session.binary(bytes)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return Err(Refused::Gone);
                    }
                }
                ControlOutput::Introduced(hello) => introduced = Some(hello),
                // The machine takes nothing else before the hello.
                ControlOutput::Message(_) => return Err(Refused::Because(CloseReason::BadMessage)),
            }
        }
        Ok(introduced)
    }

    /// Challenges the node, takes its hello, and finds or makes it in storage.
    async fn greet(
        &mut self,
        end: &mut ControlEnd,
        start: Instant,
    ) -> Result<(Peer, Option<Box<Introduced>>), Refused> {
        loop {
            if let Some(hello) = self.send_all(end).await? {
                return self.join(*hello).await;
            }
            let left = (start + end.poll_timeout()).saturating_duration_since(Instant::now());
            let message = timeout(left, self.stream.recv()).await;
            let bytes = match message {
                Ok(Some(Ok(AggregatedMessage::Binary(bytes)))) => bytes,
                Ok(Some(Ok(AggregatedMessage::Ping(payload)))) => {
                    let _ = timeout(WRITE_WITHIN, self.session.pong(&payload)).await;
                    continue;
                }
                Ok(Some(Ok(AggregatedMessage::Pong(_)))) => continue,
                _ => return Err(Refused::Gone),
            };
            if let Err(error) = end.handle_frame(&bytes, start.elapsed()) {
                let reason = match error {
                    protocol_control::SessionError::Identity(_) => CloseReason::BadSignature,
                    _ => CloseReason::BadMessage,
                };
                self.note_refusal(&with_cause(&error));
                return Err(Refused::Because(reason));
            }
        }
    }

    fn note_refusal(&self, why: &str) {
        let note = Note {
            action: "refused",
            kind: Kind::Token,
            id: Some(self.token.id.0),
            name: Some(self.token.name.clone()),
            detail: serde_json::json!({ "why": why, "source": self.source }),
        };
        self.api.note(self.account.id, "control", note);
    }

    async fn join(&self, hello: Hello) -> Result<(Peer, Option<Box<Introduced>>), Refused> {
        let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        let Hello { identity, name, program, role, .. } = hello;
        let secret = match &role {
            RoleHello::Relay { secret, tls, .. } => Some((secret.clone(), tls.as_deref().cloned())),
            RoleHello::Client { .. } | RoleHello::Gateway { .. } => None,
        };
        let (word, fits) = match &role {
            RoleHello::Client { .. } => ("device", self.token.kind == TokenKind::ServiceAccount),
            RoleHello::Gateway { .. } => ("gateway", self.token.kind == TokenKind::Gateway),
            RoleHello::Relay { .. } => ("relay", self.token.kind == TokenKind::Relay),
        };
        if !fits {
            self.note_refusal(&format!("a {word} came with a token for something else"));
            return Err(Refused::Because(CloseReason::BadToken));
        }
        let join = Join { token: self.token.clone(), identity, name, version: program, role };
        let write = Write {
            account: self.account.id,
            by: format!("{word}-token:{}", self.token.name),
            at: self.api.clock.now(),
            ops: vec![Op::Join(Box::new(join))],
        };
        let committed = {
            // A node that is granted something must not wait behind thousands that come back at once.
            let _turn = self.api.joins.acquire().await;
            self.api.write(write).await
        };
        let committed = match committed {
            Ok(committed) => committed,
            Err(StorageError::OtherInstallation) => {
                self.note_refusal("the token or site belongs to another installation");
                return Err(Refused::Because(CloseReason::IdentityChanged));
            }
            Err(error @ StorageError::Disabled(_)) => {
                self.note_refusal(&error.to_string());
                return Err(Refused::Because(CloseReason::Disabled));
            }
            Err(StorageError::NotFound { .. }) => {
                self.note_refusal("the token has ended or is gone");
                return Err(Refused::Because(CloseReason::BadToken));
            }
            Err(error) => {
                tracing::warn!(error = %with_cause(&error), "a node could not be stored");
                return Err(Refused::Because(CloseReason::TooSlow));
            }
        };
        // What follows from the hello, such as another operating system, is decided before the node's first word.
        self.api.settled(self.account.id, committed.sequence()).await;
        let object = committed.last_object().cloned();
        let (node, name, principal, until, relay) = match (object, secret) {
            (Some(Object::Device(it)), None) => {
                // What comes after its sign-in has ended is refused anyway; the session ends with it.
                (Node::Device(it.id), it.name, Some(it.principal), self.token.expires_at, None)
            }
            (Some(Object::Gateway(it)), None) => (Node::Gateway(it.id), it.name, None, None, None),
            (Some(Object::Relay(it)), Some((secret, tls))) => {
                let account = self.account.id;
                let (id, name) = (it.id, it.name.clone());
                let introduced = Introduced { account, relay: it, tls, secret, connection };
                (Node::Relay(id), name, None, None, Some(Box::new(introduced)))
            }
            _ => return Err(Refused::Because(CloseReason::BadMessage)),
        };
        let peer = Peer {
            node,
            account: self.account.id,
            office: self.account.name.clone(),
            key: format!("{}/{word}/{name}", self.account.name),
            token: self.token.id,
            until,
            principal,
            source: self.source,
            connection,
        };
        Ok((peer, relay))
    }

    /// Hands the session to its actor, and carries bytes both ways until one side ends.
    async fn serve(self, end: ControlEnd, start: Instant, peer: Peer, relay: Option<Box<Introduced>>) {
        let (sender, receiver) = link();
        let (reply, answer) = Reply::channel();
        let accept = Accept { peer, end, start, link: sender, relay, reply };
        let told = self.api.directory.tell(directory::Command::Accept(Box::new(accept)));
        if told.is_err() {
            return self.hang_up(Some(CloseReason::TooSlow)).await;
        }
        let Ok(address) = answer.await else { return self.hang_up(None).await };
        let Self { session, stream, .. } = self;
        tokio::select! {
            () = write_out(session.clone(), receiver) => {}
            () = read_in(session.clone(), stream, &address) => {}
        }
        // The actor may have ended already.
        let _ = address.tell(device_session::Command::Gone);
        let _ = timeout(WRITE_WITHIN, session.close(Some(CloseCode::Normal.into()))).await;
    }
}

/// Writes frames until the actor has ended, or the node does not take them.
async fn write_out(mut session: Session, mut frames: LinkReceiver) {
    while let Some(frame) = frames.next().await {
        if !matches!(timeout(WRITE_WITHIN, session.binary(frame)).await, Ok(Ok(()))) {
            return;
        }
    }
}

/// Reads messages until the node or the actor ends. While the actor has no room nothing is read, so that the node's own
/// socket fills.
async fn read_in(
    mut session: Session,
    mut stream: AggregatedMessageStream,
    address: &Address<DeviceSession>,
) {
    while let Some(Ok(message)) = stream.recv().await {
        match message {
            AggregatedMessage::Binary(bytes) => {
                let mut command = device_session::Command::Frame(bytes.to_vec());
                loop {
                    match address.tell(command) {
                        Ok(()) => break,
                        Err(Rejected::Ended(_)) => return,
                        Err(Rejected::Full(back)) => {
                            command = back;
                            tokio::time::sleep(LOOK_AGAIN).await;
                        }
                    }
                }
            }
            AggregatedMessage::Ping(payload) => {
                if !matches!(timeout(WRITE_WITHIN, session.pong(&payload)).await, Ok(Ok(()))) {
                    return;
                }
            }
            AggregatedMessage::Pong(_) => {}
            // Text is no message of this protocol.
            AggregatedMessage::Text(_) | AggregatedMessage::Close(_) => return,
        }
    }
}

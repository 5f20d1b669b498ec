//! Sockets and sessions.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use protocol_control::{ControlEnd, ControlOutput, SUBPROTOCOL, ToNode};
use protocol_identity::{Token, TokenKind, random};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::plane::Plane;

/// Writes a token of each kind, as real control would hand them out; any is accepted.
pub fn write_tokens(dir: &Path) -> anyhow::Result<()> {
    for (name, kind) in [
        ("gateway.token", TokenKind::Gateway),
        ("relay.token", TokenKind::Relay),
        ("client.token", TokenKind::ServiceAccount),
    ] {
        std::fs::write(dir.join(name), Token::generate(kind)?.reveal().as_bytes())?;
    }
    Ok(())
}

/// Takes sessions for ever.
pub async fn accept(listener: TcpListener, tls: Arc<rustls::ServerConfig>, plane: Rc<Plane>) {
    let acceptor = TlsAcceptor::from(tls);
    while let Ok((stream, from)) = listener.accept().await {
        let (acceptor, plane) = (acceptor.clone(), plane.clone());
        tokio::task::spawn_local(async move {
            if let Err(error) = session(stream, acceptor, plane).await {
                println!(
                    "{}",
                    serde_json::json!({ "event": "session-ended", "from": from, "why": error.to_string() })
                );
            }
        });
    }
}

// The callback's type is tungstenite's; its error is as large as it is.
#[allow(clippy::result_large_err)]
fn answer(
    _request: &Request,
    mut response: Response,
) -> Result<Response, tungstenite::handshake::server::ErrorResponse> {
    response
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", tungstenite::http::HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

async fn session(stream: TcpStream, acceptor: TlsAcceptor, plane: Rc<Plane>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let tls = acceptor.accept(stream).await?;
    let mut socket = tokio_tungstenite::accept_hdr_async(tls, answer).await?;
    let start = Instant::now();
    let mut end = ControlEnd::new(*random::<32>()?, start.elapsed())?;
    let (sender, mut outgoing) = mpsc::channel::<ToNode>(65_536);
    let mut node = None;
    loop {
        while let Some(output) = end.poll_output() {
            match output {
                ControlOutput::Send(bytes) => socket.send(Message::Binary(bytes.into())).await?,
                ControlOutput::Introduced(hello) => {
                    let (who, welcome) = plane.introduced(*hello, sender.clone());
                    node = Some(who);
                    end.send(&ToNode::Welcome(Box::new(welcome)))?;
                }
                ControlOutput::Message(message) => {
                    if let Some(who) = &node {
                        plane.message(who, message).await;
                    }
                }
            }
        }
        let deadline = start + end.poll_timeout();
        tokio::select! {
            frame = socket.next() => match frame {
                Some(Ok(Message::Binary(bytes))) => end.handle_frame(&bytes, start.elapsed())?,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
                None => return Ok(()),
            },
            message = outgoing.recv() => match message {
                Some(message) => end.send(&message)?,
                None => return Ok(()),
            },
            () = tokio::time::sleep_until(deadline) => end.handle_timeout(start.elapsed())?,
        }
    }
}

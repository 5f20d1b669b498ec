//! Opening the WebSocket to control: TCP, TLS, upgrade, each within one deadline.

use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use protocol_control::{MAX_TO_NODE, SUBPROTOCOL};
use protocol_identity::Token;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use tracing::Instrument as _;

/// Where node sessions are opened.
const SESSION_PATH: &str = "/session";
/// TCP, TLS and the upgrade together take no longer.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A polite end, but not at the price of waiting for a dead peer.
const CLOSE_WITHIN: Duration = Duration::from_millis(500);
/// How much may wait in the WebSocket's buffer before a session that does not get rid of it ends, bytes.
const MAX_UNSENT: usize = 1 << 20;

/// The WebSocket to control.
pub type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Where control is: `https://HOST[:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlUrl {
    host: String,
    port: u16,
}

/// The text is not the address of control.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not the address of control: expected https://HOST or https://HOST:PORT")]
pub struct NotAControlUrl;

impl FromStr for ControlUrl {
    type Err = NotAControlUrl;

    fn from_str(text: &str) -> Result<Self, NotAControlUrl> {
        let rest = text.trim().strip_prefix("https://").ok_or(NotAControlUrl)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.is_empty() || authority.contains(['/', '?', '#', '@', ' ']) {
            return Err(NotAControlUrl);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().map_err(|_| NotAControlUrl)?)
            }
            Some(_) => return Err(NotAControlUrl),
            None => (authority, 443),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(NotAControlUrl);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl ControlUrl {
    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl std::fmt::Display for ControlUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "https://{}", self.authority())
    }
}

/// Why a connection to control did not come up.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("the host of control cannot be looked up")]
    Lookup(#[source] io::Error),
    /// Nothing answers.
    #[error("control cannot be reached")]
    Unreachable(#[source] io::Error),
    /// Control shows another certificate than the one trusted, or TLS fails otherwise.
    #[error("control's certificate is not the one that is trusted, or TLS failed")]
    Tls(#[source] io::Error),
    /// The token is not accepted.
    #[error("control does not accept this token")]
    BadToken,
    /// Something answers, but not like control.
    #[error("what answers there is not Postern's control")]
    NotControl(#[source] Box<tungstenite::Error>),
    /// It took too long.
    #[error("control did not answer within {} s", CONNECT_WITHIN.as_secs())]
    TimedOut,
}

/// Everything that a connection needs.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Where control is.
    pub url: ControlUrl,
    /// Whom to take for control.
    pub tls: Arc<ClientConfig>,
    /// `SO_MARK` that keeps this connection out of the tunnel.
    pub mark: Option<u32>,
}

impl Endpoint {
    /// Opens the WebSocket, authenticated by `token`.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn connect(&self, token: &Token) -> Result<Socket, ConnectError> {
        self.open(token).await.map(|(socket, _)| socket)
    }

    /// Opens the WebSocket and closes it again: for `check`. What control says its time is comes back (RFC 9110, section
    /// 6.6.1), if it says it.
    ///
    /// # Errors
    /// See [`ConnectError`].
    pub async fn try_out(&self, token: &Token) -> Result<Option<String>, ConnectError> {
        let (mut socket, answer) = self.open(token).await?;
        // What control makes of the end does not matter.
        let _ = tokio::time::timeout(CLOSE_WITHIN, socket.close(None)).await;
        let date = answer.headers().get("date").and_then(|date| date.to_str().ok());
        Ok(date.map(str::to_owned))
    }

    async fn open(&self, token: &Token) -> Result<(Socket, Response), ConnectError> {
        let connecting = tracing::info_span!("connect to control", control = %self.url.authority());
        tokio::time::timeout(CONNECT_WITHIN, self.open_unbounded(token).instrument(connecting))
            .await
            .unwrap_or(Err(ConnectError::TimedOut))
    }

    async fn open_unbounded(&self, token: &Token) -> Result<(Socket, Response), ConnectError> {
        let name = ServerName::try_from(self.url.host.clone())
            .map_err(|error| ConnectError::Lookup(io::Error::other(error)))?;
        let tcp = self.tcp().await?;
        let tls = TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(ConnectError::Tls)?;
        let mut request = format!("wss://{}{SESSION_PATH}", self.url.authority())
            .into_client_request()
            .map_err(|error| ConnectError::NotControl(Box::new(error)))?;
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", HeaderValue::from_static(SUBPROTOCOL));
        let bearer = format!("Bearer {}", token.reveal().as_str());
        let mut bearer = HeaderValue::from_str(&bearer).map_err(|_| ConnectError::BadToken)?;
        bearer.set_sensitive(true);
        headers.insert("Authorization", bearer);
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_TO_NODE))
            .max_frame_size(Some(MAX_TO_NODE))
            .max_write_buffer_size(MAX_UNSENT);
        match client_async_with_config(request, tls, Some(config)).await {
            Ok(opened) => Ok(opened),
            Err(tungstenite::Error::Http(answer))
                if matches!(answer.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) =>
            {
                Err(ConnectError::BadToken)
            }
            Err(error) => Err(ConnectError::NotControl(Box::new(error))),
        }
    }

    async fn tcp(&self) -> Result<TcpStream, ConnectError> {
        let addresses =
            lookup_host((self.url.host.as_str(), self.url.port)).await.map_err(ConnectError::Lookup)?;
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for address in addresses {
            match tcp_to(address, self.mark).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = error,
            }
        }
        Err(ConnectError::Unreachable(last))
    }
}

/// A TCP connection that small messages leave at once, and whose dead end is noticed.
pub(crate) async fn tcp_to(address: SocketAddr, mark: Option<u32>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(mark) = mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(10));
    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_control_read_with_and_without_port() {
        for (text, host, port) in [
            ("https://control.example", "control.example", 443),
            ("https://control.example:8443/", "control.example", 8443),
            ("https://203.0.113.10:8443", "203.0.113.10", 8443),
            ("https://[2001:db8::1]:8443", "2001:db8::1", 8443),
        ] {
            let url: ControlUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn anything_but_a_plain_https_address_is_refused() {
        for text in
            ["", "http://a", "https://", "https://a/b", "https://u@a", "https://2001:db8::1", "https://a:x"]
        {
            assert_eq!(text.parse::<ControlUrl>(), Err(NotAControlUrl), "{text}");
        }
    }
}

//! Control, as seen by one node, with a flood on top: a proxy that ends TLS with control's own certificate, passes both
//! directions on, and on demand adds messages of its own to those that control sends.
//!
//! The added messages are what control itself says when a device's candidates change, with the candidates that the
//! device really has: they change nothing, and walk the whole way from the session to the peer's actor.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;
use rustls::{
    ClientConfig, ClientConnection, Connection, DigitallySignedStruct, ServerConfig, ServerConnection,
    SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};
use serde_cbor::Value;

use crate::websocket::{Frame, Frames};

/// More than this waiting towards the node, and the flood holds back: the node reads slower than it is told.
const WAITING: usize = 256 * 1024;

#[derive(Args)]
pub struct Proxy {
    /// Where the node connects.
    #[arg(long)]
    listen: SocketAddr,
    /// Where control is.
    #[arg(long)]
    upstream: SocketAddr,
    /// Control's certificate, PEM.
    #[arg(long)]
    cert: PathBuf,
    /// Its key, PEM.
    #[arg(long)]
    key: PathBuf,
    /// When this file appears with "MESSAGES_A_SECOND SECONDS" in it, the flood begins, and the file goes.
    #[arg(long)]
    order: PathBuf,
}

impl Proxy {
    pub fn run(&self) -> Result<()> {
        let provider = Arc::new(ring::default_provider());
        let certificates = CertificateDer::pem_file_iter(&self.cert)?.collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(&self.key)?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certificates, key)?;
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        let (server, client) = (Arc::new(server), Arc::new(client));
        let listener = TcpListener::bind(self.listen)?;
        println!("{}", serde_json::json!({ "event": "ready" }));
        std::thread::scope(|scope| {
            loop {
                let (node, _) = listener.accept()?;
                let (server, client) = (Arc::clone(&server), Arc::clone(&client));
                scope.spawn(move || {
                    if let Err(error) = self.carry(node, server, client) {
                        eprintln!("connection ended: {error:#}");
                    }
                });
            }
        })
    }

    fn carry(&self, node: TcpStream, server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Result<()> {
        let control = TcpStream::connect(self.upstream)?;
        let name = ServerName::IpAddress(self.upstream.ip().into());
        let mut node = Tls::new(node, Connection::Server(ServerConnection::new(server)?))?;
        let mut control = Tls::new(control, Connection::Client(ClientConnection::new(client, name)?))?;
        let mut session = Session::default();
        loop {
            let mut moved = false;
            let from_node = node.read()?;
            moved |= !from_node.is_empty();
            control.write(&from_node)?;
            let from_control = control.read()?;
            moved |= !from_control.is_empty();
            node.write(&session.pass(&from_control)?)?;
            if node.waiting() < WAITING {
                let added = session.flood(&self.order)?;
                moved |= !added.is_empty();
                node.write(&added)?;
            }
            moved |= node.flush()? | control.flush()?;
            if node.ended || control.ended {
                return Ok(());
            }
            if !moved {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// One end of the proxy: a TLS connection over a socket that never blocks.
struct Tls {
    socket: TcpStream,
    tls: Connection,
    plain: VecDeque<u8>,
    ended: bool,
}

impl Tls {
    fn new(socket: TcpStream, mut tls: Connection) -> Result<Self> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        tls.set_buffer_limit(None);
        Ok(Self { socket, tls, plain: VecDeque::new(), ended: false })
    }

    fn read(&mut self) -> Result<Vec<u8>> {
        match self.tls.read_tls(&mut self.socket) {
            Ok(0) => self.ended = true,
            Ok(_) => {
                self.tls.process_new_packets()?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error.into()),
        }
        let mut plain = Vec::new();
        match self.tls.reader().read_to_end(&mut plain) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => self.ended = true,
            Err(error) => return Err(error.into()),
        }
        Ok(plain)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.plain.extend(bytes);
        if !self.tls.is_handshaking() && !self.plain.is_empty() {
            self.tls.writer().write_all(self.plain.make_contiguous())?;
            self.plain.clear();
        }
        Ok(())
    }

    /// Writes what the socket takes; whether it took anything.
    fn flush(&mut self) -> Result<bool> {
        self.write(&[])?;
        let mut moved = false;
        while self.tls.wants_write() {
            match self.tls.write_tls(&mut self.socket) {
                Ok(_) => moved = true,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(moved)
    }

    /// Bytes that the socket has not taken, as far as that is known: a full socket leaves TLS wanting to write.
    fn waiting(&self) -> usize {
        if self.tls.wants_write() { WAITING } else { self.plain.len() }
    }
}

/// What is known of the session between control and the node.
#[derive(Default)]
struct Session {
    frames: Frames,
    /// The sequence number of the last message to the node: control's own are renumbered behind the added ones.
    sequence: u64,
    /// What control says when the candidates of the device change, as a frame whose number has to be filled in.
    candidates: Option<Template>,
    flood: Option<Flood>,
}

/// A whole WebSocket frame around its sequence number, so that a flood costs the machine little.
struct Template {
    head: Vec<u8>,
    tail: Vec<u8>,
}

impl Template {
    fn of(body: Value) -> Result<Self> {
        // CBOR writes a number this large in nine bytes (RFC 8949, section 3.1), and reads smaller ones in nine as well.
        let marker = u64::MAX - 1;
        let message = [
            (Value::Text("version".to_owned()), Value::Integer(1)),
            (Value::Text("sequence".to_owned()), Value::Integer(marker.into())),
            (Value::Text("body".to_owned()), body),
        ];
        let frame =
            crate::websocket::binary(&serde_cbor::to_vec(&Value::Map(message.into_iter().collect()))?);
        let at = frame.windows(8).position(|eight| eight == marker.to_be_bytes()).context("no number")?;
        Ok(Self { head: frame[..at].to_vec(), tail: frame[at + 8..].to_vec() })
    }
}

struct Flood {
    started: Instant,
    rate: u64,
    total: u64,
    sent: u64,
}

impl Session {
    /// Passes on what control sent, renumbered.
    fn pass(&mut self, bytes: &[u8]) -> Result<Vec<u8>> {
        let mut out = Vec::new();
        for piece in self.frames.take(bytes)? {
            match piece {
                Frame::Other(raw) => out.extend(raw),
                Frame::Binary(payload) => {
                    let mut message: Value = serde_cbor::from_slice(&payload)?;
                    if let Some(found) = candidates_of(&message) {
                        if self.candidates.is_none() {
                            println!("{}", serde_json::json!({ "event": "device known" }));
                        }
                        self.candidates = Some(Template::of(found)?);
                    }
                    self.sequence += 1;
                    *field_mut(&mut message, "sequence")? = Value::Integer(self.sequence.into());
                    out.extend(crate::websocket::binary(&serde_cbor::to_vec(&message)?));
                }
            }
        }
        Ok(out)
    }

    /// What the flood has to add by now.
    fn flood(&mut self, order: &Path) -> Result<Vec<u8>> {
        let Some(template) = &self.candidates else { return Ok(Vec::new()) };
        if self.flood.is_none() {
            let Ok(text) = std::fs::read_to_string(order) else { return Ok(Vec::new()) };
            let mut numbers = text.split_whitespace().map(str::parse::<u64>);
            let (Some(Ok(rate)), Some(Ok(seconds))) = (numbers.next(), numbers.next()) else {
                return Ok(Vec::new());
            };
            std::fs::remove_file(order)?;
            self.flood = Some(Flood { started: Instant::now(), rate, total: rate * seconds, sent: 0 });
        }
        let Some(flood) = &mut self.flood else { return Ok(Vec::new()) };
        let elapsed = u64::try_from(flood.started.elapsed().as_micros())?;
        let due = (elapsed * flood.rate / 1_000_000).min(flood.total);
        let mut out = Vec::new();
        while flood.sent < due {
            self.sequence += 1;
            flood.sent += 1;
            out.extend_from_slice(&template.head);
            out.extend_from_slice(&self.sequence.to_be_bytes());
            out.extend_from_slice(&template.tail);
            if out.len() > WAITING {
                break;
            }
        }
        if flood.sent == flood.total {
            let seconds = flood.started.elapsed().as_secs_f64();
            println!("{}", serde_json::json!({ "event": "flooded", "sent": flood.sent, "seconds": seconds }));
            self.flood = None;
        }
        Ok(out)
    }
}

/// From an `authorize`: the message that tells the gateway the device's candidates again.
fn candidates_of(message: &Value) -> Option<Value> {
    let offer = field(field(field(message, "body")?, "authorize")?, "offer")?;
    let map = |pairs: Vec<(&str, Value)>| {
        Value::Map(pairs.into_iter().map(|(name, value)| (Value::Text(name.to_owned()), value)).collect())
    };
    let of = map(vec![("device", field(offer, "device")?.clone())]);
    let said = map(vec![("of", of), ("candidates", field(offer, "candidates")?.clone())]);
    Some(map(vec![("candidates", said)]))
}

fn field<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    match of {
        Value::Map(map) => map.get(&Value::Text(name.to_owned())),
        _ => None,
    }
}

fn field_mut<'a>(of: &'a mut Value, name: &str) -> Result<&'a mut Value> {
    match of {
        Value::Map(map) => map.get_mut(&Value::Text(name.to_owned())).with_context(|| format!("no {name}")),
        _ => bail!("a message that is no map"),
    }
}

/// The proxy stands beside control on the same host: there is nobody in between to be somebody else.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let there = !end_entity.is_empty();
        if there { Ok(ServerCertVerified::assertion()) } else { Err(rustls::Error::NoCertificatesPresented) }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> Value {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_control_says_is_renumbered_behind_what_was_added() {
        let mut session = Session { sequence: 40, ..Session::default() };
        let answer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n";
        let said = serde_cbor::to_vec(&message(r#"{"version":1,"sequence":3,"body":{"ping":7}}"#)).unwrap();

        assert_eq!(session.pass(answer).unwrap(), answer);
        let passed = session.pass(&crate::websocket::binary(&said)).unwrap();

        let value: Value = serde_cbor::from_slice(&passed[2..]).unwrap();
        assert_eq!(value, message(r#"{"version":1,"sequence":41,"body":{"ping":7}}"#));
    }

    #[test]
    fn the_added_message_is_what_control_says_of_candidates() {
        let authorize = r#"{"body":{"authorize":{"offer":{"device":"d","candidates":["c"]}}}}"#;

        let said = candidates_of(&message(authorize)).unwrap();

        assert_eq!(said, message(r#"{"candidates":{"of":{"device":"d"},"candidates":["c"]}}"#));
    }
}

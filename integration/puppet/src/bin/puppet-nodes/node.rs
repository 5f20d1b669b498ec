//! One device: its socket, its machine, and what it noticed.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use protocol_control::{
    FromNode, Introduction, NodeOutput, NodeSession, Offer, RequestAccess, RoleHello, SUBPROTOCOL, ToNode,
    Welcome,
};
use protocol_identity::{DeviceId, IdentityKey, KemKey, ResourceId, WireguardKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

/// How often a steady node asks while it probes.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// A node that could not connect tries again after this long.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// What all nodes share.
pub struct Shared {
    pub address: SocketAddr,
    pub token: String,
    pub tls: Arc<rustls::ClientConfig>,
    pub tally: RefCell<Tally>,
}

/// What the nodes noticed.
#[derive(Default)]
pub struct Tally {
    pub probing: bool,
    answers: Vec<f64>,
    /// When changes arrived, in milliseconds since 1970.
    pub changes: Vec<f64>,
    /// Connections that did not come up or broke.
    pub failures: u64,
}

impl Tally {
    pub fn probe(&mut self, on: bool) {
        self.probing = on;
        if on {
            self.answers.clear();
        }
    }

    /// How long answers took, in milliseconds, sorted.
    pub fn answers(&self) -> Vec<f64> {
        let mut answers = self.answers.clone();
        answers.sort_by(f64::total_cmp);
        answers
    }
}

/// Trusts control's own certificate and nothing else.
pub fn tls(certificate: &Path) -> anyhow::Result<rustls::ClientConfig> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(certificate).context("reading the certificate")? {
        roots.add(certificate?)?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// A device.
pub struct Node {
    /// Stays connected when the rest is cut.
    pub steady: bool,
    life: Rc<Life>,
    task: Option<JoinHandle<()>>,
}

struct Life {
    number: usize,
    steady: bool,
    identity: IdentityKey,
    up: Cell<bool>,
    shared: Rc<Shared>,
}

impl Node {
    pub fn new(number: usize, steady: bool, shared: &Rc<Shared>) -> anyhow::Result<Self> {
        let identity = IdentityKey::generate()?;
        let life = Life { number, steady, identity, up: Cell::new(false), shared: Rc::clone(shared) };
        Ok(Self { steady, life: Rc::new(life), task: None })
    }

    pub fn is_up(&self) -> bool {
        self.life.up.get()
    }

    /// Connects, and stays so until it is cut. `false`: it is at it already.
    pub fn start(&mut self) -> bool {
        if self.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return false;
        }
        let life = Rc::clone(&self.life);
        self.task = Some(tokio::task::spawn_local(async move {
            loop {
                if let Err(error) = life.connect().await {
                    let mut tally = life.shared.tally.borrow_mut();
                    tally.failures += 1;
                    if tally.failures <= 5 {
                        eprintln!("node {}: {error:#}", life.number);
                    }
                }
                life.up.set(false);
                sleep(TRY_AGAIN).await;
            }
        }));
        true
    }

    /// Ends without a word.
    pub fn cut(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        self.life.up.set(false);
    }
}

fn epoch_millis() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1000.0
}

impl Life {
    async fn connect(&self) -> anyhow::Result<()> {
        let shared = &self.shared;
        let stream = TcpStream::connect(shared.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(shared.address.ip());
        let stream = TlsConnector::from(Arc::clone(&shared.tls)).connect(name, stream).await?;
        let mut request = format!("wss://{}/session", shared.address).into_client_request()?;
        let headers = request.headers_mut();
        headers.insert("Authorization", format!("Bearer {}", shared.token).parse()?);
        headers.insert("Sec-WebSocket-Protocol", SUBPROTOCOL.parse()?);
        let (mut socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        let role = RoleHello::Client { os: "linux".into(), os_version: "6.1".into() };
        let introduction =
            Introduction { name: format!("node-{:05}", self.number), program: "0.1.0".into(), role };
        let (start, mut session) = (Instant::now(), NodeSession::new(introduction, Duration::ZERO));
        let (mut device, mut asked, mut next_probe) = (None, None::<Instant>, Instant::now());
        loop {
            while let Some(output) = session.poll_output() {
                match output {
                    NodeOutput::Send(bytes) => socket.send(Message::binary(bytes)).await?,
                    NodeOutput::Welcomed(welcome) => {
                        if let Welcome::Client(state) = *welcome {
                            device = Some(state.device);
                        }
                        self.up.set(true);
                    }
                    NodeOutput::Message(ToNode::Denied { .. }) => {
                        if let Some(asked) = asked.take() {
                            let took = asked.elapsed().as_secs_f64() * 1000.0;
                            shared.tally.borrow_mut().answers.push(took);
                        }
                    }
                    NodeOutput::Message(ToNode::ResourceChanged(_) | ToNode::ResourceGone(_)) => {
                        shared.tally.borrow_mut().changes.push(epoch_millis());
                    }
                    NodeOutput::Message(_) => {}
                }
            }
            let due = start + session.poll_timeout();
            let probe = if self.steady { next_probe } else { due };
            tokio::select! {
                message = socket.next() => match message {
                    Some(Ok(Message::Binary(bytes))) => session.handle_frame(&bytes, &self.identity, start.elapsed())?,
                    Some(Ok(Message::Close(why))) => bail!("closed: {why:?}"),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(error.into()),
                    None => bail!("the socket has ended"),
                },
                () = sleep_until(due.min(probe)) => {
                    let now = Instant::now();
                    if now >= due {
                        session.handle_timeout(start.elapsed())?;
                    }
                    if self.steady && now >= next_probe {
                        next_probe = now + PROBE_EVERY;
                        if let Some(device) = device
                            && shared.tally.borrow().probing
                            && asked.is_none()
                        {
                            session.send(FromNode::RequestAccess(self.question(device)?))?;
                            asked = Some(Instant::now());
                        }
                    }
                }
            }
        }
    }

    /// Asks for a resource that does not exist: control looks, and says so.
    fn question(&self, device: DeviceId) -> anyhow::Result<RequestAccess> {
        let (wireguard, kem) = (WireguardKey::generate()?, KemKey::generate()?);
        let offer = Offer::sign(
            &self.identity,
            device,
            ResourceId::fresh(),
            wireguard.public(),
            kem.public(),
            256,
            Vec::new(),
        );
        Ok(RequestAccess { request: 1, offer, name: None })
    }
}

//! Against a server on loopback with a certificate of its own.

use std::sync::Mutex;

use actors_runtime::{Full, Intensity, LaneKind, Restart, Row, Universe, handover};
use protocol_control::RelayTls;
use protocol_identity::CertificatePin;
use protocol_stun::channel_header;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;

const ROW: Row<()> = Row {
    kind: "RelayStreams",
    parent: "-",
    each: "process",
    lane: LaneKind::Control,
    mailbox: 16,
    full: Full::Refuse,
    ring: 0,
    restart: Restart::Always,
    intensity: Intensity { restarts: 5, within: Duration::from_secs(60) },
    start: None,
};

struct Server {
    acceptor: TlsAcceptor,
    pin: CertificatePin,
}

impl Server {
    fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let pin = CertificatePin::of(made.cert.der());
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        Self { acceptor: TlsAcceptor::from(Arc::new(config)), pin }
    }
}

/// A connection as its link wants it, and the link's ends.
struct Link {
    wanted: StreamWanted,
    outward: HandoverSender<Vec<u8>>,
    inward: HandoverReceiver<FromStream>,
}

impl Link {
    fn to(address: SocketAddr, pin: CertificatePin) -> Self {
        let ((outward, to_write), (heard, inward)) = (handover(8), handover(8));
        let relay = RelayTls { addresses: vec![address], pin };
        let wanted = StreamWanted { id: StreamId::fresh(), relay, outward: to_write, inward: heard };
        Self { wanted, outward, inward }
    }

    /// The next thing that the link hears, within ten seconds.
    async fn heard(&mut self) -> FromStream {
        tokio::time::timeout(Duration::from_secs(10), self.inward.next()).await.unwrap().unwrap()
    }
}

fn streams(universe: &Universe) -> actors_runtime::Address<RelayStreams> {
    let kept = KeptStreams::default();
    universe.start::<RelayStreams>("", move || RelayStreams::new(None, kept.clone())).unwrap().address
}

/// Two messages, of which the first is padded.
fn messages() -> Vec<u8> {
    let mut bytes = channel_header(0x4001, 5).to_vec();
    bytes.extend_from_slice(b"12345\0\0\0");
    bytes.extend_from_slice(&channel_header(0x4001, 4));
    bytes.extend_from_slice(b"6789");
    bytes
}

#[test]
fn messages_go_both_ways_whole_however_the_stream_is_cut() {
    let universe = Universe::new(&[ROW]);
    let server = Server::new();
    let streams = streams(&universe);
    universe.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut link = Link::to(listener.local_addr().unwrap(), server.pin);
        assert!(streams.tell(StreamCommand::Open(Box::new(link.wanted.clone()))).is_ok());
        let (tcp, _) = listener.accept().await.unwrap();
        let mut served = server.acceptor.accept(tcp).await.unwrap();
        assert!(matches!(link.heard().await, FromStream::Opened));

        link.outward.push(b"out".to_vec()).unwrap();
        let mut read = [0; 3];
        served.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"out");
        let (first, rest) = (&messages()[..7], &messages()[7..]);
        served.write_all(first).await.unwrap();
        served.flush().await.unwrap();
        served.write_all(rest).await.unwrap();
        served.flush().await.unwrap();

        let mut got = Vec::new();
        while got.len() < messages().len() {
            let FromStream::Messages(bytes) = link.heard().await else { panic!("no messages") };
            assert!(matches!(frame(&bytes), Frame::Whole(_)));
            got.extend(bytes);
        }
        assert_eq!(got, messages());
    });
}

#[test]
fn a_connection_that_ends_is_opened_again_until_it_is_not_wanted() {
    let universe = Universe::new(&[ROW]);
    let server = Server::new();
    let streams = streams(&universe);
    let address = universe.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut link = Link::to(listener.local_addr().unwrap(), server.pin);
        assert!(streams.tell(StreamCommand::Open(Box::new(link.wanted.clone()))).is_ok());
        let (tcp, _) = listener.accept().await.unwrap();
        let served = server.acceptor.accept(tcp).await.unwrap();
        assert!(matches!(link.heard().await, FromStream::Opened));

        drop(served);

        assert!(matches!(link.heard().await, FromStream::Closed));
        (listener, link)
    });
    let (listener, mut link) = address;
    universe.advance(FIRST_PAUSE);
    universe.block_on(async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut served = server.acceptor.accept(tcp).await.unwrap();
        assert!(matches!(link.heard().await, FromStream::Opened));

        assert!(streams.tell(StreamCommand::Close(link.wanted.id)).is_ok());

        let mut nothing = Vec::new();
        let _ = served.read_to_end(&mut nothing).await;
        assert!(nothing.is_empty());
    });
}

#[test]
fn a_relay_with_another_certificate_gets_nothing() {
    let universe = Universe::new(&[ROW]);
    let server = Server::new();
    let streams = streams(&universe);
    let seen = Mutex::new(None);
    universe.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = CertificatePin::of(b"another certificate");
        let mut link = Link::to(listener.local_addr().unwrap(), other);
        link.outward.push(b"secret".to_vec()).unwrap();
        assert!(streams.tell(StreamCommand::Open(Box::new(link.wanted.clone()))).is_ok());
        let (tcp, _) = listener.accept().await.unwrap();

        *seen.lock().unwrap() = Some(server.acceptor.accept(tcp).await.is_ok());

        assert!(matches!(link.heard().await, FromStream::Closed));
    });
    assert_eq!(*seen.lock().unwrap(), Some(false));
}

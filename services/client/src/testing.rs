//! A stand-in for control: HTTPS with a certificate of its own, and canned answers.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use protocol_identity::CertificatePin;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

/// The stand-in. It answers as long as the test's event loop runs.
pub struct FakeControl {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its certificate's pin is.
    pub pin: CertificatePin,
    requests: Arc<Mutex<Vec<String>>>,
}

impl FakeControl {
    /// Starts it: each connection gets the next answer, a status line's tail and a body.
    pub async fn answering(answers: Vec<(&'static str, String)>) -> Self {
        let made = rcgen::generate_simple_self_signed(["control".to_owned()]).unwrap();
        let certificate = made.cert.der().clone();
        let pin = CertificatePin::of(&certificate);
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            for (status, body) in answers {
                let (tcp, _) = listener.accept().await.unwrap();
                // A client that does not trust the certificate ends here.
                let Ok(mut tls) = acceptor.accept(tcp).await else { continue };
                let mut request = vec![0u8; 64 * 1024];
                let length = tls.read(&mut request).await.unwrap_or(0);
                seen.lock().unwrap().push(String::from_utf8_lossy(&request[..length]).into_owned());
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                tls.write_all(answer.as_bytes()).await.unwrap();
                tls.shutdown().await.unwrap();
            }
        });
        Self { address, pin, requests }
    }

    /// What it was asked.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

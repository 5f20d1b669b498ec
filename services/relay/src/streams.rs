//! TCP and TLS: flags, where to listen, and the certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use services_chassis::{Failure, chain, secret_file};

/// RFC 8656 §19.7: TURN over TLS; and the port that every firewall lets through.
const TLS_PORTS: [u16; 2] = [5349, 443];

/// Flags about connections; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "TCP and TLS")]
pub struct StreamFlags {
    /// TCP address that clients connect to (repeatable); default the ones of --listen; off: none
    #[arg(long, env = "POSTERN_LISTEN_TCP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_tcp: Vec<String>,
    /// TLS address that clients connect to (repeatable); default, with a certificate, ports 5349 and 443 of the addresses of
    /// --listen
    #[arg(long, env = "POSTERN_LISTEN_TLS", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_tls: Vec<SocketAddr>,
    /// Certificate for TLS, with the chain behind it (PEM)
    #[arg(long, env = "POSTERN_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM), of mode 0600
    #[arg(long, env = "POSTERN_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
}

/// Where clients connect to.
#[derive(Debug, Clone, Default)]
pub struct Streams {
    /// Without TLS.
    pub tcp: Vec<SocketAddr>,
    /// With TLS.
    pub tls: Vec<SocketAddr>,
    /// Whether `tcp` are the default ones, which may be missing.
    pub tcp_by_default: bool,
    /// Whether `tls` are the default ones, which may be missing.
    pub tls_by_default: bool,
    /// Certificate and key.
    pub certificate: Option<(PathBuf, PathBuf)>,
}

impl StreamFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            listen_tcp: if self.listen_tcp.is_empty() { file.listen_tcp } else { self.listen_tcp },
            listen_tls: if self.listen_tls.is_empty() { file.listen_tls } else { self.listen_tls },
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
        }
    }

    /// Puts them together; `listen`: the addresses of UDP.
    ///
    /// # Errors
    /// When an address is crooked, or a certificate is missing.
    pub fn resolve(self, listen: &[SocketAddr]) -> Result<Streams, Failure> {
        let certificate = match (self.tls_cert, self.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--tls-cert and --tls-key belong together"));
            }
        };
        if certificate.is_none() && !self.listen_tls.is_empty() {
            return Err(Failure::usage("--listen-tls: there is no certificate")
                .fix("name its files with --tls-cert FILE and --tls-key FILE"));
        }
        let tcp_by_default = self.listen_tcp.is_empty();
        let tcp = match self.listen_tcp.as_slice() {
            [] => listen.to_vec(),
            [off] if off == "off" => Vec::new(),
            several => several.iter().map(|text| address(text)).collect::<Result<_, _>>()?,
        };
        let tls_by_default = self.listen_tls.is_empty();
        let tls = if tls_by_default && certificate.is_some() {
            let mut all: Vec<_> = TLS_PORTS
                .iter()
                .flat_map(|port| listen.iter().map(|listen| SocketAddr::new(listen.ip(), *port)))
                .collect();
            all.dedup();
            all
        } else {
            self.listen_tls
        };
        Ok(Streams { tcp, tls, tcp_by_default, tls_by_default, certificate })
    }
}

fn address(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!("--listen-tcp `{text}` is no address"))
            .fix("write 0.0.0.0:3478 or [::]:3478, or off")
    })
}

impl Streams {
    /// TLS as clients are served it.
    ///
    /// # Errors
    /// When certificate or key cannot be read, or do not belong together.
    pub fn server_config(&self) -> Result<Option<Arc<ServerConfig>>, Failure> {
        let Some((certificate, key)) = &self.certificate else { return Ok(None) };
        let unreadable = |path: &Path, why: &str| {
            Failure::failed(format!("cannot use {}: {why}", path.display()))
                .fix("give PEM files with --tls-cert and --tls-key, the server's certificate first")
        };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(certificate, &error.to_string()))?;
        let private =
            PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, &error.to_string()))?;
        if secret_file::is_exposed(key) {
            tracing::warn!(file = %key.display(), "others may read the private key: chmod 600");
        }
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| Failure::failed(format!("cannot set up TLS: {}", chain(&error))))?
                .with_no_client_auth()
                .with_single_cert(certificates, private)
                .map_err(|error| unreadable(certificate, &chain(&error)))?;
        // Connections live long and are few: tickets would be the only thing kept for strangers.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Some(Arc::new(config)))
    }
}

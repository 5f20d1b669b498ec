//! TCP and TLS: flags, where to listen, and the certificate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use protocol_identity::CertificatePin;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde::Deserialize;
use services_chassis::{Failure, chain, secret_file};

/// RFC 8656 §19.7: TURN over TLS; and the port that every firewall lets through.
const TLS_PORTS: [u16; 2] = [443, 5349];

/// Flags about connections; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "TCP and TLS")]
pub struct StreamFlags {
    /// TCP address that clients connect to (repeatable); default the ones of --listen; off: none
    #[arg(long, env = "POSTERN_LISTEN_TCP", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_tcp: Vec<String>,
    /// TLS address that clients connect to (repeatable); default, with a certificate, ports 443 and 5349 of the addresses of
    /// --listen; off: none
    #[arg(long, env = "POSTERN_LISTEN_TLS", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen_tls: Vec<String>,
    /// Certificate for TLS, with the chain behind it (PEM). A relay under control makes one of its own without: nodes hear
    /// from control how to recognise it
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
    pub certificate: Certificate,
}

/// Which certificate clients are shown.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Certificate {
    /// There is no TLS.
    #[default]
    None,
    /// One made by the relay, which nodes recognise because control tells them.
    Own,
    /// The operator's: certificate and key.
    Given(PathBuf, PathBuf),
}

/// TLS, ready to be spoken.
#[derive(Debug, Clone)]
pub struct Certified {
    /// As clients are served it.
    pub server: Arc<ServerConfig>,
    /// What nodes recognise it by.
    pub pin: CertificatePin,
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
    pub fn resolve(self, listen: &[SocketAddr], is_standalone: bool) -> Result<Streams, Failure> {
        let is_off = self.listen_tls == ["off"];
        let certificate = match (self.tls_cert, self.tls_key) {
            _ if is_off => Certificate::None,
            (Some(certificate), Some(key)) => Certificate::Given(certificate, key),
            (None, None) if is_standalone => Certificate::None,
            (None, None) => Certificate::Own,
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--tls-cert and --tls-key belong together"));
            }
        };
        if certificate == Certificate::None && !is_off && !self.listen_tls.is_empty() {
            return Err(Failure::usage("--listen-tls: there is no certificate")
                .fix("name its files with --tls-cert FILE and --tls-key FILE"));
        }
        let tcp_by_default = self.listen_tcp.is_empty();
        let tcp = match self.listen_tcp.as_slice() {
            [] => listen.to_vec(),
            [off] if off == "off" => Vec::new(),
            several => several.iter().map(|text| address("--listen-tcp", text)).collect::<Result<_, _>>()?,
        };
        let tls_by_default = self.listen_tls.is_empty();
        let tls = if certificate == Certificate::None {
            Vec::new()
        } else if tls_by_default {
            let mut all: Vec<_> = TLS_PORTS
                .iter()
                .flat_map(|port| listen.iter().map(|listen| SocketAddr::new(listen.ip(), *port)))
                .collect();
            all.dedup();
            all
        } else {
            self.listen_tls.iter().map(|text| address("--listen-tls", text)).collect::<Result<_, _>>()?
        };
        Ok(Streams { tcp, tls, tcp_by_default, tls_by_default, certificate })
    }
}

fn address(flag: &str, text: &str) -> Result<SocketAddr, Failure> {
    text.parse().map_err(|_| {
        Failure::usage(format!("{flag} `{text}` is no address"))
            .fix("write 0.0.0.0:3478 or [::]:3478, or off")
    })
}

impl Streams {
    /// TLS as clients are served it. A certificate of its own is made in `state_dir`, once.
    ///
    /// # Errors
    /// When certificate or key cannot be read or made, or do not belong together.
    pub fn certified(&self, state_dir: &Path) -> Result<Option<Certified>, Failure> {
        let (certificate, key) = match &self.certificate {
            Certificate::None => return Ok(None),
            Certificate::Own => own(state_dir)?,
            Certificate::Given(certificate, key) => (certificate.clone(), key.clone()),
        };
        let unreadable = |path: &Path, why: &str| {
            Failure::failed(format!("cannot use {}: {why}", path.display()))
                .fix("give PEM files with --tls-cert and --tls-key, the server's certificate first")
        };
        let certificates: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&certificate)
            .and_then(Iterator::collect)
            .map_err(|error| unreadable(&certificate, &error.to_string()))?;
        let Some(pin) = certificates.first().map(|leaf| CertificatePin::of(leaf)) else {
            return Err(unreadable(&certificate, "there is no certificate in it"));
        };
        let private =
            PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error.to_string()))?;
        if secret_file::is_exposed(&key) {
            tracing::warn!(file = %key.display(), "others may read the private key: chmod 600");
        }
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(|error| Failure::failed(format!("cannot set up TLS: {}", chain(&error))))?
                .with_no_client_auth()
                .with_single_cert(certificates, private)
                .map_err(|error| unreadable(&certificate, &chain(&error)))?;
        // Connections live long and are few: tickets would be the only thing kept for strangers.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        Ok(Some(Certified { server: Arc::new(config), pin }))
    }
}

/// The relay's own certificate and key, made when there are none.
fn own(state_dir: &Path) -> Result<(PathBuf, PathBuf), Failure> {
    let (certificate, key) = (state_dir.join("relay.crt"), state_dir.join("relay.key"));
    if certificate.exists() {
        return Ok((certificate, key));
    }
    let failed = |error: rcgen::Error| Failure::failed(format!("cannot make a certificate: {error}"));
    let written = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| {
            Failure::failed(format!("cannot write {path}: {error}"))
                .fix("name a directory that this user may write with --state-dir, or a certificate with --tls-cert")
        }
    };
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "Postern relay");
    // Nodes recognise it by its pin, so its end would only be a day on which everything stops.
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2125, 1, 1);
    let private = KeyPair::generate().map_err(failed)?;
    let made = params.self_signed(&private).map_err(failed)?;
    secret_file::make_private_dir(state_dir).map_err(written(state_dir))?;
    // The certificate comes last: when it is there, its key is.
    secret_file::replace(&key, &private.serialize_pem()).map_err(written(&key))?;
    std::fs::write(&certificate, made.pem()).map_err(written(&certificate))?;
    Ok((certificate, key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_of_its_own_is_made_once_and_its_key_is_kept_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        let streams = Streams { certificate: Certificate::Own, ..Streams::default() };

        let first = streams.certified(&state).unwrap().unwrap().pin;
        let again = streams.certified(&state).unwrap().unwrap().pin;

        assert_eq!(first, again);
        assert!(!secret_file::is_exposed(&state.join("relay.key")));
    }

    #[test]
    fn a_certificate_that_is_none_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty.pem");
        std::fs::write(&file, "").unwrap();
        let streams = Streams { certificate: Certificate::Given(file.clone(), file), ..Streams::default() };

        assert!(streams.certified(dir.path()).unwrap_err().to_string().contains("empty.pem"));
    }
}

//! The certificate that nodes see: the administrator's own, or a self-signed one that they pin.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol_identity::CertificatePin;
use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use services_chassis::{Failure, chain, secret_file};

use crate::config::Config;

/// The files of the self-signed certificate.
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    pin: PathBuf,
}

fn files(state_dir: &Path) -> Files {
    Files {
        certificate: state_dir.join("certificate.pem"),
        key: state_dir.join("certificate.key"),
        pin: state_dir.join("certificate.pin"),
    }
}

/// Makes the self-signed certificate when there is none, and writes its pin beside it.
///
/// # Errors
/// When the state directory cannot be written.
pub fn prepare(state_dir: &Path, host: &str, own: &[IpAddr]) -> Result<CertificatePin, Failure> {
    let files = files(state_dir);
    let written = |path: &Path| {
        let path = path.display().to_string();
        move |error: std::io::Error| Failure::failed(format!("cannot write {path}: {error}"))
    };
    if !files.certificate.exists() {
        let (certificate, key) = self_signed(host, own)?;
        // The certificate comes last: when it is there, its key is.
        secret_file::replace(&files.key, &key).map_err(written(&files.key))?;
        fs::write(&files.certificate, certificate).map_err(written(&files.certificate))?;
    }
    let pin = pin_of(&files.certificate)?;
    let text = format!("{pin}\n");
    if fs::read_to_string(&files.pin).ok().as_deref() != Some(&text) {
        fs::write(&files.pin, text).map_err(written(&files.pin))?;
    }
    Ok(pin)
}

fn self_signed(host: &str, own: &[IpAddr]) -> Result<(String, String), Failure> {
    let failed = |error: rcgen::Error| Failure::failed(format!("cannot make a certificate: {error}"));
    let mut names = vec![host.to_owned(), "localhost".to_owned()];
    names.extend(own.iter().map(ToString::to_string));
    names.extend(
        [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)].map(|ip| ip.to_string()),
    );
    names.sort();
    names.dedup();
    let mut params = CertificateParams::new(names).map_err(failed)?;
    params.distinguished_name.push(DnType::CommonName, "Postern control");
    // Nodes pin it, so its end would only be a day on which everything stops.
    params.not_before = rcgen::date_time_ymd(2025, 1, 1);
    params.not_after = rcgen::date_time_ymd(2125, 1, 1);
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

fn pin_of(certificate: &Path) -> Result<CertificatePin, Failure> {
    let chain = read_chain(certificate)?;
    let leaf = chain.first().ok_or_else(|| unreadable(certificate, "there is no certificate in it"))?;
    Ok(CertificatePin::of(leaf))
}

/// The pin of the certificate that this control plane shows.
///
/// # Errors
/// When there is none yet, or it cannot be read.
pub fn pin(config: &Config) -> Result<CertificatePin, Failure> {
    match &config.tls {
        Some((certificate, _)) => pin_of(certificate),
        None => {
            let path = files(&config.settings.state_dir).certificate;
            if path.exists() {
                return pin_of(&path);
            }
            Err(Failure::failed(format!(
                "there is no certificate in {}",
                config.settings.state_dir.display()
            ))
            .fix("run `postern-control init` first"))
        }
    }
}

fn unreadable(path: &Path, why: &str) -> Failure {
    Failure::failed(format!("cannot use {}: {why}", path.display()))
        .fix("give PEM files with --tls-cert and --tls-key, the server's certificate first")
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(path, &error.to_string()))
}

/// TLS as this control plane speaks it.
///
/// # Errors
/// When certificate or key cannot be read, or do not belong together.
pub fn server_config(config: &Config) -> Result<ServerConfig, Failure> {
    let (certificate, key) = match &config.tls {
        Some((certificate, key)) => (certificate.clone(), key.clone()),
        None => {
            let files = files(&config.settings.state_dir);
            (files.certificate, files.key)
        }
    };
    let chain_of_trust = read_chain(&certificate)?;
    let private = PrivateKeyDer::from_pem_file(&key).map_err(|error| unreadable(&key, &error.to_string()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Failure::failed(format!("cannot set up TLS: {}", chain(&error))))?
        .with_no_client_auth()
        .with_single_cert(chain_of_trust, private)
        .map_err(|error| unreadable(&certificate, &chain(&error)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_certificate_is_made_once_and_its_key_is_for_its_owner_only() {
        let dir = tempfile::tempdir().unwrap();

        let first = prepare(dir.path(), "control.example.com", &[]).unwrap();
        let second = prepare(dir.path(), "elsewhere.example.com", &[]).unwrap();

        assert_eq!(first, second);
        let mode = fs::metadata(dir.path().join("certificate.key")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_to_string(dir.path().join("certificate.pin")).unwrap(), format!("{first}\n"));
    }
}

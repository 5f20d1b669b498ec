//! Whom to take for control: a pinned certificate, a CA file, or the system's trust store.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol_identity::CertificatePin;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Why a trust setting cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The CA file cannot be read or holds no certificate.
    #[error("cannot read certificates from {}: {cause}", path.display())]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// Neither a pin nor a CA file is given, and the system trusts nobody.
    #[error(
        "this system has no trusted certificates: give --control-pin (`postern-control pin` prints it) or --ca-file"
    )]
    NoRoots,
    /// TLS cannot be set up.
    #[error("cannot set up TLS")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Whom to take for control. With neither, the system's trust store decides; with both, both must agree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trust {
    /// The certificate that control must show. Name and dates are then not looked at; the handshake's signature is.
    pub pin: Option<CertificatePin>,
    /// Certificate authorities, PEM; only these count then.
    pub ca_file: Option<PathBuf>,
}

impl Trust {
    /// A TLS configuration that trusts exactly this.
    ///
    /// # Errors
    /// See [`TrustError`].
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = match (&self.ca_file, self.pin) {
            (Some(path), _) => Some(read_roots(path)?),
            (None, Some(_)) => None,
            (None, None) => Some(system_roots()?),
        };
        let by_roots = roots
            .map(|roots| {
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                    .build()
                    .map_err(|error| TrustError::Tls(error.into()))
            })
            .transpose()?;
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| TrustError::Tls(error.into()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Verifier { pin: self.pin, by_roots, provider }))
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

fn read_roots(path: &Path) -> Result<RootCertStore, TrustError> {
    let unreadable = |cause: String| TrustError::CaFile { path: path.to_owned(), cause };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(error.to_string()))? {
        let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
        roots.add(certificate).map_err(|error| unreadable(error.to_string()))?;
    }
    if roots.is_empty() { Err(unreadable("there is no certificate in it".into())) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, TrustError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TrustError::NoRoots) } else { Ok(roots) }
}

#[derive(Debug)]
struct Verifier {
    pin: Option<CertificatePin>,
    by_roots: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if self.pin.is_some_and(|pin| pin != CertificatePin::of(end_entity)) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        match &self.by_roots {
            Some(roots) => {
                roots.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            }
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty.pem");
        std::fs::write(&path, "nothing").unwrap();

        let error = Trust { pin: None, ca_file: Some(path) }.client_config().unwrap_err();

        assert!(error.to_string().contains("empty.pem"), "{error}");
    }

    #[test]
    fn a_pin_alone_needs_no_trust_store() {
        let trust = Trust { pin: Some(CertificatePin::of(b"certificate")), ca_file: None };

        assert!(trust.client_config().is_ok());
    }
}

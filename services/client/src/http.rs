//! HTTPS to control: one way to set it up, one way to say what went wrong.

use std::error::Error;
use std::io;
use std::time::Duration;

use actors_access::Trust;
use protocol_identity::Token;
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};

use services_chassis::{Exit, Failure, chain};

/// A client that trusts exactly this, and sends the token (if any) with every request. Proxies of the environment are
/// not used: the sessions of nodes do not use them either.
pub fn client(trust: &Trust, token: Option<&Token>, timeout: Duration) -> Result<reqwest::Client, Failure> {
    let tls = trust.client_config().map_err(|error| Failure::usage(chain(&error)))?;
    let headers = token.map(bearer).transpose()?.unwrap_or_default();
    reqwest::Client::builder()
        .tls_backend_preconfigured((*tls).clone())
        .default_headers(headers)
        .user_agent(concat!("postern/", env!("CARGO_PKG_VERSION")))
        .timeout(timeout)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .map_err(|error| Failure::failed(format!("cannot prepare the connection: {}", chain(&error))))
}

fn bearer(token: &Token) -> Result<HeaderMap, Failure> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", *token.reveal()))
        .map_err(|_| Failure::failed("the token does not fit into a header"))?;
    value.set_sensitive(true);
    Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
}

/// Why there is no answer from this address.
pub fn unreachable(address: &str, error: &reqwest::Error) -> Failure {
    if let Some(error) = tls_error(error) {
        return distrusted(address, error);
    }
    let cause = if error.is_timeout() { "no answer in time".into() } else { last_cause(error) };
    Failure::new(Exit::Unreachable, format!("control at {address} cannot be reached: {cause}"))
        .fix("is `postern-control serve` running there, and is its port open to this host?")
}

fn last_cause(error: &dyn Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The TLS error inside, when that is what failed.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// Somebody answers, but it is not shown to be control. Not "unreachable": trying again would not help.
fn distrusted(address: &str, error: &rustls::Error) -> Failure {
    match error {
        rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure) => {
            Failure::failed(format!("{address} shows another certificate than the pinned one"))
                .fix("compare the pin with what `postern-control pin` prints on control's host; if control was set up anew, pass the new --control-pin; otherwise somebody is in between")
        }
        rustls::Error::InvalidCertificate(cause) => {
            Failure::failed(format!("the certificate of {address} is not trusted: {cause}"))
                .fix("pass --control-pin sha256:… (`postern-control pin` prints it) or --ca-file FILE")
        }
        other => Failure::failed(format!("no secure connection to {address}: {other}"))
            .fix("is this the HTTPS port of postern-control?"),
    }
}

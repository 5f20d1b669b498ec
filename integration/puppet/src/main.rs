//! A control plane on strings: it speaks the sessions of `protocol/control` and does what a test tells it, right or
//! wrong. Scenarios use it for what the real one never does: flooding a gateway with messages, or swapping keys.
//!
//! It grants whatever is asked for, to everybody. Commands come on standard input, one a line; what happens goes to
//! standard output as JSON lines:
//!
//! - `flood RATE SECONDS` sends authorizations to the gateway, RATE a second;
//! - `swap-keys on|off` replaces the gateway's WireGuard key in answers;
//! - `revoke` ends every grant.

mod plane;
mod server;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use protocol_control::{ResourceAddress, ResourceView};
use protocol_identity::{CertificatePin, ResourceId};

use crate::plane::Plane;

/// A control plane on strings, for tests.
#[derive(Parser)]
struct Flags {
    /// Where to listen
    #[arg(long)]
    listen: SocketAddr,
    /// Where certificate.pem, certificate.pin and tokens are written
    #[arg(long)]
    dir: PathBuf,
    /// A resource, NAME=CIDR or NAME=dns:NAME; repeatable
    #[arg(long = "resource")]
    resources: Vec<String>,
    /// A relay that is not under control, offered as it is
    #[arg(long)]
    relay: Option<SocketAddr>,
    /// Its credentials, NAME:PASSWORD
    #[arg(long, requires = "relay")]
    relay_user: Option<String>,
    /// Replaces the gateway's WireGuard key in every answer
    #[arg(long)]
    swap_keys: bool,
    /// Seconds that a grant is good for
    #[arg(long, default_value_t = 3600)]
    grant_seconds: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let resources = flags.resources.iter().map(|text| resource(text)).collect::<anyhow::Result<Vec<_>>>()?;
    std::fs::create_dir_all(&flags.dir)?;
    let host = flags.listen.ip().to_string();
    let certified = rcgen::generate_simple_self_signed(vec![host]).context("making a certificate")?;
    let der = certified.cert.der().clone();
    std::fs::write(flags.dir.join("certificate.pem"), certified.cert.pem())?;
    std::fs::write(flags.dir.join("certificate.pin"), CertificatePin::of(&der).to_string())?;
    server::write_tokens(&flags.dir)?;
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .map_err(anyhow::Error::msg)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der], key)?;

    let plane = Plane::new(resources, std::time::Duration::from_secs(flags.grant_seconds));
    plane.swap_keys(flags.swap_keys);
    if let Some(address) = flags.relay {
        plane.offer_relay(address, flags.relay_user.as_deref());
    }
    let listener = tokio::net::TcpListener::bind(flags.listen).await.context("listening")?;
    let local = tokio::task::LocalSet::new();
    local
        .run_until(async move {
            tokio::task::spawn_local(server::accept(listener, Arc::new(tls), plane.clone()));
            println!("{}", serde_json::json!({ "event": "ready" }));
            let (sender, mut lines) = tokio::sync::mpsc::channel(16);
            std::thread::spawn(move || {
                for line in std::io::stdin().lines().map_while(Result::ok) {
                    if sender.blocking_send(line).is_err() {
                        return;
                    }
                }
            });
            while let Some(line) = lines.recv().await {
                plane.command(line.trim()).await;
            }
            // Standard input may be closed from the start: go on until killed.
            std::future::pending::<()>().await;
            Ok(())
        })
        .await
}

fn resource(text: &str) -> anyhow::Result<ResourceView> {
    let (name, address) = text.split_once('=').context("a resource is NAME=CIDR or NAME=dns:NAME")?;
    let address = match address.strip_prefix("dns:") {
        Some(name) => ResourceAddress::Dns(name.to_owned()),
        None => ResourceAddress::Cidr(address.parse().with_context(|| format!("{address} is no CIDR"))?),
    };
    Ok(ResourceView {
        resource: ResourceId::fresh(),
        name: name.to_owned(),
        site: "office".into(),
        address,
        filters: Vec::new(),
    })
}

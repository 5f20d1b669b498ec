//! Runs control until a signal.

use std::net::TcpListener;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use actix_web::{App, HttpServer, web};
use actors_control::clock::Clock;
use actors_control::countries::Countries;
use actors_control::grant_office::{self, GrantOffice};
use actors_control::storage::Storage;
use actors_runtime::{Address, Reply, TreeHandle};
use rustls::ServerConfig;
use services_chassis::{Chassis, Failure, Readiness, no_desk};
use tokio::sync::Semaphore;

use crate::api::{Api, Idempotency, JOINS, Rates, Throttle, routes};
use crate::certificate;
use crate::config::{Config, PROGRAM};
use crate::init::{self, Prepared};
use crate::tree::{self, Addresses, Context};

/// Threads that speak HTTPS.
const WORKERS: usize = 2;
/// TLS handshakes of one thread at a time: what is connected waits behind no more of them.
const HANDSHAKES: usize = 16;
/// Connections of one thread; each node holds one.
const CONNECTIONS: usize = 10_000;
/// How long a client may take to say what it wants.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(10);

/// Sets up what is missing, and runs.
///
/// # Errors
/// When something cannot be set up, or the process did not end well.
pub fn run(config: Config) -> Result<(), Failure> {
    let tree = tree::table();
    let chassis =
        Chassis::start(PROGRAM, env!("CARGO_PKG_VERSION"), config.settings.clone(), &tree.registry())?;
    let prepared = crate::block_on(init::prepare(&config))??;
    if prepared.first {
        prepared.print(false);
    }
    let ports = config.listen.iter().map(|address| open_port(*address)).collect::<Result<Vec<_>, _>>()?;
    let tls = certificate::server_config(&config)?;
    let Prepared { storage, accounts, public, .. } = prepared;
    let storage: Arc<dyn Storage> = storage;
    let (sender, receiver) = mpsc::channel();
    let countries = config.country_database.as_deref().map(Countries::open).transpose().map_err(|error| {
        Failure::usage(format!("--country-database: {}", services_chassis::chain(&error)))
            .fix("name a database of countries in the MaxMind format, such as GeoLite2-Country.mmdb")
    })?;
    let countries = countries.unwrap_or_default();
    let context = Context {
        storage: Arc::clone(&storage),
        accounts: accounts.into_iter().map(|account| (account.id, account.name)).collect(),
        max_partition: config.max_partition,
        flow_retention: config.flow_retention,
        countries: countries.clone(),
        clock: Clock::System,
        addresses: sender,
    };
    let readiness = chassis.readiness().clone();
    chassis.run(tree, context, move |handle| {
        match receiver.try_recv() {
            Ok(Addresses { store, offices, directory, audit }) => {
                let throttle = Throttle::default();
                readiness.not_ready("the accounts are being read");
                actix_rt::spawn(ready_when_read(offices.values().cloned().collect(), readiness.clone()));
                let api = web::Data::new(Api {
                    storage,
                    store,
                    offices,
                    directory,
                    audit,
                    countries,
                    clock: Clock::System,
                    public,
                    readiness,
                    throttle,
                    rates: Rates::default(),
                    idempotency: Idempotency::default(),
                    joins: Semaphore::new(JOINS),
                });
                serve(api, ports, &tls, handle);
            }
            Err(_) => {
                tracing::error!("the actors did not say where they are");
                handle.shutdown(1);
            }
        }
        no_desk(handle)
    })
}

/// Ready once every office has read its account.
async fn ready_when_read(offices: Vec<Address<GrantOffice>>, readiness: Readiness) {
    for office in offices {
        loop {
            let (reply, answer) = Reply::channel();
            let told = office.tell(grant_office::Command::Settle(0, reply)).is_ok();
            if told && answer.await.is_ok() {
                break;
            }
            // It failed and starts again, or gives up and ends the process.
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    readiness.ready();
}

fn open_port(address: std::net::SocketAddr) -> Result<TcpListener, Failure> {
    let open = || {
        let socket = match address {
            std::net::SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            std::net::SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        // A control plane that starts again must not wait for the connections of its predecessor.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(1024)?.into_std()
    };
    let opened = crate::block_on(async { open() })?;
    opened.map_err(|error: std::io::Error| {
        Failure::failed(format!("cannot listen on {address}: {error}"))
            .fix("choose another one with --listen, or stop what listens there")
    })
}

/// Serves the API and the sessions on all ports.
fn serve(api: web::Data<Api>, ports: Vec<TcpListener>, tls: &ServerConfig, handle: &TreeHandle) {
    let mut server = HttpServer::new(move || App::new().app_data(api.clone()).configure(routes))
        .workers(WORKERS)
        .max_connections(CONNECTIONS)
        .max_connection_rate(HANDSHAKES)
        .client_request_timeout(REQUEST_WITHIN)
        .shutdown_timeout(2)
        .disable_signals();
    for port in ports {
        let address = port.local_addr();
        match server.listen_rustls_0_23(port, tls.clone()) {
            Ok(more) => server = more,
            Err(error) => {
                tracing::error!(%error, "cannot serve");
                return handle.shutdown(1);
            }
        }
        if let Ok(address) = address {
            tracing::info!(%address, "serving HTTPS");
        }
    }
    let (running, handle) = (server.run(), handle.clone());
    actix_rt::spawn(async move {
        if let Err(error) = running.await {
            tracing::error!(%error, "HTTPS has ended");
        }
        handle.shutdown(1);
    });
}

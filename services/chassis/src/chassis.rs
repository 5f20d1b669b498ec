//! What carries the actors of a program: logging, metrics, the local socket, signals.

use std::net::TcpListener as StdTcpListener;
use std::rc::Rc;
use std::sync::Arc;

use actors_runtime::{GAVE_UP_STATUS, Registry, Tree, TreeHandle};
use tokio::net::TcpListener;

use crate::failure::{Exit, Failure, chain};
use crate::health::{self, Readiness};
use crate::local::{Desk, LocalSocket};
use crate::logging;
use crate::metrics::Metrics;
use crate::process::{drain_on_signals, feed_watchdog, notify_ready};
use crate::settings::Settings;
use crate::telemetry::Telemetry;

/// A program that is about to run its actors.
#[derive(Debug)]
pub struct Chassis {
    program: &'static str,
    settings: Settings,
    telemetry: Telemetry,
    metrics: Metrics,
    readiness: Readiness,
}

impl Chassis {
    /// Sets up logging, telemetry and metrics. Once a process.
    ///
    /// # Errors
    /// When a setting is crooked. A collector that is away is no error.
    pub fn start(
        program: &'static str,
        version: &'static str,
        settings: Settings,
        actors: &Arc<Registry>,
    ) -> Result<Self, Failure> {
        let (mut telemetry, trouble) = Telemetry::new(program, version, settings.otlp_endpoint.as_deref());
        let metrics = Metrics::new(&mut telemetry, actors)?;
        logging::start(&settings, &telemetry)?;
        if let Some(error) = trouble {
            tracing::warn!(error, "nothing is sent to the OTLP endpoint");
        }
        Ok(Self { program, settings, telemetry, metrics, readiness: Readiness::default() })
    }

    /// The metrics, for what the program adds and for a `/metrics` of its own.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// What `/readyz` says. Ready once every root has started, unless the program has said something by then.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Runs the actors until a signal, [`TreeHandle::shutdown`], or a root that gives up. `desk` makes what answers the
    /// program's own requests on the local socket.
    ///
    /// # Errors
    /// When the local socket or the metrics port cannot be opened, a root cannot start, or the process did not end well.
    pub fn run<C: 'static>(
        self,
        tree: Tree<C>,
        context: C,
        desk: impl FnOnce(&TreeHandle) -> Desk,
    ) -> Result<(), Failure> {
        let group = self.settings.socket_group.as_deref();
        let socket = LocalSocket::bind(&self.settings.socket(self.program), self.program, group)?;
        let metrics_port = self.settings.metrics_listen.map(open_port).transpose()?;
        let (metrics, readiness) = (self.metrics.clone(), self.readiness.clone());
        let outcome = tree.run_with(context, |handle| {
            actix_rt::spawn(drain_on_signals(handle.clone()));
            actix_rt::spawn(feed_watchdog(handle.clone()));
            actix_rt::spawn(socket.serve(Arc::clone(handle.registry()), desk(handle)));
            if let Some(port) = metrics_port {
                serve_port(port, metrics, readiness.clone());
            }
            readiness.started();
            actix_rt::spawn(notify_ready(readiness));
            tracing::info!("started");
        });
        self.metrics.finish();
        self.telemetry.finish();
        match outcome {
            Ok(0) => Ok(()),
            Ok(GAVE_UP_STATUS) => {
                Err(Failure::new(Exit::GaveUp, "a part of the program kept failing, see the log"))
            }
            Ok(status) => Err(Failure::failed(format!("ended with status {status}"))),
            Err(error) => Err(Failure::failed(chain(&error))),
        }
    }
}

/// A desk that knows no request.
pub fn no_desk(_: &TreeHandle) -> Desk {
    Rc::new(|_| Box::pin(std::future::ready(Err(Failure::usage("this program knows no such request")))))
}

fn open_port(address: std::net::SocketAddr) -> Result<StdTcpListener, Failure> {
    let open = || {
        let listener = StdTcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    };
    open().map_err(|error: std::io::Error| {
        Failure::failed(format!("cannot listen on {address} for metrics: {error}"))
            .fix("choose another one with --metrics-listen, or off")
    })
}

fn serve_port(port: StdTcpListener, metrics: Metrics, readiness: Readiness) {
    match TcpListener::from_std(port) {
        Ok(port) => {
            actix_rt::spawn(health::serve(port, metrics, readiness));
        }
        Err(error) => tracing::error!(%error, "metrics cannot be served"),
    }
}

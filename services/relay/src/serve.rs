//! `postern-relay serve`: puts everything together and runs it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actors_access::{ControlSession, Endpoint, SessionEvent, SessionSettings, SessionStatus, Target};
use actors_relay::{Listener, RelayAddress, RelayCounters, RelaySettings, streams};
use actors_runtime::Outlet;
use protocol_control::{Introduction, RelayTls, RoleHello, Secret, Welcome};
use protocol_identity::{CertificatePin, TokenKind};
use protocol_stun::RelaySecret;
use services_chassis::{Chassis, Failure, Metrics, Sample, chain, identity_file, no_desk};

use crate::addresses::{Addresses, Host, addresses, announced};
use crate::config::{Config, PROGRAM};
use crate::drain::{Drain, Signals};
use crate::secret::secret;
use crate::streams::Certified;
use crate::tree::{Doors, OpenedTls, Relay, STREAMS, table};

/// Runs until a signal.
///
/// # Errors
/// When something that the relay needs is missing.
pub fn run(config: Config) -> Result<(), Failure> {
    // Before any thread is there that would inherit another mask.
    let signals = Signals::block();
    let tree = table();
    let chassis =
        Chassis::start(PROGRAM, env!("CARGO_PKG_VERSION"), config.settings.clone(), &tree.registry())?;
    let listen = usable(&config)?;
    let addresses = addresses(&listen, &config.external, &Host::look()?)?;
    let secret = config.secret_file.as_deref().map(secret).transpose()?;
    let counters = Arc::new(RelayCounters::default());
    watch(chassis.metrics(), &counters);
    let known = Arc::new(AtomicBool::new(false));
    let certified = config.streams.certified(&config.settings.state_dir)?;
    let opened = OpenedTls::default();
    let tls = certified.as_ref().map(|certified| (certified.pin, Arc::clone(&opened)));
    let session = session(&config, &addresses, tls, secret.as_ref(), &known)?;
    if session.is_some() {
        watch_control(chassis.metrics(), &known);
    }
    let readiness = chassis.readiness().clone();
    let context = Relay {
        settings: Arc::new(settings(&config, &addresses, &listen, secret)),
        counters: Arc::clone(&counters),
        session,
        listen,
        doors: doors(&config, certified, opened),
        streams: streams(),
    };
    let keys: Vec<String> =
        context.listen.iter().map(ToString::to_string).chain([STREAMS.to_owned()]).collect();
    let (under_control, limit) = (context.session.is_some(), config.drain);
    chassis.run(tree, context, |handle| {
        if let Some(signals) = signals {
            let drain = Drain {
                listeners: keys.iter().map(|key| handle.address::<Listener>(key)).collect(),
                control: under_control.then(|| handle.address::<ControlSession>("")),
                counters,
                readiness,
                limit,
            };
            drain.on(signals, handle.clone());
        }
        no_desk(handle)
    })
}

/// Where clients connect to. A family that the host does not speak is left out with the default addresses.
fn doors(config: &Config, certified: Option<Certified>, opened: OpenedTls) -> Doors {
    let streams = &config.streams;
    let tls = certified.map(|certified| certified.server);
    let mut open: Vec<_> = streams.tcp.iter().map(|listen| (*listen, None, streams.tcp_by_default)).collect();
    open.extend(streams.tls.iter().map(|listen| (*listen, tls.clone(), streams.tls_by_default)));
    Doors { open, connections: config.limits.connections(), opened }
}

/// The listening addresses; of the default ones only those whose family the host speaks.
fn usable(config: &Config) -> Result<Vec<SocketAddr>, Failure> {
    let speaks = |listen: &&SocketAddr| {
        !config.listen_by_default || std::net::UdpSocket::bind(SocketAddr::new(listen.ip(), 0)).is_ok()
    };
    let listen: Vec<SocketAddr> = config.listen.iter().filter(speaks).copied().collect();
    if listen.len() < config.listen.len() {
        tracing::warn!("the host does not speak one of the address families");
    }
    if listen.is_empty() { Err(Failure::failed("the host speaks neither IPv4 nor IPv6")) } else { Ok(listen) }
}

fn settings(
    config: &Config,
    addresses: &Addresses,
    listen: &[SocketAddr],
    secret: Option<RelaySecret>,
) -> RelaySettings {
    RelaySettings {
        realm: config.realm.clone(),
        secret,
        users: config.users.clone(),
        allow: config.allow.clone(),
        deny: config.deny.clone(),
        addresses: addresses.relay.clone(),
        own: addresses.own.clone(),
        listen: listen.to_vec(),
        ports: config.ports.clone(),
        most_allocations: config.limits.allocations(),
        rate_of_user: config.limits.of_user(),
        rate_of_source: config.limits.of_source(),
        limits: config.limits.each(),
    }
}

type Session = (Arc<SessionSettings>, Outlet<SessionEvent>);

fn session(
    config: &Config,
    addresses: &Addresses,
    tls: Option<(CertificatePin, OpenedTls)>,
    secret: Option<&RelaySecret>,
    known: &Arc<AtomicBool>,
) -> Result<Option<Session>, Failure> {
    let (Some((url, trust)), Some(secret)) = (&config.control, secret) else { return Ok(None) };
    let token = config.node.token(TokenKind::Relay)?.ok_or_else(|| {
        Failure::usage("there is no token").fix("name its file with --token-file, or set POSTERN_TOKEN")
    })?;
    let identity = Arc::new(identity_file::identity(&config.settings.state_dir)?);
    let client = trust.client_config().map_err(|error| Failure::failed(chain(&error)))?;
    let endpoint = Endpoint { url: url.clone(), tls: client, mark: None };
    let relay = addresses.relay.clone();
    let introduction = Introduction {
        name: config.node.name(),
        program: env!("CARGO_PKG_VERSION").into(),
        role: RoleHello::Relay {
            addresses: addresses.announced.clone(),
            tls: None,
            region: config.region.clone(),
            coordinates: config.coordinates,
            secret: Secret::new(secret.to_text().to_string()),
        },
    };
    let settings = SessionSettings {
        target: Mutex::new(Some(Target { endpoint, token })),
        identity,
        introduction: Box::new(move || introduced(&introduction, tls.as_ref(), &relay)),
        status: SessionStatus::default(),
    };
    Ok(Some((Arc::new(settings), events(Arc::clone(known)))))
}

/// The introduction, with the TLS addresses that are open by now.
fn introduced(
    introduction: &Introduction,
    tls: Option<&(CertificatePin, OpenedTls)>,
    relay: &[RelayAddress],
) -> Introduction {
    let mut introduction = introduction.clone();
    if let (RoleHello::Relay { tls: said, .. }, Some((pin, opened))) = (&mut introduction.role, tls) {
        let open = opened.lock().unwrap_or_else(PoisonError::into_inner);
        let addresses = announced(&open, relay);
        *said = (!addresses.is_empty()).then(|| Box::new(RelayTls { addresses, pin: *pin }));
    }
    introduction
}

/// A relay that relays is ready: its secret outlives a restart, so that nodes with a credential are served also while
/// control is away. Whether control knows it is a metric of its own.
fn events(known: Arc<AtomicBool>) -> Outlet<SessionEvent> {
    Outlet::to(move |event| {
        match event {
            SessionEvent::Up(welcome) => match *welcome {
                Welcome::Relay(state) => {
                    tracing::info!(relay = %state.relay, "control knows this relay");
                    known.store(true, Ordering::Relaxed);
                }
                Welcome::Client(_) | Welcome::Gateway(_) => {
                    tracing::warn!("control takes this relay for something else: is the token a relay's?");
                }
            },
            SessionEvent::Message(message) => {
                tracing::debug!(?message, "control said something that is not for a relay")
            }
            SessionEvent::Down => {
                known.store(false, Ordering::Relaxed);
                tracing::info!("control is away; the relay goes on");
            }
        }
        Ok(())
    })
}

fn watch_control(metrics: &Metrics, known: &Arc<AtomicBool>) {
    let known = Arc::clone(known);
    metrics.gauge("postern_relay_control_session", "1 while control knows this relay", move || {
        vec![Sample::plain(f64::from(u8::from(known.load(Ordering::Relaxed))))]
    });
}

/// Packets relayed and messages answered are counted apart: a keep-alive is no traffic.
fn watch(metrics: &Metrics, counters: &Arc<RelayCounters>) {
    let labelled = |name: &'static str, values: Vec<(&'static str, u64)>| {
        values.into_iter().map(|(label, value)| Sample::labelled(name, label, value)).collect()
    };
    let read = Arc::clone(counters);
    metrics.counter("postern_relay_packets", "Packets relayed, by direction", move || {
        labelled("direction", read.totals().packets)
    });
    let read = Arc::clone(counters);
    metrics.counter("postern_relay_bytes", "Payload relayed in bytes, by direction", move || {
        labelled("direction", read.totals().bytes)
    });
    let read = Arc::clone(counters);
    metrics.counter(
        "postern_relay_stun_requests",
        "STUN and TURN requests answered, by request",
        move || labelled("request", read.totals().requests),
    );
    let read = Arc::clone(counters);
    metrics.counter("postern_relay_allocations_made", "Allocations made", move || {
        vec![Sample::plain(read.totals().allocated)]
    });
    let read = Arc::clone(counters);
    metrics.counter("postern_relay_icmp_reports", "ICMP errors that clients were told", move || {
        vec![Sample::plain(read.totals().icmp)]
    });
    let read = Arc::clone(counters);
    metrics.gauge("postern_relay_allocations", "Allocations held", move || {
        #[allow(clippy::cast_precision_loss)] // Tens of thousands at most.
        let held = read.allocations() as f64;
        vec![Sample::plain(held)]
    });
}

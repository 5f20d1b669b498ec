//! `postern-relay check`: tries what the relay needs, and names the fix for what is missing.

use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

use actors_access::Endpoint;
use actors_relay::SOCKET_BUFFER;
use protocol_identity::TokenKind;
use services_chassis::check::{Level, report};
use services_chassis::{Check, Exit, Failure, chain};

use crate::addresses::{Host, addresses};
use crate::config::{Config, PROGRAM};
use crate::secret::secret;
use crate::streams::Certificate;

/// 2025-01-01: a clock before that was never set, and time-limited credentials would all be good.
const PLAUSIBLE: u64 = 1_735_689_600;
const CONTROL: &str = "control";

/// Tries everything and prints what was found.
///
/// # Errors
/// When a check failed; 69 when only control is missing.
pub fn run(config: &Config, as_json: bool) -> Result<(), Failure> {
    let running = UnixStream::connect(config.settings.socket(PROGRAM)).is_ok();
    let mut checks: Vec<Check> = config.listen.iter().map(|listen| port(config, *listen, running)).collect();
    let streams = &config.streams;
    let tcp = streams.tcp.iter().map(|listen| ("TCP", *listen, streams.tcp_by_default));
    let tls = streams.tls.iter().map(|listen| ("TLS", *listen, streams.tls_by_default));
    checks.extend(tcp.chain(tls).map(|(what, listen, by_default)| door(what, listen, by_default, running)));
    checks.extend(certificate(config));
    checks.push(relay_addresses(config));
    checks.push(relay_ports(config));
    checks.push(buffers());
    checks.push(clock());
    if let Some(path) = &config.secret_file {
        checks.push(Check::from("secret", format!("{} is there", path.display()), secret(path).map(drop)));
    }
    let before_control = checks.iter().any(|check| check.level() == Level::Fail);
    let control = config.control.is_some().then(|| control(config));
    let unreachable = control.as_ref().is_some_and(|check| check.level() == Level::Fail);
    checks.extend(control);
    match report(&checks, as_json) {
        Err(_) if unreachable && !before_control => {
            Err(Failure::new(Exit::Unreachable, "control cannot be used"))
        }
        outcome => outcome,
    }
}

fn port(config: &Config, listen: SocketAddr, running: bool) -> Check {
    match UdpSocket::bind(listen) {
        Ok(_) => Check::ok("port", format!("UDP {listen} is free")),
        Err(_) if running => Check::ok("port", format!("a relay is running and holds UDP {listen}")),
        Err(error) if config.listen_by_default && listen.is_ipv6() && error.raw_os_error() != Some(98) => {
            Check::warn(
                "port",
                format!("UDP {listen}: {error}"),
                "switch IPv6 on, or name the addresses with --listen",
            )
        }
        Err(error) => {
            Check::fail("port", format!("UDP {listen}: {error}"), "choose another one with --listen")
        }
    }
}

/// An address for connections. One that nobody asked for may be missing, as at the start.
fn door(what: &str, listen: SocketAddr, by_default: bool, running: bool) -> Check {
    let id = if what == "TCP" { "tcp-port" } else { "tls-port" };
    let error = match bind_tcp(listen) {
        Ok(()) => return Check::ok(id, format!("{what} {listen} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && running => {
            return Check::ok(id, format!("a relay is running and holds {what} {listen}"));
        }
        Err(error) => error,
    };
    let flag = if what == "TCP" { "--listen-tcp" } else { "--listen-tls" };
    let fix = if error.kind() == io::ErrorKind::PermissionDenied {
        format!("let it take ports below 1024 (CAP_NET_BIND_SERVICE), or name others with {flag}")
    } else {
        format!("name another with {flag}, or none: {flag} off")
    };
    let message = format!("{what} {listen}: {error}");
    if by_default { Check::warn(id, message, fix) } else { Check::fail(id, message, fix) }
}

fn bind_tcp(listen: SocketAddr) -> io::Result<()> {
    // As the relay does it: connections of an earlier one that are still closing are in nobody's way.
    let socket = socket2::Socket::new(socket2::Domain::for_address(listen), socket2::Type::STREAM, None)?;
    if listen.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&listen.into())?;
    // Another listener is noticed by this only.
    socket.listen(1)
}

/// The operator's certificate; one that the relay makes by itself is made at the start.
fn certificate(config: &Config) -> Option<Check> {
    let Certificate::Given(path, _) = &config.streams.certificate else { return None };
    let usable = config.streams.certified(&config.settings.state_dir).map(drop);
    Some(Check::from("certificate", format!("{} and its key go together", path.display()), usable))
}

fn relay_addresses(config: &Config) -> Check {
    let found = Host::look().and_then(|host| addresses(&config.listen, &config.external, &host));
    match found {
        Ok(found) => {
            let announced: Vec<String> = found.announced.iter().map(ToString::to_string).collect();
            let several = found.relay.iter().filter(|address| address.local.is_ipv4()).count() > 1;
            let message = format!("others are told {}", announced.join(" and "));
            if several && config.external.is_empty() {
                return Check::warn(
                    "address",
                    message,
                    "the host has several: name the right one with --external-address",
                );
            }
            Check::ok("address", message)
        }
        Err(failure) => Check::from("address", "", Err(failure)),
    }
}

fn relay_ports(config: &Config) -> Check {
    let (first, last) = (*config.ports.start(), *config.ports.end());
    let count = usize::from(last - first) + 1;
    let most = config.limits.allocations().all;
    let message = format!("{first}-{last}: {count} ports for {most} allocations");
    if count < most {
        return Check::warn("relay-ports", message, "widen --relay-ports, or lower --max-allocations");
    }
    Check::ok("relay-ports", message)
}

fn buffers() -> Check {
    let limit = |name: &str| {
        let text = fs::read_to_string(format!("/proc/sys/net/core/{name}")).unwrap_or_default();
        text.trim().parse::<usize>().unwrap_or(usize::MAX)
    };
    let least = limit("rmem_max").min(limit("wmem_max"));
    if least >= SOCKET_BUFFER {
        return Check::ok("buffers", format!("socket buffers may have {SOCKET_BUFFER} bytes"));
    }
    Check::warn(
        "buffers",
        format!("socket buffers are limited to {least} bytes: bursts will be lost"),
        format!("sysctl -w net.core.rmem_max={SOCKET_BUFFER} net.core.wmem_max={SOCKET_BUFFER}"),
    )
}

fn clock() -> Check {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    if now >= PLAUSIBLE {
        return Check::ok("clock", "is set");
    }
    Check::fail(
        "clock",
        "was never set: credentials cannot be told from expired ones",
        "start NTP: timedatectl set-ntp true",
    )
}

/// Opens a session as the relay would, and closes it before anything is said.
fn control(config: &Config) -> Check {
    match reach(config) {
        Ok(url) => Check::ok(CONTROL, format!("{url} accepts the token")),
        Err(failure) => {
            let fix = "is control running, is the way to it open, is the token a relay's?";
            Check::fail(CONTROL, failure.what, failure.fix.unwrap_or_else(|| fix.into()))
        }
    }
}

fn reach(config: &Config) -> Result<String, Failure> {
    let Some((url, trust)) = &config.control else { return Err(Failure::usage("no control")) };
    let token = config
        .node
        .token(TokenKind::Relay)?
        .ok_or_else(|| Failure::usage("there is no token").fix("name its file with --token-file"))?;
    let tls = trust.client_config().map_err(|error| Failure::failed(chain(&error)))?;
    let endpoint = Endpoint { url: url.clone(), tls, mark: None };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no event loop: {error}")))?;
    let outcome = runtime.block_on(endpoint.connect(&token)).map(drop);
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.map_err(|error| Failure::failed(chain(&error)))?;
    Ok(url.to_string())
}

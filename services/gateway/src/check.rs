//! `postern-gateway check`: tries what the gateway needs, and names the fix for what is missing.

use std::fs::{self, OpenOptions};
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;

use actors_access::ConnectError;
use actors_network::{Obstacle, dns_servers, inspect_host};
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use services_chassis::check::{Level, report};
use services_chassis::{Check, Exit, Failure, chain, identity_file};

use crate::config::{Config, PROGRAM};
use crate::serve::{FILTER_TABLE, endpoint, token};

/// Certificates, grants and tokens bear small differences, seconds.
const CLOCK_TOLERANCE: i64 = 120;
/// `CAP_NET_ADMIN` (linux/capability.h).
const NET_ADMIN: u64 = 1 << 12;

/// Tries everything and prints what was found.
///
/// # Errors
/// When something is missing; with its own exit code when it is only control.
pub fn check(config: &Config, as_json: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start an event loop: {error}")))?;
    let running = UnixStream::connect(config.settings.socket(PROGRAM)).is_ok();
    let mut here = vec![tun(&config.tun, running)];
    here.extend(runtime.block_on(packet_filter(&config.tun)));
    here.extend(forwarding());
    here.extend(config.listen.iter().map(|address| port(*address, running)));
    here.push(names(config));
    here.push(identity(&config.settings.state_dir));
    let there = runtime.block_on(control(config));
    let fails = |checks: &[Check]| checks.iter().any(|check| check.level() == Level::Fail);
    let only_control = !fails(&here) && there.is_away;
    here.extend(there.checks);
    report(&here, as_json).map_err(|failure| {
        if only_control { Failure::new(Exit::Unreachable, "control cannot be used") } else { failure }
    })
}

fn tun(name: &str, running: bool) -> Check {
    let id = "tun";
    if running {
        return Check::ok(id, format!("a gateway is running and holds {name}"));
    }
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or give the gateway CAP_NET_ADMIN",
            _ => "load the module with `modprobe tun`; in a container, pass --device /dev/net/tun",
        };
        return Check::fail(id, format!("/dev/net/tun cannot be opened: {error}"), fix);
    }
    if !may_administer_the_network() {
        let fix = "run as root, or give the gateway CAP_NET_ADMIN";
        return Check::fail(id, "this process may not make network devices", fix);
    }
    if Path::new("/sys/class/net").join(name).exists() {
        return Check::fail(
            id,
            format!("there is a device {name} already"),
            format!("choose another name with --tun, or remove it: `ip link delete {name}`"),
        );
    }
    Check::ok(id, format!("/dev/net/tun opens, {name} is free"))
}

fn may_administer_the_network() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.is_some_and(|bits| bits & NET_ADMIN != 0)
    })
}

async fn packet_filter(device: &str) -> Vec<Check> {
    let id = "nftables";
    match inspect_host(device, FILTER_TABLE).await {
        Ok(found) if found.is_empty() => vec![Check::ok(id, "no rule of the host is against the tunnel")],
        Ok(found) => found
            .into_iter()
            .map(|Obstacle { what, why, fix }| Check::fail(id, format!("{what}: {why}"), fix))
            .collect(),
        Err(error) => {
            let fix = "install the package nftables, and run as root or with CAP_NET_ADMIN";
            vec![Check::fail(id, chain(&error), fix)]
        }
    }
}

fn forwarding() -> Vec<Check> {
    let families =
        [("IPv4", "/proc/sys/net/ipv4/ip_forward"), ("IPv6", "/proc/sys/net/ipv6/conf/all/forwarding")];
    families.into_iter().map(|(family, path)| forwarding_of(family, Path::new(path))).collect()
}

fn forwarding_of(family: &str, path: &Path) -> Check {
    let id = "forwarding";
    match fs::read_to_string(path) {
        Ok(text) if text.trim() != "0" => return Check::ok(id, format!("the host forwards {family}")),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Check::warn(
                id,
                format!("the host has no {family}"),
                "without it, the other family alone is used",
            );
        }
        Err(error) => return Check::warn(id, format!("{}: {error}", path.display()), "look by hand"),
    }
    match OpenOptions::new().append(true).open(path) {
        Ok(_) => {
            Check::ok(id, format!("forwarding of {family} is off; the gateway switches it on while it runs"))
        }
        Err(error) => Check::fail(
            id,
            format!("forwarding of {family} is off, and this process may not switch it on: {error}"),
            format!("as root: `echo 1 > {}`", path.display()),
        ),
    }
}

fn port(address: SocketAddr, running: bool) -> Check {
    let id = "port";
    match UdpSocket::bind(address) {
        Ok(_) => Check::ok(id, format!("UDP {address} can be bound")),
        Err(error) if running && error.kind() == io::ErrorKind::AddrInUse => {
            Check::ok(id, format!("UDP {address} is held, presumably by the running gateway"))
        }
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() => Check::warn(
            id,
            format!("UDP {address} cannot be bound: {error}"),
            "without IPv6, IPv4 alone is used",
        ),
        Err(error) => Check::fail(
            id,
            format!("UDP {address} cannot be bound: {error}"),
            "choose another address or port with --listen; port 0 takes any",
        ),
    }
}

fn names(config: &Config) -> Check {
    let id = "dns";
    let file = "/etc/resolv.conf";
    let (servers, whence) = match config.dns.as_slice() {
        [] => (dns_servers(&fs::read_to_string(file).unwrap_or_default()), file),
        given => (given.to_vec(), "--dns"),
    };
    if servers.is_empty() {
        return Check::warn(
            id,
            format!("{file} names no DNS server: resources with names cannot be reached"),
            "name one with --dns",
        );
    }
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    Check::ok(id, format!("names are asked for at {} ({whence})", servers.join(", ")))
}

/// A check makes no key: it would belong to whoever checks.
fn identity(state_dir: &Path) -> Check {
    let id = "identity";
    if !state_dir.join("identity.key").exists() {
        return Check::ok(id, format!("the first start makes one in {}", state_dir.display()));
    }
    let fine = format!("the identity key is in {}", state_dir.display());
    Check::from(id, fine, identity_file::identity(state_dir).map(drop))
}

/// What was found out about control.
struct There {
    checks: Vec<Check>,
    /// Nothing is wrong here but that control does not answer.
    is_away: bool,
}

async fn control(config: &Config) -> There {
    let id = "control";
    let prepared = token(config).and_then(|token| Ok((endpoint(config)?, token)));
    let (endpoint, token) = match prepared {
        Ok(prepared) => prepared,
        Err(Failure { what, fix, .. }) => {
            let fix = fix.unwrap_or_else(|| "see --help".into());
            return There { checks: vec![Check::fail("settings", what, fix)], is_away: false };
        }
    };
    match endpoint.try_out(&token).await {
        Ok(date) => {
            let there = date.as_deref().and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
            let fine = Check::ok(id, format!("{} answers and accepts the token", endpoint.url));
            There { checks: vec![fine, clock(there, Timestamp::now())], is_away: false }
        }
        Err(error) => {
            let (fix, is_away) = match &error {
                ConnectError::Lookup(_) => ("correct --control-url, or this host's DNS", true),
                ConnectError::Unreachable(_) | ConnectError::TimedOut => (
                    "is `postern-control serve` running there, and does the way there let TCP through?",
                    true,
                ),
                ConnectError::Tls(_) => {
                    ("compare --control-pin with what `postern-control pin` prints there", true)
                }
                ConnectError::NotControl(_) => ("correct --control-url", true),
                ConnectError::BadToken => ("make a new one with `postern admin gateway-token create`", false),
            };
            There {
                checks: vec![Check::fail(id, format!("{}: {}", endpoint.url, chain(&error)), fix)],
                is_away,
            }
        }
    }
}

fn clock(there: Option<Timestamp>, here: Timestamp) -> Check {
    let id = "clock";
    let Some(there) = there else {
        return Check::warn(id, "control does not say what time it is", "compare by hand");
    };
    let apart = (there.as_second() - here.as_second()).abs();
    if apart <= CLOCK_TOLERANCE {
        return Check::ok(id, format!("{apart} s apart from control's"));
    }
    Check::warn(
        id,
        format!("this clock and control's are {apart} s apart"),
        "set the clock, for example with `timedatectl set-ntp true`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_minutes_is_seen() {
        let at = |second| Timestamp::from_second(second).unwrap();

        assert_eq!(clock(Some(at(1_000_000)), at(1_000_030)).level(), Level::Ok);
        assert_eq!(clock(Some(at(1_000_000)), at(1_000_600)).level(), Level::Warn);
        assert_eq!(clock(None, at(0)).level(), Level::Warn);
    }

    #[test]
    fn a_port_that_is_taken_is_a_failure_unless_the_gateway_runs() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();

        assert_eq!(port(address, false).level(), Level::Fail);
        assert_eq!(port(address, true).level(), Level::Ok);
    }

    #[test]
    fn a_check_makes_no_key_and_looks_at_the_one_that_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("identity.key");

        assert_eq!(identity(dir.path()).level(), Level::Ok);
        assert!(!key.exists());
        fs::write(&key, "not a key").unwrap();
        assert_eq!(identity(dir.path()).level(), Level::Fail);
    }

    #[test]
    fn forwarding_that_is_off_is_fine_when_it_can_be_switched_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ip_forward");
        fs::write(&path, "0\n").unwrap();

        assert_eq!(forwarding_of("IPv4", &path).level(), Level::Ok);
        assert_eq!(fs::read_to_string(&path).unwrap(), "0\n", "a check changes nothing");
        assert_eq!(forwarding_of("IPv4", &dir.path().join("none")).level(), Level::Warn);
    }
}

//! `postern check`: tries what the daemon needs, and names the fix for what is missing.

use std::fs;
use std::io;
use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use protocol_identity::Token;

use crate::cli::Place;
use crate::config::{Config, DnsMode};
use crate::http;
use crate::state::{SignIn, State};
use services_chassis::check::{Check, Level, report};
use services_chassis::{Exit, Failure};

/// Certificates, grants and tokens bear small differences.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(120);
/// How long control may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Tries everything, prints what was found, and fails when something is missing.
pub async fn run(config: &Config, place: &Place, as_json: bool) -> Result<(), Failure> {
    let running = std::os::unix::net::UnixStream::connect(place.socket()).is_ok();
    let mut here = vec![tun(config, running)];
    here.extend(config.listen.iter().map(|address| port(*address, running)));
    here.push(dns(config));
    let (token, sign_in) = sign_in(config);
    here.push(token);
    let there = match &sign_in {
        Some(sign_in) => control(sign_in).await,
        None => Vec::new(),
    };
    let all = [here.as_slice(), there.as_slice()].concat();
    report(&all, as_json).map_err(|failure| match fails(&here) {
        true => failure,
        false => Failure { exit: Exit::Unreachable, ..failure },
    })
}

fn fails(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.level() == Level::Fail)
}

const CONTROL: &str = "control";

fn tun(config: &Config, running: bool) -> Check {
    let id = "tun";
    if running {
        return Check::ok(id, format!("a daemon is running and holds {}", config.tun));
    }
    if let Err(error) = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun") {
        let fix = match error.kind() {
            io::ErrorKind::PermissionDenied => "run as root, or give the daemon CAP_NET_ADMIN",
            _ => "load the module with `modprobe tun`; in a container, pass --device /dev/net/tun",
        };
        return Check::fail(id, format!("/dev/net/tun cannot be opened: {error}"), fix);
    }
    if !may_administer_the_network() {
        return Check::fail(
            id,
            "this process may not make network devices",
            "run as root, or give the daemon CAP_NET_ADMIN",
        );
    }
    if Path::new("/sys/class/net").join(&config.tun).exists() {
        return Check::fail(
            id,
            format!("there is a device {} already", config.tun),
            format!("choose another name with --tun, or remove it: `ip link delete {}`", config.tun),
        );
    }
    Check::ok(id, format!("/dev/net/tun opens, {} is free", config.tun))
}

/// Whether `CAP_NET_ADMIN` (bit 12) is among the effective capabilities.
fn may_administer_the_network() -> bool {
    fs::read_to_string("/proc/self/status").is_ok_and(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let bits = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
        bits.is_some_and(|bits| bits & (1 << 12) != 0)
    })
}

fn port(address: std::net::SocketAddr, running: bool) -> Check {
    let id = "port";
    match UdpSocket::bind(address) {
        Ok(_) => Check::ok(id, format!("UDP {address} can be bound")),
        Err(error) if running && error.kind() == io::ErrorKind::AddrInUse => {
            Check::ok(id, format!("UDP {address} is held, presumably by the running daemon"))
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

fn dns(config: &Config) -> Check {
    let id = "dns";
    let file = config.resolv_conf.display();
    let writes_the_file = match config.dns {
        DnsMode::Off => return Check::ok(id, "the host's DNS is left alone (--dns off)"),
        DnsMode::Resolved => false,
        DnsMode::File => true,
        DnsMode::Auto => !Path::new("/run/systemd/resolve/io.systemd.Resolve").exists(),
    };
    if !writes_the_file {
        return Check::ok(id, "names go through systemd-resolved");
    }
    match fs::OpenOptions::new().append(true).open(&config.resolv_conf) {
        Ok(_) => Check::ok(id, format!("{file} can be written")),
        Err(error) => Check::fail(
            id,
            format!("{file} cannot be written: {error}"),
            "run as root, name another file with --resolv-conf, or leave DNS alone with --dns off",
        ),
    }
}

fn sign_in(config: &Config) -> (Check, Option<SignIn>) {
    let id = "token";
    let known = State::open(&config.settings.state_dir).and_then(|state| {
        state.identity()?;
        state.sign_in(config)
    });
    match known {
        Err(failure) => (Check::from(id, "", Err(failure)), None),
        Ok(None) => {
            let fix = "run `postern login --control-url https://HOST:8443 --control-pin sha256:… --token-file FILE`; \
                       `postern admin service-account create` prints it";
            (Check::fail(id, "this device is not signed in", fix), None)
        }
        Ok(Some(sign_in)) => (Check::ok(id, format!("a token is there: {:?}", sign_in.token)), Some(sign_in)),
    }
}

async fn control(sign_in: &SignIn) -> Vec<Check> {
    match healthz(sign_in).await {
        Err(failure) => vec![Check::from(CONTROL, "", Err(failure))],
        Ok(date) => {
            let there = date.as_deref().and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
            vec![Check::ok(CONTROL, format!("{} answers", sign_in.url)), clock(there, SystemTime::now())]
        }
    }
}

/// Asks control whether it lives, and for its time. The token is not sent.
async fn healthz(sign_in: &SignIn) -> Result<Option<String>, Failure> {
    let http = http::client(&sign_in.trust, None::<&Token>, PATIENCE)?;
    let address = sign_in.url.to_string();
    let response = http
        .get(format!("{address}/healthz"))
        .send()
        .await
        .map_err(|error| http::unreachable(&address, &error))?;
    let date = response.headers().get("date").and_then(|date| date.to_str().ok()).map(str::to_owned);
    if response.status().is_success() {
        return Ok(date);
    }
    Err(Failure::new(Exit::Unreachable, format!("{address} answers {}", response.status()))
        .fix("is this the address of postern-control? if so, see its log"))
}

fn clock(there: Option<Timestamp>, here: SystemTime) -> Check {
    let id = "clock";
    let Some(there) = there else {
        return Check::warn(id, "control does not say what time it is", "compare by hand");
    };
    let here = here.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let apart = Duration::from_secs(there.as_second().unsigned_abs().abs_diff(here));
    if apart <= CLOCK_TOLERANCE {
        return Check::ok(id, format!("{} s apart from control's", apart.as_secs()));
    }
    Check::warn(
        id,
        format!("this clock and control's are {} s apart", apart.as_secs()),
        "set the clock, for example with `timedatectl set-ntp true`",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_off_by_minutes_is_seen() {
        let there = Timestamp::from_second(1_000_000).unwrap();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);

        assert_eq!(clock(Some(there), at(1_000_030)).level(), Level::Ok);
        assert_eq!(clock(Some(there), at(1_000_600)).level(), Level::Warn);
    }

    #[test]
    fn a_port_that_is_taken_names_the_flag() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();

        let check = port(address, false);

        assert_eq!(check.level(), Level::Fail);
    }
}

//! What the relay runs with: flags, then variables, then the TOML file, then defaults.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use actors_access::{ControlUrl, Trust};
use clap::Args;
use ipnet::IpNet;
use protocol_stun::relay::LONGEST_REALM;
use protocol_stun::{Credentials, REALM};
use serde::Deserialize;
use services_chassis::settings::{CommonFlags, Settings};
use services_chassis::{Failure, NodeFlags, secret_file};

use crate::cli::Cli;
use crate::limits::LimitFlags;
use crate::streams::{StreamFlags, Streams};

/// The program's name, as files and directories have it.
pub const PROGRAM: &str = "postern-relay";
/// Where metrics are served unless told otherwise.
const METRICS: &str = "127.0.0.1:9462";
/// RFC 8656 §19.7: the port of TURN over UDP.
const PORT: u16 = 3478;
/// RFC 6335 §6: the dynamic ports.
const PORTS: RangeInclusive<u16> = 49_152..=65_535;
/// Enough for control to send nodes elsewhere; a supervisor waits 10 s at least before it kills.
const DRAIN: Duration = Duration::from_secs(2);

/// Text that never prints.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Hidden(String);

impl FromStr for Hidden {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

/// Flags of the relay; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Relay")]
pub struct RelayFlags {
    /// Run without control, for the static users and the holders of --secret-file only
    #[arg(long, env = "POSTERN_STANDALONE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub standalone: Option<bool>,
    /// UDP address that clients send to (repeatable); default 0.0.0.0:3478 and [::]:3478
    #[arg(long, env = "POSTERN_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// Address that others see, at most one for each family: needed behind a one-to-one NAT, and when the host has
    /// several addresses
    #[arg(
        long,
        visible_alias = "public-address",
        env = "POSTERN_EXTERNAL_ADDRESS",
        value_name = "IP",
        value_delimiter = ','
    )]
    pub external_address: Vec<IpAddr>,
    /// Ports of relayed addresses; default 49152-65535
    #[arg(long, env = "POSTERN_RELAY_PORTS", value_name = "FIRST-LAST")]
    pub relay_ports: Option<String>,
    /// Network that may be relayed to although it is private or reserved (repeatable); the most specific rule decides
    #[arg(long, env = "POSTERN_ALLOW_PEER", value_name = "CIDR", value_delimiter = ',')]
    pub allow_peer: Vec<String>,
    /// Network that may not be relayed to (repeatable); wins over an equally specific --allow-peer
    #[arg(long, env = "POSTERN_DENY_PEER", value_name = "CIDR", value_delimiter = ',')]
    pub deny_peer: Vec<String>,
    /// User of a standalone relay (repeatable). Others on this host can read arguments: prefer --static-user-file
    #[arg(
        long,
        env = "POSTERN_STATIC_USER",
        value_name = "NAME:PASSWORD",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub static_user: Vec<Hidden>,
    /// File with a NAME:PASSWORD in each line, of mode 0600
    #[arg(long, env = "POSTERN_STATIC_USER_FILE", value_name = "FILE")]
    pub static_user_file: Option<PathBuf>,
    /// File with the secret of time-limited credentials; default relay.secret in the state directory, made at the first
    /// start
    #[arg(long, env = "POSTERN_SECRET_FILE", value_name = "FILE")]
    pub secret_file: Option<PathBuf>,
    /// Realm of the challenges; default postern
    #[arg(long, env = "POSTERN_REALM", value_name = "REALM")]
    pub realm: Option<String>,
    /// Name of this relay's region; default the one of its token
    #[arg(long, env = "POSTERN_REGION", value_name = "NAME")]
    pub region: Option<String>,
    /// Where this relay is, in degrees: 52.52,13.41
    #[arg(long, env = "POSTERN_COORDINATES", value_name = "LATITUDE,LONGITUDE", allow_hyphen_values = true)]
    pub coordinates: Option<String>,
    /// Seconds that allocations are kept up after SIGTERM, while control sends nodes elsewhere; default 2
    #[arg(long, visible_alias = "drain-timeout", env = "POSTERN_DRAIN_SECONDS", value_name = "SECONDS")]
    pub drain_seconds: Option<u64>,
}

/// What the relay runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// What every program runs with.
    pub settings: Settings,
    /// What every node is told about control.
    pub node: NodeFlags,
    /// Control, unless the relay stands alone.
    pub control: Option<(ControlUrl, Trust)>,
    /// UDP addresses that clients send to.
    pub listen: Vec<SocketAddr>,
    /// Whether the addresses are the default ones: a family that the host lacks is then left out.
    pub listen_by_default: bool,
    /// What others see.
    pub external: Vec<IpAddr>,
    /// Ports of relayed addresses.
    pub ports: RangeInclusive<u16>,
    /// Networks that may be relayed to.
    pub allow: Vec<IpNet>,
    /// Networks that may not.
    pub deny: Vec<IpNet>,
    /// Static users.
    pub users: Vec<Credentials>,
    /// Where the secret is kept; `None`: there is none.
    pub secret_file: Option<PathBuf>,
    /// Realm of the challenges.
    pub realm: String,
    /// How much of everything there may be.
    pub limits: LimitFlags,
    /// TCP and TLS.
    pub streams: Streams,
    /// Name of the region; empty: the token's.
    pub region: String,
    /// Latitude and longitude in degrees.
    pub coordinates: Option<(f64, f64)>,
    /// How long allocations are kept up after SIGTERM.
    pub drain: Duration,
}

/// Where the running relay's local socket is: all that `actors` has to know.
///
/// # Errors
/// When the file cannot be read or a value is crooked.
pub fn place(cli: &Cli) -> Result<Settings, Failure> {
    let file = cli.common.file(PROGRAM)?.take()?;
    common_settings(cli.common.clone().or(file))
}

fn common_settings(mut common: CommonFlags) -> Result<Settings, Failure> {
    common.metrics_listen.get_or_insert_with(|| METRICS.into());
    if common.run_dir.is_none() {
        common.run_dir = own_run_dir();
    }
    common.resolve(PROGRAM)
}

impl Config {
    /// Reads the files and puts everything together.
    ///
    /// # Errors
    /// When a file cannot be read or a value is crooked.
    pub fn load(cli: &Cli) -> Result<Self, Failure> {
        let mut file = cli.common.file(PROGRAM)?;
        let (common, node, relay) = (file.take()?, file.take()?, file.take()?);
        let (streams, limits) = (file.take()?, file.take()?);
        file.finish()?;
        Self::resolve(
            cli.common.clone().or(common),
            cli.node.clone().or(node),
            cli.relay.clone().or(relay),
            cli.streams.clone().or(streams),
            cli.limits.clone().or(limits),
        )
    }

    fn resolve(
        common: CommonFlags,
        node: NodeFlags,
        relay: RelayFlags,
        streams: StreamFlags,
        limits: LimitFlags,
    ) -> Result<Self, Failure> {
        let settings = common_settings(common)?;
        let standalone = relay.standalone.unwrap_or(false);
        let control = match (&node.control_url, standalone) {
            (Some(_), true) => {
                return Err(Failure::usage(
                    "--standalone and --control-url: it is either alone or under control",
                ));
            }
            (None, false) => {
                return Err(Failure::usage("neither --control-url nor --standalone")
                    .fix("join with the command that `postern admin relay-token create` prints"));
            }
            (None, true) => None,
            (Some(url), false) => {
                Some((control_url(url)?, Trust { pin: node.pin()?, ca_file: node.ca_file.clone() }))
            }
        };
        let users = static_users(&relay)?;
        let secret_file = match relay.secret_file {
            Some(path) => Some(path),
            None if standalone => None,
            None => Some(settings.state_dir.join("relay.secret")),
        };
        if standalone && users.is_empty() && secret_file.is_none() {
            return Err(Failure::usage("--standalone: nobody could allocate here")
                .fix("name a user with --static-user NAME:PASSWORD or --static-user-file FILE"));
        }
        let listen_by_default = relay.listen.is_empty();
        let listen = if listen_by_default {
            vec![(Ipv4Addr::UNSPECIFIED, PORT).into(), (Ipv6Addr::UNSPECIFIED, PORT).into()]
        } else {
            relay.listen
        };
        for is_v4 in [true, false] {
            if relay.external_address.iter().filter(|ip| ip.is_ipv4() == is_v4).count() > 1 {
                return Err(Failure::usage("--external-address: at most one for each family"));
            }
        }
        Ok(Self {
            settings,
            node,
            control,
            streams: streams.resolve(&listen, standalone)?,
            listen,
            listen_by_default,
            external: relay.external_address,
            ports: relay.relay_ports.as_deref().map_or(Ok(PORTS), port_range)?,
            allow: networks("--allow-peer", &relay.allow_peer)?,
            deny: networks("--deny-peer", &relay.deny_peer)?,
            users,
            secret_file,
            realm: realm(relay.realm.unwrap_or_else(|| REALM.into()))?,
            limits,
            region: relay.region.unwrap_or_default(),
            coordinates: relay.coordinates.as_deref().map(coordinates).transpose()?,
            drain: relay.drain_seconds.map_or(DRAIN, Duration::from_secs),
        })
    }
}

impl RelayFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    fn or(self, file: Self) -> Self {
        fn list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
            if first.is_empty() { second } else { first }
        }
        Self {
            standalone: self.standalone.or(file.standalone),
            listen: list(self.listen, file.listen),
            external_address: list(self.external_address, file.external_address),
            relay_ports: self.relay_ports.or(file.relay_ports),
            allow_peer: list(self.allow_peer, file.allow_peer),
            deny_peer: list(self.deny_peer, file.deny_peer),
            static_user: list(self.static_user, file.static_user),
            static_user_file: self.static_user_file.or(file.static_user_file),
            secret_file: self.secret_file.or(file.secret_file),
            realm: self.realm.or(file.realm),
            region: self.region.or(file.region),
            coordinates: self.coordinates.or(file.coordinates),
            drain_seconds: self.drain_seconds.or(file.drain_seconds),
        }
    }
}

/// Where a user without rights over /run has the local socket; `None`: the usual place.
fn own_run_dir() -> Option<PathBuf> {
    if nix::unistd::geteuid().is_root() || std::env::var_os("RUNTIME_DIRECTORY").is_some() {
        return None;
    }
    let of_session = std::env::var_os("XDG_RUNTIME_DIR").map(|dir| PathBuf::from(dir).join(PROGRAM));
    Some(
        of_session
            .unwrap_or_else(|| std::env::temp_dir().join(format!("{PROGRAM}-{}", nix::unistd::geteuid()))),
    )
}

fn control_url(text: &str) -> Result<ControlUrl, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!("--control-url `{text}`: {error}"))
            .fix("write https://HOST:PORT, such as https://203.0.113.10:8443")
    })
}

/// Those of the flags and of the file; what is crooked is never repeated.
fn static_users(relay: &RelayFlags) -> Result<Vec<Credentials>, Failure> {
    let mut users = BTreeMap::new();
    let mut add = |text: &str, whence: &str| match text.split_once(':') {
        Some((name, password)) if !name.is_empty() && !password.is_empty() => {
            users.insert(name.to_owned(), Credentials::new(name, password));
            Ok(())
        }
        Some(_) | None => Err(Failure::usage(format!("{whence}: a user is NAME:PASSWORD, both not empty"))),
    };
    for Hidden(text) in &relay.static_user {
        add(text, "--static-user")?;
    }
    if let Some(path) = &relay.static_user_file {
        let shown = path.display();
        let text = secret_file::read(path)
            .map_err(|error| Failure::usage(format!("cannot read the users in {shown}: {error}")))?;
        if secret_file::is_exposed(path) {
            eprintln!("warning: others may read {shown}; chmod 600 {shown}");
        }
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        for line in lines {
            add(line, &format!("{shown}"))?;
        }
    }
    Ok(users.into_values().collect())
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, Failure> {
    let parsed =
        text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    parsed
        .filter(|range: &RangeInclusive<u16>| *range.start() >= 1024 && range.start() < range.end())
        .ok_or_else(|| {
            Failure::usage(format!("--relay-ports `{text}` is no range of ports above 1023"))
                .fix("write for example 49152-65535")
        })
}

fn networks(flag: &str, texts: &[String]) -> Result<Vec<IpNet>, Failure> {
    let network = |text: &String| {
        text.parse::<IpNet>()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
            .map(|net| net.trunc())
            .map_err(|_| {
                Failure::usage(format!("{flag} `{text}` is not a network"))
                    .fix("write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
            })
    };
    texts.iter().map(network).collect()
}

/// RFC 8489 §14.9 allows 127 characters; with more than these a challenge is longer than three times the shortest request.
fn realm(text: String) -> Result<String, Failure> {
    let fine = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
    if (1..=LONGEST_REALM).contains(&text.len()) && text.chars().all(fine) {
        return Ok(text);
    }
    Err(Failure::usage(format!(
        "--realm: 1 to {LONGEST_REALM} printable ASCII characters, without space, quote and backslash"
    ))
    .fix("choose a shorter one: a longer one would make challenges that amplify forged requests"))
}

fn coordinates(text: &str) -> Result<(f64, f64), Failure> {
    let parsed = text.split_once(',').and_then(|(latitude, longitude)| {
        Some((latitude.trim().parse::<f64>().ok()?, longitude.trim().parse::<f64>().ok()?))
    });
    parsed.filter(|(latitude, longitude)| latitude.abs() <= 90.0 && longitude.abs() <= 180.0).ok_or_else(
        || {
            Failure::usage(format!("--coordinates `{text}` is no latitude and longitude"))
                .fix("write degrees, such as 52.52,13.41")
        },
    )
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;

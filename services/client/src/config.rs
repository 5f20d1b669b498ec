//! What the daemon runs with: flags, then variables, then the TOML file, then defaults.

use std::env;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use actors_access::{ControlUrl, Trust};
use clap::{Args, ValueEnum};
use protocol_identity::CertificatePin;
use serde::Deserialize;

use crate::cli::dns_address;
use crate::fail::Failure;

/// Read when no other file is named, if it exists.
const DEFAULT_FILE: &str = "/etc/postern/postern.toml";

/// How the host is made to ask the stub resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DnsMode {
    /// systemd-resolved when it runs, else the file
    Auto,
    /// Through systemd-resolved
    Resolved,
    /// By writing resolv.conf
    File,
    /// Not at all; names are only answered on the stub's own address
    Off,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people
    #[default]
    Human,
    /// For programs, one object a line
    Json,
}

/// What can be set, on the command line and (with `_` for `-`) in the file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Flags {
    /// TOML file with the same settings; default /etc/postern/postern.toml, if it is there
    #[arg(long, env = "POSTERN_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Address of control, https://HOST:PORT; without it, the one that `postern login` gave
    #[arg(long, env = "POSTERN_CONTROL_URL", value_name = "URL")]
    pub control_url: Option<String>,
    /// The certificate that control must show, sha256:…
    #[arg(long, visible_alias = "pin", env = "POSTERN_CONTROL_PIN", value_name = "PIN")]
    pub control_pin: Option<String>,
    /// Certificate authorities (PEM) that control's certificate is checked against
    #[arg(long, env = "POSTERN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with a service account's token; POSTERN_TOKEN may hold the token instead
    #[arg(long, env = "POSTERN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<PathBuf>,
    /// Name of this device; default the host's name
    #[arg(long, env = "POSTERN_NAME", value_name = "NAME")]
    pub name: Option<String>,
    /// Name of the TUN device; default postern0
    #[arg(long, env = "POSTERN_TUN", value_name = "NAME")]
    pub tun: Option<String>,
    /// UDP address of the tunnel, one for each family; default 0.0.0.0:0 and [::]:0
    #[arg(long, env = "POSTERN_LISTEN", value_delimiter = ',', value_name = "ADDRESS:PORT")]
    pub listen: Vec<SocketAddr>,
    /// How the host is made to ask for names here; default auto
    #[arg(long, env = "POSTERN_DNS")]
    pub dns: Option<DnsMode>,
    /// The file that `--dns file` writes; default /etc/resolv.conf
    #[arg(long, env = "POSTERN_RESOLV_CONF", value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Who answers the other names; default who did before
    #[arg(long, env = "POSTERN_DNS_UPSTREAM", value_delimiter = ',', value_name = "ADDRESS[:PORT]")]
    pub dns_upstream: Vec<String>,
    /// Group that may talk to the daemon, besides root; default postern, if it exists
    #[arg(long, env = "POSTERN_SOCKET_GROUP", value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// What lasts: identity key, token; default /var/lib/postern
    #[arg(long, env = "POSTERN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Serve /metrics, /healthz and /readyz here; default off
    #[arg(long, env = "POSTERN_METRICS_LISTEN", value_name = "ADDRESS:PORT|off")]
    pub metrics_listen: Option<String>,
    /// Send traces and metrics to this OTLP endpoint
    #[arg(long, env = "POSTERN_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// How log lines are written; default human
    #[arg(long, env = "POSTERN_LOG_FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, such as info or postern=debug; default info
    #[arg(long, env = "POSTERN_LOG", value_name = "FILTER")]
    pub log: Option<String>,
}

/// What the daemon runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address of control, when it was given.
    pub control_url: Option<ControlUrl>,
    /// Whom to take for control.
    pub trust: Trust,
    /// Where the token is, when it was given.
    pub token_file: Option<PathBuf>,
    /// Name of this device.
    pub name: String,
    /// Name of the TUN device.
    pub tun: String,
    /// UDP addresses of the tunnel.
    pub listen: Vec<SocketAddr>,
    /// How the host is made to ask for names here.
    pub dns: DnsMode,
    /// The file that `DnsMode::File` writes.
    pub resolv_conf: PathBuf,
    /// Who answers the other names; empty: who did before.
    pub dns_upstream: Vec<SocketAddr>,
    /// Group that may talk to the daemon.
    pub socket_group: Option<String>,
    /// What lasts.
    pub state_dir: PathBuf,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// Where traces and metrics are sent.
    pub otlp_endpoint: Option<String>,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log: String,
}

impl Config {
    /// Reads the file and puts everything together.
    pub fn load(flags: Flags) -> Result<Self, Failure> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None if Path::new(DEFAULT_FILE).exists() => read_file(Path::new(DEFAULT_FILE))?,
            None => Flags::default(),
        };
        Self::resolve(flags, file)
    }

    fn resolve(flags: Flags, file: Flags) -> Result<Self, Failure> {
        let list =
            |first: Vec<SocketAddr>, second: Vec<SocketAddr>| if first.is_empty() { second } else { first };
        let upstream = if flags.dns_upstream.is_empty() { file.dns_upstream } else { flags.dns_upstream };
        let dns_upstream = upstream.iter().map(|text| dns_address(text)).collect::<Result<Vec<_>, _>>();
        let mut listen = list(flags.listen, file.listen);
        if listen.is_empty() {
            listen = vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
        }
        let control_pin =
            flags.control_pin.or(file.control_pin).map(|text| text.parse::<CertificatePin>()).transpose();
        let config = Self {
            control_url: flags.control_url.or(file.control_url).map(|text| control_url(&text)).transpose()?,
            trust: Trust {
                pin: control_pin.map_err(|error| Failure::usage(format!("--control-pin: {error}")))?,
                ca_file: flags.ca_file.or(file.ca_file),
            },
            token_file: flags.token_file.or(file.token_file),
            name: flags.name.or(file.name).unwrap_or_else(host_name),
            tun: flags.tun.or(file.tun).unwrap_or_else(|| "postern0".into()),
            listen,
            dns: flags.dns.or(file.dns).unwrap_or(DnsMode::Auto),
            resolv_conf: flags.resolv_conf.or(file.resolv_conf).unwrap_or_else(|| "/etc/resolv.conf".into()),
            dns_upstream: dns_upstream.map_err(|error| Failure::usage(format!("--dns-upstream: {error}")))?,
            socket_group: flags.socket_group.or(file.socket_group),
            state_dir: flags
                .state_dir
                .or(file.state_dir)
                .or_else(|| env::var_os("STATE_DIRECTORY").map(PathBuf::from))
                .unwrap_or_else(|| "/var/lib/postern".into()),
            metrics_listen: metrics_listen(flags.metrics_listen.or(file.metrics_listen).as_deref())?,
            otlp_endpoint: flags.otlp_endpoint.or(file.otlp_endpoint),
            log_format: flags.log_format.or(file.log_format).unwrap_or_default(),
            log: flags.log.or(file.log).unwrap_or_else(|| "info".into()),
        };
        config.validate()
    }

    fn validate(self) -> Result<Self, Failure> {
        let fine = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
        // IFNAMSIZ is 16 with its closing zero.
        if self.tun.is_empty() || self.tun.len() > 15 || !self.tun.chars().all(fine) {
            return Err(Failure::usage(format!("--tun `{}`: 1 to 15 letters, digits, - _ .", self.tun)));
        }
        let families = |v4: bool| self.listen.iter().filter(|address| address.is_ipv4() == v4).count();
        if families(true) > 1 || families(false) > 1 {
            return Err(Failure::usage("--listen: at most one address for each family"));
        }
        Ok(self)
    }
}

/// Reads an address of control.
///
/// # Errors
/// When it is not `https://HOST[:PORT]`.
pub fn control_url(text: &str) -> Result<ControlUrl, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!("--control-url `{text}`: {error}"))
            .fix("write https://HOST:PORT, such as https://203.0.113.10:8443")
    })
}

fn metrics_listen(text: Option<&str>) -> Result<Option<SocketAddr>, Failure> {
    match text {
        None | Some("off") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Failure::usage(format!(
                "--metrics-listen `{text}`: write ADDRESS:PORT, such as 127.0.0.1:9463, or off"
            ))
        }),
    }
}

fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "device".into(),
        name => name.into(),
    }
}

fn read_file(path: &Path) -> Result<Flags, Failure> {
    let shown = path.display();
    let text = fs::read_to_string(path).map_err(|error: io::Error| {
        Failure::usage(format!("cannot read the configuration {shown}: {error}"))
    })?;
    parse(&text).map_err(|error| {
        Failure::usage(format!("the configuration {shown}: {}", error.to_string().trim_end()))
    })
}

fn parse(text: &str) -> Result<Flags, toml::de::Error> {
    toml::from_str(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: Flags, file: &str) -> Result<Config, Failure> {
        Config::resolve(flags, parse(file).unwrap())
    }

    #[test]
    fn the_example_is_a_configuration_and_shows_every_setting() {
        let example = include_str!("../config.example.toml");
        let all_on = example
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");

        let flags = parse(&all_on).unwrap();

        assert!(parse(example).is_ok());
        let shown = format!("{flags:?}");
        assert_eq!(shown.matches("None").count(), 1, "only `config` itself is missing: {shown}");
        assert!(!shown.contains("[]"), "{shown}");
        assert!(Config::resolve(Flags::default(), flags).is_ok());
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let flags = Flags { tun: Some("flag0".into()), ..Flags::default() };

        let config = resolve(flags, "tun = 'file0'\nname = 'from-file'").unwrap();

        assert_eq!(config.tun, "flag0");
        assert_eq!(config.name, "from-file");
        assert_eq!(config.resolv_conf, Path::new("/etc/resolv.conf"));
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        let error = parse("colour = 'red'").unwrap_err();

        assert!(error.to_string().contains("colour"));
    }

    #[test]
    fn crooked_values_name_their_flag() {
        for (file, flag) in [
            ("control_url = 'http://a'", "--control-url"),
            ("control_pin = 'abc'", "--control-pin"),
            ("tun = 'a/b'", "--tun"),
            ("dns_upstream = ['dns.example']", "--dns-upstream"),
            ("metrics_listen = '9463'", "--metrics-listen"),
            ("listen = ['0.0.0.0:1', '0.0.0.0:2']", "--listen"),
        ] {
            let failure = resolve(Flags::default(), file).unwrap_err();

            assert!(failure.what.contains(flag), "{failure}");
        }
    }
}

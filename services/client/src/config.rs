//! What the daemon runs with: flags, then variables, then the TOML file, then defaults.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use actors_access::{ControlUrl, Trust};
use actors_network::Offloads;
use clap::{Args, ValueEnum};
use serde::Deserialize;
use services_chassis::{CommonFlags, ConfigFile, Failure, NodeFlags, OffloadFlags, Settings, is_on};

use crate::cli::dns_address;

/// The name of the program, of its unit, directories and socket.
pub const PROGRAM: &str = "postern";

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

/// Flags of the daemon alone; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OwnFlags {
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
}

impl OwnFlags {
    fn or(self, file: Self) -> Self {
        fn list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
            if first.is_empty() { second } else { first }
        }
        Self {
            tun: self.tun.or(file.tun),
            listen: list(self.listen, file.listen),
            dns: self.dns.or(file.dns),
            resolv_conf: self.resolv_conf.or(file.resolv_conf),
            dns_upstream: list(self.dns_upstream, file.dns_upstream),
        }
    }
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// Where control is, whom to take for it, and as whom.
    #[command(flatten)]
    pub node: NodeFlags,
    /// The daemon's own.
    #[command(flatten)]
    pub own: OwnFlags,
    /// What the kernel may do to many packets at once.
    #[command(flatten)]
    pub offload: OffloadFlags,
    /// What every program has.
    #[command(flatten)]
    pub common: CommonFlags,
}

/// What the daemon runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of control, when it was given here and not by `postern login`.
    pub control_url: Option<ControlUrl>,
    /// Whom to take for control, when it was given here.
    pub trust: Trust,
    /// Where the token is, when it is not kept by `postern login`; the name of this device.
    pub node: NodeFlags,
    /// Name of the TUN device.
    pub tun: String,
    /// The most offload to ask for.
    pub offload: Offloads,
    /// UDP addresses of the tunnel, at most one a family.
    pub listen: Vec<SocketAddr>,
    /// How the host is made to ask for names here.
    pub dns: DnsMode,
    /// The file that [`DnsMode::File`] writes.
    pub resolv_conf: PathBuf,
    /// Who answers the other names; empty: who did before.
    pub dns_upstream: Vec<SocketAddr>,
    /// What every program has.
    pub settings: Settings,
}

impl Config {
    /// Reads the file and puts everything together.
    pub fn load(flags: Flags) -> Result<Self, Failure> {
        let file = flags.common.file(PROGRAM)?;
        Self::with(flags, file)
    }

    fn with(flags: Flags, mut file: ConfigFile) -> Result<Self, Failure> {
        let node = flags.node.or(file.take()?);
        let own = flags.own.or(file.take()?);
        let offload = flags.offload.or(file.take()?);
        let settings = flags.common.or(file.take()?).resolve(PROGRAM)?;
        file.finish()?;
        let mut listen = own.listen;
        if listen.is_empty() {
            listen = vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()];
        }
        let upstream = own.dns_upstream.iter().map(|text| dns_address(text)).collect::<Result<Vec<_>, _>>();
        let config = Self {
            control_url: node.control_url.as_deref().map(control_url).transpose()?,
            trust: Trust { pin: node.pin()?, ca_file: node.ca_file.clone() },
            node,
            tun: own.tun.unwrap_or_else(|| "postern0".into()),
            offload: Offloads::wanted(
                is_on(offload.tun_offload),
                is_on(offload.udp_gso),
                is_on(offload.udp_gro),
            ),
            listen,
            dns: own.dns.unwrap_or(DnsMode::Auto),
            resolv_conf: own.resolv_conf.unwrap_or_else(|| "/etc/resolv.conf".into()),
            dns_upstream: upstream.map_err(|error| Failure::usage(format!("--dns-upstream: {error}")))?,
            settings,
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

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn with(flags: Flags, file: &str) -> Result<Config, Failure> {
        Config::with(flags, ConfigFile::parse("test.toml", file)?)
    }

    #[test]
    fn the_example_is_a_configuration_and_shows_every_setting() {
        let example = include_str!("../config.example.toml");
        let all = example
            .lines()
            .map(|line| line.strip_prefix("#: ").unwrap_or(line))
            .collect::<Vec<_>>()
            .join("\n");

        assert!(with(Flags::default(), example).is_ok());
        assert!(with(Flags::default(), &all).is_ok());
        let keys = all.parse::<toml::Table>().unwrap();
        let flags = Flags::augment_args(clap::Command::new("keys"));
        for flag in flags.get_arguments().map(|flag| flag.get_id().as_str()).filter(|flag| *flag != "config")
        {
            assert!(keys.contains_key(flag), "the example does not show {flag}");
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let mut flags = Flags::default();
        flags.own.tun = Some("flag0".into());

        let config = with(flags, "tun = 'file0'\nname = 'from-file'").unwrap();

        assert_eq!(config.tun, "flag0");
        assert_eq!(config.node.name(), "from-file");
        assert_eq!(config.resolv_conf, Path::new("/etc/resolv.conf"));
    }

    #[test]
    fn an_unknown_setting_is_an_error_that_names_it() {
        let failure = with(Flags::default(), "colour = 'red'").unwrap_err();

        assert!(failure.what.contains("colour"));
    }

    #[test]
    fn crooked_values_name_their_flag() {
        for (file, flag) in [
            ("control_url = 'http://a'", "--control-url"),
            ("control_pin = 'abc'", "--control-pin"),
            ("tun = 'a/b'", "--tun"),
            ("dns_upstream = ['dns.example']", "--dns-upstream"),
            ("listen = ['0.0.0.0:1', '0.0.0.0:2']", "--listen"),
        ] {
            let failure = with(Flags::default(), file).unwrap_err();

            assert!(failure.what.contains(flag), "{failure}");
        }
    }
}

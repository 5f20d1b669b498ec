//! What the gateway runs with: flags, then variables, then the TOML file, then defaults.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use actors_access::{ControlUrl, Trust};
use actors_network::Offloads;
use clap::Args;
use ipnet::IpNet;
use serde::Deserialize;
use services_chassis::{CommonFlags, Failure, NodeFlags, OffloadFlags, Settings, is_on};

use crate::cli::Cli;

/// The program's name, as files and directories have it.
pub const PROGRAM: &str = "postern-gateway";
/// Where metrics are served unless told otherwise.
const METRICS: &str = "127.0.0.1:9461";

/// More than the cores of the machines that gateways run on; a TUN device has at most 256 queues.
const MAX_LANES: i64 = 64;

/// What a process may well keep in memory.
const MAX_SPOOL_MIB: i64 = 1024;
/// Some 40,000 records.
const SPOOL_MIB: u32 = 16;

/// Flags of the gateway; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Gateway")]
pub struct GatewayFlags {
    /// Name of the TUN device; default postern-gw0
    #[arg(long, env = "POSTERN_TUN", value_name = "NAME")]
    pub tun: Option<String>,
    /// Threads that carry packets; each device belongs to one of them. Default one for each core
    #[arg(long, env = "POSTERN_LANES", value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=MAX_LANES))]
    pub lanes: Option<u8>,
    /// What records of flows may take while control is away, MiB; the oldest give way. Default 16
    #[arg(long, env = "POSTERN_FLOW_SPOOL_MIB", value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..=MAX_SPOOL_MIB))]
    pub flow_spool_mib: Option<u32>,
    /// UDP address of the tunnel, one for each family; default 0.0.0.0:0 and [::]:0
    #[arg(long, env = "POSTERN_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// The most that this gateway lets anybody reach, whatever control says (repeatable); default everything
    #[arg(long, env = "POSTERN_ALLOW_RESOURCE", value_name = "CIDR", value_delimiter = ',')]
    pub allow_resource: Vec<String>,
    /// Let resources see the devices' tunnel addresses instead of the gateway's; the site must route them back
    #[arg(long, env = "POSTERN_NO_MASQUERADE", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub no_masquerade: Option<bool>,
    /// DNS server that knows the site's names (repeatable, asked in this order); default those of /etc/resolv.conf
    #[arg(long, env = "POSTERN_DNS", value_name = "ADDRESS[:PORT]", value_delimiter = ',')]
    pub dns: Vec<String>,
}

/// What the gateway runs with.
#[derive(Debug, Clone)]
pub struct Config {
    /// What every program runs with.
    pub settings: Settings,
    /// What every node is told about control.
    pub node: NodeFlags,
    /// Where control is.
    pub control_url: Option<ControlUrl>,
    /// Whom to take for control.
    pub trust: Trust,
    /// The name of the TUN device.
    pub tun: String,
    /// The most offload to ask for.
    pub offload: Offloads,
    /// Threads that carry packets.
    pub lanes: u8,
    /// What records of flows may take while control is away, bytes.
    pub flow_spool: usize,
    /// UDP addresses of the tunnel, at most one a family.
    pub listen: Vec<SocketAddr>,
    /// The local ceiling, if there is one.
    pub ceiling: Option<Vec<IpNet>>,
    /// Whether resources see the gateway's address instead of the devices'.
    pub masquerade: bool,
    /// DNS servers; empty: the host's.
    pub dns: Vec<SocketAddr>,
}

impl Config {
    /// Reads the file and puts everything together.
    ///
    /// # Errors
    /// When the file cannot be read or a value is crooked.
    pub fn load(cli: &Cli) -> Result<Self, Failure> {
        let mut file = cli.common.file(PROGRAM)?;
        let (common, node, gateway, offload) = (file.take()?, file.take()?, file.take()?, file.take()?);
        file.finish()?;
        Self::resolve(
            cli.common.clone().or(common),
            cli.node.clone().or(node),
            cli.gateway.clone().or(gateway),
            &cli.offload.clone().or(offload),
        )
    }

    fn resolve(
        mut common: CommonFlags,
        node: NodeFlags,
        gateway: GatewayFlags,
        offload: &OffloadFlags,
    ) -> Result<Self, Failure> {
        common.metrics_listen.get_or_insert_with(|| METRICS.into());
        let listen = match gateway.listen {
            none if none.is_empty() => {
                vec![(Ipv4Addr::UNSPECIFIED, 0).into(), (Ipv6Addr::UNSPECIFIED, 0).into()]
            }
            listen => listen,
        };
        for is_v4 in [true, false] {
            if listen.iter().filter(|address| address.is_ipv4() == is_v4).count() > 1 {
                return Err(Failure::usage("--listen: at most one address for each family"));
            }
        }
        let ceiling =
            gateway.allow_resource.iter().map(|text| network(text)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            settings: common.resolve(PROGRAM)?,
            control_url: node.control_url.as_deref().map(control_url).transpose()?,
            trust: Trust { pin: node.pin()?, ca_file: node.ca_file.clone() },
            node,
            tun: device_name(gateway.tun.unwrap_or_else(|| "postern-gw0".into()))?,
            offload: Offloads::wanted(
                is_on(offload.tun_offload),
                is_on(offload.udp_gso),
                is_on(offload.udp_gro),
            ),
            lanes: lanes(gateway.lanes)?,
            flow_spool: flow_spool(gateway.flow_spool_mib)?,
            listen,
            ceiling: (!ceiling.is_empty()).then_some(ceiling),
            masquerade: !gateway.no_masquerade.unwrap_or(false),
            dns: gateway.dns.iter().map(|text| dns_server(text)).collect::<Result<_, _>>()?,
        })
    }
}

impl GatewayFlags {
    /// These flags, and where one is not given, the file's.
    #[must_use]
    fn or(self, file: Self) -> Self {
        fn list<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
            if first.is_empty() { second } else { first }
        }
        Self {
            tun: self.tun.or(file.tun),
            lanes: self.lanes.or(file.lanes),
            flow_spool_mib: self.flow_spool_mib.or(file.flow_spool_mib),
            listen: list(self.listen, file.listen),
            allow_resource: list(self.allow_resource, file.allow_resource),
            no_masquerade: self.no_masquerade.or(file.no_masquerade),
            dns: list(self.dns, file.dns),
        }
    }
}

/// One for each core, unless told otherwise. The file's number has passed no parser of flags.
fn lanes(wanted: Option<u8>) -> Result<u8, Failure> {
    match wanted {
        Some(lanes) if (1..=MAX_LANES).contains(&i64::from(lanes)) => Ok(lanes),
        Some(lanes) => Err(Failure::usage(format!("--lanes {lanes}: a gateway has 1 to {MAX_LANES}"))),
        None => Ok(std::thread::available_parallelism()
            .map_or(1, |cores| u8::try_from(cores.get()).unwrap_or(u8::MAX))
            .min(MAX_LANES as u8)),
    }
}

fn flow_spool(wanted: Option<u32>) -> Result<usize, Failure> {
    let mib = wanted.unwrap_or(SPOOL_MIB);
    if (1..=MAX_SPOOL_MIB).contains(&i64::from(mib)) {
        return Ok(mib as usize * 1024 * 1024);
    }
    Err(Failure::usage(format!("--flow-spool-mib {mib}: write 1 to {MAX_SPOOL_MIB}")))
}

fn control_url(text: &str) -> Result<ControlUrl, Failure> {
    text.parse().map_err(|error| {
        Failure::usage(format!("--control-url `{text}`: {error}"))
            .fix("write https://HOST:PORT, such as https://203.0.113.10:8443")
    })
}

fn device_name(name: String) -> Result<String, Failure> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    // IFNAMSIZ is 16 with its closing zero.
    if name.is_empty() || name.len() > 15 || !name.chars().all(fine) {
        return Err(Failure::usage(format!(
            "--tun `{name}`: a device name has 1 to 15 letters, digits, - _ ."
        )));
    }
    Ok(name)
}

fn network(text: &str) -> Result<IpNet, Failure> {
    text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map(|net| net.trunc()).map_err(
        |_| {
            Failure::usage(format!("--allow-resource `{text}` is not a network"))
                .fix("write 10.0.0.0/8, 192.0.2.7 or 2001:db8::/32")
        },
    )
}

fn dns_server(text: &str) -> Result<SocketAddr, Failure> {
    text.parse().or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53))).map_err(|_| {
        Failure::usage(format!("--dns `{text}` is not an address"))
            .fix("write 192.0.2.53 or [2001:db8::53]:5353")
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser as _};
    use services_chassis::ConfigFile;

    use super::*;
    use crate::cli::Line;

    fn resolve(arguments: &str, file: &str) -> Result<Config, Failure> {
        let line = format!("{PROGRAM}{arguments}");
        let Line(cli) = Line::try_parse_from(line.split(' ')).unwrap();
        let mut file = ConfigFile::parse("test.toml", file)?;
        let (common, node, gateway, offload) = (file.take()?, file.take()?, file.take()?, file.take()?);
        file.finish()?;
        let offload = cli.offload.or(offload);
        Config::resolve(cli.common.or(common), cli.node.or(node), cli.gateway.or(gateway), &offload)
    }

    #[test]
    fn there_is_a_lane_for_each_core_unless_a_number_is_given() {
        assert!(resolve("", "").unwrap().lanes >= 1);
        assert_eq!(resolve(" --lanes 3", "lanes = 2").unwrap().lanes, 3);
        assert_eq!(resolve("", "lanes = 2").unwrap().lanes, 2);
        for lanes in ["lanes = 0", "lanes = 65"] {
            let error = resolve("", lanes).unwrap_err().to_string();
            assert!(error.contains("1 to 64"), "{error}");
        }
    }

    #[test]
    fn the_example_is_a_configuration_and_shows_every_key() {
        let example = include_str!("../config.example.toml");
        let all_on: String =
            example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();

        let config = resolve("", &all_on).unwrap();
        let keys = all_on.parse::<toml::Table>().unwrap();

        assert!(resolve("", example).is_ok());
        assert_eq!(config.ceiling.unwrap().len(), 2);
        for flag in Line::command().get_arguments() {
            let key = flag.get_id().as_str();
            let is_key = !matches!(key, "config" | "socket");
            assert_eq!(keys.contains_key(key), is_key, "{key}");
        }
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let file = "tun = 'file0'\nname = 'office-1'\ndns = ['192.0.2.53']\nno_masquerade = true";

        let config = resolve(" --tun flag0 --metrics-listen off", file).unwrap();

        assert_eq!(config.tun, "flag0");
        assert_eq!(config.node.name(), "office-1");
        assert_eq!(config.dns, ["192.0.2.53:53".parse().unwrap()]);
        assert_eq!(config.settings.metrics_listen, None);
        assert!(!config.masquerade);
        assert_eq!(config.listen.len(), 2);
    }

    #[test]
    fn each_offload_can_be_turned_off() {
        let config = resolve(" --udp-gso off", "tun_offload = 'off'").unwrap();

        assert_eq!(config.offload, Offloads::wanted(false, false, true));
    }

    #[test]
    fn metrics_are_on_the_loopback_unless_told_otherwise() {
        let config = resolve("", "").unwrap();

        assert_eq!(config.settings.metrics_listen, Some(METRICS.parse().unwrap()));
        assert!(config.masquerade && config.ceiling.is_none());
    }

    #[test]
    fn crooked_values_name_their_flag() {
        for (file, flag) in [
            ("control_url = 'http://a'", "--control-url"),
            ("control_pin = 'abc'", "--control-pin"),
            ("tun = 'a/b'", "--tun"),
            ("tun = 'a-name-that-is-too-long'", "--tun"),
            ("dns = ['dns.example']", "--dns"),
            ("allow_resource = ['10.0.0.0/33']", "--allow-resource"),
            ("listen = ['0.0.0.0:1', '0.0.0.0:2']", "--listen"),
            ("flow_spool_mib = 0", "--flow-spool-mib"),
        ] {
            let failure = resolve("", file).unwrap_err();

            assert!(failure.what.contains(flag), "{failure}");
            assert_eq!(failure.exit, services_chassis::Exit::Usage);
        }
    }

    #[test]
    fn a_key_that_nobody_knows_is_refused_by_name() {
        assert!(resolve("", "colour = 'red'").unwrap_err().what.contains("colour"));
    }
}

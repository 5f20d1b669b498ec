//! What control runs with: flags, then variables, then the TOML file, then defaults.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use actors_control::sql::{InvalidLocation, Location};
use clap::Args;
use serde::Deserialize;
use services_chassis::Failure;
use services_chassis::settings::{CommonFlags, Settings};

use crate::cli::Cli;

/// The program's name, as files and directories have it.
pub const PROGRAM: &str = "postern-control";
/// Where metrics are served unless told otherwise.
const METRICS: &str = "127.0.0.1:9460";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Flags of control; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[command(next_help_heading = "Control")]
pub struct ControlFlags {
    /// Where the API and the sessions of nodes are served, HTTPS (repeatable); default 0.0.0.0:8443
    #[arg(long, env = "POSTERN_LISTEN", value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// How nodes reach this control plane; default the first own address, kept from the first start
    #[arg(long, env = "POSTERN_PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// Another name for --state-dir
    #[arg(long, env = "POSTERN_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where everything is kept: sqlite:FILE or postgres://USER@HOST/DATABASE; default a file in the state directory
    #[arg(long, env = "POSTERN_DATABASE", value_name = "URL", hide_env_values = true)]
    pub database: Option<String>,
    /// Certificate chain of your own (PEM); without it, a self-signed certificate that nodes pin
    #[arg(long, env = "POSTERN_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "POSTERN_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// Name of the account that the first start makes; default "default"
    #[arg(long, env = "POSTERN_ACCOUNT", value_name = "NAME")]
    pub account: Option<String>,
    /// How long what was granted goes on without control, such as 30m or 24h; default 24h
    #[arg(long, env = "POSTERN_MAX_PARTITION", value_name = "DURATION")]
    pub max_partition: Option<String>,
    /// How long records of flows are kept, such as 7d; default 30d
    #[arg(long, env = "POSTERN_FLOW_RETENTION", value_name = "DURATION")]
    pub flow_retention: Option<String>,
    /// Countries of addresses, a database in the MaxMind format (.mmdb); without it no country is known
    #[arg(long, env = "POSTERN_COUNTRY_DATABASE", value_name = "FILE")]
    pub country_database: Option<PathBuf>,
}

impl ControlFlags {
    fn or(self, file: Self) -> Self {
        Self {
            listen: if self.listen.is_empty() { file.listen } else { self.listen },
            public_url: self.public_url.or(file.public_url),
            data_dir: self.data_dir.or(file.data_dir),
            database: self.database.or(file.database),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            account: self.account.or(file.account),
            max_partition: self.max_partition.or(file.max_partition),
            flow_retention: self.flow_retention.or(file.flow_retention),
            country_database: self.country_database.or(file.country_database),
        }
    }
}

/// What control runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What every program runs with.
    pub settings: Settings,
    /// Where HTTPS is served.
    pub listen: Vec<SocketAddr>,
    /// How nodes reach control, if it was said.
    pub public_url: Option<String>,
    /// Where everything is kept.
    pub database: Location,
    /// Certificate and key of the administrator's own.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// The account that the first start makes.
    pub account: String,
    /// How long what was granted goes on without control.
    pub max_partition: Duration,
    /// How long records of flows are kept.
    pub flow_retention: Duration,
    /// Where the countries of addresses come from.
    pub country_database: Option<PathBuf>,
}

impl Config {
    /// Puts flags, variables, file and defaults together.
    ///
    /// # Errors
    /// When a value is crooked, or the file cannot be read.
    pub fn load(cli: &Cli) -> Result<Self, Failure> {
        let mut file = cli.common.0.file(PROGRAM)?;
        let common = cli.common.0.clone().or(file.take()?);
        let control = cli.control.0.clone().or(file.take()?);
        file.finish()?;
        Self::resolve(common, control)
    }

    fn resolve(common: CommonFlags, control: ControlFlags) -> Result<Self, Failure> {
        let common = CommonFlags {
            metrics_listen: common.metrics_listen.or_else(|| Some(METRICS.into())),
            state_dir: common.state_dir.or(control.data_dir),
            ..common
        };
        let public_url = control.public_url.map(|url| checked_url(&url)).transpose()?;
        let tls = match (control.tls_cert, control.tls_key) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => {
                return Err(
                    Failure::usage("--tls-cert and --tls-key belong together").fix("give both, or neither")
                );
            }
        };
        let listen = if control.listen.is_empty() {
            vec![SocketAddr::from(([0, 0, 0, 0], 8443))]
        } else {
            control.listen
        };
        let max_partition =
            control.max_partition.map_or(Ok(DAY), |text| duration("--max-partition", &text, 30 * DAY))?;
        let flow_retention = control
            .flow_retention
            .map_or(Ok(30 * DAY), |text| duration("--flow-retention", &text, 3650 * DAY))?;
        let account = control.account.unwrap_or_else(|| "default".into());
        if !is_name(&account) {
            return Err(Failure::usage(format!("--account `{account}` is no name"))
                .fix("write 1 to 64 letters, digits, dots, hyphens and underscores"));
        }
        let settings = common.resolve(PROGRAM)?;
        let database = match control.database {
            // The text may hold a password: it is not repeated.
            Some(text) => text.parse().map_err(|error: InvalidLocation| {
                Failure::usage(format!("--database: {error}"))
                    .fix("write for example postgres://postern@db.example.com/postern")
            })?,
            None => Location::Sqlite(settings.state_dir.join("control.sqlite")),
        };
        let country_database = control.country_database;
        Ok(Self {
            settings,
            listen,
            public_url,
            database,
            tls,
            account,
            max_partition,
            flow_retention,
            country_database,
        })
    }
}

/// Whether it can be the name of an account or a token.
pub fn is_name(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && uuid::Uuid::parse_str(text).is_err()
}

/// Checks an address that nodes are told, and takes the slash at its end off.
fn checked_url(url: &str) -> Result<String, Failure> {
    let url = url.trim_end_matches('/');
    let host = url.strip_prefix("https://").unwrap_or_default();
    if host.is_empty() || host.contains(['/', ' ', '?', '#', '@']) {
        return Err(Failure::usage(format!("--public-url `{url}` is not an address of a host"))
            .fix("write for example https://control.example.com:8443"));
    }
    Ok(url.to_owned())
}

/// Reads `30s`, `10m`, `8h` or `7d`; at least a minute.
fn duration(flag: &str, text: &str, most: Duration) -> Result<Duration, Failure> {
    let crooked = || {
        let days = most.as_secs() / DAY.as_secs();
        Failure::usage(format!("{flag} `{text}` is no duration from 1 minute to {days} days"))
            .fix("write for example 30m, 24h or 7d")
    };
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(crooked)?;
    let unit: u64 = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(crooked()),
    };
    let seconds =
        number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(crooked)?;
    if (60..=most.as_secs()).contains(&seconds) { Ok(Duration::from_secs(seconds)) } else { Err(crooked()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use services_chassis::settings::ConfigFile;

    use super::*;

    fn load(line: &str) -> Result<Config, Failure> {
        let words = ["postern-control"].into_iter().chain(line.split_whitespace());
        Config::load(&Cli::try_parse_from(words).unwrap())
    }

    #[test]
    fn without_flags_the_defaults_hold() {
        let config = Config::resolve(CommonFlags::default(), ControlFlags::default()).unwrap();

        assert_eq!(config.listen, ["0.0.0.0:8443".parse().unwrap()]);
        assert_eq!(config.settings.metrics_listen, Some("127.0.0.1:9460".parse().unwrap()));
        assert_eq!(config.account, "default");
        assert_eq!(config.max_partition, Duration::from_secs(86_400));
        assert_eq!(config.flow_retention, 30 * DAY);
        assert_eq!(config.tls, None);
    }

    #[test]
    fn the_example_is_read_and_shows_every_key() {
        let text = include_str!("../config.example.toml");
        // What is commented out with one `#` and no space is an example too.
        let shown: String = text
            .lines()
            .map(|line| match line.strip_prefix('#') {
                Some(rest) if !rest.starts_with(' ') && rest.contains(" = ") => format!("{rest}\n"),
                _ => format!("{line}\n"),
            })
            .collect();

        for text in [text, &shown] {
            let mut file = ConfigFile::parse("config.example.toml", text).unwrap();
            let (common, control) = (file.take().unwrap(), file.take().unwrap());
            file.finish().unwrap();
            Config::resolve(common, control).unwrap();
        }
        let keys = |args: clap::Command| {
            args.get_arguments().map(|flag| flag.get_id().to_string()).collect::<Vec<_>>()
        };
        let all = [
            keys(CommonFlags::augment_args(clap::Command::new("x"))),
            keys(ControlFlags::augment_args(clap::Command::new("x"))),
        ];
        for key in all.concat().into_iter().filter(|key| !matches!(key.as_str(), "config" | "data_dir")) {
            assert!(shown.contains(&format!("\n{key} = ")), "{key} is missing in the example");
        }
    }

    #[test]
    fn crooked_values_name_their_flag() {
        for (line, flag) in [
            ("--public-url http://control.example.com", "--public-url"),
            ("--public-url https://control.example.com/path", "--public-url"),
            ("--max-partition 24", "--max-partition"),
            ("--max-partition 5s", "--max-partition"),
            ("--flow-retention 5s", "--flow-retention"),
            ("--flow-retention 3651d", "--flow-retention"),
            ("--account a/b", "--account"),
            ("--database mysql://db/postern", "--database"),
        ] {
            assert!(load(line).unwrap_err().what.contains(flag), "{line}");
        }
    }

    #[test]
    fn durations_are_read() {
        let duration = |text| duration("--max-partition", text, 30 * DAY);
        assert_eq!(duration("90m").unwrap(), Duration::from_secs(5400));
        assert_eq!(duration("7d").unwrap(), 7 * DAY);
        for text in ["", "m", "-1h", "1.5h", "é"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}

//! What every program can be told: flags, then `POSTERN_*` variables, then a TOML file, then defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

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

/// Flags of every program; with `_` for `-` also keys of the TOML file.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CommonFlags {
    /// TOML file with the same settings; default /etc/postern/<program>.toml, if it is there
    #[arg(long, env = "POSTERN_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// How log lines are written; default human
    #[arg(long, env = "POSTERN_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged, such as info or actors_tunnel=debug; default info
    #[arg(long, visible_alias = "log", env = "POSTERN_LOG", value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Send traces and metrics to this OTLP endpoint (HTTP), such as http://127.0.0.1:4318
    #[arg(long, env = "POSTERN_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Serve /metrics, /healthz and /readyz here; default off
    #[arg(long, env = "POSTERN_METRICS_LISTEN", value_name = "ADDRESS:PORT|off")]
    pub metrics_listen: Option<String>,
    /// What lasts; default /var/lib/<program>
    #[arg(long, env = "POSTERN_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Directory of the local socket; default /run/<program>
    #[arg(long, env = "POSTERN_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Group that may use the local socket, besides root; default <program>, if it exists
    #[arg(long, env = "POSTERN_SOCKET_GROUP", value_name = "GROUP")]
    pub socket_group: Option<String>,
}

/// What every program runs with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What is logged.
    pub log_level: String,
    /// Where traces and metrics are sent.
    pub otlp_endpoint: Option<String>,
    /// Where metrics are served.
    pub metrics_listen: Option<SocketAddr>,
    /// What lasts.
    pub state_dir: PathBuf,
    /// Where the local socket is.
    pub run_dir: PathBuf,
    /// Group that may use the local socket.
    pub socket_group: Option<String>,
}

impl CommonFlags {
    /// The configuration file: the named one, or the default one if it exists, or an empty one.
    ///
    /// # Errors
    /// When it cannot be read, or is no TOML.
    pub fn file(&self, program: &str) -> Result<ConfigFile, Failure> {
        if let Some(path) = &self.config {
            return ConfigFile::read(path);
        }
        let path = PathBuf::from(format!("/etc/postern/{program}.toml"));
        if path.exists() { ConfigFile::read(&path) } else { Ok(ConfigFile::default()) }
    }

    /// These flags (clap has put variables in where no flag was), and where one is not given, the file's.
    #[must_use]
    pub fn or(self, file: Self) -> Self {
        Self {
            config: self.config,
            log_format: self.log_format.or(file.log_format),
            log_level: self.log_level.or(file.log_level),
            otlp_endpoint: self.otlp_endpoint.or(file.otlp_endpoint),
            metrics_listen: self.metrics_listen.or(file.metrics_listen),
            state_dir: self.state_dir.or(file.state_dir),
            run_dir: self.run_dir.or(file.run_dir),
            socket_group: self.socket_group.or(file.socket_group),
        }
    }

    /// Fills in the defaults of a program and checks the values.
    ///
    /// # Errors
    /// When a value is crooked.
    pub fn resolve(self, program: &str) -> Result<Settings, Failure> {
        Ok(Settings {
            log_format: self.log_format.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".into()),
            otlp_endpoint: self.otlp_endpoint.map(otlp_endpoint).transpose()?,
            metrics_listen: metrics_listen(self.metrics_listen.as_deref())?,
            state_dir: self.state_dir.unwrap_or_else(|| directory("STATE_DIRECTORY", "/var/lib", program)),
            run_dir: self.run_dir.unwrap_or_else(|| directory("RUNTIME_DIRECTORY", "/run", program)),
            socket_group: self.socket_group,
        })
    }
}

impl Settings {
    /// The program's local socket.
    pub fn socket(&self, program: &str) -> PathBuf {
        self.run_dir.join(format!("{program}.sock"))
    }
}

/// What systemd made for the unit, or the usual place.
fn directory(variable: &str, base: &str, program: &str) -> PathBuf {
    let by_systemd = std::env::var_os(variable)
        .and_then(|dirs| dirs.to_string_lossy().split(':').next().map(PathBuf::from))
        .filter(|dir| dir.is_absolute());
    by_systemd.unwrap_or_else(|| Path::new(base).join(program))
}

/// Where metrics are served: `ADDRESS:PORT`, or `off`.
///
/// # Errors
/// When it is neither.
pub fn metrics_listen(text: Option<&str>) -> Result<Option<SocketAddr>, Failure> {
    match text {
        None | Some("off" | "") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| {
            Failure::usage(format!("--metrics-listen `{text}` is neither ADDRESS:PORT nor off"))
                .fix("write for example 127.0.0.1:9463")
        }),
    }
}

fn otlp_endpoint(text: String) -> Result<String, Failure> {
    if text.starts_with("http://") || text.starts_with("https://") {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err(Failure::usage(format!("--otlp-endpoint `{text}` is not an HTTP address"))
        .fix("write for example http://127.0.0.1:4318"))
}

/// A TOML file whose keys belong to several flag structs.
#[derive(Debug, Default)]
pub struct ConfigFile {
    name: String,
    table: toml::Table,
}

impl ConfigFile {
    /// Reads a file.
    ///
    /// # Errors
    /// When it cannot be read, or is no TOML.
    pub fn read(path: &Path) -> Result<Self, Failure> {
        let name = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("cannot read the configuration {name}: {error}")))?;
        Self::parse(&name, &text)
    }

    /// Reads a text; `name` is what errors call it.
    ///
    /// # Errors
    /// When it is no TOML.
    pub fn parse(name: &str, text: &str) -> Result<Self, Failure> {
        let table = text.parse::<toml::Table>().map_err(|error| {
            Failure::usage(format!("the configuration {name}: {}", error.to_string().trim_end()))
        })?;
        Ok(Self { name: name.to_owned(), table })
    }

    /// Takes the keys out that are flags of `T`.
    ///
    /// # Errors
    /// When a value does not fit.
    pub fn take<T: Args + DeserializeOwned>(&mut self) -> Result<T, Failure> {
        let flags = T::augment_args(clap::Command::new("keys"));
        let keys = flags.get_arguments().map(|flag| flag.get_id().as_str());
        let table = keys.filter_map(|key| self.table.remove_entry(key)).collect::<toml::Table>();
        table.try_into().map_err(|error: toml::de::Error| {
            Failure::usage(format!("the configuration {}: {}", self.name, error.to_string().trim_end()))
        })
    }

    /// Refuses what nobody has taken.
    ///
    /// # Errors
    /// When there is such a key.
    pub fn finish(self) -> Result<(), Failure> {
        match self.table.keys().next() {
            None => Ok(()),
            Some(key) => Err(Failure::usage(format!("the configuration {}: unknown key `{key}`", self.name))
                .fix("the example that comes with the program shows all keys")),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;
    use crate::node::NodeFlags;

    fn from_file(text: &str) -> Result<CommonFlags, Failure> {
        ConfigFile::parse("test.toml", text)?.take()
    }

    #[test]
    fn a_flag_beats_the_file_and_the_file_beats_the_default() {
        let flags = CommonFlags { log_level: Some("debug".into()), ..CommonFlags::default() };
        let file =
            from_file("log_level = 'warn'\nlog_format = 'json'\nmetrics_listen = '127.0.0.1:9463'").unwrap();

        let settings = flags.or(file).resolve("postern-test").unwrap();

        assert_eq!(settings.log_level, "debug");
        assert_eq!(settings.log_format, LogFormat::Json);
        assert_eq!(settings.metrics_listen, Some("127.0.0.1:9463".parse().unwrap()));
        assert_eq!(settings.state_dir, Path::new("/var/lib/postern-test"));
        assert_eq!(settings.socket("postern-test"), Path::new("/run/postern-test/postern-test.sock"));
    }

    #[test]
    fn a_flag_beats_its_variable_and_every_flag_has_one() {
        let command = CommonFlags::augment_args(Command::new("test"));

        for flag in command.get_arguments() {
            let variable = flag.get_env().and_then(|name| name.to_str()).unwrap_or_default();
            let expected = match flag.get_id().as_str() {
                "log_level" => "POSTERN_LOG".to_owned(),
                id => format!("POSTERN_{}", id.to_uppercase()),
            };
            assert_eq!(variable, expected, "clap looks at the flag first, then at this variable");
        }
    }

    #[test]
    fn several_structs_share_one_file_and_what_nobody_knows_is_refused() {
        let mut file =
            ConfigFile::parse("test.toml", "log_level = 'warn'\nname = 'office-1'\ncolour = 'blue'").unwrap();

        let common: CommonFlags = file.take().unwrap();
        let node: NodeFlags = file.take().unwrap();
        let failure = file.finish().unwrap_err();

        assert_eq!(common.log_level.as_deref(), Some("warn"));
        assert_eq!(node.name.as_deref(), Some("office-1"));
        assert!(failure.what.contains("`colour`") && failure.what.contains("test.toml"));
        assert_eq!(failure.exit, crate::Exit::Usage);
    }

    #[test]
    fn crooked_values_name_their_flag() {
        let crooked = |flags: CommonFlags| flags.resolve("postern-test").unwrap_err().what;

        let metrics = crooked(CommonFlags { metrics_listen: Some("9463".into()), ..CommonFlags::default() });
        let otlp =
            crooked(CommonFlags { otlp_endpoint: Some("localhost:4318".into()), ..CommonFlags::default() });

        assert!(metrics.contains("--metrics-listen"));
        assert!(otlp.contains("--otlp-endpoint"));
        assert!(from_file("log_format = 'xml'").unwrap_err().what.contains("log_format"));
        assert!(ConfigFile::parse("test.toml", "= 1").is_err());
    }
}

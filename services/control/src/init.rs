//! The first start: makes what is missing in the state directory, asks nothing, changes nothing that is there.

use std::fs;
use std::io::IsTerminal as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use actors_control::clock::Clock;
use actors_control::model::Account;
use actors_control::sql::{Location, Sql};
use actors_control::storage::{Storage, StorageError};
use actors_control::store::with_cause;
use protocol_identity::{CertificatePin, Token, TokenKind};
use serde_json::json;
use services_chassis::{Failure, secret_file};

use crate::certificate;
use crate::config::Config;
use crate::public::Public;

/// A state directory with everything in it.
pub struct Prepared {
    /// The database.
    pub storage: Arc<Sql>,
    /// All accounts.
    pub accounts: Vec<Account>,
    /// How others reach this control plane.
    pub public: Public,
    /// Whether it was all made just now.
    pub first: bool,
    /// The admin token, when it was made just now.
    token: Option<Token>,
    token_file: PathBuf,
    state_dir: PathBuf,
    pin: CertificatePin,
}

/// Makes what is missing.
///
/// # Errors
/// When the state directory cannot be written, or what is in it is of a newer version.
pub async fn prepare(config: &Config) -> Result<Prepared, Failure> {
    let state_dir = &config.settings.state_dir;
    secret_file::make_private_dir(state_dir).map_err(|error| {
        Failure::failed(format!("cannot make the state directory {}: {error}", state_dir.display()))
            .fix("name another one with --state-dir, or run as a user that may make it")
    })?;
    let own = own_addresses();
    let url = public_url(config, &own)?;
    let pin = match &config.tls {
        None => certificate::prepare(state_dir, host_of(&url), &own)?,
        Some(_) => certificate::pin(config)?,
    };
    let database = &config.database;
    let storage = Sql::open(database).await.map_err(|error| cannot_open(database, &error))?;
    if let Location::Sqlite(file) = database {
        for end in ["", "-wal", "-shm"] {
            close_to_others(&PathBuf::from(format!("{}{end}", file.display())));
        }
    }
    let token_file = state_dir.join("admin.token");
    let mut accounts = storage.accounts().await.map_err(|error| cannot_open(database, &error))?;
    let mut token = None;
    if accounts.is_empty() {
        // The file first: an account whose token nobody has would be of no use.
        let fresh = Token::generate(TokenKind::Admin)
            .map_err(|error| Failure::failed(format!("cannot draw a token: {error}")))?;
        let text = format!("{}\n", *fresh.reveal());
        secret_file::replace(&token_file, &text)
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", token_file.display())))?;
        let made = storage.create_account(config.account.clone(), fresh.hash(), Clock::System.now()).await;
        accounts.push(made.map_err(|error| cannot_open(database, &error))?);
        token = Some(fresh);
    }
    Ok(Prepared {
        storage: Arc::new(storage),
        accounts,
        public: Public { url, pin: config.tls.is_none().then_some(pin) },
        first: token.is_some(),
        token,
        token_file,
        state_dir: state_dir.clone(),
        pin,
    })
}

/// The database of a state directory that is set up.
///
/// # Errors
/// When there is none, or it cannot be used.
pub async fn open_existing(config: &Config) -> Result<Sql, Failure> {
    if let Location::Sqlite(file) = &config.database
        && !file.exists()
    {
        return Err(Failure::failed(format!("there is no database {}", file.display()))
            .fix("set it up with `postern-control init`, or name the right --state-dir"));
    }
    Sql::open(&config.database).await.map_err(|error| cannot_open(&config.database, &error))
}

fn cannot_open(database: &Location, error: &StorageError) -> Failure {
    let failure = Failure::failed(format!("cannot use the database {database}: {}", with_cause(error)));
    match (error, database) {
        (StorageError::Migration(sqlx_migrate), _) if actors_control::sql::is_newer(sqlx_migrate) => failure
            .fix("it was written by a newer version of postern-control: run that one, or restore a backup"),
        (_, Location::Sqlite(_)) => {
            failure.fix("see that the disk has room and that the file belongs to this user")
        }
        (_, Location::Postgres(_)) => {
            failure.fix("see that PostgreSQL runs there, and that its user may log in and create tables")
        }
    }
}

/// The database holds no secret, but it tells who may reach what.
fn close_to_others(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if path.exists()
        && let Err(error) = fs::set_permissions(path, fs::Permissions::from_mode(0o600))
    {
        tracing::warn!(%error, "cannot close the database file to other users");
    }
}

/// What nodes are told: the flag, or what was said or found at an earlier start, or the first own address.
fn public_url(config: &Config, own: &[IpAddr]) -> Result<String, Failure> {
    let file = config.settings.state_dir.join("public-url");
    let kept =
        fs::read_to_string(&file).ok().map(|text| text.trim().to_owned()).filter(|text| !text.is_empty());
    let url = match (&config.public_url, kept) {
        (Some(url), Some(kept)) if *url == kept => return Ok(kept),
        (Some(url), _) => url.clone(),
        (None, Some(kept)) => return Ok(kept),
        (None, None) => guessed_url(&config.listen, own),
    };
    fs::write(&file, format!("{url}\n"))
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", file.display())))?;
    Ok(url)
}

fn guessed_url(listen: &[SocketAddr], own: &[IpAddr]) -> String {
    let first = listen.first().copied().unwrap_or(SocketAddr::from(([0, 0, 0, 0], 8443)));
    let address = if first.ip().is_unspecified() {
        // IPv4 first: more networks have it.
        own.iter().find(|ip| ip.is_ipv4()).or(own.first()).copied().unwrap_or(IpAddr::from([127, 0, 0, 1]))
    } else {
        first.ip()
    };
    format!("https://{}", SocketAddr::new(address, first.port()))
}

/// The host's addresses that others may reach.
fn own_addresses() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut own: Vec<IpAddr> = interfaces
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
        })
        .filter(|ip| match ip {
            IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        })
        .collect();
    let mut seen = std::collections::BTreeSet::new();
    own.retain(|ip| seen.insert(*ip));
    own
}

/// The host in an address.
fn host_of(url: &str) -> &str {
    let rest = url.strip_prefix("https://").unwrap_or(url);
    if let Some(v6) = rest.strip_prefix('[') {
        return v6.split(']').next().unwrap_or(v6);
    }
    rest.split(':').next().unwrap_or(rest)
}

impl Prepared {
    fn account(&self) -> &str {
        self.accounts.first().map_or("", |account| &account.name)
    }

    fn next(&self) -> String {
        format!("postern admin login {} --token-file {}", self.public.flags(), self.token_file.display())
    }

    /// Says where everything is and what comes next. Secrets are shown to a person only, once.
    pub fn print(&self, as_json: bool) {
        if as_json {
            let said = json!({
                "schema": 1, "url": self.public.url, "pin": self.pin.to_string(), "admin_token_file": self.token_file,
                "account": self.account(), "next": self.next(),
            });
            println!("{said}");
            return;
        }
        println!("Postern control is set up in {}", self.state_dir.display());
        println!();
        println!("  account      {}", self.account());
        println!("  address      {}", self.public.url);
        println!("  pin          {}", self.pin);
        match &self.token {
            Some(token) if std::io::stdout().is_terminal() => {
                println!("  admin token  {}", *token.reveal());
                println!(
                    "               shown this once; also in {}, for its owner only",
                    self.token_file.display()
                );
            }
            _ if self.token_file.exists() => {
                println!("  admin token  in {}, for its owner only", self.token_file.display());
            }
            _ => println!("  admin token  was in {}, which is gone", self.token_file.display()),
        }
        println!();
        println!("Next, to administer it from this host (elsewhere, with a copy of that file):");
        println!("  {}", self.next());
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use clap::Parser as _;

    use super::*;
    use crate::cli::Cli;

    fn config(state_dir: &Path, line: &str) -> Config {
        let state_dir = state_dir.join("state").display().to_string();
        let words = ["postern-control", "--state-dir", &state_dir];
        Config::load(&Cli::try_parse_from(words.into_iter().chain(line.split_whitespace())).unwrap()).unwrap()
    }

    #[tokio::test]
    async fn an_empty_directory_gets_a_token_for_its_owner_only_and_no_default_password() {
        let dir = tempfile::tempdir().unwrap();
        let config = config(dir.path(), "--public-url https://192.0.2.1:8443");

        let prepared = prepare(&config).await.unwrap();

        assert!(prepared.first);
        let file = dir.path().join("state/admin.token");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir.path().join("state")), mode(&file)), (0o700, 0o600));
        assert_eq!(mode(&dir.path().join("state/control.sqlite")), 0o600);
        let token = secret_file::read_token(&file, TokenKind::Admin).unwrap();
        let (account, found) = prepared.storage.authenticate(token.hash()).await.unwrap().unwrap();
        assert_eq!((account.name.as_str(), found.name.as_str()), ("default", "first"));
        assert_eq!(prepared.public.url, "https://192.0.2.1:8443");
        assert!(prepared.next().contains("--control-pin sha256:"));
    }

    #[tokio::test]
    async fn a_second_time_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = prepare(&config(dir.path(), "--listen 192.0.2.1:9000")).await.unwrap();
        let token = fs::read(dir.path().join("state/admin.token")).unwrap();

        let second = prepare(&config(dir.path(), "")).await.unwrap();

        assert!(!second.first);
        assert_eq!(fs::read(dir.path().join("state/admin.token")).unwrap(), token);
        assert_eq!(second.public, first.public);
        assert_eq!(second.public.url, "https://192.0.2.1:9000");
        assert_eq!(second.accounts, first.accounts);
    }

    #[tokio::test]
    async fn a_start_that_was_cut_off_before_the_account_is_made_up_for() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("state")).unwrap();
        fs::write(dir.path().join("state/admin.token"), "half a tok").unwrap();

        let prepared = prepare(&config(dir.path(), "")).await.unwrap();

        assert!(prepared.first);
        assert!(secret_file::read_token(&dir.path().join("state/admin.token"), TokenKind::Admin).is_ok());
    }

    #[test]
    fn the_host_is_found_in_an_address() {
        assert_eq!(host_of("https://control.example.com:8443"), "control.example.com");
        assert_eq!(host_of("https://[2001:db8::1]:8443"), "2001:db8::1");
        assert_eq!(host_of("https://192.0.2.1"), "192.0.2.1");
    }

    #[test]
    fn the_address_is_guessed_from_where_it_listens() {
        let own = ["2001:db8::1".parse().unwrap(), "192.0.2.1".parse().unwrap()];

        assert_eq!(guessed_url(&["0.0.0.0:8443".parse().unwrap()], &own), "https://192.0.2.1:8443");
        assert_eq!(guessed_url(&["[2001:db8::9]:443".parse().unwrap()], &own), "https://[2001:db8::9]:443");
    }
}

//! The command line of `postern`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use protocol_identity::CertificatePin;

use crate::admin::cli::Admin;
use crate::config::Flags;

const AFTER_HELP: &str = "\
Exit codes: 0 done, 1 failed, 2 denied (where documented), 64 usage, 69 control unreachable.

A first session:
  sudo postern daemon &
  sudo postern login --control-url https://HOST:8443 --control-pin sha256:… --token-file laptop.token
  postern status --watch";

/// Reach exactly the resources that policy grants, from anywhere.
#[derive(Debug, Parser)]
#[command(name = "postern", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Where the daemon's socket is
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Where the daemon's socket is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "The daemon's socket")]
pub struct Place {
    /// Directory of the daemon's socket; default /run/postern
    #[arg(long, global = true, env = "POSTERN_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// The daemon's socket, when it is not <run-dir>/postern.sock
    #[arg(long, global = true, env = "POSTERN_SOCKET", value_name = "FILE")]
    pub socket: Option<PathBuf>,
}

impl Place {
    /// The daemon's socket.
    pub fn socket(&self) -> PathBuf {
        self.socket.clone().unwrap_or_else(|| self.run_dir().join("postern.sock"))
    }

    /// The directory of what lasts as long as the daemon.
    pub fn run_dir(&self) -> PathBuf {
        let by_systemd = || std::env::var_os("RUNTIME_DIRECTORY").map(PathBuf::from);
        self.run_dir.clone().or_else(by_systemd).unwrap_or_else(|| "/run/postern".into())
    }
}

/// What `postern` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground: hold the tunnel, keep the session with control (as root)
    Daemon(Box<Flags>),
    /// Connect, and wait until the resources are known
    Up {
        /// How long to wait; after that it goes on trying, and the exit code is 69
        #[arg(long, default_value_t = 10, value_name = "SECONDS")]
        timeout: u64,
    },
    /// Disconnect: end sessions, remove routes and names; the daemon stays
    Down {},
    /// Show what is true now
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// Show it anew each second, until Ctrl-C
        #[arg(long)]
        watch: bool,
    },
    /// List the resources that this device knows
    Resources {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Sign this device in with a service account's token, and connect
    Login(Login),
    /// Forget the token, and disconnect
    Logout {},
    /// Ask for access now, and say which rule decides (exit code 2: denied)
    Explain {
        /// Name of the resource
        resource: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Try what the daemon needs, and name the fix for what is missing
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
        /// What the daemon would run with.
        #[command(flatten)]
        flags: Box<Flags>,
    },
    /// Print the table of the daemon's actors
    Tree {},
    /// List the daemon's living actors
    Actors {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Disturb an actor of the daemon
    #[cfg(feature = "chaos")]
    #[command(subcommand)]
    Chaos(services_chassis::local::Chaos),
    /// Administer an account: sites, resources, groups, policies, tokens
    Admin(Box<Admin>),
}

/// What signing in needs.
#[derive(Debug, Args)]
pub struct Login {
    /// File with the token; - is standard input
    #[arg(long, env = "POSTERN_TOKEN_FILE", value_name = "FILE")]
    pub token_file: PathBuf,
    /// Address of control; without it, the one that the daemon knows
    #[arg(long, env = "POSTERN_CONTROL_URL", value_name = "URL")]
    pub control_url: Option<String>,
    /// The certificate that control must show, sha256:…
    #[arg(long, visible_alias = "pin", env = "POSTERN_CONTROL_PIN", value_name = "PIN")]
    pub control_pin: Option<CertificatePin>,
    /// Certificate authorities (PEM) that control's certificate is checked against
    #[arg(long, env = "POSTERN_CA_FILE", value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// How long to wait for control
    #[arg(long, default_value_t = 10, value_name = "SECONDS")]
    pub timeout: u64,
}

/// An address with or without a port; without one, DNS's.
pub fn dns_address(text: &str) -> Result<SocketAddr, String> {
    text.parse::<SocketAddr>()
        .or_else(|_| text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)))
        .map_err(|_| format!("`{text}` is not an address: write 192.0.2.53 or [2001:db8::53]:5353"))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_upstream_may_leave_its_port_out() {
        assert_eq!(dns_address("192.0.2.53"), Ok("192.0.2.53:53".parse().unwrap()));
        assert_eq!(dns_address("[2001:db8::53]:5353"), Ok("[2001:db8::53]:5353".parse().unwrap()));
        assert!(dns_address("dns.example").is_err());
    }

    #[test]
    fn no_flag_takes_a_token() {
        fn flags_of(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
            own.chain(command.get_subcommands().flat_map(flags_of)).collect()
        }

        assert!(!flags_of(&Cli::command()).contains(&"token".to_owned()));
    }
}

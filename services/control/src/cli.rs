//! The command line of `postern-control`.

use clap::{Parser, Subcommand};
use services_chassis::settings::CommonFlags;

use crate::config::ControlFlags;

const AFTER_HELP: &str = "\
Every flag can stand in the TOML file too (with _ for -), and every flag has a POSTERN_* variable; a flag beats its
variable, the variable beats the file.

Exit codes: 0 done, 1 failed, 64 usage.

The first start, on an empty directory, makes everything that is needed and says where it is:
  postern-control serve
  postern admin login --control-url https://HOST:8443 --control-pin sha256:… --token-file admin.token";

/// Decides who may reach what, and tells gateways and devices. No packet passes through it.
#[derive(Debug, Parser)]
#[command(name = "postern-control", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Flags of every program.
    #[command(flatten)]
    pub common: Global<CommonFlags>,
    /// Flags of control.
    #[command(flatten)]
    pub control: Global<ControlFlags>,
    /// What to do; without it, `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Flags that may stand before or after the subcommand.
#[derive(Debug, Clone, Default)]
pub struct Global<T>(pub T);

impl<T: clap::FromArgMatches> clap::FromArgMatches for Global<T> {
    fn from_arg_matches(matches: &clap::ArgMatches) -> Result<Self, clap::Error> {
        T::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &clap::ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl<T: clap::Args> clap::Args for Global<T> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let flags = T::augment_args(clap::Command::new("flags"));
        command.args(flags.get_arguments().map(|flag| flag.clone().global(true)))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

/// What `postern-control` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground (default); sets itself up first when the state directory is empty
    Serve,
    /// Set up the state directory: database, certificate, account, admin token. Asks nothing, changes nothing that is there
    Init {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the pin of the certificate
    Pin,
    /// Copy the SQLite database to a new file, as it is at one moment; control goes on meanwhile
    Backup {
        /// The new file (0600)
        file: std::path::PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Check a backup and put it in the place of the SQLite database, which is kept beside it; control must be stopped
    Restore {
        /// The backup
        file: std::path::PathBuf,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// The accounts (tenants) of this control plane
    #[command(subcommand)]
    Account(AccountCommand),
    /// Admin tokens, made here on the server: for an account whose token is lost
    #[command(subcommand)]
    AdminToken(AdminTokenCommand),
    /// Try state directory, database, certificate, ports and clock, and name the fix for what is missing
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the table of control's actors
    Tree,
    /// List the living actors of the running control: one row for each connected node
    Actors {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Disturb an actor of the running control
    #[cfg(feature = "chaos")]
    #[command(subcommand)]
    Chaos(services_chassis::local::Chaos),
}

/// What can be done with accounts.
#[derive(Debug, Subcommand)]
pub enum AccountCommand {
    /// Make an account and its first admin token
    Create {
        /// Its name
        name: String,
        /// How the token is kept.
        #[command(flatten)]
        keep: Keep,
    },
    /// Show all
    List {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What can be done with admin tokens.
#[derive(Debug, Subcommand)]
pub enum AdminTokenCommand {
    /// Make one that may do everything in its account
    Create {
        /// Its name; without it, one with the time of day
        name: Option<String>,
        /// The account; may be left out while there is only one
        #[arg(long = "of", value_name = "ACCOUNT")]
        of: Option<String>,
        /// How the token is kept.
        #[command(flatten)]
        keep: Keep,
    },
}

/// How a new token is kept.
#[derive(Debug, Clone, clap::Args)]
pub struct Keep {
    /// Write the token to this new file (0600) instead of showing it once
    #[arg(long, value_name = "FILE")]
    pub out: Option<std::path::PathBuf>,
    /// As one JSON object
    #[arg(long)]
    pub json: bool,
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
    fn flags_may_stand_before_or_after_the_subcommand() {
        for line in ["postern-control --account acme init", "postern-control init --account acme"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();

            assert_eq!(cli.control.0.account.as_deref(), Some("acme"), "{line}");
            assert!(matches!(cli.command, Some(Command::Init { json: false })));
        }
    }

    #[test]
    fn the_state_directory_has_a_second_name() {
        let cli = Cli::try_parse_from(["postern-control", "--data-dir", "/tmp/c"]).unwrap();

        assert_eq!(cli.control.0.data_dir.as_deref(), Some(std::path::Path::new("/tmp/c")));
    }
}

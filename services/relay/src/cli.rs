//! The command line of `postern-relay`.

use clap::{Parser, Subcommand};
use services_chassis::NodeFlags;
use services_chassis::settings::CommonFlags;

use crate::config::RelayFlags;
use crate::limits::LimitFlags;
use crate::streams::StreamFlags;

const AFTER_HELP: &str = "\
Every flag can stand in the TOML file too (with _ for -), and every flag has a POSTERN_* variable; a flag beats its
variable, the variable beats the file.

Exit codes: 0 done, 1 failed, 64 usage, 69 control unreachable.

Under control, as `postern admin relay-token create` printed it:
  postern-relay --control-url https://HOST:8443 --control-pin sha256:… --token-file relay.token
Alone, to try it out (others on this host see the password; --static-user-file hides it):
  postern-relay --standalone --listen 127.0.0.1:3478 --static-user name:password";

/// Tells nodes their addresses (STUN) and passes their sealed packets on (TURN), where no direct path is.
#[derive(Debug, Parser)]
#[command(
    name = "postern-relay",
    version,
    after_help = AFTER_HELP,
    max_term_width = 100,
    mut_args = |flag| flag.global(true)
)]
pub struct Cli {
    /// Flags of every program.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Flags of every node.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Flags of the relay.
    #[command(flatten)]
    pub relay: RelayFlags,
    /// Flags about connections.
    #[command(flatten)]
    pub streams: StreamFlags,
    /// Flags about how much there may be.
    #[command(flatten)]
    pub limits: LimitFlags,
    /// What to do; without it, `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `postern-relay` can do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run in the foreground (default)
    Serve,
    /// Try ports, addresses, buffers, clock and control, and name the fix for what is missing
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the table of the relay's actors
    Tree,
    /// List the living actors of the running relay
    Actors {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Disturb an actor of the running relay
    #[cfg(feature = "chaos")]
    #[command(subcommand)]
    Chaos(Chaos),
}

/// How to disturb an actor.
#[cfg(feature = "chaos")]
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Chaos {
    /// Let it panic
    Panic {
        /// Its kind
        kind: String,
        /// Its key
        #[arg(default_value = "")]
        key: String,
    },
    /// Let it handle nothing for a while
    Stall {
        /// Its kind
        kind: String,
        /// Its key
        #[arg(default_value = "")]
        key: String,
        /// For how long
        #[arg(long = "for", default_value_t = 1000, value_name = "MILLISECONDS")]
        millis: u64,
    },
}

#[cfg(feature = "chaos")]
impl From<Chaos> for services_chassis::local::Chaos {
    fn from(chaos: Chaos) -> Self {
        match chaos {
            Chaos::Panic { kind, key } => Self::Panic { kind, key },
            Chaos::Stall { kind, key, millis } => Self::Stall { kind, key, millis },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn read(line: &str) -> Cli {
        Cli::try_parse_from(line.split(' ')).unwrap()
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_or_after_the_subcommand() {
        for line in [
            "postern-relay --realm lab serve",
            "postern-relay serve --realm lab",
            "postern-relay --realm lab",
        ] {
            assert_eq!(read(line).relay.realm.as_deref(), Some("lab"), "{line}");
        }
        assert_eq!(read("postern-relay --realm lab").command, None);
    }

    #[test]
    fn the_example_of_the_help_is_understood() {
        let cli = read("postern-relay --standalone --listen 127.0.0.1:3478 --static-user name:password");

        assert_eq!(cli.relay.standalone, Some(true));
        assert_eq!(cli.relay.static_user.len(), 1);
        assert!(!format!("{cli:?}").contains("password"));
    }

    #[test]
    fn a_public_address_is_an_external_one() {
        let cli = read("postern-relay --public-address 198.51.99.1 --external-address 2600:99::1");

        assert_eq!(cli.relay.external_address.len(), 2);
    }
}

//! The command line of `postern-gateway`.

use std::path::PathBuf;

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};
use services_chassis::{CommonFlags, NodeFlags, OffloadFlags};

use crate::config::GatewayFlags;

const AFTER_HELP: &str = "\
Every flag can stand in the TOML file too (with _ for -), and every flag has a POSTERN_* variable; a flag beats its
variable, the variable beats the file.

Exit codes: 0 done, 1 failed, 64 usage, 69 control unreachable.

On the gateway's host, as `postern admin gateway-token create` printed it:
  postern-gateway --control-url https://HOST:8443 --control-pin sha256:… --token-file gateway.token";

/// Stands beside the resources of a site, and lets devices reach exactly what policy grants them.
#[derive(Debug, Parser)]
#[command(name = "postern-gateway", version, after_help = AFTER_HELP, max_term_width = 100)]
pub struct Cli {
    /// Flags of every program.
    #[command(flatten)]
    pub common: CommonFlags,
    /// Flags of every node.
    #[command(flatten)]
    pub node: NodeFlags,
    /// Flags of the gateway.
    #[command(flatten)]
    pub gateway: GatewayFlags,
    /// Flags of every program that carries packets.
    #[command(flatten)]
    pub offload: OffloadFlags,
    /// The running gateway's socket, when it is not <run-dir>/postern-gateway.sock
    #[arg(long, env = "POSTERN_SOCKET", value_name = "FILE")]
    pub socket: Option<PathBuf>,
    /// What to do; without it, `serve`.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What `postern-gateway` can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run in the foreground (default)
    Serve,
    /// Try TUN, nftables, forwarding, ports, names, clock and control, and name the fix for what is missing
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what the running gateway does: control, devices, relays
    Status {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the table of the gateway's actors
    Tree,
    /// List the living actors of the running gateway
    Actors {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Disturb an actor of the running gateway
    #[cfg(feature = "chaos")]
    #[command(subcommand)]
    Chaos(services_chassis::local::Chaos),
}

/// The command line as it is read: every flag may stand before or after the subcommand.
#[derive(Debug)]
pub struct Line(pub Cli);

impl CommandFactory for Line {
    fn command() -> clap::Command {
        Cli::command().mut_args(|flag| flag.global(true))
    }

    fn command_for_update() -> clap::Command {
        Self::command()
    }
}

impl FromArgMatches for Line {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Cli::from_arg_matches(matches).map(Self)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.0.update_from_arg_matches(matches)
    }
}

impl Parser for Line {}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Cli {
        Line::try_parse_from(line.split(' ')).unwrap().0
    }

    #[test]
    fn the_command_line_is_consistent() {
        Line::command().debug_assert();
    }

    #[test]
    fn flags_may_stand_before_or_after_the_subcommand() {
        for line in [
            "postern-gateway --tun gw1 serve",
            "postern-gateway serve --tun gw1",
            "postern-gateway --tun gw1",
        ] {
            assert_eq!(read(line).gateway.tun.as_deref(), Some("gw1"), "{line}");
        }
        assert!(read("postern-gateway --tun gw1").command.is_none());
    }

    #[test]
    fn the_pin_has_a_short_form_and_masquerading_can_be_switched_off() {
        let cli =
            read("postern-gateway --pin sha256:00 --no-masquerade --allow-resource 10.0.0.0/8 check --json");

        assert_eq!(cli.node.control_pin.as_deref(), Some("sha256:00"));
        assert_eq!(cli.gateway.no_masquerade, Some(true));
        assert_eq!(cli.gateway.allow_resource.len(), 1);
        assert!(matches!(cli.command, Some(Command::Check { json: true })));
    }

    #[test]
    fn no_flag_takes_a_token() {
        fn flags_of(command: &clap::Command) -> Vec<String> {
            let own = command.get_arguments().filter_map(|arg| arg.get_long().map(str::to_owned));
            own.chain(command.get_subcommands().flat_map(flags_of)).collect()
        }

        assert!(!flags_of(&Line::command()).contains(&"token".to_owned()));
    }
}

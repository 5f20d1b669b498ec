//! `postern-relay`: the program beside the internet that everybody can reach.
//!
//! It tells nodes their addresses (STUN) and passes packets on for those with a credential (TURN, IPv4 and IPv6).
//! It sees sealed packets only, keeps nothing but the secret that its credentials are made from, and goes on while
//! control is away.

mod addresses;
mod check;
mod cli;
mod config;
mod drain;
mod limits;
mod secret;
mod serve;
mod streams;
mod tree;

use std::process::ExitCode;

use services_chassis::local;

use cli::{Cli, Command};
use config::{Config, PROGRAM, place};
use services_chassis::Failure;

fn main() -> ExitCode {
    services_chassis::main(run)
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command.clone().unwrap_or(Command::Serve) {
        Command::Serve => serve::run(Config::load(&cli)?),
        Command::Check { json } => check::run(&Config::load(&cli)?, json),
        Command::Tree => {
            print!("{}", tree::table().render());
            Ok(())
        }
        Command::Actors { json } => local::actors(PROGRAM, &place(&cli)?.socket(PROGRAM), json),
        #[cfg(feature = "chaos")]
        Command::Chaos(chaos) => local::chaos(PROGRAM, &place(&cli)?.socket(PROGRAM), &chaos.into()),
    }
}

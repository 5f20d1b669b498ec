//! `postern-gateway`: stands beside the resources of a site, and lets devices reach exactly what policy grants them.

mod check;
mod cli;
mod config;
mod progress;
mod serve;
mod status;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

use actors_runtime::Tree;
use services_chassis::{Failure, local};

use crate::cli::{Cli, Command, Line};
use crate::config::{Config, PROGRAM};

fn main() -> ExitCode {
    services_chassis::main(|Line(cli)| run(&cli))
}

fn run(cli: &Cli) -> Result<(), Failure> {
    match &cli.command {
        None | Some(Command::Serve) => serve::serve(&Config::load(cli)?),
        Some(Command::Check { json }) => check::check(&Config::load(cli)?, *json),
        Some(Command::Status { json }) => status::show(&socket(cli)?, *json),
        Some(Command::Tree) => {
            print!("{}", Tree::new(tree::TREE).render());
            Ok(())
        }
        Some(Command::Actors { json }) => local::actors(PROGRAM, &socket(cli)?, *json),
        #[cfg(feature = "chaos")]
        Some(Command::Chaos(chaos)) => local::chaos(PROGRAM, &socket(cli)?, chaos),
    }
}

/// The socket of the running gateway.
fn socket(cli: &Cli) -> Result<PathBuf, Failure> {
    match &cli.socket {
        Some(socket) => Ok(socket.clone()),
        None => Ok(Config::load(cli)?.settings.socket(PROGRAM)),
    }
}

//! `postern-control`: policy, the API, and the sessions of all nodes.
//!
//! It decides and remembers; no packet passes through it. While it is away, what it granted goes on until its end.

mod accounts;
mod api;
mod backup;
mod certificate;
mod check;
mod cli;
mod config;
mod init;
mod public;
mod serve;
mod tree;

use std::process::ExitCode;

use services_chassis::{Failure, local};

use crate::cli::{Cli, Command};
use crate::config::{Config, PROGRAM};

fn main() -> ExitCode {
    services_chassis::main(run)
}

fn run(mut cli: Cli) -> Result<(), Failure> {
    let command = cli.command.take().unwrap_or(Command::Serve);
    if matches!(command, Command::Tree) {
        print!("{}", tree::table().render());
        return Ok(());
    }
    let config = Config::load(&cli)?;
    match command {
        Command::Serve => serve::run(config),
        Command::Init { json } => {
            let prepared = block_on(init::prepare(&config))??;
            prepared.print(json);
            Ok(())
        }
        Command::Pin => {
            println!("{}", certificate::pin(&config)?);
            Ok(())
        }
        Command::Backup { file, json } => block_on(backup::backup(&config, &file, json))?,
        Command::Restore { file, json } => block_on(backup::restore(&config, &file, json))?,
        Command::Account(command) => block_on(accounts::run(&config, command))?,
        Command::AdminToken(command) => block_on(accounts::make_token(&config, command))?,
        Command::Check { json } => block_on(check::run(&config, json))?,
        Command::Tree => Ok(()),
        Command::Actors { json } => local::actors(PROGRAM, &config.settings.socket(PROGRAM), json),
        #[cfg(feature = "chaos")]
        Command::Chaos(chaos) => local::chaos(PROGRAM, &config.settings.socket(PROGRAM), &chaos),
    }
}

/// Runs a future on an event loop of this thread.
fn block_on<F: Future>(future: F) -> Result<F::Output, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start an event loop: {error}")))?;
    Ok(runtime.block_on(future))
}

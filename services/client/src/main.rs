//! `postern`: the daemon that holds the tunnel, the command line that talks to it, and `postern admin`.

mod admin;
mod check;
mod cli;
mod commands;
mod config;
mod daemon;
mod desk;
mod http;
mod names;
mod state;
mod status;
#[cfg(test)]
mod testing;
mod tree;

use std::process::ExitCode;
use std::time::Duration;

use services_chassis::{Failure, local};

use crate::cli::{Cli, Command};
use crate::config::{Config, PROGRAM};

fn main() -> ExitCode {
    services_chassis::main(run)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let socket = cli.place.socket();
    match cli.command {
        Command::Daemon(flags) => daemon::run(Config::load(*flags)?),
        Command::Up { timeout } => commands::up(&socket, Duration::from_secs(timeout)),
        Command::Down {} => commands::down(&socket),
        Command::Status { json, watch } => commands::status(&socket, json, watch),
        Command::Resources { json } => commands::resources(&socket, json),
        Command::Login(login) => commands::login(&socket, &login),
        Command::Logout {} => commands::logout(&socket),
        Command::Explain { resource, json } => commands::explain(&socket, &resource, json),
        Command::Check { json, flags } => {
            runtime()?.block_on(check::run(&Config::load(*flags)?, &cli.place, json))
        }
        Command::Tree {} => {
            print!("{}", daemon::table().render());
            Ok(())
        }
        Command::Actors { json } => local::actors(PROGRAM, &socket, json),
        #[cfg(feature = "chaos")]
        Command::Chaos(chaos) => local::chaos(PROGRAM, &socket, &chaos),
        Command::Admin(admin) => runtime()?.block_on(admin::run(*admin)),
    }
}

/// An event loop on this thread, for commands that wait for the network.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start an event loop: {error}")))
}

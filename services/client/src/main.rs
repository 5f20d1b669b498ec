//! `postern`: the daemon that holds the tunnel, the command line that talks to it, and `postern admin`.

mod admin;
mod check;
mod cli;
mod commands;
mod config;
mod fail;
mod http;
mod local;
mod secret_file;
mod state;
mod status;
#[cfg(test)]
mod testing;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::config::Config;
use crate::fail::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Standard output may be closed; there is nobody else to tell.
            drop(error.print());
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
                _ => Exit::Usage.into(),
            };
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.exit.into()
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    let socket = cli.place.socket();
    match cli.command {
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

//! `postern-bench`: measures. `cargo xtask bench` builds everything and starts it.

use std::process::ExitCode;

use clap::Parser;
use integration_bench::{Options, options::USAGE, tools::Tool};

#[derive(Parser)]
#[command(
    name = "postern-bench",
    version,
    about = "Measures Postern and its peers, interleaved, on this machine"
)]
struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _told = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match &arguments.tool {
        Some(tool) => tool.run().map(|()| ExitCode::SUCCESS),
        None => integration_bench::run::run(&arguments.options),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

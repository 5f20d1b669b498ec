//! The project's own commands: `cargo xtask demo`, `test`, `ci`, `setup`, `build`, `lint`.

mod build;
mod ci;
mod demo;
mod report;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, shows and tests Postern on this machine")]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Lays out an internet, an office and a home in network namespaces, and shows Postern at work in them.
    Demo(demo::Demo),
    /// Runs the tests: of the crates, of the built programs in namespaces, and against foreign tools.
    Test(test::Test),
    /// Everything that `.ci/run` runs, with the time of each part.
    Ci,
    /// Installs the packages that the tests need (as root), or prints the one command that does.
    Setup(setup::Setup),
    /// Builds the four programs and the lab's tool.
    Build,
    /// Checks the format and runs clippy; warnings are errors.
    Lint,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().what {
        What::Demo(demo) => demo.run(),
        What::Test(test) => test.run(),
        What::Ci => ci::run(),
        What::Setup(setup) => setup.run(),
        What::Build => build::programs().map(|()| ExitCode::SUCCESS),
        What::Lint => build::lint().map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

//! The project's own commands: `cargo xtask demo`, `test`, `bench`, `ci`, `setup`, `build`, `image`, `lint`.

mod bench;
mod build;
mod ci;
mod deep;
mod demo;
mod image;
mod report;
mod setup;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use integration_bench::options::USAGE;

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
    /// Measures the built programs and their peers, interleaved, and says whether the promised figures hold.
    Bench(integration_bench::Options),
    /// Everything that `.ci/run` runs, with the time of each part.
    Ci,
    /// Installs the packages that the tests need (as root), or prints the one command that does.
    Setup(setup::Setup),
    /// Builds the four programs and the lab's tool.
    Build,
    /// Builds the relay as it is released and puts it into an image, without any registry.
    Image(image::Image),
    /// Checks the format and runs clippy; warnings are errors.
    Lint,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _told = error.print();
            return if error.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match arguments.what {
        What::Demo(demo) => demo.run(),
        What::Test(test) => test.run(),
        What::Bench(options) => bench::run(&options),
        What::Ci => ci::run(),
        What::Setup(setup) => setup.run(),
        What::Build => build::programs().map(|()| ExitCode::SUCCESS),
        What::Image(image) => image.run(),
        What::Lint => build::lint().map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

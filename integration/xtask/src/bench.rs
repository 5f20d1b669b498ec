//! `cargo xtask bench`: builds the programs as they are released, and hands over to `postern-bench`.

use std::{
    os::unix::process::CommandExt,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result};
use integration_bench::{Options, options::USAGE};
use integration_lab::{Privilege, cargo_target_dir, privilege};

use crate::{build, setup};

pub fn run(options: &Options) -> Result<ExitCode> {
    if let Err(refusal) = options.choose(integration_bench::suites()) {
        eprintln!("error: {refusal}");
        return Ok(ExitCode::from(USAGE));
    }
    if privilege() != Privilege::UserNamespace && !options.no_build {
        setup::ensure_tools(true)?;
        eprintln!(
            "building the programs as they are released; the first time takes about 15 minutes on 2 cores"
        );
        build::released()?;
    }
    let program = cargo_target_dir()?.join("release/postern-bench");
    // In its place and not under it: an interruption then reaches the one process that has something to clean up.
    let error = Command::new(&program).args(options.arguments()).exec();
    Err(error).with_context(|| format!("cannot run {}; without --no-build it is built", program.display()))
}

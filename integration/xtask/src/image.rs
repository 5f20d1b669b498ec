//! `cargo xtask image`: the relay as an image.

use std::{
    path::PathBuf,
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use integration_lab::cargo_target_dir;

use crate::build;

#[derive(Args)]
pub struct Image {
    /// Where the OCI archive goes; default postern-relay.tar in the target folder. `podman load --input` takes it.
    #[arg(value_name = "ARCHIVE")]
    archive: Option<PathBuf>,
}

impl Image {
    pub fn run(&self) -> Result<ExitCode> {
        build::released()?;
        let target = cargo_target_dir()?;
        let archive = match &self.archive {
            Some(archive) => std::path::absolute(archive)?,
            None => target.join("postern-relay.tar"),
        };
        let script = build::root().join("deploy/container/relay/build.sh");
        let status = Command::new(&script)
            .arg(target.join("release/postern-relay"))
            .arg(archive)
            .status()
            .with_context(|| format!("cannot run {}", script.display()))?;
        ensure!(status.success(), "the image could not be built");
        Ok(ExitCode::SUCCESS)
    }
}

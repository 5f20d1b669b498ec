//! `cargo xtask demo`: the main job, before your eyes.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use integration_lab::{Lab, Privilege, enter_user_namespace, privilege, program_dir, signals};
use integration_scenarios::{
    Plan, World,
    addresses::CONTROL_URL,
    steps::{self, Step},
};

use crate::{
    build,
    report::{self, StepReport, Voice},
    setup,
};

/// Seconds that the steps take together, from measurement.
const STEPS_TAKE: u64 = 60;

#[derive(Args)]
pub struct Demo {
    /// End after the last step instead of staying up; exit code 0 only if every step held.
    #[arg(long)]
    once: bool,
    /// Print one JSON object on standard output, and everything else on standard error; implies `--once`.
    #[arg(long)]
    json: bool,
    /// Use the programs as they were built last.
    #[arg(long)]
    no_build: bool,
    /// Show only these steps (separated by commas), after those that everything stands on.
    #[arg(long, value_name = "IDS", value_delimiter = ',')]
    steps: Vec<String>,
    /// Copy the logs of all programs into this folder before cleaning up.
    #[arg(long, value_name = "DIR")]
    keep_logs: Option<PathBuf>,
}

impl Demo {
    pub fn run(&self) -> Result<ExitCode> {
        let voice = Voice { json: self.json };
        if privilege() != Privilege::UserNamespace {
            if build::was_built_before() {
                voice.say(&format!(
                    "Postern demo: building what changed, then about {STEPS_TAKE} s of steps."
                ));
            } else {
                voice.say(&format!(
                    "Postern demo: the first run builds the four programs, about 10 minutes on 2 cores; \
                     the steps take about {STEPS_TAKE} s. Later runs only take the steps."
                ));
            }
            setup::ensure_tools(true)?;
            if !self.no_build {
                let building = Instant::now();
                build::programs()?;
                voice.say(&format!("built in {}", report::human(building.elapsed())));
            }
        }
        if privilege() == Privilege::None {
            voice.say("not root: entering a user namespace of your own. What it lacks:");
            for lack in Privilege::UserNamespace.lacks() {
                voice.say(&format!("  - {lack}"));
            }
            match enter_user_namespace()? {}
        }
        self.show(voice)
    }

    fn chosen(&self) -> Result<Vec<&'static Step>> {
        for id in &self.steps {
            ensure!(steps::ALL.iter().any(|step| step.id == id), "there is no step `{id}`");
        }
        let wanted = |step: &&Step| {
            step.foundation || self.steps.is_empty() || self.steps.iter().any(|id| id == step.id)
        };
        Ok(steps::ALL.iter().filter(wanted).collect())
    }

    fn show(&self, voice: Voice) -> Result<ExitCode> {
        let started = Instant::now();
        voice.say("laying out postern-internet, postern-office, postern-home and the routers between them");
        let lab = Lab::named("postern")?;
        let mut world = World::lay_out(lab, Plan::default())?;
        let mut reports = Vec::new();
        let chosen = self.chosen()?;
        for (number, step) in chosen.iter().enumerate() {
            voice.begin(&format!("[{}/{}] {}: {} … ", number + 1, chosen.len(), step.id, step.what));
            let began = Instant::now();
            let outcome = (step.run)(&mut world).map_err(|error| format!("{error:#}"));
            signals::rest_when_interrupted();
            let report = StepReport { id: step.id, took: began.elapsed(), outcome };
            match &report.outcome {
                Ok(figures) => {
                    voice.say(&format!("ok, {}  ({})", report::human(report.took), report::line_of(figures)));
                }
                Err(error) => voice.say(&format!("FAILED, {}\n      {error}", report::human(report.took))),
            }
            let stop = step.foundation && report.outcome.is_err();
            reports.push(report);
            if stop {
                break;
            }
        }
        let (total, ok) = (started.elapsed(), reports.len() == chosen.len());
        let ok = ok && reports.iter().all(|report| report.outcome.is_ok());
        if !ok {
            voice.say(&format!("\nlast words of the programs:\n{}", world.ground.lab.last_words(15)));
        }
        voice.say(&format!("\n{}", report::table(&reports, total)));
        if let Some(dir) = &self.keep_logs {
            keep_logs(world.ground.lab.dir(), dir)?;
            voice.say(&format!("logs are in {}", dir.display()));
        }
        if !self.once && !self.json {
            explore(voice, &world)?;
            signals::wait_for_interrupt()?;
            voice.say("\ncleaning up");
        }
        world.close()?;
        if self.json {
            println!("{}", report::object(&reports, ok, total));
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// How to look around in what stays up.
fn explore(voice: Voice, world: &World) -> Result<()> {
    let enter = match privilege() {
        Privilege::UserNamespace => {
            format!(
                "nsenter --target {} --user --mount --preserve-credentials ip netns exec",
                std::process::id()
            )
        }
        Privilege::Root | Privilege::None => "sudo ip netns exec".to_owned(),
    };
    let bin = program_dir()?;
    let bin = bin.display();
    let client = world.client()?;
    let token = world.control()?.state_dir.join("admin.token");
    voice.say(&format!(
        "\nIt stays up until Ctrl-C. Look around:\n\
         \x20 {enter} postern-home bash                  # the client's host\n\
         \x20 {enter} postern-home curl http://wiki.corp.example/\n\
         \x20 {enter} postern-home {bin}/postern --run-dir {} status --watch\n\
         \x20 {enter} postern-office bash                # the gateway's host\n\
         \x20 {enter} postern-internet bash              # control and relay\n\
         The API is {CONTROL_URL}/api/v1/ in postern-internet; its admin token is in {};\n\
         the certificate's pin is {}.",
        client.run_dir.display(),
        token.display(),
        world.pin(),
    ));
    Ok(())
}

/// Copies the programs' output, and nothing of their state: that holds keys.
fn keep_logs(lab: &Path, to: &Path) -> Result<()> {
    for host in std::fs::read_dir(lab)?.flatten() {
        for file in std::fs::read_dir(host.path()).into_iter().flatten().flatten() {
            let path = file.path();
            let is_log = path.extension().is_some_and(|ending| ending == "out" || ending == "err");
            if is_log {
                let folder = to.join(host.file_name());
                std::fs::create_dir_all(&folder)?;
                std::fs::copy(&path, folder.join(file.file_name())).context("cannot copy a log")?;
            }
        }
    }
    Ok(())
}

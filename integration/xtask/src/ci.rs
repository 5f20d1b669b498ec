//! Everything that has to hold before a change lands, with the time of each part.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;

use crate::{
    build,
    report::human,
    setup,
    test::{self, Count},
};

/// Runs every part, also after one has failed, and ends non-zero when anything failed.
pub fn run() -> Result<ExitCode> {
    let mut log = Log::default();
    log.part("tools", || done(setup::ensure_tools(false)));
    log.part("format", || done(build::format()));
    log.part("clippy", || done(build::clippy()));
    log.part("build", || done(build::programs()));
    log.part("unit", || test::unit(None, false));
    log.part("lab", || test::lab(None));
    log.part("scenarios", || test::scenarios(None, false, false));
    log.part("storage on PostgreSQL", test::on_postgres);
    log.part("foreign codec", test::codecs);
    log.part("foreign tools", || test::scenarios(None, true, false));

    println!();
    for (name, took, outcome) in &log.parts {
        println!("{name:21} {:>9}  {outcome}", human(*took));
    }
    println!("{} passed, {} failed", log.count.passed, log.count.failed);
    Ok(if log.count.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Default)]
struct Log {
    parts: Vec<(&'static str, Duration, String)>,
    count: Count,
}

impl Log {
    fn part(&mut self, name: &'static str, run: impl FnOnce() -> Result<Count>) {
        eprintln!("==> {name}");
        let started = Instant::now();
        let count = run().unwrap_or_else(|error| {
            eprintln!("error: {error:#}");
            Count { passed: 0, failed: 1 }
        });
        let outcome = match count {
            Count { passed: 0, failed: 0 } => "ok".to_owned(),
            Count { passed, failed } => format!("{passed} passed, {failed} failed"),
        };
        eprintln!("==> {name}: {outcome}, {}", human(started.elapsed()));
        self.parts.push((name, started.elapsed(), outcome));
        self.count += count;
    }
}

/// A part that is not a set of tests counts only when it fails.
fn done(outcome: Result<()>) -> Result<Count> {
    outcome.map(|()| Count::default())
}

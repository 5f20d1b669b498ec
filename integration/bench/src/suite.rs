//! What a suite is: peers that are measured in turn, the figures taken of them, and the targets they are held to.
//!
//! The shape is small on purpose. [`Suite::peers`] lays out what is needed (namespaces, rules, files) and returns the
//! peers; the runner calls [`Peer::measure`] of each peer in each round, in an order that moves by one from round to
//! round; a peer takes its cases one after the other with [`Round::case`] and records figures in them. A case that fails
//! is reported and does not end the run.

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, ensure};
use serde::Serialize;

use crate::results::{Failure, Values};

/// A family of measurements, such as `tunnel`.
pub trait Suite {
    /// The word for `--only`.
    fn name(&self) -> &'static str;
    /// One line: what it measures.
    fn about(&self) -> &'static str;
    /// What it needs that is not ours.
    fn needs(&self) -> Vec<Need> {
        Vec::new()
    }
    /// The figures, in the order of the table.
    fn figures(&self) -> Vec<Figure>;
    /// What ours is held to.
    fn targets(&self) -> Vec<Target> {
        Vec::new()
    }
    /// Charts of some of the figures.
    fn charts(&self) -> Vec<Chart> {
        Vec::new()
    }
    /// What a reader of the table has to know, a line each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
    /// Makes everything ready, and returns the peers. What they hold is removed when they are dropped.
    fn peers(&self, setup: &Setup) -> Result<Vec<Box<dyn Peer>>>;
}

/// One of those that are compared: ours in one of its ways, or somebody else's program.
pub trait Peer {
    /// A short word, the key in `results.json`: `ours`, `coturn`.
    fn id(&self) -> &'static str;
    /// What the table says.
    fn label(&self) -> String;
    /// Version, as it says itself; or what else pins it down.
    fn version(&self) -> String;
    /// Takes every case once. An error here means that the peer could not be started at all in this round.
    fn measure(&mut self, round: &mut Round<'_>) -> Result<()>;
}

/// A program that is not ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// From a package of the distribution.
    Package {
        /// The program by which its presence is known.
        program: &'static str,
        /// The package.
        package: &'static str,
    },
    /// From the Rust registry, with `cargo install --locked`.
    Crate {
        /// The crate.
        name: &'static str,
        /// Exactly this version.
        version: &'static str,
        /// The program that it installs.
        program: &'static str,
    },
}

/// How the run was asked for, and where things are.
#[derive(Debug, Clone)]
pub struct Setup {
    /// How long one measurement takes, in seconds.
    pub secs: u64,
    /// How many rounds.
    pub rounds: usize,
    /// Where programs from the Rust registry were installed.
    pub installed: PathBuf,
    /// Where flame graphs go, if they are asked for.
    pub profile: Option<PathBuf>,
}

impl Setup {
    /// A program that a [`Need::Crate`] has installed.
    pub fn program(&self, name: &str) -> PathBuf {
        self.installed.join("bin").join(name)
    }
}

/// Which direction is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Figure {
    /// Its key in `results.json`.
    pub id: &'static str,
    /// What it is, for a person.
    pub what: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// Which direction is good.
    pub better: Better,
}

impl Figure {
    /// A figure of which more is better.
    pub const fn higher(id: &'static str, what: &'static str, unit: &'static str) -> Self {
        Self { id, what, unit, better: Better::Higher }
    }

    /// A figure of which less is better.
    pub const fn lower(id: &'static str, what: &'static str, unit: &'static str) -> Self {
        Self { id, what, unit, better: Better::Lower }
    }
}

/// Where the value of a target comes from. Medians over the rounds, except for [`Measure::Worst`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measure {
    /// `(figure, peer)`.
    Median(&'static str, &'static str),
    /// The worst round of `(figure, peer)`: the largest value when less is better, else the smallest.
    Worst(&'static str, &'static str),
    /// `(figure, peer)` over another `(figure, peer)`.
    Ratio((&'static str, &'static str), (&'static str, &'static str)),
}

/// The bound of a target; the value at the bound holds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Bound {
    /// No less than this.
    AtLeast(f64),
    /// No more than this.
    AtMost(f64),
}

/// What ours is held to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// What is promised, in words.
    pub what: &'static str,
    /// Where the value comes from.
    pub measure: Measure,
    /// The bound.
    pub bound: Bound,
    /// What is wished for beyond the bound.
    pub goal: Option<f64>,
}

impl Target {
    /// A target without a goal beyond it.
    pub const fn new(what: &'static str, measure: Measure, bound: Bound) -> Self {
        Self { what, measure, bound, goal: None }
    }

    /// With a goal beyond the bound.
    #[must_use]
    pub const fn with_goal(mut self, goal: f64) -> Self {
        self.goal = Some(goal);
        self
    }
}

/// Bars of some figures of one unit, a group for each figure, a bar for each peer that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chart {
    /// The file is called `<suite>-<name>.svg`.
    pub name: &'static str,
    /// The headline.
    pub title: &'static str,
    /// Ids of the figures.
    pub figures: Vec<&'static str>,
}

/// One turn of one peer.
pub struct Round<'a> {
    setup: &'a Setup,
    number: usize,
    peer: &'static str,
    label: String,
    values: &'a mut Values,
    failures: &'a mut Vec<Failure>,
    known: &'a [Figure],
    fresh: Vec<String>,
}

impl<'a> Round<'a> {
    /// For the runner, and for tests of peers.
    pub fn new(
        setup: &'a Setup,
        number: usize,
        peer: &dyn Peer,
        known: &'a [Figure],
        values: &'a mut Values,
        failures: &'a mut Vec<Failure>,
    ) -> Self {
        let (peer, label) = (peer.id(), peer.label());
        Self { setup, number, peer, label, values, failures, known, fresh: Vec::new() }
    }

    /// How long one measurement takes, in seconds.
    pub fn secs(&self) -> u64 {
        self.setup.secs
    }

    /// The number of the round, from 1.
    pub fn number(&self) -> usize {
        self.number
    }

    /// How the run was asked for, and where things are.
    pub fn setup(&self) -> &'a Setup {
        self.setup
    }

    /// Takes one case. Progress goes to standard error; a failure is noted, and the next case goes on.
    pub fn case(&mut self, what: &str, take: impl FnOnce(&mut Self) -> Result<()>) {
        eprint!("[{}/{}] {}: {what} … ", self.number, self.setup.rounds, self.label);
        self.fresh.clear();
        let started = Instant::now();
        let outcome = take(self);
        integration_lab::signals::rest_when_interrupted();
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(()) => eprintln!("{} ({took:.1} s)", self.fresh.join(", ")),
            Err(error) => {
                eprintln!("FAILED ({took:.1} s): {error:#}");
                self.failed(what, &error);
            }
        }
    }

    /// Takes cases that need the same preparation; when that fails, it is noted and the next part goes on.
    pub fn part(&mut self, what: &str, take: impl FnOnce(&mut Self) -> Result<()>) {
        if let Err(error) = take(self) {
            integration_lab::signals::rest_when_interrupted();
            eprintln!("[{}/{}] {}: {what}: FAILED: {error:#}", self.number, self.setup.rounds, self.label);
            self.failed(what, &error);
        }
    }

    /// Records a value of a figure of this peer.
    pub fn record(&mut self, figure: &str, value: f64) -> Result<()> {
        let known = self.known.iter().find(|known| known.id == figure);
        ensure!(known.is_some(), "the suite has no figure `{figure}`");
        ensure!(value.is_finite(), "the value of `{figure}` is {value}");
        let unit = known.map_or("", |known| known.unit);
        self.fresh.push(format!("{} {unit}", crate::report::number(value)));
        self.values.push(figure, self.peer, value);
        Ok(())
    }

    /// Notes that something of this peer failed.
    pub fn failed(&mut self, what: &str, error: &anyhow::Error) {
        self.failures.push(Failure {
            peer: self.peer.to_owned(),
            round: self.number,
            case: what.to_owned(),
            error: format!("{error:#}"),
        });
    }
}

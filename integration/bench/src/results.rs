//! What a run leaves: `results.json`.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    machine::Machine,
    stats::Spread,
    suite::{Figure, Measure},
    target::Verdict,
};

/// Number of the shape of `results.json`; raised when a field changes its meaning or goes.
pub const SCHEMA: u32 = 1;

/// The whole file.
#[derive(Debug, Serialize)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The command that gives these figures.
    pub command: String,
    /// When it began, RFC 3339.
    pub at: String,
    /// Commit of the sources, with `+` when something was changed since; empty outside a repository.
    pub commit: String,
    /// Where it ran.
    pub machine: Machine,
    /// How long one measurement took, in seconds.
    pub secs: u64,
    /// How many rounds.
    pub rounds: usize,
    /// One for each suite that ran.
    pub suites: Vec<SuiteResults>,
}

/// What one suite gave.
#[derive(Debug, Serialize)]
pub struct SuiteResults {
    /// Its name.
    pub suite: &'static str,
    /// What it measures.
    pub about: &'static str,
    /// How long it took, in seconds.
    pub took: f64,
    /// Who was measured, in the order of the table.
    pub peers: Vec<PeerInfo>,
    /// The rows.
    pub figures: Vec<Row>,
    /// The targets.
    pub targets: Vec<Verdict>,
    /// What a reader has to know.
    pub notes: Vec<String>,
    /// What went wrong.
    pub failures: Vec<Failure>,
}

/// Who was measured.
#[derive(Debug, Clone, Serialize)]
pub struct PeerInfo {
    /// Key of its values.
    pub id: &'static str,
    /// What the table says.
    pub label: String,
    /// Its version.
    pub version: String,
}

/// One figure of every peer that has it.
#[derive(Debug, Serialize)]
pub struct Row {
    /// What it is.
    #[serde(flatten)]
    pub figure: Figure,
    /// By peer.
    pub values: BTreeMap<String, Spread>,
}

/// Something that could not be measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Whose.
    pub peer: String,
    /// In which round.
    pub round: usize,
    /// In which case; empty when the peer did not start.
    pub case: String,
    /// Why.
    pub error: String,
}

/// What was recorded so far, by figure and peer.
#[derive(Debug, Default)]
pub struct Values(BTreeMap<(String, String), Vec<f64>>);

impl Values {
    /// Adds the value of one round.
    pub fn push(&mut self, figure: &str, peer: &str, value: f64) {
        self.0.entry((figure.to_owned(), peer.to_owned())).or_default().push(value);
    }

    /// What the rounds gave.
    pub fn spread(&self, figure: &str, peer: &str) -> Option<Spread> {
        Spread::of(self.0.get(&(figure.to_owned(), peer.to_owned()))?)
    }

    /// The value of a target, `None` when something that it needs was not measured.
    pub fn value(&self, measure: Measure, figures: &[Figure]) -> Option<f64> {
        let median = |(figure, peer)| self.spread(figure, peer).map(|spread| spread.median);
        match measure {
            Measure::Median(figure, peer) => median((figure, peer)),
            Measure::Worst(figure, peer) => {
                let spread = self.spread(figure, peer)?;
                let known = figures.iter().find(|known| known.id == figure)?;
                Some(match known.better {
                    crate::Better::Higher => spread.min,
                    crate::Better::Lower => spread.max,
                })
            }
            Measure::Ratio(one, other) => {
                let other = median(other)?;
                (other != 0.0).then_some(median(one)? / other)
            }
        }
    }
}

impl SuiteResults {
    /// The spread of a figure of a peer.
    pub fn spread(&self, figure: &str, peer: &str) -> Option<&Spread> {
        self.figures.iter().find(|row| row.figure.id == figure)?.values.get(peer)
    }
}

impl Results {
    /// Whether every target of every suite was held.
    pub fn all_held(&self) -> bool {
        self.suites.iter().flat_map(|suite| &suite.targets).all(|verdict| verdict.held)
    }

    /// The file's text.
    pub fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}

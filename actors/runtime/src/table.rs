//! The table of a process: which kinds of actors it has, and the rules each lives by.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Write as _;

use crate::lane::LaneKind;
use crate::restart::{Intensity, Restart};
use crate::tree::Boot;

/// What happens to a command that meets a full control mailbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// The new command is dropped and counted; the sender is not told.
    DropNewest,
    /// The oldest waiting command is dropped and counted.
    DropOldest,
    /// The sender gets the command back.
    Refuse,
    /// The mailbox holds one command, the newest; the one it replaces counts as coalesced. The row's capacity is 1.
    Latest,
}

/// A row's start function.
pub type Start<C> = fn(&Boot<'_, C>) -> Result<(), StartError>;

/// One kind of actor in a process.
pub struct Row<C: 'static> {
    /// [`Actor::KIND`](crate::Actor::KIND).
    pub kind: &'static str,
    /// The kind of its parent, `"-"` for a root.
    pub parent: &'static str,
    /// What there is one of it for, in words: `"connected device"`.
    pub each: &'static str,
    /// Where it lives. A child lives on its parent's lane.
    pub lane: LaneKind,
    /// Capacity of the control mailbox, in commands.
    pub mailbox: usize,
    /// The rule of a full control mailbox.
    pub full: Full,
    /// Capacity of the packet mailbox, in batches; 0 for none.
    pub ring: usize,
    /// Whether it is rebuilt when it fails.
    pub restart: Restart,
    /// How often.
    pub intensity: Intensity,
    /// Starts it (a root). `None`: its parent does.
    pub start: Option<Start<C>>,
}

/// Why an actor or a process did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The kind has no row in the process's table.
    #[error("no row for actor kind {0} in the table of this process")]
    NotInTree(&'static str),
    /// The row names another parent, or another kind of lane.
    #[error("actor kind {kind} cannot live here: {why}")]
    Misplaced {
        /// The kind.
        kind: &'static str,
        /// What does not fit.
        why: &'static str,
    },
    /// An actor of this kind and key is alive.
    #[error("actor {kind} {key:?} is already alive")]
    KeyInUse {
        /// The kind.
        kind: &'static str,
        /// The key.
        key: String,
    },
    /// The table contradicts itself.
    #[error("the table of actors is wrong: {0}")]
    Table(String),
    /// The process lacks something that an actor needs.
    #[error("{what}")]
    Failed {
        /// What was attempted.
        what: String,
        /// The cause.
        #[source]
        cause: Box<dyn Error + Send + Sync>,
    },
}

impl StartError {
    /// An error of the process's own start code: what was attempted, and the cause.
    pub fn failed(what: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> StartError {
        StartError::Failed { what: what.into(), cause: cause.into() }
    }
}

/// A row without its start function.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub kind: &'static str,
    pub parent: &'static str,
    pub each: &'static str,
    pub lane: LaneKind,
    pub mailbox: usize,
    pub full: Full,
    pub ring: usize,
    pub restart: Restart,
    pub intensity: Intensity,
}

/// Whether each root needs a start function: not in a test, which starts what it wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Starts {
    Required,
    Optional,
}

/// The rules of a process, by kind and in start order.
#[derive(Debug)]
pub(crate) struct Table {
    rules: Vec<Rule>,
    by_kind: HashMap<&'static str, usize>,
}

pub(crate) const ROOT: &str = "-";

impl Table {
    pub(crate) fn of<C>(rows: &[Row<C>]) -> Table {
        let rules: Vec<Rule> = rows
            .iter()
            .map(|row| Rule {
                kind: row.kind,
                parent: row.parent,
                each: row.each,
                lane: row.lane,
                mailbox: row.mailbox,
                full: row.full,
                ring: row.ring,
                restart: row.restart,
                intensity: row.intensity,
            })
            .collect();
        let by_kind = rules.iter().enumerate().map(|(index, rule)| (rule.kind, index)).collect();
        Table { rules, by_kind }
    }

    pub(crate) fn rule(&self, kind: &'static str) -> Result<&Rule, StartError> {
        self.by_kind.get(kind).and_then(|&index| self.rules.get(index)).ok_or(StartError::NotInTree(kind))
    }

    pub(crate) fn kinds(&self) -> impl Iterator<Item = &'static str> {
        self.rules.iter().map(|rule| rule.kind)
    }

    pub(crate) fn uses(&self, lane: LaneKind) -> bool {
        self.rules.iter().any(|rule| rule.lane == lane)
    }

    /// Refuses a table that contradicts itself.
    pub(crate) fn validate<C>(&self, rows: &[Row<C>], starts: Starts) -> Result<(), StartError> {
        let wrong = |text: String| Err(StartError::Table(text));
        if self.by_kind.len() != self.rules.len() {
            return wrong("a kind appears twice".into());
        }
        for (place, (rule, row)) in self.rules.iter().zip(rows).enumerate() {
            let kind = rule.kind;
            if rule.mailbox == 0 {
                return wrong(format!("{kind} has no room for a command"));
            }
            if rule.full == Full::Latest && rule.mailbox != 1 {
                return wrong(format!("{kind}: a mailbox where the latest wins holds one command"));
            }
            if rule.parent == ROOT {
                if row.start.is_none() && starts == Starts::Required {
                    return wrong(format!("{kind} is a root that nothing starts"));
                }
                continue;
            }
            if row.start.is_some() {
                return wrong(format!("{kind} has both a parent and a start function"));
            }
            // A taken-away parent takes its children along: they are simply never started.
            if let Some(&parent) = self.by_kind.get(rule.parent) {
                if parent >= place {
                    return wrong(format!("{kind} stands before its parent {}", rule.parent));
                }
                if self.rules[parent].lane != rule.lane {
                    return wrong(format!("{kind} does not live on the lane of its parent {}", rule.parent));
                }
            }
        }
        Ok(())
    }

    fn depth(&self, rule: &Rule) -> usize {
        let mut depth = 0;
        let mut at = rule;
        while let Some(&parent) = self.by_kind.get(at.parent) {
            depth += 1;
            at = &self.rules[parent];
            if depth > self.rules.len() {
                break;
            }
        }
        depth
    }

    /// The table as aligned text, one line a kind, children indented under their parent.
    pub(crate) fn render(&self) -> String {
        let mut lines = vec![
            ["actor", "one for each", "lane", "mailbox", "when full", "ring", "restart", "gives up after"]
                .map(String::from),
        ];
        for rule in &self.rules {
            let (restart, gives_up) = match rule.restart {
                Restart::Always => (
                    "always",
                    format!("{} restarts in {} s", rule.intensity.restarts, rule.intensity.within.as_secs()),
                ),
                Restart::Never => ("never", "1 failure".to_string()),
            };
            lines.push([
                format!("{}{}", "  ".repeat(self.depth(rule)), rule.kind),
                rule.each.to_string(),
                rule.lane.name().to_string(),
                rule.mailbox.to_string(),
                match rule.full {
                    Full::DropNewest => "drop newest",
                    Full::DropOldest => "drop oldest",
                    Full::Refuse => "refuse",
                    Full::Latest => "latest wins",
                }
                .to_string(),
                if rule.ring == 0 { "-".to_string() } else { rule.ring.to_string() },
                restart.to_string(),
                gives_up,
            ]);
        }
        let mut widths = [0; 8];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in &lines {
            let mut row = String::new();
            for (cell, width) in line.iter().zip(widths) {
                let _ = write!(row, "{cell:<width$}  ");
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        text
    }
}

//! Questions about resources that wait until it is known whether the resource can be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::answer::Question;
use crate::name::Name;
use crate::stub::{AccessOutcome, Asker};

/// Questions that wait, over all names; beyond it they are answered without waiting.
const LIMIT: usize = 256;
/// How long a granted name is answered without asking again.
const GRANTED: Duration = Duration::from_secs(30);
/// How long another outcome counts: long enough for the burst of questions of one connection.
const OTHER: Duration = Duration::from_secs(1);
/// Outcomes that are remembered.
const OUTCOMES: usize = 1024;

/// One name that is being asked about.
#[derive(Debug)]
struct Waiting {
    deadline: Duration,
    questions: Vec<(Asker, Question)>,
}

/// Everything that waits, and what is known.
#[derive(Debug, Default)]
pub(crate) struct Held {
    waiting: BTreeMap<Name, Waiting>,
    count: usize,
    outcomes: BTreeMap<Name, (AccessOutcome, Duration)>,
}

/// What became of a question.
#[derive(Debug)]
pub(crate) enum Hold {
    /// It waits; somebody has to be asked when it is the first about this name.
    Waits { first: bool },
    /// The answer is known, or there is no room to wait.
    Answer(Question, Option<AccessOutcome>),
}

impl Held {
    pub(crate) fn hold(
        &mut self,
        name: &Name,
        asker: Asker,
        question: Question,
        patience: Duration,
        now: Duration,
    ) -> Hold {
        if let Some((outcome, until)) = self.outcomes.get(name)
            && now < *until
        {
            return Hold::Answer(question, Some(*outcome));
        }
        let first = !self.waiting.contains_key(name);
        if let Some(waiting) = self.waiting.get(name)
            && waiting
                .questions
                .iter()
                .any(|(a, q)| *a == asker && q.id == question.id && q.query == question.query)
        {
            return Hold::Waits { first: false };
        }
        if self.count >= LIMIT {
            return Hold::Answer(question, None);
        }
        let deadline = now + patience;
        let waiting =
            self.waiting.entry(name.clone()).or_insert_with(|| Waiting { deadline, questions: Vec::new() });
        waiting.questions.push((asker, question));
        self.count += 1;
        Hold::Waits { first }
    }

    /// Takes an outcome, and hands out what waited for it.
    pub(crate) fn decided(
        &mut self,
        name: &Name,
        outcome: AccessOutcome,
        now: Duration,
    ) -> Vec<(Asker, Question)> {
        let keeps = match outcome {
            AccessOutcome::Granted { .. } => GRANTED,
            AccessOutcome::Denied | AccessOutcome::Offline => OTHER,
        };
        if self.outcomes.len() >= OUTCOMES && !self.outcomes.contains_key(name) {
            self.outcomes.retain(|_, (_, until)| now < *until);
        }
        if self.outcomes.len() < OUTCOMES || self.outcomes.contains_key(name) {
            self.outcomes.insert(name.clone(), (outcome, now + keeps));
        }
        self.release(name)
    }

    /// What waited too long.
    pub(crate) fn overdue(&mut self, now: Duration) -> Vec<(Name, Vec<(Asker, Question)>)> {
        let names: Vec<Name> =
            self.waiting.iter().filter(|(_, w)| w.deadline <= now).map(|(name, _)| name.clone()).collect();
        names
            .into_iter()
            .map(|name| {
                let questions = self.release(&name);
                (name, questions)
            })
            .collect()
    }

    fn release(&mut self, name: &Name) -> Vec<(Asker, Question)> {
        let questions = self.waiting.remove(name).map(|waiting| waiting.questions).unwrap_or_default();
        self.count = self.count.saturating_sub(questions.len());
        questions
    }

    pub(crate) fn forget(&mut self, name: &Name) {
        self.outcomes.remove(name);
    }

    pub(crate) fn forget_outcomes(&mut self) {
        self.outcomes.clear();
    }

    pub(crate) fn deadline(&self) -> Option<Duration> {
        self.waiting.values().map(|waiting| waiting.deadline).min()
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }
}

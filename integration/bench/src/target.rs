//! Targets, and whether they were held.

use serde::Serialize;

use crate::{
    report::number,
    results::Values,
    suite::{Bound, Figure, Measure, Target},
};

/// A target with what the run says about it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// What is promised.
    pub what: &'static str,
    /// How the value was made.
    pub of: String,
    /// The value; `null` when something was not measured.
    pub value: Option<f64>,
    /// `>=` or `<=`.
    pub relation: &'static str,
    /// The bound.
    pub bound: f64,
    /// What is wished for beyond it.
    pub goal: Option<f64>,
    /// Whether the value is within the bound. What was not measured is not held.
    pub held: bool,
}

/// Looks at one target.
pub fn judge(target: &Target, values: &Values, figures: &[Figure]) -> Verdict {
    let value = values.value(target.measure, figures);
    let (relation, bound) = match target.bound {
        Bound::AtLeast(bound) => (">=", bound),
        Bound::AtMost(bound) => ("<=", bound),
    };
    let held = value.is_some_and(|value| match target.bound {
        Bound::AtLeast(bound) => value >= bound,
        Bound::AtMost(bound) => value <= bound,
    });
    let of = match target.measure {
        Measure::Median(figure, peer) => format!("median of {figure} of {peer}"),
        Measure::Worst(figure, peer) => format!("worst round of {figure} of {peer}"),
        Measure::Ratio((figure, peer), (other, of)) if figure == other => format!("{figure}: {peer} / {of}"),
        Measure::Ratio((figure, peer), (other, of)) => format!("{figure} of {peer} / {other} of {of}"),
    };
    Verdict { what: target.what, of, value, relation, bound, goal: target.goal, held }
}

impl Verdict {
    /// `held`, `NOT held` or `not measured`.
    pub fn word(&self) -> &'static str {
        match (self.held, self.value) {
            (true, _) => "held",
            (false, Some(_)) => "NOT held",
            (false, None) => "not measured",
        }
    }

    /// `>= 5.5 (goal 6)`.
    pub fn bound_text(&self) -> String {
        let goal = self.goal.map(|goal| format!(" (goal {})", number(goal))).unwrap_or_default();
        format!("{} {}{goal}", self.relation, number(self.bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIGURES: [Figure; 2] = [Figure::higher("rate", "rate", "1/s"), Figure::lower("time", "time", "ms")];

    fn values() -> Values {
        let mut values = Values::default();
        for (ours, theirs, time) in [(10.0, 2.0, 3.0), (12.0, 2.0, 9.0), (11.0, 4.0, 4.0)] {
            values.push("rate", "ours", ours);
            values.push("rate", "theirs", theirs);
            values.push("time", "ours", time);
        }
        values
    }

    #[test]
    fn a_ratio_of_medians_is_held_at_its_bound() {
        let measure = Measure::Ratio(("rate", "ours"), ("rate", "theirs"));

        let held = judge(&Target::new("faster", measure, Bound::AtLeast(5.5)), &values(), &FIGURES);
        let missed = judge(&Target::new("faster", measure, Bound::AtLeast(5.6)), &values(), &FIGURES);

        assert_eq!((held.value, held.held, held.word()), (Some(5.5), true, "held"));
        assert_eq!((missed.held, missed.word()), (false, "NOT held"));
        assert_eq!(held.of, "rate: ours / theirs");
    }

    #[test]
    fn the_worst_round_counts_where_it_is_asked_for() {
        let worst = judge(
            &Target::new("quick", Measure::Worst("time", "ours"), Bound::AtMost(5.0)),
            &values(),
            &FIGURES,
        );
        let median = judge(
            &Target::new("quick", Measure::Median("time", "ours"), Bound::AtMost(5.0)).with_goal(3.0),
            &values(),
            &FIGURES,
        );

        assert_eq!((worst.value, worst.held), (Some(9.0), false));
        assert_eq!(
            (median.value, median.held, median.bound_text()),
            (Some(4.0), true, "<= 5 (goal 3)".into())
        );
    }

    #[test]
    fn what_was_not_measured_is_not_held() {
        let verdict = judge(
            &Target::new("absent", Measure::Median("rate", "nobody"), Bound::AtMost(1.0)),
            &values(),
            &FIGURES,
        );

        assert_eq!((verdict.value, verdict.held, verdict.word()), (None, false, "not measured"));
    }
}

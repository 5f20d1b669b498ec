//! Which proven path is the best, and whether it is worth the change.

use std::time::Duration;

use crate::PathKind;
use crate::route::{Proven, Route};
use crate::table::{Number, Table};

/// A probe lost in ten costs as much as 50 ms: retransmissions cost more than distance.
const LOSS_COST: Duration = Duration::from_millis(500);
/// A direct path is far worse when it is three times as slow as the relayed one and this …
const FAR_WORSE_BY: Duration = Duration::from_millis(100);
/// … or loses so much more.
const FAR_WORSE_LOSS: f32 = 0.3;
/// Among paths of one kind, a fifth and this much must be gained …
const GAIN: Duration = Duration::from_millis(5);
/// … and must have been to gain for so long.
pub(crate) const STEADY: Duration = Duration::from_secs(3);
/// The longest that data is held back for a switch to a faster path.
const HOLD_MAX: Duration = Duration::from_millis(250);

/// What a change is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Keep the one in use.
    Stay,
    /// Change when this has been so for [`STEADY`].
    Lean(Number),
    /// Change now.
    Change(Number),
}

/// Compares the path in use with the best of the others.
pub(crate) fn judge(table: &Table, selected: Option<Number>, selected_since: Duration) -> Verdict {
    let Some(best) = best(table) else {
        return Verdict::Stay;
    };
    let Some((current, current_proven)) =
        selected.and_then(|number| table.get(number)).and_then(|route| Some((route, route.proven()?)))
    else {
        return if Some(best) == selected { Verdict::Stay } else { Verdict::Change(best) };
    };
    let Some((challenger, challenger_proven)) =
        table.get(best).and_then(|route| Some((route, route.proven()?)))
    else {
        return Verdict::Stay;
    };
    if Some(best) == selected {
        return Verdict::Stay;
    }
    match (current.kind, challenger.kind) {
        // What was proven after the choice was made is news: take it at once.
        (PathKind::Relayed, PathKind::Direct) if challenger_proven.since >= selected_since => {
            Verdict::Change(best)
        }
        (PathKind::Relayed, PathKind::Direct) | (PathKind::Direct, PathKind::Relayed) => Verdict::Lean(best),
        (PathKind::Direct, PathKind::Direct) | (PathKind::Relayed, PathKind::Relayed) => {
            let (now, then) = (cost(current_proven), cost(challenger_proven));
            if then.saturating_mul(5) / 4 + GAIN < now { Verdict::Lean(best) } else { Verdict::Stay }
        }
    }
}

/// The best proven path.
pub(crate) fn best(table: &Table) -> Option<Number> {
    let best_of = |kind: PathKind| {
        table
            .iter()
            .filter(|(_, route)| route.kind == kind)
            .filter_map(|(number, route)| Some((number, route.proven()?)))
            .min_by_key(|(_, proven)| (proven.is_silent(), cost(proven)))
    };
    match (best_of(PathKind::Direct), best_of(PathKind::Relayed)) {
        (Some((number, direct)), Some((other, relayed))) => {
            let far_worse = cost(direct) > cost(relayed) * 3 + FAR_WORSE_BY
                || direct.loss > relayed.loss + FAR_WORSE_LOSS;
            Some(if far_worse { other } else { number })
        }
        (Some((number, _)), None) | (None, Some((number, _))) => Some(number),
        (None, None) => None,
    }
}

/// How long data is held back after a switch: what is still on the slow path must not arrive behind the session's
/// replay window, which the faster path moves on.
pub(crate) fn hold(from: &Route, to: &Route) -> Duration {
    match (from.proven(), to.proven()) {
        (Some(from), Some(to)) => (from.rtt.smoothed.saturating_sub(to.rtt.smoothed) / 2).min(HOLD_MAX),
        (Some(_) | None, Some(_) | None) => Duration::ZERO,
    }
}

/// Lower is better.
pub(crate) fn cost(proven: &Proven) -> Duration {
    proven.rtt.smoothed + LOSS_COST.mul_f32(proven.loss.clamp(0.0, 1.0))
}

//! Why a decision is what it is.

use jiff::Timestamp;

use super::{Compiled, Index, Request};
use crate::{Close, Decision, Effect, Explanation, Reason, RuleRef, Verdict};

/// Explanations name at most this many rules: a person reads them.
const MOST_CLOSE: usize = 16;

fn name(compiled: &Compiled) -> RuleRef {
    let rule = &compiled.rule;
    RuleRef { id: rule.id, name: rule.name.clone(), place: rule.place.clone(), effect: rule.effect }
}

impl Index {
    /// Decides as [`Index::decide`] does, and says why.
    pub fn explain(&self, request: &Request<'_>, now: Timestamp) -> Decision {
        let verdict = self.decide(request, now);
        let decided = match verdict {
            Verdict::Allowed { policy, .. } | Verdict::Denied(Reason::DeniedByRule(policy)) => {
                self.places.get(&policy).and_then(|place| self.rule(*place)).map(name)
            }
            Verdict::Denied(_) => None,
        };
        let close = match verdict {
            Verdict::Denied(Reason::NoRule | Reason::NoRuleApplies) => self.closest(request, now),
            Verdict::Allowed { .. } | Verdict::Denied(_) => Vec::new(),
        };
        Decision { verdict, explanation: Explanation { decided, close } }
    }

    /// The allow rules that failed the fewest conditions, each with the first that it failed.
    fn closest(&self, request: &Request<'_>, now: Timestamp) -> Vec<Close> {
        let Some(member) = self.members.get(&request.principal) else { return Vec::new() };
        let edges = self.targets.get(&request.resource).map(|target| target.edges.as_slice());
        let mut close = Vec::new();
        for rule in edges.unwrap_or_default().iter().filter_map(|edge| self.rule(edge.rule)) {
            if rule.rule.effect == Effect::Deny {
                continue;
            }
            let mut failures = rule.failures(request, member, now).into_iter();
            if let Some(failed) = failures.next() {
                close.push(Close { rule: name(rule), failed, further: failures.len() });
            }
        }
        let closest = close.iter().map(|close| close.further).min().unwrap_or(0);
        close.retain(|close| close.further == closest);
        close.truncate(MOST_CLOSE);
        close
    }
}

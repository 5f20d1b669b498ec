//! One rule as the index holds it.

use jiff::Timestamp;
use protocol_identity::ResourceId;

use crate::condition::{Met, Part};
use crate::schedule::Schedule;
use crate::{Context, Effect, Failure, Rule};

use super::{Member, Request};

/// A rule, ready to be met.
#[derive(Debug)]
pub(super) struct Compiled {
    pub rule: Rule,
    /// The sets of principals that it speaks of, in order.
    pub sets: Vec<u32>,
    /// Whether it speaks of everyone.
    pub everyone: bool,
    /// Which of [`Member::mask`] it could speak of.
    pub mask: u64,
    /// When its windows are open.
    pub schedule: Option<Schedule>,
    /// The resources whose edges lead to it.
    pub targets: Vec<ResourceId>,
}

/// The earlier of two ends, where `None` is never.
pub(super) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (only, None) | (None, only) => only,
    }
}

/// Whether two ordered lists have an element in common.
fn share(mut a: &[u32], mut b: &[u32]) -> bool {
    while let (Some((first, a_rest)), Some((second, b_rest))) = (a.split_first(), b.split_first()) {
        match first.cmp(second) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => a = a_rest,
            std::cmp::Ordering::Greater => b = b_rest,
        }
    }
    false
}

impl Compiled {
    /// Whether it speaks of this principal.
    pub fn speaks_of(&self, member: &Member) -> bool {
        self.everyone || share(&self.sets, &member.sets)
    }

    /// When the sign-in, or the longest session that the rule gives, ends. A sum beyond the calendar is no end.
    fn given_until(&self, request: &Request<'_>) -> Option<Timestamp> {
        let longest = self.rule.max_session.and_then(|longest| request.since.checked_add(longest).ok());
        earlier(request.context.session_ends, longest)
    }

    /// For an allow: whether it gives access, and until when.
    pub fn conforms(&self, request: &Request<'_>, now: Timestamp) -> Option<Option<Timestamp>> {
        let mut until = self.given_until(request);
        if until.is_some_and(|end| end <= now) {
            return None;
        }
        let mut holds = true;
        self.rule.conditions.meet(self.schedule.as_ref(), request.context, now, |met| {
            match met {
                Met::Holds(end) => until = earlier(until, end),
                Met::Fails(_) | Met::Unknown(_) => holds = false,
            }
            holds
        });
        holds.then_some(until)
    }

    /// For a deny: whether it matches. What is not known may be so.
    pub fn fires(&self, context: &Context, now: Timestamp) -> bool {
        let mut fires = true;
        self.rule.conditions.meet(self.schedule.as_ref(), context, now, |met| {
            fires = !matches!(met, Met::Fails(_));
            fires
        });
        fires
    }

    /// When a deny that does not match now begins to, by time alone: its windows are all that it fails, one opens later,
    /// and what holds now still holds then. Nothing else that fails comes to hold with time.
    pub fn begins(&self, context: &Context, now: Timestamp) -> Option<Timestamp> {
        let opens = self.schedule.as_ref()?.next_opening(now)?;
        self.fires(context, opens).then_some(opens)
    }

    /// For an allow: everything that keeps it from giving access.
    pub fn failures(&self, request: &Request<'_>, member: &Member, now: Timestamp) -> Vec<Failure> {
        let mut failures = Vec::new();
        if !self.rule.enabled {
            failures.push(Failure::Disabled);
        }
        if !self.speaks_of(member) {
            failures.push(Failure::NotInGroup);
        }
        let mut parts: Vec<Part> = Vec::new();
        self.rule.conditions.meet(self.schedule.as_ref(), request.context, now, |met| {
            match met {
                Met::Holds(_) => {}
                Met::Fails(part) | Met::Unknown(part) => parts.push(part),
            }
            true
        });
        let failed = |part| self.rule.conditions.failure(part, self.schedule.as_ref(), request.context, now);
        failures.extend(parts.into_iter().map(failed));
        if self.given_until(request).is_some_and(|end| end <= now) {
            failures.push(Failure::Ended);
        }
        failures
    }

    /// Where its edge stands among those of a resource: denies first, then by id.
    pub fn rank(&self) -> (bool, protocol_identity::PolicyId) {
        (self.rule.effect == Effect::Allow, self.rule.id)
    }
}

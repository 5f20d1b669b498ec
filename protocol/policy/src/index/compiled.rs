//! One rule as the index holds it.

use std::time::Duration;

use jiff::Timestamp;
use protocol_identity::{PolicyId, ResourceId};

use crate::condition::{Met, Part};
use crate::schedule::Schedule;
use crate::{Context, Effect, Failure, Rule};

use super::{Mask, Member, Request};

/// A rule, ready to be met.
#[derive(Debug)]
pub(super) struct Compiled {
    /// What decisions look at, close together.
    pub terms: Terms,
    pub rule: Rule,
    /// The sets of principals that it speaks of.
    pub sets: Vec<u32>,
    /// Whether it speaks of everyone.
    pub everyone: bool,
    /// Which of [`Member::mask`] it could speak of.
    pub mask: Mask,
    /// The resources whose edges lead to it.
    pub targets: Vec<ResourceId>,
}

/// The conditions of a rule as decisions meet them: the cheap ones by value, the rest only looked at when there are any.
#[derive(Debug)]
pub(super) struct Terms {
    pub policy: PolicyId,
    max_session: Option<Duration>,
    session_age: Option<Duration>,
    device_verified: Option<bool>,
    /// Two letters each; the first is zero when no country is asked for.
    countries: [[u8; 2]; COUNTRIES],
    /// Whether there is anything beside what stands here.
    more: bool,
    /// When its windows are open.
    pub schedule: Option<Schedule>,
}

/// So many countries are looked at in place; rules that name more look into their set.
const COUNTRIES: usize = 6;

fn letters(code: &str) -> Option<[u8; 2]> {
    // Zero means that there is none.
    code.as_bytes().try_into().ok().filter(|code| *code != [0; 2])
}

impl Terms {
    pub fn new(rule: &Rule, now: Timestamp) -> Self {
        let conditions = &rule.conditions;
        let mut countries = [[0; 2]; COUNTRIES];
        let codes: Option<Vec<[u8; 2]>> = conditions.countries.iter().map(|code| letters(code)).collect();
        let in_place = codes.filter(|codes| codes.len() <= COUNTRIES);
        for (place, code) in countries.iter_mut().zip(in_place.iter().flatten()) {
            *place = *code;
        }
        let more = in_place.is_none()
            || !(conditions.source_cidrs.is_empty()
                && conditions.posture.is_empty()
                && conditions.providers.is_empty());
        Self {
            policy: rule.id,
            max_session: rule.max_session,
            session_age: conditions.session_age_seconds.map(Duration::from_secs),
            device_verified: conditions.device_verified,
            countries,
            more,
            schedule: Schedule::new(&conditions.time_windows, now),
        }
    }

    /// Meets what stands here; what remains is met by [`Conditions::meet`]. `None`: something fails, or is not known and
    /// `unknown_fails`. Otherwise until when it holds.
    fn meet(&self, context: &Context, now: Timestamp, unknown_fails: bool) -> Option<Option<Timestamp>> {
        let known = |holds: Option<bool>| holds.unwrap_or(!unknown_fails);
        if let Some(wanted) = self.device_verified
            && !known(context.device_verified.map(|own| own == wanted))
        {
            return None;
        }
        if self.countries[0] != [0; 2] {
            let own = context.country.as_deref();
            let named = |own: &str| letters(own).is_some_and(|own| self.countries.contains(&own));
            if !known(own.map(named)) {
                return None;
            }
        }
        let mut until = None;
        if let Some(most) = self.session_age {
            match context.session_started {
                None if unknown_fails => return None,
                None => {}
                // A sum beyond the calendar is no end.
                Some(started) => {
                    let end = started.checked_add(most).ok();
                    if end.is_some_and(|end| now >= end) {
                        return None;
                    }
                    until = end;
                }
            }
        }
        if let Some(schedule) = &self.schedule {
            until = earlier(until, schedule.open_until(now)?);
        }
        Some(until)
    }
}

/// The earlier of two ends, where `None` is never.
pub(super) fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (only, None) | (None, only) => only,
    }
}

impl Compiled {
    /// Whether it speaks of this principal.
    pub fn speaks_of(&self, member: &Member) -> bool {
        self.everyone || member.sets.holds_any(&self.sets)
    }

    /// When the sign-in, or the longest session that the rule gives, ends. A sum beyond the calendar is no end.
    fn given_until(&self, request: &Request<'_>) -> Option<Timestamp> {
        let longest = self.terms.max_session.and_then(|longest| request.since.checked_add(longest).ok());
        earlier(request.context.session_ends, longest)
    }

    /// For an allow: whether it gives access, and until when.
    pub fn conforms(&self, request: &Request<'_>, now: Timestamp) -> Option<Option<Timestamp>> {
        let mut until = self.terms.meet(request.context, now, true)?;
        if self.terms.more {
            let mut holds = true;
            self.rule.conditions.meet(None, request.context, now, |met| {
                holds = matches!(met, Met::Holds(_));
                holds
            });
            holds.then_some(())?;
        }
        let given = self.given_until(request);
        if given.is_some_and(|end| end <= now) {
            return None;
        }
        until = earlier(until, given);
        Some(until)
    }

    /// For a deny: whether it matches. What is not known may be so.
    pub fn fires(&self, context: &Context, now: Timestamp) -> bool {
        let mut fires = self.terms.meet(context, now, false).is_some();
        if fires && self.terms.more {
            self.rule.conditions.meet(None, context, now, |met| {
                fires = !matches!(met, Met::Fails(_));
                fires
            });
        }
        fires
    }

    /// When a deny that does not match now begins to, by time alone: its windows are all that it fails, one opens later,
    /// and what holds now still holds then. Nothing else that fails comes to hold with time.
    pub fn begins(&self, context: &Context, now: Timestamp) -> Option<Timestamp> {
        let opens = self.terms.schedule.as_ref()?.next_opening(now)?;
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
        self.rule.conditions.meet(self.terms.schedule.as_ref(), request.context, now, |met| {
            match met {
                Met::Holds(_) => {}
                Met::Fails(part) | Met::Unknown(part) => parts.push(part),
            }
            true
        });
        let failed =
            |part| self.rule.conditions.failure(part, self.terms.schedule.as_ref(), request.context, now);
        failures.extend(parts.into_iter().map(failed));
        if self.given_until(request).is_some_and(|end| end <= now) {
            failures.push(Failure::Ended);
        }
        failures
    }

    /// Where its edge stands among those of a resource: denies first, then by id.
    pub fn rank(&self) -> (bool, PolicyId) {
        (self.rule.effect == Effect::Allow, self.rule.id)
    }
}

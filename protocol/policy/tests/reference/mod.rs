//! The semantics word by word, one after the other, without an index and without working anything out ahead. Slow, and
//! obviously right: whoever doubts the index reads this.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use protocol_identity::PolicyId;
use protocol_policy::{
    Conditions, Context, Day, Effect, Labels, Principal, Resource, Rule, Selector, Snapshot, TimeWindow,
};

/// Everything changes on whole quarters of an hour only, so that a walk in quarters sees each change.
pub const QUARTER: i64 = 900;
/// As far as the index looks ahead.
const AHEAD: i64 = 15 * 24 * 3600;

/// What a clock on a wall shows: the day's place in the week, and minutes since midnight.
fn wall(zone: &str, now: Timestamp) -> (i64, i64) {
    let shown = now.to_zoned(TimeZone::get(zone).unwrap());
    let day = i64::from(shown.weekday().to_monday_zero_offset());
    (day, i64::from(shown.hour()) * 60 + i64::from(shown.minute()))
}

fn open(window: &TimeWindow, now: Timestamp) -> bool {
    let (today, minute) = wall(&window.zone.to_string(), now);
    let on = |day: i64| window.days.contains(&Day::ALL[day.rem_euclid(7) as usize]);
    let (from, to) = (i64::from(window.from.minutes()), i64::from(window.to.minutes()));
    if from < to {
        on(today) && from <= minute && minute < to
    } else {
        (on(today) && minute >= from) || (on(today - 1) && minute < to)
    }
}

/// Numbers between dots; `None` is no version. No test writes anything else.
fn version(text: &str) -> Option<Vec<u64>> {
    text.split('.').map(|part| part.parse().ok()).collect()
}

/// Each condition that is asked: `Some(holds)`, or `None` for unknown.
fn met(c: &Conditions, context: &Context, now: Timestamp) -> Vec<Option<bool>> {
    let mut all = Vec::new();
    if !c.time_windows.is_empty() {
        all.push(Some(c.time_windows.iter().any(|window| open(window, now))));
    }
    if !c.source_cidrs.is_empty() {
        all.push(context.source.map(|own| c.source_cidrs.iter().any(|net| net.contains(&own))));
    }
    if let Some(wanted) = c.device_verified {
        all.push(context.device_verified.map(|own| own == wanted));
    }
    for posture in &c.posture {
        let own = context.posture.get(&posture.attribute);
        if !posture.is.is_empty() {
            all.push(own.map(|own| posture.is.contains(own)));
        }
        let compared = |bound: &str, accepted: fn(&Vec<u64>, &Vec<u64>) -> bool| {
            own.and_then(|own| version(own)).map(|own| accepted(&own, &version(bound).unwrap()))
        };
        if let Some(least) = &posture.at_least {
            all.push(compared(&least.to_string(), |own, bound| own >= bound));
        }
        if let Some(below) = &posture.below {
            all.push(compared(&below.to_string(), |own, bound| own < bound));
        }
    }
    if let Some(most) = c.session_age_seconds {
        all.push(context.session_started.map(|start| now < start + Duration::from_secs(most)));
    }
    if !c.countries.is_empty() {
        all.push(context.country.as_ref().map(|own| c.countries.contains(own)));
    }
    if !c.providers.is_empty() {
        all.push(context.provider.as_ref().map(|own| c.providers.contains(own)));
    }
    all
}

/// One question to the reference.
pub struct Asked<'a> {
    pub snapshot: &'a Snapshot,
    pub principal: &'a Principal,
    pub resource: &'a Resource,
    pub context: &'a Context,
    pub since: Timestamp,
}

impl Asked<'_> {
    fn speaks(&self, rule: &Rule) -> bool {
        let any = |selectors: &BTreeSet<Selector>, labels: &Labels| {
            selectors.iter().any(|selector| selector.selects(labels))
        };
        let groups = self.snapshot.everyone.iter().chain(&self.principal.groups);
        let who = groups.into_iter().any(|group| rule.groups.contains(group))
            || any(&rule.principal_labels, &self.principal.labels);
        let what =
            rule.resources.contains(&self.resource.id) || any(&rule.resource_labels, &self.resource.labels);
        rule.enabled && who && what
    }

    fn conforms(&self, rule: &Rule, now: Timestamp) -> bool {
        rule.effect == Effect::Allow
            && self.speaks(rule)
            && met(&rule.conditions, self.context, now).iter().all(|holds| *holds == Some(true))
            && rule.max_session.is_none_or(|longest| now < self.since + longest)
            && self.context.session_ends.is_none_or(|end| now < end)
    }

    fn denied(&self, now: Timestamp) -> bool {
        self.snapshot.rules.iter().any(|rule| {
            rule.effect == Effect::Deny
                && self.speaks(rule)
                && met(&rule.conditions, self.context, now).iter().all(|holds| *holds != Some(false))
        })
    }

    /// The first quarter after now at which something does not hold; `None`: not within what is looked ahead.
    fn ends(&self, now: Timestamp, holds: impl Fn(Timestamp) -> bool) -> Option<Timestamp> {
        let mut at = now.as_second().div_euclid(QUARTER) * QUARTER + QUARTER;
        while at < now.as_second() + AHEAD {
            let later = Timestamp::from_second(at).unwrap();
            if !holds(later) {
                return Some(later);
            }
            at += QUARTER;
        }
        None
    }

    /// The rule that gives access, and its end; `None` for no access.
    pub fn decide(&self, now: Timestamp) -> Option<(PolicyId, Option<Timestamp>)> {
        if self.principal.disabled || self.denied(now) {
            return None;
        }
        let never = now + (AHEAD + 1).seconds();
        let best = self
            .snapshot
            .rules
            .iter()
            .filter(|rule| self.conforms(rule, now))
            .map(|rule| (self.ends(now, |later| self.conforms(rule, later)), rule.id))
            .max_by_key(|(end, id)| (end.unwrap_or(never), Reverse(*id)))?;
        let deny = self.ends(now, |later| !self.denied(later));
        let end = [best.0, deny].into_iter().flatten().min();
        Some((best.1, end))
    }
}

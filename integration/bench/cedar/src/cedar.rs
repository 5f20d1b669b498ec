//! The same rules in Cedar. What Cedar has no words for is worked out before the clock starts: the day and the minute in
//! each zone, versions as numbers, the age of the sign-in. It says who is allowed, and no end.

use std::collections::HashSet;
use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, PolicySet, Request, RestrictedExpression,
};
use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use protocol_policy::{Conditions, Day, Effect};
use serde_json::{Value, json};

use crate::percentile;
use crate::world::{Question, World, ZONES};

fn version(text: &str) -> i64 {
    let mut parts = text.split('.').map(|part| part.parse::<i64>().unwrap_or(0));
    parts.next().unwrap_or(0) * 1000 + parts.next().unwrap_or(0)
}

fn zone(name: &str) -> usize {
    ZONES.iter().position(|zone| *zone == name).unwrap_or(0)
}

fn when(conditions: &Conditions, max_session: bool) -> String {
    let mut parts = Vec::new();
    for window in &conditions.time_windows {
        let n = zone(&window.zone.to_string());
        let days: Vec<String> = window
            .days
            .iter()
            .map(|day| Day::ALL.iter().position(|it| it == day).unwrap_or(0).to_string())
            .collect();
        parts.push(format!(
            "[{}].contains(context.day{n}) && context.minute{n} >= {} && context.minute{n} < {}",
            days.join(", "),
            window.from.minutes(),
            window.to.minutes()
        ));
    }
    for net in &conditions.source_cidrs {
        parts.push(format!("context.source.isInRange(ip(\"{net}\"))"));
    }
    if let Some(verified) = conditions.device_verified {
        parts.push(format!("context.verified == {verified}"));
    }
    if !conditions.countries.is_empty() {
        let countries: Vec<String> = conditions.countries.iter().map(|code| format!("\"{code}\"")).collect();
        parts.push(format!("[{}].contains(context.country)", countries.join(", ")));
    }
    for posture in &conditions.posture {
        if let Some(least) = &posture.at_least {
            parts.push(format!("context.client_version >= {}", version(&least.to_string())));
        }
    }
    if let Some(most) = conditions.session_age_seconds {
        parts.push(format!("context.session_age < {most}"));
    }
    let _ = max_session;
    parts.join(" && ")
}

fn uid(kind: &str, id: impl std::fmt::Display) -> EntityUid {
    EntityUid::from_type_name_and_id(kind.parse().unwrap(), cedar_policy::EntityId::new(id.to_string()))
}

struct Loaded {
    policies: PolicySet,
    entities: Entities,
    action: EntityUid,
}

fn load(world: &World) -> Result<Loaded> {
    let mut text = String::new();
    for rule in &world.snapshot.rules {
        let word = if rule.effect == Effect::Allow { "permit" } else { "forbid" };
        let groups: Vec<String> = rule.groups.iter().map(|id| format!("Group::\"{id}\"")).collect();
        let resources: Vec<String> = rule.resources.iter().map(|id| format!("Resource::\"{id}\"")).collect();
        let conditions = when(&rule.conditions, rule.max_session.is_some());
        let conditions = if conditions.is_empty() { String::new() } else { format!(" && {conditions}") };
        text.push_str(&format!(
            "{word}(principal, action, resource) when {{ [{}].contains(resource) && principal in [{}]{conditions} }};\n",
            resources.join(", "),
            groups.join(", ")
        ));
    }
    let policies: PolicySet = text.parse().context("the rules as Cedar policies")?;
    let mut all = Vec::new();
    let mut groups = HashSet::new();
    for principal in world.snapshot.principals.iter().filter(|principal| !principal.disabled) {
        let parents: HashSet<EntityUid> = principal.groups.iter().map(|id| uid("Group", id)).collect();
        groups.extend(parents.iter().cloned());
        all.push(Entity::new_no_attrs(uid("User", principal.id), parents));
    }
    all.extend(groups.into_iter().map(|group| Entity::new_no_attrs(group, HashSet::new())));
    let entities = Entities::from_entities(all, None)?;
    Ok(Loaded { policies, entities, action: uid("Action", "reach") })
}

fn request(world: &World, loaded: &Loaded, question: &Question) -> Result<Request> {
    let at = world.now + i64::from(question.later).seconds();
    let known = &world.contexts[usize::from(question.context)];
    let long = |name: String, value: i64| (name, RestrictedExpression::new_long(value));
    let mut pairs = Vec::new();
    for (n, zone) in ZONES.iter().enumerate() {
        let wall = at.to_zoned(TimeZone::get(zone)?);
        pairs.push(long(format!("day{n}"), i64::from(wall.weekday().to_monday_zero_offset())));
        pairs.push(long(format!("minute{n}"), i64::from(wall.hour()) * 60 + i64::from(wall.minute())));
    }
    let source = known.source.map(|source| source.to_string()).unwrap_or_default();
    pairs.push(("source".into(), RestrictedExpression::new_ip(source)));
    pairs.push(("verified".into(), RestrictedExpression::new_bool(known.device_verified.unwrap_or(false))));
    let country = known.country.clone().unwrap_or_default();
    pairs.push(("country".into(), RestrictedExpression::new_string(country)));
    pairs.push(long("client_version".into(), version(&known.posture["client_version"])));
    let age = known.session_started.map_or(i64::MAX, |started| at.duration_since(started).as_secs());
    pairs.push(long("session_age".into(), age));
    let principal = uid("User", world.snapshot.principals[question.principal as usize].id);
    let resource = uid("Resource", world.snapshot.resources[question.resource as usize].id);
    Ok(Request::new(principal, loaded.action.clone(), resource, Context::from_pairs(pairs)?, None)?)
}

/// Whether each question is allowed.
pub fn verdicts(world: &World, questions: &[Question]) -> Result<Vec<bool>> {
    let loaded = load(world)?;
    let authorizer = Authorizer::new();
    questions
        .iter()
        .map(|question| {
            let request = request(world, &loaded, question)?;
            let answer = authorizer.is_authorized(&request, &loaded.policies, &loaded.entities);
            Ok(answer.decision() == Decision::Allow)
        })
        .collect()
}

/// Throughput on one core, and how long single decisions take. Requests are made before the clock starts.
pub fn decisions(world: &World, questions: &[Question], secs: u64) -> Result<Value> {
    let loaded = load(world)?;
    let requests: Vec<Request> = questions
        .iter()
        .take(20_000)
        .map(|question| request(world, &loaded, question))
        .collect::<Result<_>>()?;
    let authorizer = Authorizer::new();
    let deadline = Duration::from_secs(secs);
    let (mut took, started) = (Vec::new(), Instant::now());
    for request in requests.iter().cycle() {
        let one = Instant::now();
        black_box(authorizer.is_authorized(request, &loaded.policies, &loaded.entities));
        took.push(one.elapsed().as_nanos() as u64);
        if started.elapsed() >= deadline {
            break;
        }
    }
    let rate = took.len() as f64 / started.elapsed().as_secs_f64();
    took.sort_unstable();
    Ok(json!({ "rate": rate, "p50_us": percentile(&took, 0.5) / 1e3, "p99_us": percentile(&took, 0.99) / 1e3 }))
}

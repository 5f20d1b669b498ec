//! The same rules in Cedar. What Cedar has no words for is worked out before the clock starts: the day and the minute in
//! each zone, versions as numbers, the age of the sign-in. It says who is allowed, and no end.
//!
//! Cedar looks at every policy of the set that it is given. It is asked in two ways: with all of them, as it comes, and
//! with those alone that speak of the resource (policy slicing), which are picked by the resource before the clock starts.

use std::collections::{HashMap, HashSet};

use anyhow::{Context as _, Result};
use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityId, EntityUid, Policy, PolicyId, PolicySet,
    Request, RestrictedExpression,
};
use jiff::ToSpan as _;
use jiff::tz::TimeZone;
use protocol_identity::ResourceId;
use protocol_policy::{Conditions, Day, Effect};
use serde_json::Value;

use crate::measure::measure;
use crate::world::{Question, World, ZONES};

/// Requests of Cedar are large: so many are made, and asked again after a pass.
const REQUESTS: usize = 50_000;

fn version(text: &str) -> i64 {
    let mut parts = text.split('.').map(|part| part.parse::<i64>().unwrap_or(0));
    parts.next().unwrap_or(0) * 1000 + parts.next().unwrap_or(0)
}

fn zone(name: &str) -> usize {
    ZONES.iter().position(|zone| *zone == name).unwrap_or(0)
}

fn when(conditions: &Conditions) -> String {
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
    parts.join(" && ")
}

fn uid(kind: &str, id: impl std::fmt::Display) -> Result<EntityUid> {
    Ok(EntityUid::from_type_name_and_id(kind.parse()?, EntityId::new(id.to_string())))
}

struct Loaded {
    all: PolicySet,
    /// The policies that speak of a resource, in the order of the resources.
    slices: Vec<PolicySet>,
    entities: Entities,
    action: EntityUid,
}

/// Everything that Cedar can have ready: policies are parsed once, entities carry their ancestors.
///
/// The resources of a rule are the members of a group of resources that is the rule's, so that the scope of a policy, which
/// Cedar looks at first, is one question to a hash table.
fn load(world: &World) -> Result<Loaded> {
    let mut all = PolicySet::new();
    let mut by_resource: HashMap<ResourceId, PolicySet> = HashMap::new();
    let mut named: HashMap<ResourceId, HashSet<EntityUid>> = HashMap::new();
    let mut entities = Vec::new();
    for (n, rule) in world.snapshot.rules.iter().enumerate() {
        let word = if rule.effect == Effect::Allow { "permit" } else { "forbid" };
        let groups: Vec<String> = rule.groups.iter().map(|id| format!("Group::\"{id}\"")).collect();
        let conditions = when(&rule.conditions);
        let conditions = if conditions.is_empty() { String::new() } else { format!(" && {conditions}") };
        let text = format!(
            "{word}(principal, action, resource in Rule::\"{n}\") when {{ principal in [{}]{conditions} }};",
            groups.join(", ")
        );
        let id = Some(PolicyId::new(format!("rule-{n}")));
        let policy = Policy::parse(id, text).context("a rule as a Cedar policy")?;
        all.add(policy.clone())?;
        for resource in &rule.resources {
            by_resource.entry(*resource).or_default().add(policy.clone())?;
            named.entry(*resource).or_default().insert(uid("Rule", n)?);
        }
        entities.push(Entity::new_no_attrs(uid("Rule", n)?, HashSet::new()));
    }
    let mut groups = HashSet::new();
    for principal in world.snapshot.principals.iter().filter(|principal| !principal.disabled) {
        let parents: HashSet<EntityUid> =
            principal.groups.iter().map(|id| uid("Group", id)).collect::<Result<_>>()?;
        groups.extend(parents.iter().cloned());
        entities.push(Entity::new_no_attrs(uid("User", principal.id)?, parents));
    }
    entities.extend(groups.into_iter().map(|group| Entity::new_no_attrs(group, HashSet::new())));
    let mut slices = Vec::with_capacity(world.snapshot.resources.len());
    for resource in &world.snapshot.resources {
        let rules = named.remove(&resource.id).unwrap_or_default();
        entities.push(Entity::new_no_attrs(uid("Resource", resource.id)?, rules));
        slices.push(by_resource.remove(&resource.id).unwrap_or_default());
    }
    let entities = Entities::from_entities(entities, None)?;
    Ok(Loaded { all, slices, entities, action: uid("Action", "reach")? })
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
    let principal = uid("User", world.snapshot.principals[question.principal as usize].id)?;
    let resource = uid("Resource", world.snapshot.resources[question.resource as usize].id)?;
    Ok(Request::new(principal, loaded.action.clone(), resource, Context::from_pairs(pairs)?, None)?)
}

impl Loaded {
    fn decide(
        &self,
        authorizer: &Authorizer,
        request: &Request,
        question: &Question,
        sliced: bool,
    ) -> Decision {
        let policies = if sliced { &self.slices[question.resource as usize] } else { &self.all };
        authorizer.is_authorized(request, policies, &self.entities).decision()
    }
}

/// Whether each question is allowed.
pub fn verdicts(world: &World, questions: &[Question], sliced: bool) -> Result<Vec<bool>> {
    let loaded = load(world)?;
    let authorizer = Authorizer::new();
    questions
        .iter()
        .map(|question| {
            let request = request(world, &loaded, question)?;
            Ok(loaded.decide(&authorizer, &request, question, sliced) == Decision::Allow)
        })
        .collect()
}

/// Throughput on one core, and how long single decisions take. Requests are made before the clock starts.
pub fn decisions(world: &World, questions: &[Question], secs: u64, sliced: bool) -> Result<Value> {
    let loaded = load(world)?;
    let requests: Vec<(&Question, Request)> = questions
        .iter()
        .take(REQUESTS)
        .map(|question| Ok((question, request(world, &loaded, question)?)))
        .collect::<Result<_>>()?;
    let authorizer = Authorizer::new();
    Ok(measure(&requests, secs, |(question, request)| {
        loaded.decide(&authorizer, request, question, sliced) == Decision::Allow
    }))
}

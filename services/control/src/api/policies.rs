//! Policies.

use actors_control::model::{Group, Kind, Policy, Resource};
use actors_control::storage::Op;
use protocol_identity::{GroupId, PolicyId, ResourceId};
use protocol_policy::{Conditions, Effect};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_name, present};
use super::collection::{Change, Collection, Create, Filter, Names, Online, Ref, YES_NO, resolve_all};
use super::problem::Problem;
use super::{Api, time};

/// The most time windows, networks or demands on posture in one rule.
const MAX_PARTS: usize = 64;
/// The longest session: a hundred years, in seconds.
const LONGEST: u64 = 100 * 365 * 24 * 3600;

/// A policy.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Policy)]
pub struct PolicyView {
    id: Uuid,
    name: String,
    enabled: bool,
    /// `allow` or `deny`.
    #[schema(value_type = String)]
    effect: Effect,
    groups: Vec<Ref>,
    resources: Vec<Ref>,
    /// What is not asked is left out; lists inside one condition are alternatives, conditions are ANDed.
    #[schema(value_type = Object)]
    conditions: Conditions,
    /// The longest that one grant lasts.
    max_session_seconds: Option<u64>,
    created_at: String,
    updated_at: String,
}

/// A new policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyCreate {
    name: String,
    /// Names or ids.
    groups: Vec<String>,
    /// Names or ids.
    resources: Vec<String>,
    #[serde(default = "allow")]
    #[schema(value_type = String)]
    effect: Effect,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default)]
    #[schema(value_type = Object)]
    conditions: Conditions,
    max_session_seconds: Option<u64>,
}

fn allow() -> Effect {
    Effect::Allow
}

fn yes() -> bool {
    true
}

/// A change of a policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyChange {
    name: Option<String>,
    /// Names or ids; replaces the list.
    groups: Option<Vec<String>>,
    /// Names or ids; replaces the list.
    resources: Option<Vec<String>>,
    #[schema(value_type = Option<String>)]
    effect: Option<Effect>,
    enabled: Option<bool>,
    /// Replaces all conditions.
    #[schema(value_type = Option<Object>)]
    conditions: Option<Conditions>,
    #[serde(default, deserialize_with = "present")]
    max_session_seconds: Option<Option<u64>>,
}

async fn groups(api: &Api, admin: &Admin, texts: &[String]) -> Result<BTreeSet<GroupId>, Problem> {
    if texts.is_empty() {
        return Err(Problem::field("groups", "name at least one group; everyone holds every principal"));
    }
    let found = resolve_all::<Group>(api, admin, "groups", texts).await?;
    Ok(found.into_iter().map(|group| group.id).collect())
}

async fn resources(api: &Api, admin: &Admin, texts: &[String]) -> Result<BTreeSet<ResourceId>, Problem> {
    if texts.is_empty() {
        return Err(Problem::field("resources", "name at least one resource"));
    }
    let found = resolve_all::<Resource>(api, admin, "resources", texts).await?;
    Ok(found.into_iter().map(|resource| resource.id).collect())
}

fn check_conditions(conditions: &Conditions) -> Result<(), Problem> {
    let lengths = [
        ("time_windows", conditions.time_windows.len()),
        ("source_cidrs", conditions.source_cidrs.len()),
        ("posture", conditions.posture.len()),
        ("countries", conditions.countries.len()),
        ("providers", conditions.providers.len()),
    ];
    if let Some((field, _)) = lengths.into_iter().find(|(_, length)| *length > MAX_PARTS) {
        return Err(Problem::field(
            format!("conditions.{field}"),
            format!("more than {MAX_PARTS}; make two policies"),
        ));
    }
    for (n, window) in conditions.time_windows.iter().enumerate() {
        if window.days.is_empty() {
            return Err(Problem::field(
                format!("conditions.time_windows[{n}].days"),
                "name at least one day, mon to sun",
            ));
        }
    }
    let countries = conditions.countries.iter();
    if let Some(country) =
        countries.into_iter().find(|text| text.len() != 2 || !text.bytes().all(|b| b.is_ascii_uppercase()))
    {
        return Err(Problem::field(
            "conditions.countries",
            format!("{country} is no country code; write two capital letters such as DE"),
        ));
    }
    if let Some(provider) = conditions.providers.iter().find(|text| !is_line(text, 256)) {
        return Err(Problem::field(
            "conditions.providers",
            format!("{} is no provider; write 1 to 256 characters on one line", provider.escape_debug()),
        ));
    }
    if conditions.session_age_seconds.is_some_and(|seconds| seconds > LONGEST) {
        return Err(Problem::field("conditions.session_age_seconds", "write at most a hundred years"));
    }
    for (n, posture) in conditions.posture.iter().enumerate() {
        if let Some(value) = posture.is.iter().find(|text| !is_line(text, 256)) {
            return Err(Problem::field(
                format!("conditions.posture[{n}].is"),
                format!("{} is no value; write 1 to 256 characters on one line", value.escape_debug()),
            ));
        }
        if !is_line(&posture.attribute, 64) {
            return Err(Problem::field(
                format!("conditions.posture[{n}].attribute"),
                "write os, os_version or client_version",
            ));
        }
    }
    Ok(())
}

/// Whether it is one line of so many characters.
fn is_line(text: &str, longest: usize) -> bool {
    (1..=longest).contains(&text.chars().count()) && !text.chars().any(|c| c.is_ascii_control())
}

fn check_longest(seconds: Option<u64>) -> Result<(), Problem> {
    match seconds {
        Some(1..=LONGEST) | None => Ok(()),
        Some(_) => Err(Problem::field(
            "max_session_seconds",
            "write 1 second to 100 years, or leave it out for no limit",
        )),
    }
}

/// `/policies`
pub struct Policies;

impl Collection for Policies {
    const PATH: &'static str = "policies";
    const NOUN: &'static str = "policy";
    type Record = Policy;
    type View = PolicyView;
    const FILTERS: &'static [Filter] = &[
        Filter::one_of("effect", &["allow", "deny"]),
        Filter::one_of("enabled", YES_NO),
        Filter::by_ref("group"),
        Filter::by_ref("resource"),
    ];

    async fn view(_: &Api, it: Policy, names: &mut Names<'_>, _: &Online) -> Result<PolicyView, Problem> {
        Ok(PolicyView {
            id: it.id.0,
            name: it.name,
            enabled: it.enabled,
            effect: it.effect,
            groups: names.all(Kind::Group, it.groups.iter().map(|group| group.0)).await?,
            resources: names.all(Kind::Resource, it.resources.iter().map(|resource| resource.0)).await?,
            conditions: it.conditions,
            max_session_seconds: it.max_session_seconds,
            created_at: time(it.created_at),
            updated_at: time(it.updated_at),
        })
    }
}

impl Create for Policies {
    type Body = PolicyCreate;
    type Created = PolicyView;

    async fn create(api: &Api, admin: &Admin, body: PolicyCreate) -> Result<PolicyView, Problem> {
        check_name(&body.name)?;
        check_conditions(&body.conditions)?;
        check_longest(body.max_session_seconds)?;
        let now = api.clock.now();
        let policy = Policy {
            id: PolicyId::fresh(),
            name: body.name,
            enabled: body.enabled,
            effect: body.effect,
            groups: groups(api, admin, &body.groups).await?,
            resources: resources(api, admin, &body.resources).await?,
            conditions: body.conditions,
            max_session_seconds: body.max_session_seconds,
            created_at: now,
            updated_at: now,
        };
        api.commit(admin, vec![Op::Create(policy.clone().into())]).await?;
        Self::view(api, policy, &mut Names::new(api, admin), &Online::new()).await
    }

    fn id(created: &PolicyView) -> Uuid {
        created.id
    }
}

impl Change for Policies {
    type Body = PolicyChange;

    async fn change(
        api: &Api,
        admin: &Admin,
        body: PolicyChange,
    ) -> Result<impl FnOnce(&mut Policy) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        if let Some(conditions) = &body.conditions {
            check_conditions(conditions)?;
        }
        check_longest(body.max_session_seconds.flatten())?;
        let groups = match &body.groups {
            Some(texts) => Some(groups(api, admin, texts).await?),
            None => None,
        };
        let resources = match &body.resources {
            Some(texts) => Some(resources(api, admin, texts).await?),
            None => None,
        };
        let now = api.clock.now();
        Ok(move |policy: &mut Policy| {
            policy.name = body.name.unwrap_or_else(|| policy.name.clone());
            policy.groups = groups.unwrap_or_else(|| policy.groups.clone());
            policy.resources = resources.unwrap_or_else(|| policy.resources.clone());
            policy.effect = body.effect.unwrap_or(policy.effect);
            policy.enabled = body.enabled.unwrap_or(policy.enabled);
            policy.conditions = body.conditions.unwrap_or_else(|| policy.conditions.clone());
            policy.max_session_seconds = body.max_session_seconds.unwrap_or(policy.max_session_seconds);
            policy.updated_at = now;
            Ok(())
        })
    }
}

//! Policies.

use actors_control::model::{Group, Kind, Policy, Resource};
use actors_control::storage::Op;
use protocol_identity::{GroupId, PolicyId, ResourceId};
use protocol_policy::{Conditions, Effect, Selector};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_name, present, selectors};
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
    /// It also speaks of principals with these labels, such as `team=infra` or `team=infra,env=test`.
    principal_labels: Vec<String>,
    resources: Vec<Ref>,
    /// It also speaks of resources with these labels.
    resource_labels: Vec<String>,
    /// What is not asked is left out; lists inside one condition are alternatives, conditions are ANDed.
    #[schema(value_type = Object)]
    conditions: Conditions,
    /// The longest that one grant lasts.
    max_session_seconds: Option<u64>,
    /// Where it is written, if it came out of a policy file.
    place: Option<String>,
    created_at: String,
    updated_at: String,
}

/// A new policy.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PolicyCreate {
    name: String,
    /// Names or ids.
    #[serde(default)]
    groups: Vec<String>,
    /// Each selects principals that have all labels that it names: `team=infra,env=test`.
    #[serde(default)]
    principal_labels: Vec<String>,
    /// Names or ids.
    #[serde(default)]
    resources: Vec<String>,
    /// Each selects resources that have all labels that it names.
    #[serde(default)]
    resource_labels: Vec<String>,
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
    /// Replaces the list.
    principal_labels: Option<Vec<String>>,
    /// Names or ids; replaces the list.
    resources: Option<Vec<String>>,
    /// Replaces the list.
    resource_labels: Option<Vec<String>>,
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
    let found = resolve_all::<Group>(api, admin, "groups", texts).await?;
    Ok(found.into_iter().map(|group| group.id).collect())
}

async fn resources(api: &Api, admin: &Admin, texts: &[String]) -> Result<BTreeSet<ResourceId>, Problem> {
    let found = resolve_all::<Resource>(api, admin, "resources", texts).await?;
    Ok(found.into_iter().map(|resource| resource.id).collect())
}

/// A rule that speaks of nobody, or of nothing, is a mistake.
pub(super) fn check_sides(
    principals: (&BTreeSet<GroupId>, &BTreeSet<Selector>),
    resources: (&BTreeSet<ResourceId>, &BTreeSet<Selector>),
) -> Result<(), (&'static str, &'static str)> {
    if principals.0.is_empty() && principals.1.is_empty() {
        return Err(("groups", "name at least one group or principal label; everyone holds every principal"));
    }
    if resources.0.is_empty() && resources.1.is_empty() {
        return Err(("resources", "name at least one resource or resource label"));
    }
    Ok(())
}

pub(super) fn check_conditions(conditions: &Conditions) -> Result<(), Problem> {
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

pub(super) fn check_longest(seconds: Option<u64>) -> Result<(), Problem> {
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
            principal_labels: it.principal_labels.iter().map(Selector::to_string).collect(),
            resources: names.all(Kind::Resource, it.resources.iter().map(|resource| resource.0)).await?,
            resource_labels: it.resource_labels.iter().map(Selector::to_string).collect(),
            conditions: it.conditions,
            max_session_seconds: it.max_session_seconds,
            place: it.place,
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
            principal_labels: selectors("principal_labels", &body.principal_labels)?,
            resources: resources(api, admin, &body.resources).await?,
            resource_labels: selectors("resource_labels", &body.resource_labels)?,
            conditions: body.conditions,
            max_session_seconds: body.max_session_seconds,
            place: None,
            created_at: now,
            updated_at: now,
        };
        check_sides((&policy.groups, &policy.principal_labels), (&policy.resources, &policy.resource_labels))
            .map_err(|(field, detail)| Problem::field(field, detail))?;
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
        let principal_labels =
            body.principal_labels.as_deref().map(|all| selectors("principal_labels", all)).transpose()?;
        let resource_labels =
            body.resource_labels.as_deref().map(|all| selectors("resource_labels", all)).transpose()?;
        let touched = [
            body.groups.is_some() || body.principal_labels.is_some(),
            body.resources.is_some() || body.resource_labels.is_some(),
        ];
        let now = api.clock.now();
        Ok(move |policy: &mut Policy| {
            policy.name = body.name.unwrap_or_else(|| policy.name.clone());
            policy.groups = groups.unwrap_or_else(|| policy.groups.clone());
            policy.resources = resources.unwrap_or_else(|| policy.resources.clone());
            policy.principal_labels = principal_labels.unwrap_or_else(|| policy.principal_labels.clone());
            policy.resource_labels = resource_labels.unwrap_or_else(|| policy.resource_labels.clone());
            let empty = [
                policy.groups.is_empty() && policy.principal_labels.is_empty(),
                policy.resources.is_empty() && policy.resource_labels.is_empty(),
            ];
            // Lost with its last resource it may stay so; it is not made so.
            if touched.into_iter().zip(empty).any(|(touched, empty)| touched && empty) {
                return Err("it was changed meanwhile, and would be about nothing".into());
            }
            policy.effect = body.effect.unwrap_or(policy.effect);
            policy.enabled = body.enabled.unwrap_or(policy.enabled);
            policy.conditions = body.conditions.unwrap_or_else(|| policy.conditions.clone());
            policy.max_session_seconds = body.max_session_seconds.unwrap_or(policy.max_session_seconds);
            // It is no longer what the file says.
            policy.place = None;
            policy.updated_at = now;
            Ok(())
        })
    }

    /// Nothing beside it; but only here it is seen which lists stay, so that the field can be named.
    async fn beside(_: &Api, _: &Admin, record: &Policy, body: &PolicyChange) -> Result<Vec<Op>, Problem> {
        let sides = [
            (
                ("groups", &body.groups, record.groups.is_empty()),
                ("principal_labels", &body.principal_labels, record.principal_labels.is_empty()),
            ),
            (
                ("resources", &body.resources, record.resources.is_empty()),
                ("resource_labels", &body.resource_labels, record.resource_labels.is_empty()),
            ),
        ];
        for (one, other) in sides {
            let empty = |(_, texts, is_empty): (_, &Option<Vec<String>>, bool)| {
                texts.as_ref().map_or(is_empty, Vec::is_empty)
            };
            let touched = [one, other].into_iter().find(|(_, texts, _)| texts.is_some());
            if let Some((field, ..)) = touched.filter(|_| empty(one) && empty(other)) {
                let detail = format!("a policy without {} and {} is about nothing; name one", one.0, other.0);
                return Err(Problem::field(field, detail));
            }
        }
        Ok(Vec::new())
    }
}

//! Grants in force: what policy decided. They can be seen and ended, not made.

use actix_web::web;
use actors_control::model::{Grant, Kind, Record as _};
use actors_control::storage::{Page, list};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::collection::{Collection, Listed, Names, Online, Ref, one};
use super::nodes::{Devices, Gateways};
use super::problem::Problem;
use super::resources::Resources;
use super::{Api, time};

/// A grant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Grant)]
pub struct GrantView {
    id: Uuid,
    device: Ref,
    resource: Ref,
    gateway: Ref,
    policy: Ref,
    /// The relay that the connection started through.
    relay: Option<Ref>,
    /// Always `applied`: its gateway has installed it.
    state: String,
    version: u64,
    since: String,
    /// When time ends it.
    expires_at: Option<String>,
}

/// Which grants.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantQuery {
    limit: Option<usize>,
    after: Option<String>,
    device: Option<String>,
    resource: Option<String>,
    gateway: Option<String>,
}

/// `/grants`
pub struct Grants;

impl Collection for Grants {
    const PATH: &'static str = "grants";
    const NOUN: &'static str = "grant";
    type Record = Grant;
    type View = GrantView;

    async fn view(_: &Api, it: Grant, names: &mut Names<'_>, _: &Online) -> Result<GrantView, Problem> {
        let relay = match it.relay {
            Some(relay) => Some(names.of(Kind::Relay, relay.0).await?),
            None => None,
        };
        Ok(GrantView {
            id: it.id.0,
            device: names.of(Kind::Device, it.device.0).await?,
            resource: names.of(Kind::Resource, it.resource.0).await?,
            gateway: names.of(Kind::Gateway, it.gateway.0).await?,
            policy: names.of(Kind::Policy, it.policy.0).await?,
            relay,
            state: "applied".into(),
            version: it.version.0,
            since: time(it.since),
            expires_at: it.ends_at.map(time),
        })
    }
}

/// `GET /grants`
pub async fn list_grants(
    api: web::Data<Api>,
    admin: Admin,
    query: web::Query<GrantQuery>,
) -> Result<web::Json<Listed<GrantView>>, Problem> {
    let limit = query.limit.unwrap_or(200);
    if !(1..=1000).contains(&limit) {
        return Err(Problem::field("limit", "write 1 to 1000"));
    }
    let mut after = query
        .after
        .as_ref()
        .map(|after| after.parse::<Uuid>())
        .transpose()
        .map_err(|_| Problem::field("after", "not a cursor; send what `next` said"))?;
    let device = match &query.device {
        Some(key) => Some(one::<Devices>(&api, &admin, key).await?.uuid()),
        None => None,
    };
    let resource = match &query.resource {
        Some(key) => Some(one::<Resources>(&api, &admin, key).await?.uuid()),
        None => None,
    };
    let gateway = match &query.gateway {
        Some(key) => Some(one::<Gateways>(&api, &admin, key).await?.uuid()),
        None => None,
    };
    let wanted = |grant: &Grant| {
        device.is_none_or(|id| grant.device.0 == id)
            && resource.is_none_or(|id| grant.resource.0 == id)
            && gateway.is_none_or(|id| grant.gateway.0 == id)
    };
    let mut found = Vec::new();
    let next = loop {
        let page = Page { after, limit: 1000, name: None };
        let read = list::<Grant>(&*api.storage, admin.account.id, page).await?;
        let last = read.last().map(|grant| grant.id.0);
        let ended = read.len() < 1000;
        found.extend(read.into_iter().filter(|grant| wanted(grant)));
        if found.len() > limit {
            found.truncate(limit);
            break found.last().map(|grant| grant.id.0.to_string());
        }
        if ended {
            break None;
        }
        after = last;
    };
    let mut names = Names::new(&api, &admin);
    let mut items = Vec::with_capacity(found.len());
    for grant in found {
        items.push(Grants::view(&api, grant, &mut names, &Online::new()).await?);
    }
    Ok(web::Json(Listed { items, next }))
}

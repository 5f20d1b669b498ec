//! Grants in force: what policy decided. They can be seen and ended, not made.

use actors_control::model::{Grant, Kind};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::collection::{Collection, Filter, Names, Online, Ref};
use super::problem::Problem;
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

/// `/grants`
pub struct Grants;

impl Collection for Grants {
    const PATH: &'static str = "grants";
    const NOUN: &'static str = "grant";
    type Record = Grant;
    type View = GrantView;
    const FILTERS: &'static [Filter] = &[
        Filter::by_ref("device"),
        Filter::by_ref("resource"),
        Filter::by_ref("gateway"),
        Filter::by_ref("policy"),
    ];
    const NAMED: bool = false;

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

//! Resources.

use actors_control::model::{Kind, Resource, Site, parse_address, parse_filter, write_address, write_filter};
use actors_control::storage::Op;
use protocol_control::{ResourceAddress, TrafficFilter};
use protocol_identity::ResourceId;
use protocol_policy::Labels;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_description, check_labels, check_name, present};
use super::collection::{Change, Collection, Create, Filter, Names, Online, Ref, YES_NO, resolve};
use super::problem::Problem;
use super::{Api, time};

/// The most filters of one resource.
const MAX_FILTERS: usize = 64;

/// A resource.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Resource)]
pub struct ResourceView {
    id: Uuid,
    name: String,
    /// `cidr`, `ip` or `dns`.
    kind: String,
    address: String,
    site: Ref,
    /// Whether devices learn of it although no policy names it.
    listed: bool,
    /// `tcp:80`, `udp:1-1024`, `icmp`; empty for everything.
    filters: Vec<String>,
    /// What policies may select it by.
    labels: Labels,
    description: Option<String>,
    created_at: String,
    updated_at: String,
}

/// A new resource.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceCreate {
    name: String,
    /// `cidr`, `ip` or `dns`.
    kind: String,
    address: String,
    /// Name or id.
    site: String,
    #[serde(default)]
    listed: bool,
    #[serde(default)]
    filters: Vec<String>,
    /// What policies may select it by.
    #[serde(default)]
    labels: Labels,
    description: Option<String>,
}

/// A change of a resource.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResourceChange {
    name: Option<String>,
    address: Option<String>,
    /// Name or id.
    site: Option<String>,
    listed: Option<bool>,
    filters: Option<Vec<String>>,
    /// Replaces all labels.
    labels: Option<Labels>,
    #[serde(default, deserialize_with = "present")]
    description: Option<Option<String>>,
}

fn filters(texts: &[String]) -> Result<Vec<TrafficFilter>, Problem> {
    if texts.len() > MAX_FILTERS {
        return Err(Problem::field("filters", format!("more than {MAX_FILTERS}; join ranges of ports")));
    }
    let read = |(n, text): (usize, &String)| {
        parse_filter(text).map_err(|error| Problem::field(format!("filters[{n}]"), error))
    };
    texts.iter().enumerate().map(read).collect()
}

fn address(kind: &str, text: &str) -> Result<ResourceAddress, Problem> {
    parse_address(kind, text).map_err(|error| {
        let field = if error == actors_control::model::InvalidAddress::Kind { "kind" } else { "address" };
        Problem::field(field, error)
    })
}

/// `/resources`
pub struct Resources;

impl Collection for Resources {
    const PATH: &'static str = "resources";
    const NOUN: &'static str = "resource";
    type Record = Resource;
    type View = ResourceView;
    const FILTERS: &'static [Filter] = &[
        Filter::one_of("kind", &["cidr", "ip", "dns"]),
        Filter::by_ref("site"),
        Filter::one_of("listed", YES_NO),
    ];

    async fn view(_: &Api, it: Resource, names: &mut Names<'_>, _: &Online) -> Result<ResourceView, Problem> {
        let (kind, address) = write_address(&it.address);
        Ok(ResourceView {
            id: it.id.0,
            name: it.name,
            kind: kind.to_owned(),
            address,
            site: names.of(Kind::Site, it.site.0).await?,
            listed: it.listed,
            filters: it.filters.iter().map(write_filter).collect(),
            labels: it.labels,
            description: it.description,
            created_at: time(it.created_at),
            updated_at: time(it.updated_at),
        })
    }
}

impl Create for Resources {
    type Body = ResourceCreate;
    type Created = ResourceView;

    async fn create(api: &Api, admin: &Admin, body: ResourceCreate) -> Result<ResourceView, Problem> {
        check_name(&body.name)?;
        check_description(body.description.as_deref())?;
        check_labels(&body.labels)?;
        let now = api.clock.now();
        let resource = Resource {
            id: ResourceId::fresh(),
            name: body.name,
            address: address(&body.kind, &body.address)?,
            filters: filters(&body.filters)?,
            site: resolve::<Site>(api, admin, "site", &body.site).await?.id,
            listed: body.listed,
            labels: body.labels,
            description: body.description,
            created_at: now,
            updated_at: now,
        };
        api.commit(admin, vec![Op::Create(resource.clone().into())]).await?;
        Self::view(api, resource, &mut Names::new(api, admin), &Online::new()).await
    }

    fn id(created: &ResourceView) -> Uuid {
        created.id
    }
}

impl Change for Resources {
    type Body = ResourceChange;

    async fn change(
        api: &Api,
        admin: &Admin,
        body: ResourceChange,
    ) -> Result<impl FnOnce(&mut Resource) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        check_description(body.description.as_ref().and_then(Option::as_deref))?;
        body.labels.as_ref().map_or(Ok(()), check_labels)?;
        let filters = body.filters.as_deref().map(filters).transpose()?;
        let site = match &body.site {
            Some(site) => Some(resolve::<Site>(api, admin, "site", site).await?.id),
            None => None,
        };
        // The kind stays, so what the text must be depends on the record; here it is read as each kind.
        if let Some(text) = &body.address
            && ["cidr", "ip", "dns"].iter().all(|kind| parse_address(kind, text).is_err())
        {
            let kind = if text.contains('/') { "cidr" } else { "dns" };
            address(kind, text)?;
        }
        let now = api.clock.now();
        Ok(move |resource: &mut Resource| {
            if let Some(text) = body.address {
                let (kind, _) = write_address(&resource.address);
                resource.address = parse_address(kind, &text).map_err(|error| {
                    format!("address: {error} (the kind {kind} stays; delete and create to change it)")
                })?;
            }
            resource.name = body.name.unwrap_or_else(|| resource.name.clone());
            resource.site = site.unwrap_or(resource.site);
            resource.listed = body.listed.unwrap_or(resource.listed);
            resource.labels = body.labels.unwrap_or_else(|| resource.labels.clone());
            resource.filters = filters.unwrap_or_else(|| resource.filters.clone());
            resource.description = body.description.unwrap_or_else(|| resource.description.clone());
            resource.updated_at = now;
            Ok(())
        })
    }
}

//! Sites.

use actors_control::model::Site;
use actors_control::storage::Op;
use protocol_identity::SiteId;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_description, check_name, present};
use super::collection::{Change, Collection, Create, Names, Online};
use super::problem::Problem;
use super::{Api, time};

/// A site.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Site)]
pub struct SiteView {
    id: Uuid,
    name: String,
    description: Option<String>,
    gateways: GatewayCount,
    created_at: String,
}

/// How many gateways a site has.
#[derive(Debug, Serialize, ToSchema)]
pub struct GatewayCount {
    online: usize,
    known: usize,
}

/// A new site.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteCreate {
    name: String,
    description: Option<String>,
}

/// A change of a site.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteChange {
    name: Option<String>,
    #[serde(default, deserialize_with = "present")]
    description: Option<Option<String>>,
}

/// `/sites`
pub struct Sites;

impl Collection for Sites {
    const PATH: &'static str = "sites";
    const NOUN: &'static str = "site";
    type Record = Site;
    type View = SiteView;

    async fn view(_: &Api, it: Site, names: &mut Names<'_>, online: &Online) -> Result<SiteView, Problem> {
        let own = names.gateways_of(it.id).await?;
        Ok(SiteView {
            id: it.id.0,
            name: it.name,
            description: it.description,
            gateways: GatewayCount {
                online: own.iter().filter(|gateway| online.contains_key(gateway)).count(),
                known: own.len(),
            },
            created_at: time(it.created_at),
        })
    }
}

impl Create for Sites {
    type Body = SiteCreate;
    type Created = SiteView;

    async fn create(api: &Api, admin: &Admin, body: SiteCreate) -> Result<SiteView, Problem> {
        check_name(&body.name)?;
        check_description(body.description.as_deref())?;
        let site = Site {
            id: SiteId::fresh(),
            name: body.name,
            description: body.description,
            created_at: api.clock.now(),
        };
        api.commit(admin, vec![Op::Create(site.clone().into())]).await?;
        Self::view(api, site, &mut Names::new(api, admin), &Online::new()).await
    }

    fn id(created: &SiteView) -> Uuid {
        created.id
    }
}

impl Change for Sites {
    type Body = SiteChange;

    async fn change(
        _: &Api,
        _: &Admin,
        body: SiteChange,
    ) -> Result<impl FnOnce(&mut Site) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        check_description(body.description.as_ref().and_then(Option::as_deref))?;
        Ok(move |site: &mut Site| {
            site.name = body.name.unwrap_or_else(|| site.name.clone());
            site.description = body.description.unwrap_or_else(|| site.description.clone());
            Ok(())
        })
    }
}

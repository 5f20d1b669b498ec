//! Service accounts.

use actors_control::model::{Group, Object, Principal, Token};
use actors_control::storage::{Op, Page, list};
use protocol_identity::{GroupId, PrincipalId, TokenKind};
use protocol_policy::Labels;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{check_labels, check_name};
use super::collection::{Change, Collection, Create, Filter, Names, Online, Ref, YES_NO, patch, resolve_all};
use super::problem::Problem;
use super::tokens::{self, TokenCreated};
use super::{Api, time};

/// A service account.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ServiceAccount)]
pub struct ServiceAccountView {
    id: Uuid,
    name: String,
    /// The groups that it was put into; `everyone` holds it anyway.
    groups: Vec<Ref>,
    disabled: bool,
    /// What policies may select it by.
    labels: Labels,
    created_at: String,
}

/// A new service account, with its first token if one was asked for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServiceAccountCreated {
    #[serde(flatten)]
    shown: ServiceAccountView,
    /// The token: the only time that it is shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
    /// What to do with it on the other host.
    #[serde(skip_serializing_if = "Option::is_none")]
    join: Option<crate::public::Join>,
}

/// A new service account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountCreate {
    name: String,
    /// Names or ids.
    #[serde(default)]
    groups: Vec<String>,
    /// What policies may select it by.
    #[serde(default)]
    labels: Labels,
    /// Whether a first token is made too.
    #[serde(default = "yes")]
    token: bool,
    expires_in_seconds: Option<u64>,
}

fn yes() -> bool {
    true
}

/// A change of a service account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceAccountChange {
    name: Option<String>,
    /// Names or ids; replaces the list.
    groups: Option<Vec<String>>,
    disabled: Option<bool>,
    /// Replaces all labels.
    labels: Option<Labels>,
}

/// `/service-accounts`
pub struct ServiceAccounts;

impl Collection for ServiceAccounts {
    const PATH: &'static str = "service-accounts";
    const NOUN: &'static str = "service account";
    type Record = Principal;
    type View = ServiceAccountView;
    const FILTERS: &'static [Filter] = &[Filter::by_ref("group"), Filter::one_of("disabled", YES_NO)];

    async fn view(
        _: &Api,
        it: Principal,
        names: &mut Names<'_>,
        _: &Online,
    ) -> Result<ServiceAccountView, Problem> {
        Ok(ServiceAccountView {
            id: it.id.0,
            name: it.name,
            groups: names.groups_of(it.id).await?,
            disabled: it.disabled,
            labels: it.labels,
            created_at: time(it.created_at),
        })
    }
}

async fn groups(api: &Api, admin: &Admin, texts: &[String]) -> Result<BTreeSet<GroupId>, Problem> {
    let found = resolve_all::<Group>(api, admin, "groups", texts).await?;
    if let Some(n) = found.iter().position(|group| group.everyone) {
        return Err(Problem::field(
            format!("groups[{n}]"),
            "everyone holds every service account; leave it out",
        ));
    }
    Ok(found.into_iter().map(|group| group.id).collect())
}

/// A step that puts a principal into a group, or takes it out.
fn member(group: GroupId, principal: PrincipalId, inside: bool) -> Op {
    patch(group.0, move |group: &mut Group| {
        if inside {
            group.members.insert(principal);
        } else {
            group.members.remove(&principal);
        }
        Ok(())
    })
}

impl Create for ServiceAccounts {
    type Body = ServiceAccountCreate;
    type Created = ServiceAccountCreated;

    async fn create(
        api: &Api,
        admin: &Admin,
        body: ServiceAccountCreate,
    ) -> Result<ServiceAccountCreated, Problem> {
        check_name(&body.name)?;
        check_labels(&body.labels)?;
        let groups = groups(api, admin, &body.groups).await?;
        let principal = Principal {
            id: PrincipalId::fresh(),
            name: body.name,
            disabled: false,
            labels: body.labels,
            created_at: api.clock.now(),
        };
        let mut ops = vec![Op::Create(principal.clone().into())];
        ops.extend(groups.into_iter().map(|group| member(group, principal.id, true)));
        let first = if body.token {
            let (secret, token) =
                tokens::fresh(api, TokenKind::ServiceAccount, None, body.expires_in_seconds)?;
            let token = Token { principal: Some(principal.id), ..token };
            ops.push(Op::Create(Object::Token(token.clone())));
            Some((secret, token))
        } else {
            // An end that is none is an error also without a token that it would end.
            tokens::end(api.clock.now(), body.expires_in_seconds)?;
            None
        };
        api.commit(admin, ops).await?;
        let mut names = Names::new(api, admin);
        let (token, join) = match first {
            Some((secret, token)) => {
                let TokenCreated { token, join, .. } =
                    tokens::created(api, &secret, token, &mut names).await?;
                (Some(token), Some(join))
            }
            None => (None, None),
        };
        let shown = Self::view(api, principal, &mut names, &Online::new()).await?;
        Ok(ServiceAccountCreated { shown, token, join })
    }

    fn id(created: &ServiceAccountCreated) -> Uuid {
        created.shown.id
    }
}

impl Change for ServiceAccounts {
    type Body = ServiceAccountChange;

    async fn change(
        _: &Api,
        _: &Admin,
        body: ServiceAccountChange,
    ) -> Result<impl FnOnce(&mut Principal) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        body.labels.as_ref().map_or(Ok(()), check_labels)?;
        Ok(move |principal: &mut Principal| {
            principal.name = body.name.unwrap_or_else(|| principal.name.clone());
            principal.disabled = body.disabled.unwrap_or(principal.disabled);
            principal.labels = body.labels.unwrap_or_else(|| principal.labels.clone());
            Ok(())
        })
    }

    async fn beside(
        api: &Api,
        admin: &Admin,
        record: &Principal,
        body: &ServiceAccountChange,
    ) -> Result<Vec<Op>, Problem> {
        let Some(texts) = &body.groups else { return Ok(Vec::new()) };
        let wanted = groups(api, admin, texts).await?;
        let page = Page { limit: usize::MAX, ..Page::default() };
        let all = list::<Group>(&*api.storage, admin.account.id, page).await?;
        Ok(all
            .iter()
            .filter(|group| !group.everyone)
            .filter(|group| group.members.contains(&record.id) != wanted.contains(&group.id))
            .map(|group| member(group.id, record.id, wanted.contains(&group.id)))
            .collect())
    }
}

//! Groups and their members.

use actix_web::{HttpRequest, HttpResponse, web};
use actors_control::model::{Group, Kind, Principal};
use actors_control::storage::Op;
use protocol_identity::{GroupId, PrincipalId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{Body, check_name};
use super::collection::{
    Change, Collection, Create, Filter, ListQuery, Listed, Names, Online, Ref, one, patch, resolve,
    resolve_all, viewed,
};
use super::precondition::IfMatch;
use super::problem::{Code, Problem};
use super::{Api, time};

const BUILT_IN: &str = "the built-in group everyone cannot be changed; make a group of your own";

/// A group.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Group)]
pub struct GroupView {
    id: Uuid,
    name: String,
    kind: GroupKind,
    /// Always empty for `everyone`, which holds every principal.
    members: Vec<Ref>,
    created_at: String,
}

/// What a group is.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupKind {
    /// Its members are listed.
    Static,
    /// The built-in one.
    Everyone,
}

/// A new group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    name: String,
    /// Names or ids of service accounts.
    #[serde(default)]
    members: Vec<String>,
}

/// A change of a group.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupChange {
    name: Option<String>,
    /// Names or ids of service accounts; replaces the list.
    members: Option<Vec<String>>,
}

/// A new member.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemberCreate {
    /// Name or id of a service account.
    principal: String,
}

/// `/groups`
pub struct Groups;

impl Collection for Groups {
    const PATH: &'static str = "groups";
    const NOUN: &'static str = "group";
    type Record = Group;
    type View = GroupView;
    const FILTERS: &'static [Filter] =
        &[Filter::one_of("kind", &["static", "everyone"]), Filter::by_ref("member")];

    async fn deletable(_: &Api, _: &Admin, it: &Group) -> Result<(), Problem> {
        if it.everyone { Err(Problem::new(Code::Conflict, BUILT_IN)) } else { Ok(()) }
    }

    async fn view(_: &Api, it: Group, names: &mut Names<'_>, _: &Online) -> Result<GroupView, Problem> {
        Ok(GroupView {
            id: it.id.0,
            name: it.name,
            kind: if it.everyone { GroupKind::Everyone } else { GroupKind::Static },
            members: names.all(Kind::Principal, it.members.iter().map(|member| member.0)).await?,
            created_at: time(it.created_at),
        })
    }
}

async fn members(
    api: &Api,
    admin: &Admin,
    texts: &[String],
) -> Result<std::collections::BTreeSet<PrincipalId>, Problem> {
    let found = resolve_all::<Principal>(api, admin, "members", texts).await?;
    Ok(found.into_iter().map(|principal| principal.id).collect())
}

impl Create for Groups {
    type Body = GroupCreate;
    type Created = GroupView;

    async fn create(api: &Api, admin: &Admin, body: GroupCreate) -> Result<GroupView, Problem> {
        check_name(&body.name)?;
        let group = Group {
            id: GroupId::fresh(),
            name: body.name,
            everyone: false,
            members: members(api, admin, &body.members).await?,
            created_at: api.clock.now(),
        };
        api.commit(admin, vec![Op::Create(group.clone().into())]).await?;
        Self::view(api, group, &mut Names::new(api, admin), &Online::new()).await
    }

    fn id(created: &GroupView) -> Uuid {
        created.id
    }
}

impl Change for Groups {
    type Body = GroupChange;

    async fn change(
        api: &Api,
        admin: &Admin,
        body: GroupChange,
    ) -> Result<impl FnOnce(&mut Group) -> Result<(), String> + Send + 'static, Problem> {
        if let Some(name) = &body.name {
            check_name(name)?;
        }
        let members = match &body.members {
            Some(texts) => Some(members(api, admin, texts).await?),
            None => None,
        };
        Ok(move |group: &mut Group| {
            if group.everyone {
                return Err(BUILT_IN.into());
            }
            group.name = body.name.unwrap_or_else(|| group.name.clone());
            group.members = members.unwrap_or_else(|| group.members.clone());
            Ok(())
        })
    }
}

/// `GET /groups/{ref}/members`
pub async fn list_members(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    request: HttpRequest,
) -> Result<web::Json<Listed<Ref>>, Problem> {
    let query = ListQuery::read(request.query_string(), &[], false)?;
    let group = one::<Groups>(&api, &admin, &key).await?;
    let later =
        group.members.iter().map(|member| member.0).filter(|id| query.after.is_none_or(|at| *id > at));
    let mut ids: Vec<Uuid> = later.take(query.limit + 1).collect();
    let more = ids.len() > query.limit;
    ids.truncate(query.limit);
    let next = ids.last().filter(|_| more).map(Uuid::to_string);
    let items = Names::new(&api, &admin).all(Kind::Principal, ids).await?;
    Ok(web::Json(Listed { items, next }))
}

/// `POST /groups/{ref}/members`
pub async fn add_member(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    body: Body<MemberCreate>,
) -> Result<HttpResponse, Problem> {
    let group = one::<Groups>(&api, &admin, &key).await?;
    let principal = resolve::<Principal>(&api, &admin, "principal", &body.0.principal).await?.id;
    let group = change_members(&api, &admin, group, &IfMatch::Any, move |members| {
        members.insert(principal);
    })
    .await?;
    Ok(HttpResponse::Created().json(group))
}

/// `DELETE /groups/{ref}/members/{principal}`
pub async fn remove_member(
    api: web::Data<Api>,
    admin: Admin,
    keys: web::Path<(String, String)>,
    expected: IfMatch,
) -> Result<HttpResponse, Problem> {
    let (group, principal) = keys.into_inner();
    let group = one::<Groups>(&api, &admin, &group).await?;
    let principal = resolve::<Principal>(&api, &admin, "principal", &principal).await?;
    if !group.members.contains(&principal.id) {
        let detail = format!("{} is no member of {}", principal.name, group.name);
        return Err(Problem::new(Code::NotFound, detail));
    }
    change_members(&api, &admin, group, &expected, move |members| {
        members.remove(&principal.id);
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

async fn change_members(
    api: &Api,
    admin: &Admin,
    group: Group,
    expected: &IfMatch,
    change: impl FnOnce(&mut std::collections::BTreeSet<PrincipalId>) + Send + 'static,
) -> Result<GroupView, Problem> {
    let id = group.id;
    let step = patch(id.0, move |group: &mut Group| {
        if group.everyone {
            return Err(BUILT_IN.into());
        }
        change(&mut group.members);
        Ok(())
    });
    let mut ops: Vec<Op> = expected.op(Kind::Group, id.0).into_iter().collect();
    ops.push(step);
    api.commit(admin, ops).await?;
    let group = one::<Groups>(api, admin, &id.to_string()).await?;
    viewed::<Groups>(api, admin, group).await
}

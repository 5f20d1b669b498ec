//! Tokens: shown once, when they are made, with the exact command for the other host.

use actix_web::{HttpRequest, HttpResponse, web};
use actors_control::model::{Key, Kind, Principal, Scope, Site, Token};
use actors_control::storage::{Op, Page, list};
use jiff::Timestamp;
use protocol_identity::{Token as Secret, TokenId, TokenKind};
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Duration;
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::{Body, check_name, present};
use super::collection::{
    Change, Collection, Create, Filter, ListQuery, Listed, Names, Online, Ref, one, resolve,
};
use super::nodes::{check_place, check_region};
use super::precondition::IfMatch;
use super::problem::{Code, Problem};
use super::service_accounts::ServiceAccounts;
use super::{Api, time};
use crate::public::Join;

/// A token, never the token itself.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub struct TokenView {
    pub(super) id: Uuid,
    name: String,
    /// The site that a gateway joins to.
    #[serde(skip_serializing_if = "Option::is_none")]
    site: Option<Ref>,
    /// The service account that it signs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    principal: Option<Ref>,
    /// The region of relays that join with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    region: Option<String>,
    /// What an admin token may do.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    scopes: Option<BTreeSet<Scope>>,
    created_at: String,
    expires_at: Option<String>,
    last_used_at: Option<String>,
}

/// A new token: the only time that it is shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenCreated {
    #[serde(flatten)]
    shown: TokenView,
    /// The token.
    pub(super) token: String,
    /// What to do with it on the other host.
    pub(super) join: Join,
}

/// A new gateway token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GatewayTokenCreate {
    name: Option<String>,
    /// Name or id.
    site: String,
    expires_in_seconds: Option<u64>,
}

/// A new relay token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RelayTokenCreate {
    name: Option<String>,
    region: Option<String>,
    latitude: Option<f64>,
    longitude: Option<f64>,
    /// Whether several relays may join with it; otherwise it belongs to the first that does.
    #[serde(default)]
    many: bool,
    expires_in_seconds: Option<u64>,
}

/// A new admin token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminTokenCreate {
    name: Option<String>,
    /// What it may do; everything if left out.
    #[serde(default = "everything")]
    #[schema(value_type = Vec<String>)]
    scopes: Vec<Scope>,
    expires_in_seconds: Option<u64>,
}

fn everything() -> Vec<Scope> {
    vec![Scope::Admin]
}

/// A new token of a service account.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServiceTokenCreate {
    name: Option<String>,
    expires_in_seconds: Option<u64>,
}

/// A change of a token.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenChange {
    name: Option<String>,
    /// From now on; `null` for never.
    #[serde(default, deserialize_with = "present")]
    expires_in_seconds: Option<Option<u64>>,
}

/// When a token that is good for so long ends.
pub fn end(now: Timestamp, seconds: Option<u64>) -> Result<Option<Timestamp>, Problem> {
    const LONGEST: u64 = 100 * 365 * 24 * 3600;
    match seconds {
        None => Ok(None),
        Some(seconds @ 1..=LONGEST) => Ok(now.checked_add(Duration::from_secs(seconds)).ok()),
        Some(_) => Err(Problem::field(
            "expires_in_seconds",
            "write 1 second to 100 years, or leave it out for never",
        )),
    }
}

/// A fresh secret and its record, not yet written.
pub fn fresh(
    api: &Api,
    kind: TokenKind,
    name: Option<String>,
    expires_in_seconds: Option<u64>,
) -> Result<(Secret, Token), Problem> {
    if let Some(name) = &name {
        check_name(name)?;
    }
    let secret =
        Secret::generate(kind).map_err(|error| Problem::internal("no token could be drawn", &error))?;
    let (id, now) = (TokenId::fresh(), api.clock.now());
    // The end of a UUIDv7 is random.
    let drawn = || format!("token-{}", id.to_string().split_at(24).1);
    let expires_at = end(now, expires_in_seconds)?;
    let token = Token::new(id, name.unwrap_or_else(drawn), kind, secret.hash(), now);
    Ok((secret, Token { expires_at, ..token }))
}

/// A token as it is shown once.
pub async fn created(
    api: &Api,
    secret: &Secret,
    token: Token,
    names: &mut Names<'_>,
) -> Result<TokenCreated, Problem> {
    let join = api.public.join(token.kind);
    Ok(TokenCreated { shown: shown(token, names).await?, token: secret.reveal().to_string(), join })
}

async fn shown(it: Token, names: &mut Names<'_>) -> Result<TokenView, Problem> {
    let site = match it.site {
        Some(site) => Some(names.of(Kind::Site, site.0).await?),
        None => None,
    };
    let principal = match it.principal {
        Some(principal) => Some(names.of(Kind::Principal, principal.0).await?),
        None => None,
    };
    Ok(TokenView {
        id: it.id.0,
        name: it.name,
        site,
        principal,
        region: it.region,
        scopes: (it.kind == TokenKind::Admin).then_some(it.scopes),
        created_at: time(it.created_at),
        expires_at: it.expires_at.map(time),
        last_used_at: it.last_used_at.map(time),
    })
}

fn changed(
    api: &Api,
    body: TokenChange,
) -> Result<impl FnOnce(&mut Token) -> Result<(), String> + Send + 'static, Problem> {
    if let Some(name) = &body.name {
        check_name(name)?;
    }
    let expires_at = match body.expires_in_seconds {
        Some(seconds) => Some(end(api.clock.now(), seconds)?),
        None => None,
    };
    Ok(move |token: &mut Token| {
        token.name = body.name.unwrap_or_else(|| token.name.clone());
        token.expires_at = expires_at.unwrap_or(token.expires_at);
        Ok(())
    })
}

/// `/gateway-tokens`
pub struct GatewayTokens;

/// `/relay-tokens`
pub struct RelayTokens;

/// `/admin-tokens`
pub struct AdminTokens;

/// What would lock administrators out.
async fn check_admin_token(api: &Api, admin: &Admin, it: &Token) -> Result<(), Problem> {
    if it.id == admin.token {
        let detail = "this is the token that you ask with; end it with another one that has the scope admin";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let page = Page { limit: usize::MAX, ..Page::default() };
    let all = list::<Token>(&*api.storage, admin.account.id, page).await?;
    let now = api.clock.now();
    let rules = |token: &&Token| {
        token.kind == TokenKind::Admin && token.allows(Scope::Admin) && !token.is_expired(now)
    };
    if all.iter().filter(rules).all(|token| token.id == it.id) {
        let detail = "it is the last token with the scope admin; make another one first";
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(())
}

macro_rules! token_collection {
    ($name:ident, $path:literal, $noun:literal, $kind:path, $filters:expr) => {
        impl Collection for $name {
            const PATH: &'static str = $path;
            const NOUN: &'static str = $noun;
            type Record = Token;
            type View = TokenView;
            const FILTERS: &'static [Filter] = $filters;

            async fn deletable(api: &Api, admin: &Admin, it: &Token) -> Result<(), Problem> {
                match it.kind {
                    TokenKind::Admin => check_admin_token(api, admin, it).await,
                    TokenKind::Gateway | TokenKind::Relay | TokenKind::ServiceAccount => Ok(()),
                }
            }

            fn holds(record: &Token) -> bool {
                record.kind == $kind
            }

            async fn view(
                _: &Api,
                it: Token,
                names: &mut Names<'_>,
                _: &Online,
            ) -> Result<TokenView, Problem> {
                shown(it, names).await
            }
        }

        impl Change for $name {
            type Body = TokenChange;

            async fn change(
                api: &Api,
                _: &Admin,
                body: TokenChange,
            ) -> Result<impl FnOnce(&mut Token) -> Result<(), String> + Send + 'static, Problem> {
                changed(api, body)
            }

            async fn beside(
                api: &Api,
                admin: &Admin,
                it: &Token,
                body: &TokenChange,
            ) -> Result<Vec<Op>, Problem> {
                if it.kind == TokenKind::Admin && body.expires_in_seconds.flatten().is_some() {
                    check_admin_token(api, admin, it).await?;
                }
                Ok(Vec::new())
            }
        }
    };
}

token_collection!(
    GatewayTokens,
    "gateway-tokens",
    "gateway token",
    TokenKind::Gateway,
    &[Filter::by_ref("site")]
);
token_collection!(RelayTokens, "relay-tokens", "relay token", TokenKind::Relay, &[]);
token_collection!(
    AdminTokens,
    "admin-tokens",
    "admin token",
    TokenKind::Admin,
    &[Filter::one_of("scope", &["read", "network", "access", "admin"])]
);

impl Create for AdminTokens {
    type Body = AdminTokenCreate;
    type Created = TokenCreated;

    async fn create(api: &Api, admin: &Admin, body: AdminTokenCreate) -> Result<TokenCreated, Problem> {
        if body.scopes.is_empty() {
            return Err(Problem::field("scopes", "name at least one of read, network, access and admin"));
        }
        let (secret, token) = fresh(api, TokenKind::Admin, body.name, body.expires_in_seconds)?;
        let token = Token { scopes: body.scopes.into_iter().collect(), ..token };
        api.commit(admin, vec![Op::Create(token.clone().into())]).await?;
        created(api, &secret, token, &mut Names::new(api, admin)).await
    }

    fn id(created: &TokenCreated) -> Uuid {
        created.shown.id
    }
}

impl Create for GatewayTokens {
    type Body = GatewayTokenCreate;
    type Created = TokenCreated;

    async fn create(api: &Api, admin: &Admin, body: GatewayTokenCreate) -> Result<TokenCreated, Problem> {
        let (secret, token) = fresh(api, TokenKind::Gateway, body.name, body.expires_in_seconds)?;
        let site = resolve::<Site>(api, admin, "site", &body.site).await?.id;
        let token = Token { site: Some(site), ..token };
        api.commit(admin, vec![Op::Create(token.clone().into())]).await?;
        created(api, &secret, token, &mut Names::new(api, admin)).await
    }

    fn id(created: &TokenCreated) -> Uuid {
        created.shown.id
    }
}

impl Create for RelayTokens {
    type Body = RelayTokenCreate;
    type Created = TokenCreated;

    async fn create(api: &Api, admin: &Admin, body: RelayTokenCreate) -> Result<TokenCreated, Problem> {
        check_region(body.region.as_deref())?;
        check_place(body.latitude, body.longitude)?;
        let (secret, token) = fresh(api, TokenKind::Relay, body.name, body.expires_in_seconds)?;
        let token = Token {
            region: body.region,
            latitude: body.latitude,
            longitude: body.longitude,
            many: body.many,
            ..token
        };
        api.commit(admin, vec![Op::Create(token.clone().into())]).await?;
        created(api, &secret, token, &mut Names::new(api, admin)).await
    }

    fn id(created: &TokenCreated) -> Uuid {
        created.shown.id
    }
}

// The tokens of one service account.

async fn of_account(api: &Api, admin: &Admin, account: &Principal) -> Result<Vec<Token>, Problem> {
    let page = Page { limit: usize::MAX, ..Page::default() };
    let tokens = list::<Token>(&*api.storage, admin.account.id, page).await?;
    Ok(tokens.into_iter().filter(|token| token.principal == Some(account.id)).collect())
}

/// `GET /service-accounts/{ref}/tokens`
pub async fn list_of_account(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    request: HttpRequest,
) -> Result<web::Json<Listed<TokenView>>, Problem> {
    let query = ListQuery::read(request.query_string(), &[], false)?;
    let account = one::<ServiceAccounts>(&api, &admin, &key).await?;
    let mut found = of_account(&api, &admin, &account).await?;
    found.retain(|token| query.after.is_none_or(|after| token.id.0 > after));
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let next = found.last().filter(|_| more).map(|token| token.id.to_string());
    let mut names = Names::new(&api, &admin);
    let mut items = Vec::new();
    for token in found {
        items.push(shown(token, &mut names).await?);
    }
    Ok(web::Json(Listed { items, next }))
}

/// `POST /service-accounts/{ref}/tokens`
pub async fn create_for_account(
    api: web::Data<Api>,
    admin: Admin,
    key: web::Path<String>,
    body: Body<ServiceTokenCreate>,
) -> Result<HttpResponse, Problem> {
    let account = one::<ServiceAccounts>(&api, &admin, &key).await?;
    let (secret, token) = fresh(&api, TokenKind::ServiceAccount, body.0.name, body.0.expires_in_seconds)?;
    let token = Token { principal: Some(account.id), ..token };
    api.commit(&admin, vec![Op::Create(token.clone().into())]).await?;
    let created = created(&api, &secret, token, &mut Names::new(&api, &admin)).await?;
    Ok(HttpResponse::Created().insert_header(("Cache-Control", "no-store")).json(created))
}

/// `DELETE /service-accounts/{ref}/tokens/{token}`
pub async fn delete_of_account(
    api: web::Data<Api>,
    admin: Admin,
    keys: web::Path<(String, String)>,
    expected: IfMatch,
) -> Result<HttpResponse, Problem> {
    let (account, key) = keys.into_inner();
    let account = one::<ServiceAccounts>(&api, &admin, &account).await?;
    let wanted = Key::parse(&key);
    let is_it = |token: &Token| match &wanted {
        Key::Id(id) => token.id.0 == *id,
        Key::Name(name) => token.name == *name,
    };
    let found = of_account(&api, &admin, &account).await?.into_iter().find(is_it);
    let token = found.ok_or_else(|| {
        Problem::new(Code::NotFound, format!("there is no token {key} of {}", account.name))
    })?;
    let mut ops: Vec<Op> = expected.op(Kind::Token, token.id.0).into_iter().collect();
    ops.push(Op::Delete(Kind::Token, Key::Id(token.id.0)));
    api.commit(&admin, ops).await?;
    Ok(HttpResponse::NoContent().finish())
}

//! What can be asked beside the collections: a decision, the audit log, the account.

use std::net::IpAddr;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actors_control::grant_office::{self, Asker, Question};
use actors_control::model::{Device, Principal, Resource};
use actors_control::storage::LogRow;
use actors_runtime::Reply;
use jiff::Timestamp;
use protocol_policy::{Effect, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::Body;
use super::collection::{Ref, resolve};
use super::problem::{Code, Problem};
use super::{Api, openapi, time};

/// What to decide about: a device or a principal, and a resource.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionAsked {
    /// Name or id of a device, of which everything that is known counts.
    device: Option<String>,
    /// Name or id of a service account, from a device of which nothing is known.
    principal: Option<String>,
    /// Name or id.
    resource: String,
    /// When; now if left out.
    #[schema(value_type = Option<String>)]
    at: Option<Timestamp>,
    /// From which address; as the device is connected if left out.
    #[schema(value_type = Option<String>)]
    source: Option<IpAddr>,
}

/// What would be decided, and why.
#[derive(Debug, Serialize, ToSchema)]
pub struct DecisionView {
    /// `allowed` or `denied`.
    decision: String,
    /// The policy that decides.
    policy: Option<Ref>,
    /// When the access would end.
    ends_at: Option<String>,
    /// Why it is denied; empty when it is not.
    reason: String,
    /// The policies that come close.
    close: Vec<CloseView>,
}

/// A policy that comes close.
#[derive(Debug, Serialize, ToSchema)]
pub struct CloseView {
    policy: Ref,
    #[schema(value_type = String)]
    effect: Effect,
    /// The one condition that it fails.
    failed: String,
    detail: String,
}

/// `POST /decisions`
pub async fn decide(
    api: web::Data<Api>,
    admin: Admin,
    body: Body<DecisionAsked>,
) -> Result<web::Json<DecisionView>, Problem> {
    let body = body.0;
    let asker = match (&body.device, &body.principal) {
        (Some(device), None) => Asker::Device(resolve::<Device>(&api, &admin, "device", device).await?.id),
        (None, Some(principal)) => {
            Asker::Principal(resolve::<Principal>(&api, &admin, "principal", principal).await?.id)
        }
        (Some(_), Some(_)) | (None, None) => {
            return Err(Problem::field("device", "name either a device or a principal"));
        }
    };
    let resource = resolve::<Resource>(&api, &admin, "resource", &body.resource).await?.id;
    let question = Question { asker, resource, at: body.at, source: body.source };
    let (reply, answer) = Reply::channel();
    let office = api.office(admin.account.id).ok_or_else(Problem::busy)?;
    office.tell(grant_office::Command::Explain(question, reply)).map_err(|_| Problem::busy())?;
    let decision = tokio::time::timeout(Duration::from_secs(5), answer).await;
    let Ok(Ok(Some(decision))) = decision else { return Err(Problem::busy()) };

    let by = |rule: &protocol_policy::RuleRef| Ref { id: rule.id.0, name: rule.name.clone() };
    let (word, ends_at) = match decision.verdict {
        Verdict::Allowed { end, .. } => ("allowed", end.map(time)),
        Verdict::Denied(_) => ("denied", None),
    };
    Ok(web::Json(DecisionView {
        decision: word.into(),
        policy: decision.explanation.decided.as_ref().map(by),
        ends_at,
        reason: decision.reason(),
        close: decision
            .explanation
            .close
            .iter()
            .map(|close| CloseView {
                policy: by(&close.rule),
                effect: close.rule.effect,
                failed: close.failed.condition().into(),
                detail: close.failed.to_string(),
            })
            .collect(),
    }))
}

/// A row of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    sequence: u64,
    at: String,
    /// Who: `admin-token:first`, `gateway:office-1`, `control`.
    actor: String,
    /// What: `created`, `updated`, `deleted`, `joined`, `connected`, `granted`, `ended`, `denied`, …
    action: String,
    kind: String,
    id: Option<Uuid>,
    name: Option<String>,
    /// Depends on what happened.
    #[schema(value_type = Object)]
    detail: serde_json::Value,
}

/// A part of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditPart {
    /// Oldest first.
    items: Vec<AuditView>,
    /// Where the next part begins, if there is more.
    next: Option<String>,
}

/// `GET /audit`
pub async fn audit(
    api: web::Data<Api>,
    admin: Admin,
    request: HttpRequest,
) -> Result<web::Json<AuditPart>, Problem> {
    let (mut limit, mut after, mut seen) = (200, 0, std::collections::BTreeSet::new());
    let pairs = web::Query::<Vec<(String, String)>>::from_query(request.query_string())
        .map_err(|error| Problem::new(Code::Invalid, format!("the query: {error}")))?;
    for (key, value) in pairs.into_inner() {
        if !seen.insert(key.clone()) {
            return Err(Problem::field(&key, "it stands in the query twice; send it once"));
        }
        match key.as_str() {
            "limit" => {
                let read = value.parse().ok().filter(|limit| (1..=1000).contains(limit));
                limit = read.ok_or_else(|| Problem::field("limit", "write 1 to 1000"))?;
            }
            "after" => {
                let read = value.parse().ok().filter(|after| i64::try_from(*after).is_ok());
                after = read.ok_or_else(|| Problem::field("after", "write the sequence of a row"))?;
            }
            other => return Err(Problem::field(other, "unknown; this list takes limit and after")),
        }
    }
    let mut rows = api.storage.log(admin.account.id, after, limit + 1).await?;
    let more = rows.len() > limit;
    rows.truncate(limit);
    let next = rows.last().filter(|_| more).map(|row| row.sequence.to_string());
    let shown = |row: LogRow| AuditView {
        sequence: row.sequence,
        at: time(row.at),
        actor: row.actor,
        action: row.action,
        kind: row.kind,
        id: row.id,
        name: row.name,
        detail: row.detail,
    };
    Ok(web::Json(AuditPart { items: rows.into_iter().map(shown).collect(), next }))
}

/// The account of the token.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountView {
    id: Uuid,
    name: String,
    /// Where nodes reach this control plane.
    control_url: String,
    /// What they pin, unless its certificate is an administrator's own.
    control_pin: Option<String>,
    version: String,
    /// The token that asks, as the audit log names it.
    token: String,
}

/// `GET /account`
pub async fn account(api: web::Data<Api>, admin: Admin) -> Result<web::Json<AccountView>, Problem> {
    Ok(web::Json(AccountView {
        id: admin.account.id.0,
        name: admin.account.name,
        control_url: api.public.url.clone(),
        control_pin: api.public.pin.map(|pin| pin.to_string()),
        version: env!("CARGO_PKG_VERSION").into(),
        token: admin.by,
    }))
}

/// Nothing is here.
pub async fn not_found() -> Result<HttpResponse, Problem> {
    Err(Problem::new(
        Code::NotFound,
        "there is nothing at this address; /api/v1/openapi.json says what there is",
    ))
}

/// Not with this method.
pub async fn method_not_allowed(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let methods = request.match_pattern().map(|pattern| openapi::methods(&pattern)).unwrap_or_default();
    let detail = format!("this address does not take {}; it takes {methods}", request.method());
    Err(Problem::new(Code::MethodNotAllowed, detail).allow(methods))
}

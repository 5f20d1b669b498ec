//! What can be asked beside the collections: a decision, the audit log, the account.

use std::net::IpAddr;
use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web};
use actors_control::grant_office::{self, Asker, Question};
use actors_control::model::{Device, Principal, Resource, To};
use actors_control::storage::{LogRow, Page, list};
use actors_runtime::Reply;
use jiff::Timestamp;
use protocol_policy::{Decision, Effect, Verdict};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::auth::Admin;
use super::body::Body;
use super::collection::{Ref, resolve};
use super::problem::{Code, Problem};
use super::{Api, openapi, time};

/// What to decide about: who, and where to.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DecisionAsked {
    /// Name or id of a device, of which everything that is known counts.
    device: Option<String>,
    /// Name or id of a service account; without a device, from one of which nothing is known.
    principal: Option<String>,
    /// Name or id of a resource.
    resource: Option<String>,
    /// Or a destination: `wiki:443`, `wiki.corp.example:443`, `10.20.0.7:53/udp`.
    to: Option<String>,
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
    /// Who would ask.
    principal: Ref,
    /// From which device, if one was named.
    device: Option<Ref>,
    /// What for; nothing when no resource is there.
    resource: Option<Ref>,
    /// When.
    at: String,
    /// The policy that decides.
    policy: Option<RuleView>,
    /// When the access would end.
    ends_at: Option<String>,
    /// Why it is denied; empty when it is not.
    reason: String,
    /// The policies that come closest, each with the one condition that it fails.
    close: Vec<CloseView>,
}

/// A policy that decides.
#[derive(Debug, Serialize, ToSchema)]
pub struct RuleView {
    id: Uuid,
    name: String,
    #[schema(value_type = String)]
    effect: Effect,
    /// Where it is written: the line of a policy file, or its address in this API.
    place: String,
}

/// A policy that comes close.
#[derive(Debug, Serialize, ToSchema)]
pub struct CloseView {
    policy: RuleView,
    #[schema(value_type = String)]
    effect: Effect,
    /// The one condition that it fails.
    failed: String,
    detail: String,
    /// How many conditions it fails beside that one.
    further: usize,
}

fn rule_view(rule: &protocol_policy::RuleRef) -> RuleView {
    let place = rule.place.clone().unwrap_or_else(|| format!("/api/v1/policies/{}", rule.id));
    RuleView { id: rule.id.0, name: rule.name.clone(), effect: rule.effect, place }
}

/// Who asks, from which device if one is named.
async fn asker(
    api: &Api,
    admin: &Admin,
    body: &DecisionAsked,
) -> Result<(Principal, Option<Device>), Problem> {
    let device = match &body.device {
        Some(device) => Some(resolve::<Device>(api, admin, "device", device).await?),
        None => None,
    };
    let principal = match (&body.principal, &device) {
        (Some(principal), _) => resolve::<Principal>(api, admin, "principal", principal).await?,
        (None, Some(device)) => {
            resolve::<Principal>(api, admin, "device", &device.principal.to_string()).await?
        }
        (None, None) => return Err(Problem::field("principal", "name a principal or a device")),
    };
    if let Some(device) = device.as_ref().filter(|device| device.principal != principal.id) {
        return Err(Problem::field("device", format!("{} is not one of {}", device.name, principal.name)));
    }
    Ok((principal, device))
}

/// The resources that may be meant, the closest first, each with whether its filters let this through.
async fn wanted(api: &Api, admin: &Admin, body: &DecisionAsked) -> Result<Vec<(Resource, bool)>, Problem> {
    match (&body.resource, &body.to) {
        (Some(resource), None) => {
            Ok(vec![(resolve::<Resource>(api, admin, "resource", resource).await?, true)])
        }
        (None, Some(to)) => {
            let to: To = to.parse().map_err(|error| Problem::field("to", error))?;
            let page = Page { limit: usize::MAX, ..Page::default() };
            let all = list::<Resource>(&*api.storage, admin.account.id, page).await?;
            let found = to.find(&all).into_iter();
            Ok(found.map(|resource| (resource.clone(), to.passes(resource))).collect())
        }
        (Some(_), Some(_)) | (None, None) => {
            Err(Problem::field("to", "name either a destination or a resource"))
        }
    }
}

async fn ask(api: &Api, admin: &Admin, question: Question) -> Result<Decision, Problem> {
    let (reply, answer) = Reply::channel();
    let office = api.office(admin.account.id).ok_or_else(Problem::busy)?;
    office.tell(grant_office::Command::Explain(question, reply)).map_err(|_| Problem::busy())?;
    match tokio::time::timeout(Duration::from_secs(5), answer).await {
        Ok(Ok(Some(decision))) => Ok(decision),
        Ok(Ok(None) | Err(_)) | Err(_) => Err(Problem::busy()),
    }
}

/// `POST /decisions`
pub async fn decide(
    api: web::Data<Api>,
    admin: Admin,
    body: Body<DecisionAsked>,
) -> Result<web::Json<DecisionView>, Problem> {
    let body = body.0;
    let (principal, device) = asker(&api, &admin, &body).await?;
    let at = body.at.unwrap_or_else(|| api.clock.now());
    let who = match &device {
        Some(device) => Asker::Device(device.id),
        None => Asker::Principal(principal.id),
    };
    let mut decided: Option<(Resource, bool, Decision)> = None;
    for (resource, passes) in wanted(&api, &admin, &body).await? {
        let question = Question { asker: who, resource: resource.id, at: Some(at), source: body.source };
        let decision = ask(&api, &admin, question).await?;
        let allowed = decision.is_allowed() && passes;
        // The closest one speaks for all, unless another one gives access.
        if decided.is_none() || allowed {
            decided = Some((resource, passes, decision));
        }
        if allowed {
            break;
        }
    }

    let mut view = DecisionView {
        decision: "denied".into(),
        principal: Ref { id: principal.id.0, name: principal.name },
        device: device.map(|device| Ref { id: device.id.0, name: device.name }),
        resource: None,
        at: time(at),
        policy: None,
        ends_at: None,
        reason: "no resource is there".into(),
        close: Vec::new(),
    };
    let Some((resource, passes, decision)) = decided else { return Ok(web::Json(view)) };
    view.policy = decision.explanation.decided.as_ref().map(rule_view);
    view.reason = decision.reason();
    if let Verdict::Allowed { end, .. } = decision.verdict {
        if passes {
            view.decision = "allowed".into();
            view.ends_at = end.map(time);
        } else {
            view.reason = format!("the filters of resource {} do not let it through", resource.name);
        }
    }
    view.close = decision
        .explanation
        .close
        .iter()
        .map(|close| CloseView {
            policy: rule_view(&close.rule),
            effect: close.rule.effect,
            failed: close.failed.condition().into(),
            detail: close.failed.to_string(),
            further: close.further,
        })
        .collect();
    view.resource = Some(Ref { id: resource.id.0, name: resource.name });
    Ok(web::Json(view))
}

/// A record of the audit log.
#[derive(Debug, Serialize, ToSchema)]
pub struct AuditView {
    /// The version of the record's layout: 1.
    schema: u32,
    sequence: u64,
    at: String,
    /// Who: `admin-token:first`, `gateway:office-1`, `control`.
    actor: String,
    /// What: `created`, `updated`, `deleted`, `joined`, `connected`, `disconnected`, `granted`, `ended`, `denied`, …
    action: String,
    kind: String,
    id: Option<String>,
    name: Option<String>,
    /// Depends on what happened.
    #[schema(value_type = Object)]
    detail: serde_json::Value,
    /// The hash of the record before it; empty for records from before there were hashes.
    previous: String,
    hash: String,
}

impl From<LogRow> for AuditView {
    fn from(row: LogRow) -> Self {
        let it = row.record();
        Self {
            schema: it.schema,
            sequence: it.sequence,
            at: it.at,
            actor: it.actor,
            action: it.action,
            kind: it.kind,
            id: it.id,
            name: it.name,
            detail: it.detail,
            previous: it.previous,
            hash: it.hash,
        }
    }
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
    Ok(web::Json(AuditPart { items: rows.into_iter().map(AuditView::from).collect(), next }))
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

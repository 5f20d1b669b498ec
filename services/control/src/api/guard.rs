//! What every request to the API goes through, in this order: size of its headers, who asks, how often, how far the
//! token reaches, and whether it was answered before.

use actix_web::body::{self, BoxBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::Method;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{FromRequest as _, HttpMessage as _, HttpRequest, HttpResponse, ResponseError as _, web};
use actors_control::model::Scope;
use protocol_identity::TokenKind;
use tracing::Instrument as _;
use tracing::field::Empty;

use super::Api;
use super::auth::{Admin, authenticate};
use super::body::{announced, read};
use super::idempotency::{Answer, Begun, fingerprint};
use super::problem::{Code, Problem};
use super::rates::Allowance;

/// The most bytes of all headers together.
pub const MAX_HEADERS: usize = 16 * 1024;
/// The header that makes a repeated POST harmless.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The one address under `/api/v1` that answers without a token.
pub const PUBLIC: &str = "/api/v1/openapi.json";

/// The middleware of `/api/v1`.
///
/// # Errors
/// When an inner service fails without an answer of its own.
pub async fn guard(
    request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    // Names, ids and secrets stand in the path and the query: only the route is told.
    let span = tracing::info_span!("request", method = %request.method(), route = Empty, status = Empty);
    let answer = watch(request, next).instrument(span.clone()).await;
    if let Ok(response) = &answer {
        span.record("status", response.status().as_u16());
        if let Some(route) = response.request().match_pattern() {
            span.record("route", route);
        }
    }
    answer
}

async fn watch(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    if let Err(problem) = check_headers(request.headers(), request.uri().to_string().len()) {
        return Ok(request.into_response(problem.error_response()));
    }
    if request.path() == PUBLIC {
        return next.call(request).await;
    }
    let Some(api) = request.app_data::<web::Data<Api>>().cloned() else {
        let problem = Problem::new(Code::Internal, "the API is not set up");
        return Ok(request.into_response(problem.error_response()));
    };
    let (admin, allowance) = match admit(request.request(), &api).await {
        Ok(admitted) => admitted,
        Err((problem, allowance)) => {
            let mut response = problem.error_response();
            if let Some(allowance) = allowance {
                allowance.write(response.headers_mut());
            }
            return Ok(request.into_response(response));
        }
    };
    let keyed = match keyed(&mut request, &api, &admin).await {
        Ok(keyed) => keyed,
        Err(problem) => return Ok(request.into_response(problem.error_response())),
    };
    request.extensions_mut().insert(admin);
    let mut response = match keyed {
        None => next.call(request).await?,
        Some(Keyed::Answered(answer)) => request.into_response(answer.response()),
        Some(Keyed::Fresh(ticket)) => {
            // Goes on when the client hangs up, so that its next try finds the answer.
            let work = actix_web::rt::spawn(async move {
                let response = next.call(request).await?;
                let (http, response) = response.into_parts();
                let (head, body) = response.into_parts();
                let bytes = body::to_bytes(body).await.map_err(actix_web::Error::from)?;
                ticket.close(&head, &bytes);
                Ok::<_, actix_web::Error>(ServiceResponse::new(http, head.set_body(BoxBody::new(bytes))))
            });
            work.await
                .map_err(|_| Problem::new(Code::Internal, "the request failed; control's log says why"))??
        }
    };
    allowance.write(response.headers_mut());
    Ok(response)
}

/// Refuses headers that are larger than any honest client's.
fn check_headers(headers: &HeaderMap, address: usize) -> Result<(), Problem> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if size + address > MAX_HEADERS {
        return Err(Problem::new(
            Code::HeadersTooLarge,
            format!("address and headers are over {MAX_HEADERS} bytes together; send less"),
        ));
    }
    Ok(())
}

type Turned = (Problem, Option<Allowance>);

/// Who asks, whether they may go on, and how much is left to them.
async fn admit(request: &HttpRequest, api: &Api) -> Result<(Admin, Allowance), Turned> {
    let (account, token) =
        authenticate(request, api, &[TokenKind::Admin]).await.map_err(|problem| (problem, None))?;
    let allowance = api.rates.take(token.id, std::time::Instant::now());
    if let Some(seconds) = allowance.wait {
        let detail = format!("too many requests with this token; try again in {seconds} s");
        return Err((Problem::new(Code::SlowDown, detail).retry_after(seconds), Some(allowance)));
    }
    let needed = needed(request.method(), request.path());
    if !token.allows(needed) {
        let detail = format!(
            "this token has not the scope {}; use a token that has it, or make one: postern admin admin-token create",
            needed.name()
        );
        return Err((Problem::new(Code::Forbidden, detail), Some(allowance)));
    }
    let by = format!("admin-token:{}", token.name);
    Ok((Admin { account, by, token: token.id }, allowance))
}

/// The scope that a request needs.
pub fn needed(method: &Method, path: &str) -> Scope {
    let collection =
        path.strip_prefix("/api/v1/").and_then(|rest| rest.split('/').next()).unwrap_or_default();
    match collection {
        "admin-tokens" => Scope::Admin,
        // Questions, though they are posted.
        "decisions" => Scope::Read,
        "policy-file" if path.ends_with("/plan") => Scope::Read,
        _ if matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE) => Scope::Read,
        "sites" | "gateways" | "relays" | "resources" | "gateway-tokens" | "relay-tokens" => Scope::Network,
        "groups" | "service-accounts" | "policies" | "policy-file" | "devices" | "grants" => Scope::Access,
        _ => Scope::Admin,
    }
}

enum Keyed {
    Fresh(super::idempotency::Ticket),
    Answered(Answer),
}

/// What is known of the request's idempotency key.
async fn keyed(request: &mut ServiceRequest, api: &Api, admin: &Admin) -> Result<Option<Keyed>, Problem> {
    if request.method() != Method::POST {
        return Ok(None);
    }
    let Some(key) = request.headers().get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = key
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()))
        .ok_or_else(|| {
            Problem::field("Idempotency-Key", "write 1 to 255 visible ASCII characters, such as a fresh UUID")
        })?
        .to_owned();
    let announced = announced(request.request());
    let mut payload = request.take_payload();
    let body = web::Payload::from_request(request.request(), &mut payload)
        .await
        .map_err(|_| Problem::new(Code::Invalid, "the body could not be read"))?;
    let bytes = read(body, announced).await?;
    let print =
        fingerprint(&[request.uri().to_string().as_bytes(), request.content_type().as_bytes(), &bytes]);
    request.set_payload(actix_web::dev::Payload::from(bytes));
    match api.idempotency.begin((admin.token, key), print, std::time::Instant::now()) {
        Begun::Fresh(ticket) => Ok(Some(Keyed::Fresh(ticket))),
        Begun::Answered(answer) => Ok(Some(Keyed::Answered(answer))),
        Begun::UnderWay => Err(Problem::new(
            Code::Conflict,
            "the first request with this Idempotency-Key is still being worked on; try again",
        )
        .retry_after(1)),
        Begun::Another => Err(Problem::new(
            Code::Conflict,
            "this Idempotency-Key was used for another request; draw a new key for each new request",
        )),
    }
}

impl Answer {
    fn response(self) -> HttpResponse {
        let mut response = HttpResponse::build(self.status);
        for (name, value) in self.headers {
            response.insert_header((name, value));
        }
        response.insert_header((REPLAYED, HeaderValue::from_static("true")));
        response.body(self.body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_needs_the_scope_to_read_and_writing_that_of_its_area() {
        for (method, path, scope) in [
            (Method::GET, "/api/v1/policies", Scope::Read),
            (Method::POST, "/api/v1/decisions", Scope::Read),
            (Method::POST, "/api/v1/policy-file/plan", Scope::Read),
            (Method::POST, "/api/v1/policy-file/apply", Scope::Access),
            (Method::POST, "/api/v1/sites", Scope::Network),
            (Method::DELETE, "/api/v1/relay-tokens/a", Scope::Network),
            (Method::PATCH, "/api/v1/policies/a", Scope::Access),
            (Method::POST, "/api/v1/service-accounts/ci/tokens", Scope::Access),
            (Method::GET, "/api/v1/admin-tokens", Scope::Admin),
            (Method::POST, "/api/v1/what-comes-later", Scope::Admin),
        ] {
            assert_eq!(needed(&method, path), scope, "{method} {path}");
        }
    }
}

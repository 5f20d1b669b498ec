//! The REST API of control, as far as `postern admin` speaks it.

use std::time::Duration;

use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::profile::Target;
use crate::http;
use services_chassis::{Exit, Failure};

/// The largest answer that is read; a page of 200 items is far below it.
const LARGEST_ANSWER: usize = 16 * 1024 * 1024;
/// Items a page.
const PAGE: &str = "200";

/// A connection to the API.
#[derive(Debug)]
pub struct Api {
    http: reqwest::Client,
    base: Url,
}

/// RFC 9457, with the two members that control adds.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Problem {
    detail: String,
    field: Option<String>,
    code: String,
}

impl Api {
    /// Prepares to speak to the target. Nothing is sent yet.
    pub fn new(target: &Target, timeout: Duration) -> Result<Self, Failure> {
        let base = Url::parse(&target.control_url.to_string())
            .map_err(|error| Failure::usage(format!("--control-url {}: {error}", target.control_url)))?;
        let http = http::client(&target.trust, Some(&target.token), timeout)?;
        Ok(Self { http, base })
    }

    fn url(&self, path: &[&str], query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.clear().extend(["api", "v1"]).extend(path);
        }
        if !query.is_empty() {
            url.query_pairs_mut().extend_pairs(query);
        }
        url
    }

    /// One request, one answer. An answer without a body is `null`.
    pub async fn call(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.http.request(method, self.url(path, query));
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if !status.is_success() {
            return Err(self.refused(response).await);
        }
        let bytes = self.read(response).await?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::failed(format!("{} answered something that is not JSON: {error}", self.base))
                .fix("is this the address of postern-control?")
        })
    }

    /// Reads one object.
    pub async fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.call(Method::GET, path, &[], None).await
    }

    /// All items of a collection, page by page.
    pub async fn list(&self, path: &[&str], filters: &[(&str, &str)]) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let mut query = filters.to_vec();
            query.push(("limit", PAGE));
            if let Some(cursor) = &after {
                query.push(("after", cursor));
            }
            let mut page = self.call(Method::GET, path, &query, None).await?;
            let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
            match page.get_mut("items").map(Value::take) {
                Some(Value::Array(more)) => items.extend(more),
                Some(_) | None => return Err(Failure::failed("control answered a list without items")),
            }
            // A cursor that stands still would never end.
            if next.is_none() || next == after {
                return Ok(items);
            }
            after = next;
        }
    }

    async fn read(&self, mut response: Response) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LARGEST_ANSWER {
                return Err(Failure::failed("control's answer is too large"));
            }
        }
        Ok(bytes)
    }

    async fn refused(&self, response: Response) -> Failure {
        let status = response.status();
        let retry_after = response
            .headers()
            .get("retry-after")
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse::<u32>().ok());
        let body = self.read(response).await.unwrap_or_default();
        let problem = serde_json::from_slice::<Problem>(&body).unwrap_or_default();
        refusal(status, problem, retry_after)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        http::unreachable(self.base.as_str().trim_end_matches('/'), error)
    }
}

/// The flag that fills a field of the API.
fn flag_of(field: &str) -> Option<String> {
    let name = field.split(['[', '.']).next().unwrap_or(field);
    let flag = match name {
        "address" => "--cidr, --ip or --dns",
        "filters" => "--filter",
        "groups" => "--group",
        "resources" | "resource" => "--resource",
        "members" | "principal" => "--member",
        "expires_in_seconds" => "--expires",
        "max_session_seconds" => "--max-session",
        "site" => "--site",
        "scopes" => "--scope",
        "listed" => "--listed",
        "description" => "--description",
        "latitude" => "--latitude",
        "longitude" => "--longitude",
        "region" => "--region",
        "conditions" => match field.split(['[', '.']).nth(1) {
            Some("time_windows") => "--window",
            Some("source_cidrs") => "--source-cidr",
            Some("countries") => "--country",
            Some("providers") => "--provider",
            Some("posture") => "--posture",
            Some("session_age_seconds") => "--session-age",
            Some(_) | None => return None,
        },
        _ => return None,
    };
    Some(flag.into())
}

fn refusal(status: StatusCode, problem: Problem, retry_after: Option<u32>) -> Failure {
    let detail =
        if problem.detail.is_empty() { format!("control answered {status}") } else { problem.detail };
    let what = match problem.field.as_deref().and_then(|field| Some((field, flag_of(field)?))) {
        // The person knows the flag, not the field.
        Some((field, flag)) => {
            let detail =
                detail.strip_prefix(field).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(&detail);
            format!("{flag}: {detail}")
        }
        None => detail,
    };
    match (status, problem.code.as_str()) {
        (StatusCode::UNAUTHORIZED, _) => Failure::new(Exit::Denied, what).fix(
            "pass another --token-file; on control's host, <state-dir>/admin.token holds the first admin token, and \
             `postern-control admin-token create` makes one",
        ),
        (StatusCode::FORBIDDEN, _) => {
            Failure::new(Exit::Denied, what).fix("pass a --token-file whose token has that scope")
        }
        (StatusCode::TOO_MANY_REQUESTS, _) => Failure::failed(what).fix(match retry_after {
            Some(seconds) => format!("try again in {seconds} s"),
            None => "try again later".into(),
        }),
        (StatusCode::PRECONDITION_FAILED, _) => Failure::failed(what).fix("look at it again, then try again"),
        (StatusCode::INSUFFICIENT_STORAGE, _) => {
            Failure::failed(what).fix("make room on the disk of control's database; nothing was changed")
        }
        (StatusCode::SERVICE_UNAVAILABLE, _) => Failure::failed(what).fix("try again"),
        (StatusCode::NOT_FOUND, "not-found") => match problem.field.as_deref().and_then(noun_of) {
            Some(noun) => Failure::failed(what).fix(format!("`postern admin {noun} list` shows what there is")),
            None => Failure::failed(what),
        },
        (StatusCode::NOT_FOUND, _) => Failure::failed(what).fix("is this the address of postern-control?"),
        (_, _) => Failure::failed(what),
    }
}

/// The kind of thing that a field of the API refers to.
fn noun_of(field: &str) -> Option<&'static str> {
    match field.split(['[', '.']).next().unwrap_or(field) {
        "site" => Some("site"),
        "groups" => Some("group"),
        "resource" | "resources" => Some("resource"),
        "members" | "principal" => Some("service-account"),
        "device" => Some("device"),
        _ => None,
    }
}

/// A JSON object without the members that were not given.
pub fn object<const N: usize>(members: [(&str, Option<Value>); N]) -> Map<String, Value> {
    members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> Problem {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn an_error_names_the_flag_and_the_fix() {
        let answer = problem(
            r#"{"detail": "site: no site is called ofice", "field": "site", "code": "not-found", "status": 404}"#,
        );

        let failure = refusal(StatusCode::NOT_FOUND, answer, None);

        assert_eq!(failure.what, "--site: no site is called ofice");
        assert_eq!(failure.fix.as_deref(), Some("`postern admin site list` shows what there is"));
        assert_eq!(failure.exit, Exit::Failed);
    }

    #[test]
    fn a_refused_token_has_its_own_exit_code() {
        let failure = refusal(StatusCode::UNAUTHORIZED, Problem::default(), None);

        assert_eq!(failure.exit, Exit::Denied);
    }

    #[test]
    fn indexed_and_nested_fields_find_their_flags() {
        assert_eq!(flag_of("filters[0]").as_deref(), Some("--filter"));
        assert_eq!(flag_of("conditions.time_windows[1].zone").as_deref(), Some("--window"));
        assert_eq!(flag_of("surprise"), None);
    }
}

#[cfg(test)]
mod conversations {
    use actors_access::Trust;
    use protocol_identity::{CertificatePin, Token, TokenKind};
    use serde_json::json;

    use super::*;
    use crate::testing::FakeControl;

    fn api(control: &FakeControl, pin: CertificatePin) -> (Api, Token) {
        let token = Token::generate(TokenKind::Admin).unwrap();
        let target = Target {
            control_url: format!("https://{}", control.address).parse().unwrap(),
            trust: Trust { pin: Some(pin), ca_file: None },
            token: token.clone(),
        };
        (Api::new(&target, Duration::from_secs(5)).unwrap(), token)
    }

    #[tokio::test]
    async fn the_token_and_an_escaped_name_are_sent() {
        let control = FakeControl::answering(vec![("200 OK", json!({"name": "a b"}).to_string())]).await;
        let (api, token) = api(&control, control.pin);

        let item = api.get(&["sites", "a b/c"]).await.unwrap();

        let request = control.requests().remove(0);
        assert_eq!(item["name"], "a b");
        assert!(request.starts_with("GET /api/v1/sites/a%20b%2Fc HTTP/1.1"), "{request}");
        assert!(request.contains(&format!("authorization: Bearer {}", *token.reveal())));
    }

    #[tokio::test]
    async fn a_list_is_read_to_its_last_page() {
        let page = |items: Value, next: Value| ("200 OK", json!({"items": items, "next": next}).to_string());
        let control =
            FakeControl::answering(vec![page(json!([1, 2]), json!("c2")), page(json!([3]), Value::Null)])
                .await;
        let (api, _) = api(&control, control.pin);

        let items = api.list(&["sites"], &[]).await.unwrap();

        assert_eq!(items, [json!(1), json!(2), json!(3)]);
        assert!(control.requests()[1].contains("after=c2"));
    }

    #[tokio::test]
    async fn another_certificate_than_the_pinned_ends_the_conversation_before_the_token_is_sent() {
        let control = FakeControl::answering(vec![("200 OK", "{}".into())]).await;
        let (api, _) = api(&control, CertificatePin::of(b"another certificate"));

        let failure = api.get(&["account"]).await.unwrap_err();

        assert_eq!(failure.exit, Exit::Failed);
        assert!(failure.what.contains("another certificate than the pinned one"), "{failure}");
        assert!(control.requests().is_empty());
    }

    #[tokio::test]
    async fn a_control_that_is_not_there_has_its_own_exit_code() {
        let mut control = FakeControl::answering(vec![]).await;
        // Port 9 (discard) of the loopback: nothing listens there.
        control.address.set_port(9);
        let (api, _) = api(&control, control.pin);

        let failure = api.get(&["account"]).await.unwrap_err();

        assert_eq!(failure.exit, Exit::Unreachable);
    }

    #[tokio::test]
    async fn a_deleted_thing_answers_without_a_body() {
        let control = FakeControl::answering(vec![("204 No Content", String::new())]).await;
        let (api, _) = api(&control, control.pin);

        assert_eq!(api.call(Method::DELETE, &["sites", "office"], &[], None).await, Ok(Value::Null));
    }
}

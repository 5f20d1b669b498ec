//! What a script can rely on: tags, keys, limits, filters.

use actix_web::test::TestRequest;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::nodes::serve;
use super::stage::{Answer, Stage};
use crate::api::Rates;
use crate::serve::REQUEST_WITHIN;

async fn send(stage: &Stage, method: &str, path: &str, header: (&str, &str), body: Value) -> Answer {
    let mut request = TestRequest::default()
        .method(method.parse().unwrap())
        .uri(path)
        .insert_header(("Authorization", format!("Bearer {}", stage.token)))
        .insert_header(header);
    if !body.is_null() {
        request = request.set_json(body);
    }
    stage.send(request).await
}

#[actix_web::test]
async fn a_change_that_was_decided_on_something_older_is_refused() {
    let stage = Stage::new().await;
    let made = stage.ask("POST", "/api/v1/sites", json!({"name": "office"})).await;
    let seen = stage.ask("GET", "/api/v1/sites/office", Value::Null).await;
    let (path, tag) = ("/api/v1/sites/office", seen.header("etag").unwrap());

    let first = send(&stage, "PATCH", path, ("If-Match", &tag), json!({"description": "mine"})).await;
    let second = send(&stage, "PATCH", path, ("If-Match", &tag), json!({"description": "theirs"})).await;
    let deleted = send(&stage, "DELETE", path, ("If-Match", &tag), Value::Null).await;
    let crooked = send(&stage, "DELETE", path, ("If-Match", "abc"), Value::Null).await;

    assert_eq!(made.header("etag").unwrap(), tag);
    assert_eq!(first.status, 200);
    for late in [&second, &deleted] {
        assert_eq!((late.status.as_u16(), &late.body["code"]), (412, &json!("precondition-failed")));
    }
    assert_eq!((crooked.status.as_u16(), &crooked.body["field"]), (400, &json!("If-Match")));
    assert_eq!(stage.get(path).await["description"], "mine");
    let now = first.header("etag").unwrap();
    assert_eq!(send(&stage, "DELETE", path, ("If-Match", &now), Value::Null).await.status, 204);
}

#[actix_web::test]
async fn a_request_that_is_sent_twice_with_one_key_is_carried_out_once() {
    let stage = Stage::new().await;
    let key = ("Idempotency-Key", "7c0e1c52");
    let body = json!({"region": "berlin"});

    let first = send(&stage, "POST", "/api/v1/relay-tokens", key, body.clone()).await;
    let again = send(&stage, "POST", "/api/v1/relay-tokens", key, body).await;
    let other = send(&stage, "POST", "/api/v1/relay-tokens", key, json!({"region": "paris"})).await;
    let crooked = send(&stage, "POST", "/api/v1/relay-tokens", ("Idempotency-Key", "a b"), json!({})).await;

    assert_eq!((first.status.as_u16(), again.status.as_u16()), (201, 201));
    assert_eq!(first.body, again.body);
    assert_eq!((first.header("idempotency-replayed"), first.location), (None, again.location.clone()));
    assert_eq!(again.header("idempotency-replayed").as_deref(), Some("true"));
    assert_eq!((other.status.as_u16(), &other.body["code"]), (409, &json!("conflict")));
    assert_eq!((crooked.status.as_u16(), &crooked.body["field"]), (400, &json!("Idempotency-Key")));
    assert_eq!(stage.get("/api/v1/relay-tokens").await["items"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn a_refusal_leaves_the_key_free() {
    let stage = Stage::new().await;
    let key = ("Idempotency-Key", "one");

    let refused = send(&stage, "POST", "/api/v1/sites", key, json!({"name": "a b"})).await;
    let taken = send(&stage, "POST", "/api/v1/sites", key, json!({"name": "ab"})).await;

    assert_eq!((refused.status.as_u16(), taken.status.as_u16()), (400, 201));
}

#[actix_web::test]
async fn a_token_that_asks_too_often_is_told_when_to_come_back() {
    let stage = Stage::with_rates(Rates::new(3, 1)).await;

    let mut left = Vec::new();
    while left.len() < 100 && left.last().is_none_or(|answer: &Answer| answer.status != 429) {
        left.push(stage.ask("GET", "/api/v1/account", Value::Null).await);
    }

    assert_eq!(left[0].header("ratelimit-limit").as_deref(), Some("3"));
    assert_eq!(left[0].header("ratelimit-remaining").as_deref(), Some("2"));
    let refused = left.iter().find(|answer| answer.status == 429).expect("never refused");
    assert_eq!(refused.body["code"], "slow-down");
    assert_eq!(refused.header("retry-after").as_deref(), Some("1"));
    assert_eq!(refused.header("ratelimit-remaining").as_deref(), Some("0"));
}

#[actix_web::test]
async fn large_headers_are_refused() {
    let stage = Stage::new().await;

    let large = "x".repeat(17 * 1024);
    let answer = send(&stage, "GET", "/api/v1/account", ("X-Large", &large), Value::Null).await;

    assert_eq!((answer.status.as_u16(), &answer.body["code"]), (431, &json!("headers-too-large")));
}

#[actix_web::test]
async fn lists_are_narrowed_by_what_they_show() {
    let stage = Stage::new().await;
    for site in ["office", "plant"] {
        stage.post("/api/v1/sites", json!({"name": site})).await;
    }
    for (name, kind, address, site) in [
        ("lan", "cidr", "10.20.0.0/24", "office"),
        ("wiki", "dns", "wiki.corp.example", "office"),
        ("press", "ip", "10.30.0.7", "plant"),
    ] {
        let body = json!({"name": name, "kind": kind, "address": address, "site": site});
        stage.post("/api/v1/resources", body).await;
    }
    let policy = json!({"name": "all", "groups": ["everyone"], "resources": ["lan", "wiki"]});
    stage.post("/api/v1/policies", policy).await;
    let plant = stage.get("/api/v1/sites/plant").await["id"].as_str().unwrap().to_owned();

    for (path, names) in [
        ("resources?site=office".to_owned(), vec!["lan", "wiki"]),
        (format!("resources?site={plant}"), vec!["press"]),
        ("resources?kind=ip".into(), vec!["press"]),
        ("resources?site=office&kind=dns&listed=false".into(), vec!["wiki"]),
        ("resources?site=office&limit=1".into(), vec!["lan"]),
        ("policies?resource=wiki&enabled=true&effect=allow".into(), vec!["all"]),
        ("policies?resource=press".into(), vec![]),
        ("groups?kind=static".into(), vec![]),
        ("devices?state=online".into(), vec![]),
    ] {
        let list = stage.get(&format!("/api/v1/{path}")).await;
        let found: Vec<_> =
            list["items"].as_array().unwrap().iter().map(|item| item["name"].clone()).collect();
        assert_eq!(found, names, "{path}");
        assert_eq!(list["next"].is_null(), !path.contains("limit"), "{path}");
    }
    for (path, field) in [
        ("resources?kind=host", "kind"),
        ("resources?colour=red", "colour"),
        ("resources?site=a&site=b", "site"),
        ("audit?after=x", "after"),
        ("flows?since=yesterday", "since"),
        ("flows?after=x", "after"),
        ("flows?colour=red", "colour"),
        ("groups/everyone/members?name=x", "name"),
    ] {
        let answer = stage.ask("GET", &format!("/api/v1/{path}"), Value::Null).await;
        assert_eq!((answer.status.as_u16(), &answer.body["field"]), (400, &json!(field)), "{path}");
    }
}

#[actix_web::test]
async fn a_client_that_sends_its_request_slowly_is_cut() {
    let stage = Stage::new().await;
    let address = serve(&stage);
    let head = format!(
        "POST /api/v1/sites HTTP/1.1\r\nHost: control\r\nContent-Type: application/json\r\n\
         Authorization: Bearer {}\r\n",
        stage.token
    );
    let begun = format!("{head}Content-Length: 100\r\n\r\n{{");
    let answer = async |text: &str| {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(text.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let ended = tokio::time::timeout(3 * REQUEST_WITHIN, socket.read_to_string(&mut answer)).await;
        ended.expect("the connection is held for ever").unwrap();
        answer
    };

    let (in_head, in_body) = tokio::join!(answer(&head), answer(&begun));

    assert!(in_head.starts_with("HTTP/1.1 408"), "{in_head}");
    assert!(in_body.starts_with("HTTP/1.1 408"), "{in_body}");
}

#[actix_web::test]
async fn a_method_that_is_not_taken_is_answered_with_those_that_are() {
    let stage = Stage::new().await;

    let list = stage.ask("PUT", "/api/v1/sites", Value::Null).await;
    let one = stage.ask("POST", "/api/v1/gateways/x", Value::Null).await;

    assert_eq!(list.status, 405);
    assert_eq!(list.header("allow").as_deref(), Some("GET, POST"));
    assert_eq!(one.header("allow").as_deref(), Some("DELETE, GET, PATCH"));
}

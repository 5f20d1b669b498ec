//! Accounts are walls, and nothing answers without a token: every route that the OpenAPI document knows is tried.

use actix_web::http::StatusCode;
use protocol_identity::IdentityKey;
use serde_json::{Value, json};

use super::nodes::{self, Node};
use super::stage::Stage;
use crate::api::openapi::document;

/// Every operation: its method, its path and whether it answers without a token.
fn operations() -> Vec<(String, String, bool)> {
    let mut all = Vec::new();
    for (path, item) in document()["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            all.push((method.to_uppercase(), path.clone(), operation["security"] == json!([])));
        }
    }
    all
}

/// One of each kind in the other account, connected nodes and a grant among them.
async fn furnish(stage: &Stage) -> Vec<Node> {
    let address = nodes::serve(stage);
    let (device_token, gateway_token) = nodes::configured(stage).await;
    let relay_token = stage.post("/api/v1/relay-tokens", json!({"name": "relay"})).await;
    stage.post("/api/v1/admin-tokens", json!({"name": "second"})).await;
    let key = || IdentityKey::generate().unwrap();
    let mut relay =
        Node::connect(address, relay_token["token"].as_str().unwrap(), key(), nodes::relay()).await;
    relay.welcome().await;
    let (gateway, device) = nodes::granted(address, &device_token, &gateway_token).await;
    vec![relay, gateway, device]
}

#[actix_web::test]
async fn every_route_answers_404_to_ids_and_names_of_another_account() {
    let stage = Stage::new().await;
    let other = stage.as_other();
    let _nodes = furnish(&other).await;

    let mut tried = 0;
    for (method, path, _) in operations().into_iter().filter(|(_, path, _)| path.contains('{')) {
        let collection = path.strip_prefix("/api/v1/").unwrap().split('/').next().unwrap();
        let theirs = other.get(&format!("/api/v1/{collection}")).await["items"].as_array().unwrap().clone();
        let thing = theirs.last().unwrap_or_else(|| panic!("{collection}: the other account has none"));
        let principal = other.get("/api/v1/service-accounts/ci").await;
        let token = other.get("/api/v1/service-accounts/ci/tokens").await["items"][0].clone();
        for member in ["id", "name"] {
            let Some(key) = thing[member].as_str() else { continue };
            if key == "everyone" || key == "first" {
                continue;
            }
            let concrete = path
                .replace("{ref}", key)
                .replace("{principal}", principal[member].as_str().unwrap())
                .replace("{token}", token[member].as_str().unwrap());
            let body = match (method.as_str(), path.ends_with("members")) {
                ("POST", true) => json!({"principal": "ci"}),
                ("POST" | "PATCH", _) => json!({}),
                _ => Value::Null,
            };

            let answer = stage.ask(&method, &concrete, body).await;

            assert_eq!(answer.status, 404, "{method} {path} with {member} {key}: {}", answer.body);
            tried += 1;
        }
    }
    assert!(tried > 60, "{tried}");
}

#[actix_web::test]
async fn a_body_cannot_refer_to_what_is_in_another_account() {
    let stage = Stage::new().await;
    let other = stage.as_other();
    let _nodes = furnish(&other).await;
    nodes::configured(&stage).await;
    let id = |path: &'static str| {
        let other = &other;
        async move { other.get(path).await["items"].as_array().unwrap().last().unwrap()["id"].clone() }
    };
    let site = id("/api/v1/sites").await;
    let resource = id("/api/v1/resources").await;
    let group = id("/api/v1/groups").await;
    let principal = id("/api/v1/service-accounts").await;
    let device = id("/api/v1/devices").await;

    for (method, path, body) in [
        ("POST", "/api/v1/gateway-tokens", json!({"site": site})),
        (
            "POST",
            "/api/v1/resources",
            json!({"name": "x", "kind": "ip", "address": "10.0.0.1", "site": site}),
        ),
        ("PATCH", "/api/v1/resources/lan", json!({"site": site})),
        ("POST", "/api/v1/groups", json!({"name": "x", "members": [principal]})),
        ("PATCH", "/api/v1/groups/engineering", json!({"members": [principal]})),
        ("POST", "/api/v1/groups/engineering/members", json!({"principal": principal})),
        ("POST", "/api/v1/service-accounts", json!({"name": "x", "groups": [group]})),
        ("PATCH", "/api/v1/service-accounts/ci", json!({"groups": [group]})),
        ("POST", "/api/v1/policies", json!({"name": "x", "groups": [group], "resources": ["lan"]})),
        ("POST", "/api/v1/policies", json!({"name": "x", "groups": ["everyone"], "resources": [resource]})),
        ("PATCH", "/api/v1/policies/engineers", json!({"groups": [group]})),
        ("POST", "/api/v1/decisions", json!({"device": device, "resource": "lan"})),
        ("POST", "/api/v1/decisions", json!({"principal": "ci", "resource": resource})),
    ] {
        let answer = stage.ask(method, path, body.clone()).await;
        assert_eq!(answer.status, 404, "{method} {path} {body}: {}", answer.body);
        assert!(answer.body["field"].is_string(), "{}", answer.body);
    }
    other.post("/api/v1/groups", json!({"name": "theirs"})).await;
    for (groups, resources) in [("theirs", "lan"), (group.as_str().unwrap(), "lan")] {
        let text =
            format!("[[policy]]\nname = \"x\"\ngroups = [\"{groups}\"]\nresources = [\"{resources}\"]\n");
        for path in ["/api/v1/policy-file/plan", "/api/v1/policy-file/apply"] {
            let answer = stage.ask("POST", path, json!({"text": text})).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.body["field"]),
                (400, &json!("text")),
                "{}",
                answer.body
            );
        }
    }
}

#[actix_web::test]
async fn nothing_but_the_documented_public_routes_answers_without_a_token() {
    let stage = Stage::new().await;
    let mut public = Vec::new();

    for (method, path, open) in operations() {
        let concrete = path.replace("{ref}", "x").replace("{principal}", "x").replace("{token}", "x");
        // Crooked, so that what looks at the body first would say so.
        let answer = stage.ask_as(None, &method, &concrete, json!({"surprise": 1})).await;
        let wanted = if open { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
        assert_eq!(answer.status, wanted, "{method} {path}: {}", answer.body);
        if open {
            public.push(path);
        }
    }
    assert_eq!(public, ["/api/v1/openapi.json", "/healthz", "/readyz"]);
    for (method, path) in
        [("PUT", "/api/v1/sites"), ("GET", "/api/v1/nothing"), ("OPTIONS", "/api/v1/sites/x")]
    {
        assert_eq!(stage.ask_as(None, method, path, Value::Null).await.status, 401, "{method} {path}");
    }
    let session = stage.ask_as(None, "GET", "/session", Value::Null).await;
    assert_eq!(session.status, 401);
}

#[actix_web::test]
async fn a_token_reaches_as_far_as_its_scopes_and_no_further() {
    let stage = Stage::new().await;
    let token = |scope: &'static str| {
        let stage = &stage;
        async move {
            let body = json!({"name": scope, "scopes": [scope]});
            stage.post("/api/v1/admin-tokens", body).await["token"].as_str().unwrap().to_owned()
        }
    };
    let (read, network, access) = (token("read").await, token("network").await, token("access").await);
    let writes = [
        ("POST", "/api/v1/sites", json!({"name": "office"}), &network),
        ("POST", "/api/v1/groups", json!({"name": "engineering"}), &access),
    ];

    for (method, path, body, right) in writes {
        for wrong in [&read, &network, &access].into_iter().filter(|token| *token != right) {
            let answer = stage.ask_as(Some(wrong), method, path, body.clone()).await;
            assert_eq!((answer.status.as_u16(), &answer.body["code"]), (403, &json!("forbidden")), "{path}");
        }
        assert_eq!(stage.ask_as(Some(right), method, path, body).await.status, 201, "{path}");
        assert_eq!(stage.ask_as(Some(&read), "GET", path, Value::Null).await.status, 200, "{path}");
    }
    for token in [&read, &network, &access] {
        let answer = stage.ask_as(Some(token), "POST", "/api/v1/admin-tokens", json!({})).await;
        assert_eq!(answer.status, 403, "nobody gives themselves more");
    }
}

#[actix_web::test]
async fn an_administrator_cannot_lock_everybody_out() {
    let stage = Stage::new().await;

    let own = stage.ask("DELETE", "/api/v1/admin-tokens/first", Value::Null).await;
    let ended = stage.ask("PATCH", "/api/v1/admin-tokens/first", json!({"expires_in_seconds": 1})).await;
    let second = stage.post("/api/v1/admin-tokens", json!({"name": "second"})).await;
    let second = second["token"].as_str().unwrap();
    let gone = stage.ask_as(Some(second), "DELETE", "/api/v1/admin-tokens/first", Value::Null).await;

    assert_eq!((own.status.as_u16(), ended.status.as_u16(), gone.status.as_u16()), (409, 409, 204));
    assert_eq!(stage.ask("GET", "/api/v1/sites", Value::Null).await.status, 401);
    let last = stage.ask_as(Some(second), "DELETE", "/api/v1/admin-tokens/second", Value::Null).await;
    assert_eq!(last.status, 409);
}

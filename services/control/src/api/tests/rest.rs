use actix_web::test::TestRequest;
use protocol_identity::{Token, TokenKind};
use serde_json::{Value, json};

use super::stage::Stage;

/// The example of the whole: everything that `postern admin` sets up.
async fn configured() -> Stage {
    let stage = Stage::new().await;
    stage.post("/api/v1/sites", json!({"name": "office"})).await;
    let wiki = json!({
        "name": "wiki", "kind": "dns", "address": "Wiki.Corp.Example.", "site": "office", "filters": ["tcp:80", "icmp"],
    });
    stage.post("/api/v1/resources", wiki).await;
    stage.post("/api/v1/groups", json!({"name": "engineering"})).await;
    stage.post("/api/v1/service-accounts", json!({"name": "ci", "groups": ["engineering"]})).await;
    let policy = json!({"name": "engineers", "groups": ["engineering"], "resources": ["wiki"]});
    stage.post("/api/v1/policies", policy).await;
    stage
}

#[actix_web::test]
async fn everything_that_is_set_up_can_be_seen_by_name_and_by_id() {
    let stage = configured().await;

    for path in
        ["sites/office", "resources/wiki", "groups/engineering", "service-accounts/ci", "policies/engineers"]
    {
        let by_name = stage.get(&format!("/api/v1/{path}")).await;
        let collection = path.split('/').next().unwrap();
        let by_id = stage.get(&format!("/api/v1/{collection}/{}", by_name["id"].as_str().unwrap())).await;
        assert_eq!(by_name, by_id);
        let list =
            stage.get(&format!("/api/v1/{collection}?name={}", by_name["name"].as_str().unwrap())).await;
        assert_eq!(list["items"], json!([by_name]));
        assert_eq!(list["next"], Value::Null);
    }
    let wiki = stage.get("/api/v1/resources/wiki").await;
    assert_eq!(wiki["address"], "wiki.corp.example");
    assert_eq!((&wiki["listed"], &wiki["filters"]), (&json!(false), &json!(["tcp:80", "icmp"])));
    assert_eq!(wiki["site"]["name"], "office");
    let policy = stage.get("/api/v1/policies/engineers").await;
    assert_eq!(
        (&policy["effect"], &policy["enabled"], &policy["conditions"]),
        (&json!("allow"), &json!(true), &json!({}))
    );
    assert_eq!(policy["groups"][0]["name"], "engineering");
    assert_eq!(stage.get("/api/v1/service-accounts/ci").await["groups"][0]["name"], "engineering");
}

#[actix_web::test]
async fn a_change_leaves_what_it_does_not_name() {
    let stage = configured().await;

    let wiki =
        stage.patch("/api/v1/resources/wiki", json!({"listed": true, "description": "the wiki"})).await;
    let cleared = stage.patch("/api/v1/resources/wiki", json!({"description": null})).await;
    let policy = stage
        .patch(
            "/api/v1/policies/engineers",
            json!({"conditions": {"device_verified": true}, "max_session_seconds": 3600}),
        )
        .await;

    assert_eq!((&wiki["listed"], &wiki["filters"]), (&json!(true), &json!(["tcp:80", "icmp"])));
    assert_eq!(wiki["description"], "the wiki");
    assert_eq!((&cleared["description"], &cleared["listed"]), (&Value::Null, &json!(true)));
    assert_eq!(policy["conditions"], json!({"device_verified": true}));
    assert_eq!((&policy["max_session_seconds"], &policy["enabled"]), (&json!(3600), &json!(true)));
}

#[actix_web::test]
async fn a_policy_cannot_be_made_to_speak_of_nobody_or_nothing() {
    let stage = configured().await;
    let path = "/api/v1/policies/engineers";

    for (body, field) in [
        (json!({"groups": []}), "groups"),
        (json!({"groups": [], "principal_labels": []}), "groups"),
        (json!({"resources": []}), "resources"),
        (json!({"resource_labels": [], "resources": []}), "resources"),
    ] {
        let answer = stage.ask("PATCH", path, body).await;
        assert_eq!((answer.status.as_u16(), &answer.body["field"]), (400, &json!(field)), "{}", answer.body);
    }
    let labelled = stage.patch(path, json!({"groups": [], "principal_labels": ["team=infra"]})).await;
    let emptied = stage.ask("PATCH", path, json!({"principal_labels": []})).await;
    assert_eq!((&labelled["groups"], &labelled["principal_labels"]), (&json!([]), &json!(["team=infra"])));
    assert_eq!((emptied.status.as_u16(), &emptied.body["field"]), (400, &json!("principal_labels")));
    // It loses its resource with the resource; what else it says can still change.
    stage.delete("/api/v1/resources/wiki").await;
    assert_eq!(stage.patch(path, json!({"enabled": false})).await["enabled"], false);
}

#[actix_web::test]
async fn members_come_and_go() {
    let stage = configured().await;
    stage.post("/api/v1/service-accounts", json!({"name": "deploy", "token": false})).await;

    let added = stage.ask("POST", "/api/v1/groups/engineering/members", json!({"principal": "deploy"})).await;
    let members = stage.get("/api/v1/groups/engineering/members").await;
    stage.delete("/api/v1/groups/engineering/members/ci").await;
    let moved = stage.patch("/api/v1/service-accounts/deploy", json!({"groups": []})).await;

    assert_eq!(added.status, 201);
    assert_eq!(members["items"].as_array().unwrap().len(), 2);
    assert_eq!(moved["groups"], json!([]));
    assert_eq!(stage.get("/api/v1/groups/engineering").await["members"], json!([]));
}

#[actix_web::test]
async fn a_token_is_shown_once_with_the_exact_command_for_the_other_host() {
    let stage = configured().await;

    let answer =
        stage.ask("POST", "/api/v1/gateway-tokens", json!({"site": "office", "name": "office-1"})).await;
    let relay = stage.post("/api/v1/relay-tokens", json!({"region": "berlin"})).await;
    let service = stage.post("/api/v1/service-accounts/ci/tokens", json!({"expires_in_seconds": 60})).await;
    let again = stage.get("/api/v1/gateway-tokens/office-1").await;

    let pin = stage.api.public.pin.unwrap();
    let token = answer.body["token"].as_str().unwrap();
    assert_eq!(token.parse::<Token>().unwrap().kind(), TokenKind::Gateway);
    assert_eq!(
        answer.body["join"]["command"],
        format!(
            "postern-gateway --control-url https://192.0.2.1:8443 --control-pin {pin} --token-file /etc/postern/gateway.token"
        )
    );
    assert_eq!(answer.body["join"]["control_pin"], pin.to_string());
    assert_eq!(
        answer.location.unwrap(),
        format!("/api/v1/gateway-tokens/{}", answer.body["id"].as_str().unwrap())
    );
    assert!(relay["join"]["command"].as_str().unwrap().starts_with("postern-relay "));
    assert!(relay["name"].as_str().unwrap().starts_with("token-"));
    assert!(service["join"]["command"].as_str().unwrap().starts_with("postern login "));
    assert!(service["expires_at"].is_string());
    assert_eq!((again.get("token"), again.get("join")), (None, None));
    let stored = stage.api.storage.authenticate(token.parse::<Token>().unwrap().hash()).await.unwrap();
    assert_eq!(stored.unwrap().1.name, "office-1");
}

#[actix_web::test]
async fn tokens_of_one_collection_are_not_found_in_another() {
    let stage = configured().await;
    stage.post("/api/v1/gateway-tokens", json!({"site": "office", "name": "same"})).await;
    stage.post("/api/v1/relay-tokens", json!({"name": "same"})).await;

    stage.delete("/api/v1/relay-tokens/same").await;

    assert_eq!(stage.ask("GET", "/api/v1/relay-tokens/same", Value::Null).await.status, 404);
    assert_eq!(
        stage.ask("GET", "/api/v1/relay-tokens/first", Value::Null).await.status,
        404,
        "the admin token"
    );
    stage.get("/api/v1/gateway-tokens/same").await;
}

#[actix_web::test]
async fn an_error_names_the_field_and_says_what_to_do() {
    let stage = configured().await;
    let resource = |change: Value| {
        let mut body = json!({"name": "lan", "kind": "cidr", "address": "10.20.0.0/24", "site": "office"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let cases = [
        (
            "/api/v1/resources",
            resource(json!({"filters": ["tcp:70000"]})),
            400,
            "invalid",
            "filters[0]",
            "1 to 65535",
        ),
        (
            "/api/v1/resources",
            resource(json!({"address": "10.20.0.7/24"})),
            400,
            "invalid",
            "address",
            "10.20.0.0/24",
        ),
        ("/api/v1/resources", resource(json!({"kind": "host"})), 400, "invalid", "kind", "cidr, ip or dns"),
        ("/api/v1/resources", resource(json!({"site": "plant"})), 404, "not-found", "site", "plant"),
        ("/api/v1/resources", resource(json!({"colour": 1})), 400, "invalid", "colour", "unknown field"),
        ("/api/v1/resources", resource(json!({"name": "wiki"})), 409, "conflict", "name", "another name"),
        ("/api/v1/resources", resource(json!({"name": "a b"})), 400, "invalid", "name", "letters"),
        (
            "/api/v1/policies",
            json!({"name": "p", "groups": [], "resources": ["wiki"]}),
            400,
            "invalid",
            "groups",
            "everyone",
        ),
        (
            "/api/v1/policies",
            json!({"name": "p", "groups": ["everyone"], "resources": ["wiki"], "conditions": {"time_windows": [
                {"days": ["mon"], "from": "8:00", "to": "18:00", "zone": "Europe/Berlin"}]}}),
            400,
            "invalid",
            "conditions.time_windows[0].from",
            "08:30",
        ),
        (
            "/api/v1/groups",
            json!({"name": "g", "members": ["nobody"]}),
            404,
            "not-found",
            "members[0]",
            "nobody",
        ),
    ];

    for (path, body, status, code, field, help) in cases {
        let answer = stage.ask("POST", path, body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert_eq!(answer.kind, "application/problem+json");
        assert_eq!(
            (&answer.body["code"], &answer.body["field"]),
            (&json!(code), &json!(field)),
            "{}",
            answer.body
        );
        assert!(answer.body["detail"].as_str().unwrap().contains(help), "{}", answer.body);
        assert_eq!(answer.body["status"], status);
    }
}

#[actix_web::test]
async fn what_is_in_use_or_built_in_stays() {
    let stage = configured().await;

    for (method, path, body, detail) in [
        ("DELETE", "/api/v1/sites/office", Value::Null, "resource wiki still uses it"),
        ("DELETE", "/api/v1/groups/engineering", Value::Null, "policy engineers still uses it"),
        ("DELETE", "/api/v1/groups/everyone", Value::Null, "built-in"),
        ("PATCH", "/api/v1/groups/everyone", json!({"name": "all"}), "built-in"),
        ("POST", "/api/v1/groups/everyone/members", json!({"principal": "ci"}), "built-in"),
    ] {
        let answer = stage.ask(method, path, body).await;
        assert_eq!(answer.status, 409, "{path}: {}", answer.body);
        assert!(answer.body["detail"].as_str().unwrap().contains(detail), "{}", answer.body);
    }
}

#[actix_web::test]
async fn without_the_right_token_nothing_is_seen() {
    let stage = configured().await;
    let other = Token::generate(TokenKind::Admin).unwrap().reveal().to_string();
    let gateway = stage.post("/api/v1/gateway-tokens", json!({"site": "office"})).await;

    for token in [None, Some("nonsense"), Some(other.as_str()), gateway["token"].as_str()] {
        let answer = stage.ask_as(token, "GET", "/api/v1/sites", Value::Null).await;
        assert_eq!((answer.status.as_u16(), &answer.body["code"]), (401, &json!("unauthenticated")));
        assert!(!answer.body.to_string().contains(token.unwrap_or("pst_")));
    }
    for path in ["/healthz", "/readyz", "/api/v1/openapi.json"] {
        assert_eq!(stage.ask_as(None, "GET", path, Value::Null).await.status, 200, "{path}");
    }
}

#[actix_web::test]
async fn an_administrator_of_one_account_sees_nothing_of_another() {
    let stage = configured().await;
    let token = stage.as_other().token.clone();

    for path in ["sites", "resources", "service-accounts", "policies", "gateway-tokens", "devices", "grants"]
    {
        let list = stage.ask_as(Some(&token), "GET", &format!("/api/v1/{path}"), Value::Null).await;
        assert_eq!(list.body["items"], json!([]), "{path}");
    }
    let wiki = stage.get("/api/v1/resources/wiki").await["id"].as_str().unwrap().to_owned();
    for method in ["GET", "PATCH", "DELETE"] {
        let body = if method == "PATCH" { json!({"listed": true}) } else { Value::Null };
        let answer = stage.ask_as(Some(&token), method, &format!("/api/v1/resources/{wiki}"), body).await;
        assert_eq!(answer.status, 404, "{method}");
    }
    let audit = stage.ask_as(Some(&token), "GET", "/api/v1/audit", Value::Null).await;
    assert!(!audit.body.to_string().contains("wiki"));
}

#[actix_web::test]
async fn a_guesser_is_slowed_down() {
    let stage = Stage::new().await;
    let wrong = Token::generate(TokenKind::Admin).unwrap().reveal().to_string();

    let mut last = 0;
    for _ in 0..40 {
        last = stage.ask_as(Some(&wrong), "GET", "/api/v1/sites", Value::Null).await.status.as_u16();
    }

    assert_eq!(last, 429);
    let right = stage.ask("GET", "/api/v1/sites", Value::Null).await;
    assert_eq!(right.status, 200, "others may share the address");
}

#[actix_web::test]
async fn bodies_are_bounded_and_json() {
    let stage = Stage::new().await;
    let request = |body: Vec<u8>, kind: &'static str| {
        TestRequest::post()
            .uri("/api/v1/sites")
            .insert_header(("Authorization", format!("Bearer {}", stage.token)))
            .insert_header(("Content-Type", kind))
            .set_payload(body)
    };

    let large = stage.send(request(vec![b' '; 1024 * 1024 + 1], "application/json")).await;
    let text = stage.send(request(b"{}".to_vec(), "text/plain")).await;
    let broken = stage.send(request(b"{\"name\": ".to_vec(), "application/json")).await;

    assert_eq!((large.status.as_u16(), &large.body["code"]), (413, &json!("too-large")));
    assert_eq!((text.status.as_u16(), &text.body["code"]), (415, &json!("unsupported-media-type")));
    assert_eq!((broken.status.as_u16(), &broken.body["code"]), (400, &json!("invalid")));
}

#[actix_web::test]
async fn what_is_not_there_and_what_is_not_allowed_are_problems_too() {
    let stage = Stage::new().await;

    for (method, path, status) in [
        ("GET", "/api/v1/nothing", 404),
        ("GET", "/nothing", 404),
        ("GET", "/api/v1/sites/nothing", 404),
        ("PUT", "/api/v1/sites", 405),
        ("POST", "/api/v1/gateways", 405),
        ("GET", "/api/v1/sites?colour=1", 400),
        ("GET", "/api/v1/sites?limit=0", 400),
    ] {
        let answer = stage.ask(method, path, Value::Null).await;
        assert_eq!(answer.status, status, "{method} {path}");
        assert_eq!(answer.kind, "application/problem+json", "{method} {path}");
    }
}

#[actix_web::test]
async fn lists_come_in_parts() {
    let stage = Stage::new().await;
    for name in ["a", "b", "c"] {
        stage.post("/api/v1/sites", json!({"name": name})).await;
    }

    let first = stage.get("/api/v1/sites?limit=2").await;
    let rest = stage.get(&format!("/api/v1/sites?limit=2&after={}", first["next"].as_str().unwrap())).await;

    let names = |list: &Value| {
        list["items"].as_array().unwrap().iter().map(|site| site["name"].clone()).collect::<Vec<_>>()
    };
    assert_eq!((names(&first), names(&rest)), (vec![json!("a"), json!("b")], vec![json!("c")]));
    assert_eq!(rest["next"], Value::Null);
}

#[actix_web::test]
async fn a_decision_explains_itself() {
    let stage = configured().await;
    stage.post("/api/v1/service-accounts", json!({"name": "guest"})).await;

    let allowed =
        stage.ask("POST", "/api/v1/decisions", json!({"principal": "ci", "resource": "wiki"})).await.body;
    let denied =
        stage.ask("POST", "/api/v1/decisions", json!({"principal": "guest", "resource": "wiki"})).await.body;

    assert_eq!((&allowed["decision"], &allowed["policy"]["name"]), (&json!("allowed"), &json!("engineers")));
    assert_eq!(denied["decision"], "denied");
    assert_eq!(denied["close"][0]["failed"], "group");
    assert!(denied["reason"].as_str().unwrap().contains("engineers"));
}

#[actix_web::test]
async fn the_audit_log_says_who_did_what() {
    let stage = configured().await;
    stage.delete("/api/v1/policies/engineers").await;

    let log = stage.get("/api/v1/audit?limit=1000").await;

    let items = log["items"].as_array().unwrap();
    let last = items.iter().rfind(|row| row["kind"] == "policy").unwrap();
    assert_eq!((&last["action"], &last["name"]), (&json!("deleted"), &json!("engineers")));
    assert_eq!(last["actor"], "admin-token:first");
    let sequences: Vec<_> = items.iter().map(|row| row["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted());
}

#[actix_web::test]
async fn the_account_says_where_control_is() {
    let stage = Stage::new().await;

    let account = stage.get("/api/v1/account").await;

    assert_eq!(
        (&account["name"], &account["control_url"]),
        (&json!("default"), &json!("https://192.0.2.1:8443"))
    );
    assert_eq!(account["token"], "admin-token:first");
}

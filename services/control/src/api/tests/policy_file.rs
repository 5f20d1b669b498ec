//! Policy files through the API.

use serde_json::{Value, json};

use super::stage::Stage;

const FILE: &str = r#"
[[policy]]
name = "engineers"
groups = ["engineering"]
resources = ["wiki"]
conditions = { countries = ["DE"] }

[[test]]
name = "an engineer from Germany reaches the wiki"
member_of = ["engineering"]
to = "wiki:80"
at = "monday 10:00 Europe/Berlin"
country = "DE"
expect = "allowed"
"#;

/// Status and body of an answer.
async fn ask(stage: &Stage, path: &str, body: Value) -> (u16, Value) {
    let answer = stage.ask("POST", path, body).await;
    (answer.status.as_u16(), answer.body)
}

async fn stage() -> Stage {
    let stage = Stage::new().await;
    stage.post("/api/v1/sites", json!({"name": "office"})).await;
    let wiki = json!({
        "name": "wiki", "kind": "dns", "address": "wiki.corp.example", "site": "office", "filters": ["tcp:80"],
        "labels": {"env": "production"},
    });
    stage.post("/api/v1/resources", wiki).await;
    stage.post("/api/v1/groups", json!({"name": "engineering"})).await;
    stage.post("/api/v1/service-accounts", json!({"name": "ci", "groups": ["engineering"]})).await;
    stage
}

#[actix_web::test]
async fn a_file_is_planned_applied_and_exported() {
    let stage = stage().await;
    let body = json!({"file": "access.toml", "text": FILE});

    let (_, plan) = ask(&stage, "/api/v1/policy-file/plan", body.clone()).await;
    let (status, applied) = ask(&stage, "/api/v1/policy-file/apply", body.clone()).await;
    let (_, again) = ask(&stage, "/api/v1/policy-file/plan", body).await;
    let exported = stage.get("/api/v1/policy-file").await;

    assert_eq!(plan["policies"], json!([{"change": "created", "policy": "engineers"}]));
    assert_eq!(
        plan["access"],
        json!([{"change": "gains", "principal": "ci", "resource": "wiki", "condition": "in DE", "policy": "engineers"}])
    );
    assert_eq!(plan["tests"][0]["passed"], true);
    assert_eq!(status, 200, "{applied}");
    assert_eq!(again["changes"], false);
    assert_eq!(applied["version"], exported["version"]);
    assert!(exported["text"].as_str().unwrap().contains("name = \"engineers\""));
    assert_eq!(stage.get("/api/v1/policies/engineers").await["place"], "access.toml:3");
}

#[actix_web::test]
async fn a_failing_test_refuses_the_write_and_names_its_line() {
    let stage = stage().await;
    let body = json!({"file": "access.toml", "text": FILE.replace("wiki:80", "wiki:443")});

    let (status, problem) = ask(&stage, "/api/v1/policy-file/apply", body).await;

    assert_eq!((status, &problem["field"]), (400, &json!("text")));
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.starts_with("access.toml:9: test \"an engineer from Germany reaches the wiki\" failed"),
        "{detail}"
    );
    assert_eq!(stage.get("/api/v1/policies").await["items"], json!([]));
}

#[actix_web::test]
async fn an_edit_meanwhile_is_a_conflict() {
    let stage = stage().await;
    let exported = stage.get("/api/v1/policy-file").await;
    let policy = json!({"name": "others", "groups": ["engineering"], "resource_labels": ["env=production"]});
    stage.post("/api/v1/policies", policy).await;

    let body = json!({"text": FILE, "version": exported["version"]});
    let (status, problem) = ask(&stage, "/api/v1/policy-file/apply", body).await;

    assert_eq!((status, &problem["code"]), (409, &json!("conflict")));
    assert_eq!(stage.get("/api/v1/policies").await["items"].as_array().unwrap().len(), 1);
}

#[actix_web::test]
async fn a_decision_about_a_destination_names_the_rule_its_place_or_what_is_missing() {
    let stage = stage().await;
    ask(&stage, "/api/v1/policy-file/apply", json!({"file": "access.toml", "text": FILE})).await;
    let decide = async |to: &str| {
        let body = json!({"principal": "ci", "to": to, "at": "2026-11-24T10:00:00Z"});
        ask(&stage, "/api/v1/decisions", body).await.1
    };

    let denied = decide("wiki.corp.example:80").await;
    stage.patch("/api/v1/policies/engineers", json!({"conditions": {}})).await;
    let (allowed, filtered, nowhere) =
        (decide("wiki:80").await, decide("wiki:443").await, decide("nowhere").await);

    assert_eq!(denied["decision"], "denied");
    assert_eq!(denied["close"][0]["policy"]["place"], "access.toml:3");
    assert_eq!(denied["close"][0]["failed"], "country");
    assert_eq!((&allowed["decision"], &allowed["resource"]["name"]), (&json!("allowed"), &json!("wiki")));
    // Edited by hand, it is no longer what the file says.
    assert!(allowed["policy"]["place"].as_str().unwrap().starts_with("/api/v1/policies/"));
    assert_eq!(filtered["reason"], "the filters of resource wiki do not let it through");
    assert_eq!(
        (&nowhere["decision"], &nowhere["reason"]),
        (&json!("denied"), &json!("no resource is there"))
    );
}

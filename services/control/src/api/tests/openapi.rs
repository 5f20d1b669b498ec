use serde_json::Value;

use super::stage::Stage;
use crate::api::openapi::document;

#[actix_web::test]
async fn every_operation_in_the_document_is_served_and_has_its_types() {
    let stage = Stage::new().await;
    let document = document();

    let paths = document["paths"].as_object().unwrap();
    assert!(paths.len() > 20, "{}", paths.len());
    for (path, item) in paths {
        if path == "/session" {
            continue;
        }
        let concrete =
            path.replace("{ref}", "none").replace("{principal}", "none").replace("{token}", "none");
        for (method, operation) in item.as_object().unwrap() {
            let answer = stage.ask(&method.to_uppercase(), &concrete, Value::Null).await;
            assert_ne!(answer.status, 405, "{method} {path}");
            assert!(operation["summary"].as_str().is_some_and(|text| !text.is_empty()), "{method} {path}");
        }
    }
    let text = document.to_string();
    for (n, _) in text.match_indices("#/components/schemas/") {
        let name = text[n + "#/components/schemas/".len()..].split('"').next().unwrap();
        assert!(!document["components"]["schemas"][name].is_null(), "{name} is referred to and missing");
    }
}

#[actix_web::test]
async fn every_collection_that_is_served_is_in_the_document() {
    let document = document();
    let paths = document["paths"].as_object().unwrap();

    for collection in [
        "sites",
        "gateways",
        "relays",
        "devices",
        "gateway-tokens",
        "relay-tokens",
        "admin-tokens",
        "resources",
        "groups",
        "service-accounts",
        "policies",
        "grants",
    ] {
        for path in [format!("/api/v1/{collection}"), format!("/api/v1/{collection}/{{ref}}")] {
            assert!(paths.contains_key(&path), "{path}");
        }
    }
    for path in [
        "/api/v1/audit",
        "/api/v1/flows",
        "/api/v1/decisions",
        "/api/v1/account",
        "/api/v1/policy-file",
        "/api/v1/policy-file/plan",
        "/api/v1/policy-file/apply",
    ] {
        assert!(paths.contains_key(path), "{path}");
    }
}

//! What `docs/policy.md` shows is a policy file, and the schema for editors knows the fields that are read and no others.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::collections::BTreeSet;

use protocol_policy::PolicyFile;
use serde_json::Value;

const DOCUMENT: &str = include_str!("../../../docs/policy.md");
const SCHEMA: &str = include_str!("../../../docs/policy.schema.json");

#[test]
fn the_file_in_the_documentation_is_read() {
    let (_, rest) = DOCUMENT.split_once("```toml\n").unwrap();
    let (text, _) = rest.split_once("```").unwrap();

    let file = PolicyFile::parse(text).unwrap();

    assert!(file.version.is_some());
    assert!(!file.policies.is_empty() && !file.tests.is_empty());
}

/// Texts with a field that is none, and the place of the schema that is about it.
const PLACES: [(&str, &str); 6] = [
    ("zzz = 1", ""),
    ("[[policy]]\nzzz = 1", "/properties/policy/items"),
    (
        "[[policy]]\nname = \"a\"\n[policy.conditions]\nzzz = 1",
        "/properties/policy/items/properties/conditions",
    ),
    (
        "[[policy]]\nname = \"a\"\n[[policy.conditions.time_windows]]\nzzz = 1",
        "/properties/policy/items/properties/conditions/properties/time_windows/items",
    ),
    (
        "[[policy]]\nname = \"a\"\n[[policy.conditions.posture]]\nzzz = 1",
        "/properties/policy/items/properties/conditions/properties/posture/items",
    ),
    ("[[test]]\nzzz = 1", "/properties/test/items"),
];

/// The fields that are read where this text has one that is not.
fn read(text: &str) -> BTreeSet<String> {
    let error = PolicyFile::parse(text).unwrap_err().what;
    let (_, fields) = error.split_once("expected ").unwrap_or_else(|| panic!("{error}"));
    fields.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn in_schema(schema: &Value, place: &str) -> BTreeSet<String> {
    let place = schema.pointer(place).unwrap_or_else(|| panic!("the schema has no {place}"));
    assert_eq!(place["additionalProperties"], false);
    place["properties"].as_object().unwrap().keys().cloned().collect()
}

#[test]
fn the_schema_for_editors_has_the_fields_that_are_read_and_no_others() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    for (text, place) in PLACES {
        assert_eq!(in_schema(&schema, place), read(text), "{place}");
    }
}

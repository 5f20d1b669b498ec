//! What the fields of the API may hold: added to the types' own schemas, and checked against control by a foreign tool.

use serde_json::{Map, Value, json};

use crate::api::patterns;

/// A reference to something by id or name.
pub fn reference() -> Value {
    json!({"type": "string", "pattern": patterns::NAME})
}

/// The longest that a token or a session lasts: a hundred years, in seconds.
pub const LONGEST: u64 = 100 * 365 * 24 * 3600;

/// What a field of a request may hold beyond its type.
fn asked(schema: &str, field: &str) -> Option<Value> {
    Some(match (schema, field) {
        (_, "name") => json!({"pattern": patterns::NAME, "description": "Unique in its kind; no UUID"}),
        (_, "description") => json!({"maxLength": 1024, "pattern": patterns::TEXT}),
        (_, "site" | "principal" | "device" | "resource") => {
            json!({"pattern": patterns::NAME, "description": "Id or name"})
        }
        (_, "groups" | "members" | "resources") => json!({"items": reference(), "maxItems": 1000}),
        (_, "principal_labels" | "resource_labels") => {
            json!({"items": {"type": "string", "pattern": patterns::selector()}, "maxItems": 64})
        }
        (_, "labels") => json!({
            "propertyNames": {"pattern": patterns::LABEL}, "maxProperties": 64,
            "additionalProperties": {"type": "string", "pattern": patterns::LABEL},
        }),
        (_, "expires_in_seconds" | "max_session_seconds") => json!({"minimum": 1, "maximum": LONGEST}),
        (_, "latitude") => json!({"minimum": -90, "maximum": 90}),
        (_, "longitude") => json!({"minimum": -180, "maximum": 180}),
        (_, "region") => json!({"minLength": 1, "maxLength": 64, "pattern": patterns::LINE}),
        (_, "filters") => {
            let patterns: Vec<Value> = patterns::filter()
                .iter()
                .map(|pattern| json!({"type": "string", "pattern": pattern}))
                .collect();
            json!({"items": {"anyOf": patterns}, "maxItems": 64})
        }
        (_, "effect") => json!({"enum": ["allow", "deny"]}),
        (_, "scopes") => {
            json!({"items": {"type": "string", "enum": ["read", "network", "access", "admin"]}, "minItems": 1})
        }
        (_, "conditions") => json!({"$ref": "#/components/schemas/Conditions"}),
        ("ResourceCreate", "kind") => json!({"enum": ["cidr", "ip", "dns"]}),
        ("DecisionAsked", "to") => json!({"anyOf": [
            {"type": "string", "pattern": patterns::destination()}, {"type": "string", "format": "ipv6"}, {"type": "null"}
        ]}),
        ("PolicyFileGiven", "text") => {
            let texts = patterns::policy_file().map(|pattern| json!({"type": "string", "pattern": pattern}));
            json!({"anyOf": texts})
        }
        ("DecisionAsked", "at") => json!({"format": "date-time"}),
        ("DecisionAsked", "source") => json!({"anyOf": [
            {"type": "string", "format": "ipv4"}, {"type": "string", "format": "ipv6"}, {"type": "null"}
        ]}),
        _ => return None,
    })
}

/// What a field of an answer looks like beyond its type.
fn answered(field: &str) -> Option<Value> {
    match field {
        "conditions" => Some(json!({"$ref": "#/components/schemas/Conditions"})),
        _ if field.ends_with("_at") || field == "at" || field == "since" => {
            Some(json!({"format": "date-time"}))
        }
        _ => None,
    }
}

/// Puts keywords into a field's schema. A type that may be `null` keeps that.
fn merge(field: &mut Value, more: Value) {
    let nullable = field["type"].as_array().is_some_and(|types| types.contains(&json!("null")))
        || field["oneOf"].as_array().is_some_and(|types| types.contains(&json!({"type": "null"})));
    let Value::Object(more) = more else { return };
    if more.contains_key("$ref") || more.contains_key("anyOf") {
        let description = field.get("description").cloned();
        *field = match nullable && more.contains_key("$ref") {
            true => json!({"anyOf": [more, {"type": "null"}]}),
            false => more.into(),
        };
        if let Some(description) = description {
            field["description"] = description;
        }
        return;
    }
    for (keyword, value) in more {
        field[&keyword] = match (keyword.as_str(), value) {
            ("enum", Value::Array(mut values)) if nullable => {
                values.push(Value::Null);
                values.into()
            }
            ("description", value) => field.get("description").cloned().unwrap_or(value),
            (_, value) => value,
        };
    }
}

/// Adds to one type's schema what its fields may hold.
pub fn refine(name: &str, schema: &mut Value) {
    let request = ["Create", "Change", "Asked", "Given"].iter().any(|end| name.ends_with(end));
    refine_parts(name, schema, request);
    if request {
        schema["additionalProperties"] = false.into();
    }
    match name {
        "ResourceCreate" => schema["oneOf"] = resource_variants(),
        "ResourceChange" => {
            let mut addresses = vec![json!({"type": "null"})];
            addresses.extend(address_schemas().into_iter().flat_map(|(_, schemas)| schemas));
            schema["properties"]["address"] = json!({"anyOf": addresses});
        }
        "DecisionAsked" => schema["oneOf"] = pairs(&one_of("device", "principal"), &one_of("resource", "to")),
        "PolicyCreate" => {
            schema["anyOf"] = pairs(
                &[filled("groups"), filled("principal_labels")],
                &[filled("resources"), filled("resource_labels")],
            );
        }
        "PolicyChange" => {
            schema["anyOf"] =
                pairs(&left("groups", "principal_labels"), &left("resources", "resource_labels"));
        }
        _ => {}
    }
}

/// Each schema of one side together with each of the other.
fn pairs(one: &[Value], other: &[Value]) -> Value {
    let mut all = Vec::new();
    for one in one {
        for other in other {
            let mut both = one.clone();
            for part in ["required", "properties"] {
                match (&mut both[part], &other[part]) {
                    (Value::Array(both), Value::Array(more)) => both.extend(more.iter().cloned()),
                    (Value::Object(both), Value::Object(more)) => {
                        both.extend(more.iter().map(|(field, its)| (field.clone(), its.clone())));
                    }
                    (_, _) => {}
                }
            }
            all.push(both);
        }
    }
    all.into()
}

/// One field of two, and not the other.
fn one_of(one: &str, other: &str) -> [Value; 2] {
    [(one, other), (other, one)].map(|(there, absent)| {
        json!({"required": [there], "properties": {there: {"type": "string"}, absent: {"type": "null"}}})
    })
}

/// A list that holds something.
fn filled(field: &str) -> Value {
    json!({"required": [field], "properties": {field: {"type": "array", "minItems": 1}}})
}

/// Two lists of which a change may empty one if it fills the other.
fn left(one: &str, other: &str) -> [Value; 3] {
    let neither = json!({"required": [], "properties": {one: {"minItems": 1}, other: {"minItems": 1}}});
    [neither, filled(one), filled(other)]
}

fn refine_parts(name: &str, schema: &mut Value, request: bool) {
    if let Some(parts) = schema.get_mut("allOf").and_then(Value::as_array_mut) {
        for part in parts {
            refine_parts(name, part, request);
        }
    }
    let Some(fields) = schema.get_mut("properties").and_then(Value::as_object_mut) else { return };
    for (field, its) in fields {
        let more = if request { asked(name, field) } else { answered(field) };
        if let Some(more) = more {
            merge(its, more);
        }
    }
}

/// What an address is, for each kind.
fn address_schemas() -> Vec<(&'static str, Vec<Value>)> {
    let text = |pattern: String| json!({"type": "string", "pattern": pattern});
    vec![
        ("cidr", vec![text(patterns::resource_network_v4()), text(patterns::resource_network_v6())]),
        (
            "ip",
            vec![
                text(patterns::resource_v4()),
                json!({"type": "string", "format": "ipv6", "pattern": patterns::resource_v6()}),
            ],
        ),
        ("dns", vec![json!({"type": "string", "pattern": patterns::dns(), "maxLength": 253})]),
    ]
}

fn resource_variants() -> Value {
    let variant = |(kind, addresses): (&str, Vec<Value>)| json!({"properties": {"kind": {"const": kind}, "address": {"anyOf": addresses}}});
    address_schemas().into_iter().map(variant).collect()
}

/// The conditions of a policy.
pub fn add_conditions(schemas: &mut Map<String, Value>) {
    let zones: Vec<String> = jiff::tz::db().available().map(|zone| zone.to_string()).collect();
    let line = json!({"type": "string", "pattern": patterns::LINE, "minLength": 1, "maxLength": 256});
    let clock = json!({"type": "string", "pattern": patterns::CLOCK});
    schemas.insert(
        "Conditions".into(),
        json!({
            "type": "object",
            "description": "What is left out is not asked; lists inside one condition are alternatives, conditions are ANDed",
            "additionalProperties": false,
            "properties": {
                "time_windows": {"type": "array", "maxItems": 64, "items": {"$ref": "#/components/schemas/TimeWindow"}},
                "source_cidrs": {"type": "array", "maxItems": 64, "items": {"anyOf": [
                    {"type": "string", "pattern": patterns::network_v4()},
                    {"type": "string", "pattern": patterns::network_v6()},
                ]}},
                "device_verified": {"type": ["boolean", "null"]},
                "posture": {"type": "array", "maxItems": 64, "items": {"$ref": "#/components/schemas/Posture"}},
                "session_age_seconds": {"type": ["integer", "null"], "minimum": 0, "maximum": LONGEST},
                "countries": {"type": "array", "maxItems": 64,
                    "items": {"type": "string", "pattern": patterns::COUNTRY}},
                "providers": {"type": "array", "maxItems": 64, "items": line},
            },
        }),
    );
    schemas.insert(
        "TimeWindow".into(),
        json!({
            "type": "object",
            "description": "A time of the week; from 22:00 to 06:00 crosses midnight, and equal times are the whole day",
            "additionalProperties": false,
            "required": ["days", "from", "to", "zone"],
            "properties": {
                "days": {"type": "array", "minItems": 1, "items":
                    {"type": "string", "enum": ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]}},
                "from": clock, "to": clock,
                "zone": {"type": "string", "enum": zones, "description": "An IANA time zone"},
            },
        }),
    );
    schemas.insert(
        "Posture".into(),
        json!({
            "type": "object",
            "description": "A demand on what the device reports",
            "additionalProperties": false,
            "required": ["attribute"],
            "properties": {
                "attribute": {"type": "string", "pattern": patterns::LINE, "minLength": 1, "maxLength": 64},
                "is": {"type": "array", "items": line},
                "at_least": {"type": ["string", "null"], "pattern": patterns::VERSION},
                "below": {"type": ["string", "null"], "pattern": patterns::VERSION},
            },
        }),
    );
}

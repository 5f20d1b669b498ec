//! Answers: tables for people, one JSON object for programs.

use comfy_table::{ContentArrangement, Table, TableStyle};
use serde_json::{Value, json};

use super::duration;
use super::kinds::Kind;

/// The version of every JSON answer.
pub const SCHEMA: u32 = 1;

/// A table without lines: a heading and aligned columns.
pub fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(TableStyle::default());
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !head.is_empty() {
        table.set_header(head.to_vec());
    }
    table
}

/// A value in one cell: references by their names, nothing as `-`.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(true)) => "yes".into(),
        Some(Value::Bool(false)) => "no".into(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(", "),
        Some(Value::Object(members)) => match members.get("name") {
            Some(name) => cell(Some(name)),
            None if members.is_empty() => "-".into(),
            None => members
                .iter()
                .map(|(name, value)| {
                    let (name, shown) = member(name, value);
                    format!("{name}: {shown}")
                })
                .collect::<Vec<_>>()
                .join("; "),
        },
    }
}

/// A member's name and value for people; seconds become a duration.
fn member(name: &str, value: &Value) -> (String, String) {
    match (name.strip_suffix("_seconds"), value.as_u64()) {
        (Some(name), Some(seconds)) => (name.replace('_', " "), duration::show(seconds)),
        (_, _) => (name.replace('_', " "), cell(Some(value))),
    }
}

/// Prints a list.
pub fn list(kind: Kind, items: &[Value], as_json: bool) {
    if as_json {
        return println!("{}", json!({"schema": SCHEMA, "items": items}));
    }
    if items.is_empty() {
        return println!("There is no {} yet.", kind.noun);
    }
    let heads = kind.columns.iter().map(|(head, _)| *head).collect::<Vec<_>>();
    let mut table = table(&heads);
    for item in items {
        table.add_row(kind.columns.iter().map(|(_, member)| cell(item.pointer(member))));
    }
    println!("{}", table.trim_fmt());
}

/// Prints one thing, a line for each of its members.
pub fn item(item: &Value, as_json: bool) {
    if as_json {
        return println!("{}", json!({"schema": SCHEMA, "item": item}));
    }
    let mut table = table(&[]);
    for (name, value) in item.as_object().into_iter().flatten() {
        let (name, shown) = member(name, value);
        table.add_row([name, shown]);
    }
    println!("{}", table.trim_fmt());
}

/// Says that something was made or changed: one line for people, the object for programs.
pub fn done(verb: &str, kind: Kind, item: &Value, as_json: bool) {
    if as_json {
        return println!("{}", json!({"schema": SCHEMA, "item": item}));
    }
    println!("{verb} {} {}", kind.noun, cell(item.get("name")));
}

/// Says that something is gone.
pub fn deleted(kind: Kind, which: &str, id: &Value, as_json: bool) {
    if as_json {
        return println!("{}", json!({"schema": SCHEMA, "deleted": id}));
    }
    println!("deleted {} {which}", kind.noun);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_show_by_name_and_nothing_shows_as_a_dash() {
        let item = json!({"site": {"id": "1", "name": "office"}, "groups": [{"id": "2", "name": "a"}, {"id": "3", "name": "b"}]});

        assert_eq!(cell(item.pointer("/site")), "office");
        assert_eq!(cell(item.pointer("/groups")), "a, b");
        assert_eq!(cell(item.pointer("/none")), "-");
        assert_eq!(cell(Some(&json!({}))), "-");
    }

    #[test]
    fn counts_show_with_their_names() {
        assert_eq!(cell(Some(&json!({"known": 2, "online": 1}))), "known: 2; online: 1");
        assert_eq!(cell(Some(&json!({"session_age_seconds": 43200}))), "session age: 12h");
    }
}

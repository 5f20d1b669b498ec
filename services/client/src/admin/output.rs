//! Answers: tables for people, one JSON object for programs.

use comfy_table::{ContentArrangement, Table, TableStyle};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::kinds::Kind;
use super::{conditions, duration};

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

/// The table as text, flush left.
pub fn draw(table: &Table) -> String {
    let lines = table.lines().map(|line| line.trim_end().strip_prefix(' ').unwrap_or_default().to_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// A value in one cell: references by their names, nothing as `-`.
pub fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => "-".into(),
        Some(Value::String(text)) if text.is_empty() => "-".into(),
        Some(Value::String(text)) => readable(text),
        Some(Value::Bool(true)) => "yes".into(),
        Some(Value::Bool(false)) => "no".into(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Array(items)) if items.is_empty() => "-".into(),
        Some(Value::Array(items)) => items.iter().map(|item| cell(Some(item))).collect::<Vec<_>>().join(", "),
        Some(Value::Object(members)) => {
            match (members.get("name"), members.get("online"), members.get("known")) {
                (Some(name), _, _) => cell(Some(name)),
                (None, Some(online), Some(known)) => format!("{online} of {known} online"),
                (None, _, _) if members.is_empty() => "-".into(),
                (None, _, _) if conditions::are(members) => conditions::describe(members),
                (None, _, _) => members
                    .iter()
                    .map(|(name, value)| {
                        let (name, shown) = member(name, value);
                        format!("{name}: {shown}")
                    })
                    .collect::<Vec<_>>()
                    .join("; "),
            }
        }
    }
}

/// A time without what nobody reads; anything else as it is, without control characters.
fn readable(text: &str) -> String {
    match text.parse::<Timestamp>() {
        Ok(time) if text.ends_with('Z') => time.strftime("%Y-%m-%d %H:%M:%SZ").to_string(),
        Ok(_) | Err(_) => text.chars().filter(|c| !c.is_control()).collect(),
    }
}

/// A member's name and value for people; seconds become a duration.
fn member(name: &str, value: &Value) -> (String, String) {
    let shown = match (name.strip_suffix("_seconds"), value.as_u64()) {
        (Some(_), Some(seconds)) => duration::show(seconds),
        (_, _) => cell(Some(value)),
    };
    (name.strip_suffix("_seconds").unwrap_or(name).replace('_', " "), shown)
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
    println!("{}", draw(&table));
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
    println!("{}", draw(&table));
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
    fn counts_times_and_durations_are_readable() {
        assert_eq!(cell(Some(&json!({"known": 2, "online": 1}))), "1 of 2 online");
        assert_eq!(cell(Some(&json!("2026-11-24T07:12:52.84Z"))), "2026-11-24 07:12:52Z");
        assert_eq!(member("max_session_seconds", &json!(43200)), ("max session".into(), "12h".into()));
    }

    #[test]
    fn a_table_is_flush_left() {
        let mut table = table(&["NAME", "KIND"]);
        table.add_row(["wiki", "dns"]);

        assert_eq!(draw(&table), "NAME  KIND\nwiki  dns");
    }
}

//! A decision in words.

use serde_json::Value;

use super::output::cell;

fn rule(rule: &Value) -> String {
    format!("{} {} ({})", cell(rule.get("effect")), cell(rule.get("name")), cell(rule.get("place")))
}

/// What was decided, by which rule; after a denial, the rules that came closest and what each lacked.
pub fn text(to: &str, answer: &Value) -> String {
    let of = |name: &str| cell(answer.get(name));
    let mut lines = Vec::new();
    let allowed = of("decision") == "allowed";
    let word = if allowed { "may reach" } else { "may not reach" };
    let resource = match answer.get("resource") {
        None | Some(Value::Null) => String::new(),
        Some(resource) => format!(" (resource {})", cell(Some(resource))),
    };
    lines.push(format!("{} {word} {to}{resource} at {}", of("principal"), of("at")));
    if let Some(policy) = answer.get("policy").filter(|policy| !policy.is_null()) {
        lines.push(format!("  decided by   {}", rule(policy)));
    }
    if allowed {
        let ends = of("ends_at");
        lines.push(format!("  ends         {}", if ends == "-" { "not by time".into() } else { ends }));
    } else {
        lines.push(format!("  because      {}", of("reason")));
    }
    for close in answer.get("close").and_then(Value::as_array).into_iter().flatten() {
        let further = match close.get("further").and_then(Value::as_u64) {
            None | Some(0) => String::new(),
            Some(further) => format!("; fails {further} more"),
        };
        let policy = close.get("policy").map(rule).unwrap_or_default();
        lines.push(format!("  came close   {policy}: {}{further}", cell(close.get("detail"))));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_access_names_its_rule_its_place_and_its_end() {
        let answer = json!({"decision": "allowed", "principal": {"id": "1", "name": "ci"},
            "resource": {"id": "2", "name": "wiki"}, "at": "2026-11-23T09:00:00Z", "ends_at": "2026-11-23T17:00:00Z",
            "policy": {"id": "3", "name": "engineers", "effect": "allow", "place": "access.toml:12"}, "reason": "", "close": []});

        assert_eq!(
            text("wiki:443", &answer),
            "ci may reach wiki:443 (resource wiki) at 2026-11-23 09:00:00Z\n  decided by   allow engineers (access.toml:12)\n  ends         2026-11-23 17:00:00Z"
        );
    }

    #[test]
    fn a_denial_names_what_came_close_and_the_one_condition_that_failed() {
        let answer = json!({"decision": "denied", "principal": {"id": "1", "name": "ci"}, "resource": null,
            "at": "2026-11-23T09:00:00Z", "ends_at": null, "policy": null, "reason": "no policy allows it to you now",
            "close": [{"policy": {"name": "engineers", "effect": "allow", "place": "access.toml:12"},
                "detail": "it asks for a verified device", "further": 1}]});

        assert_eq!(
            text("wiki", &answer),
            "ci may not reach wiki at 2026-11-23 09:00:00Z\n  because      no policy allows it to you now\n  came close   allow engineers (access.toml:12): it asks for a verified device; fails 1 more"
        );
    }
}

//! Policy files are read and written, and what is wrong in them is named with its line.

use super::*;

const FILE: &str = r#"# Who reaches what.
version = "1f"

[[policy]]
name = "engineers"
groups = ["engineering"]
principal_labels = ["team=infra"]
resources = ["wiki"]
max_session_seconds = 3600

[policy.conditions]
device_verified = true
time_windows = [{ days = ["mon", "fri"], from = "08:00", to = "18:00", zone = "Europe/Berlin" }]
posture = [{ attribute = "client_version", at_least = "1.10" }]

[[policy]]
name = "no-sales"
effect = "deny"
enabled = false
groups = ["sales"]
resource_labels = ["env=production"]

[[test]]
name = "an engineer reaches the wiki"
member_of = ["engineering"]
to = "wiki:443"
at = "monday 10:00 Europe/Berlin"
country = "DE"
device_verified = true
posture = { client_version = "1.10" }
expect = "allowed"
by = "engineers"
"#;

fn error(from: &str, to: &str) -> String {
    PolicyFile::parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string()
}

#[test]
fn a_file_has_rules_and_tests_with_their_lines() {
    let file = PolicyFile::parse(FILE).unwrap();

    assert_eq!(file.version.as_deref(), Some("1f"));
    let rules: Vec<_> = file.policies.iter().map(|policy| (policy.name.as_str(), policy.line)).collect();
    assert_eq!(rules, [("engineers", 5), ("no-sales", 17)]);
    let engineers = &file.policies[0].rule;
    assert_eq!((engineers.effect, engineers.enabled), (Effect::Allow, true));
    assert_eq!(engineers.conditions.device_verified, Some(true));
    assert_eq!(engineers.max_session_seconds, Some(3600));
    let sales = &file.policies[1].rule;
    assert_eq!((sales.effect, sales.enabled), (Effect::Deny, false));
    assert_eq!(sales.conditions, Conditions::default());
    let test = &file.tests[0];
    assert_eq!((test.line, test.expect, test.by.as_deref()), (24, Expected::Allowed, Some("engineers")));
    assert_eq!(test.at.to_string(), "2026-01-05T09:00:00Z");
}

#[test]
fn what_is_written_reads_back_the_same() {
    let file = PolicyFile::parse(FILE).unwrap();

    let text =
        PolicyFile::write("2a", file.policies.iter().map(|policy| (policy.name.as_str(), &policy.rule)));
    let again = PolicyFile::parse(&text).unwrap();

    assert_eq!(again.version.as_deref(), Some("2a"));
    let rules = |file: &PolicyFile| {
        file.policies.iter().map(|policy| (policy.name.clone(), policy.rule.clone())).collect::<Vec<_>>()
    };
    assert_eq!(rules(&again), rules(&file));
}

#[test]
fn an_error_names_its_line_and_what_to_write() {
    assert!(
        error("groups = [\"engineering\"]", "group = [\"engineering\"]").starts_with("line 6: unknown field")
    );
    assert!(error("08:00", "8:00").contains("write hours and minutes such as 08:30"));
    assert!(
        error("name = \"no-sales\"", "name = \"engineers\"")
            .starts_with("line 17: there is a policy engineers")
    );
    assert!(error("monday 10:00", "someday 10:00").starts_with("line 27: `someday 10:00"));
    assert!(
        error("member_of", "principal = \"ci\"\nmember_of").starts_with("line 24: name either a principal")
    );
    assert!(error("team=infra", "team").contains("not a label"));
}

#[test]
fn what_is_as_it_is_by_default_is_not_written() {
    let (short, off) =
        ("[[policy]]\nname = \"a\"\n", "[[policy]]\nname = \"a\"\neffect = \"deny\"\nenabled = false\n");
    for text in [short, off] {
        let file = PolicyFile::parse(text).unwrap();

        let written = PolicyFile::write("1", [("a", &file.policies[0].rule)]);

        assert_eq!(written, format!("version = \"1\"\n\n{text}"));
    }
}

#[test]
fn a_test_asks_for_a_principal_or_for_an_imagined_one() {
    let asks = |who: &str| {
        let text = format!(
            "[[test]]\nname = \"t\"\n{who}\nto = \"wiki\"\nat = \"mon 10:00 UTC\"\nexpect = \"denied\"\n"
        );
        PolicyFile::parse(&text).map(|file| file.tests[0].clone()).map_err(|error| error.to_string())
    };

    assert_eq!(asks("principal = \"ci\"").unwrap().principal.as_deref(), Some("ci"));
    assert_eq!(asks("labels = { team = \"infra\" }").unwrap().labels["team"], "infra");
    assert_eq!(asks("").unwrap().expect, Expected::Denied);
    assert!(
        asks("principal = \"ci\"\nlabels = { team = \"a\" }").unwrap_err().starts_with("line 2: name either")
    );
    assert!(asks("labels = { team = \"in fra\" }").unwrap_err().starts_with("line 2: not a label"));
}

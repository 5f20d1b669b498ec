//! Plans out of policy files: what changes, who gains and loses, and which test fails where.

use super::*;
use crate::testing::{group, noon, policy, principal, resource, site};

/// An account with an engineer and somebody of sales, a wiki, and one rule.
fn records() -> Records {
    let office = site("office");
    let (ci, sam) = (principal("ci"), principal("sam"));
    let (engineering, sales) = (group("engineering", &[&ci]), group("sales", &[&sam]));
    let wiki = resource("wiki", &office, "wiki.corp.example");
    let engineers = policy("engineers", &[&engineering], &[&wiki]);
    Records {
        principals: [ci, sam].into_iter().map(|it| (it.id, it)).collect(),
        groups: [engineering, sales].into_iter().map(|it| (it.id, it)).collect(),
        resources: [(wiki.id, wiki)].into(),
        policies: [(engineers.id, engineers)].into(),
    }
}

fn plan(records: &Records, text: &str) -> Result<Plan, FileError> {
    Plan::make(records, "access.toml", text, |_| Ok(()), &Countries::default(), noon())
}

const BOTH: &str = r#"
[[policy]]
name = "engineers"
groups = ["engineering"]
resources = ["wiki"]

[[policy]]
name = "sales-by-day"
groups = ["sales"]
resources = ["wiki"]
conditions = { countries = ["DE"] }

[[test]]
name = "an engineer reaches the wiki"
member_of = ["engineering"]
to = "wiki.corp.example:80"
at = "monday 10:00 Europe/Berlin"
expect = "allowed"
by = "engineers"

[[test]]
name = "sam does not from France"
principal = "sam"
to = "wiki"
at = "monday 10:00 Europe/Berlin"
country = "FR"
expect = "denied"
"#;

#[test]
fn what_is_exported_changes_nothing() {
    let records = records();

    let plan = plan(&records, &export(&records)).unwrap();

    assert!(!plan.is_change());
    assert!(plan.access.is_empty());
    assert_eq!(plan.written_for.as_ref(), Some(&plan.version));
}

#[test]
fn a_plan_names_rules_people_and_conditions() {
    let plan = plan(&records(), BOTH).unwrap();

    assert_eq!(plan.rules, [(Verb::Creates, "sales-by-day".to_owned())]);
    let moved = Moved {
        principal: "sam".into(),
        resource: "wiki".into(),
        gains: true,
        condition: "in DE".into(),
        rule: "sales-by-day".into(),
    };
    assert_eq!((plan.access.as_slice(), plan.moved), ([moved].as_slice(), 1));
    assert_eq!(plan.failed(), None);
    assert_eq!(
        plan.puts.iter().filter_map(|it| it.place.clone()).collect::<Vec<_>>(),
        ["access.toml:3", "access.toml:8"]
    );
}

#[test]
fn a_rule_that_is_not_in_the_file_goes_with_its_access() {
    let records = records();

    let plan = plan(&records, "").unwrap();

    assert_eq!(plan.rules, [(Verb::Deletes, "engineers".to_owned())]);
    assert!(!plan.access[0].gains);
    assert_eq!(plan.access[0].principal, "ci");
    assert_eq!(plan.next_version(&records), version([]));
}

#[test]
fn a_test_that_ends_otherwise_is_named_with_its_line_and_the_reason() {
    let wrong = BOTH.replacen("country = \"FR\"", "country = \"DE\"", 1);

    let plan = plan(&records(), &wrong).unwrap();

    let failed = plan.failed().unwrap();
    assert_eq!((failed.line, failed.name.as_str()), (22, "sam does not from France"));
    assert_eq!(failed.detail, "allowed by sales-by-day");
}

#[test]
fn a_test_fails_when_another_rule_decides_or_its_words_mean_nothing() {
    let detail = |from: &str, to: &str| {
        let plan = plan(&records(), &BOTH.replacen(from, to, 1)).unwrap();
        plan.failed().map(|failed| failed.detail.clone()).unwrap_or_default()
    };

    assert_eq!(detail("by = \"engineers\"", "by = \"others\""), "allowed by engineers");
    assert_eq!(
        detail("wiki.corp.example:80", "wiki:443"),
        "denied: the filters of wiki do not let it through"
    );
    assert_eq!(detail("wiki.corp.example:80", "nowhere"), "no resource is at nowhere");
    assert_eq!(
        detail("member_of = [\"engineering\"]", "member_of = [\"others\"]"),
        "there is no group others"
    );
    assert_eq!(detail("principal = \"sam\"", "principal = \"zoe\""), "there is no principal zoe");
}

#[test]
fn a_name_that_is_not_there_is_an_error_with_its_line() {
    let error = plan(&records(), &BOTH.replacen("[\"sales\"]", "[\"sale\"]", 1)).unwrap_err();

    assert_eq!(error.line, 8);
    assert!(error.what.starts_with("there is no group sale;"));
}

#[test]
fn the_version_is_that_of_the_rules_and_not_of_where_they_stand() {
    let mut records = records();
    let before = version(records.policies.values());

    let rule = records.policies.values_mut().next().unwrap();
    rule.place = Some("access.toml:7".into());
    let moved = version(records.policies.values());
    records.policies.values_mut().next().unwrap().enabled = false;

    assert_eq!(before, moved);
    assert_ne!(before, version(records.policies.values()));
}

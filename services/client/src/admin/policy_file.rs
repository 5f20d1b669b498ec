//! `postern admin policy plan|apply|test|export`: policy as a file.

use std::path::{Path, PathBuf};

use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use super::api::{Api, object};
use super::output::{self, SCHEMA, cell};
use services_chassis::{Exit, Failure};

/// The schema of the file, for editors.
const FILE_SCHEMA: &str = include_str!("../../../../docs/policy.schema.json");

/// A policy file.
#[derive(Debug, Args)]
pub struct Given {
    /// The file (TOML); - reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// A policy file to write.
#[derive(Debug, Args)]
pub struct Apply {
    /// What is written.
    #[command(flatten)]
    pub given: Given,
    /// Refuse unless this version is stored: what `plan` said. Without it, the version that the file names, if any
    #[arg(long, value_name = "VERSION")]
    pub version: Option<String>,
}

/// Where the policies are written to.
#[derive(Debug, Args)]
pub struct Export {
    /// The file; without it, standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

fn read(file: &Path) -> Result<(String, String), Failure> {
    let wrong = |error: std::io::Error| Failure::failed(format!("{}: {error}", file.display()));
    if file == Path::new("-") {
        return Ok(("-".into(), std::io::read_to_string(std::io::stdin()).map_err(wrong)?));
    }
    let name =
        file.file_name().map_or_else(|| file.display().to_string(), |name| name.to_string_lossy().into());
    Ok((name, std::fs::read_to_string(file).map_err(wrong)?))
}

async fn send(
    api: &Api,
    verb: &str,
    given: &Given,
    version: Option<String>,
) -> Result<(Value, String), Failure> {
    let (file, text) = read(&given.file)?;
    let body = object([
        ("file", Some(json!(file))),
        ("text", Some(json!(text))),
        ("version", version.map(Value::from)),
    ]);
    let answer = api.call(Method::POST, &["policy-file", verb], &[], Some(&body.into())).await?;
    Ok((answer, text))
}

fn list<'a>(answer: &'a Value, name: &str) -> &'a [Value] {
    answer.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn table(items: &[Value], columns: &[(&str, &str)]) -> String {
    let mut table = output::table(&columns.iter().map(|(head, _)| *head).collect::<Vec<_>>());
    for item in items {
        table.add_row(columns.iter().map(|(_, member)| cell(item.get(*member))));
    }
    output::draw(&table)
}

/// What a plan says, for a person.
fn told(answer: &Value) -> String {
    let mut parts = Vec::new();
    let policies = list(answer, "policies");
    if policies.is_empty() {
        return "No policy changes.".into();
    }
    parts.push(table(policies, &[("CHANGE", "change"), ("POLICY", "policy")]));
    let access = list(answer, "access");
    if access.is_empty() {
        parts.push("Nobody gains or loses access.".into());
    } else {
        parts.push(table(
            access,
            &[
                ("CHANGE", "change"),
                ("PRINCIPAL", "principal"),
                ("RESOURCE", "resource"),
                ("CONDITION", "condition"),
                ("BY POLICY", "policy"),
            ],
        ));
    }
    let all = answer.get("access_changes").and_then(Value::as_u64).unwrap_or(0);
    if all > access.len() as u64 {
        parts.push(format!("… and {} more changes of access.", all - access.len() as u64));
    }
    parts.join("\n\n")
}

fn tests_told(answer: &Value) -> (String, usize) {
    let tests = list(answer, "tests");
    let failed = tests.iter().filter(|test| test.get("passed") != Some(&Value::Bool(true)));
    let lines: Vec<String> = failed
        .clone()
        .map(|test| {
            format!(
                "FAILED  line {}: {}: {}",
                cell(test.get("line")),
                cell(test.get("name")),
                cell(test.get("detail"))
            )
        })
        .collect();
    let failed = lines.len();
    let mut text = lines.join("\n");
    if failed > 0 {
        text.push('\n');
    }
    text.push_str(&format!("{} of {} tests passed", tests.len() - failed, tests.len()));
    (text, failed)
}

/// Says who gains and who loses what. Exit code 2 when something changes.
pub async fn plan(api: &Api, given: &Given, as_json: bool) -> Result<(), Failure> {
    let (answer, _) = send(api, "plan", given, None).await?;
    if as_json {
        output::item(&answer, true);
    } else {
        println!("{}", told(&answer));
        if !list(&answer, "tests").is_empty() {
            println!("\n{}", tests_told(&answer).0);
        }
        println!("\nversion {}", cell(answer.get("version")));
    }
    match answer.get("changes").and_then(Value::as_bool) {
        Some(false) => Ok(()),
        Some(true) | None => Err(Failure::new(Exit::Denied, "the file changes something")
            .fix("`postern admin policy apply` writes it")),
    }
}

/// Runs the file's tests.
pub async fn test(api: &Api, given: &Given, as_json: bool) -> Result<(), Failure> {
    let (answer, _) = send(api, "plan", given, None).await?;
    let (text, failed) = tests_told(&answer);
    if as_json {
        println!("{}", json!({"schema": SCHEMA, "tests": answer.get("tests")}));
    } else {
        println!("{text}");
    }
    if failed == 0 { Ok(()) } else { Err(Failure::failed(format!("{failed} tests failed"))) }
}

/// Writes the file's policies, and the new version into the file when it names one.
pub async fn apply(api: &Api, apply: Apply, as_json: bool) -> Result<(), Failure> {
    let (answer, text) = send(api, "apply", &apply.given, apply.version).await?;
    let version = cell(answer.get("version"));
    if let Some(new) = with_version(&text, &version)
        && apply.given.file != Path::new("-")
    {
        let file = &apply.given.file;
        std::fs::write(file, new).map_err(|error| {
            Failure::failed(format!("applied, but {} keeps its old version: {error}", file.display()))
        })?;
    }
    if as_json {
        output::item(&answer, true);
    } else {
        println!("{}\n\napplied; version {version}", told(&answer));
    }
    Ok(())
}

/// The file with another version, when it names one that differs. Nothing else in it changes.
fn with_version(text: &str, version: &str) -> Option<String> {
    let at = text
        .lines()
        .position(|line| line.split_once('=').is_some_and(|(name, _)| name.trim() == "version"))?;
    // A table ends what stands at the top.
    if text.lines().take(at).any(|line| line.trim_start().starts_with('[')) {
        return None;
    }
    let new = text.split_inclusive('\n').enumerate().map(|(n, line)| match n == at {
        true => format!("version = \"{version}\"{}", if line.ends_with('\n') { "\n" } else { "" }),
        false => line.to_owned(),
    });
    Some(new.collect::<String>()).filter(|new| new != text)
}

/// Writes the stored policies as a file.
pub async fn export(api: &Api, export: &Export, as_json: bool) -> Result<(), Failure> {
    let answer = api.get(&["policy-file"]).await?;
    let text = answer.get("text").and_then(Value::as_str).unwrap_or_default();
    match &export.file {
        Some(file) => {
            std::fs::write(file, text)
                .map_err(|error| Failure::failed(format!("{}: {error}", file.display())))?;
            if as_json {
                println!("{}", json!({"schema": SCHEMA, "file": file, "version": answer.get("version")}));
            } else {
                println!("written: {}", file.display());
            }
        }
        None if as_json => output::item(&answer, true),
        None => print!("{text}"),
    }
    Ok(())
}

/// Prints the JSON schema of policy files, for editors.
pub fn schema() {
    print!("{FILE_SCHEMA}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_tables() {
        let answer = json!({"policies": [{"change": "created", "policy": "sales"}],
            "access": [{"change": "gains", "principal": "sam", "resource": "wiki", "condition": "in DE", "policy": "sales"}],
            "access_changes": 3});

        let text = told(&answer);

        assert_eq!(
            text,
            "CHANGE   POLICY\ncreated  sales\n\nCHANGE  PRINCIPAL  RESOURCE  CONDITION  BY POLICY\ngains   sam        wiki      in DE      sales\n\n… and 2 more changes of access."
        );
        assert_eq!(told(&json!({"policies": []})), "No policy changes.");
    }

    #[test]
    fn a_failed_test_is_told_with_its_line() {
        let answer = json!({"tests": [{"name": "a", "line": 3, "passed": true, "detail": ""},
            {"name": "b", "line": 9, "passed": false, "detail": "allowed by x"}]});

        assert_eq!(tests_told(&answer), ("FAILED  line 9: b: allowed by x\n1 of 2 tests passed".into(), 1));
    }

    #[test]
    fn only_the_version_at_the_top_of_a_file_changes() {
        let text = "# ours\nversion = \"1\"\n\n[[policy]]\nname = \"a\"\n";

        assert_eq!(
            with_version(text, "2").as_deref(),
            Some("# ours\nversion = \"2\"\n\n[[policy]]\nname = \"a\"\n")
        );
        assert_eq!(with_version(text, "1"), None);
        assert_eq!(with_version("[[policy]]\nversion = \"1\"\n", "2"), None);
        assert_eq!(with_version("[[policy]]\n", "2"), None);
    }

    #[test]
    fn the_schema_is_json() {
        let schema: Value = serde_json::from_str(FILE_SCHEMA).unwrap();

        assert!(schema.pointer("/properties/policy/items/properties/conditions").is_some());
    }
}

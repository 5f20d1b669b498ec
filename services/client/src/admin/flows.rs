//! `postern admin flows list|export`: what passed between devices and resources.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use reqwest::Method;
use serde_json::{Value, json};

use super::api::Api;
use super::output::SCHEMA;
use super::{duration, kinds, output};
use services_chassis::Failure;

/// Which flows.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Only of this principal (name or id)
    #[arg(long, value_name = "PRINCIPAL")]
    pub principal: Option<String>,
    /// Only of this device (name or id)
    #[arg(long, value_name = "DEVICE")]
    pub device: Option<String>,
    /// Only to this resource (name or id)
    #[arg(long, value_name = "RESOURCE")]
    pub resource: Option<String>,
    /// Only through this gateway (name or id)
    #[arg(long, value_name = "GATEWAY")]
    pub gateway: Option<String>,
    /// Only what had not ended by then: a time such as 2026-11-24T10:00:00Z, or how long ago, such as 2h
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// Only what had begun by then, likewise
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
}

/// What is shown.
#[derive(Debug, Args)]
pub struct List {
    /// Which flows
    #[command(flatten)]
    pub which: Which,
    /// Only what control heard of after this flow
    #[arg(long, value_name = "ID")]
    pub after: Option<String>,
    /// At most this many
    #[arg(long, default_value_t = 200)]
    pub limit: u16,
}

/// Where flows are written to.
#[derive(Debug, Args)]
pub struct Export {
    /// The file; without it, standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Which flows
    #[command(flatten)]
    pub which: Which,
}

/// Flows a request.
const PART: &str = "1000";

/// Reads a moment, or how long ago it was.
fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let wrong =
        || format!("`{text}` is no time: write 2026-11-24T10:00:00Z, or 30m, 2h or 7d for so long ago");
    let ago = duration::parse(text).map_err(|_| wrong())?;
    let ago = SignedDuration::try_from(ago).map_err(|_| wrong())?;
    Timestamp::now().checked_sub(ago).map_err(|_| wrong())
}

/// The query that chooses flows.
fn query(which: &Which) -> Vec<(&'static str, String)> {
    let Which { principal, device, resource, gateway, since, until } = which.clone();
    let chosen = [("principal", principal), ("device", device), ("resource", resource), ("gateway", gateway)];
    let times = [("since", since), ("until", until)].map(|(name, at)| (name, at.map(|at| at.to_string())));
    chosen.into_iter().chain(times).filter_map(|(name, value)| Some((name, value?))).collect()
}

/// One part, and where the next begins.
async fn part(
    api: &Api,
    chosen: &[(&'static str, String)],
    limit: &str,
    after: Option<&str>,
) -> Result<(Vec<Value>, Option<String>), Failure> {
    let mut query: Vec<(&str, &str)> = chosen.iter().map(|(name, value)| (*name, value.as_str())).collect();
    query.push(("limit", limit));
    query.extend(after.map(|after| ("after", after)));
    let mut page = api.call(Method::GET, &["flows"], &query, None).await?;
    let next = page.get("next").and_then(Value::as_str).map(str::to_owned);
    let items = match page.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        Some(_) | None => Vec::new(),
    };
    Ok((items, next))
}

/// Shows flows.
pub async fn list(api: &Api, list: &List, as_json: bool) -> Result<(), Failure> {
    let limit = list.limit.to_string();
    let (items, next) = part(api, &query(&list.which), &limit, list.after.as_deref()).await?;
    output::list(kinds::FLOW, &items, as_json);
    if let Some(next) = next.filter(|_| !as_json) {
        println!("There are more: --after {next}, or `postern admin flows export`.");
    }
    Ok(())
}

/// Writes flows, one a line.
pub async fn export(api: &Api, export: &Export, as_json: bool) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::failed(format!("the flows could not be written: {error}"));
    let mut out: Box<dyn Write> = match &export.file {
        Some(file) => Box::new(std::io::BufWriter::new(std::fs::File::create(file).map_err(wrong)?)),
        None => Box::new(std::io::stdout().lock()),
    };
    let (chosen, mut after, mut count) = (query(&export.which), None, 0usize);
    loop {
        let (items, next) = part(api, &chosen, PART, after.as_deref()).await?;
        count += items.len();
        for item in items {
            writeln!(out, "{item}").map_err(wrong)?;
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    out.flush().map_err(wrong)?;
    match &export.file {
        Some(file) if as_json => println!("{}", json!({"schema": SCHEMA, "file": file, "flows": count})),
        Some(file) => println!("{count} flows written to {}", file.display()),
        None => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago_it_was() {
        let given = moment("2026-11-24T10:00:00Z").unwrap();
        let ago = moment("2h").unwrap();

        assert_eq!(given.to_string(), "2026-11-24T10:00:00Z");
        let passed = Timestamp::now().duration_since(ago).as_secs();
        assert!((7200..7260).contains(&passed), "{passed}");
        for text in ["", "yesterday", "-2h", "99999999999999d"] {
            assert!(moment(text).unwrap_err().contains("2026-11-24T10:00:00Z"), "{text}");
        }
    }

    #[test]
    fn only_what_was_chosen_is_asked_for() {
        let which = Which {
            principal: Some("laptop".into()),
            device: None,
            resource: Some("wiki".into()),
            gateway: None,
            since: Some("2026-11-24T10:00:00Z".parse().unwrap()),
            until: None,
        };

        assert_eq!(
            query(&which),
            [
                ("principal", "laptop".to_owned()),
                ("resource", "wiki".to_owned()),
                ("since", "2026-11-24T10:00:00Z".to_owned())
            ]
        );
    }
}

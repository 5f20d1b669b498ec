//! `postern admin audit export|verify`: the audit log as JSON lines, and its chain of hashes.

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;

use clap::Args;
use protocol_audit::{Held, Record, Verifier};
use reqwest::Method;
use serde_json::{Value, json};

use super::api::Api;
use super::output::SCHEMA;
use services_chassis::Failure;

/// Where records are written to.
#[derive(Debug, Args)]
pub struct Export {
    /// The file; without it, standard output
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Only what came after this sequence number
    #[arg(long, value_name = "SEQUENCE")]
    pub after: Option<u64>,
}

/// What is checked.
#[derive(Debug, Args)]
pub struct Verify {
    /// A file that `export` wrote; without it, what control has
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// A hash that an earlier check printed: it must still be there
    #[arg(long, value_name = "HASH")]
    pub head: Option<String>,
}

/// Records a request.
const PART: u64 = 1000;

/// Hands every record to `each`, oldest first.
async fn all(
    api: &Api,
    after: Option<u64>,
    mut each: impl FnMut(&Value) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut after = after.unwrap_or(0);
    loop {
        let (limit, from) = (PART.to_string(), after.to_string());
        let page = api.call(Method::GET, &["audit"], &[("limit", &limit), ("after", &from)], None).await?;
        let items = page.get("items").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for item in items {
            each(item)?;
        }
        let last = items.last().and_then(|item| item.get("sequence")).and_then(Value::as_u64);
        match last.filter(|last| *last > after && page.get("next").is_some_and(|next| !next.is_null())) {
            Some(last) => after = last,
            None => return Ok(()),
        }
    }
}

fn record(value: &Value) -> Result<Record, Failure> {
    serde_json::from_value(value.clone())
        .map_err(|error| Failure::failed(format!("this is no audit record: {error}")))
}

/// Writes the records, one a line.
pub async fn export(api: &Api, export: &Export, as_json: bool) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::failed(format!("the records could not be written: {error}"));
    let mut out: Box<dyn Write> = match &export.file {
        Some(file) => Box::new(std::io::BufWriter::new(std::fs::File::create(file).map_err(wrong)?)),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut count = 0u64;
    all(api, export.after, |item| {
        count += 1;
        writeln!(out, "{item}").map_err(wrong)
    })
    .await?;
    out.flush().map_err(wrong)?;
    match &export.file {
        Some(file) if as_json => println!("{}", json!({"schema": SCHEMA, "file": file, "records": count})),
        Some(file) => println!("{count} records written to {}", file.display()),
        None => {}
    }
    Ok(())
}

fn broken(error: &protocol_audit::Broken) -> Failure {
    Failure::failed(format!("the audit log is not whole: {error}"))
        .fix("compare with an earlier export: what differs was changed outside of control")
}

fn from_file(verifier: &mut Verifier, file: &PathBuf) -> Result<(), Failure> {
    let wrong = |what: String| Failure::failed(format!("{}: {what}", file.display()));
    let opened = std::fs::File::open(file).map_err(|error| wrong(error.to_string()))?;
    for (n, line) in BufReader::new(opened).lines().enumerate() {
        let line = line.map_err(|error| wrong(error.to_string()))?;
        let record: Record = serde_json::from_str(&line)
            .map_err(|error| wrong(format!("line {}: this is no audit record: {error}", n + 1)))?;
        verifier.take(&record).map_err(|error| broken(&error))?;
    }
    Ok(())
}

fn told(held: &Held) -> String {
    let before = match held.unchained {
        0 => String::new(),
        n => format!(" ({n} older ones are from before there were hashes)"),
    };
    match (held.first, held.last, &held.head) {
        (Some(first), Some(last), Some(head)) => format!(
            "{} records, {first} to {last}, are as they were written{before}\nhead {head}\nKeep the head elsewhere; \
             `--head` asks for it next time.",
            held.records
        ),
        _ => format!("there is no record{before}"),
    }
}

/// Checks the chain. Exit code 1 when it does not hold.
pub async fn verify(api: &Api, verify: &Verify, as_json: bool) -> Result<(), Failure> {
    let mut verifier = Verifier::with_head(verify.head.clone());
    match &verify.file {
        Some(file) => from_file(&mut verifier, file)?,
        None => {
            all(api, None, |item| verifier.take(&record(item)?).map_err(|error| broken(&error))).await?;
        }
    }
    let held = verifier.finish().map_err(|error| broken(&error))?;
    if as_json {
        let Held { records, unchained, first, last, head } = held;
        println!(
            "{}",
            json!({"schema": SCHEMA, "records": records, "unchained": unchained, "first": first, "last": last, "head": head})
        );
    } else {
        println!("{}", told(&held));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(of: &[&Record]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        for record in of {
            writeln!(file, "{}", serde_json::to_string(record).unwrap()).unwrap();
        }
        file
    }

    fn one(sequence: u64, previous: &str) -> Record {
        let mut record = Record {
            schema: 1,
            sequence,
            at: "2026-11-24T10:00:00Z".into(),
            actor: "control".into(),
            action: "started".into(),
            kind: "grant".into(),
            id: None,
            name: None,
            detail: json!({}),
            previous: previous.into(),
            hash: String::new(),
        };
        record.hash = record.expected_hash();
        record
    }

    #[test]
    fn an_exported_file_is_checked_line_by_line() {
        let first = one(1, protocol_audit::BEGINNING);
        let (second, third) = (one(2, &first.hash), one(3, "ff"));

        let mut whole = Verifier::default();
        from_file(&mut whole, &lines(&[&first, &second]).path().to_owned()).unwrap();
        let cut =
            from_file(&mut Verifier::default(), &lines(&[&first, &third]).path().to_owned()).unwrap_err();

        assert!(told(&whole.finish().unwrap()).starts_with("2 records, 1 to 2, are as they were written"));
        assert!(cut.what.contains("record 3 does not follow"), "{}", cut.what);
    }
}

//! What the demo says: a line for each step, the table, or one JSON object.

use std::{io::Write, time::Duration};

use integration_scenarios::steps::Figures;
use serde_json::{Value, json};

/// How a step came out.
pub struct StepReport {
    pub id: &'static str,
    pub took: Duration,
    pub outcome: Result<Figures, String>,
}

/// Speaks to the person: on standard output, or on standard error when standard output is for a program.
#[derive(Clone, Copy)]
pub struct Voice {
    pub json: bool,
}

impl Voice {
    /// Says a line.
    pub fn say(self, line: &str) {
        self.write(&format!("{line}\n"));
    }

    /// Says something without ending the line.
    pub fn begin(self, text: &str) {
        self.write(text);
    }

    // A reader that has gone is no reason to leave the namespaces behind.
    fn write(self, text: &str) {
        let _gone = if self.json {
            std::io::stderr().write_all(text.as_bytes()).and_then(|()| std::io::stderr().flush())
        } else {
            std::io::stdout().write_all(text.as_bytes()).and_then(|()| std::io::stdout().flush())
        };
    }
}

/// `412 ms` or `18.2 s`.
pub fn human(time: Duration) -> String {
    if time < Duration::from_secs(10) {
        format!("{} ms", time.as_millis())
    } else {
        format!("{:.1} s", time.as_secs_f64())
    }
}

/// The figures of a step on one line.
pub fn line_of(figures: &Figures) -> String {
    let pairs: Vec<_> = figures.iter().map(|(name, value)| format!("{name} {}", value_of(value))).collect();
    pairs.join(", ")
}

fn value_of(value: &Value) -> String {
    match value {
        Value::Number(number) if number.is_f64() => format!("{:.1}", number.as_f64().unwrap_or(f64::NAN)),
        Value::String(text) => format!("\"{text}\""),
        other => other.to_string(),
    }
}

/// The table at the end.
pub fn table(steps: &[StepReport], total: Duration) -> String {
    let width = steps.iter().map(|step| step.id.len()).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>6}  {:>9}  {}\n", "step", "", "time", "figures");
    for step in steps {
        let (verdict, detail) = match &step.outcome {
            Ok(figures) => ("ok", line_of(figures)),
            Err(error) => ("FAILED", error.clone()),
        };
        text.push_str(&format!("{:width$}  {verdict:>6}  {:>9}  {detail}\n", step.id, human(step.took)));
    }
    let held = steps.iter().filter(|step| step.outcome.is_ok()).count();
    text.push_str(&format!("{held} of {} steps held, {}", steps.len(), human(total)));
    text
}

/// The object that `--json` prints.
pub fn object(steps: &[StepReport], ok: bool, total: Duration) -> Value {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            let figures = match &step.outcome {
                Ok(figures) => Value::Object(figures.clone()),
                Err(error) => json!({ "error": error }),
            };
            json!({ "id": step.id, "ok": step.outcome.is_ok(), "ms": step.took.as_millis() as u64, "figures": figures })
        })
        .collect();
    json!({ "schema": 1, "ok": ok, "seconds": (total.as_secs_f64() * 10.0).round() / 10.0, "steps": steps })
}

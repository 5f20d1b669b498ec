//! Published figures: a page, the JSON and the charts of each suite in `docs/benchmarks`.

use std::{fs, path::Path};

use anyhow::{Context, Result};

use crate::{
    chart, profile, report,
    results::{Results, SuiteResults},
    suite::Suite,
};

/// Writes `<suite>.md`, `<suite>.json` and `<suite>-<chart>.svg` for every suite that ran, and the flame graphs that lie in
/// `profiles`; the rest stays as it is.
pub fn publish(
    results: &Results,
    suites: &[Box<dyn Suite>],
    profiles: Option<&Path>,
    folder: &Path,
) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (suite, measured) in suites.iter().zip(&results.suites) {
        let mut charts = Vec::new();
        for chart in suite.charts() {
            if let Some(svg) = chart::draw(&chart, measured) {
                let file = format!("{}-{}.svg", measured.suite, chart.name);
                fs::write(folder.join(&file), svg)?;
                charts.push((chart.title, file));
            }
        }
        let mut flames = Vec::new();
        for path in profiles.map_or(Ok(Vec::new()), |from| profile::found(measured.suite, from))? {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            fs::copy(&path, folder.join(&name))?;
            flames.push(name);
        }
        let page = page(results, measured, &charts, &flames);
        fs::write(folder.join(format!("{}.md", measured.suite)), page)?;
        fs::write(folder.join(format!("{}.json", measured.suite)), alone(results, measured)?)?;
    }
    Ok(())
}

/// The results with one suite only.
fn alone(results: &Results, measured: &SuiteResults) -> Result<String> {
    let mut value = serde_json::to_value(results)?;
    value["suites"] = serde_json::Value::Array(vec![serde_json::to_value(measured)?]);
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

fn page(results: &Results, suite: &SuiteResults, charts: &[(&str, String)], flames: &[String]) -> String {
    let mut page = format!(
        "# Figures of `{}`\n\nWritten by `{} --publish` on {} at commit `{}`; medians of {} rounds of {} s each, in \
         brackets minimum and maximum.\nMachine: {}.\n\n{}\n",
        suite.suite,
        results.command,
        results.at,
        results.commit,
        results.rounds,
        results.secs,
        results.machine.line(),
        report::peers(suite),
    );
    for (title, file) in charts {
        page.push_str(&format!("![{title}]({file})\n\n"));
    }
    page.push_str(&report::figures(suite).markdown());
    if !suite.targets.is_empty() {
        page.push_str(&format!("\n## Held to\n\n{}", report::targets(suite).markdown()));
    }
    if !flames.is_empty() {
        page.push_str("\n## Where processor time goes\n\n");
        page.extend(flames.iter().map(|file| format!("- [{file}]({file})\n")));
    }
    if !suite.notes.is_empty() {
        page.push_str("\n## Notes\n\n");
        page.extend(suite.notes.iter().map(|note| format!("- {note}\n")));
    }
    if !suite.failures.is_empty() {
        page.push_str("\n## Not measured\n\n");
        page.extend(suite.failures.iter().map(|failure| {
            format!("- round {}, {}, {}: {}\n", failure.round, failure.peer, failure.case, failure.error)
        }));
    }
    page
}

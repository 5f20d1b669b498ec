//! Tables: for the terminal, and for Markdown.

use crate::{
    results::{Results, SuiteResults},
    stats::Spread,
};

/// A number with as many digits as it deserves: `14.6`, `0.331`, `225,000`.
pub fn number(value: f64) -> String {
    let size = value.abs();
    let text = if size == 0.0 {
        "0".to_owned()
    } else if size >= 100.0 {
        return thousands(value);
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

fn thousands(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value < 0.0 { format!("-{text}") } else { text }
}

/// `5.6 (5.5–5.8)`, or the value alone when there was one round.
pub fn spread(spread: &Spread) -> String {
    if spread.rounds.len() < 2 {
        return number(spread.median);
    }
    format!("{} ({}–{})", number(spread.median), number(spread.min), number(spread.max))
}

/// Rows of cells with a header row.
pub struct Table {
    header: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns; the first is aligned left, the rest right.
    pub fn new(header: Vec<String>) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// For a terminal.
    pub fn plain(&self) -> String {
        let width = |column: usize| {
            let cells = self.rows.iter().chain([&self.header]).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.header.len()).map(width).collect();
        let mut text = String::new();
        for row in std::iter::once(&self.header).chain(&self.rows) {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths.get(column).copied().unwrap_or(0);
                if column == 0 {
                    line.push_str(&format!("{cell:width$}"));
                } else {
                    line.push_str(&format!("  {cell:>width$}"));
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// For Markdown.
    pub fn markdown(&self) -> String {
        let line = |cells: &[String]| {
            let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let rule: Vec<String> = (0..self.header.len())
            .map(|column| if column == 0 { "---" } else { "---:" }.to_owned())
            .collect();
        let rows: String = self.rows.iter().map(|row| line(row)).collect();
        format!("{}{}{rows}", line(&self.header), line(&rule))
    }
}

/// Every figure of every peer.
pub fn figures(suite: &SuiteResults) -> Table {
    let labels = suite.peers.iter().map(|peer| peer.label.clone());
    let mut table = Table::new(std::iter::once("median (min–max)".to_owned()).chain(labels).collect());
    for row in suite.figures.iter().filter(|row| !row.values.is_empty()) {
        let name = format!("{}, {}", row.figure.what, row.figure.unit);
        let cells = suite
            .peers
            .iter()
            .map(|peer| row.values.get(peer.id).map(spread).unwrap_or_else(|| "-".to_owned()));
        table.row(std::iter::once(name).chain(cells).collect());
    }
    table
}

/// Every target, and whether it was held.
pub fn targets(suite: &SuiteResults) -> Table {
    let header = ["held to", "measured", "bound", "verdict"].map(str::to_owned);
    let mut table = Table::new(header.into());
    for verdict in &suite.targets {
        let value = verdict.value.map_or_else(|| "-".to_owned(), number);
        table.row(vec![verdict.what.to_owned(), value, verdict.bound_text(), verdict.word().to_owned()]);
    }
    table
}

/// Who was measured.
pub fn peers(suite: &SuiteResults) -> String {
    suite.peers.iter().map(|peer| format!("- {}: {}\n", peer.label, peer.version)).collect()
}

/// Everything, for a terminal.
pub fn text(results: &Results) -> String {
    let mut text = format!(
        "{}\n{}\n{} rounds, {} s a measurement, {}\n",
        results.command,
        results.machine.line(),
        results.rounds,
        results.secs,
        results.at,
    );
    for suite in &results.suites {
        text.push_str(&format!("\n{}: {} (took {:.0} s)\n", suite.suite, suite.about, suite.took));
        text.push_str(&peers(suite));
        text.push_str(&format!("\n{}", figures(suite).plain()));
        if !suite.targets.is_empty() {
            text.push_str(&format!("\n{}", targets(suite).plain()));
        }
        for note in &suite.notes {
            text.push_str(&format!("note: {note}\n"));
        }
        for failure in &suite.failures {
            let case = if failure.case.is_empty() { "start" } else { &failure.case };
            text.push_str(&format!(
                "failed: round {}, {}, {case}: {}\n",
                failure.round, failure.peer, failure.error
            ));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_digits_that_they_deserve() {
        let texts = [0.0, 0.3312, 5.0, 5.567, 14.63, 550.4, 225_000.0, 1_234_567.0].map(number);

        assert_eq!(texts, ["0", "0.331", "5", "5.57", "14.6", "550", "225,000", "1,234,567"]);
    }

    #[test]
    fn a_table_is_aligned_and_is_markdown_too() {
        let mut table = Table::new(vec!["what".into(), "ours".into()]);
        table.row(vec!["a|b".into(), "5.6".into()]);

        assert_eq!(table.plain(), "what  ours\na|b    5.6\n");
        assert_eq!(table.markdown(), "| what | ours |\n| --- | ---: |\n| a\\|b | 5.6 |\n");
    }

    #[test]
    fn one_round_has_no_range() {
        assert_eq!(spread(&Spread::of(&[5.0]).unwrap()), "5");
        assert_eq!(spread(&Spread::of(&[5.0, 6.0, 7.0]).unwrap()), "6 (5–7)");
    }
}

//! Bar charts as SVG, readable on dark and on light ground.

use crate::{
    report::number,
    results::SuiteResults,
    stats::Spread,
    suite::{Better, Chart, Figure},
};

/// One colour a peer, in the order of the table; they keep their contrast on white and on black.
const COLOURS: [&str; 8] =
    ["#2f81f7", "#2da44e", "#bf8700", "#cf5f3c", "#8957e5", "#1b9aaa", "#c2557f", "#7d8590"];
const WIDTH: f64 = 860.0;
/// Where bars begin, after the peers' names.
const LEFT: f64 = 230.0;
/// Room for the value behind the longest bar.
const RIGHT: f64 = 130.0;
const BAR: f64 = 18.0;
const GAP: f64 = 5.0;

/// A group of bars.
pub struct Group {
    /// What is measured.
    pub title: String,
    /// Label, colour's number, and what was measured.
    pub bars: Vec<(String, usize, Spread)>,
}

/// Draws a chart of a suite; `None` when nothing of it was measured.
pub fn draw(chart: &Chart, suite: &SuiteResults) -> Option<String> {
    let rows = chart.figures.iter().filter_map(|id| suite.figures.iter().find(|row| row.figure.id == *id));
    let groups: Vec<_> = rows
        .map(|row| {
            let bars = suite.peers.iter().enumerate().filter_map(|(place, peer)| {
                Some((peer.label.clone(), place, row.values.get(peer.id)?.clone()))
            });
            Group { title: title_of(&row.figure), bars: bars.collect() }
        })
        .filter(|group| !group.bars.is_empty())
        .collect();
    if groups.is_empty() { None } else { Some(svg(chart.title, &groups)) }
}

fn title_of(figure: &Figure) -> String {
    let better = match figure.better {
        Better::Higher => "more is better",
        Better::Lower => "less is better",
    };
    format!("{}, {} ({better})", figure.what, figure.unit)
}

/// Bars of medians, with a whisker from minimum to maximum and the value behind. All groups share one scale.
pub fn svg(title: &str, groups: &[Group]) -> String {
    let all = || groups.iter().flat_map(|group| &group.bars);
    let longest = all().map(|(_, _, spread)| spread.max).fold(0.0, f64::max);
    let scale = if longest > 0.0 { (WIDTH - LEFT - RIGHT) / longest } else { 0.0 };
    let mut body = String::new();
    let mut y = 58.0;
    for group in groups {
        body.push_str(&format!(
            "<text class=\"group\" x=\"16\" y=\"{y:.0}\">{}</text>\n",
            escape(&group.title)
        ));
        y += 10.0;
        for (label, colour, spread) in &group.bars {
            let fill = COLOURS[colour % COLOURS.len()];
            let (width, middle) = ((spread.median * scale).max(0.0), y + BAR / 2.0);
            body.push_str(&format!(
                "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\n\
                 <rect x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{BAR}\" rx=\"2\" fill=\"{fill}\"/>\n",
                LEFT - 8.0,
                middle + 4.0,
                escape(label)
            ));
            if spread.rounds.len() > 1 {
                body.push_str(&format!(
                    "<line class=\"range\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{:.1}\" y2=\"{middle:.1}\"/>\n",
                    LEFT + (spread.min * scale).max(0.0),
                    LEFT + (spread.max * scale).max(0.0)
                ));
            }
            body.push_str(&format!(
                "<text class=\"value\" x=\"{:.1}\" y=\"{:.1}\">{}</text>\n",
                LEFT + (spread.max * scale).max(0.0) + 6.0,
                middle + 4.0,
                number(spread.median)
            ));
            y += BAR + GAP;
        }
        y += 26.0;
    }
    let height = y - 10.0;
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" width=\"{WIDTH}\" \
         height=\"{height:.0}\" role=\"img\" aria-label=\"{0}\">\n<style>\n\
         .ground {{ fill: #ffffff }} text {{ font: 13px sans-serif; fill: #24292f }}\n\
         .title {{ font-size: 17px; font-weight: bold }} .group, .value {{ font-weight: bold }}\n\
         .range {{ stroke: #24292f; stroke-width: 1.5 }}\n\
         @media (prefers-color-scheme: dark) {{ .ground {{ fill: #0d1117 }} text {{ fill: #e6edf3 }} \
         .range {{ stroke: #e6edf3 }} }}\n</style>\n\
         <rect class=\"ground\" width=\"100%\" height=\"100%\" rx=\"6\"/>\n\
         <text class=\"title\" x=\"16\" y=\"28\">{0}</text>\n{body}</svg>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let spread = |values: &[f64]| Spread::of(values).unwrap();
        Group {
            title: "one stream, Gbit/s".into(),
            bars: vec![
                ("ours & more".into(), 0, spread(&[5.0, 6.0, 10.0])),
                ("theirs <old>".into(), 1, spread(&[1.0])),
            ],
        }
    }

    #[test]
    fn a_bar_is_as_long_as_its_median_and_carries_its_value() {
        let text = svg("TCP", &[group()]);

        assert!(text.contains("width=\"300.0\""), "6 of 10 on 500 units: {text}");
        assert!(text.contains("width=\"50.0\""), "{text}");
        assert!(text.contains(">6</text>") && text.contains(">1</text>"));
        assert_eq!(text.matches("class=\"range\"").count(), 1, "one round has no range");
    }

    #[test]
    fn names_cannot_break_the_file() {
        let text = svg("a < b", &[group()]);

        assert!(text.contains("ours &amp; more") && text.contains("theirs &lt;old&gt;"));
        assert!(text.contains("a &lt; b") && text.contains("prefers-color-scheme: dark"));
    }

    #[test]
    fn nothing_measured_draws_bars_of_no_length() {
        let bars = vec![("ours".to_owned(), 0, Spread::of(&[0.0]).unwrap())];

        let text = svg("none", &[Group { title: "nothing".into(), bars }]);

        assert!(text.contains("width=\"0.0\"") && !text.contains("NaN"));
    }
}

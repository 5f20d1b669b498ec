//! The command line.

use std::path::PathBuf;

use clap::Args;

use crate::suite::Suite;

/// Exit code of a wrong command line.
pub const USAGE: u8 = 64;

/// What is asked for.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// Only these suites (separated by commas); without it all that exist
    #[arg(long, value_name = "SUITES", value_delimiter = ',')]
    pub only: Vec<String>,
    /// How long one measurement takes
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub secs: u64,
    /// How often each is taken, ours and the peers in turn; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    pub rounds: u16,
    /// Folder of results.json; default target/bench
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Also write the figures and charts into docs/benchmarks
    #[arg(long)]
    pub publish: bool,
    /// Also record where processor time goes, as flame graphs beside results.json (as root)
    #[arg(long)]
    pub profile: bool,
    /// Print results.json on standard output instead of the table
    #[arg(long)]
    pub json: bool,
    /// Exit 1 when a target is not held
    #[arg(long)]
    pub strict: bool,
    /// Use the programs as they were built last
    #[arg(long)]
    pub no_build: bool,
}

impl Options {
    /// The suites that are asked for, or a message that names those that exist.
    pub fn choose(&self, all: Vec<Box<dyn Suite>>) -> Result<Vec<Box<dyn Suite>>, String> {
        if let Some(unknown) = self.only.iter().find(|only| all.iter().all(|suite| suite.name() != **only)) {
            let width = all.iter().map(|suite| suite.name().len()).max().unwrap_or(0);
            let list: Vec<_> =
                all.iter().map(|suite| format!("  {:width$}  {}", suite.name(), suite.about())).collect();
            return Err(format!("there is no suite `{unknown}`\nfix: one of these:\n{}", list.join("\n")));
        }
        let wanted = |name: &str| self.only.is_empty() || self.only.iter().any(|only| only == name);
        Ok(all.into_iter().filter(|suite| wanted(suite.name())).collect())
    }

    /// The command line that asks for the same.
    pub fn command(&self) -> String {
        let mut line = "cargo xtask bench".to_owned();
        if !self.only.is_empty() {
            line.push_str(&format!(" --only {}", self.only.join(",")));
        }
        line.push_str(&format!(" --secs {} --rounds {}", self.secs, self.rounds));
        line
    }

    /// The same as arguments, for the program that measures.
    pub fn arguments(&self) -> Vec<String> {
        let mut words = vec![format!("--secs={}", self.secs), format!("--rounds={}", self.rounds)];
        words.extend((!self.only.is_empty()).then(|| format!("--only={}", self.only.join(","))));
        words.extend(self.out.iter().map(|out| format!("--out={}", out.display())));
        let flags = [
            ("--publish", self.publish),
            ("--profile", self.profile),
            ("--json", self.json),
            ("--strict", self.strict),
        ];
        words.extend(flags.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag.to_owned()));
        words
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::suite::{Figure, Peer, Setup};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: Options,
    }

    struct Named(&'static str);

    impl Suite for Named {
        fn name(&self) -> &'static str {
            self.0
        }
        fn about(&self) -> &'static str {
            "measures something"
        }
        fn figures(&self) -> Vec<Figure> {
            Vec::new()
        }
        fn peers(&self, _setup: &Setup) -> anyhow::Result<Vec<Box<dyn Peer>>> {
            Ok(Vec::new())
        }
    }

    fn options(words: &[&str]) -> Options {
        Line::try_parse_from([&["bench"], words].concat()).unwrap().options
    }

    fn two() -> Vec<Box<dyn Suite>> {
        vec![Box::new(Named("tunnel")), Box::new(Named("relay"))]
    }

    #[test]
    fn an_unknown_suite_is_refused_with_those_that_exist() {
        let refusal = options(&["--only", "tunnel,dns"]).choose(two()).err().unwrap();

        assert!(refusal.contains("no suite `dns`"), "{refusal}");
        assert!(refusal.contains("tunnel  measures something") && refusal.contains("relay "), "{refusal}");
    }

    #[test]
    fn without_only_all_suites_run() {
        let all = options(&[]).choose(two()).unwrap();
        let one = options(&["--only", "relay"]).choose(two()).unwrap();

        assert_eq!(all.iter().map(|suite| suite.name()).collect::<Vec<_>>(), ["tunnel", "relay"]);
        assert_eq!(one.iter().map(|suite| suite.name()).collect::<Vec<_>>(), ["relay"]);
    }

    #[test]
    fn zero_rounds_and_zero_seconds_are_refused() {
        assert!(Line::try_parse_from(["bench", "--rounds", "0"]).is_err());
        assert!(Line::try_parse_from(["bench", "--secs", "0"]).is_err());
        assert!(Line::try_parse_from(["bench", "--secs", "fast"]).is_err());
    }

    #[test]
    fn arguments_survive_being_handed_on() {
        let asked = options(&[
            "--only",
            "relay,tunnel",
            "--secs",
            "7",
            "--rounds",
            "2",
            "--json",
            "--strict",
            "--profile",
        ]);

        let words = asked.arguments();
        let again = options(&words.iter().map(String::as_str).collect::<Vec<_>>());

        assert_eq!((again.only, again.secs, again.rounds), (asked.only.clone(), 7, 2));
        assert!(again.json && again.strict && again.profile && !again.publish);
        assert_eq!(asked.command(), "cargo xtask bench --only relay,tunnel --secs 7 --rounds 2");
    }
}

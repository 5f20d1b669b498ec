//! Runs suites: the peers in turn, round by round, and what came of it.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use anyhow::{Context, Result};
use integration_lab::{Privilege, enter_user_namespace, privilege, signals};

use crate::{
    install,
    machine::{self, Machine},
    options::{Options, USAGE},
    profile, publish, report,
    results::{PeerInfo, Results, Row, SCHEMA, SuiteResults, Values},
    suite::{Peer, Round, Setup, Suite},
    target,
};

/// The whole command. The programs are built already.
pub fn run(options: &Options) -> Result<ExitCode> {
    let suites = match options.choose(crate::suites()) {
        Ok(suites) => suites,
        Err(refusal) => {
            eprintln!("error: {refusal}");
            return Ok(ExitCode::from(USAGE));
        }
    };
    signals::install()?;
    let target = integration_lab::cargo_target_dir()?.join("bench");
    let out = options.out.clone().unwrap_or_else(|| target.clone());
    std::fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let setup = Setup {
        secs: options.secs,
        rounds: usize::from(options.rounds),
        installed: target.join("peers"),
        profile: options.profile.then(|| out.clone()),
    };
    if options.profile {
        install::ensure_all(&profile::needs(), &setup.installed)?;
    }
    for suite in &suites {
        install::ensure_all(&suite.needs(), &setup.installed)?;
    }
    if privilege() == Privilege::None {
        eprintln!("not root: entering a user namespace of your own");
        match enter_user_namespace()? {}
    }

    let mut results = Results {
        schema: SCHEMA,
        command: options.command(),
        at: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        commit: machine::commit(&root()),
        machine: Machine::look(),
        secs: setup.secs,
        rounds: setup.rounds,
        suites: Vec::new(),
    };
    for suite in &suites {
        results.suites.push(one(suite.as_ref(), &setup)?);
        // After each, so that a run that is cut short leaves what it had.
        std::fs::write(out.join("results.json"), results.json()?)?;
    }
    if options.publish {
        publish::publish(&results, &suites, setup.profile.as_deref(), &root().join("docs/benchmarks"))?;
    }
    if options.json {
        print!("{}", results.json()?);
    } else {
        print!("{}", report::text(&results));
    }
    eprintln!("written: {}", out.join("results.json").display());
    let failed = results.suites.iter().any(|suite| suite.figures.iter().all(|row| row.values.is_empty()));
    Ok(if failed || (options.strict && !results.all_held()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// One suite.
pub fn one(suite: &dyn Suite, setup: &Setup) -> Result<SuiteResults> {
    let started = Instant::now();
    eprintln!("{}: {}", suite.name(), suite.about());
    let figures = suite.figures();
    let mut peers = suite.peers(setup).with_context(|| format!("cannot lay out `{}`", suite.name()))?;
    let (mut values, mut failures) = (Values::default(), Vec::new());
    let infos: Vec<_> = peers.iter().map(|peer| info(peer.as_ref())).collect();
    let count = peers.len();
    for number in 1..=setup.rounds {
        for turn in 0..count {
            // Another one begins in each round: nobody always runs on a machine that has just become warm.
            let Some(peer) = peers.get_mut((turn + number - 1) % count) else { continue };
            let mut round = Round::new(setup, number, peer.as_ref(), &figures, &mut values, &mut failures);
            if let Err(error) = peer.measure(&mut round) {
                signals::rest_when_interrupted();
                eprintln!("[{number}/{}] {}: FAILED: {error:#}", setup.rounds, peer.label());
                round.failed("", &error);
            }
        }
    }
    drop(peers);
    let targets = suite.targets().iter().map(|target| target::judge(target, &values, &figures)).collect();
    let rows = figures.iter().map(|figure| {
        let of_peer =
            infos.iter().filter_map(|peer| Some((peer.id.to_owned(), values.spread(figure.id, peer.id)?)));
        Row { figure: *figure, values: of_peer.collect() }
    });
    Ok(SuiteResults {
        suite: suite.name(),
        about: suite.about(),
        took: started.elapsed().as_secs_f64(),
        figures: rows.collect(),
        peers: infos,
        targets,
        notes: suite.notes(),
        failures,
    })
}

fn info(peer: &dyn Peer) -> PeerInfo {
    PeerInfo { id: peer.id(), label: peer.label(), version: peer.version() }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, rc::Rc};

    use anyhow::bail;

    use super::*;
    use crate::suite::{Bound, Chart, Figure, Measure, Target};

    type Order = Rc<RefCell<Vec<&'static str>>>;

    struct Pretend {
        order: Order,
    }

    struct Fixed {
        id: &'static str,
        value: f64,
        order: Order,
    }

    impl Peer for Fixed {
        fn id(&self) -> &'static str {
            self.id
        }
        fn label(&self) -> String {
            self.id.to_owned()
        }
        fn version(&self) -> String {
            "1".to_owned()
        }
        fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
            self.order.borrow_mut().push(self.id);
            let value = self.value * round.number() as f64;
            round.case("breaks", |_| bail!("no such thing"));
            round.case("works", |round| round.record("speed", value));
            round.case("is unheard of", |round| round.record("colour", 1.0));
            if self.id == "theirs" && round.number() == 2 {
                bail!("it does not start");
            }
            Ok(())
        }
    }

    impl Suite for Pretend {
        fn name(&self) -> &'static str {
            "pretend"
        }
        fn about(&self) -> &'static str {
            "measures nothing"
        }
        fn figures(&self) -> Vec<Figure> {
            vec![Figure::higher("speed", "speed", "m/s")]
        }
        fn targets(&self) -> Vec<Target> {
            let ratio = Measure::Ratio(("speed", "ours"), ("speed", "theirs"));
            vec![Target::new("twice as fast", ratio, Bound::AtLeast(2.0))]
        }
        fn charts(&self) -> Vec<Chart> {
            let chart = |name, figures| Chart { name, title: "Speed", figures };
            vec![chart("speed", vec!["speed"]), chart("none", vec!["weight"])]
        }
        fn peers(&self, _setup: &Setup) -> Result<Vec<Box<dyn Peer>>> {
            let peer =
                |id, value| Box::new(Fixed { id, value, order: Rc::clone(&self.order) }) as Box<dyn Peer>;
            Ok(vec![peer("ours", 4.0), peer("theirs", 2.0)])
        }
    }

    fn result() -> (SuiteResults, Vec<&'static str>) {
        let order = Order::default();
        let setup = Setup { secs: 1, rounds: 3, installed: PathBuf::new(), profile: None };
        let suite = Pretend { order: Rc::clone(&order) };
        let results = one(&suite, &setup).unwrap();
        (results, order.take())
    }

    #[test]
    fn peers_take_turns_and_another_one_begins_in_each_round() {
        let (results, order) = result();

        assert_eq!(order, ["ours", "theirs", "theirs", "ours", "ours", "theirs"]);
        let spread = results.spread("speed", "ours").unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (4.0, 8.0, 12.0));
    }

    #[test]
    fn a_case_that_fails_is_told_and_does_not_end_the_run() {
        let (results, _) = result();

        let cases: Vec<_> = results.failures.iter().map(|failure| failure.case.as_str()).collect();
        assert_eq!(cases.iter().filter(|case| **case == "breaks").count(), 6);
        assert_eq!(cases.iter().filter(|case| **case == "is unheard of").count(), 6);
        assert_eq!(cases.iter().filter(|case| case.is_empty()).count(), 1);
        assert!(results.targets[0].held);
    }

    fn whole() -> Results {
        Results {
            schema: SCHEMA,
            command: "cargo xtask bench --only pretend".into(),
            at: String::new(),
            commit: "0123abcd".into(),
            machine: Machine::look(),
            secs: 1,
            rounds: 3,
            suites: vec![result().0],
        }
    }

    #[test]
    fn a_published_suite_has_a_page_its_values_and_the_charts_that_have_something_to_show() {
        let folder = tempfile::tempdir().unwrap();
        let results = whole();
        let suite: Box<dyn Suite> = Box::new(Pretend { order: Order::default() });

        publish::publish(&results, &[suite], Some(folder.path()), &folder.path().join("new")).unwrap();

        let read = |name: &str| std::fs::read_to_string(folder.path().join("new").join(name));
        let page = read("pretend.md").unwrap();
        assert!(page.contains("![Speed](pretend-speed.svg)") && !page.contains("pretend-none.svg"), "{page}");
        assert!(
            page.contains("0123abcd") && page.contains(&results.machine.kernel) && page.contains("--publish")
        );
        assert!(page.contains("| twice as fast | 2 | >= 2 | held |"), "{page}");
        let values: serde_json::Value = serde_json::from_str(&read("pretend.json").unwrap()).unwrap();
        assert_eq!(values["suites"][0]["suite"], "pretend");
        assert!(read("pretend-speed.svg").unwrap().starts_with("<svg"));
        assert!(read("pretend-none.svg").is_err());
    }

    #[test]
    fn results_are_json_with_a_schema() {
        let all = whole();

        let value: serde_json::Value = serde_json::from_str(&all.json().unwrap()).unwrap();

        assert_eq!(value["schema"], 1);
        let suite = &value["suites"][0];
        assert_eq!(suite["figures"][0]["id"], "speed");
        assert_eq!(suite["figures"][0]["values"]["theirs"]["median"], 4.0);
        assert_eq!(suite["figures"][0]["better"], "higher");
        assert_eq!(suite["targets"][0]["held"], true);
        assert_eq!(suite["targets"][0]["value"], 2.0);
        assert!(report::text(&all).contains("twice as fast"));
    }
}

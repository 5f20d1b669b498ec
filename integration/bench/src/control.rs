//! How many nodes one control plane holds: memory, a storm of reconnections, how fast a change reaches all.
//!
//! The nodes are simulated by `puppet-nodes`, on the same machine: each holds a real session over TLS. So the processor is
//! shared between control and its nodes, and the figures are an upper bound.

mod plane;

use anyhow::Result;

use crate::suite::{Bound, Chart, Figure, Measure, Peer, Round, Setup, Suite, Target};
use plane::Plane;

/// How many nodes, and the bar's key.
const SIZES: [(usize, &str); 4] = [(1000, "n1000"), (2500, "n2500"), (5000, "n5000"), (10_000, "n10000")];
const MOST: &str = "n10000";

/// The suite.
pub struct Control;

impl Suite for Control {
    fn name(&self) -> &'static str {
        "control"
    }

    fn about(&self) -> &'static str {
        "1,000 to 10,000 nodes connected to one control plane"
    }

    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::lower("memory", "memory of control with all nodes connected", "MiB"),
            Figure::lower("storm", "all but 100 reconnect at once: until the last has its state", "s"),
            Figure::lower("storm_p99", "meanwhile, answers to the 100 that stayed, 99th percentile", "ms"),
            Figure::lower("change_p99", "a policy change reaches the nodes, 99th percentile", "ms"),
            Figure::lower("churn", "processor time of control at 1 % reconnecting a minute", "cores"),
        ]
    }

    fn targets(&self) -> Vec<Target> {
        vec![
            Target::new("10,000 nodes in under 1 GiB", Measure::Worst("memory", MOST), Bound::AtMost(1024.0)),
            Target::new("10,000 reconnect within 60 s", Measure::Worst("storm", MOST), Bound::AtMost(60.0)),
            Target::new(
                "those that stay are answered",
                Measure::Worst("storm_p99", MOST),
                Bound::AtMost(250.0),
            ),
            Target::new("a change reaches all", Measure::Worst("change_p99", MOST), Bound::AtMost(1000.0)),
            Target::new("churn costs under one core", Measure::Worst("churn", MOST), Bound::AtMost(1.0)),
        ]
    }

    fn charts(&self) -> Vec<Chart> {
        vec![
            Chart { name: "memory", title: "Memory of control by connected nodes", figures: vec!["memory"] },
            Chart {
                name: "latency",
                title: "Latency by connected nodes",
                figures: vec!["storm_p99", "change_p99"],
            },
        ]
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "The nodes run on the same processors as control.".into(),
            "Storage is SQLite with every commit on the disk; changes that wait go to it together.".into(),
            "A change is timed from before the request that makes it until each node has it.".into(),
        ]
    }

    fn peers(&self, _setup: &Setup) -> Result<Vec<Box<dyn Peer>>> {
        Ok(SIZES.into_iter().map(|(nodes, id)| Box::new(Size { nodes, id }) as Box<dyn Peer>).collect())
    }
}

/// Control with so many nodes.
struct Size {
    nodes: usize,
    id: &'static str,
}

impl Peer for Size {
    fn id(&self) -> &'static str {
        self.id
    }

    fn label(&self) -> String {
        format!("{} nodes", self.nodes)
    }

    fn version(&self) -> String {
        env!("CARGO_PKG_VERSION").into()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        let mut plane = Plane::start(self.nodes)?;
        round.case("connected", |round| {
            plane.up()?;
            round.record("memory", plane.memory_mib()?)
        });
        round.case("storm", |round| {
            let (seconds, p99) = plane.storm()?;
            round.record("storm", seconds)?;
            round.record("storm_p99", p99)
        });
        round.case("change", |round| round.record("change_p99", plane.change()?));
        round.case("churn", |round| {
            let seconds = (round.secs() * 10).max(20);
            round.record("churn", plane.churn(seconds)?)
        });
        Ok(())
    }
}

//! The relay against coturn: packets, allocations, memory.
//!
//! Server and load live in a namespace each, with a cable between them. The load is ours, `turn-load`.

use std::{net::SocketAddr, rc::Rc, time::Duration};

use anyhow::{Context, Result};
use integration_lab::{Host, Lab, Process, program, wait};
use serde_json::Value;

use crate::suite::{Bound, Chart, Figure, Measure, Need, Peer, Round, Setup, Suite, Target};

const SERVER: &str = "203.0.113.20:3478";
const PEER: &str = "203.0.113.40:7000";
const USER: [&str; 2] = ["alice", "wonderland"];

/// The suite.
pub struct Relay;

/// A case of data: its figures, allocations, and packets of one in a row.
const FLOWS: [(&str, &str, &str, usize, usize); 3] = [
    ("one bulk channel", "bulk_pps", "bulk_per_cpu", 1, 64),
    ("100 allocations", "hundred_pps", "hundred_per_cpu", 100, 16),
    ("1,000 allocations of sparse traffic", "sparse_pps", "sparse_per_cpu", 1_000, 1),
];

impl Suite for Relay {
    fn name(&self) -> &'static str {
        "relay"
    }

    fn about(&self) -> &'static str {
        "TURN: packets of 200 bytes, allocations and memory, against coturn"
    }

    fn needs(&self) -> Vec<Need> {
        vec![Need::Package { program: "turnserver", package: "coturn" }]
    }

    fn figures(&self) -> Vec<Figure> {
        vec![
            Figure::higher("bulk_pps", "one bulk channel", "packets/s"),
            Figure::higher("bulk_per_cpu", "one bulk channel", "packets/CPU s"),
            Figure::higher("hundred_pps", "100 allocations", "packets/s"),
            Figure::higher("hundred_per_cpu", "100 allocations", "packets/CPU s"),
            Figure::higher("sparse_pps", "1,000 allocations, sparse", "packets/s"),
            Figure::higher("sparse_per_cpu", "1,000 allocations, sparse", "packets/CPU s"),
            Figure::lower("lost", "lost, worst of the three", "%"),
            Figure::higher("allocations", "allocations", "1/s"),
            Figure::lower("memory", "memory of an allocation", "bytes"),
            Figure::lower("growth", "memory after ten times 10,000, over the first", "times"),
        ]
    }

    fn targets(&self) -> Vec<Target> {
        let over_coturn = |figure| Measure::Ratio((figure, "ours"), (figure, "coturn"));
        vec![
            Target::new("one bulk channel: times coturn", over_coturn("bulk_per_cpu"), Bound::AtLeast(4.0)),
            Target::new("100 allocations: times coturn", over_coturn("hundred_per_cpu"), Bound::AtLeast(2.5)),
            Target::new("1,000 sparse: times coturn", over_coturn("sparse_per_cpu"), Bound::AtLeast(1.3)),
            Target::new(
                "allocations a second",
                Measure::Median("allocations", "ours"),
                Bound::AtLeast(20_000.0),
            ),
            Target::new("memory of an allocation", Measure::Median("memory", "ours"), Bound::AtMost(4_096.0)),
            Target::new("memory stays", Measure::Worst("growth", "ours"), Bound::AtMost(1.1)),
            Target::new("packets lost (%)", Measure::Median("lost", "ours"), Bound::AtMost(0.1)),
        ]
    }

    fn charts(&self) -> Vec<Chart> {
        vec![Chart {
            name: "per-cpu",
            title: "Relayed packets per second of CPU time",
            figures: vec!["bulk_per_cpu", "hundred_per_cpu", "sparse_per_cpu"],
        }]
    }

    fn notes(&self) -> Vec<String> {
        vec![
            "200 bytes of payload, client to peer, over a veth pair; the load keeps at most 512 packets on the way".into(),
            "memory: (RSS with 10,000 allocations - RSS with 100) / 9,900".into(),
            "coturn runs with one listener thread and one relay thread for each processor, as it does by default".into(),
        ]
    }

    fn peers(&self, _setup: &Setup) -> Result<Vec<Box<dyn Peer>>> {
        let lab = Lab::unique()?;
        let (server, load) = (lab.host("server")?, lab.host("load")?);
        lab.link((&server, "wan"), (&load, "wan"))?;
        server.address("wan", &["203.0.113.20/24"])?;
        load.address("wan", &["203.0.113.40/24"])?;
        let ground = Rc::new(Ground { server, load, _lab: lab });
        Ok(vec![
            Box::new(Server { kind: Kind::Ours, ground: Rc::clone(&ground) }),
            Box::new(Server { kind: Kind::Coturn, ground }),
        ])
    }
}

struct Ground {
    server: Host,
    load: Host,
    _lab: Lab,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Ours,
    Coturn,
}

struct Server {
    kind: Kind,
    ground: Rc<Ground>,
}

impl Server {
    fn start(&self) -> Result<Process> {
        let host = &self.ground.server;
        let [name, password] = USER;
        let dir = |name: &str| host.dir().join(name).display().to_string();
        let process = match self.kind {
            Kind::Ours => host
                .launch("postern-relay", program("postern-relay")?)
                .args(["--standalone", "--static-user", &format!("{name}:{password}"), "--listen", SERVER])
                .args(["--allow-peer", "203.0.113.0/24", "--relay-ports", "20000-65000"])
                .args(["--max-allocations", "15000", "--max-allocations-per-user", "15000"])
                .args(["--max-allocations-per-source", "15000", "--metrics-listen", "off"])
                .args(["--state-dir", &dir("relay-state"), "--run-dir", &dir("relay-run")])
                .start()?,
            Kind::Coturn => host
                .launch("turnserver", "turnserver")
                .args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech", "--realm", "postern"])
                .args(["--user", &format!("{name}:{password}"), "--listening-ip", "203.0.113.20"])
                .args(["--relay-ip", "203.0.113.20", "--min-port", "20000", "--max-port", "65000"])
                .args([
                    "--log-file",
                    "/dev/null",
                    "--no-software-attribute",
                    "--pidfile",
                    &dir("turnserver.pid"),
                ])
                .start()?,
        };
        let binding = r"printf '\000\001\000\000\041\022\244\102abcdefghijkl' > /dev/udp/203.0.113.20/3478";
        wait::until_true("the server listens", Duration::from_secs(10), || {
            let sockets = host.try_run(&["sh", "-c", "cat /proc/net/udp"])?.stdout;
            // 203.0.113.20:3478, as /proc/net/udp writes it.
            let _asked = host.try_run(&["bash", "-c", binding])?;
            Ok(sockets.contains("147100CB:0D96"))
        })?;
        Ok(process)
    }

    fn load(&self, process: &Process, words: &str, limit: u64) -> Result<Value> {
        let pid = process.pid().context("the server has ended")?.to_string();
        let load = program("turn-load")?.display().to_string();
        let [name, password] = USER;
        let mut argv =
            vec![load.as_str(), "--server", SERVER, "--pid", &pid, "--user", name, "--password", password];
        argv.extend(words.split_whitespace());
        let done = self.ground.load.try_run_for(&argv, Duration::from_secs(limit))?;
        done.ok()?.json()
    }
}

fn figure(told: &Value, name: &str) -> Result<f64> {
    told[name].as_f64().with_context(|| format!("no {name} in {told}"))
}

impl Peer for Server {
    fn id(&self) -> &'static str {
        match self.kind {
            Kind::Ours => "ours",
            Kind::Coturn => "coturn",
        }
    }

    fn label(&self) -> String {
        match self.kind {
            Kind::Ours => "postern-relay".to_owned(),
            Kind::Coturn => "coturn".to_owned(),
        }
    }

    fn version(&self) -> String {
        let ask = match self.kind {
            Kind::Ours => program("postern-relay").map(|program| program.display().to_string()),
            Kind::Coturn => Ok("turnserver".to_owned()),
        };
        let said = ask.and_then(|program| self.ground.server.try_run(&[program.as_str(), "--version"]));
        said.ok().and_then(|done| Some(done.stdout.lines().last()?.trim().to_owned())).unwrap_or_default()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        let _parsed: SocketAddr = PEER.parse()?;
        let secs = round.secs();
        let mut worst = None;
        for (what, pps, per_cpu, allocations, burst) in FLOWS {
            let process = self.start()?;
            round.case(what, |round| {
                let words =
                    format!("flow --peer {PEER} --allocations {allocations} --burst {burst} --secs {secs}");
                let told = self.load(&process, &words, secs + 60)?;
                round.record(pps, figure(&told, "packets_per_second")?)?;
                round.record(per_cpu, figure(&told, "packets_per_cpu_second")?)?;
                worst = Some(figure(&told, "lost")?.max(worst.unwrap_or(0.0)));
                Ok(())
            });
        }
        if let Some(lost) = worst {
            round.case("packets lost", |round| round.record("lost", lost * 100.0));
        }
        let process = self.start()?;
        round.case("allocations a second", |round| {
            let told = self.load(&process, &format!("churn --secs {secs}"), secs + 60)?;
            round.record("allocations", figure(&told, "allocations_per_second")?)
        });
        drop(process);
        let process = self.start()?;
        round.case("memory", |round| {
            // Ten times only in the first round: it takes a minute.
            let again = if self.kind == Kind::Ours && round.number() == 1 { 9 } else { 0 };
            let told = self.load(&process, &format!("hold --few 100 --many 10000 --again {again}"), 600)?;
            round.record("memory", figure(&told, "bytes_per_allocation")?)?;
            if again > 0 { round.record("growth", figure(&told, "growth")?) } else { Ok(()) }
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_figure_of_a_flow_and_of_a_target_exists() {
        let figures = Relay.figures();
        let known = |id: &str| figures.iter().any(|figure| figure.id == id);

        assert!(FLOWS.iter().all(|(_, pps, per_cpu, _, _)| known(pps) && known(per_cpu)));
        for target in Relay.targets() {
            let (Measure::Median(id, _) | Measure::Worst(id, _) | Measure::Ratio((id, _), _)) =
                target.measure;
            assert!(known(id), "{id}");
        }
    }
}

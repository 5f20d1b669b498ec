//! Ours, as it is shipped: with policy, filters and flow records on.

use std::{process::Command, rc::Rc, time::Duration};

use anyhow::{Context, Result, ensure};
use integration_lab::program;

use super::{
    cases,
    ground::{Ground, TARGET, Way},
    load::{self, Between, Direction, Stream},
    long,
    plane::{PLAIN, Plane, Session, cannot_switch_off},
    process::Processes,
};
use crate::{
    machine::{commit, first_line},
    suite::{Peer, Round},
};

/// Before idle memory is read: what a start needed once has been given back.
const SETTLE: Duration = Duration::from_millis(1_500);

/// It.
pub struct Ours {
    ground: Rc<Ground>,
    plane: Plane,
}

impl Ours {
    /// Starts the control plane.
    pub fn new(ground: &Rc<Ground>) -> Result<Self> {
        Ok(Self { ground: Rc::clone(ground), plane: Plane::start(ground)? })
    }

    fn direct(&self, round: &mut Round<'_>) -> Result<()> {
        self.ground.open(Way::Direct)?;
        let session = self.plane.connect("direct", &[])?;
        let processes = processes(&session)?;
        let between = self.between(&processes);
        std::thread::sleep(SETTLE);
        cases::idle_memory(round, between);
        cases::streams(round, between);
        cases::small_packets(round, between, true);
        cases::echoes(round, between);
        cases::peak_memory(round, between);
        if round.setup().profile.is_some() && round.number() == 1 {
            cases::profiles(round, between);
        }
        Ok(())
    }

    fn plain(&self, round: &mut Round<'_>) -> Result<()> {
        let unknown = cannot_switch_off()?;
        ensure!(unknown.is_empty(), "these programs cannot switch it off: {}", unknown.join(", "));
        self.ground.open(Way::Direct)?;
        let session = self.plane.connect("direct", &PLAIN)?;
        let processes = processes(&session)?;
        let between = self.between(&processes);
        let directions = [(Direction::Up, "plain-up", "up"), (Direction::Down, "plain-down", "down")];
        for (direction, figure, word) in directions {
            round.case(&format!("without any offload, {word}"), |round| {
                let flow = load::tcp(between, Stream::single(direction, round.secs()))?;
                round.record(figure, flow.gbit)
            });
        }
        std::thread::sleep(SETTLE);
        for (figure, value) in
            ["plain-memory-near", "plain-memory-far"].iter().zip(processes.memory_mib("VmHWM")?)
        {
            round.record(figure, value)?;
        }
        Ok(())
    }

    fn relayed(&self, round: &mut Round<'_>) -> Result<()> {
        self.ground.open(Way::Relayed)?;
        let session = self.plane.connect("relayed", &[])?;
        let processes = processes(&session)?;
        let between = self.between(&processes);
        let directions = [(Direction::Up, "relayed-up", "up"), (Direction::Down, "relayed-down", "down")];
        for (direction, figure, word) in directions {
            round.case(&format!("through our relay, {word}"), |round| {
                let flow = load::tcp(between, Stream::single(direction, round.secs()))?;
                round.record(figure, flow.gbit)
            });
        }
        round.case("echoes through our relay, idle", |round| {
            let echoes = load::echoes(between, Duration::from_millis(10), round.secs() * 1000)?;
            round.record("relayed-ping-p50", echoes.p50)
        });
        Ok(())
    }

    fn long(&self, round: &mut Round<'_>, case: &long::Case) -> Result<()> {
        let _forwarder = self.ground.open(Way::Long(case.road))?;
        let session = self.plane.connect("direct", &[])?;
        let processes = processes(&session)?;
        long::take(round, self.between(&processes), case);
        Ok(())
    }

    fn many(&self, round: &mut Round<'_>) -> Result<()> {
        self.ground.open(Way::Direct)?;
        let (clients, _gateway) = self.plane.connect_many()?;
        round.case("eight clients, down", |round| {
            let none = Processes::default();
            let hosts: Vec<_> = clients.iter().map(|client| client.host.clone()).collect();
            let between = |near| Between { near, far: &self.ground.far, target: TARGET, processes: &none };
            let ports = || 5401..;
            let servers = hosts.iter().zip(ports()).map(|(near, port)| load::serve(between(near), port));
            let servers = servers.collect::<Result<Vec<_>>>()?;
            // They begin together, and what they do before each has found its share does not count.
            let mut running = Vec::new();
            for ((near, port), server) in hosts.iter().zip(ports()).zip(servers) {
                let stream = Stream { port, skip: 2, ..Stream::single(Direction::Down, round.secs() + 1) };
                running.push(load::start_at(server, between(near), stream)?);
            }
            let rates = running.into_iter().map(|one| one.finish().map(|(rate, ..)| rate));
            let rates = rates.collect::<Result<Vec<_>>>()?;
            let (sum, uneven) = shares(&rates).context("there are no clients")?;
            round.record("clients8-sum", sum)?;
            round.record("clients8-uneven", uneven)
        });
        Ok(())
    }

    fn between<'a>(&'a self, processes: &'a Processes) -> Between<'a> {
        Between { near: &self.ground.near, far: &self.ground.far, target: TARGET, processes }
    }
}

fn processes(session: &Session) -> Result<Processes> {
    Processes::of(&[&session.client.process, &session.gateway.process])
}

/// The sum, and by how many percent of an even share the one that is furthest from it is off.
fn shares(rates: &[f64]) -> Option<(f64, f64)> {
    let sum: f64 = rates.iter().sum();
    let even = sum / rates.len() as f64;
    let off = rates.iter().map(|rate| (rate - even).abs()).fold(0.0, f64::max);
    (even > 0.0).then_some((sum, 100.0 * off / even))
}

impl Peer for Ours {
    fn id(&self) -> &'static str {
        "ours"
    }

    fn label(&self) -> String {
        "postern".to_owned()
    }

    fn version(&self) -> String {
        let program = program("postern").unwrap_or_default();
        let version = first_line(Command::new(program).arg("--version"));
        format!("{version}, commit {}, with policy, filters and flow records on", commit(&crate::run::root()))
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        round.part("direct", |round| self.direct(round));
        round.part("without any offload", |round| self.plain(round));
        round.part("through our relay", |round| self.relayed(round));
        for case in &long::CASES {
            round.part(case.what[0], |round| self.long(round, case));
        }
        round.part("eight clients", |round| self.many(round));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_furthest_from_an_even_share_is_told() {
        assert_eq!(shares(&[1.0, 1.0, 1.0, 1.0]), Some((4.0, 0.0)));
        assert_eq!(shares(&[1.5, 0.5, 1.0, 1.0]), Some((4.0, 50.0)));
        assert_eq!(shares(&[]), None);
    }
}

//! No tunnel: the veth pair itself, and the way through the forwarder.

use std::rc::Rc;

use anyhow::Result;

use super::{
    cases,
    ground::{Ground, TARGET, Way},
    load::{self, Between},
    long,
    process::Processes,
};
use crate::suite::{Peer, Round};

/// It.
pub struct Bare(pub Rc<Ground>);

impl Peer for Bare {
    fn id(&self) -> &'static str {
        "bare"
    }

    fn label(&self) -> String {
        "no tunnel".to_owned()
    }

    fn version(&self) -> String {
        "the bare veth pair, with all its offloads".to_owned()
    }

    fn measure(&mut self, round: &mut Round<'_>) -> Result<()> {
        let ground = Rc::clone(&self.0);
        let none = Processes::default();
        let between = Between { near: &ground.near, far: &ground.far, target: TARGET, processes: &none };
        let route = |way: Way| ground.near.ip(&format!("route replace {TARGET}/32 via {}", way.far()));
        ground.open(Way::Direct)?;
        route(Way::Direct)?;
        cases::streams(round, between);
        round.case("the generator at 1.5 times the promised rate", |round| {
            let packets = load::packets(between, 64, cases::GENERATOR_RATE, round.secs() * 1000)?;
            round.record("generator-rate", packets.sent_rate)?;
            round.record("generator-loss", packets.loss_percent)
        });
        cases::small_packets(round, between, true);
        cases::echoes(round, between);
        for case in &long::CASES {
            let way = Way::Long(case.road);
            let _forwarder = ground.open(way)?;
            route(way)?;
            long::take(round, between, case);
        }
        ground.near.ip(&format!("route del {TARGET}/32"))
    }
}

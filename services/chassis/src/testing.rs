//! An actor for the tests of this crate.

use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Full, Intensity, LaneKind, Never, Restart, Row, Universe};

/// Takes commands and does nothing about them.
pub(crate) struct Sleeper;

impl Actor for Sleeper {
    const KIND: &'static str = "Sleeper";
    type Command = ();
    type Packets = Never;

    fn told(&mut self, (): (), _: &mut Cx<Self>) {}
}

pub(crate) const ROWS: &[Row<()>] = &[Row {
    kind: "Sleeper",
    parent: "-",
    each: "test",
    lane: LaneKind::Control,
    mailbox: 8,
    full: Full::Refuse,
    ring: 0,
    restart: Restart::Always,
    intensity: Intensity { restarts: 3, within: Duration::from_secs(60) },
    start: None,
}];

/// Starts a sleeper with some commands waiting; it has not run yet.
pub(crate) fn start_sleeper(universe: &Universe, waiting: usize) -> Address<Sleeper> {
    let sleeper = universe.start("one", || Sleeper).unwrap().address;
    for _ in 0..waiting {
        sleeper.tell(()).unwrap();
    }
    sleeper
}

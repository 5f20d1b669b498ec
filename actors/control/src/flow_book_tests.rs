//! The book of flows over a real database, with an inbox for the gateway's session.

use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Address, Full, Inbox, Intensity, LaneKind, Restart, Row, Universe};
use protocol_control::{FlowBatch, ToNode};
use protocol_identity::{AccountId, GatewayId};

use crate::clock::Clock;
use crate::device_session::{self, DeviceSession};
use crate::flow_book::{Command, FlowBook, Reported};
use crate::keys::ONLY;
use crate::storage::{FlowFilter, Storage};
use crate::testing::{Database, Memory, a_flow, noon};

const KEEP: Duration = Duration::from_secs(3600);

fn rows() -> [Row<()>; 2] {
    ["FlowBook", "DeviceSession"].map(|kind| Row {
        kind,
        parent: "-",
        each: "test",
        lane: LaneKind::Control,
        mailbox: 64,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 5, within: Duration::from_secs(60) },
        start: None,
    })
}

struct Stage {
    universe: Universe,
    session: Inbox<DeviceSession>,
    book: Address<FlowBook>,
    account: AccountId,
    gateway: GatewayId,
}

impl Stage {
    fn over(universe: Universe, storage: Arc<dyn Storage>, account: AccountId) -> Self {
        let session = universe.inbox::<DeviceSession>("");
        let clock = Clock::From(noon(), universe.instant());
        let book = universe.start(ONLY, move || FlowBook::new(storage.clone(), clock, KEEP)).unwrap().address;
        Self { universe, session, book, account, gateway: GatewayId::fresh() }
    }

    fn report(&self, stream: u64, sequence: u64) {
        let batch = Box::new(FlowBatch { stream, sequence, flows: vec![a_flow(sequence)] });
        let (account, gateway, session) = (self.account, self.gateway, self.session.address());
        self.book.tell(Command::Store(Reported { account, gateway, session, batch })).unwrap();
    }

    /// Batches that were confirmed, once there are so many.
    fn confirmed(&self, wanted: usize) -> Vec<(u64, u64)> {
        let mut confirmed = Vec::new();
        let until = std::time::Instant::now() + Duration::from_secs(10);
        while confirmed.len() < wanted && std::time::Instant::now() < until {
            self.universe.settle();
            confirmed.extend(self.session.take_all().into_iter().map(|command| match command {
                device_session::Command::Deliver(message) => match *message {
                    ToNode::FlowsStored { stream, sequence } => (stream, sequence),
                    other => panic!("{other:?}"),
                },
                other => panic!("{other:?}"),
            }));
            std::thread::sleep(Duration::from_millis(1));
        }
        confirmed
    }
}

#[test]
fn batches_are_stored_in_their_order_and_confirmed_and_what_comes_twice_is_stored_once() {
    let universe = Universe::new(&rows());
    let db = universe.block_on(Database::new());
    let (account, storage) = (db.account, Arc::new(db.storage));
    let stage = Stage::over(universe, storage.clone(), account);

    for sequence in [1, 2, 2, 1, 3] {
        stage.report(7, sequence);
    }
    let confirmed = stage.confirmed(5);

    assert_eq!(confirmed, [(7, 1), (7, 2), (7, 2), (7, 1), (7, 3)]);
    let filter = FlowFilter { limit: 100, ..FlowFilter::default() };
    let stored = stage.universe.block_on(storage.flows(account, filter)).unwrap();
    assert_eq!(stored.iter().map(|stored| stored.flow.bytes_in).collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn what_cannot_be_stored_is_not_confirmed() {
    let storage = Arc::new(Memory(std::sync::Mutex::default()));
    let stage = Stage::over(Universe::new(&rows()), storage, AccountId::fresh());

    stage.report(7, 1);
    stage.universe.settle();

    assert!(stage.session.take_all().is_empty());
    // The next is tried all the same.
    stage.report(7, 2);
    stage.universe.settle();
    assert!(stage.session.take_all().is_empty());
}

#[test]
fn one_gateway_does_not_fill_the_book() {
    let storage = Arc::new(Memory(std::sync::Mutex::default()));
    let stage = Stage::over(Universe::new(&rows()), storage, AccountId::fresh());

    (0..20).for_each(|sequence| stage.report(7, sequence));
    stage.universe.settle();

    let dropped = stage.universe.registry().drops();
    assert_eq!(dropped.get("flow_book_full").copied(), Some(12), "{dropped:?}");
}

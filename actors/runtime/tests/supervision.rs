//! What a panic costs, and what it does not.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cast;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Child, Full, How, Restart, Universe};
use cast::{Do, Event, Log, POISON, Peer, Table, TableDo, peer, rows, rows_with, table};

/// Long enough for any back-off.
const A_WHILE: Duration = Duration::from_secs(10);

struct Family {
    universe: Universe,
    log: Log,
    parent: Child<Table>,
    children: Rc<RefCell<Vec<Child<Peer>>>>,
}

/// A table with peers `a` and `b`.
fn family() -> Family {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let children = Rc::new(RefCell::new(Vec::new()));
    let parent = universe.start("", table(&log, &children)).unwrap();
    parent.address.tell(TableDo::Add("a")).unwrap();
    parent.address.tell(TableDo::Add("b")).unwrap();
    universe.settle();
    Family { universe, log, parent, children }
}

impl Family {
    fn child(&self, place: usize) -> Child<Peer> {
        self.children.borrow()[place].clone()
    }

    fn restarts(&self, kind: &str) -> u64 {
        self.universe.registry().restarts()[kind]
    }

    fn living(&self) -> Vec<String> {
        self.universe.registry().snapshot().iter().map(|row| format!("{}/{}", row.kind, row.key)).collect()
    }
}

#[test]
fn a_panicking_peer_loses_no_other_peers_packets() {
    let family = family();
    let (a, b) = (family.child(0), family.child(1));

    for packet in 0..4 {
        a.packets.as_ref().unwrap().push(vec![packet]).unwrap();
        b.packets.as_ref().unwrap().push(vec![packet]).unwrap();
    }
    a.address.tell(Do::Panic).unwrap();
    family.universe.advance(A_WHILE);

    assert_eq!(family.log.packets("b"), [0, 1, 2, 3]);
    assert_eq!(family.log.packets("a"), [0, 1, 2, 3], "its own ring outlives the panic too");
    assert_eq!(family.restarts("Peer"), 1);
    assert_eq!(family.restarts("Table"), 0);
    assert_eq!(family.log.starts("b"), 1);
}

#[test]
fn a_packet_that_is_not_survived_costs_its_batch_and_is_counted() {
    let family = family();
    let ring = family.child(0).packets.unwrap();

    ring.push(vec![1, POISON, 2]).unwrap();
    ring.push(vec![3]).unwrap();
    family.universe.advance(A_WHILE);

    assert_eq!(family.log.packets("a"), [1, 3]);
    assert_eq!(family.universe.registry().drops()["actor_panicked"], 3);
}

#[test]
fn commands_queued_behind_a_panic_survive_it() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let child = universe.start("a", peer(&log)).unwrap();

    for command in [Do::Note(1), Do::Panic, Do::Note(2), Do::Note(3)] {
        child.address.tell(command).unwrap();
    }
    universe.advance(A_WHILE);

    assert_eq!(log.notes("a"), [1, 2, 3]);
    assert_eq!(log.starts("a"), 2);
    let row = &universe.registry().snapshot()[0];
    assert_eq!(
        (row.handled, row.dropped, row.restarts),
        (4, 1, 1),
        "the command in hand is lost and counted"
    );
}

#[test]
fn a_panic_backs_off_before_the_restart() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let child = universe.start("a", peer(&log)).unwrap();

    child.address.tell(Do::Panic).unwrap();
    universe.settle();

    assert_eq!(log.starts("a"), 1);
    let pause = universe.advance_to_deadline().unwrap();
    assert!((Duration::from_millis(20)..=Duration::from_millis(40)).contains(&pause), "{pause:?}");
    assert_eq!(log.starts("a"), 2);
}

#[test]
fn a_panic_in_a_future_is_the_actors() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let child = universe.start("a", peer(&log)).unwrap();

    child.address.tell(Do::PanicInFuture).unwrap();
    child.address.tell(Do::Note(1)).unwrap();
    universe.advance(A_WHILE);

    assert_eq!(log.starts("a"), 2);
    assert_eq!(log.notes("a"), [1]);
}

#[test]
fn futures_and_deadlines_end_with_their_incarnation() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let child = universe.start("a", peer(&log)).unwrap();

    child.address.tell(Do::FinishLater(1)).unwrap();
    child.address.tell(Do::WakeAfter(Duration::from_secs(2))).unwrap();
    child.address.tell(Do::Panic).unwrap();
    universe.advance(A_WHILE);

    assert_eq!(log.of("a"), [Event::Started, Event::Started]);
}

#[test]
fn a_panic_loop_escalates_to_the_parent_and_then_to_the_process() {
    let family = family();

    // The row allows a peer 3 restarts, the table 1.
    for _ in 0..4 {
        family.child(0).address.tell(Do::Panic).unwrap();
        family.universe.advance(A_WHILE);
    }

    assert_eq!(family.restarts("Table"), 1, "the fourth panic of one peer took its parent along");
    assert_eq!(family.log.starts("b"), 2, "the parent started its children anew");
    assert!(family.log.of("b").contains(&Event::Stopped), "and the old ones were stopped first");
    assert!(family.universe.gave_up().is_empty());

    for _ in 0..4 {
        family.child(0).address.tell(Do::Panic).unwrap();
        family.universe.advance(A_WHILE);
    }

    assert_eq!(family.universe.gave_up(), [("Table", String::new())]);
    assert!(family.living().is_empty(), "{:?}", family.living());
    assert!(family.parent.address.has_ended());
}

#[test]
fn children_end_before_their_parent_starts_again() {
    let family = family();

    family.parent.address.tell(TableDo::Panic).unwrap();
    family.universe.advance(A_WHILE);

    let order: Vec<_> = family
        .log
        .all()
        .into_iter()
        .filter(|(_, event)| matches!(event, Event::Started | Event::Stopped))
        .skip(3)
        .collect();
    assert_eq!(
        &order[2..],
        [
            ("table".to_string(), Event::Started),
            ("a".to_string(), Event::Started),
            ("b".to_string(), Event::Started)
        ]
    );
    assert!(order[..2].iter().all(|(_, event)| *event == Event::Stopped));
    assert_eq!(family.living(), ["Table/", "Peer/a", "Peer/b"]);
}

#[test]
fn an_actor_that_is_never_restarted_ends_alone() {
    let universe = Universe::new(&rows_with(8, Full::Refuse, Restart::Never, 3));
    let log = Log::default();
    let children = Rc::new(RefCell::new(Vec::new()));
    let parent = universe.start("", table(&log, &children)).unwrap();
    parent.address.tell(TableDo::Add("a")).unwrap();
    universe.settle();
    let child = children.borrow()[0].clone();

    child.address.tell(Do::Panic).unwrap();
    child.address.tell(Do::Note(1)).unwrap();
    child.packets.as_ref().unwrap().push(vec![1, 2]).unwrap();
    universe.advance(A_WHILE);

    assert_eq!(log.of("end of a"), [Event::ChildEnded(How::Failed)]);
    assert_eq!(log.starts("table"), 1);
    assert!(child.address.has_ended());
    assert!(child.address.tell(Do::Note(2)).is_err());
    assert!(child.packets.unwrap().push(vec![3]).is_err());
    assert_eq!(universe.registry().drops()["actor_ended"], 2);
}

#[test]
fn a_stopped_child_is_told_and_reported_once_it_is_gone() {
    let family = family();

    family.parent.address.tell(TableDo::Remove("a")).unwrap();
    family.universe.settle();

    assert_eq!(family.log.of("a"), [Event::Started, Event::Stopped]);
    assert_eq!(family.log.of("end of a"), [Event::ChildEnded(How::Stopped)]);
    assert_eq!(family.living(), ["Table/", "Peer/b"]);
}

#[test]
fn a_successor_may_take_the_key_of_a_child_that_is_leaving() {
    let family = family();

    family.parent.address.tell(TableDo::Remove("a")).unwrap();
    family.parent.address.tell(TableDo::Add("a")).unwrap();
    family.universe.settle();

    assert_eq!(family.log.starts("a"), 2);
    assert!(family.log.of("end of a").is_empty(), "the key lives on");
    family.child(2).packets.unwrap().push(vec![7]).unwrap();
    family.universe.settle();
    assert_eq!(family.log.packets("a"), [7], "the successor has a packet mailbox of its own");
}

#[test]
fn stopping_interrupts_a_back_off() {
    let family = family();
    let child = family.child(0);
    child.address.tell(Do::Panic).unwrap();
    family.universe.settle();

    family.universe.stop(&child.address);

    assert!(child.address.has_ended());
    assert_eq!(family.log.of("end of a"), [Event::ChildEnded(How::Stopped)]);
}

#[test]
fn a_parent_that_stops_takes_its_children_along_first() {
    let family = family();

    family.parent.address.tell(TableDo::Stop).unwrap();
    family.universe.settle();

    let stops: Vec<_> = family
        .log
        .all()
        .into_iter()
        .filter(|(_, event)| *event == Event::Stopped)
        .map(|(who, _)| who)
        .collect();
    assert_eq!(stops.len(), 3);
    assert_eq!(stops[2], "table");
    assert!(family.universe.gave_up().is_empty());
}

#[test]
fn a_death_is_watched_also_by_those_who_come_late() {
    let family = family();
    let (a, b) = (family.child(0), family.child(1));

    // `b` notes the end of `a`: 1 for stopped.
    b.address.tell(Do::Watch(a.address.clone())).unwrap();
    a.address.tell(Do::Panic).unwrap();
    family.universe.advance(A_WHILE);
    assert!(family.log.notes("b").is_empty(), "a restart is not an end");

    a.address.tell(Do::Stop).unwrap();
    family.universe.settle();
    assert_eq!(family.log.notes("b"), [1]);

    b.address.tell(Do::Watch(a.address.clone())).unwrap();
    family.universe.settle();
    assert_eq!(family.log.notes("b"), [1, 1]);
}

#[test]
fn a_factory_that_panics_is_tried_again() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let mut attempts = 0;
    let mut make = peer(&log);
    universe
        .start("a", move || {
            attempts += 1;
            assert!(attempts > 2, "not yet");
            make()
        })
        .unwrap();

    universe.advance(A_WHILE);

    assert_eq!(log.starts("a"), 1);
    assert_eq!(universe.registry().restarts()["Peer"], 2);
}

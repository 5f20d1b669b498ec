//! What a panic costs, and what it does not.

mod cast;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Full, Universe};
use cast::{Do, Log, TableDo, peer, rows, table};

/// Long enough for any back-off.
const A_WHILE: Duration = Duration::from_secs(10);

#[test]
fn a_panicking_peer_loses_no_other_peers_packets() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let children = Rc::new(RefCell::new(Vec::new()));
    let parent = universe.start("", table(&log, &children)).unwrap();
    parent.address.tell(TableDo::Add("a")).unwrap();
    parent.address.tell(TableDo::Add("b")).unwrap();
    universe.settle();
    let (a, b) = (children.borrow()[0].clone(), children.borrow()[1].clone());

    for packet in 0..4 {
        a.packets.as_ref().unwrap().push(vec![packet]).unwrap();
        b.packets.as_ref().unwrap().push(vec![packet]).unwrap();
    }
    a.address.tell(Do::Panic).unwrap();
    universe.advance(A_WHILE);

    assert_eq!(log.packets("b"), [0, 1, 2, 3]);
    assert_eq!(log.packets("a"), [0, 1, 2, 3], "its own ring outlives the panic too");
    assert_eq!(universe.registry().restarts()["Peer"], 1);
    assert_eq!(universe.registry().restarts()["Table"], 0);
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

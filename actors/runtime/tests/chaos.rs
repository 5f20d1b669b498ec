//! Deliberate faults, which releases do not have.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(feature = "chaos")]

mod cast;

use std::time::Duration;

use actors_runtime::{Disturbance, Full, Universe};
use cast::{Do, Log, peer, rows};

#[test]
fn a_deliberate_panic_hits_one_actor() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    universe.start("a", peer(&log)).unwrap();
    universe.start("b", peer(&log)).unwrap();

    assert!(universe.registry().disturb("Peer", "a", Disturbance::Panic));
    assert!(!universe.registry().disturb("Peer", "c", Disturbance::Panic));
    universe.advance(Duration::from_secs(1));

    assert_eq!((log.starts("a"), log.starts("b")), (2, 1));
}

#[test]
fn a_stalled_actor_handles_nothing_while_its_mailbox_fills() {
    let universe = Universe::new(&rows(2, Full::Refuse));
    let log = Log::default();
    let peer = universe.start("a", peer(&log)).unwrap();
    universe.settle();

    universe.registry().disturb("Peer", "a", Disturbance::Stall(Duration::from_secs(10)));
    universe.advance(Duration::from_secs(1));
    peer.address.tell(Do::Note(1)).unwrap();
    peer.address.tell(Do::Note(2)).unwrap();
    assert!(peer.address.tell(Do::Note(3)).is_err());
    universe.advance(Duration::from_secs(8));
    assert!(log.notes("a").is_empty());

    universe.advance(Duration::from_secs(1));
    assert_eq!(log.notes("a"), [1, 2]);
}

//! What a full mailbox does, and who has to wait for whom.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod cast;

use std::time::Duration;

use actors_runtime::{Child, Full, Rejected, Universe, handover};
use cast::{Do, Event, Log, Peer, peer, rows};

fn one_peer(mailbox: usize, full: Full) -> (Universe, Log, Child<Peer>) {
    let universe = Universe::new(&rows(mailbox, full));
    let log = Log::default();
    let child = universe.start("a", peer(&log)).unwrap();
    universe.settle();
    (universe, log, child)
}

#[test]
fn drop_newest_keeps_what_waits() {
    let (universe, log, peer) = one_peer(2, Full::DropNewest);

    for number in 1..=4 {
        peer.address.tell(Do::Note(number)).unwrap();
    }
    universe.settle();

    assert_eq!(log.notes("a"), [1, 2]);
    assert_eq!(universe.registry().snapshot()[0].dropped, 2);
}

#[test]
fn drop_oldest_keeps_what_came_last() {
    let (universe, log, peer) = one_peer(2, Full::DropOldest);

    for number in 1..=4 {
        peer.address.tell(Do::Note(number)).unwrap();
    }
    universe.settle();

    assert_eq!(log.notes("a"), [3, 4]);
    assert_eq!(universe.registry().snapshot()[0].dropped, 2);
}

#[test]
fn refuse_gives_the_command_back() {
    let (universe, log, peer) = one_peer(2, Full::Refuse);

    peer.address.tell(Do::Note(1)).unwrap();
    peer.address.tell(Do::Note(2)).unwrap();
    let refused = peer.address.tell(Do::Note(3));

    assert!(matches!(refused, Err(Rejected::Full(Do::Note(3)))));
    assert_eq!(peer.address.depth(), 2);
    universe.settle();
    assert_eq!(log.notes("a"), [1, 2]);
    assert_eq!(universe.registry().snapshot()[0].dropped, 1);
}

#[test]
fn latest_wins_and_the_others_count_as_coalesced() {
    let (universe, log, peer) = one_peer(1, Full::Latest);

    for number in 1..=4 {
        peer.address.tell(Do::Note(number)).unwrap();
    }
    universe.settle();

    assert_eq!(log.notes("a"), [4]);
    let row = &universe.registry().snapshot()[0];
    assert_eq!((row.handled, row.coalesced, row.dropped), (1, 3, 0));
}

#[test]
fn a_full_ring_gives_the_batch_back() {
    let (universe, log, peer) = one_peer(2, Full::Refuse);
    let ring = peer.packets.unwrap();

    for packet in 0..4 {
        ring.push(vec![packet]).unwrap();
    }

    assert!(ring.is_full());
    assert_eq!(ring.push(vec![4]), Err(vec![4]));
    universe.settle();
    assert_eq!(log.packets("a"), [0, 1, 2, 3]);
    assert_eq!(universe.registry().snapshot()[0].dropped, 1);
}

#[test]
fn a_hot_neighbour_delays_nobody_by_more_than_one_turn() {
    let universe = Universe::new(&rows(4096, Full::Refuse));
    let log = Log::default();
    let hot = universe.start("hot", peer(&log)).unwrap();
    let calm = universe.start("calm", peer(&log)).unwrap();
    universe.settle();

    for number in 0..4000 {
        hot.address.tell(Do::Note(number)).unwrap();
    }
    calm.address.tell(Do::Note(0)).unwrap();
    calm.packets.unwrap().push(vec![0]).unwrap();
    universe.settle();

    let before = |event| log.all().iter().position(|entry| *entry == ("calm".to_string(), event)).unwrap();
    let (started, budget) = (2, 64);
    assert!(before(Event::Note(0)) <= started + budget, "{}", before(Event::Note(0)));
    assert!(before(Event::Packet(0)) <= started + 2 * budget + 1, "{}", before(Event::Packet(0)));
    assert_eq!(log.notes("hot").len(), 4000);
}

#[test]
fn an_actor_that_keeps_telling_itself_delays_nobody_by_more_than_one_turn() {
    let universe = Universe::new(&rows(16, Full::Refuse));
    let log = Log::default();
    let hot = universe.start("hot", peer(&log)).unwrap();
    let calm = universe.start("calm", peer(&log)).unwrap();
    universe.settle();

    hot.address.tell(Do::CountDown(10_000)).unwrap();
    calm.address.tell(Do::Note(0)).unwrap();
    universe.settle();

    let place = log.all().iter().position(|entry| *entry == ("calm".to_string(), Event::Note(0))).unwrap();
    assert!(place <= 2 + 64, "{place}");
    assert_eq!(log.notes("hot").len(), 10_001);
}

#[test]
fn control_comes_before_packets_but_does_not_starve_them() {
    let universe = Universe::new(&rows(4096, Full::Refuse));
    let log = Log::default();
    let peer = universe.start("a", peer(&log)).unwrap();
    universe.settle();

    peer.packets.as_ref().unwrap().push(vec![0]).unwrap();
    for number in 0..1000 {
        peer.address.tell(Do::Note(number)).unwrap();
    }
    universe.settle();

    let events = log.of("a");
    assert_eq!(events[1], Event::Note(0));
    let place = events.iter().position(|event| *event == Event::Packet(0)).unwrap();
    assert_eq!(place, 1 + 64, "after one budget of commands");
}

#[test]
fn a_flood_of_packets_does_not_hold_up_a_command() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let peer = universe.start("a", peer(&log)).unwrap();
    universe.settle();

    for packet in 0..4 {
        peer.packets.as_ref().unwrap().push(vec![packet]).unwrap();
    }
    peer.address.tell(Do::Note(9)).unwrap();
    universe.settle();

    assert_eq!(log.of("a")[1], Event::Note(9));
}

#[test]
fn a_deadline_is_kept_moved_and_cleared() {
    let (universe, log, peer) = one_peer(8, Full::Refuse);
    let woken = || log.of("a").iter().filter(|event| **event == Event::Woken).count();

    peer.address.tell(Do::WakeAfter(Duration::from_secs(5))).unwrap();
    universe.advance(Duration::from_secs(4));
    peer.address.tell(Do::WakeAfter(Duration::from_secs(5))).unwrap();
    universe.advance(Duration::from_secs(4));
    assert_eq!(woken(), 0, "it was moved away");

    peer.address.tell(Do::WakeAfter(Duration::from_millis(10))).unwrap();
    universe.settle();
    assert_eq!(universe.next_deadline(), Some(Duration::from_millis(10)));
    universe.advance(Duration::from_millis(10));
    assert_eq!(woken(), 1);

    peer.address.tell(Do::WakeAfter(Duration::from_secs(1))).unwrap();
    peer.address.tell(Do::WakeNever).unwrap();
    universe.advance(Duration::from_secs(60));
    assert_eq!(woken(), 1);
    assert_eq!(universe.next_deadline(), None, "nothing wakes it for no reason");
}

#[test]
fn what_waits_in_a_handover_survives_a_restart() {
    let universe = Universe::new(&rows(8, Full::Refuse));
    let log = Log::default();
    let (sender, receiver) = handover::<Vec<u32>>(8);
    let mut make = peer(&log);
    let peer = universe
        .start("a", move || {
            let mut peer = make();
            peer.incoming = Some(receiver.clone());
            peer
        })
        .unwrap();
    universe.settle();

    sender.push(vec![1]).unwrap();
    universe.settle();
    peer.address.tell(Do::Panic).unwrap();
    universe.settle();
    sender.push(vec![2]).unwrap();
    universe.advance(Duration::from_secs(1));

    assert_eq!(log.packets("a"), [1, 2]);
}

#[test]
fn a_message_for_an_actor_that_has_ended_comes_back() {
    let (universe, _, peer) = one_peer(8, Full::Refuse);
    universe.stop(&peer.address);

    assert!(matches!(peer.address.tell(Do::Note(1)), Err(Rejected::Ended(Do::Note(1)))));
}

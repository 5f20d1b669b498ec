//! A reader that always has more does not keep the event loop from looking at the descriptors of others.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Cx, Full, Intensity, LaneKind, Never, Restart, Row, Universe};
use futures_util::stream;
use tokio::net::UdpSocket;

/// Items of the busy reader before the datagram is sent, and so many more at most until it is seen.
const SENT_AT: u32 = 100;
const AT_MOST: u32 = 4;

fn row(kind: &'static str) -> Row<()> {
    Row {
        kind,
        parent: "-",
        each: "one",
        lane: LaneKind::Packet,
        mailbox: 4,
        full: Full::Refuse,
        ring: 0,
        restart: Restart::Always,
        intensity: Intensity { restarts: 1, within: Duration::from_secs(1) },
        start: None,
    }
}

/// Always has another item, and sends a datagram at one of them.
struct Busy {
    items: Rc<Cell<u32>>,
    sender: Rc<std::net::UdpSocket>,
}

impl Actor for Busy {
    const KIND: &'static str = "Busy";
    type Command = Never;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        cx.follow(stream::iter(1..=10 * SENT_AT), |busy, item, _| {
            busy.items.set(item);
            if item == SENT_AT {
                busy.sender.send(b"here").unwrap();
            }
        });
    }

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }
}

/// Notes how far the busy one is when the datagram comes.
struct Waiting {
    items: Rc<Cell<u32>>,
    seen_at: Rc<Cell<u32>>,
    receiver: Rc<UdpSocket>,
}

impl Actor for Waiting {
    const KIND: &'static str = "Waiting";
    type Command = Never;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        let receiver = self.receiver.clone();
        let datagrams = stream::unfold(receiver, async |receiver| {
            let mut datagram = [0; 16];
            let received = receiver.recv(&mut datagram).await.ok();
            received.map(|length| (length, receiver))
        });
        cx.follow(datagrams, |waiting, _, _| waiting.seen_at.set(waiting.items.get()));
    }

    fn told(&mut self, command: Never, _: &mut Cx<Self>) {
        match command {}
    }
}

#[test]
fn a_reader_that_always_has_more_is_no_reason_to_miss_a_datagram() {
    let universe = Universe::new(&[row("Busy"), row("Waiting")]);
    let (items, seen_at) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let receiver = Rc::new(universe.block_on(async { UdpSocket::bind("127.0.0.1:0").await.unwrap() }));
    let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    sender.connect(receiver.local_addr().unwrap()).unwrap();
    let sender = Rc::new(sender);
    let (count, seen) = (items.clone(), seen_at.clone());
    universe
        .start("0", move || Waiting {
            items: count.clone(),
            seen_at: seen.clone(),
            receiver: receiver.clone(),
        })
        .unwrap();
    universe.settle();
    let count = items.clone();
    universe.start("0", move || Busy { items: count.clone(), sender: sender.clone() }).unwrap();

    universe.settle();

    assert_eq!(items.get(), 10 * SENT_AT);
    let late = seen_at.get().checked_sub(SENT_AT).expect("the datagram was seen");
    assert!(late <= AT_MOST, "seen {late} items after it was sent");
}

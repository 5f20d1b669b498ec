//! The queue itself.

use std::collections::VecDeque;
use std::time::Duration;

use crate::codel::{Codel, Fate};

/// Places for flows; a power of two.
const FLOWS: usize = 1024;
/// Places that a flow may take.
const WAYS: usize = 4;
/// Bytes that a peer or a flow may send before it is another's turn.
const QUANTUM: i32 = 16 << 10;
/// What waits up to this size is no queue: one super-packet.
const SHORT: usize = 1 << 16;
/// Items that the fattest flow loses at most when there is no room, so that looking for it is rare.
const SHED: usize = 32;
/// No entry, no flow.
const NONE: u32 = u32::MAX;

/// What can wait.
pub trait Waiting {
    /// Bytes on the wire, which a turn is measured in.
    fn cost(&self) -> usize;
    /// Bytes of memory that it holds while it waits.
    fn held(&self) -> usize;
    /// Marks it as having met congestion; `false` when its transport would not understand.
    fn mark(&mut self) -> bool;
}

/// Why something that waited is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Its flow's queue stood for too long.
    Stood,
    /// There was no room, and its flow had most waiting.
    NoRoom,
}

impl Loss {
    /// The name of its counter.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Stood => "queue_stood",
            Self::NoRoom => "queue_full",
        }
    }
}

/// Which list of its peer a flow is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Listed {
    No,
    New,
    Old,
}

struct Entry<T> {
    item: Option<T>,
    peer: u16,
    since: Duration,
    next: u32,
}

struct Flow {
    peer: u16,
    tag: u32,
    listed: Listed,
    /// The next flow on its list.
    next: u32,
    deficit: i32,
    first: u32,
    last: u32,
    cost: usize,
    codel: Codel,
}

/// Flows in order.
#[derive(Clone, Copy)]
struct List {
    first: u32,
    last: u32,
}

struct Peer {
    deficit: i32,
    active: bool,
    new: List,
    old: List,
}

/// See the crate's documentation.
pub struct FairQueue<T> {
    entries: Vec<Entry<T>>,
    free: u32,
    flows: Box<[Flow]>,
    peers: Vec<Peer>,
    /// Peers with flows on a list, the next first.
    turns: VecDeque<u16>,
    waiting: usize,
    held: usize,
    room: usize,
}

impl List {
    const EMPTY: Self = Self { first: NONE, last: NONE };
}

impl<T: Waiting> FairQueue<T> {
    /// A queue that holds about `room` bytes of memory at most.
    pub fn new(room: usize) -> Self {
        let flow = || Flow {
            peer: 0,
            tag: 0,
            listed: Listed::No,
            next: NONE,
            deficit: 0,
            first: NONE,
            last: NONE,
            cost: 0,
            codel: Codel::default(),
        };
        Self {
            entries: Vec::new(),
            free: NONE,
            flows: std::iter::repeat_with(flow).take(FLOWS).collect(),
            peers: Vec::new(),
            turns: VecDeque::new(),
            waiting: 0,
            held: 0,
            room,
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Lets `item` of `peer` wait behind what else waits of its flow, which `tag` names. `lost` takes what has to go.
    pub fn push(&mut self, peer: u16, tag: u32, item: T, now: Duration, lost: &mut impl FnMut(T, Loss)) {
        let (cost, held) = (item.cost(), item.held());
        let place = self.place(peer, tag);
        let entry = self.entry(Entry { item: Some(item), peer, since: now, next: NONE });
        let Some(flow) = self.flows.get_mut(place) else { return };
        let last = std::mem::replace(&mut flow.last, entry);
        if last == NONE {
            flow.first = entry;
        } else if let Some(last) = self.entries.get_mut(last as usize) {
            last.next = entry;
        }
        flow.cost += cost;
        if flow.listed == Listed::No {
            flow.listed = Listed::New;
            flow.deficit = QUANTUM;
            (flow.peer, flow.tag) = (peer, tag);
            self.list(place as u32, Listed::New);
        }
        self.waiting += 1;
        self.held += held;
        if self.held > self.room {
            self.shed(lost);
        }
    }

    /// Takes the item whose turn it is, and whose it is. `lost` takes what is lost on the way to it.
    pub fn pop(&mut self, now: Duration, lost: &mut impl FnMut(T, Loss)) -> Option<(u16, T)> {
        while let Some(turn) = self.turns.front().copied() {
            let peer = self.peers.get_mut(usize::from(turn))?;
            if peer.deficit <= 0 {
                peer.deficit += QUANTUM;
                self.turns.rotate_left(1);
                continue;
            }
            if let Some((owner, item)) = self.pop_of(turn, now, lost) {
                let cost = i32::try_from(item.cost()).unwrap_or(i32::MAX);
                let peer = self.peers.get_mut(usize::from(turn))?;
                peer.deficit = peer.deficit.saturating_sub(cost);
                return Some((owner, item));
            }
            self.turns.pop_front();
            self.peers.get_mut(usize::from(turn))?.active = false;
        }
        None
    }

    /// Loses everything that waits for a peer, without telling of it one by one; says how many items it was.
    pub fn forget(&mut self, peer: u16) -> usize {
        let before = self.waiting;
        for place in 0..self.flows.len() {
            while self.flows.get(place).is_some_and(|flow| flow.peer == peer && flow.first != NONE) {
                drop(self.take(place as u32));
            }
        }
        before - self.waiting
    }

    /// Where a flow is, or comes: flows that share a place because all of its places are taken share a turn too.
    fn place(&self, peer: u16, tag: u32) -> usize {
        let mixed = (tag ^ u32::from(peer).wrapping_mul(0x9e37_79b1)).wrapping_mul(0x85eb_ca6b);
        let start = (mixed >> 16) as usize;
        let ways = (0..WAYS).map(|way| (start + way) % FLOWS);
        let mut unused = None;
        for place in ways {
            let Some(flow) = self.flows.get(place) else { continue };
            if flow.listed == Listed::No {
                unused = unused.or(Some(place));
            } else if (flow.peer, flow.tag) == (peer, tag) {
                return place;
            }
        }
        unused.unwrap_or(start % FLOWS)
    }

    fn entry(&mut self, entry: Entry<T>) -> u32 {
        let free = self.free;
        if let Some(slot) = self.entries.get_mut(free as usize) {
            self.free = slot.next;
            *slot = entry;
            return free;
        }
        self.entries.push(entry);
        (self.entries.len() - 1) as u32
    }

    fn peer(&mut self, peer: u16) -> &mut Peer {
        let at = usize::from(peer);
        if self.peers.len() <= at {
            let none = || Peer { deficit: 0, active: false, new: List::EMPTY, old: List::EMPTY };
            self.peers.resize_with(at + 1, none);
        }
        &mut self.peers[at]
    }

    /// Puts a flow at the end of a list of its peer.
    fn list(&mut self, place: u32, listed: Listed) {
        let Some(flow) = self.flows.get_mut(place as usize) else { return };
        (flow.listed, flow.next) = (listed, NONE);
        let owner = flow.peer;
        let peer = self.peer(owner);
        let list = if listed == Listed::New { &mut peer.new } else { &mut peer.old };
        let last = std::mem::replace(&mut list.last, place);
        if last == NONE {
            list.first = place;
        }
        if !std::mem::replace(&mut peer.active, true) {
            // What it took too much when it was here last is not forgotten.
            peer.deficit = peer.deficit.saturating_add(QUANTUM).min(QUANTUM);
            self.turns.push_back(owner);
        }
        if let Some(last) = self.flows.get_mut(last as usize) {
            last.next = place;
        }
    }

    /// Takes the first flow off a list.
    fn unlist(&mut self, peer: u16, listed: Listed) {
        let Some(peer) = self.peers.get_mut(usize::from(peer)) else { return };
        let list = if listed == Listed::New { &mut peer.new } else { &mut peer.old };
        let Some(flow) = self.flows.get_mut(list.first as usize) else { return };
        flow.listed = Listed::No;
        let next = std::mem::replace(&mut flow.next, NONE);
        list.first = next;
        if next == NONE {
            list.last = NONE;
        }
    }

    fn pop_of(&mut self, turn: u16, now: Duration, lost: &mut impl FnMut(T, Loss)) -> Option<(u16, T)> {
        loop {
            let peer = self.peer(turn);
            let (place, listed) = match (peer.new.first, peer.old.first) {
                (NONE, NONE) => return None,
                (NONE, old) => (old, Listed::Old),
                (new, _) => (new, Listed::New),
            };
            let others = peer.old.first != NONE;
            let flow = self.flows.get_mut(place as usize)?;
            if flow.deficit <= 0 {
                flow.deficit += QUANTUM;
                self.unlist(turn, listed);
                self.list(place, Listed::Old);
                continue;
            }
            let Some((owner, item)) = self.controlled(place, now, lost) else {
                self.unlist(turn, listed);
                // A new flow waits behind the old ones once, so that it cannot be new again and again.
                if listed == Listed::New && others {
                    self.list(place, Listed::Old);
                }
                continue;
            };
            let cost = i32::try_from(item.cost()).unwrap_or(i32::MAX);
            if let Some(flow) = self.flows.get_mut(place as usize) {
                flow.deficit = flow.deficit.saturating_sub(cost);
            }
            return Some((owner, item));
        }
    }

    /// The next item of a flow that its controller lets go.
    fn controlled(&mut self, place: u32, now: Duration, lost: &mut impl FnMut(T, Loss)) -> Option<(u16, T)> {
        loop {
            let Some((owner, since, mut item)) = self.take(place) else {
                self.flows.get_mut(place as usize)?.codel.emptied();
                return None;
            };
            let flow = self.flows.get_mut(place as usize)?;
            let fate = flow.codel.judge(now.saturating_sub(since), flow.cost < SHORT, now);
            if fate == Fate::Goes || item.mark() {
                return Some((owner, item));
            }
            lost(item, Loss::Stood);
        }
    }

    /// The first item of a flow.
    fn take(&mut self, place: u32) -> Option<(u16, Duration, T)> {
        let flow = self.flows.get_mut(place as usize)?;
        let at = flow.first;
        let entry = self.entries.get_mut(at as usize)?;
        let item = entry.item.take()?;
        flow.first = std::mem::replace(&mut entry.next, self.free);
        if flow.first == NONE {
            flow.last = NONE;
        }
        flow.cost = flow.cost.saturating_sub(item.cost());
        self.free = at;
        self.waiting -= 1;
        self.held = self.held.saturating_sub(item.held());
        Some((entry.peer, entry.since, item))
    }

    /// Makes room: the flow that has most waiting loses, from its head, so that its sender learns of it soon.
    fn shed(&mut self, lost: &mut impl FnMut(T, Loss)) {
        let Some((place, flow)) = self.flows.iter().enumerate().max_by_key(|(_, flow)| flow.cost) else {
            return;
        };
        let (place, enough) = (place as u32, flow.cost / 2);
        for _ in 0..SHED {
            let Some((_, _, item)) = self.take(place) else { return };
            lost(item, Loss::NoRoom);
            let left = self.flows.get(place as usize).map_or(0, |flow| flow.cost);
            if left <= enough && self.held <= self.room {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Item {
        flow: u32,
        number: u32,
        bytes: usize,
        understands: bool,
        marked: bool,
    }

    impl Waiting for Item {
        fn cost(&self) -> usize {
            self.bytes
        }

        fn held(&self) -> usize {
            self.bytes
        }

        fn mark(&mut self) -> bool {
            self.marked |= self.understands;
            self.understands
        }
    }

    fn item(flow: u32, number: u32, bytes: usize) -> Item {
        Item { flow, number, bytes, understands: false, marked: false }
    }

    fn none(item: Item, loss: Loss) {
        panic!("lost {item:?}: {loss:?}");
    }

    fn pop(queue: &mut FairQueue<Item>, now: Duration) -> Option<(u16, Item)> {
        queue.pop(now, &mut none)
    }

    #[test]
    fn what_is_alone_goes_through_in_order() {
        let mut queue = FairQueue::new(1 << 20);
        for number in 0..10 {
            queue.push(3, 7, item(7, number, 1000), MS, &mut none);
        }

        let out: Vec<_> = std::iter::from_fn(|| pop(&mut queue, MS)).collect();

        assert_eq!(
            out.iter().map(|(peer, item)| (*peer, item.number)).collect::<Vec<_>>(),
            (0..10).map(|n| (3, n)).collect::<Vec<_>>()
        );
        assert!(queue.is_empty());
    }

    #[test]
    fn a_small_packet_overtakes_a_bulk_flow_of_its_own_peer() {
        let mut queue = FairQueue::new(8 << 20);
        for number in 0..60 {
            queue.push(0, 1, item(1, number, 64_000), MS, &mut none);
        }
        pop(&mut queue, MS);
        queue.push(0, 2, item(2, 0, 84), MS, &mut none);

        assert_eq!(pop(&mut queue, MS).unwrap().1.flow, 2);
    }

    #[test]
    fn a_small_packet_of_another_peer_waits_for_one_turn_at_most() {
        let mut queue = FairQueue::new(8 << 20);
        for number in 0..60 {
            queue.push(0, 1, item(1, number, 64_000), MS, &mut none);
        }
        pop(&mut queue, MS);
        queue.push(1, 2, item(2, 0, 84), MS, &mut none);

        let first = [pop(&mut queue, MS).unwrap().0, pop(&mut queue, MS).unwrap().0];

        assert!(first.contains(&1));
    }

    #[test]
    fn peers_have_equal_shares_however_many_flows_they_have() {
        let mut queue = FairQueue::new(64 << 20);
        for number in 0..200 {
            for flow in 0..8 {
                queue.push(0, flow, item(flow, number, 1500), MS, &mut none);
            }
            queue.push(1, 99, item(99, number, 1500), MS, &mut none);
        }
        let mut sent = [0u32; 2];

        for _ in 0..300 {
            sent[usize::from(pop(&mut queue, MS).unwrap().0)] += 1;
        }

        assert!(sent[0].abs_diff(sent[1]) < 30, "{sent:?}");
    }

    #[test]
    fn flows_of_a_peer_have_equal_shares_of_bytes() {
        let mut queue = FairQueue::new(64 << 20);
        for number in 0..400 {
            queue.push(0, 1, item(1, number, 64_000), MS, &mut none);
            for _ in 0..40 {
                queue.push(0, 2, item(2, number, 1_600), MS, &mut none);
            }
        }
        let mut sent = [0; 3];

        for _ in 0..2000 {
            let (_, item) = pop(&mut queue, MS).unwrap();
            sent[item.flow as usize] += item.bytes;
        }

        let (one, two) = (sent[1] as f64, sent[2] as f64);
        assert!((one / two - 1.0).abs() < 0.1, "{sent:?}");
    }

    #[test]
    fn a_queue_that_stands_loses_until_it_is_short_and_says_why() {
        let mut queue = FairQueue::new(64 << 20);
        let mut lost = Vec::new();
        // Two come for each that goes.
        for ms in 0..500 {
            for number in 0..2 {
                queue.push(0, 1, item(1, number, 60_000), MS * ms, &mut none);
            }
            queue.pop(MS * ms, &mut |_, loss| lost.push((ms, loss)));
        }

        assert!(lost.first().is_some_and(|(ms, _)| (100..120).contains(ms)), "{lost:?}");
        assert!(lost.len() > 4 && lost.iter().all(|(_, loss)| *loss == Loss::Stood));
    }

    #[test]
    fn what_understands_marks_is_marked_instead_of_lost() {
        let mut queue = FairQueue::new(64 << 20);
        let mut marked = 0;
        for ms in 0..500 {
            for number in 0..2 {
                let item = Item { understands: true, ..item(1, number, 60_000) };
                queue.push(0, 1, item, MS * ms, &mut none);
            }
            marked += usize::from(pop(&mut queue, MS * ms).unwrap().1.marked);
        }

        assert!(marked > 4);
    }

    #[test]
    fn without_room_the_fattest_loses_and_its_neighbour_does_not() {
        let mut queue = FairQueue::new(1 << 20);
        let mut lost = Vec::new();
        for number in 0..1000 {
            queue.push(0, 1, item(1, number, 2_000), MS, &mut |item, loss| lost.push((item.flow, loss)));
            if number % 10 == 0 {
                queue.push(1, 2, item(2, number, 200), MS, &mut |item, loss| lost.push((item.flow, loss)));
            }
        }

        assert!(lost.len() > 400 && lost.iter().all(|lost| *lost == (1, Loss::NoRoom)), "{}", lost.len());
        assert!(queue.held <= 1 << 20);
    }

    #[test]
    fn what_waits_for_a_peer_that_leaves_is_dropped() {
        let mut queue = FairQueue::new(1 << 20);
        for number in 0..5 {
            queue.push(0, number, item(number, 0, 100), MS, &mut none);
            queue.push(1, number, item(number, 1, 100), MS, &mut none);
        }

        assert_eq!(queue.forget(0), 5);
        let left: Vec<_> = std::iter::from_fn(|| pop(&mut queue, MS)).map(|(peer, _)| peer).collect();
        assert_eq!(left, [1; 5]);
    }

    proptest! {
        #[test]
        fn everything_comes_out_once_or_is_lost_and_each_flow_in_order(
            steps in proptest::collection::vec((0u16..4, 0u32..6, 1usize..70_000, 0u32..4, 0u64..20), 1..400),
        ) {
            let mut queue = FairQueue::new(1 << 20);
            let (mut now, mut pushed, mut seen) = (MS, 0, std::collections::BTreeMap::new());
            let mut lost = 0usize;
            let mut out = 0usize;
            for (number, (peer, flow, bytes, pops, pause)) in steps.into_iter().enumerate() {
                now += MS * u32::try_from(pause).unwrap();
                queue.push(peer, flow, item(flow, number as u32, bytes), now, &mut |_, _| lost += 1);
                pushed += 1;
                for _ in 0..pops {
                    let Some((peer, item)) = queue.pop(now, &mut |_, _| lost += 1) else { break };
                    out += 1;
                    let last = seen.insert((peer, item.flow), item.number);
                    prop_assert!(last.is_none_or(|last| last < item.number));
                }
                prop_assert_eq!(queue.len() + out + lost, pushed);
            }
            while let Some((peer, item)) = queue.pop(now, &mut |_, _| lost += 1) {
                out += 1;
                let last = seen.insert((peer, item.flow), item.number);
                prop_assert!(last.is_none_or(|last| last < item.number));
            }
            prop_assert_eq!((out + lost, queue.len(), queue.held), (pushed, 0, 0));
        }
    }
}

//! How packets that arrive on a lane to which they do not belong get to the one that they do.
//!
//! Each lane has a dock with a fixed number of crates, made once. Whoever has something for a lane takes an empty crate
//! there, copies packets into it, and puts it with the full ones; the lane unloads it and puts it back. So nothing is
//! allocated, nothing waits, and packets keep their order. When no crate is empty, packets are dropped and counted.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actors_network::HOST_HEADER;
use actors_runtime::{HandoverReceiver, HandoverSender, handover};
use protocol_packet::Ecn;
use protocol_traversal::{Path, RelaySlot};

/// Crates of each lane: as many as there are calls in a lane's turn, so that one turn of another lane fits.
const CRATES: usize = 8;
/// Bytes of a crate: two of the largest super-packets. Memory that no packet has touched is not resident.
const CRATE: usize = 1 << 17;
/// Packets, or runs of them, in one crate.
const ITEMS: usize = 64;

/// What some bytes of a crate are.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cargo {
    /// Datagrams that came on a path, all of them for the lane's sessions.
    Inward { path: Path, stride: usize, skip: usize, ecn: Ecn },
    /// The same from a relay's own address: STUN, or in channels.
    FromRelay { from: SocketAddr, stride: usize, ecn: u8 },
    /// An initiation that another lane has opened so far as to know whose it is.
    Initiation { slot: u16, path: Path, ecn: Ecn },
    /// A packet of the host.
    Host { header: [u8; HOST_HEADER] },
    /// Datagrams for a path through a relay, to the lane that holds the allocation.
    Send { path: Path, segment: usize, ecn: Ecn },
    /// No bytes: this peer wants a channel at this relay.
    Bind { slot: RelaySlot, remote: SocketAddr },
    /// No bytes: a peer hears nothing any more.
    Doubt,
}

/// Packets on their way to another lane.
pub(crate) struct Crate {
    bytes: Box<[u8]>,
    used: usize,
    items: Vec<(Cargo, Range<usize>)>,
}

impl Crate {
    fn new() -> Box<Self> {
        Box::new(Self { bytes: vec![0; CRATE].into_boxed_slice(), used: 0, items: Vec::with_capacity(ITEMS) })
    }

    /// `false`: there is no room, and nothing was done.
    pub(crate) fn put(&mut self, cargo: Cargo, bytes: &[u8]) -> bool {
        let range = self.used..self.used + bytes.len();
        let Some(room) = self.bytes.get_mut(range.clone()).filter(|_| self.items.len() < ITEMS) else {
            return false;
        };
        room.copy_from_slice(bytes);
        self.used = range.end;
        self.items.push((cargo, range));
        true
    }

    /// What is in it, in order.
    pub(crate) fn items(&self) -> impl Iterator<Item = (Cargo, &[u8])> {
        self.items.iter().map(|(cargo, range)| (*cargo, self.bytes.get(range.clone()).unwrap_or_default()))
    }

    fn clear(&mut self) {
        self.used = 0;
        self.items.clear();
    }
}

struct Dock {
    full: (HandoverSender<Box<Crate>>, HandoverReceiver<Box<Crate>>),
    empty: (HandoverSender<Box<Crate>>, HandoverReceiver<Box<Crate>>),
    strays: AtomicU64,
    relayed: AtomicU64,
}

impl Dock {
    fn new(crates: usize) -> Self {
        let dock = Self {
            full: handover(CRATES),
            empty: handover(CRATES),
            strays: AtomicU64::new(0),
            relayed: AtomicU64::new(0),
        };
        for _ in 0..crates {
            // There is room for exactly so many.
            let _ = dock.empty.0.push(Crate::new());
        }
        dock
    }
}

/// What one lane has handed over to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneReport {
    /// Packets that the kernel brought to this lane and that belonged to another one.
    pub strays: u64,
    /// Packets between this lane's peers and the relays, whose allocations another lane holds.
    pub relayed: u64,
}

/// The docks of all lanes of a process.
pub struct Crossings {
    docks: Vec<Dock>,
}

impl Crossings {
    /// For so many lanes, at least one.
    pub fn new(lanes: u8) -> Arc<Self> {
        // A lane alone hands nothing over.
        let crates = if lanes > 1 { CRATES } else { 0 };
        Arc::new(Self { docks: (0..lanes.max(1)).map(|_| Dock::new(crates)).collect() })
    }

    /// How many lanes there are.
    pub fn lanes(&self) -> u8 {
        u8::try_from(self.docks.len()).unwrap_or(u8::MAX)
    }

    /// What each lane has handed over.
    pub fn reports(&self) -> impl Iterator<Item = LaneReport> {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.docks
            .iter()
            .map(move |dock| LaneReport { strays: read(&dock.strays), relayed: read(&dock.relayed) })
    }

    /// What arrives for a lane.
    pub(crate) fn arriving(&self, lane: u8) -> Option<HandoverReceiver<Box<Crate>>> {
        self.docks.get(usize::from(lane)).map(|dock| dock.full.1.clone())
    }

    /// An empty crate for a lane; `None` when it has none at present, or does not exist.
    pub(crate) fn take(&self, lane: u8) -> Option<Box<Crate>> {
        self.docks.get(usize::from(lane))?.empty.1.pop()
    }

    /// Sends a crate off.
    pub(crate) fn send(&self, lane: u8, full: Box<Crate>) {
        if let Some(dock) = self.docks.get(usize::from(lane)) {
            // There are no more crates than fit.
            let _ = dock.full.0.push(full);
        }
    }

    /// Takes back what a lane has unloaded.
    pub(crate) fn give_back(&self, lane: u8, mut unloaded: Box<Crate>) {
        unloaded.clear();
        if let Some(dock) = self.docks.get(usize::from(lane)) {
            let _ = dock.empty.0.push(unloaded);
        }
    }

    pub(crate) fn count_strays(&self, lane: u8, packets: u64) {
        if let Some(dock) = self.docks.get(usize::from(lane)) {
            dock.strays.fetch_add(packets, Ordering::Relaxed);
        }
    }

    pub(crate) fn count_relayed(&self, lane: u8, packets: u64) {
        if let Some(dock) = self.docks.get(usize::from(lane)) {
            dock.relayed.fetch_add(packets, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Cargo {
        Cargo::Host { header: [0; HOST_HEADER] }
    }

    #[test]
    fn what_is_put_into_a_crate_comes_out_in_order() {
        let crossings = Crossings::new(2);
        let mut one = crossings.take(1).unwrap();
        assert!(one.put(host(), b"first") && one.put(host(), b"") && one.put(host(), b"third"));
        crossings.send(1, one);

        let arrived = crossings.arriving(1).unwrap().pop().unwrap();

        let bytes: Vec<&[u8]> = arrived.items().map(|(_, bytes)| bytes).collect();
        assert_eq!(bytes, [&b"first"[..], b"", b"third"]);
        assert!(crossings.arriving(0).unwrap().pop().is_none());
    }

    #[test]
    fn a_crate_holds_so_many_items_and_bytes_and_no_more() {
        let mut small = Crate::new();
        let mut large = Crate::new();

        assert_eq!((0..100).filter(|_| small.put(host(), b"x")).count(), ITEMS);
        assert_eq!((0..100).filter(|_| large.put(host(), &[0; 65_535])).count(), 2);
    }

    #[test]
    fn there_are_so_many_crates_and_each_is_used_again() {
        let crossings = Crossings::new(2);

        for _ in 0..10 {
            let taken: Vec<_> = std::iter::from_fn(|| crossings.take(0)).collect();
            assert_eq!(taken.len(), CRATES);
            for (n, mut one) in taken.into_iter().enumerate() {
                assert!(one.put(host(), &[n as u8]));
                crossings.send(0, one);
            }
            while let Some(full) = crossings.arriving(0).unwrap().pop() {
                assert_eq!(full.items().count(), 1);
                crossings.give_back(0, full);
            }
        }
    }

    #[test]
    fn a_lane_that_does_not_exist_takes_nothing() {
        let crossings = Crossings::new(2);

        assert!(crossings.take(2).is_none() && crossings.arriving(200).is_none());
        assert!(Crossings::new(1).take(0).is_none(), "a lane alone needs no crates");
    }
}

//! A lane's side of the [crossings](crate::crossing): handing over, and unloading.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actors_network::{Datagrams, Demux, HostPacket};
use protocol_identity::WireguardPublic;
use protocol_packet::Batch;
use protocol_traversal::{Path, RelaySlot};
use protocol_tunnel::RELAY_LANE;

use crate::crossing::{Cargo, Crate, Crossings};
use crate::lane::{Neighbour, TunnelLane};
use crate::peer::{Inbound, PeerPackets};
use crate::stream::{AwayLink, Transport};

impl TunnelLane {
    pub(crate) fn crossings(&self) -> &Arc<Crossings> {
        &self.crossings
    }

    /// Puts something into the crate for another lane; [`dispatch`](Self::dispatch) sends it off.
    pub(crate) fn hand_over(&self, lane: u8, cargo: Cargo, bytes: &[u8], packets: u64) {
        let mut filling = self.filling.borrow_mut();
        // A lane that does not exist is named by whoever makes up an index.
        let Some(place) = filling.get_mut(usize::from(lane)).filter(|_| lane != self.index) else {
            return self.count("no_such_session", packets);
        };
        if let Some(full) = place.as_mut()
            && !full.put(cargo, bytes)
        {
            place.take().into_iter().for_each(|full| self.crossings.send(lane, full));
        } else if place.is_some() {
            return;
        }
        *place = self.crossings.take(lane);
        if !place.as_mut().is_some_and(|empty| empty.put(cargo, bytes)) {
            self.count("handover_full", packets);
        }
    }

    /// Sends off every crate that has something in it.
    pub(crate) fn dispatch(&self) {
        for (lane, place) in self.filling.borrow_mut().iter_mut().enumerate() {
            if let (Ok(lane), Some(full)) = (u8::try_from(lane), place.take()) {
                self.crossings.send(lane, full);
            }
        }
    }

    /// Unloads a crate from another lane.
    pub(crate) fn unload(&self, arrived: Box<Crate>, now: Duration) {
        let unloading = Unloading { lane: self, held: Some(arrived) };
        let Some(arrived) = &unloading.held else { return };
        let mut inward = self.inward();
        let mut host = self.outbound.take();
        let mut from_relay = self.datagrams.take();
        for (cargo, bytes) in arrived.items() {
            match cargo {
                Cargo::Inward { path, stride, skip, ecn } => {
                    if !inward.copy(path, bytes, stride, skip, ecn) {
                        self.count("packet_too_long", bytes.len().div_ceil(stride.max(1)) as u64);
                    }
                }
                Cargo::FromRelay { from, stride, ecn } => match self.buffer(bytes) {
                    // As many fit as a crate has items.
                    Some(bytes) => {
                        let _ = from_relay.push(Datagrams { bytes, stride, from, local: None, ecn });
                    }
                    None => self.count("packet_too_long", 1),
                },
                Cargo::Initiation { slot, path, ecn } => self.initiate(slot, path, bytes, ecn),
                Cargo::Host { header } => {
                    let packet = self.buffer(bytes).map(|bytes| HostPacket::restored(&header, bytes));
                    match packet {
                        Some(Ok(packet)) => {
                            let _ = host.push(packet);
                        }
                        Some(Err(_)) | None => self.count("packet_too_long", 1),
                    }
                }
                Cargo::Send { path, segment, ecn } => self.send_marked(path, bytes, segment, ecn),
                Cargo::Bind { slot, remote } => self.bind(slot, remote, now),
                Cargo::Doubt => self.doubt(),
            }
        }
        inward.flush();
        if !from_relay.is_empty() {
            self.datagrams(&mut from_relay);
        }
        if !host.is_empty() {
            self.pass_on(&mut host);
        }
    }

    fn initiate(&self, slot: u16, path: Path, bytes: &[u8], ecn: protocol_packet::Ecn) {
        let Some(bytes) = self.buffer(bytes) else { return self.count("packet_too_long", 1) };
        let stride = bytes.len();
        self.open_initiation(slot, Inbound { path, bytes, stride, skip: 0, ecn });
    }

    /// Hands an initiation to the peer that it is for.
    pub(crate) fn open_initiation(&self, slot: u16, inbound: Inbound) {
        let mut batch = Batch::new();
        let _ = batch.push(inbound);
        let pushed = self.with_peer(slot, |place| place.packets.push(PeerPackets::Open(batch)));
        if !matches!(pushed, Some(Ok(()))) {
            self.count("peer_ring_full", 1);
        }
    }

    /// Hands an initiation to the lane of the peer that it is for; `None` gives it back: nobody knows the key.
    pub(crate) fn initiation_for_neighbour(&self, sender: &WireguardPublic, inbound: &Inbound) -> bool {
        let found = self
            .neighbours
            .borrow()
            .iter()
            .find(|(_, neighbour)| neighbour.public == *sender)
            .map(|(slot, neighbour)| (*slot, neighbour.lane));
        let Some((slot, lane)) = found else { return false };
        let Inbound { path, ecn, .. } = *inbound;
        self.crossings.count_strays(self.index, 1);
        let bytes = inbound.iter().next().unwrap_or_default();
        self.hand_over(lane, Cargo::Initiation { slot, path, ecn }, bytes, 1);
        self.dispatch();
        true
    }

    pub(crate) fn stray_from_relay(&self, datagrams: &Datagrams) {
        let Datagrams { stride, from, ecn, .. } = *datagrams;
        let packets = datagrams.count() as u64;
        self.crossings.count_strays(self.index, packets);
        self.hand_over(RELAY_LANE, Cargo::FromRelay { from, stride, ecn }, &datagrams.bytes, packets);
    }

    /// Whether another lane holds our allocation at this relay.
    pub(crate) fn is_away(&self, slot: RelaySlot) -> bool {
        self.away.borrow().iter().any(|away| away.slot == slot)
    }

    pub(crate) fn is_from_away(&self, relay: SocketAddr) -> bool {
        self.away.borrow().iter().any(|away| away.address == relay && away.transport == Transport::Udp)
    }

    /// The relays whose allocations another lane holds: all of them, anew.
    pub(crate) fn set_away(&self, away: Vec<AwayLink>) {
        self.away.replace(away);
    }

    /// The relays through which peers of this lane can be reached.
    pub(crate) fn relay_slots(&self) -> Vec<RelaySlot> {
        let mut slots: Vec<_> = self.away.borrow().iter().map(|away| away.slot).collect();
        self.each_link(|slot, link| {
            if link.machine.is_allocated() {
                slots.push(slot);
            }
        });
        slots
    }

    pub(crate) fn put_neighbour(&self, slot: u16, neighbour: Option<Neighbour>) {
        match neighbour {
            Some(neighbour) => self.neighbours.borrow_mut().insert(slot, neighbour),
            None => self.neighbours.borrow_mut().remove(&slot),
        };
    }

    pub(crate) fn retain_neighbours(&self, slots: &BTreeSet<u16>) {
        self.neighbours.borrow_mut().retain(|slot, _| slots.contains(slot));
    }
}

/// A crate goes back to its dock also when whoever unloads it panics.
struct Unloading<'a> {
    lane: &'a TunnelLane,
    held: Option<Box<Crate>>,
}

impl Drop for Unloading<'_> {
    fn drop(&mut self) {
        if let Some(unloaded) = self.held.take() {
            self.lane.crossings.give_back(self.lane.index, unloaded);
        }
    }
}

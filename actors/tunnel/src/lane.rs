//! What the actors of one packet lane share: sockets, TUN queue, and who is where.
//!
//! It belongs to the lane, not to an actor: a restarted actor finds its descriptors, keys and paths here. Nothing in it
//! leaves its thread, so nothing in it is locked.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_network::{Datagrams, Demux, HostPacket, Landing, LaneSockets, LaneTun, PacketSink};
use actors_runtime::{Address, Drops, PacketSender};
use protocol_identity::WireguardPublic;
use protocol_packet::{BATCH, Batch, Batches, Buffer, Ecn, Pool};
use protocol_queue::{FairQueue, Loss};
use protocol_stun::NotWrapped;
use protocol_traversal::{Path, RelaySlot, Via};
use protocol_tunnel::{DatagramKind, OVERHEAD, RELAY_LANE, TunnelIndex, classify, receiver};
use tokio::time::Instant;

use crate::crossing::{Cargo, Crate, Crossings};
use crate::generations::Generations;
use crate::peer::{Inbound, Peer, PeerCommand, PeerKept, PeerPackets};
use crate::relay_link::{LinkCommand, LinkMachine, RelayLink};
use crate::router::{Route, Router};
use crate::stream::{AwayLink, Transport};

/// Longest packet or datagram that a lane handles one at a time, bytes.
const BUFFER: usize = 2048;
/// Room before a packet for a header that is put before it.
const HEADROOM: usize = 32;
/// Buffers that a lane keeps when they are idle: 64 peers with a batch each.
const KEEP_BUFFERS: usize = 4096;
/// The largest GRO buffer.
const LARGE: usize = 1 << 16;
/// Of those, how many a lane keeps when they are idle.
const KEEP_LARGE: usize = 8;
/// Batches that a lane keeps when they are idle.
const KEEP_BATCHES: usize = 256;

/// Memory of packets that wait for their turn, bytes: 12 ms at 5 Gbit/s.
const QUEUE: usize = 8 << 20;
/// Packets that a turn passes on at least, if they are there.
const A_TURN: usize = BATCH;

/// The time since the host started, suspend included: what grants end by.
pub fn lasting_time() -> Duration {
    // The call fails only for clocks that a kernel does not have; Linux has this one since 2.6.39.
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from)
}

/// A peer's place in the lane's table.
pub(crate) struct PeerPlace {
    pub(crate) address: Address<Peer>,
    pub(crate) packets: PacketSender<PeerPackets>,
    pub(crate) kept: Rc<PeerKept>,
}

/// A relay's place in the lane's table.
pub(crate) struct LinkPlace {
    pub(crate) address: Address<RelayLink>,
    pub(crate) packets: PacketSender<Batch<Datagrams>>,
    pub(crate) machine: Rc<LinkMachine>,
}

/// The shared part of one packet lane.
pub struct TunnelLane {
    pub(crate) index: u8,
    epoch: Instant,
    sockets: LaneSockets,
    tun: Rc<LaneTun>,
    drops: Drops,
    pool: Pool,
    /// For several datagrams at once.
    large: Pool,
    inbound: Batches<Inbound>,
    pub(crate) outbound: Batches<HostPacket>,
    pub(crate) datagrams: Batches<Datagrams>,
    landing: RefCell<Landing>,
    /// What waits for its turn on the way out.
    queue: RefCell<FairQueue<HostPacket>>,
    peers: RefCell<Vec<Option<PeerPlace>>>,
    links: RefCell<Vec<Option<LinkPlace>>>,
    generations: Generations,
    router: RefCell<Router>,
    initiations: RefCell<Option<PacketSender<Batch<Inbound>>>>,
    pub(crate) crossings: Arc<Crossings>,
    /// Crates that are being filled, by lane.
    pub(crate) filling: RefCell<Vec<Option<Box<Crate>>>>,
    /// Relays whose allocations another lane holds.
    pub(crate) away: RefCell<Vec<AwayLink>>,
    /// The peers of other lanes, by slot.
    pub(crate) neighbours: RefCell<BTreeMap<u16, Neighbour>>,
}

/// A peer that lives on another lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// Its lane.
    pub lane: u8,
    /// Its WireGuard key.
    pub public: WireguardPublic,
}

thread_local! {
    static HERE: RefCell<Option<Rc<TunnelLane>>> = const { RefCell::new(None) };
}

impl TunnelLane {
    /// This thread's shared part, which `open` makes when there is none yet: whichever of the lane's actors starts first
    /// opens the descriptors for all.
    ///
    /// # Errors
    /// What `open` says.
    pub fn here<E>(open: impl FnOnce() -> Result<Rc<Self>, E>) -> Result<Rc<Self>, E> {
        if let Some(lane) = HERE.with(|here| here.borrow().clone()) {
            return Ok(lane);
        }
        let lane = open()?;
        HERE.with(|here| here.replace(Some(lane.clone())));
        Ok(lane)
    }

    /// The lane's shared part over its descriptors; must be made on the lane.
    pub fn new(
        index: u8,
        epoch: Instant,
        sockets: LaneSockets,
        tun: Rc<LaneTun>,
        router: Router,
        drops: Drops,
        crossings: Arc<Crossings>,
    ) -> Rc<Self> {
        Rc::new(Self {
            index,
            epoch,
            sockets,
            landing: RefCell::new(Landing::new(tun.offload())),
            tun,
            drops,
            queue: RefCell::new(FairQueue::new(QUEUE)),
            pool: Pool::new(BUFFER, HEADROOM, KEEP_BUFFERS),
            large: Pool::new(LARGE, 0, KEEP_LARGE),
            inbound: Batches::new(KEEP_BATCHES),
            outbound: Batches::new(KEEP_BATCHES),
            datagrams: Batches::new(KEEP_BATCHES),
            peers: RefCell::default(),
            links: RefCell::default(),
            generations: Generations::default(),
            router: RefCell::new(router),
            initiations: RefCell::default(),
            filling: RefCell::new((0..crossings.lanes()).map(|_| None).collect()),
            crossings,
            away: RefCell::default(),
            neighbours: RefCell::default(),
        })
    }

    /// The lane's number, part of every receiver index.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// The lane's sockets.
    pub fn sockets(&self) -> &LaneSockets {
        &self.sockets
    }

    /// The lane's TUN queue.
    pub fn tun(&self) -> &Rc<LaneTun> {
        &self.tun
    }

    pub(crate) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// A buffer with these bytes, if there is one that holds so many.
    pub(crate) fn buffer(&self, bytes: &[u8]) -> Option<Buffer> {
        if bytes.len() <= BUFFER { self.pool.filled(bytes) } else { self.large.filled(bytes) }
    }

    /// Where packets from peers are decrypted. Whoever takes it leaves it empty.
    pub(crate) fn landing(&self) -> &RefCell<Landing> {
        &self.landing
    }

    pub(crate) fn generations(&self) -> &Generations {
        &self.generations
    }

    pub(crate) fn router(&self) -> &RefCell<Router> {
        &self.router
    }

    pub(crate) fn count(&self, reason: &'static str, packets: u64) {
        self.drops.count(reason, packets);
    }

    /// The machines' time: since the lane began.
    pub(crate) fn now(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.epoch)
    }

    /// The same backwards.
    pub(crate) fn instant(&self, now: Duration) -> Instant {
        self.epoch + now
    }

    pub(crate) fn take_initiations(&self, table: PacketSender<Batch<Inbound>>) {
        self.initiations.replace(Some(table));
    }

    pub(crate) fn put_peer(&self, slot: u16, place: Option<PeerPlace>) -> Option<PeerPlace> {
        if place.is_none() {
            self.forget_waiting(slot);
        }
        let mut peers = self.peers.borrow_mut();
        let slot = usize::from(slot);
        if peers.len() <= slot {
            peers.resize_with(slot + 1, || None);
        }
        match peers.get_mut(slot) {
            Some(held) => std::mem::replace(held, place),
            None => None,
        }
    }

    pub(crate) fn with_peer<R>(&self, slot: u16, f: impl FnOnce(&PeerPlace) -> R) -> Option<R> {
        self.peers.borrow().get(usize::from(slot)).and_then(Option::as_ref).map(f)
    }

    pub(crate) fn each_peer(&self, mut f: impl FnMut(u16, &PeerPlace)) {
        for (slot, place) in self.peers.borrow().iter().enumerate() {
            if let (Some(place), Ok(slot)) = (place, u16::try_from(slot)) {
                f(slot, place);
            }
        }
    }

    /// An allocation of ours came or went: every peer looks at once which there are.
    pub(crate) fn relays_changed(&self) {
        self.each_peer(|_, place| {
            if place.address.tell(PeerCommand::Relays).is_err() {
                self.count("peer_command_lost", 1);
            }
        });
    }

    pub(crate) fn put_link(&self, slot: RelaySlot, place: Option<LinkPlace>) {
        let mut links = self.links.borrow_mut();
        let slot = usize::from(slot.0);
        if links.len() <= slot {
            links.resize_with(slot + 1, || None);
        }
        if let Some(held) = links.get_mut(slot) {
            *held = place;
        }
    }

    pub(crate) fn with_link<R>(&self, slot: RelaySlot, f: impl FnOnce(&LinkPlace) -> R) -> Option<R> {
        self.links.borrow().get(usize::from(slot.0)).and_then(Option::as_ref).map(f)
    }

    pub(crate) fn each_link(&self, mut f: impl FnMut(RelaySlot, &LinkPlace)) {
        for (slot, place) in self.links.borrow().iter().enumerate() {
            if let (Some(place), Ok(slot)) = (place, u8::try_from(slot)) {
                f(RelaySlot(slot), place);
            }
        }
    }

    /// Sends datagrams of `segment` bytes each (the last may be shorter) on a path; 0 sends them as one.
    pub(crate) fn send(&self, path: Path, bytes: &[u8], segment: usize) {
        self.send_marked(path, bytes, segment, Ecn::NotEct);
    }

    /// The same with the inner packets' ECN in the outer header (RFC 6040 section 4.1). A relay that follows RFC 8656
    /// section 13 passes it on.
    pub(crate) fn send_marked(&self, path: Path, bytes: &[u8], segment: usize, ecn: Ecn) {
        let segment = if segment == 0 { bytes.len().max(1) } else { segment };
        match path.via {
            Via::Direct => {
                let _ = self.sockets.send_marked(path.remote, bytes, segment, ecn.bits());
            }
            Via::Relay(slot) if self.is_away(slot) => {
                let packets = bytes.len().div_ceil(segment) as u64;
                self.crossings.count_relayed(self.index, packets);
                self.hand_over(RELAY_LANE, Cargo::Send { path, segment, ecn }, bytes, packets);
                self.dispatch();
            }
            Via::Relay(slot) => {
                let sent = self
                    .with_link(slot, |link| self.send_through(link, path.remote, bytes, segment, ecn.bits()));
                if let Err(why) = sent.unwrap_or(Err(NotWrapped::NotAllocated)) {
                    let reason = match why {
                        NotWrapped::NotAllocated => "relay_not_allocated",
                        NotWrapped::NotPermitted => "relay_not_permitted",
                        NotWrapped::TooLong => "relay_too_long",
                    };
                    self.count(reason, bytes.len().div_ceil(segment) as u64);
                }
            }
        }
    }

    fn send_through(
        &self,
        link: &LinkPlace,
        remote: SocketAddr,
        bytes: &[u8],
        segment: usize,
        ecn: u8,
    ) -> Result<(), NotWrapped> {
        let Some(allocation) = &link.machine.allocation else { return Err(NotWrapped::NotAllocated) };
        let mut allocation = allocation.borrow_mut();
        let relay = link.machine.config.address;
        if let Some(stream) = &link.machine.stream {
            let written = match allocation.channel(remote) {
                Some(channel) => stream.write_channel_data(channel, bytes, segment),
                None => {
                    let mut framed = Vec::new();
                    for datagram in bytes.chunks(segment) {
                        allocation.wrap(remote, datagram, &mut framed)?;
                    }
                    stream.write(framed)
                }
            };
            if !written {
                self.count("relay_stream_full", bytes.len().div_ceil(segment) as u64);
            }
            return Ok(());
        }
        if let Some(channel) = allocation.channel(remote) {
            let _ = self.sockets.send_channel_data(relay, channel, bytes, segment, ecn);
            return Ok(());
        }
        let mut framed = Vec::new();
        for datagram in bytes.chunks(segment) {
            framed.clear();
            allocation.wrap(remote, datagram, &mut framed)?;
            let _ = self.sockets.send_marked(relay, &framed, 0, ecn);
        }
        Ok(())
    }

    /// Asks a relay for a channel to `remote`, which permits it too.
    pub(crate) fn bind(&self, slot: RelaySlot, remote: SocketAddr, now: Duration) {
        if self.is_away(slot) {
            self.hand_over(RELAY_LANE, Cargo::Bind { slot, remote }, &[], 0);
            self.dispatch();
            return;
        }
        self.with_link(slot, |link| {
            if let Some(allocation) = &link.machine.allocation {
                allocation.borrow_mut().bind(remote, now);
                let _ = link.address.tell(LinkCommand::Drain);
            }
        });
    }

    /// A peer hears nothing any more: perhaps UDP is blocked, and the relays are the first to know.
    pub(crate) fn doubt(&self) {
        if self.index != RELAY_LANE {
            self.hand_over(RELAY_LANE, Cargo::Doubt, &[], 0);
            return self.dispatch();
        }
        self.each_link(|_, link| {
            let _ = link.address.tell(LinkCommand::Doubt);
        });
    }

    /// How a path leaves this host.
    pub(crate) fn transport(&self, via: Via) -> Transport {
        let Via::Relay(slot) = via else { return Transport::Udp };
        let away = self.away.borrow().iter().find(|away| away.slot == slot).map(|away| away.transport);
        away.or_else(|| self.with_link(slot, |link| link.machine.config.transport()))
            .unwrap_or(Transport::Udp)
    }

    /// Starts handing datagrams of whatever path to the peers that they are for.
    pub(crate) fn inward(&self) -> Inward<'_> {
        Inward { lane: self, slot: 0, batch: None }
    }

    fn push_sealed(&self, slot: u16, batch: Batch<HostPacket>) {
        let packets = batch.iter().map(HostPacket::packets).sum::<usize>() as u64;
        match self.with_peer(slot, |place| place.packets.push(PeerPackets::Seal(batch))) {
            Some(Ok(())) => {}
            Some(Err(_)) => self.count("peer_ring_full", packets),
            None => self.count("no_such_peer", packets),
        }
    }

    /// Routes packets that waited, as if they had just come.
    pub(crate) fn reroute(&self, packets: Vec<HostPacket>) {
        let mut batch = self.outbound.take();
        for packet in packets {
            if let Err(packet) = batch.push(packet) {
                self.pass_on(&mut batch);
                let _ = batch.push(packet);
            }
        }
        self.pass_on(&mut batch);
    }
}

/// Collects what is for one peer as long as nothing for another comes between.
pub(crate) struct Inward<'a> {
    lane: &'a TunnelLane,
    slot: u16,
    batch: Option<Batch<Inbound>>,
}

impl Inward<'_> {
    /// Hands over what came on a path, together.
    pub(crate) fn push(&mut self, inbound: Inbound) {
        let Inbound { path, bytes, stride, skip, ecn } = inbound;
        // One source sends to one peer, as a rule. Through a relay it may be several.
        let mut runs = Runs { bytes: &bytes, stride, skip, at: 0 };
        let Some((first, mut run)) = runs.next() else { return };
        if run.len() == bytes.len() {
            return self.push_run(first, Inbound { path, bytes, stride, skip, ecn });
        }
        let mut kind = first;
        loop {
            let part = bytes.get(run).unwrap_or_default();
            match self.lane.buffer(part) {
                Some(bytes) => self.push_run(kind, Inbound { path, bytes, stride, skip, ecn }),
                None => self.lane.count("not_wireguard", part.len().div_ceil(stride) as u64),
            }
            let Some(next) = runs.next() else { return };
            (kind, run) = next;
        }
    }

    /// The same with bytes that are part of something else; `false` when they are too many.
    pub(crate) fn copy(&mut self, path: Path, bytes: &[u8], stride: usize, skip: usize, ecn: Ecn) -> bool {
        let Some(bytes) = self.lane.buffer(bytes) else { return false };
        self.push(Inbound { path, bytes, stride, skip, ecn });
        true
    }

    fn push_run(&mut self, kind: For, inbound: Inbound) {
        let index = match kind {
            For::Table => {
                self.flush();
                return self.initiation(inbound);
            }
            For::Nobody => return self.lane.count("not_wireguard", inbound.count()),
            For::Peer(index) => index,
        };
        if index.lane != self.lane.index {
            return self.stray(index.lane, &inbound);
        }
        if self.slot != index.slot {
            self.flush();
            self.slot = index.slot;
        }
        let batch = self.batch.get_or_insert_with(|| self.lane.inbound.take());
        if let Err(inbound) = batch.push(inbound) {
            self.flush();
            let mut batch = self.lane.inbound.take();
            let _ = batch.push(inbound);
            self.batch = Some(batch);
        }
    }

    /// What belongs to another lane goes there.
    fn stray(&self, lane: u8, inbound: &Inbound) {
        let packets = inbound.count();
        let Inbound { path, stride, skip, ecn, .. } = *inbound;
        match path.via {
            Via::Direct => self.lane.crossings.count_strays(self.lane.index, packets),
            Via::Relay(_) => self.lane.crossings.count_relayed(self.lane.index, packets),
        }
        self.lane.hand_over(lane, Cargo::Inward { path, stride, skip, ecn }, &inbound.bytes, packets);
    }

    /// An initiation names no peer: the table has to open it.
    fn initiation(&self, inbound: Inbound) {
        let mut batch = self.lane.inbound.take();
        let _ = batch.push(inbound);
        let pushed = self.lane.initiations.borrow().as_ref().map(|table| table.push(batch));
        if !matches!(pushed, Some(Ok(()))) {
            self.lane.count("initiations_full", 1);
        }
    }

    /// Hands over what was collected.
    pub(crate) fn flush(&mut self) {
        self.lane.dispatch();
        let Some(batch) = self.batch.take() else { return };
        let packets = batch.iter().map(Inbound::count).sum();
        match self.lane.with_peer(self.slot, |place| place.packets.push(PeerPackets::Open(batch))) {
            Some(Ok(())) => {}
            Some(Err(_)) => self.lane.count("peer_ring_full", packets),
            None => self.lane.count("no_such_session", packets),
        }
    }
}

/// The first byte of WireGuard data (paper, section 5.4.6).
const DATA: u8 = 4;

/// Whom a datagram is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum For {
    Peer(TunnelIndex),
    /// An initiation, which does not say whom it is for.
    Table,
    Nobody,
}

/// Consecutive datagrams that are for the same.
struct Runs<'a> {
    bytes: &'a [u8],
    stride: usize,
    skip: usize,
    at: usize,
}

impl Runs<'_> {
    fn who(&self, at: usize) -> Option<For> {
        let end = self.bytes.len().min(at + self.stride);
        let datagram = self.bytes.get(at..end).filter(|datagram| !datagram.is_empty())?;
        let datagram = datagram.get(self.skip..).unwrap_or_default();
        Some(match (receiver(datagram), classify(datagram)) {
            (Some(index), _) => For::Peer(index),
            (None, Some(DatagramKind::Initiation)) => For::Table,
            (None, _) => For::Nobody,
        })
    }
}

impl Runs<'_> {
    /// Whether the two are data of the same session, as most are.
    fn alike(&self, one: usize, other: usize) -> bool {
        let head = |at: usize| {
            let datagram = self.bytes.get(at..)?.get(self.skip..)?;
            datagram.first_chunk::<OVERHEAD>()?.first_chunk::<8>()
        };
        head(other).is_some_and(|head_of_other| head_of_other[0] == DATA && Some(head_of_other) == head(one))
    }
}

impl Iterator for Runs<'_> {
    type Item = (For, Range<usize>);

    fn next(&mut self) -> Option<Self::Item> {
        let (start, whom) = (self.at, self.who(self.at)?);
        let mut end = start + self.stride;
        // Each initiation goes its own way.
        while whom != For::Table && (self.alike(start, end) || self.who(end) == Some(whom)) {
            end += self.stride;
        }
        self.at = end;
        Some((whom, start..end.min(self.bytes.len())))
    }
}

/// The reader of the lane's sockets hands everything over here.
impl Demux for TunnelLane {
    fn datagrams(&self, arrived: &mut Batch<Datagrams>) {
        let mut inward = self.inward();
        let mut from_relay: Option<(RelaySlot, Batch<Datagrams>)> = None;
        for datagram in arrived.drain() {
            // STUN starts with 0 or 1 and ChannelData with 0x40 to 0x4f: WireGuard's 1 is told apart by the address. What
            // came together came from one address.
            let link = match datagram.bytes.first() {
                Some(0 | 1 | 0x40..=0x4f) if self.is_from_away(datagram.from) => {
                    self.stray_from_relay(&datagram);
                    continue;
                }
                Some(0 | 1 | 0x40..=0x4f) => self.link_at(datagram.from),
                _ => None,
            };
            let Some(slot) = link else {
                let path = Path { via: Via::Direct, remote: datagram.from };
                let (stride, ecn) = (datagram.stride, Ecn::from_bits(datagram.ecn));
                inward.push(Inbound { path, bytes: datagram.bytes, stride, skip: 0, ecn });
                continue;
            };
            match &mut from_relay {
                Some((held, batch)) if *held == slot => {
                    let _ = batch.push(datagram);
                }
                _ => {
                    self.push_link(from_relay.take());
                    let mut batch = self.datagrams.take();
                    let _ = batch.push(datagram);
                    from_relay = Some((slot, batch));
                }
            }
        }
        inward.flush();
        self.push_link(from_relay);
    }
}

impl TunnelLane {
    fn link_at(&self, address: SocketAddr) -> Option<RelaySlot> {
        let links = self.links.borrow();
        let slot = links
            .iter()
            .position(|link| link.as_ref().is_some_and(|link| link.machine.config.is_from(address)))?;
        u8::try_from(slot).ok().map(RelaySlot)
    }

    fn push_link(&self, batch: Option<(RelaySlot, Batch<Datagrams>)>) {
        let Some((slot, batch)) = batch else { return };
        let packets = batch.iter().map(Datagrams::count).sum::<usize>() as u64;
        if !matches!(self.with_link(slot, |link| link.packets.push(batch)), Some(Ok(()))) {
            self.count("relay_ring_full", packets);
        }
    }
}

/// The reader of the TUN queue hands everything over here. As long as a turn can pass on all that comes, nothing waits.
impl PacketSink for TunnelLane {
    fn packets(&self, arrived: &mut Batch<HostPacket>) -> bool {
        if self.queue.borrow().is_empty() {
            let packets: usize = arrived.iter().map(HostPacket::packets).sum();
            if packets <= A_TURN {
                self.pass_on(arrived);
                return false;
            }
        }
        let now = lasting_time();
        for mut packet in arrived.drain() {
            let Some(slot) = self.route(&mut packet, now) else { continue };
            let flow = packet.flow();
            self.queue
                .borrow_mut()
                .push(slot, flow, packet, now, &mut |packet, loss| self.lose(&packet, loss));
        }
        self.release(now)
    }
}

impl TunnelLane {
    /// Routes packets, and passes them on at once.
    pub(crate) fn pass_on(&self, arrived: &mut Batch<HostPacket>) {
        let now = lasting_time();
        let mut onward = Onward { lane: self, slot: 0, batch: None };
        for mut packet in arrived.drain() {
            if let Some(slot) = self.route(&mut packet, now) {
                onward.push(slot, packet);
            }
        }
        onward.flush();
        self.dispatch();
    }

    /// Passes on what has its turn. `true`: more waits.
    fn release(&self, now: Duration) -> bool {
        let mut onward = Onward { lane: self, slot: 0, batch: None };
        let mut packets = 0;
        while packets < A_TURN {
            let next = self.queue.borrow_mut().pop(now, &mut |packet, loss| self.lose(&packet, loss));
            let Some((slot, packet)) = next else { break };
            packets += packet.packets();
            onward.push(slot, packet);
        }
        onward.flush();
        self.dispatch();
        !self.queue.borrow().is_empty()
    }

    fn lose(&self, packet: &HostPacket, loss: Loss) {
        self.count(loss.reason(), packet.packets() as u64);
    }

    /// Drops what still waits for a peer that is gone.
    pub(crate) fn forget_waiting(&self, slot: u16) {
        let packets = self.queue.borrow_mut().forget(slot);
        self.count("no_such_peer", packets as u64);
    }

    /// The peer that a packet is for; otherwise it was dealt with.
    fn route(&self, packet: &mut HostPacket, now: Duration) -> Option<u16> {
        let route = self.router.borrow_mut().route(packet, &self.pool, now);
        let packets = || packet.packets() as u64;
        match route {
            Route::Peer(slot) => return Some(slot),
            Route::Answer { reason, answer } => {
                self.count(reason, packets());
                let _ = self.tun.write(&answer);
            }
            Route::Wait(resource) => {
                let packets = packets();
                let none = HostPacket::plain(self.pool.take());
                if let Some(full) = self.router.borrow_mut().hold(resource, std::mem::replace(packet, none)) {
                    self.count(full, packets);
                }
            }
            Route::Elsewhere(lane) => {
                self.crossings.count_strays(self.index, packets());
                self.hand_over(lane, Cargo::Host { header: packet.header() }, packet.bytes(), packets());
            }
            Route::Drop(reason) => self.count(reason, packets()),
        }
        None
    }
}

/// Collects packets for one peer as long as none for another comes between.
struct Onward<'a> {
    lane: &'a TunnelLane,
    slot: u16,
    batch: Option<Batch<HostPacket>>,
}

impl Onward<'_> {
    fn push(&mut self, slot: u16, packet: HostPacket) {
        if self.slot != slot {
            self.flush();
            self.slot = slot;
        }
        let batch = self.batch.get_or_insert_with(|| self.lane.outbound.take());
        if let Err(packet) = batch.push(packet) {
            self.flush();
            let batch = self.batch.get_or_insert_with(|| self.lane.outbound.take());
            let _ = batch.push(packet);
        }
    }

    fn flush(&mut self) {
        if let Some(batch) = self.batch.take() {
            self.lane.push_sealed(self.slot, batch);
        }
    }
}

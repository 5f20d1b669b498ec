//! One door that clients come in by: a socket, or all connections together.
//!
//! - Parent: none, a root; one for each listening address of UDP, and one for the connections, which another lane carries.
//!   Its children are the [`Allocation`]s of its clients.
//! - Core: [`Front`](protocol_stun::relay::Front), a pure decision for each message of a stranger.
//! - When it dies: it is restarted on the lane's descriptor; machines and relayed sockets are kept by the lane, so its
//!   allocations go on, and what arrives meanwhile waits in the kernel.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actors_runtime::{Actor, ChildEnded, Cx, How, Never};
use protocol_stun::relay::{
    self, AllocateAsk, Ask, Decision, DropReason, FiveTuple, Granted, Transport, code,
};
use protocol_stun::stream::{Frame, frame};
use protocol_stun::{Family, Kind, is_indication, kind_at_relay};
use rand::Rng;

use crate::allocation::{Allocation, AllocationCommand, Packets, Parts};
use crate::counters::Request;
use crate::lane::{Held, RelayLane, unix_now};
use crate::ports::Relayed;
use crate::socket::{Arrived, RelaySocket};
use crate::streams::{FromStream, Open, Streams};
use crate::way::WayBack;

/// What a listener can be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerCommand {
    /// Grants no more allocations; those that are held go on.
    Drain,
}

/// Where clients come in; the lane keeps it.
#[derive(Clone)]
pub enum Door {
    /// Datagrams of a socket.
    Socket(Rc<RelaySocket>),
    /// Connections.
    Streams(Rc<Streams>),
}

/// The actor.
pub struct Listener {
    lane: Rc<RelayLane>,
    door: Door,
}

impl Listener {
    /// Reads what comes in by `door`.
    pub fn new(lane: Rc<RelayLane>, door: Door) -> Self {
        Self { lane, door }
    }

    fn read(&mut self, socket: &Rc<RelaySocket>, cx: &mut Cx<Self>) {
        let lane = Rc::clone(&self.lane);
        let mut scratch = lane.scratch.borrow_mut();
        if let Err(error) = socket.receive(&mut scratch, |arrived| self.arrived(socket, &arrived, cx)) {
            tracing::debug!(%error, "receive failed");
            cx.count_drop("udp_receive_failed", 1);
        }
        count_overflow(socket, &lane, cx);
    }

    /// Passes data on in as few pieces as it came in, and answers the rest.
    fn arrived(&mut self, socket: &Rc<RelaySocket>, arrived: &Arrived<'_>, cx: &mut Cx<Self>) {
        let local = arrived.local.unwrap_or(socket.local().ip());
        let relay = SocketAddr::new(local, socket.local().port());
        let five_tuple = FiveTuple { transport: Transport::Udp, client: arrived.from, relay };
        let way = WayBack::Datagrams(Rc::clone(socket));
        if arrived.bytes.is_empty() {
            cx.count_drop("udp_empty", 1);
        }
        let mut data = 0..0;
        for (n, datagram) in arrived.bytes.chunks(arrived.stride).enumerate() {
            let start = n * arrived.stride;
            let is_data = match kind_at_relay(datagram) {
                Kind::ChannelData => true,
                Kind::Stun => is_indication(datagram),
                Kind::Other => {
                    cx.count_drop(DropReason::NotForRelay.as_str(), 1);
                    self.pass(five_tuple, arrived.bytes, data.clone(), arrived.stride, arrived.ecn, cx);
                    data = start + datagram.len()..start + datagram.len();
                    continue;
                }
            };
            if !is_data {
                self.pass(five_tuple, arrived.bytes, data.clone(), arrived.stride, arrived.ecn, cx);
                data.start = start + datagram.len();
                self.answer(datagram, five_tuple, &way, cx);
            }
            data.end = start + datagram.len();
        }
        self.pass(five_tuple, arrived.bytes, data, arrived.stride, arrived.ecn, cx);
    }

    /// Takes what connections bring.
    fn brought(&mut self, streams: &Rc<Streams>, news: FromStream, cx: &mut Cx<Self>) {
        match news {
            FromStream::Opened { id, client, relay, back } => {
                streams.open.borrow_mut().insert(id, Open { client, relay, back });
            }
            FromStream::Closed { id } => {
                let closed = streams.open.borrow_mut().remove(&id);
                let Some(five_tuple) = closed.map(|open| five_tuple(&open)) else { return };
                let key = self.lane.held.borrow().get(&five_tuple).map(|held| held.key.clone());
                if let Some(key) = key {
                    cx.stop_child::<Allocation>(&key);
                }
            }
            FromStream::Messages { id, bytes } => {
                let Some(open) = streams.open.borrow().get(&id).cloned() else { return };
                self.messages(&bytes, five_tuple(&open), &WayBack::Stream(open.back), cx);
            }
        }
    }

    /// Passes on what is data, neighbours of one length together, and answers the rest.
    fn messages(&mut self, bytes: &[u8], five_tuple: FiveTuple, way: &WayBack, cx: &mut Cx<Self>) {
        let (mut data, mut stride, mut at) = (0..0, 1, 0);
        while let Frame::Whole(length) = frame(bytes.get(at..).unwrap_or_default()) {
            let message = bytes.get(at..at + length).unwrap_or_default();
            let is_data = kind_at_relay(message) == Kind::ChannelData || is_indication(message);
            if !is_data || length != stride {
                self.pass(five_tuple, bytes, data.clone(), stride, 0, cx);
                (data, stride) = (at..at, length.max(1));
            }
            if is_data {
                data.end = at + length;
            } else {
                self.answer(message, five_tuple, way, cx);
                data = at + length..at + length;
            }
            at += length;
        }
        self.pass(five_tuple, bytes, data, stride, 0, cx);
    }

    /// Hands data to the allocation of its five-tuple.
    fn pass(
        &self,
        five_tuple: FiveTuple,
        bytes: &[u8],
        data: std::ops::Range<usize>,
        stride: usize,
        ecn: u8,
        cx: &Cx<Self>,
    ) {
        let Some(bytes) = bytes.get(data).filter(|bytes| !bytes.is_empty()) else { return };
        let count = bytes.len().div_ceil(stride) as u64;
        let Some(packets) = self.lane.packets_of(five_tuple) else {
            return cx.count_drop(DropReason::NoAllocation.as_str(), count);
        };
        let run = self.lane.pool.run(bytes, stride, ecn);
        if packets.push(Packets::FromClient(run)).is_err() {
            cx.count_drop("allocation_ring_full", count);
        }
    }

    fn answer(&mut self, message: &[u8], five_tuple: FiveTuple, way: &WayBack, cx: &mut Cx<Self>) {
        let holds = self.lane.held.borrow().contains_key(&five_tuple);
        let now = self.lane.since(cx.now());
        let admit = || self.lane.strangers.borrow_mut().admit(five_tuple.client, now);
        match self.lane.front.handle_within(message, five_tuple.client, unix_now(), holds, admit) {
            Decision::Answer(bytes) => {
                self.lane.counters.answered(Request::Stranger);
                send(way, five_tuple, &bytes, cx);
            }
            Decision::Drop(reason) => cx.count_drop(reason.as_str(), 1),
            // Only for what is_indication says no to.
            Decision::Indication => cx.count_drop(DropReason::UnknownMethod.as_str(), 1),
            Decision::Authenticated(request) => self.serve(request, five_tuple, way, cx),
        }
    }

    fn serve(
        &mut self,
        request: Box<relay::Request>,
        five_tuple: FiveTuple,
        way: &WayBack,
        cx: &mut Cx<Self>,
    ) {
        let now = self.lane.since(cx.now());
        self.lane.counters.answered(match request.ask() {
            Ask::Allocate(_) => Request::Allocate,
            Ask::Refresh { .. } => Request::Refresh,
            Ask::CreatePermission { .. } => Request::CreatePermission,
            Ask::ChannelBind { .. } => Request::ChannelBind,
        });
        self.lane.filter.borrow_mut().saw(&request.user().account, five_tuple.client.ip(), now);
        let ask = request.ask().clone();
        match (self.lane.address_of(five_tuple), ask) {
            (Some(allocation), ask) => {
                let told = allocation.tell(match ask {
                    Ask::Allocate(_) => AllocationCommand::Repeat(request),
                    Ask::Refresh { .. } => AllocationCommand::Refresh(request),
                    Ask::CreatePermission { .. } => AllocationCommand::Permit(request),
                    Ask::ChannelBind { .. } => AllocationCommand::BindChannel(request),
                });
                if told.is_err() {
                    // It ends at this very moment; the client asks again and hears that.
                    cx.count_drop("allocation_ended", 1);
                }
            }
            (None, Ask::Allocate(ask)) => {
                if let Err(code) = self.allocate(&request, ask, five_tuple, way, cx) {
                    send(way, five_tuple, &request.refuse(code), cx);
                }
            }
            (None, Ask::Refresh { .. } | Ask::CreatePermission { .. } | Ask::ChannelBind { .. }) => {
                send(way, five_tuple, &request.refuse(code::ALLOCATION_MISMATCH), cx);
            }
        }
    }

    fn allocate(
        &mut self,
        request: &relay::Request,
        ask: AllocateAsk,
        five_tuple: FiveTuple,
        way: &WayBack,
        cx: &mut Cx<Self>,
    ) -> Result<(), u16> {
        let lane = Rc::clone(&self.lane);
        // Still held, but its actor is gone: the client is told to wait for the end of it.
        if lane.draining.get() || lane.held.borrow().contains_key(&five_tuple) {
            return Err(code::INSUFFICIENT_CAPACITY);
        }
        let share = lane.quota.borrow_mut().take(request.user(), five_tuple.client.ip())?;
        let opened = match self.open(request, ask, five_tuple, cx) {
            Ok(opened) => opened,
            Err(code) => {
                lane.quota.borrow_mut().give_back(share);
                return Err(code);
            }
        };
        let Opened { relayed, missing, reservation } = opened;
        let granted = Granted {
            five_tuple,
            relayed: relayed.iter().map(|relayed| relayed.public).collect(),
            missing,
            reservation,
            limits: lane.limits,
            seed: rand::rng().random(),
        };
        let machine = relay::Allocation::grant(request, ask.lifetime, granted, lane.since(cx.now()));
        let parts = Parts {
            five_tuple,
            way: way.clone(),
            meters: lane.meters.meters(&request.user().node, five_tuple.client.ip(), lane.since(cx.now())),
            machine: RefCell::new(machine),
            relayed: relayed.into(),
        };
        let held =
            Held { key: key(five_tuple).into(), parts: Rc::new(parts), share: Some(share), actor: None };
        lane.hold(five_tuple, held);
        tracing::debug!(client = %five_tuple.client, node = %request.user().node, "allocation granted");
        self.start(five_tuple, cx).inspect_err(|_| lane.let_go(five_tuple))
    }

    /// Opens the relayed sockets that were asked for.
    fn open(
        &self,
        request: &relay::Request,
        ask: AllocateAsk,
        five_tuple: FiveTuple,
        cx: &mut Cx<Self>,
    ) -> Result<Opened, u16> {
        let (lane, now) = (&self.lane, self.lane.since(cx.now()));
        let near = five_tuple.relay.ip();
        if let Some(token) = ask.reservation {
            let kept = lane.reservations.borrow_mut().take(token, request.user(), now)?;
            return Ok(Opened { relayed: vec![kept], missing: None, reservation: None });
        }
        if let (true, [family]) = (ask.reserve_next, ask.families.each()) {
            let (first, second) = lane.ports.open_pair(*family, near).map_err(|failed| failed.code)?;
            let token = rand::rng().random();
            lane.reservations.borrow_mut().keep(token, second, request.user(), now)?;
            self.wake_for_reservations(cx);
            return Ok(Opened { relayed: vec![first], missing: None, reservation: Some(token) });
        }
        let (mut relayed, mut missing) = (Vec::new(), None);
        for family in ask.families.each() {
            match self.open_one(*family, near, ask.even_port, now) {
                Ok(socket) => relayed.push(socket),
                Err(code) => missing = Some((*family, code)),
            }
        }
        if relayed.is_empty() {
            return Err(missing.map_or(code::INSUFFICIENT_CAPACITY, |(_, code)| code));
        }
        Ok(Opened { relayed, missing, reservation: None })
    }

    fn open_one(&self, family: Family, near: IpAddr, even: bool, now: Duration) -> Result<Relayed, u16> {
        self.lane.ports.open(family, near, even).map_err(|failed| {
            if let Some(error) = failed.error
                && self.lane.may_grumble(now)
            {
                tracing::warn!(%error, "cannot open a relayed socket");
            }
            failed.code
        })
    }

    fn wake_for_reservations(&self, cx: &mut Cx<Self>) {
        match self.lane.reservations.borrow().next() {
            Some(end) => cx.wake_at(self.lane.instant(end)),
            None => cx.wake_never(),
        }
    }

    /// Starts the actor of a held allocation.
    fn start(&self, five_tuple: FiveTuple, cx: &mut Cx<Self>) -> Result<(), u16> {
        let lane = Rc::clone(&self.lane);
        let held = lane.held.borrow();
        let Some((key, parts)) =
            held.get(&five_tuple).map(|held| (Arc::clone(&held.key), Rc::clone(&held.parts)))
        else {
            return Err(code::INSUFFICIENT_CAPACITY);
        };
        drop(held);
        let shared = Rc::clone(&lane);
        let factory = move || Allocation::new(Rc::clone(&shared), Rc::clone(&parts));
        match cx.start_child::<Allocation>(key, factory) {
            Ok(child) => {
                if let Some(packets) = child.packets {
                    lane.connect(five_tuple, child.address, packets);
                }
                Ok(())
            }
            Err(error) => {
                if self.lane.may_grumble(self.lane.since(cx.now())) {
                    tracing::warn!(%error, "allocation not started");
                }
                Err(code::INSUFFICIENT_CAPACITY)
            }
        }
    }

    /// The held allocations whose clients come in here.
    fn mine(&self) -> Vec<FiveTuple> {
        let table = self.lane.held.borrow();
        let here = |five_tuple: &&FiveTuple| match &self.door {
            Door::Streams(_) => five_tuple.transport == Transport::Tcp,
            Door::Socket(socket) => {
                let local = socket.local();
                let address = local.ip() == five_tuple.relay.ip()
                    || (local.ip().is_unspecified() && local.is_ipv4() == five_tuple.relay.is_ipv4());
                five_tuple.transport == Transport::Udp && address && local.port() == five_tuple.relay.port()
            }
        };
        table.keys().filter(here).copied().collect()
    }
}

fn send(way: &WayBack, five_tuple: FiveTuple, bytes: &[u8], cx: &Cx<Listener>) {
    if let Err(reason) = way.send(five_tuple, 0, bytes) {
        cx.count_drop(reason, 1);
    }
}

fn five_tuple(open: &Open) -> FiveTuple {
    FiveTuple { transport: Transport::Tcp, client: open.client, relay: open.relay }
}

/// Counts what the kernel dropped before `socket`.
pub(crate) fn count_overflow<A: Actor>(socket: &RelaySocket, lane: &RelayLane, cx: &Cx<A>) {
    let overflowed = socket.overflowed(lane.since(cx.now()));
    if overflowed > 0 {
        cx.count_drop("udp_receive_full", overflowed);
    }
}

/// The relayed sockets of a new allocation.
struct Opened {
    relayed: Vec<Relayed>,
    missing: Option<(Family, u16)>,
    reservation: Option<u64>,
}

/// What stands in the list of actors for an allocation.
fn key(five_tuple: FiveTuple) -> String {
    let by = match five_tuple.transport {
        Transport::Udp => "",
        Transport::Tcp => " by TCP",
    };
    format!("{} at {}{by}", five_tuple.client, five_tuple.relay)
}

impl Actor for Listener {
    const KIND: &'static str = "Listener";
    type Command = ListenerCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        for five_tuple in self.mine() {
            if self.start(five_tuple, cx).is_err() {
                self.lane.let_go(five_tuple);
            }
        }
        self.wake_for_reservations(cx);
        match self.door.clone() {
            Door::Socket(socket) => {
                let readable = socket.readable();
                cx.follow(readable, move |listener, (), cx| listener.read(&socket, cx));
            }
            Door::Streams(streams) => {
                let incoming = streams.incoming.clone();
                cx.follow(incoming, move |listener, news, cx| listener.brought(&streams, news, cx));
            }
        }
    }

    fn told(&mut self, command: ListenerCommand, _cx: &mut Cx<Self>) {
        match command {
            ListenerCommand::Drain => self.lane.draining.set(true),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        self.lane.reservations.borrow_mut().expire(now);
        self.wake_for_reservations(cx);
    }

    fn child_ended(&mut self, child: ChildEnded, cx: &mut Cx<Self>) {
        if let Some(five_tuple) = self.lane.by_key(&child.key) {
            self.lane.let_go(five_tuple);
        }
        match child.how {
            How::Stopped => tracing::debug!("allocation ended"),
            How::Failed | How::GaveUp => {
                if self.lane.may_grumble(self.lane.since(cx.now())) {
                    tracing::warn!("an allocation failed; its client will make another");
                }
            }
        }
    }
}

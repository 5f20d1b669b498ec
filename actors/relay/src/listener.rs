//! One door that clients come in by: a socket, or all connections together.
//!
//! - Parent: none, a root; one for each listening address of UDP, and one for the connections, which another lane carries.
//!   Its children are the [`Allocation`]s of its clients.
//! - Core: [`Front`](protocol_stun::relay::Front), a pure decision for each message of a stranger.
//! - When it dies: it is restarted on the lane's descriptor; machines and relayed sockets are kept by the lane, so its
//!   allocations go on, and what arrives meanwhile waits in the kernel.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, ChildEnded, Cx, How, Never};
use protocol_stun::relay::{
    self, AllocateAsk, Ask, Decision, DropReason, FiveTuple, Granted, Transport, code,
};
use protocol_stun::stream::{Frame, frame};
use protocol_stun::{Family, Kind, is_indication, kind_at_relay};
use rand::Rng;

use crate::allocation::{Allocation, AllocationCommand, Parts};
use crate::carry::Run;
use crate::counters::Request;
use crate::lane::{RelayLane, by_key, key, unix_now};
use crate::ports::Relayed;
use crate::receive::Arrived;
use crate::socket::RelaySocket;
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
        let (now, way) = (lane.since(cx.now()), WayBack::Datagrams(Rc::clone(socket)));
        let mut scratch = lane.scratch.borrow_mut();
        let received = socket.receive(&mut scratch, |arrived| {
            let local = arrived.local.unwrap_or(socket.local().ip());
            let relay = SocketAddr::new(local, socket.local().port());
            let five_tuple = FiveTuple { transport: Transport::Udp, client: arrived.from, relay };
            self.arrived(&arrived, five_tuple, &way, now, cx);
        });
        if let Err(error) = received {
            tracing::debug!(%error, "receive failed");
            lane.count("udp_receive_failed", 1);
        }
        count_overflow(socket, &lane, now);
    }

    /// Passes data on in as few pieces as it came in, and answers the rest.
    fn arrived(
        &mut self,
        arrived: &Arrived<'_>,
        five_tuple: FiveTuple,
        way: &WayBack,
        now: Duration,
        cx: &mut Cx<Self>,
    ) {
        let Arrived { bytes, stride, ecn, .. } = *arrived;
        let pass = |this: &Self, data: Range<usize>| {
            let bytes = bytes.get(data).unwrap_or_default();
            this.pass(five_tuple, Run { bytes, stride, ecn }, now);
        };
        if bytes.is_empty() {
            self.lane.count("udp_empty", 1);
        }
        let mut data = 0..0;
        for (n, datagram) in bytes.chunks(stride).enumerate() {
            let start = n * stride;
            let is_data = match kind_at_relay(datagram) {
                Kind::ChannelData => true,
                Kind::Stun => is_indication(datagram),
                Kind::Other => {
                    self.lane.count(DropReason::NotForRelay.as_str(), 1);
                    pass(self, data);
                    data = start + datagram.len()..start + datagram.len();
                    continue;
                }
            };
            if !is_data {
                pass(self, data.clone());
                data.start = start + datagram.len();
                self.answer(datagram, five_tuple, way, cx);
            }
            data.end = start + datagram.len();
        }
        pass(self, data);
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
                if self.lane.of(five_tuple).is_some() {
                    cx.stop_child::<Allocation>(&key(five_tuple));
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
        let now = self.lane.since(cx.now());
        let pass = |this: &Self, data: Range<usize>, stride: usize| {
            let bytes = bytes.get(data).unwrap_or_default();
            this.pass(five_tuple, Run { bytes, stride, ecn: 0 }, now);
        };
        while let Frame::Whole(length) = frame(bytes.get(at..).unwrap_or_default()) {
            let message = bytes.get(at..at + length).unwrap_or_default();
            let is_data = kind_at_relay(message) == Kind::ChannelData || is_indication(message);
            if !is_data || length != stride {
                pass(self, data.clone(), stride);
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
        pass(self, data, stride);
    }

    /// Has the allocation of the five-tuple pass its data on.
    fn pass(&self, five_tuple: FiveTuple, run: Run<'_>, now: Duration) {
        let count = run.count();
        if count == 0 {
            return;
        }
        match self.lane.of(five_tuple) {
            Some(parts) => {
                self.lane.contained(&parts, count, || parts.pass_to_peers(&self.lane, run, now));
            }
            None => self.lane.count(DropReason::NoAllocation.as_str(), count),
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
        let actor = self.lane.of(five_tuple).and_then(|parts| parts.actor.borrow().clone());
        match (actor, ask) {
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
            share: Cell::new(Some(share)),
            actor: RefCell::default(),
        };
        let parts = Rc::new(parts);
        lane.hold(&parts);
        tracing::debug!(client = %five_tuple.client, node = %request.user().node, "allocation granted");
        self.start(parts, cx).inspect_err(|_| lane.let_go(five_tuple))
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
    fn start(&self, parts: Rc<Parts>, cx: &mut Cx<Self>) -> Result<(), u16> {
        let (lane, shared) = (Rc::clone(&self.lane), Rc::clone(&parts));
        let factory = move || Allocation::new(Rc::clone(&lane), Rc::clone(&shared));
        match cx.start_child::<Allocation>(key(parts.five_tuple), factory) {
            Ok(child) => {
                parts.actor.replace(Some(child.address));
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
    fn mine(&self) -> Vec<Rc<Parts>> {
        let table = self.lane.held.borrow();
        let here = |parts: &&Rc<Parts>| match (&self.door, parts.five_tuple) {
            (Door::Streams(_), five_tuple) => five_tuple.transport == Transport::Tcp,
            (Door::Socket(socket), five_tuple) => {
                let local = socket.local();
                let address = local.ip() == five_tuple.relay.ip()
                    || (local.ip().is_unspecified() && local.is_ipv4() == five_tuple.relay.is_ipv4());
                five_tuple.transport == Transport::Udp && address && local.port() == five_tuple.relay.port()
            }
        };
        table.values().filter(here).cloned().collect()
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
pub(crate) fn count_overflow(socket: &RelaySocket, lane: &RelayLane, now: Duration) {
    lane.count("udp_receive_full", socket.overflowed(now));
}

/// The relayed sockets of a new allocation.
struct Opened {
    relayed: Vec<Relayed>,
    missing: Option<(Family, u16)>,
    reservation: Option<u64>,
}

impl Actor for Listener {
    const KIND: &'static str = "Listener";
    type Command = ListenerCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        self.lane.count_by(cx.drops());
        for parts in self.mine() {
            let five_tuple = parts.five_tuple;
            if self.start(parts, cx).is_err() {
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
        if let Some(five_tuple) = by_key(&child.key) {
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

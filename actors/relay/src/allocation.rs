//! One TURN allocation: the sockets that its client is reached by, and the rules for what passes.
//!
//! - Parent: [`Listener`](crate::Listener), one child for each five-tuple, never restarted.
//! - Core: [`relay::Allocation`], a pure machine.
//! - When it dies: its client hears that there is no allocation and makes another; no other allocation notices.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use actors_runtime::{Actor, Cx};
use protocol_stun::relay::{self, DropReason, FiveTuple, Output, Payload, ToClient, ToPeer};
use protocol_stun::{Family, Kind, Route, channel_header, kind_at_relay, read_channel_header};

use crate::counters::Direction;
use crate::gather::Gather;
use crate::lane::RelayLane;
use crate::listener::count_overflow;
use crate::meters::Meters;
use crate::pool::Run;
use crate::ports::Relayed;
use crate::socket::{Arrived, Envelope, RelaySocket};
use crate::way::WayBack;

/// What an allocation can be told: requests of its client, authenticated by the listener, and the end.
#[derive(Debug)]
pub enum AllocationCommand {
    /// A Refresh request.
    Refresh(Box<relay::Request>),
    /// A CreatePermission request.
    Permit(Box<relay::Request>),
    /// A ChannelBind request.
    BindChannel(Box<relay::Request>),
    /// An Allocate request on a five-tuple that has its allocation: a copy of the first one, or a mistake.
    Repeat(Box<relay::Request>),
    /// Ends at once.
    Expire,
}

/// What arrives through the packet mailbox, in arrival order.
pub enum Packets {
    /// ChannelData and Send indications of its client.
    FromClient(Run),
    /// What another allocation of this relay sends here, from its relayed address.
    FromAllocation(SocketAddr, Run),
}

/// What of an allocation outlives its actor; kept once, for the lane, the actor's factory and the actor.
pub(crate) struct Parts {
    pub(crate) five_tuple: FiveTuple,
    /// How its client is reached.
    pub(crate) way: WayBack,
    /// What its user and its source may still have relayed.
    pub(crate) meters: Meters,
    pub(crate) machine: RefCell<relay::Allocation>,
    /// Its relayed sockets, those that it has given up, too.
    pub(crate) relayed: Box<[Relayed]>,
}

/// The actor.
pub struct Allocation {
    lane: Rc<RelayLane>,
    parts: Rc<Parts>,
    /// Memory for one Data indication.
    indication: Vec<u8>,
}

impl Allocation {
    pub(crate) fn new(lane: Rc<RelayLane>, parts: Rc<Parts>) -> Self {
        Self { lane, parts, indication: Vec::new() }
    }

    fn serve(&mut self, request: &relay::Request, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        self.parts.machine.borrow_mut().handle_request(request, &self.lane.filter.borrow(), now);
        self.pump(cx);
    }

    /// Does what the machine wants done.
    fn pump(&mut self, cx: &mut Cx<Self>) {
        let parts = Rc::clone(&self.parts);
        while let Some(output) = { parts.machine.borrow_mut().poll_output() } {
            match output {
                Output::Respond(bytes) => {
                    if let Err(reason) = self.parts.way.send(self.parts.five_tuple, 0, &bytes) {
                        cx.count_drop(reason, 1);
                    }
                }
                Output::FamilyReleased(family) => {
                    for relayed in parts.relayed.iter().filter(|r| Family::of(r.public.ip()) == family) {
                        self.lane.forget_relayed(relayed);
                    }
                }
                Output::Ended(_) => cx.stop(),
            }
        }
        match parts.machine.borrow().poll_timeout() {
            Some(deadline) => cx.wake_at(self.lane.instant(deadline)),
            None => cx.wake_never(),
        }
    }

    /// Reads a relayed socket.
    fn read(&mut self, socket: &Rc<RelaySocket>, cx: &mut Cx<Self>) {
        let lane = Rc::clone(&self.lane);
        let mut scratch = lane.scratch.borrow_mut();
        let received = socket.receive(&mut scratch, |Arrived { from, ecn, bytes, stride, .. }| {
            self.pass_to_client(from, bytes, stride, ecn, cx);
        });
        if received.is_err() {
            cx.count_drop("udp_receive_failed", 1);
        }
        count_overflow(socket, &lane, cx);
    }

    /// Tells the client what the network answered to its packets (RFC 8656 §11.5).
    fn report(&mut self, socket: &Rc<RelaySocket>, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        socket.errors(|peer, error| {
            self.indication.clear();
            match self.parts.machine.borrow_mut().icmp_indication(peer, error, now, &mut self.indication) {
                Ok(()) => {
                    self.lane.counters.reported();
                    if let Err(reason) = self.parts.way.send(self.parts.five_tuple, 0, &self.indication) {
                        cx.count_drop(reason, 1);
                    }
                }
                Err(reason) => cx.count_drop(reason.as_str(), 1),
            }
        });
    }

    /// Sends what came from a peer on to the client.
    fn pass_to_client(&mut self, peer: SocketAddr, bytes: &[u8], stride: usize, ecn: u8, cx: &mut Cx<Self>) {
        if bytes.is_empty() {
            return cx.count_drop("udp_empty", 1);
        }
        let count = bytes.len().div_ceil(stride) as u64;
        let now = self.lane.since(cx.now());
        let payload = self.parts.machine.borrow().payload();
        if payload != Payload::Any && !bytes.chunks(stride).all(|packet| payload.admits(packet)) {
            return match count {
                1 => cx.count_drop(DropReason::PayloadRefused.as_str(), 1),
                _ => bytes
                    .chunks(stride)
                    .for_each(|packet| self.pass_to_client(peer, packet, packet.len().max(1), ecn, cx)),
            };
        }
        let how = self.parts.machine.borrow().handle_from_peer(peer, now);
        if how.is_ok() && !self.parts.meters.admit(count, bytes.len() as u64, now) {
            return cx.count_drop("over_quota", count);
        }
        match how {
            Ok(ToClient::Channel(channel)) => self.by_channel(channel, bytes, stride, ecn, cx),
            Ok(ToClient::Indication) => {
                for payload in bytes.chunks(stride) {
                    self.by_indication(peer, payload, ecn, cx);
                }
            }
            Err(reason) => cx.count_drop(reason.as_str(), count),
        }
    }

    fn by_channel(&self, channel: u16, bytes: &[u8], stride: usize, ecn: u8, cx: &Cx<Self>) {
        let last = bytes.len().saturating_sub(1) % stride + 1;
        let [Ok(whole_len), Ok(last_len)] = [stride, last].map(u16::try_from) else {
            return cx.count_drop("udp_too_big", 1);
        };
        let (whole, last) = (channel_header(channel, whole_len), channel_header(channel, last_len));
        let count = bytes.len().div_ceil(stride);
        let mut gather = Gather::new(2);
        for (n, payload) in bytes.chunks(stride).enumerate() {
            let header = if n + 1 == count { &last } else { &whole };
            if !gather.push(&[header, payload]) {
                self.send_to_client(&gather, ecn, cx);
                gather = Gather::new(2);
                let _first_always_fits = gather.push(&[header, payload]);
            }
        }
        self.send_to_client(&gather, ecn, cx);
    }

    fn send_to_client(&self, gather: &Gather<'_>, ecn: u8, cx: &Cx<Self>) {
        if gather.is_empty() {
            return;
        }
        let sent = self.parts.way.send_channel_data(self.parts.five_tuple, ecn, gather);
        let lost = sent.err().unwrap_or((0, ""));
        if lost.0 > 0 {
            cx.count_drop(lost.1, lost.0);
        }
        let headers = 4 * gather.count();
        self.lane.counters.relayed(Direction::ToClient, gather.count() - lost.0, gather.bytes() - headers);
    }

    fn by_indication(&mut self, peer: SocketAddr, payload: &[u8], ecn: u8, cx: &Cx<Self>) {
        self.indication.clear();
        if !self.parts.machine.borrow_mut().data_indication(peer, payload, &mut self.indication) {
            return cx.count_drop("udp_too_big", 1);
        }
        match self.parts.way.send(self.parts.five_tuple, ecn, &self.indication) {
            Ok(()) => self.lane.counters.relayed(Direction::ToClient, 1, payload.len() as u64),
            Err(reason) => cx.count_drop(reason, 1),
        }
    }

    /// Sends what came from the client on to its peers.
    fn pass_to_peers(&mut self, run: &Run, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        let machine = self.parts.machine.borrow();
        let filter = self.lane.filter.borrow();
        let mut gather = Gather::new(1);
        let mut going: Option<ToPeer> = None;
        // What was decided for a channel holds for its neighbours in the run: all of them came at the same moment.
        let mut channel: Option<(u16, ToPeer)> = None;
        for datagram in run.bytes().chunks(run.stride()) {
            let decided = match (kind_at_relay(datagram), &channel) {
                (Kind::ChannelData, Some((number, to)))
                    if read_channel_header(datagram).is_some_and(|(n, _)| n == *number) =>
                {
                    again(datagram, to, &machine)
                }
                (Kind::ChannelData, _) => machine.handle_channel_data(datagram, &filter, now).inspect(|to| {
                    channel = read_channel_header(datagram).map(|(number, _)| (number, to.clone()));
                }),
                (Kind::Stun, _) => machine.handle_indication(datagram, &filter, now),
                (Kind::Other, _) => Err(DropReason::NotForRelay),
            };
            let to = match decided {
                Ok(to) => to,
                Err(reason) => {
                    cx.count_drop(reason.as_str(), 1);
                    continue;
                }
            };
            let payload = datagram.get(to.payload.clone()).unwrap_or_default();
            let same = going.as_ref().is_some_and(|before| before.peer == to.peer);
            if !(same && gather.push(&[payload])) {
                if let Some(before) = going.take() {
                    self.send_to_peer(&before, &gather, run.ecn(), cx);
                }
                gather = Gather::new(1);
                let _first_always_fits = gather.push(&[payload]);
                going = Some(to);
            }
        }
        if let Some(before) = going {
            self.send_to_peer(&before, &gather, run.ecn(), cx);
        }
    }

    fn send_to_peer(&self, to: &ToPeer, gather: &Gather<'_>, ecn: u8, cx: &Cx<Self>) {
        let (count, bytes) = (gather.count(), gather.bytes());
        if !self.parts.meters.admit(count, bytes, self.lane.since(cx.now())) {
            return cx.count_drop("over_quota", count);
        }
        let lost = match to.route {
            Route::Network => {
                let Some(relayed) = self.parts.relayed.iter().find(|relayed| relayed.public == to.from)
                else {
                    return cx.count_drop(DropReason::WrongFamily.as_str(), count);
                };
                let envelope = Envelope { to: to.peer, from: None, ecn };
                relayed.socket.send_segments(envelope, gather.parts(), 1, gather.segment()).err()
            }
            Route::InProcess => {
                let mut run = self.lane.pool.empty(gather.segment(), ecn);
                gather.parts().iter().for_each(|part| run.push(part));
                let other = self.lane.switchboard.borrow().get(&to.peer).cloned();
                match other.map(|other| other.push(Packets::FromAllocation(to.from, run))) {
                    Some(Ok(())) => {
                        self.lane.counters.relayed(Direction::InProcess, count, bytes);
                        None
                    }
                    Some(Err(_)) => Some((count, "allocation_ring_full")),
                    None => Some((count, DropReason::OwnHost.as_str())),
                }
            }
            Route::Nowhere => Some((count, DropReason::OwnHost.as_str())),
        };
        match lost {
            None => self.lane.counters.relayed(Direction::ToPeer, count, bytes),
            Some((lost, reason)) => {
                cx.count_drop(reason, lost);
                self.lane.counters.relayed(
                    Direction::ToPeer,
                    count - lost,
                    bytes * (count - lost) / count.max(1),
                );
            }
        }
    }
}

/// The same decision for another message of the channel.
fn again(datagram: &[u8], to: &ToPeer, machine: &relay::Allocation) -> Result<ToPeer, DropReason> {
    let (_, payload) = read_channel_header(datagram).ok_or(DropReason::Malformed)?;
    if machine.payload().admits(datagram.get(payload.clone()).unwrap_or_default()) {
        Ok(ToPeer { payload, ..to.clone() })
    } else {
        Err(DropReason::PayloadRefused)
    }
}

impl Actor for Allocation {
    const KIND: &'static str = "Allocation";
    type Command = AllocationCommand;
    type Packets = Packets;

    fn started(&mut self, cx: &mut Cx<Self>) {
        for relayed in &self.parts.relayed {
            let socket = Rc::clone(&relayed.socket);
            cx.follow(relayed.socket.readable(), move |allocation: &mut Self, (), cx| {
                allocation.read(&socket, cx)
            });
            let socket = Rc::clone(&relayed.socket);
            cx.follow(relayed.socket.failing(), move |allocation: &mut Self, (), cx| {
                allocation.report(&socket, cx)
            });
        }
        self.pump(cx);
    }

    fn told(&mut self, command: AllocationCommand, cx: &mut Cx<Self>) {
        match command {
            AllocationCommand::Refresh(request)
            | AllocationCommand::Permit(request)
            | AllocationCommand::BindChannel(request)
            | AllocationCommand::Repeat(request) => self.serve(&request, cx),
            AllocationCommand::Expire => cx.stop(),
        }
    }

    fn received(&mut self, packets: Packets, cx: &mut Cx<Self>) {
        match packets {
            Packets::FromClient(run) => self.pass_to_peers(&run, cx),
            Packets::FromAllocation(peer, run) => {
                self.pass_to_client(peer, run.bytes(), run.stride(), run.ecn(), cx)
            }
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        self.parts.machine.borrow_mut().handle_timeout(now);
        self.pump(cx);
    }

    fn count(packets: &Packets) -> u64 {
        match packets {
            Packets::FromClient(run) | Packets::FromAllocation(_, run) => run.count(),
        }
    }
}

//! One TURN allocation: the sockets that its client is reached by, and the rules for what passes.
//!
//! - Parent: [`Listener`](crate::Listener), one child for each five-tuple, never restarted.
//! - Core: [`relay::Allocation`], a pure machine.
//! - When it dies: its client hears that there is no allocation and makes another; no other allocation notices.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use actors_runtime::{Actor, Address, Cx, Never};
use protocol_stun::Family;
use protocol_stun::relay::{self, FiveTuple, Output, Share};

use crate::carry::Run;
use crate::lane::RelayLane;
use crate::listener::count_overflow;
use crate::meters::Meters;
use crate::ports::Relayed;
use crate::socket::RelaySocket;
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
    /// One of its packets made others' code panic: it ends as if it had done so itself.
    Fail,
}

/// What of an allocation outlives its actor; kept once, for the lane, the actor's factory and the actor. What it does with
/// packets: [`carry`](crate::carry).
pub(crate) struct Parts {
    pub(crate) five_tuple: FiveTuple,
    /// How its client is reached.
    pub(crate) way: WayBack,
    /// What its user and its source may still have relayed.
    pub(crate) meters: Meters,
    pub(crate) machine: RefCell<relay::Allocation>,
    /// Its relayed sockets, those that it has given up, too.
    pub(crate) relayed: Box<[Relayed]>,
    /// Given back at the end.
    pub(crate) share: Cell<Option<Share>>,
    /// Set while its actor lives.
    pub(crate) actor: RefCell<Option<Address<Allocation>>>,
}

/// The actor.
pub struct Allocation {
    lane: Rc<RelayLane>,
    parts: Rc<Parts>,
}

impl Allocation {
    pub(crate) fn new(lane: Rc<RelayLane>, parts: Rc<Parts>) -> Self {
        Self { lane, parts }
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
        let (lane, now) = (Rc::clone(&self.lane), self.lane.since(cx.now()));
        let mut scratch = lane.scratch.borrow_mut();
        let received = socket.receive(&mut scratch, |arrived| {
            if arrived.bytes.is_empty() {
                return lane.count("udp_empty", 1);
            }
            let run = Run { bytes: arrived.bytes, stride: arrived.stride, ecn: arrived.ecn };
            self.parts.pass_to_client(&lane, arrived.from, run.datagrams(), run.ecn, now);
        });
        match received {
            Ok(true) => {}
            Ok(false) => self.report(socket, now),
            Err(_) => lane.count("udp_receive_failed", 1),
        }
        count_overflow(socket, &lane, now);
    }

    /// Tells the client what the network answered to its packets (RFC 8656 §11.5).
    fn report(&self, socket: &RelaySocket, now: Duration) {
        let lane = &self.lane;
        socket.errors(|peer, error| {
            let mut indication = lane.indication.borrow_mut();
            indication.clear();
            match self.parts.machine.borrow_mut().icmp_indication(peer, error, now, &mut indication) {
                Ok(()) => {
                    lane.counters.reported();
                    if let Err(reason) = self.parts.way.send(self.parts.five_tuple, 0, &indication) {
                        lane.count(reason, 1);
                    }
                }
                Err(reason) => lane.count(reason.as_str(), 1),
            }
        });
    }
}

impl Actor for Allocation {
    const KIND: &'static str = "Allocation";
    type Command = AllocationCommand;
    type Packets = Never;

    fn started(&mut self, cx: &mut Cx<Self>) {
        for relayed in &self.parts.relayed {
            let socket = Rc::clone(&relayed.socket);
            cx.follow(relayed.socket.readable(), move |allocation: &mut Self, (), cx| {
                allocation.read(&socket, cx)
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
            AllocationCommand::Fail => cx.fail(),
        }
    }

    fn woken(&mut self, cx: &mut Cx<Self>) {
        let now = self.lane.since(cx.now());
        self.parts.machine.borrow_mut().handle_timeout(now);
        self.pump(cx);
    }
}

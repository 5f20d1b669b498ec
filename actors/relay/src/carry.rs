//! What an allocation does with packets, in the turn of whoever has received them.
//!
//! A packet of a client is read by its listener and leaves by the relayed socket in the same turn: waking the allocation's
//! actor for each packet of sparse traffic would cost more than passing it on. What a packet breaks costs its allocation
//! all the same, and no other ([`RelayLane::contained`]).

use std::io::IoSlice;
use std::iter;
use std::net::SocketAddr;
use std::time::Duration;

use protocol_stun::relay::{self, DropReason, Payload, ToClient, ToPeer};
use protocol_stun::{Kind, Route, channel_header, kind_at_relay, read_channel_header};

use crate::allocation::Parts;
use crate::counters::Direction;
use crate::gather::{Gather, Segments};
use crate::lane::RelayLane;
use crate::socket::Envelope;

/// Datagrams of one source: each `stride` bytes long, the last may be shorter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Run<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) stride: usize,
    /// Their ECN bits (RFC 3168 §5).
    pub(crate) ecn: u8,
}

impl<'a> Run<'a> {
    /// How many they are.
    pub(crate) fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.stride.max(1)) as u64
    }

    pub(crate) fn datagrams(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        self.bytes.chunks(self.stride.max(1))
    }
}

/// What was decided for a channel holds for its neighbours in the run: all of them came at the same moment.
type Channel = Option<(u16, ToPeer)>;

impl Parts {
    /// Sends what came from the client on to its peers.
    pub(crate) fn pass_to_peers(&self, lane: &RelayLane, run: Run<'_>, now: Duration) {
        let mut channel = None;
        if run.count() == 1 {
            match self.decide(lane, run.bytes, &mut channel, now) {
                Ok(to) => {
                    let part = [IoSlice::new(run.bytes.get(to.payload.clone()).unwrap_or_default())];
                    self.send_to_peer(lane, &to, Segments::one(&part), run.ecn, now);
                }
                Err(reason) => lane.count(reason.as_str(), 1),
            }
            return;
        }
        let mut gather = Gather::new(1);
        let mut going: Option<ToPeer> = None;
        for datagram in run.datagrams() {
            let to = match self.decide(lane, datagram, &mut channel, now) {
                Ok(to) => to,
                Err(reason) => {
                    lane.count(reason.as_str(), 1);
                    continue;
                }
            };
            let payload = datagram.get(to.payload.clone()).unwrap_or_default();
            let same = going.as_ref().is_some_and(|before| before.peer == to.peer);
            if !(same && gather.push(&[payload])) {
                if let Some(before) = going.take() {
                    self.send_to_peer(lane, &before, gather.segments(), run.ecn, now);
                }
                gather = Gather::new(1);
                let _first_always_fits = gather.push(&[payload]);
                going = Some(to);
            }
        }
        if let Some(before) = going {
            self.send_to_peer(lane, &before, gather.segments(), run.ecn, now);
        }
    }

    fn decide(
        &self,
        lane: &RelayLane,
        datagram: &[u8],
        channel: &mut Channel,
        now: Duration,
    ) -> Result<ToPeer, DropReason> {
        let machine = self.machine.borrow();
        match (kind_at_relay(datagram), &channel) {
            (Kind::ChannelData, Some((number, to)))
                if read_channel_header(datagram).is_some_and(|(n, _)| n == *number) =>
            {
                again(datagram, to, &machine)
            }
            (Kind::ChannelData, _) => {
                let to = machine.handle_channel_data(datagram, &lane.filter.borrow(), now)?;
                *channel = read_channel_header(datagram).map(|(number, _)| (number, to.clone()));
                Ok(to)
            }
            (Kind::Stun, _) => machine.handle_indication(datagram, &lane.filter.borrow(), now),
            (Kind::Other, _) => Err(DropReason::NotForRelay),
        }
    }

    fn send_to_peer(&self, lane: &RelayLane, to: &ToPeer, what: Segments<'_>, ecn: u8, now: Duration) {
        let (count, bytes) = (what.count(), what.bytes);
        if !self.meters.admit(count, bytes, now) {
            return lane.count("over_quota", count);
        }
        let lost = match to.route {
            Route::Network => {
                let Some(relayed) = self.relayed.iter().find(|relayed| relayed.public == to.from) else {
                    return lane.count(DropReason::WrongFamily.as_str(), count);
                };
                relayed.socket.send_segments(Envelope { to: to.peer, from: None, ecn }, what).err()
            }
            Route::InProcess => match lane.at(to.peer) {
                Some(other) => {
                    let payloads = what.parts.iter().map(|part| &**part);
                    lane.contained(&other, count, || other.pass_to_client(lane, to.from, payloads, ecn, now));
                    lane.counters.relayed(Direction::InProcess, count, bytes);
                    None
                }
                None => Some((count, DropReason::OwnHost.as_str())),
            },
            Route::Nowhere => Some((count, DropReason::OwnHost.as_str())),
        };
        match lost {
            None => lane.counters.relayed(Direction::ToPeer, count, bytes),
            Some((lost, reason)) => {
                lane.count(reason, lost);
                let left = count - lost;
                lane.counters.relayed(Direction::ToPeer, left, bytes * left / count.max(1));
            }
        }
    }

    /// Sends what came from a peer on to the client; all are equally long, the last may be shorter.
    pub(crate) fn pass_to_client<'a>(
        &self,
        lane: &RelayLane,
        peer: SocketAddr,
        payloads: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        ecn: u8,
        now: Duration,
    ) {
        let count = payloads.len() as u64;
        let (passes, how) = {
            let machine = self.machine.borrow();
            (machine.payload(), machine.handle_from_peer(peer, now))
        };
        if passes != Payload::Any && !payloads.clone().all(|payload| passes.admits(payload)) {
            return match count {
                1 => lane.count(DropReason::PayloadRefused.as_str(), 1),
                _ => payloads.for_each(|one| self.pass_to_client(lane, peer, iter::once(one), ecn, now)),
            };
        }
        let how = match how {
            Ok(how) => how,
            Err(reason) => return lane.count(reason.as_str(), count),
        };
        let bytes: usize = payloads.clone().map(<[u8]>::len).sum();
        if !self.meters.admit(count, bytes as u64, now) {
            return lane.count("over_quota", count);
        }
        match how {
            ToClient::Channel(channel) => self.by_channel(lane, channel, payloads, ecn),
            ToClient::Indication => {
                payloads.for_each(|payload| self.by_indication(lane, peer, payload, ecn));
            }
        }
    }

    fn by_channel<'a>(
        &self,
        lane: &RelayLane,
        channel: u16,
        mut payloads: impl ExactSizeIterator<Item = &'a [u8]> + Clone,
        ecn: u8,
    ) {
        let count = payloads.len();
        let length = |payload: Option<&[u8]>| u16::try_from(payload.unwrap_or_default().len());
        let [Ok(whole), Ok(last)] = [length(payloads.clone().next()), length(payloads.clone().last())] else {
            return lane.count("udp_too_big", count as u64);
        };
        let (whole, last) = (channel_header(channel, whole), channel_header(channel, last));
        if count == 1 {
            let parts = [IoSlice::new(&whole), IoSlice::new(payloads.next().unwrap_or_default())];
            return self.send_to_client(lane, Segments::one(&parts), ecn);
        }
        let mut gather = Gather::new(2);
        for (n, payload) in payloads.enumerate() {
            let header = if n + 1 == count { &last } else { &whole };
            if !gather.push(&[header, payload]) {
                self.send_to_client(lane, gather.segments(), ecn);
                gather = Gather::new(2);
                let _first_always_fits = gather.push(&[header, payload]);
            }
        }
        self.send_to_client(lane, gather.segments(), ecn);
    }

    fn send_to_client(&self, lane: &RelayLane, what: Segments<'_>, ecn: u8) {
        let count = what.count();
        if count == 0 {
            return;
        }
        let lost = self.way.send_channel_data(self.five_tuple, ecn, what).err().unwrap_or((0, ""));
        lane.count(lost.1, lost.0);
        lane.counters.relayed(Direction::ToClient, count - lost.0, what.bytes - 4 * count);
    }

    fn by_indication(&self, lane: &RelayLane, peer: SocketAddr, payload: &[u8], ecn: u8) {
        let mut indication = lane.indication.borrow_mut();
        indication.clear();
        if !self.machine.borrow_mut().data_indication(peer, payload, &mut indication) {
            return lane.count("udp_too_big", 1);
        }
        match self.way.send(self.five_tuple, ecn, &indication) {
            Ok(()) => lane.counters.relayed(Direction::ToClient, 1, payload.len() as u64),
            Err(reason) => lane.count(reason, 1),
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

//! The machine: one session with one other end, and the guards around it.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::attempt::{Attempt, Due};
use crate::responder::{Answered, Known, Places, UNCONFIRMED_FOR};
use crate::wire::{self, DatagramKind, MIN_BUFFER, Message, OVERHEAD, TunnelIndex};
use crate::{Boringtun, Dropped, Engine, Opened, Output, Sealed, Step, TunnelConfig, TunnelStats};

/// How often the engine looks at its clock while something is alive.
const TICK: Duration = Duration::from_millis(250);

/// Packets that wait for the session: the first flight of a few connections, not a backlog.
const QUEUE: usize = 64;

/// A responder leaves the initiator so long to show that it has the session, before it starts a handshake itself for
/// what waits in the queue. One retry interval of WireGuard (paper, section 6.1: Rekey-Timeout).
const PATIENCE: Duration = Duration::from_secs(5);

/// When both ends start a handshake at once, and one of them restarts meanwhile, boringtun may go on sending with a
/// session that nobody holds any more, because it came about last. The sign is that the other end uses an older session
/// so long after the one that we send with came about, and has never used that. A fresh handshake helps; the two ends
/// wait differently, so that they do not start at once again.
const UNUSED_FOR: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// How long the handshake may take before it is tried again.
const UNUSED_AGAIN: Duration = Duration::from_secs(4);

/// When data keeps coming that belongs to no session of ours, and nothing else, for this long and [`UNUSED_FOR`] on top,
/// the other end holds a session that we lost. Anybody can send such data, so it draws an initiation no more often than
/// every five seconds. boringtun alone notices after 15 seconds, and only if it has something to send.
const DEAF_AFTER: Duration = Duration::from_secs(1);

/// Counters from here on are refused (WireGuard paper, section 6.1: Reject-After-Messages is 2^64 - 2^13 - 1); the
/// engine's window arithmetic does not expect them either.
const COUNTER_LIMIT: u64 = u64::MAX - (1 << 13);

/// Messages that the machine holds for its caller. More than one call can make.
const OUTPUTS: usize = 16;

/// One WireGuard session.
pub struct Tunnel<E: Engine = Boringtun> {
    engine: E,
    index: TunnelIndex,
    established: bool,
    attempt: Option<Attempt>,
    answered: Answered,
    places: Places,
    /// One cookie reply is taken for each handshake message that we send.
    awaits_cookie: bool,
    /// The session that we send with came about by our own handshake, and the other end has not used it yet: from then
    /// on, data of another session means that the other end does not hold it.
    unused_until: Option<Duration>,
    unused_for: Duration,
    /// Since when only data of unknown sessions, or not authentic, has come in.
    deaf_since: Option<Duration>,
    queue: VecDeque<Vec<u8>>,
    outputs: VecDeque<Output>,
    last_tick: Duration,
    last_receive: Option<Duration>,
    remote_index: Option<u32>,
    stats: TunnelStats,
}

impl Tunnel {
    /// A tunnel without a session.
    pub fn new(config: TunnelConfig, now: Duration) -> Self {
        let first = config.private.public().0 < config.peer.0;
        Self {
            unused_for: UNUSED_FOR[usize::from(!first)],
            ..Self::over(Boringtun::new(&config), config.index, now)
        }
    }
}

impl<E: Engine> Tunnel<E> {
    /// A tunnel over another engine.
    pub fn over(engine: E, index: TunnelIndex, now: Duration) -> Self {
        Self {
            engine,
            index,
            established: false,
            attempt: None,
            answered: Answered::default(),
            places: Places::default(),
            awaits_cookie: false,
            unused_until: None,
            unused_for: UNUSED_FOR[0],
            deaf_since: None,
            queue: VecDeque::new(),
            outputs: VecDeque::with_capacity(OUTPUTS),
            last_tick: now,
            last_receive: None,
            remote_index: None,
            stats: TunnelStats::default(),
        }
    }

    /// Seals a packet into `out`, which needs [`OVERHEAD`] bytes more than the packet and at least [`MIN_BUFFER`].
    /// Allocates nothing while there is a session; without one the packet waits in a bounded queue, and a handshake
    /// starts unless the other end's is under way. An empty packet is a keepalive, which never waits.
    pub fn seal(&mut self, packet: &[u8], out: &mut [u8], now: Duration) -> Sealed {
        if out.len() < MIN_BUFFER.max(packet.len().saturating_add(OVERHEAD)) {
            return Sealed::Dropped(Dropped::BufferTooSmall);
        }
        if self.established {
            return match self.engine.seal(packet, out) {
                Step::Network(len) => {
                    self.stats.sealed_packets += u64::from(!packet.is_empty());
                    self.stats.sealed_bytes += packet.len() as u64;
                    Sealed::Datagram(len)
                }
                Step::Failed(dropped) => Sealed::Dropped(dropped),
                Step::Nothing | Step::Packet(..) => Sealed::Dropped(Dropped::Unexpected),
            };
        }
        if packet.is_empty() {
            return Sealed::Dropped(Dropped::UnknownSession);
        }
        if self.queue.len() >= QUEUE {
            return Sealed::Dropped(Dropped::QueueFull);
        }
        self.queue.push_back(packet.to_vec());
        self.initiate_for_queue(now);
        Sealed::Queued
    }

    /// Takes a datagram from the network into `out`, which must be at least as long as it and at least [`MIN_BUFFER`].
    /// `source` is the address that the datagram came from.
    pub fn open(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8], now: Duration) -> Opened {
        if out.len() < MIN_BUFFER.max(datagram.len()) {
            return Opened::Dropped(Dropped::BufferTooSmall);
        }
        match wire::classify(datagram) {
            Some(DatagramKind::Data) => self.open_data(source, datagram, out, now),
            Some(DatagramKind::Initiation) => self.open_initiation(source, datagram, out, now),
            Some(DatagramKind::Response) => self.open_response(source, datagram, out, now),
            Some(DatagramKind::Cookie) => self.open_cookie(source, datagram, out),
            Some(DatagramKind::Probe) | None => Opened::Dropped(Dropped::Malformed),
        }
    }

    /// The next packet that waited for the session, sealed into `out`; for the selected path. `None` when nothing waits
    /// or there is no session yet. A packet too long for `out` is dropped.
    pub fn drain(&mut self, out: &mut [u8], now: Duration) -> Option<usize> {
        while self.established && out.len() >= MIN_BUFFER {
            let Some(packet) = self.queue.pop_front() else {
                // The engine keeps a keepalive back when it comes due without a session.
                return match self.engine.queued(out) {
                    Step::Network(len) => Some(len),
                    Step::Nothing | Step::Packet(..) | Step::Failed(_) => None,
                };
            };
            if let Sealed::Datagram(len) = self.seal(&packet, out, now) {
                return Some(len);
            }
            self.stats.expired_packets += 1;
        }
        None
    }

    /// Whether packets wait for the session.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Starts a handshake: only when there is neither a session nor a handshake of ours under way, or, with `force`, in
    /// any case.
    pub fn initiate(&mut self, force: bool, now: Duration) {
        if !force && (self.established || self.attempt.is_some()) {
            return;
        }
        self.tick(now);
        if force {
            // A new series, paced from now on.
            self.attempt = None;
        }
        if force || (!self.established && self.attempt.is_none()) {
            self.send_initiation(now);
        }
    }

    /// The next thing to do for the caller.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Tunnel::handle_timeout`] is due. `None` while nothing is alive.
    pub fn poll_timeout(&self) -> Option<Duration> {
        let tick = self.is_alive().then(|| self.last_tick.saturating_add(TICK));
        let attempt = self.attempt.as_ref().filter(|_| !self.established).map(Attempt::deadline);
        tick.into_iter().chain(attempt).min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.is_alive() && now >= self.last_tick.saturating_add(TICK) {
            self.tick(now);
        }
        if self.established {
            return;
        }
        match self.attempt.as_mut().map_or(Due::Nothing, |attempt| attempt.due(now)) {
            Due::Fresh => self.send_initiation(now),
            Due::Copy(message) => self.push(Output::Initiation(message)),
            Due::Nothing => {}
        }
        if self.has_queued() {
            self.initiate_for_queue(now);
        }
    }

    /// Whether packets can be sealed.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// When the last datagram came that only the other end can have made. Cookies and initiations do not count.
    pub fn last_receive(&self) -> Option<Duration> {
        self.last_receive
    }

    /// The receiver index of the other end, as its last handshake message gave it; session number 0.
    pub fn remote_index(&self) -> Option<u32> {
        self.remote_index
    }

    /// Our own index.
    pub fn index(&self) -> TunnelIndex {
        self.index
    }

    /// Figures.
    pub fn stats(&self) -> TunnelStats {
        let engine = self.engine.stats();
        TunnelStats {
            session_age: engine.session_age.filter(|_| self.established),
            handshake_rtt: engine.handshake_rtt,
            loss: engine.loss,
            ..self.stats
        }
    }

    fn open_data(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8], now: Duration) -> Opened {
        if wire::counter(datagram).is_none_or(|counter| counter >= COUNTER_LIMIT) {
            return Opened::Dropped(Dropped::Replayed);
        }
        let opened = match self.engine.open(source, datagram, out) {
            Step::Packet(len, source) => {
                self.stats.opened_packets += 1;
                self.stats.opened_bytes += len as u64;
                Opened::Packet { len, source }
            }
            Step::Nothing => Opened::Keepalive,
            // The form was checked before, so this is about what was inside.
            Step::Failed(Dropped::Malformed) => Opened::Dropped(Dropped::MalformedInner),
            Step::Failed(dropped) => {
                // A session of a former process may have had the same number.
                if dropped == Dropped::UnknownSession || dropped == Dropped::NotAuthentic {
                    self.heard_nothing_known(now);
                }
                return Opened::Dropped(dropped);
            }
            Step::Network(_) => return Opened::Dropped(Dropped::Unexpected),
        };
        self.last_receive = Some(now);
        self.deaf_since = None;
        let heard = wire::receiver_index(datagram).map(|index| self.places.heard(index)).unwrap_or_default();
        if heard.current {
            self.unused_until = None;
        } else if self.unused_until.is_some_and(|at| at <= now) {
            self.unused_until = Some(now.saturating_add(UNUSED_AGAIN + self.unused_for));
            self.initiate(true, now);
        }
        if heard.first || !self.established {
            self.answered.confirm();
            self.session_came_about();
        }
        opened
    }

    fn open_initiation(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8], now: Duration) -> Opened {
        match self.answered.find(datagram, now) {
            Known::Copy(response) => {
                let len = response.len();
                return match out.get_mut(..len) {
                    Some(start) => {
                        start.copy_from_slice(response);
                        Opened::Reply { len, proves_source: false }
                    }
                    None => Opened::Dropped(Dropped::BufferTooSmall),
                };
            }
            Known::TooMany => return Opened::Dropped(Dropped::TooManyCopies),
            Known::New => {}
        }
        if !self.answered.has_room(now) {
            return Opened::Dropped(Dropped::TooManyUnconfirmed);
        }
        self.tick(now);
        self.step_over_live_places();
        match self.engine.open(source, datagram, out) {
            Step::Network(len) => {
                let reply = out.get(..len).unwrap_or_default();
                if wire::classify(reply) == Some(DatagramKind::Response) {
                    if let Some(index) = wire::sender_index(reply) {
                        self.places.answered(index);
                    }
                    self.answered.answered(datagram, reply, now);
                    self.note_remote_index(datagram);
                    self.awaits_cookie = true;
                }
                Opened::Reply { len, proves_source: false }
            }
            Step::Failed(dropped) => Opened::Dropped(dropped),
            Step::Nothing | Step::Packet(..) => Opened::Dropped(Dropped::Unexpected),
        }
    }

    fn open_response(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8], now: Duration) -> Opened {
        self.tick(now);
        match self.engine.open(source, datagram, out) {
            Step::Network(len) => {
                let reply = out.get(..len).unwrap_or_default();
                // Under load it may be a cookie reply, and then nothing came about.
                let established = wire::classify(reply) == Some(DatagramKind::Data);
                if established {
                    if let Some(index) = wire::receiver_index(datagram) {
                        self.places.completed(index);
                    }
                    self.note_remote_index(datagram);
                    self.last_receive = Some(now);
                    self.unused_until = Some(now.saturating_add(self.unused_for));
                    self.session_came_about();
                }
                Opened::Reply { len, proves_source: established }
            }
            Step::Failed(dropped) => Opened::Dropped(dropped),
            Step::Nothing | Step::Packet(..) => Opened::Dropped(Dropped::Unexpected),
        }
    }

    fn heard_nothing_known(&mut self, now: Duration) {
        let since = *self.deaf_since.get_or_insert(now);
        if now.saturating_sub(since) >= DEAF_AFTER + self.unused_for {
            // Not before DEAF_AFTER has passed once more, and in any case not before the engine would retry.
            self.deaf_since = Some(now.saturating_add(PATIENCE));
            if self.attempt.is_none() {
                self.initiate(true, now);
            }
        }
    }

    /// A cookie reply ticks the engine's timer of the last authentic packet. Replayed, it would hide that the other end
    /// is gone, so it is taken once for each message that can have drawn it.
    fn open_cookie(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Opened {
        if !self.awaits_cookie {
            return Opened::Dropped(Dropped::StaleCookie);
        }
        match self.engine.open(source, datagram, out) {
            Step::Nothing => {
                self.awaits_cookie = false;
                Opened::Cookie
            }
            Step::Failed(dropped) => Opened::Dropped(dropped),
            Step::Network(_) | Step::Packet(..) => Opened::Dropped(Dropped::Unexpected),
        }
    }

    /// The engine counts its sessions upwards and stores them at the number modulo eight. Numbers that would hit a live
    /// session are used up by initiations that nobody sends.
    fn step_over_live_places(&mut self) {
        // At most two places are protected.
        for _ in 0..2 {
            if !self.places.next_is_taken() {
                return;
            }
            let mut unsent = [0; MIN_BUFFER];
            if let Step::Network(len) = self.engine.initiate(&mut unsent)
                && let Some(index) = unsent.get(..len).and_then(wire::sender_index)
            {
                self.places.issued(index);
            }
        }
    }

    fn session_came_about(&mut self) {
        self.stats.sessions += 1;
        self.attempt = None;
        if !self.established {
            self.established = true;
            self.push(Output::Established);
        }
    }

    /// A responder whose initiator has not shown itself yet only waits.
    fn initiate_for_queue(&mut self, now: Duration) {
        let waits = self.answered.latest_unconfirmed().is_some_and(|at| now.saturating_sub(at) < PATIENCE);
        if !waits {
            self.initiate(false, now);
        }
    }

    fn send_initiation(&mut self, now: Duration) {
        let mut buffer = [0; MIN_BUFFER];
        if let Step::Network(len) = self.engine.initiate(&mut buffer)
            && let Some(message) = buffer.get(..len).and_then(Message::new)
        {
            match &mut self.attempt {
                Some(attempt) => attempt.sent(message, now),
                None => self.attempt = Some(Attempt::new(message, now)),
            }
            self.initiation_leaves(message);
        }
    }

    fn initiation_leaves(&mut self, message: Message) {
        if let Some(index) = wire::sender_index(&message) {
            self.places.issued(index);
        }
        self.awaits_cookie = true;
        self.push(Output::Initiation(message));
    }

    /// Lets the engine look at its clock. Always before a handshake message, because the engine stamps sessions with
    /// the time of its last look.
    fn tick(&mut self, now: Duration) {
        self.last_tick = now;
        let mut buffer = [0; MIN_BUFFER];
        match self.engine.tick(&mut buffer) {
            Step::Network(len) => {
                if let Some(message) = buffer.get(..len).and_then(Message::new) {
                    self.engine_sends(message, now);
                }
            }
            Step::Failed(Dropped::Expired) => self.expired(),
            Step::Nothing | Step::Packet(..) | Step::Failed(_) => {}
        }
        if self.established && !self.engine.has_session() {
            self.established = false;
            self.places.current_is_gone();
            if self.attempt.is_none() {
                self.push(Output::Expired);
            }
        }
    }

    fn engine_sends(&mut self, message: Message, now: Duration) {
        if wire::classify(&message) == Some(DatagramKind::Initiation) {
            match &mut self.attempt {
                Some(attempt) => attempt.sent(message, now),
                None => self.attempt = Some(Attempt::by_engine(message, now)),
            }
            self.initiation_leaves(message);
        } else {
            self.push(Output::Datagram(message));
        }
    }

    fn expired(&mut self) {
        if self.attempt.take().is_none() && !self.established {
            return;
        }
        self.established = false;
        self.places.current_is_gone();
        self.stats.expired_packets += self.queue.len() as u64;
        self.queue.clear();
        self.push(Output::Expired);
    }

    fn note_remote_index(&mut self, handshake: &[u8]) {
        if let Some(index) = wire::sender_index(handshake) {
            self.remote_index = Some(TunnelIndex::of(index).receiver_index());
        }
    }

    fn is_alive(&self) -> bool {
        let answered = self.answered.latest_unconfirmed();
        self.established
            || self.attempt.is_some()
            || self.has_queued()
            || answered.is_some_and(|at| self.last_tick.saturating_sub(at) < UNCONFIRMED_FOR)
    }

    fn push(&mut self, output: Output) {
        if self.outputs.len() >= OUTPUTS {
            self.outputs.pop_front();
        }
        self.outputs.push_back(output);
    }
}

impl<E: Engine> fmt::Debug for Tunnel<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("index", &self.index)
            .field("established", &self.established)
            .field("queued", &self.queue.len())
            .finish_non_exhaustive()
    }
}

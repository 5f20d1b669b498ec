//! The reflexive address: what a relay sees of us, how far away it is, and a NAT binding kept open.
//!
//! Each try is a transaction of its own, so an answer always tells its own round trip.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;
use stun_types::attribute::XorMappedAddress;
use stun_types::message::{BINDING, MessageClass, TransactionId};

use super::flight::{FIRST_WAIT, LONGEST_WAIT};
use crate::wire::{Draft, plain, read, transaction};

/// Tries before the relay counts as silent: 3.75 s. It is asked on, every two seconds.
const TRIES_TO_SILENCE: u32 = 4;

/// Answers that are waited for at one time; a later answer measures nothing that matters.
const MOST_WAITING: usize = 8;

/// What a [`BindingClient`] wants done, or has to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BindingOutput {
    /// Send this datagram to the relay.
    Send(Vec<u8>),
    /// Something happened.
    Event(BindingEvent),
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BindingEvent {
    /// The relay answered.
    Answered {
        /// Our address as it sees it.
        mapped: SocketAddr,
        /// The round trip.
        rtt: Duration,
        /// The address is not the one of the answer before; true for the first answer.
        changed: bool,
    },
    /// No answer for about four seconds. Said once until the next answer.
    Silent,
}

/// Asks one relay for our address, again and again.
#[derive(Debug)]
pub struct BindingClient {
    interval: Duration,
    random: StdRng,
    waiting: VecDeque<(TransactionId, Duration)>,
    unanswered: u32,
    /// When the first question was asked that nothing has been answered to since.
    unanswered_since: Option<Duration>,
    wait: Duration,
    due: Option<Duration>,
    running: bool,
    mapped: Option<SocketAddr>,
    rtt: Option<Duration>,
    outputs: VecDeque<BindingOutput>,
}

impl BindingClient {
    /// Asks every `interval` while answers come (15 s keeps the NATs open that we know of).
    pub fn new(interval: Duration, seed: [u8; 32]) -> Self {
        Self {
            interval,
            random: StdRng::from_seed(seed),
            waiting: VecDeque::new(),
            unanswered: 0,
            unanswered_since: None,
            wait: FIRST_WAIT,
            due: None,
            running: false,
            mapped: None,
            rtt: None,
            outputs: VecDeque::new(),
        }
    }

    /// Starts to ask, now.
    pub fn start(&mut self, now: Duration) {
        self.running = true;
        self.ask(now);
    }

    /// Stops. What was learnt is forgotten.
    pub fn stop(&mut self) {
        self.running = false;
        self.due = None;
        self.waiting.clear();
        self.unanswered_since = None;
        self.mapped = None;
        self.rtt = None;
    }

    /// Asks now, whatever the interval; also without having been started.
    pub fn probe(&mut self, now: Duration) {
        self.ask(now);
    }

    /// Since when the relay has not answered although it was asked.
    pub fn unanswered_since(&self) -> Option<Duration> {
        self.unanswered_since
    }

    /// Our address as the relay saw it last.
    pub fn mapped(&self) -> Option<SocketAddr> {
        self.mapped
    }

    /// The last measured round trip.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Takes a datagram that came from the relay. `true`: it was an answer to a question of ours.
    pub fn handle_datagram(&mut self, datagram: &[u8], now: Duration) -> bool {
        let Some(message) = read(datagram) else { return false };
        let Some(at) = self.waiting.iter().position(|(id, _)| *id == message.transaction_id()) else {
            return false;
        };
        if !message.has_method(BINDING) || !message.is_response() {
            return false;
        }
        let Some((id, sent)) = self.waiting.remove(at) else { return false };
        let Ok(mapped) = message.attribute::<XorMappedAddress>() else { return true };
        if !message.has_class(MessageClass::Success) {
            return true;
        }
        let mapped = plain(mapped.addr(id));
        let rtt = now.saturating_sub(sent);
        let changed = self.mapped != Some(mapped);
        self.mapped = Some(mapped);
        self.rtt = Some(rtt);
        self.unanswered = 0;
        self.unanswered_since = None;
        self.wait = FIRST_WAIT;
        self.due = self.running.then(|| now + self.interval);
        self.outputs.push_back(BindingOutput::Event(BindingEvent::Answered { mapped, rtt, changed }));
        true
    }

    /// What is to be done, in order.
    pub fn poll_output(&mut self) -> Option<BindingOutput> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] has something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.due
    }

    /// Asks again when it is time.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.due.is_none_or(|due| now < due) {
            return;
        }
        if self.unanswered == TRIES_TO_SILENCE {
            self.outputs.push_back(BindingOutput::Event(BindingEvent::Silent));
            self.mapped = None;
            if !self.running {
                self.due = None;
                self.unanswered = 0;
                self.unanswered_since = None;
                return;
            }
        }
        self.ask(now);
    }

    fn ask(&mut self, now: Duration) {
        let id = transaction(&mut self.random);
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((id, now));
        self.wait = if self.unanswered == 0 { FIRST_WAIT } else { (self.wait * 2).min(LONGEST_WAIT) };
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
        self.due = Some(now + self.wait);
        let request = Draft::new(MessageClass::Request, BINDING, id).finish();
        self.outputs.push_back(BindingOutput::Send(request));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::credentials::REALM;
    use crate::relay::{Authority, Decision, Front};

    const INTERVAL: Duration = Duration::from_secs(15);
    const MS: Duration = Duration::from_millis(1);

    fn client() -> BindingClient {
        BindingClient::new(INTERVAL, [4; 32])
    }

    fn sent(client: &mut BindingClient) -> Vec<u8> {
        match client.poll_output() {
            Some(BindingOutput::Send(bytes)) => bytes,
            other => panic!("expected a datagram, got {other:?}"),
        }
    }

    fn answer(request: &[u8], source: &str) -> Vec<u8> {
        let front = Front::new(Authority::default(), REALM, [0; 32]);
        match front.handle(request, source.parse().unwrap(), 0, false) {
            Decision::Answer(bytes) => bytes,
            other => panic!("expected an answer, got {other:?}"),
        }
    }

    #[test]
    fn the_answer_tells_address_and_round_trip_and_the_next_question_comes_after_the_interval() {
        let mut client = client();
        client.start(Duration::ZERO);
        let request = sent(&mut client);

        assert!(client.handle_datagram(&answer(&request, "192.0.2.1:77"), 30 * MS));

        let mapped = "192.0.2.1:77".parse().unwrap();
        let event = BindingEvent::Answered { mapped, rtt: 30 * MS, changed: true };
        assert_eq!(client.poll_output(), Some(BindingOutput::Event(event)));
        assert_eq!(client.poll_timeout(), Some(30 * MS + INTERVAL));
        assert_eq!((client.mapped(), client.rtt()), (Some(mapped), Some(30 * MS)));
    }

    #[test]
    fn an_answer_to_a_repeated_question_measures_that_question() {
        let mut client = client();
        client.start(Duration::ZERO);
        let first = sent(&mut client);
        client.handle_timeout(250 * MS);
        let second = sent(&mut client);

        assert!(client.handle_datagram(&answer(&second, "192.0.2.1:77"), 260 * MS));
        assert_eq!(client.rtt(), Some(10 * MS));
        assert!(client.handle_datagram(&answer(&first, "192.0.2.1:77"), 300 * MS));
        assert_eq!(client.rtt(), Some(300 * MS));
    }

    #[test]
    fn a_changed_address_is_said_and_an_unchanged_one_too() {
        let mut client = client();
        let mut changes = Vec::new();
        for source in ["192.0.2.1:77", "192.0.2.1:77", "192.0.2.1:78"] {
            client.probe(Duration::ZERO);
            let request = sent(&mut client);
            client.handle_datagram(&answer(&request, source), 5 * MS);
            if let Some(BindingOutput::Event(BindingEvent::Answered { changed, .. })) = client.poll_output() {
                changes.push(changed);
            }
        }

        assert_eq!(changes, [true, false, true]);
    }

    #[test]
    fn silence_is_said_once_and_asking_goes_on() {
        let mut client = client();
        client.start(Duration::ZERO);
        let mut silent_at = Vec::new();
        let mut questions = 0;
        let mut now = Duration::ZERO;
        while now < Duration::from_secs(20) {
            while let Some(output) = client.poll_output() {
                match output {
                    BindingOutput::Send(_) => questions += 1,
                    BindingOutput::Event(event) => {
                        assert_eq!(event, BindingEvent::Silent);
                        silent_at.push(now);
                    }
                }
            }
            now = client.poll_timeout().unwrap();
            client.handle_timeout(now);
        }

        assert_eq!(silent_at, [3750 * MS]);
        assert!((10..=14).contains(&questions), "{questions}");
    }

    #[test]
    fn what_nobody_asked_for_is_not_an_answer() {
        let mut client = client();
        client.start(Duration::ZERO);
        let request = sent(&mut client);
        let mut other = answer(&request, "192.0.2.1:77");
        other[19] ^= 1;

        assert!(!client.handle_datagram(&other, MS));
        assert!(!client.handle_datagram(&request, MS));
        assert_eq!(client.mapped(), None);
    }
}

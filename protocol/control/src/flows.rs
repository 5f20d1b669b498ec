//! Flow records on their way from a gateway to control: the messages, and the spool that they wait in.
//!
//! A gateway numbers its batches, keeps each until control says that it is stored, and sends it again after an outage.
//! Control stores what is newer than the last number of the same stream, and so each batch once.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

pub use protocol_filter::FlowEnd;
use protocol_identity::{DeviceId, GrantId, PolicyId, ResourceId};
use serde::{Deserialize, Serialize};

/// The most flows in one batch: with the longest names a batch stays below [`MAX_FROM_NODE`](crate::MAX_FROM_NODE).
pub const MAX_FLOWS: usize = 64;
/// A batch that is not full goes out this long after its first flow.
const GATHER: Duration = Duration::from_secs(1);
/// Batches under way: as many as keep control busy over a long line, and few enough not to crowd out what else is said.
const WINDOW: usize = 4;
/// What control has not confirmed after so long is sent again: it may have had no room for it.
const SEND_AGAIN: Duration = Duration::from_secs(30);
/// What a batch takes beside its flows, encoded, bytes at most.
const FRAME: usize = 64;

/// How a flow's packets travelled when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowPath {
    /// Between the two ends.
    Direct,
    /// Through a relay.
    Relayed,
}

impl FlowPath {
    /// As people and programs read it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// One flow that has ended: who spoke with what, and how much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flow {
    /// The grant that it used last.
    pub grant: GrantId,
    /// The device that began it.
    pub device: DeviceId,
    /// The resource.
    pub resource: ResourceId,
    /// The policy that gave the grant.
    pub policy: PolicyId,
    /// The protocol's number: 1 or 58 ICMP, 6 TCP, 17 UDP.
    pub protocol: u8,
    /// The device's end, in the tunnel.
    pub from: SocketAddr,
    /// The resource's end as the device addresses it.
    pub to: SocketAddr,
    /// The name that it was addressed by.
    pub name: Option<String>,
    /// The resource's address as the gateway reaches it.
    pub real: IpAddr,
    /// How it travelled at its end; nothing when it had no path any more.
    pub path: Option<FlowPath>,
    /// When the first packet came, milliseconds of Unix time by the gateway's clock.
    pub started: i64,
    /// When the last packet came, likewise.
    pub ended: i64,
    /// Packets from the device.
    pub packets_in: u64,
    /// Bytes of IP from the device, headers included.
    pub bytes_in: u64,
    /// Packets to the device.
    pub packets_out: u64,
    /// Bytes of IP to the device, headers included.
    pub bytes_out: u64,
    /// Why it ended.
    pub end: FlowEnd,
}

/// Flows that are stored together or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowBatch {
    /// Tells the batches of one process of the gateway from those of another.
    pub stream: u64,
    /// Rises within the stream. Numbers of batches that had no room in the spool are missing.
    pub sequence: u64,
    /// At most [`MAX_FLOWS`].
    pub flows: Vec<Flow>,
}

/// A batch that cannot be read back.
#[derive(Debug, thiserror::Error)]
#[error("this is no batch of flows")]
pub struct NotABatch(#[source] serde_cbor::Error);

impl FlowBatch {
    /// For a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        // Only a map whose keys are no texts could fail, and there is none.
        serde_cbor::to_vec(self).unwrap_or_default()
    }

    /// From a file.
    ///
    /// # Errors
    /// [`NotABatch`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotABatch> {
        serde_cbor::from_slice(bytes).map_err(NotABatch)
    }

    /// Its name in an acknowledgement.
    pub fn id(&self) -> (u64, u64) {
        (self.stream, self.sequence)
    }
}

#[derive(Debug)]
struct Waiting {
    batch: FlowBatch,
    bytes: usize,
}

/// Where flows wait until control has stored them: bounded, in order, and what has no room pushes out the oldest.
///
/// Feed it with `handle_*`; drain [`poll_output`](Self::poll_output); sleep no longer than
/// [`poll_timeout`](Self::poll_timeout), then [`handle_timeout`](Self::handle_timeout).
#[derive(Debug)]
pub struct Spool {
    stream: u64,
    next: u64,
    most: usize,
    /// Not in a batch yet, and when the first of them came.
    gathered: Vec<Flow>,
    gathered_bytes: usize,
    gathered_since: Duration,
    /// Oldest first.
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// How many of the oldest are under way.
    sent: usize,
    up: bool,
    /// When what is under way is sent again.
    again: Duration,
    dropped: u64,
}

impl Spool {
    /// An empty spool of at most `most` bytes, encoded. `stream` is random, and another one for each process.
    pub fn new(stream: u64, most: usize) -> Self {
        Self {
            stream,
            next: 1,
            most,
            gathered: Vec::new(),
            gathered_bytes: 0,
            gathered_since: Duration::ZERO,
            waiting: VecDeque::new(),
            bytes: 0,
            sent: 0,
            up: false,
            again: Duration::MAX,
            dropped: 0,
        }
    }

    /// Takes over what an earlier process kept, in its order. Those batches keep their stream and number.
    pub fn restore(&mut self, batch: FlowBatch) {
        let bytes = batch.to_bytes().len();
        self.put(Waiting { batch, bytes });
    }

    /// A flow has ended.
    pub fn handle_flow(&mut self, flow: Flow, now: Duration) {
        if self.gathered.is_empty() {
            self.gathered_since = now;
        }
        self.gathered_bytes += serde_cbor::to_vec(&flow).map_or(0, |bytes| bytes.len());
        self.gathered.push(flow);
        if self.gathered.len() >= MAX_FLOWS {
            self.seal();
        }
    }

    /// A session is up whose control takes flows: everything that waits is sent.
    pub fn handle_up(&mut self) {
        self.up = true;
        self.sent = 0;
    }

    /// The session is down.
    pub fn handle_down(&mut self) {
        self.up = false;
        self.sent = 0;
    }

    /// Control has stored a batch, and all before it in its stream.
    pub fn handle_stored(&mut self, (stream, sequence): (u64, u64), now: Duration) {
        while let Some(first) = self.waiting.front()
            && first.batch.stream == stream
            && first.batch.sequence <= sequence
        {
            self.bytes -= first.bytes;
            self.sent = self.sent.saturating_sub(1);
            self.waiting.pop_front();
            self.again = now.saturating_add(SEND_AGAIN);
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.up && self.sent > 0 && now >= self.again {
            self.sent = 0;
        }
        if self.up && !self.gathered.is_empty() && now >= self.gathered_since.saturating_add(GATHER) {
            self.seal();
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is needed, at the latest.
    pub fn poll_timeout(&self) -> Option<Duration> {
        if !self.up {
            return None;
        }
        let gathered = (!self.gathered.is_empty()).then(|| self.gathered_since.saturating_add(GATHER));
        let again = (self.sent > 0).then_some(self.again);
        gathered.into_iter().chain(again).min()
    }

    /// The next batch to send to control.
    pub fn poll_output(&mut self, now: Duration) -> Option<FlowBatch> {
        if !self.up || self.sent >= WINDOW {
            return None;
        }
        let next = self.waiting.get(self.sent)?;
        if self.sent == 0 {
            self.again = now.saturating_add(SEND_AGAIN);
        }
        self.sent += 1;
        Some(next.batch.clone())
    }

    /// Makes a batch of what has come so far, so that [`batches`](Self::batches) has all.
    pub fn seal(&mut self) {
        if self.gathered.is_empty() {
            return;
        }
        let flows = std::mem::take(&mut self.gathered);
        let bytes = std::mem::take(&mut self.gathered_bytes) + FRAME;
        let batch = FlowBatch { stream: self.stream, sequence: self.next, flows };
        self.next += 1;
        self.put(Waiting { batch, bytes });
    }

    fn put(&mut self, waiting: Waiting) {
        self.bytes += waiting.bytes;
        self.waiting.push_back(waiting);
        while self.bytes > self.most
            && let Some(oldest) = self.waiting.pop_front()
        {
            self.bytes -= oldest.bytes;
            self.sent = self.sent.saturating_sub(1);
            self.dropped += oldest.batch.flows.len() as u64;
        }
    }

    /// What waits, oldest first.
    pub fn batches(&self) -> impl Iterator<Item = &FlowBatch> {
        self.waiting.iter().map(|waiting| &waiting.batch)
    }

    /// Flows that wait.
    pub fn len(&self) -> usize {
        self.gathered.len() + self.batches().map(|batch| batch.flows.len()).sum::<usize>()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.gathered.is_empty() && self.waiting.is_empty()
    }

    /// Bytes that wait, encoded.
    pub fn bytes(&self) -> usize {
        self.bytes + self.gathered_bytes
    }

    /// Flows that had no room, since the last time that this was asked.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }
}

#[cfg(test)]
mod tests {
    use crate::codec::{Frame, MAX_FROM_NODE, VERSION, encode};
    use crate::messages::FromNode;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn flow(n: u64) -> Flow {
        Flow {
            grant: GrantId::fresh(),
            device: DeviceId::fresh(),
            resource: ResourceId::fresh(),
            policy: PolicyId::fresh(),
            protocol: 6,
            from: "[fd70:6f73:7401::1234:5678]:54321".parse().unwrap(),
            to: "[fd70:6f73:7402::1234:5678]:54321".parse().unwrap(),
            name: Some("a".repeat(253)),
            real: "2001:db8:1234:5678:9abc:def0:1234:5678".parse().unwrap(),
            path: Some(FlowPath::Relayed),
            started: i64::MAX,
            ended: i64::MAX,
            packets_in: u64::MAX,
            // As long for each, encoded.
            bytes_in: u64::MAX - n,
            packets_out: u64::MAX,
            bytes_out: u64::MAX,
            end: FlowEnd::GrantEnded,
        }
    }

    fn full(spool: &mut Spool, batches: u64) {
        for n in 0..batches * MAX_FLOWS as u64 {
            spool.handle_flow(flow(n), Duration::ZERO);
        }
    }

    fn sent(spool: &mut Spool) -> Vec<u64> {
        std::iter::from_fn(|| spool.poll_output(Duration::ZERO)).map(|batch| batch.sequence).collect()
    }

    #[test]
    fn the_largest_batch_fits_into_a_frame() {
        let flows = (0..MAX_FLOWS as u64).map(flow).collect();
        let batch = FlowBatch { stream: u64::MAX, sequence: u64::MAX, flows };

        let frame = Frame { version: VERSION, sequence: u64::MAX, body: FromNode::Flows(Box::new(batch)) };

        assert!(encode(&frame).unwrap().len() <= MAX_FROM_NODE);
    }

    #[test]
    fn flows_that_come_together_go_together_a_second_later() {
        let mut spool = Spool::new(7, usize::MAX);
        spool.handle_up();
        spool.handle_flow(flow(1), SECOND);
        spool.handle_flow(flow(2), SECOND);

        assert_eq!(spool.poll_output(SECOND), None);
        assert_eq!(spool.poll_timeout(), Some(2 * SECOND));
        spool.handle_timeout(2 * SECOND);
        let batch = spool.poll_output(2 * SECOND).unwrap();

        assert_eq!((batch.id(), batch.flows.len()), ((7, 1), 2));
        assert_eq!(FlowBatch::from_bytes(&batch.to_bytes()).unwrap(), batch);
    }

    #[test]
    fn only_a_few_are_under_way_and_each_confirmation_lets_the_next_go() {
        let mut spool = Spool::new(7, usize::MAX);
        full(&mut spool, 6);
        assert_eq!(sent(&mut spool), [0; 0], "the session is down");
        spool.handle_up();

        assert_eq!(sent(&mut spool), [1, 2, 3, 4]);
        spool.handle_stored((7, 2), SECOND);

        assert_eq!(sent(&mut spool), [5, 6]);
        spool.handle_stored((7, 6), SECOND);
        assert!(spool.is_empty());
        assert_eq!((spool.bytes(), spool.poll_timeout()), (0, None));
    }

    #[test]
    fn after_an_outage_what_was_not_confirmed_is_sent_again_under_its_number() {
        let mut spool = Spool::new(7, usize::MAX);
        full(&mut spool, 3);
        spool.handle_up();
        sent(&mut spool);
        spool.handle_stored((7, 1), SECOND);
        spool.handle_down();
        full(&mut spool, 1);
        assert_eq!(spool.poll_timeout(), None);

        spool.handle_up();

        assert_eq!(sent(&mut spool), [2, 3, 4]);
    }

    #[test]
    fn a_batch_that_control_does_not_confirm_is_sent_again() {
        let mut spool = Spool::new(7, usize::MAX);
        full(&mut spool, 1);
        spool.handle_up();
        assert_eq!(sent(&mut spool), [1]);
        let due = spool.poll_timeout().unwrap();

        spool.handle_timeout(due - SECOND);
        assert_eq!(sent(&mut spool), [0; 0]);
        spool.handle_timeout(due);

        assert_eq!(sent(&mut spool), [1]);
    }

    #[test]
    fn what_has_no_room_pushes_out_the_oldest_and_is_counted() {
        let mut spool = Spool::new(7, usize::MAX);
        full(&mut spool, 1);
        let one = spool.bytes();
        let mut spool = Spool::new(7, 3 * one);
        spool.handle_up();
        full(&mut spool, 3);
        assert_eq!(sent(&mut spool), [1, 2, 3]);

        full(&mut spool, 2);

        assert_eq!(spool.batches().map(|batch| batch.sequence).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(spool.bytes() <= 3 * one);
        assert_eq!((spool.take_dropped(), spool.take_dropped()), (2 * MAX_FLOWS as u64, 0));
        assert_eq!(sent(&mut spool), [4, 5], "the third is still under way");
        // A late confirmation of one that was pushed out confirms nothing else.
        spool.handle_stored((7, 2), SECOND);
        assert_eq!(spool.batches().count(), 3);
    }

    #[test]
    fn what_an_earlier_process_kept_goes_first_under_its_own_stream() {
        let mut earlier = Spool::new(6, usize::MAX);
        full(&mut earlier, 1);
        earlier.handle_flow(flow(9), SECOND);
        earlier.seal();
        let mut spool = Spool::new(7, usize::MAX);
        earlier.batches().cloned().for_each(|batch| spool.restore(batch));
        full(&mut spool, 1);
        assert_eq!(spool.len(), 2 * MAX_FLOWS + 1);

        spool.handle_up();
        let ids: Vec<_> = std::iter::from_fn(|| spool.poll_output(SECOND)).map(|batch| batch.id()).collect();

        assert_eq!(ids, [(6, 1), (6, 2), (7, 1)]);
        spool.handle_stored((7, 1), SECOND);
        assert_eq!(spool.batches().count(), 3, "another stream's number says nothing of these");
        spool.handle_stored((6, 2), SECOND);
        spool.handle_stored((7, 1), SECOND);
        assert!(spool.is_empty());
    }
}

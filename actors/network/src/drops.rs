//! What the network edge could not carry, counted by reason.
//!
//! One set for each lane: written by that lane only (relaxed, uncontended), read by telemetry from any thread.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actors_runtime::{DropCounter, Registry};

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why a packet was lost at a socket or at the TUN device.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum EdgeDrop { $($(#[$doc])* $name,)+ }

        impl EdgeDrop {
            /// Every reason, in the order of its counter.
            pub const ALL: &'static [EdgeDrop] = &[$(EdgeDrop::$name,)+];

            /// The reason as `status` and `/metrics` show it.
            pub const fn reason(self) -> &'static str {
                match self { $(EdgeDrop::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// The socket's send buffer was full.
    UdpSendFull = "udp_send_full",
    /// The datagram is longer than the path or the interface takes.
    UdpTooBig = "udp_too_big",
    /// No route, or the host or network is down.
    UdpUnreachable = "udp_unreachable",
    /// An earlier datagram was answered by ICMP "port unreachable".
    UdpRefused = "udp_refused",
    /// The host's firewall refused the datagram.
    UdpForbidden = "udp_forbidden",
    /// The destination is of the other address family, or there is no socket for it.
    UdpNoSocket = "udp_no_socket",
    /// Any other error of the send call.
    UdpSendFailed = "udp_send_failed",
    /// The receive call reported an error; what it concerned is not known.
    UdpReceiveFailed = "udp_receive_failed",
    /// A datagram of no length.
    UdpEmpty = "udp_empty",
    /// A datagram longer than anything we would be sent.
    UdpTooLong = "udp_too_long",
    /// Whoever the packets were handed to panicked over them.
    ReaderPanicked = "reader_panicked",
    /// The TUN queue did not take the packet.
    TunWriteFull = "tun_write_full",
    /// The TUN device is down or gone.
    TunDown = "tun_down",
    /// The kernel found the packet malformed.
    TunWriteRefused = "tun_write_refused",
    /// Any other error of the write call.
    TunWriteFailed = "tun_write_failed",
    /// The kernel delivered something that is no whole IP packet.
    TunReadMalformed = "tun_read_malformed",
    /// The read call failed.
    TunReadFailed = "tun_read_failed",
    /// A super-packet that cannot be cut.
    TunSegmentRefused = "tun_segment_refused",
    /// An acknowledgement right before a later one of its flow, which says the same and more.
    AckSuperseded = "ack_superseded",
}

/// The counters of one lane's edge.
#[derive(Debug)]
pub struct EdgeDrops {
    counters: Box<[Counter]>,
}

#[derive(Debug)]
enum Counter {
    Registered(DropCounter),
    Alone(AtomicU64),
}

impl EdgeDrops {
    /// Counters that the process's registry sums up; every reason is there from the start, at zero.
    pub fn new(registry: &Registry) -> Arc<Self> {
        let counter = |reason: &EdgeDrop| Counter::Registered(registry.drop_counter(reason.reason()));
        Arc::new(Self { counters: EdgeDrop::ALL.iter().map(counter).collect() })
    }

    /// Counters that nobody else reads, for tests and for programs that only check something.
    pub fn alone() -> Arc<Self> {
        Arc::new(Self { counters: EdgeDrop::ALL.iter().map(|_| Counter::Alone(AtomicU64::new(0))).collect() })
    }

    /// Counts `n` packets lost for `reason`.
    pub fn add(&self, reason: EdgeDrop, n: u64) {
        match self.counters.get(reason as usize) {
            Some(Counter::Registered(counter)) => counter.add(n),
            Some(Counter::Alone(counter)) => {
                counter.fetch_add(n, Ordering::Relaxed);
            }
            None => {}
        }
    }

    /// Packets lost for `reason` so far.
    pub fn get(&self, reason: EdgeDrop) -> u64 {
        match self.counters.get(reason as usize) {
            Some(Counter::Registered(counter)) => counter.get(),
            Some(Counter::Alone(counter)) => counter.load(Ordering::Relaxed),
            None => 0,
        }
    }

    /// Every reason with its count, also those at zero.
    pub fn snapshot(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        EdgeDrop::ALL.iter().map(|reason| (reason.reason(), self.get(*reason)))
    }
}

/// Counts what a reader handed over when whoever took it panics.
pub(crate) struct Handing<'a> {
    drops: &'a EdgeDrops,
    packets: usize,
}

impl<'a> Handing<'a> {
    pub(crate) fn over(drops: &'a EdgeDrops, packets: usize) -> Self {
        Self { drops, packets }
    }
}

impl Drop for Handing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.drops.add(EdgeDrop::ReaderPanicked, self.packets as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_counter_and_a_name_of_its_own() {
        let drops = EdgeDrops::alone();

        for (n, reason) in EdgeDrop::ALL.iter().enumerate() {
            drops.add(*reason, n as u64 + 1);
        }

        let mut names: Vec<_> = drops.snapshot().map(|(name, _)| name).collect();
        let counts: Vec<_> = drops.snapshot().map(|(_, count)| count).collect();
        assert_eq!(counts, (1..=EdgeDrop::ALL.len() as u64).collect::<Vec<_>>());
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), EdgeDrop::ALL.len());
    }
}

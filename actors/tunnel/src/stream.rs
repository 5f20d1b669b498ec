//! Between our end at a relay, on a packet lane, and the connection that carries it where UDP is blocked, on a control lane.
//!
//! Both ways are bounded and never waited for on the lane: what does not fit is dropped there and counted, as on a full
//! link. The connection stops reading when the lane has no room, so that TCP slows the relay down.

use std::cell::Cell;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use actors_runtime::{HandoverReceiver, HandoverSender, handover};
use protocol_control::RelayTls;
use protocol_stun::stream::padding;

/// Sends that wait to be written; each has at most one send of the lane, 64 KiB.
const OUTWARD: usize = 32;
/// Reads that wait for the lane; each has at most 32 KiB.
const INWARD: usize = 64;

/// One connection of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// One that was never used in this process.
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

/// What a connection tells the lane.
#[derive(Debug)]
pub enum FromStream {
    /// It is there.
    Opened,
    /// It brought whole messages, one behind the other.
    Messages(Vec<u8>),
    /// It is gone; another is being opened.
    Closed,
}

/// What whoever opens connections can be told.
pub enum StreamCommand {
    /// A connection is wanted until [`StreamCommand::Close`]. Said again, it changes nothing.
    Open(Box<StreamWanted>),
    /// It has gone silent: it is opened anew.
    Reopen(StreamId),
    /// It is not wanted any more.
    Close(StreamId),
}

/// A connection that is wanted.
#[derive(Clone)]
pub struct StreamWanted {
    /// Tells it from others.
    pub id: StreamId,
    /// Where the relay is reached, and its certificate.
    pub relay: RelayTls,
    /// What is to be written.
    pub outward: HandoverReceiver<Vec<u8>>,
    /// Who hears what comes.
    pub inward: HandoverSender<FromStream>,
}

impl fmt::Debug for StreamWanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamWanted")
            .field("id", &self.id)
            .field("relay", &self.relay)
            .finish_non_exhaustive()
    }
}

/// The lane's end of a connection.
pub(crate) struct StreamEnd {
    wanted: StreamWanted,
    outward: HandoverSender<Vec<u8>>,
    inward: HandoverReceiver<FromStream>,
    is_open: Cell<bool>,
}

impl StreamEnd {
    pub(crate) fn new(relay: RelayTls) -> Self {
        let ((outward, to_write), (heard, inward)) = (handover(OUTWARD), handover(INWARD));
        let wanted = StreamWanted { id: StreamId::fresh(), relay, outward: to_write, inward: heard };
        Self { wanted, outward, inward, is_open: Cell::new(false) }
    }

    pub(crate) fn open(&self) -> StreamCommand {
        StreamCommand::Open(Box::new(self.wanted.clone()))
    }

    pub(crate) fn close(&self) -> StreamCommand {
        StreamCommand::Close(self.wanted.id)
    }

    pub(crate) fn reopen(&self) -> StreamCommand {
        StreamCommand::Reopen(self.wanted.id)
    }

    /// What comes.
    pub(crate) fn arriving(&self) -> HandoverReceiver<FromStream> {
        self.inward.clone()
    }

    /// Whether the connection is there.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open.get()
    }

    pub(crate) fn set_open(&self, is_open: bool) {
        self.is_open.set(is_open);
    }

    /// Writes whole messages. `false`: there is no room, or no connection.
    pub(crate) fn write(&self, bytes: Vec<u8>) -> bool {
        self.is_open.get() && self.outward.push(bytes).is_ok()
    }

    /// Writes datagrams of `segment` bytes each (the last may be shorter) as messages of a channel.
    pub(crate) fn write_channel_data(&self, channel: u16, bytes: &[u8], segment: usize) -> bool {
        let segment = segment.max(1);
        let header = protocol_stun::CHANNEL_HEADER_LEN;
        let mut framed =
            Vec::with_capacity(bytes.len().div_ceil(segment) * (segment + header + padding(1).len()));
        for datagram in bytes.chunks(segment) {
            let Ok(length) = u16::try_from(datagram.len()) else { return false };
            framed.extend_from_slice(&protocol_stun::channel_header(channel, length));
            framed.extend_from_slice(datagram);
            framed.extend_from_slice(padding(datagram.len()));
        }
        self.write(framed)
    }
}

/// How a relay is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transport {
    /// By datagrams.
    Udp,
    /// Over a connection with TLS.
    Tls,
}

impl Transport {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tls => "tls",
        }
    }
}

/// A relay whose allocation another lane holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AwayLink {
    /// Its place among this node's relays.
    pub slot: protocol_traversal::RelaySlot,
    /// Its socket.
    pub address: SocketAddr,
    /// How it is reached.
    pub transport: Transport,
}

#[cfg(test)]
mod tests {
    use protocol_identity::CertificatePin;
    use protocol_stun::stream::{Frame, frame};

    use super::*;

    fn end() -> StreamEnd {
        let relay = RelayTls { addresses: Vec::new(), pin: CertificatePin::of(b"certificate") };
        StreamEnd::new(relay)
    }

    #[test]
    fn datagrams_become_padded_messages_of_one_write() {
        let end = end();
        end.set_open(true);

        assert!(end.write_channel_data(0x4001, &[7; 25], 10));

        let written = end.wanted.outward.pop().unwrap();
        let (mut rest, mut payloads) = (&written[..], Vec::new());
        while let Frame::Whole(length) = frame(rest) {
            let payload = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            payloads.push((payload, length));
            rest = &rest[length..];
        }
        assert_eq!(payloads, [(10, 16), (10, 16), (5, 12)]);
        assert!(rest.is_empty());
    }

    #[test]
    fn without_a_connection_and_without_room_nothing_is_written() {
        let end = end();
        assert!(!end.write(vec![1]));

        end.set_open(true);
        let written = (0..100).filter(|_| end.write(vec![1])).count();

        assert_eq!(written, OUTWARD);
    }
}

//! The way back to a client: datagrams of the socket that it sends to, or its connection.

use std::rc::Rc;

use protocol_stun::CHANNEL_HEADER_LEN;
use protocol_stun::relay::FiveTuple;
use protocol_stun::stream::padding;

use crate::gather::Segments;
use crate::socket::{Envelope, RelaySocket, source};
use crate::streams::Back;

/// How a client is reached.
#[derive(Clone)]
pub(crate) enum WayBack {
    /// By datagrams.
    Datagrams(Rc<RelaySocket>),
    /// By its connection, which lives on another lane.
    Stream(Back),
}

impl WayBack {
    /// Sends one STUN message.
    ///
    /// # Errors
    /// The reason to count it under.
    pub(crate) fn send(&self, to: FiveTuple, ecn: u8, message: &[u8]) -> Result<(), &'static str> {
        match self {
            Self::Datagrams(socket) => socket.send(envelope(socket, to, ecn), message),
            Self::Stream(back) => back.push(message.to_vec()),
        }
    }

    /// Sends ChannelData messages, each a header and a payload.
    ///
    /// # Errors
    /// How many did not leave, and why.
    pub(crate) fn send_channel_data(
        &self,
        to: FiveTuple,
        ecn: u8,
        what: Segments<'_>,
    ) -> Result<(), (u64, &'static str)> {
        match self {
            Self::Datagrams(socket) => socket.send_segments(envelope(socket, to, ecn), what),
            Self::Stream(back) => {
                let room = what.parts.len() / 2 * (what.segment + CHANNEL_HEADER_LEN);
                let mut bytes = Vec::with_capacity(room);
                for message in what.parts.chunks(2) {
                    message.iter().for_each(|part| bytes.extend_from_slice(part));
                    bytes.extend_from_slice(padding(message.last().map_or(0, |payload| payload.len())));
                }
                back.push(bytes).map_err(|reason| (what.count(), reason))
            }
        }
    }

    /// An allocation has begun or ended here.
    pub(crate) fn allocated(&self, allocated: bool) {
        if let Self::Stream(back) = self {
            back.allocated(allocated);
        }
    }
}

fn envelope(socket: &RelaySocket, to: FiveTuple, ecn: u8) -> Envelope {
    Envelope { to: to.client, from: source(socket, to.relay.ip()), ecn }
}

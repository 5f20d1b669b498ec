//! What passes through an allocation, and why something does not.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

use stun_types::attribute::AttributeStaticType;
use stun_types::message::MessageClass;
use turn_types::attribute::{Data, Icmp, XorPeerAddress};
use turn_types::message::{DATA, SEND};

use crate::channel::channel_header;
use crate::wire::{Draft, plain, read, transaction, value_range};

/// Room that a Send indication needs besides its payload: header, peer (IPv6), DATA's header and padding.
const INDICATION_ROOM: usize = 64;

/// What a datagram from the relay was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A peer's packet.
    Data {
        /// Who sent it.
        peer: SocketAddr,
        /// Where it lies in the datagram.
        payload: Range<usize>,
    },
    /// An answer to a request of ours.
    Handled,
    /// Nothing for us.
    Dropped(DropReason),
}

/// Why a datagram from the relay was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Neither a well-formed STUN message nor ChannelData.
    Malformed,
    /// A channel that we have not bound.
    UnknownChannel,
    /// A peer that we did not permit, or no allocation at all.
    UnknownPeer,
    /// An answer that nothing waits for: late, a copy, or somebody's guess.
    Unexpected,
    /// An answer whose integrity does not verify.
    Forged,
    /// No packet, but the news that one of ours met an ICMP error; paths are judged by their own probes.
    Icmp,
}

impl DropReason {
    /// The value of the counter's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Malformed => "relay_malformed",
            Self::UnknownChannel => "relay_unknown_channel",
            Self::UnknownPeer => "relay_unknown_peer",
            Self::Unexpected => "relay_unexpected",
            Self::Forged => "relay_forged",
            Self::Icmp => "relay_icmp",
        }
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a packet for a peer cannot go through the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotWrapped {
    /// There is no allocation at present.
    #[error("no allocation is held at the relay")]
    NotAllocated,
    /// The relay has not confirmed a permission for this peer.
    #[error("the relay has not confirmed a permission for this peer")]
    NotPermitted,
    /// The packet does not fit one datagram with its header.
    #[error("the packet is too long for a relayed datagram")]
    TooLong,
}

/// Appends the datagram that carries `payload` to `peer`: by its channel, or else in a Send indication.
pub(crate) fn wrap(
    channel: Option<u16>,
    peer: SocketAddr,
    payload: &[u8],
    random: &mut impl rand::Rng,
    out: &mut Vec<u8>,
) -> Result<(), NotWrapped> {
    let length = u16::try_from(payload.len()).map_err(|_| NotWrapped::TooLong)?;
    match channel {
        Some(channel) => {
            out.extend_from_slice(&channel_header(channel, length));
            out.extend_from_slice(payload);
        }
        None if payload.len() > usize::from(u16::MAX) - INDICATION_ROOM => return Err(NotWrapped::TooLong),
        None => {
            let id = transaction(random);
            let message = Draft::new(MessageClass::Indication, SEND, id)
                .with(&XorPeerAddress::new(plain(peer), id))
                .with(&Data::new(payload))
                .finish();
            out.extend_from_slice(&message);
        }
    }
    Ok(())
}

/// Peer and place of the payload of a Data indication; [`DropReason::Unexpected`] for any other message.
pub(crate) fn read_indication(datagram: &[u8]) -> Result<(SocketAddr, Range<usize>), DropReason> {
    let message = read(datagram).ok_or(DropReason::Malformed)?;
    if !message.has_class(MessageClass::Indication) || !message.has_method(DATA) {
        return Err(DropReason::Unexpected);
    }
    let peer = message.attribute::<XorPeerAddress>().map_err(|_| DropReason::Malformed)?;
    if message.has_attribute(Icmp::TYPE) {
        return Err(DropReason::Icmp);
    }
    let payload = value_range(&message, Data::TYPE).ok_or(DropReason::Malformed)?;
    Ok((plain(peer.addr(message.transaction_id())), payload))
}

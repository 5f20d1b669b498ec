//! What a tunnel is made of, and what its calls come to.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use protocol_identity::{Secret32, WireguardKey, WireguardPublic};

use crate::{Dropped, Limiter, Message, TunnelIndex};

/// What a tunnel is made of.
#[derive(Clone)]
pub struct TunnelConfig {
    /// Our key.
    pub private: WireguardKey,
    /// The other end's key.
    pub peer: WireguardPublic,
    /// What the connection's secret adds to the handshake.
    pub preshared: Option<Secret32>,
    /// Where the other end's datagrams find this tunnel.
    pub index: TunnelIndex,
    /// The limiter of all tunnels with our key.
    pub limiter: Limiter,
}

impl fmt::Debug for TunnelConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TunnelConfig")
            .field("peer", &self.peer)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// What became of a packet that was to be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// So many bytes of the buffer go to the other end.
    Datagram(usize),
    /// It waits for the session; [`crate::Tunnel::drain`] hands it out.
    Queued,
    /// It goes nowhere.
    Dropped(Dropped),
}

/// What a datagram held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// An IP packet: so many bytes of the buffer. The source address inside is the sender's claim, still to be checked.
    Packet {
        /// Bytes of the buffer.
        len: usize,
        /// Source address of the packet.
        source: IpAddr,
    },
    /// Nothing but the proof that the other end is there.
    Keepalive,
    /// So many bytes of the buffer go back to where the datagram came from, and nowhere else.
    Reply {
        /// Bytes of the buffer.
        len: usize,
        /// Whether the datagram proved that the other end is at its source.
        proves_source: bool,
    },
    /// A cookie for our next handshake message. It proves nothing about its source.
    Cookie,
    /// Nothing.
    Dropped(Dropped),
}

impl Opened {
    /// Whether the datagram proved that the other end is at its source, so that paths may follow it. Cookie replies and
    /// initiations do not: both can be replayed by somebody on the way.
    pub fn proves_source(&self) -> bool {
        match self {
            Self::Packet { .. } | Self::Keepalive => true,
            Self::Reply { proves_source, .. } => *proves_source,
            Self::Cookie | Self::Dropped(_) => false,
        }
    }
}

/// What the machine wants from its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// Send over every candidate path, the same bytes.
    Initiation(Message),
    /// Send over the selected path.
    Datagram(Message),
    /// There is a session: [`crate::Tunnel::drain`] has what waited.
    Established,
    /// There is none any more, and nobody tries to get one until the next packet or [`crate::Tunnel::initiate`].
    Expired,
}

/// Figures of a tunnel.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TunnelStats {
    /// Packets sealed, keepalives apart.
    pub sealed_packets: u64,
    /// Their bytes before sealing.
    pub sealed_bytes: u64,
    /// Packets opened, keepalives apart.
    pub opened_packets: u64,
    /// Their bytes after opening.
    pub opened_bytes: u64,
    /// Sessions that both ends came to hold.
    pub sessions: u64,
    /// Packets that waited for a session and were dropped.
    pub expired_packets: u64,
    /// Age of the current session.
    pub session_age: Option<Duration>,
    /// Round trip of the last handshake that we started.
    pub handshake_rtt: Option<Duration>,
    /// Share of the other end's datagrams that never arrived, 0 to 1.
    pub loss: f32,
}

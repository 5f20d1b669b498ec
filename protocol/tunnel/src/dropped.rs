//! Why a datagram or a packet went no further.

/// Why something was dropped. Every variant is counted under [`Dropped::reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, thiserror::Error)]
pub enum Dropped {
    /// The peer sent bytes that are no WireGuard message.
    #[error("not a WireGuard message")]
    Malformed,
    /// The peer sealed something that is no IP packet.
    #[error("the sealed content is not an IP packet")]
    MalformedInner,
    /// A tag, a key or a code did not fit: forged, damaged, or meant for another key.
    #[error("not authentic")]
    NotAuthentic,
    /// Seen before, too old, or with a counter that no honest sender reaches.
    #[error("replayed or too old")]
    Replayed,
    /// Names a session that is not, or no longer, there.
    #[error("unknown session")]
    UnknownSession,
    /// A response that nothing asked for, or the second copy of one.
    #[error("nothing waits for this handshake message")]
    Unexpected,
    /// A cookie reply that no handshake message of ours can have drawn.
    #[error("nothing waits for this cookie reply")]
    StaleCookie,
    /// Four initiations wait for their confirmation already.
    #[error("too many unconfirmed initiations")]
    TooManyUnconfirmed,
    /// More copies of one initiation than paths can explain.
    #[error("too many copies of one initiation")]
    TooManyCopies,
    /// More handshakes a second than this machine wants to compute.
    #[error("under load")]
    UnderLoad,
    /// Ours: the buffer is too small for the result.
    #[error("the buffer is too small")]
    BufferTooSmall,
    /// No session yet, and the queue that waits for it is full.
    #[error("the queue that waits for the session is full")]
    QueueFull,
    /// No session came about in time; what waited for it is dropped.
    #[error("no session came about in time")]
    Expired,
}

impl Dropped {
    /// All reasons, for the tables of counters.
    pub const ALL: [Self; 13] = [
        Self::Malformed,
        Self::MalformedInner,
        Self::NotAuthentic,
        Self::Replayed,
        Self::UnknownSession,
        Self::Unexpected,
        Self::StaleCookie,
        Self::TooManyUnconfirmed,
        Self::TooManyCopies,
        Self::UnderLoad,
        Self::BufferTooSmall,
        Self::QueueFull,
        Self::Expired,
    ];

    /// The name under which drops are counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "tunnel_malformed",
            Self::MalformedInner => "tunnel_malformed_inner",
            Self::NotAuthentic => "tunnel_not_authentic",
            Self::Replayed => "tunnel_replayed",
            Self::UnknownSession => "tunnel_unknown_session",
            Self::Unexpected => "tunnel_unexpected_handshake",
            Self::StaleCookie => "tunnel_stale_cookie",
            Self::TooManyUnconfirmed => "tunnel_too_many_unconfirmed",
            Self::TooManyCopies => "tunnel_too_many_copies",
            Self::UnderLoad => "tunnel_under_load",
            Self::BufferTooSmall => "tunnel_buffer_too_small",
            Self::QueueFull => "tunnel_queue_full",
            Self::Expired => "tunnel_session_expired",
        }
    }
}

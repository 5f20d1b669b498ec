//! What stands before every handshake: the shared limiter, and the look at who sent an initiation.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use protocol_identity::{WireguardKey, WireguardPublic};

use crate::engine::blame;
use crate::{COOKIE_SIZE, Dropped};

/// One limiter for all tunnels of one key. Above its limit it asks senders for a cookie first (WireGuard paper,
/// section 5.3).
#[derive(Clone)]
pub struct Limiter(Arc<RateLimiter>);

impl Limiter {
    /// Handshake messages a second before cookies are asked for: a fifth of what one core can compute (about 190 µs
    /// each), so that a flood of valid-looking initiations leaves the packet path its time.
    pub const DEFAULT_LIMIT: u64 = 1_000;

    /// A limiter for the tunnels of `own`.
    pub fn new(own: &WireguardPublic, handshakes_per_second: u64) -> Self {
        Self(Arc::new(RateLimiter::new(&x25519_dalek::PublicKey::from(own.0), handshakes_per_second)))
    }

    /// Begins a new second. Call it once a second, from one place.
    pub fn reset_count(&self) {
        self.0.reset_count();
    }

    /// Checks the outer code of a handshake message and the load before anything costly is done with it. A tunnel does
    /// this itself; a table of tunnels does it before [`peek_initiation`].
    pub fn admit(&self, source: IpAddr, datagram: &[u8], reply: &mut [u8; COOKIE_SIZE]) -> Admission {
        match self.0.verify_packet(Some(source), datagram, reply) {
            Ok(_) => Admission::Admitted,
            Err(TunnResult::WriteToNetwork(_)) => Admission::Cookie,
            Err(TunnResult::Err(error)) => Admission::Refused(blame(&error)),
            Err(TunnResult::Done | TunnResult::WriteToTunnelV4(..) | TunnResult::WriteToTunnelV6(..)) => {
                Admission::Refused(Dropped::Unexpected)
            }
        }
    }

    pub(crate) fn shared(&self) -> Arc<RateLimiter> {
        Arc::clone(&self.0)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Limiter(…)")
    }
}

/// What the limiter says to a handshake message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Admitted,
    /// Under load: send the reply back to the source, which comes again with the cookie in it.
    Cookie,
    /// Drop it.
    Refused(Dropped),
}

/// Who sent this initiation: opens only its static key, without a tunnel, so that a table can route it to one. Costs
/// about 190 µs.
///
/// The key is what the sender claims; the tunnel verifies it.
///
/// # Errors
/// [`Dropped::Malformed`] when it is no initiation, [`Dropped::NotAuthentic`] when it is not for our key.
pub fn peek_initiation(own: &WireguardKey, datagram: &[u8]) -> Result<WireguardPublic, Dropped> {
    match Tunn::parse_incoming_packet(datagram) {
        Ok(Packet::HandshakeInit(initiation)) => {
            let public = x25519_dalek::PublicKey::from(own.public().0);
            let half =
                parse_handshake_anon(own.expose(), &public, &initiation).map_err(|error| blame(&error))?;
            Ok(WireguardPublic(half.peer_static_public))
        }
        Ok(Packet::HandshakeResponse(_) | Packet::PacketCookieReply(_) | Packet::PacketData(_)) => {
            Err(Dropped::Malformed)
        }
        Err(error) => Err(blame(&error)),
    }
}

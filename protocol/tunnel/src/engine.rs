//! The WireGuard implementation behind one trait.

use std::net::IpAddr;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::{Tunn, TunnResult};

use crate::{Dropped, TunnelConfig};

/// What one call of an engine came to. What it wrote begins at the start of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing to hand on.
    Nothing,
    /// So many bytes of the buffer go to the network.
    Network(usize),
    /// So many bytes of the buffer are an IP packet from this inner source.
    Packet(usize, IpAddr),
    /// It did not work.
    Failed(Dropped),
}

/// What an engine measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct EngineStats {
    /// Age of the current session.
    pub session_age: Option<Duration>,
    /// Round trip of the last handshake that we started.
    pub handshake_rtt: Option<Duration>,
    /// Share of the datagrams that never arrived, 0 to 1.
    pub loss: f32,
}

/// One WireGuard state machine. The caller measures buffers: `out` has room for the packet and [`crate::OVERHEAD`], for
/// the whole datagram, and for [`crate::MIN_BUFFER`] in any case.
pub trait Engine {
    /// Seals a packet with the current session, which must exist.
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Step;
    /// Takes a datagram that came from `source`.
    fn open(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step;
    /// Hands out what the engine kept back until there was a session.
    fn queued(&mut self, out: &mut [u8]) -> Step;
    /// Looks at the clock: retries, rekeys, keepalives, expiry.
    fn tick(&mut self, out: &mut [u8]) -> Step;
    /// A fresh initiation, whatever is under way.
    fn initiate(&mut self, out: &mut [u8]) -> Step;
    /// Whether something is in the place of the current session.
    fn has_session(&self) -> bool;
    /// What the engine measured.
    fn stats(&self) -> EngineStats;
}

/// The engine that runs: boringtun with its own clock, which counts suspend, and the system's randomness.
pub struct Boringtun(Tunn);

impl Boringtun {
    pub(crate) fn new(config: &TunnelConfig) -> Self {
        Self(Tunn::new(
            config.private.expose().clone(),
            x25519_dalek::PublicKey::from(config.peer.0),
            config.preshared.as_ref().map(|key| *key.expose()),
            // Probes keep the bindings of NATs alive.
            None,
            config.index.number(),
            Some(config.limiter.shared()),
        ))
    }
}

impl Engine for Boringtun {
    fn seal(&mut self, packet: &[u8], out: &mut [u8]) -> Step {
        step(self.0.encapsulate(packet, out))
    }

    fn open(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step {
        step(self.0.decapsulate(Some(source), datagram, out))
    }

    fn queued(&mut self, out: &mut [u8]) -> Step {
        step(self.0.decapsulate(None, &[], out))
    }

    fn tick(&mut self, out: &mut [u8]) -> Step {
        step(self.0.update_timers(out))
    }

    fn initiate(&mut self, out: &mut [u8]) -> Step {
        step(self.0.format_handshake_initiation(out, true))
    }

    fn has_session(&self) -> bool {
        self.0.time_since_last_handshake().is_some()
    }

    fn stats(&self) -> EngineStats {
        let (session_age, _sent, _received, loss, rtt) = self.0.stats();
        EngineStats {
            session_age,
            handshake_rtt: rtt.map(|milliseconds| Duration::from_millis(milliseconds.into())),
            loss,
        }
    }
}

fn step(result: TunnResult<'_>) -> Step {
    match result {
        TunnResult::Done => Step::Nothing,
        TunnResult::Err(error) => Step::Failed(blame(&error)),
        TunnResult::WriteToNetwork(datagram) => Step::Network(datagram.len()),
        TunnResult::WriteToTunnelV4(packet, source) => Step::Packet(packet.len(), source.into()),
        TunnResult::WriteToTunnelV6(packet, source) => Step::Packet(packet.len(), source.into()),
    }
}

pub(crate) fn blame(error: &WireGuardError) -> Dropped {
    match error {
        WireGuardError::DestinationBufferTooSmall => Dropped::BufferTooSmall,
        WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket => Dropped::Malformed,
        WireGuardError::WrongKey
        | WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::InvalidMac
        | WireGuardError::InvalidAeadTag => Dropped::NotAuthentic,
        WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter => Dropped::Replayed,
        WireGuardError::WrongIndex | WireGuardError::NoCurrentSession => Dropped::UnknownSession,
        WireGuardError::UnexpectedPacket | WireGuardError::LockFailed => Dropped::Unexpected,
        WireGuardError::UnderLoad => Dropped::UnderLoad,
        WireGuardError::ConnectionExpired => Dropped::Expired,
    }
}

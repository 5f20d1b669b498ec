//! Sealed datagrams on their way out: as many of one size as fit go to the kernel in one call.

use protocol_packet::Ecn;
use protocol_traversal::Path;
use protocol_tunnel::{MIN_BUFFER, OVERHEAD};

use crate::lane::TunnelLane;

/// What one UDP send may carry: 65,535 less the IPv4 and UDP headers.
const CAPACITY: usize = 65_507;
/// Segments that one UDP GSO send may carry (`UDP_MAX_SEGMENTS` of kernels before 6.9).
const MAX_SEGMENTS: usize = 64;

/// Collects datagrams back to back. UDP GSO wants equal sizes, of which the last may be shorter.
pub(crate) struct Sender {
    bytes: Box<[u8]>,
    len: usize,
    segment: usize,
    segments: usize,
    ecn: Ecn,
}

impl Sender {
    pub(crate) fn new() -> Self {
        let bytes = vec![0; CAPACITY + MIN_BUFFER].into_boxed_slice();
        Self { bytes, len: 0, segment: 0, segments: 0, ecn: Ecn::NotEct }
    }

    /// Room for a datagram that seals `packet` bytes marked with `ecn`; what was collected is sent first when there is
    /// none, or when it is marked otherwise.
    pub(crate) fn room(
        &mut self,
        packet: usize,
        ecn: Ecn,
        path: Path,
        lane: &TunnelLane,
    ) -> Option<&mut [u8]> {
        let needed = (packet + OVERHEAD).max(MIN_BUFFER);
        if needed > CAPACITY {
            return None;
        }
        if self.len + needed > CAPACITY || self.segments == MAX_SEGMENTS || self.ecn != ecn {
            self.flush(path, lane);
            self.ecn = ecn;
        }
        self.bytes.get_mut(self.len..)
    }

    /// Takes the `len` bytes that were just written into the room.
    pub(crate) fn pushed(&mut self, len: usize, path: Path, lane: &TunnelLane) {
        if self.segments > 0 && len > self.segment {
            // Larger than what is collected: that goes first, and this begins anew.
            let start = self.len;
            self.send(path, lane);
            self.bytes.copy_within(start..start + len, 0);
            self.len = 0;
            self.segments = 0;
        }
        if self.segments == 0 {
            self.segment = len;
        }
        self.len += len;
        self.segments += 1;
        if len < self.segment {
            self.flush(path, lane);
        }
    }

    /// Sends what was collected.
    pub(crate) fn flush(&mut self, path: Path, lane: &TunnelLane) {
        self.send(path, lane);
        self.len = 0;
        self.segments = 0;
    }

    /// How many datagrams were collected; forgets them.
    pub(crate) fn discard(&mut self) -> u64 {
        let discarded = self.segments as u64;
        self.len = 0;
        self.segments = 0;
        discarded
    }

    fn send(&self, path: Path, lane: &TunnelLane) {
        if let (1.., Some(bytes)) = (self.segments, self.bytes.get(..self.len)) {
            lane.send_marked(path, bytes, self.segment, self.ecn);
        }
    }
}

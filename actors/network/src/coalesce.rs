//! Joins consecutive packets of one TCP or UDP flow into one super-packet for the kernel, without copying payloads.
//!
//! Only what the kernel can cut into the very same packets again is joined: the same headers but for length, sequence
//! number, IP identification (which means nothing where fragmentation is forbidden, RFC 6864 section 4.1) and
//! checksums, and only packets whose checksums are right (the kernel computes them anew, so joining would otherwise heal
//! a damaged packet).

use std::io::IoSlice;

use protocol_packet::Sum;

use crate::field::{get, pseudo, put};
use crate::virtio::{Header, Kind};

/// The kernel refuses UDP super-packets of more (`UDP_MAX_SEGMENTS` of older kernels); TCP is capped by its length.
const MAX_SEGMENTS: usize = 64;
/// What the 16-bit lengths in the IP headers can say.
const MAX_LENGTH: usize = 65_535;
/// IPv6 header and the longest TCP header.
const MAX_HEADERS: usize = 40 + 60;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FLAG_PSH: u8 = 0x08;
const FLAG_ACK: u8 = 0x10;
const DO_NOT_FRAGMENT: u16 = 0x4000;

/// What is needed to tell whether the next packet continues this one.
#[derive(Clone, Copy)]
struct Shape {
    version: u8,
    protocol: u8,
    upper: usize,
    headers: usize,
    payload: usize,
}

/// Packets waiting to go out in one call.
pub(crate) struct Coalescer<'a> {
    udp: bool,
    first: &'a [u8],
    shape: Option<Shape>,
    payloads: [IoSlice<'a>; MAX_SEGMENTS],
    count: usize,
    length: usize,
    closed: bool,
    pushed: bool,
}

impl<'a> Coalescer<'a> {
    /// Joins UDP only when `udp` says that the kernel can cut it.
    pub(crate) fn new(udp: bool) -> Self {
        let payloads = [IoSlice::new(&[]); MAX_SEGMENTS];
        Self { udp, first: &[], shape: None, payloads, count: 0, length: 0, closed: false, pushed: false }
    }

    /// Takes `packet` if nothing waits or if it continues what waits; otherwise the caller flushes first.
    pub(crate) fn push(&mut self, packet: &'a [u8]) -> bool {
        let shape = self.shape_of(packet);
        if self.count == 0 {
            self.first = packet;
            self.shape = shape;
            self.length = packet.len();
            self.closed = shape.is_none_or(|shape| ends(packet, &shape));
            self.pushed = self.closed && shape.is_some();
        } else {
            let (Some(shape), Some(waiting)) = (shape, self.shape) else { return false };
            if self.closed || !self.continues(packet, &shape, &waiting) {
                return false;
            }
            self.length += shape.payload;
            let pushes = ends(packet, &shape);
            self.pushed |= pushes;
            self.closed = pushes || shape.payload < waiting.payload;
        }
        let headers = shape.map_or(0, |shape| shape.headers);
        let Some(slot) = self.payloads.get_mut(self.count) else { return false };
        *slot = IoSlice::new(packet.get(headers..).unwrap_or_default());
        self.count += 1;
        true
    }

    /// Hands over what waits: the parts of the super-packet, its virtio header first, and how many packets it holds.
    pub(crate) fn flush(&mut self, write: impl FnOnce(&[IoSlice<'_>], usize)) {
        let count = std::mem::take(&mut self.count);
        let payloads = self.payloads.get(..count).unwrap_or_default();
        match self.shape {
            Some(shape) if count > 1 => {
                let mut bytes = [0; MAX_HEADERS];
                let Some((headers, header)) = self.joined(&shape, &mut bytes) else { return };
                let virtio = header.encode();
                let before = [IoSlice::new(&virtio), IoSlice::new(headers)];
                let mut parts = [IoSlice::new(&[]); MAX_SEGMENTS + 2];
                for (to, from) in parts.iter_mut().zip(before.iter().chain(payloads)) {
                    *to = *from;
                }
                write(parts.get(..count + 2).unwrap_or_default(), count);
            }
            _ if count == 1 => {
                write(&[IoSlice::new(&Header::plain().encode()), IoSlice::new(self.first)], 1);
            }
            _ => {}
        }
    }

    fn joined<'b>(&self, shape: &Shape, bytes: &'b mut [u8; MAX_HEADERS]) -> Option<(&'b [u8], Header)> {
        let headers = bytes.get_mut(..shape.headers)?;
        headers.copy_from_slice(self.first.get(..shape.headers)?);
        let length = u16::try_from(self.length).ok()?;
        let upper_length = length - shape.upper as u16;
        if shape.version == 4 {
            put(headers, 2, length)?;
            put(headers, 10, 0)?;
            let sum = Sum::new().bytes(headers.get(..shape.upper)?).finish();
            put(headers, 10, sum)?;
        } else {
            put(headers, 4, upper_length)?;
        }
        let partial = pseudo(headers, shape.protocol, self.length - shape.upper)?.fold();
        let (kind, checksum_offset) = if shape.protocol == UDP {
            put(headers, shape.upper + 4, upper_length)?;
            (Kind::Udp, 6)
        } else {
            if self.pushed {
                *headers.get_mut(shape.upper + 13)? |= FLAG_PSH;
            }
            (if shape.version == 4 { Kind::Tcp4 } else { Kind::Tcp6 }, 16)
        };
        put(headers, shape.upper + usize::from(checksum_offset), partial)?;
        let header = Header {
            kind,
            needs_checksum: true,
            header_len: shape.headers as u16,
            segment: shape.payload as u16,
            checksum_start: shape.upper as u16,
            checksum_offset,
        };
        Some((headers, header))
    }

    /// Whether `packet` is what cutting the waiting super-packet would yield next.
    fn continues(&self, packet: &[u8], shape: &Shape, waiting: &Shape) -> bool {
        let same = |range: std::ops::Range<usize>| self.first.get(range.clone()) == packet.get(range);
        let upper = shape.upper;
        if (shape.version, shape.protocol, upper, shape.headers)
            != (waiting.version, waiting.protocol, waiting.upper, waiting.headers)
            || shape.payload > waiting.payload
            || self.count >= MAX_SEGMENTS
            || self.length + shape.payload > MAX_LENGTH
        {
            return false;
        }
        let network = if shape.version == 4 {
            let expected = get(self.first, 4).map(|id| id.wrapping_add(self.count as u16));
            // Version, length and service; flags and offset; time to live and protocol; addresses.
            let unidentified = get(packet, 6).is_some_and(|flags| flags & DO_NOT_FRAGMENT != 0);
            same(0..2) && same(6..10) && same(12..20) && (unidentified || get(packet, 4) == expected)
        } else {
            same(0..4) && same(6..40)
        };
        let transport = if shape.protocol == UDP {
            same(upper..upper + 4)
        } else {
            let sent = (self.length - waiting.headers) as u32;
            let expected = sequence(self.first, upper).map(|first| first.wrapping_add(sent));
            // Ports; acknowledgement and data offset; window; urgent pointer and options. PSH may differ.
            same(upper..upper + 4)
                && same(upper + 8..upper + 13)
                && same(upper + 14..upper + 16)
                && same(upper + 18..shape.headers)
                && sequence(packet, upper) == expected
        };
        network && transport
    }

    /// The packet's shape if it may be joined at all.
    fn shape_of(&self, packet: &[u8]) -> Option<Shape> {
        let first = *packet.first()?;
        let (version, protocol, upper, declared) = match first >> 4 {
            4 => {
                let unfragmented = get(packet, 6)? & 0x3fff == 0;
                let intact = Sum::new().bytes(packet.get(..20)?).fold() == 0xffff;
                if first != 0x45 || !unfragmented || !intact {
                    return None;
                }
                (4, *packet.get(9)?, 20, usize::from(get(packet, 2)?))
            }
            6 => (6, *packet.get(6)?, 40, usize::from(get(packet, 4)?) + 40),
            _ => return None,
        };
        if declared != packet.len() || packet.len() > MAX_LENGTH {
            return None;
        }
        let headers = match protocol {
            TCP => {
                let words = usize::from(packet.get(upper + 12)? >> 4);
                let flags = *packet.get(upper + 13)?;
                if words < 5 || flags & !FLAG_PSH != FLAG_ACK {
                    return None;
                }
                upper + 4 * words
            }
            UDP if self.udp => {
                let (length, checksum) = (get(packet, upper + 4)?, get(packet, upper + 6)?);
                if usize::from(length) != packet.len() - upper || checksum == 0 {
                    return None;
                }
                upper + 8
            }
            _ => return None,
        };
        let payload = packet.len().checked_sub(headers).filter(|payload| *payload > 0)?;
        let body = packet.get(upper..)?;
        let sum = pseudo(packet, protocol, body.len())?.bytes(body).fold();
        (sum == 0xffff).then_some(Shape { version, protocol, upper, headers, payload })
    }
}

fn ends(packet: &[u8], shape: &Shape) -> bool {
    shape.protocol == TCP && packet.get(shape.upper + 13).is_some_and(|flags| flags & FLAG_PSH != 0)
}

fn sequence(packet: &[u8], upper: usize) -> Option<u32> {
    packet.get(upper + 4..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use proptest::prelude::*;
    use protocol_packet::{TcpFlags, TcpSegment, tcp, udp};

    use super::*;
    use crate::segment::Segments;

    /// Runs packets through a coalescer and the kernel's half of the work, cutting.
    fn through(packets: &[Vec<u8>], joins_udp: bool) -> (Vec<Vec<u8>>, usize) {
        let (mut out, mut calls) = (Vec::new(), 0);
        let mut take = |parts: &[IoSlice<'_>], count: usize| {
            calls += 1;
            let bytes: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).collect();
            assert!(bytes.len() <= MAX_LENGTH + crate::virtio::LENGTH);
            let (header, packet) = Header::decode(&bytes).unwrap();
            let mut segments = Segments::new(&header, packet).unwrap();
            assert_eq!(segments.left(), count);
            let mut room = vec![0; MAX_LENGTH];
            while let Some(length) = segments.next_into(packet, &mut room) {
                out.push(room[..length].to_vec());
            }
        };
        let mut coalescer = Coalescer::new(joins_udp);
        for packet in packets {
            if !coalescer.push(packet) {
                coalescer.flush(&mut take);
                assert!(coalescer.push(packet));
            }
        }
        coalescer.flush(&mut take);
        (out, calls)
    }

    fn ends(v6: bool, flow: u16) -> (SocketAddr, SocketAddr) {
        if v6 {
            (SocketAddr::new("fd00::1".parse().unwrap(), flow), "[fd00::2]:80".parse().unwrap())
        } else {
            (SocketAddr::new("10.0.0.1".parse().unwrap(), flow), "10.0.0.2:80".parse().unwrap())
        }
    }

    fn tcp_packet(v6: bool, flow: u16, sequence: u32, flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = ends(v6, flow);
        let mut out = vec![0; 2000];
        let segment = TcpSegment {
            source,
            destination,
            sequence,
            acknowledgement: 77,
            flags,
            window: 500,
            mss: None,
            payload,
        };
        let length = tcp(&mut out, &segment).unwrap();
        out.truncate(length);
        out
    }

    fn udp_packet(v6: bool, flow: u16, payload: &[u8]) -> Vec<u8> {
        let (source, destination) = ends(v6, flow);
        let mut out = vec![0; 2000];
        let length = udp(&mut out, source, destination, payload).unwrap();
        out.truncate(length);
        out
    }

    fn bulk(v6: bool, count: u32) -> Vec<Vec<u8>> {
        (0..count).map(|n| tcp_packet(v6, 9, 1000 + n * 1300, TcpFlags::ACK, &[n as u8; 1300])).collect()
    }

    /// Identification means nothing in these (do not fragment is set), so it may differ.
    fn forget_identification(packets: &mut [Vec<u8>]) {
        for packet in packets.iter_mut().filter(|packet| packet[0] >> 4 == 4) {
            packet[4..6].fill(0);
            packet[10..12].fill(0);
        }
    }

    #[test]
    fn a_bulk_flow_is_one_call_of_at_most_the_length_of_a_packet() {
        for v6 in [false, true] {
            let (mut out, calls) = through(&bulk(v6, 60), true);

            let mut expected = bulk(v6, 60);
            forget_identification(&mut out);
            forget_identification(&mut expected);
            assert_eq!(out, expected);
            assert_eq!(calls, 2, "60 packets of 1,300 bytes are more than 65,535");
        }
    }

    #[test]
    fn datagrams_of_one_flow_are_joined_only_where_the_kernel_can_cut_them() {
        let packets: Vec<_> = (0..70u8).map(|n| udp_packet(false, 9, &[n; 200])).collect();

        assert_eq!(through(&packets, true).1, 2, "at most 64 datagrams a call");
        assert_eq!(through(&packets, false).1, 70);
    }

    #[test]
    fn a_damaged_packet_is_neither_joined_nor_healed() {
        let mut packets = bulk(false, 3);
        packets[1][60] ^= 1;
        let damaged = packets[1].clone();

        let (out, calls) = through(&packets, true);

        assert_eq!(calls, 3);
        assert_eq!(out[1], damaged);
    }

    #[test]
    fn a_gap_in_the_sequence_ends_the_super_packet() {
        let mut packets = bulk(true, 4);
        packets.remove(1);

        assert_eq!(through(&packets, true), (packets, 2));
    }

    #[test]
    fn a_fragment_is_passed_as_it_is() {
        let mut packets = bulk(false, 2);
        packets[1][6] = 0x20;

        let (out, calls) = through(&packets, true);

        assert_eq!((out, calls), (packets, 2));
    }

    proptest! {
        #[test]
        fn joining_and_cutting_yields_the_same_packets(
            v6 in any::<bool>(),
            joins_udp in any::<bool>(),
            steps in proptest::collection::vec((0u8..8, 0u16..2, 0usize..3), 1..100),
        ) {
            let mut sequences = [0u32.wrapping_sub(5000); 2];
            let mut packets: Vec<Vec<u8>> = steps.into_iter().map(|(kind, flow, size)| {
                let payload = vec![kind; [0, 900, 1300][size]];
                if kind == 0 {
                    return udp_packet(v6, flow, &payload);
                }
                let flags = match kind {
                    1 => TcpFlags::ACK.with(TcpFlags::PSH),
                    2 => TcpFlags::ACK.with(TcpFlags::FIN),
                    _ => TcpFlags::ACK,
                };
                let sequence = &mut sequences[usize::from(flow)];
                let packet = tcp_packet(v6, flow, *sequence, flags, &payload);
                *sequence = sequence.wrapping_add(payload.len() as u32);
                packet
            }).collect();

            let (mut out, _) = through(&packets, joins_udp);

            forget_identification(&mut out);
            forget_identification(&mut packets);
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn nothing_panics_on_arbitrary_bytes(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..20),
        ) {
            let mut coalescer = Coalescer::new(true);
            for packet in &packets {
                if !coalescer.push(packet) {
                    coalescer.flush(|_, _| {});
                    let _ = coalescer.push(packet);
                }
            }
            for packet in &packets {
                if let Some((header, packet)) = Header::decode(packet)
                    && let Ok(mut segments) = Segments::new(&header, packet)
                {
                    let mut room = [0; 100];
                    for _ in 0..200 {
                        if segments.next_into(packet, &mut room).is_none() {
                            break;
                        }
                    }
                }
            }
        }
    }
}

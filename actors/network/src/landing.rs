//! Where packets from the tunnel land: decrypted one behind the other, so that consecutive packets of one TCP or UDP flow
//! lie there as one super-packet for the kernel, without having been copied.
//!
//! Each packet is decrypted with its headers over the end of the payload before it, which is set aside meanwhile. If it
//! continues that, the payload's end is put back over the headers, and nothing had to be moved.
//!
//! Only what the kernel can cut into the very same packets again is joined: the same headers but for length, sequence
//! number, IP identification (which means nothing where fragmentation is forbidden, RFC 6864 section 4.1) and
//! checksums, and only packets whose checksums are right (the kernel computes them anew, so joining would otherwise heal
//! a damaged packet).

use protocol_packet::{Checksum, Sum};

use crate::field::{get, pseudo, put};
use crate::tun_open::Offload;
use crate::virtio::{self, Header, Kind};

/// The kernel refuses UDP super-packets of more (`UDP_MAX_SEGMENTS` of older kernels); TCP is capped by its length.
const MAX_SEGMENTS: usize = 64;
/// What the 16-bit lengths in the IP headers can say.
const MAX_LENGTH: usize = 65_535;
/// IPv6 header and the longest TCP header.
const MAX_HEADERS: usize = 40 + 60;
/// Where a run begins: the virtio header stands right before it.
const START: usize = 16;
/// Longest single packet, and what decrypting it needs more.
const MAX_PACKET: usize = 4096;

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

/// What became of a packet that landed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Landed {
    /// It is part of the run.
    Joined,
    /// It does not continue the run, which has to be flushed before [`Landing::begin`] takes the packet.
    Apart,
}

/// Room for the packets that are decrypted, and the run of those that belong together.
pub struct Landing {
    tcp: bool,
    udp: bool,
    bytes: Box<[u8]>,
    /// The end of the run.
    end: usize,
    count: usize,
    shape: Option<Shape>,
    closed: bool,
    pushed: bool,
    /// Where the packet that is being decrypted begins.
    at: usize,
    saved: [u8; MAX_HEADERS],
    /// The headers of the run's first packet, which short payloads do not keep from being decrypted over.
    first: [u8; MAX_HEADERS],
    /// The packet that does not continue the run.
    aside: Box<[u8]>,
    aside_len: usize,
}

/// A run: one packet, or a super-packet of several of one flow.
pub struct Run<'a> {
    landing: &'a mut Landing,
    header: Header,
}

impl Landing {
    /// Joins what a TUN device with this offload can take.
    pub fn new(offload: Offload) -> Self {
        Self {
            tcp: offload != Offload::Off,
            udp: offload == Offload::TcpUdp,
            bytes: vec![0; START + MAX_LENGTH + MAX_PACKET].into_boxed_slice(),
            end: START,
            count: 0,
            shape: None,
            closed: false,
            pushed: false,
            at: START,
            saved: [0; MAX_HEADERS],
            first: [0; MAX_HEADERS],
            aside: vec![0; MAX_PACKET].into_boxed_slice(),
            aside_len: 0,
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        (self.end, self.count, self.shape, self.at) = (START, 0, None, START);
        (self.closed, self.pushed, self.aside_len) = (false, false, 0);
    }

    /// How many packets the run has.
    pub fn packets(&self) -> usize {
        self.count
    }

    /// Whether nothing can continue the run any more.
    pub fn is_closed(&self) -> bool {
        self.closed || self.end > START + MAX_LENGTH - MAX_HEADERS
    }

    /// Where to decrypt the next packet of at most `longest` bytes, tag included; then [`take`](Self::take) or
    /// [`discard`](Self::discard). `None` when that is more than any packet has.
    pub fn room(&mut self, longest: usize) -> Option<&mut [u8]> {
        if longest > MAX_PACKET {
            return None;
        }
        let over = self.shape.filter(|_| self.count > 0).map_or(0, |shape| shape.headers);
        self.at = self.end - over;
        if let (Some(to), Some(from)) = (self.saved.get_mut(..over), self.bytes.get(self.at..self.end)) {
            to.copy_from_slice(from);
        }
        self.bytes.get_mut(self.at..)
    }

    /// What was decrypted is no packet: the run is as it was.
    pub fn discard(&mut self) {
        let over = self.end - self.at;
        if let (Some(to), Some(from)) = (self.bytes.get_mut(self.at..self.end), self.saved.get(..over)) {
            to.copy_from_slice(from);
        }
    }

    /// Takes the packet of `length` bytes that was decrypted into the room.
    pub fn take(&mut self, length: usize) -> Landed {
        let packet = self.bytes.get(self.at..self.at + length).unwrap_or_default();
        let shape = self.shape_of(packet);
        if self.count == 0 {
            self.closed = shape.is_none_or(|shape| ends(packet, &shape));
            self.pushed = self.closed && shape.is_some();
            (self.count, self.shape, self.end) = (1, shape, START + packet.len());
            if let Some(shape) = shape
                && let (Some(to), Some(from)) =
                    (self.first.get_mut(..shape.headers), packet.get(..shape.headers))
            {
                to.copy_from_slice(from);
            }
            return Landed::Joined;
        }
        if let (Some(shape), Some(waiting), false) = (shape, self.shape, self.closed)
            && self.continues(packet, &shape, &waiting)
        {
            let pushes = ends(packet, &shape);
            self.pushed |= pushes;
            self.closed = pushes || shape.payload < waiting.payload;
            self.discard();
            self.end += shape.payload;
            self.count += 1;
            return Landed::Joined;
        }
        if let Some(to) = self.aside.get_mut(..packet.len()) {
            to.copy_from_slice(packet);
            self.aside_len = packet.len();
        }
        self.discard();
        Landed::Apart
    }

    /// Begins a run with the packet that was apart, if there is one.
    pub fn begin(&mut self) {
        let length = std::mem::take(&mut self.aside_len);
        self.clear();
        let aside = self.aside.get(..length).unwrap_or_default();
        if let Some(to) = self.bytes.get_mut(START..START + length) {
            to.copy_from_slice(aside);
        }
        if length > 0 {
            let _ = self.take(length);
        }
    }

    /// The run, made whole; `None` when there is none. Afterwards [`begin`](Self::begin).
    pub fn run(&mut self) -> Option<Run<'_>> {
        if self.count == 0 {
            return None;
        }
        let header = match self.shape {
            Some(shape) if self.count > 1 => self.join(&shape)?,
            _ => Header::plain(),
        };
        Some(Run { landing: self, header })
    }

    /// Makes the headers of the first packet those of all.
    fn join(&mut self, shape: &Shape) -> Option<Header> {
        let length = self.end - START;
        let (total, upper_length) = (u16::try_from(length).ok()?, u16::try_from(length - shape.upper).ok()?);
        let headers = self.bytes.get_mut(START..START + shape.headers)?;
        if shape.version == 4 {
            put(headers, 2, total)?;
            put(headers, 10, 0)?;
            let sum = Sum::new().bytes(headers.get(..shape.upper)?).finish();
            put(headers, 10, sum)?;
        } else {
            put(headers, 4, upper_length)?;
        }
        let partial = pseudo(headers, shape.protocol, length - shape.upper)?.fold();
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
        Some(Header {
            kind,
            needs_checksum: true,
            header_len: shape.headers as u16,
            segment: shape.payload as u16,
            checksum_start: shape.upper as u16,
            checksum_offset,
        })
    }

    /// Whether `packet` is what cutting the waiting super-packet would yield next.
    fn continues(&self, packet: &[u8], shape: &Shape, waiting: &Shape) -> bool {
        let first = &self.first[..];
        let length = self.end - START;
        let same = |range: std::ops::Range<usize>| first.get(range.clone()) == packet.get(range);
        let upper = shape.upper;
        if (shape.version, shape.protocol, upper, shape.headers)
            != (waiting.version, waiting.protocol, waiting.upper, waiting.headers)
            || shape.payload > waiting.payload
            || shape.protocol == UDP && self.count >= MAX_SEGMENTS
            || length + shape.payload > MAX_LENGTH
        {
            return false;
        }
        let network = if shape.version == 4 {
            let expected = get(first, 4).map(|id| id.wrapping_add(self.count as u16));
            // Version, length and service; flags and offset; time to live and protocol; addresses.
            let unidentified = get(packet, 6).is_some_and(|flags| flags & DO_NOT_FRAGMENT != 0);
            same(0..2) && same(6..10) && same(12..20) && (unidentified || get(packet, 4) == expected)
        } else {
            same(0..4) && same(6..40)
        };
        let transport = if shape.protocol == UDP {
            same(upper..upper + 4)
        } else {
            let sent = (length - waiting.headers) as u32;
            let expected = sequence(first, upper).map(|number| number.wrapping_add(sent));
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
            TCP if self.tcp => {
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

impl Run<'_> {
    /// The packet, headers first, to be translated in place: lengths and the order of headers must stay.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let end = self.landing.end;
        self.landing.bytes.get_mut(START..end).unwrap_or_default()
    }

    /// The same, to be read.
    pub fn bytes(&self) -> &[u8] {
        self.landing.bytes.get(START..self.landing.end).unwrap_or_default()
    }

    /// How many packets it stands for.
    pub fn packets(&self) -> usize {
        self.landing.count
    }

    /// Whether the transport checksum is complete.
    pub fn checksum(&self) -> Checksum {
        if self.header.kind == Kind::Plain { Checksum::Full } else { Checksum::Partial }
    }

    /// Payload bytes of each packet that this stands for, if it is a super-packet.
    pub fn segment(&self) -> Option<u16> {
        (self.header.kind != Kind::Plain).then_some(self.header.segment)
    }

    /// Keeps at most `length` bytes, which only a single packet can have more of.
    pub fn truncate(&mut self, length: usize) {
        if self.landing.count == 1 {
            self.landing.end = self.landing.end.min(START + length);
        }
    }

    /// The packet with its virtio header before it.
    pub(crate) fn with_header(&mut self) -> &[u8] {
        let (start, end) = (START - virtio::LENGTH, self.landing.end);
        if let Some(place) = self.landing.bytes.get_mut(start..START) {
            place.copy_from_slice(&self.header.encode());
        }
        self.landing.bytes.get(start..end).unwrap_or_default()
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
    use protocol_packet::{Pool, TcpFlags, TcpSegment, tcp, udp};

    use super::*;
    use crate::segment::HostPacket;

    /// Lets packets land, and does the kernel's half of the work, cutting.
    fn through(packets: &[Vec<u8>], offload: Offload) -> (Vec<Vec<u8>>, usize) {
        let (mut out, mut calls) = (Vec::new(), 0);
        let mut flush = |landing: &mut Landing| {
            if let Some(mut run) = landing.run() {
                calls += 1;
                let count = run.packets();
                let (header, packet) = Header::decode(run.with_header()).unwrap();
                assert!(packet.len() <= MAX_LENGTH);
                let pool = Pool::new(MAX_LENGTH, 0, 0);
                let packet = HostPacket::new(header, pool.filled(packet).unwrap()).unwrap();
                let (mut segments, mut bytes) =
                    (packet.segments(MAX_LENGTH).unwrap(), packet.bytes().to_vec());
                assert_eq!(segments.left(), count);
                while let Some(range) = segments.next(&mut bytes) {
                    out.push(bytes[range].to_vec());
                }
            }
            landing.begin();
        };
        let mut landing = Landing::new(offload);
        for (n, packet) in packets.iter().enumerate() {
            if n % 3 == 1 {
                // One that is not authentic comes between.
                landing.room(packet.len() + 16).unwrap()[..packet.len() + 16].fill(0xee);
                landing.discard();
            }
            landing.room(packet.len() + 16).unwrap()[..packet.len()].copy_from_slice(packet);
            if landing.take(packet.len()) == Landed::Apart {
                flush(&mut landing);
            }
            if landing.is_closed() {
                flush(&mut landing);
            }
        }
        flush(&mut landing);
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
            let (mut out, calls) = through(&bulk(v6, 60), Offload::TcpUdp);

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

        assert_eq!(through(&packets, Offload::TcpUdp).1, 2, "at most 64 datagrams a call");
        assert_eq!(through(&packets, Offload::Tcp).1, 70);
    }

    #[test]
    fn a_damaged_packet_is_neither_joined_nor_healed() {
        let mut packets = bulk(false, 3);
        packets[1][60] ^= 1;
        let damaged = packets[1].clone();

        let (out, calls) = through(&packets, Offload::TcpUdp);

        assert_eq!(calls, 3);
        assert_eq!(out[1], damaged);
    }

    #[test]
    fn a_gap_in_the_sequence_ends_the_super_packet() {
        let mut packets = bulk(true, 4);
        packets.remove(1);

        assert_eq!(through(&packets, Offload::TcpUdp), (packets, 2));
    }

    #[test]
    fn a_fragment_is_passed_as_it_is() {
        let mut packets = bulk(false, 2);
        packets[1][6] = 0x20;

        let (out, calls) = through(&packets, Offload::TcpUdp);

        assert_eq!((out, calls), (packets, 2));
    }

    proptest! {
        #[test]
        fn joining_and_cutting_yields_the_same_packets(
            v6 in any::<bool>(),
            offload in prop_oneof![Just(Offload::Off), Just(Offload::Tcp), Just(Offload::TcpUdp)],
            steps in proptest::collection::vec((0u8..8, 0u16..2, 0usize..4), 1..100),
        ) {
            let mut sequences = [0u32.wrapping_sub(5000); 2];
            let mut packets: Vec<Vec<u8>> = steps.into_iter().map(|(kind, flow, size)| {
                let payload = vec![kind; [0, 20, 900, 1300][size]];
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

            let (mut out, _) = through(&packets, offload);

            forget_identification(&mut out);
            forget_identification(&mut packets);
            prop_assert_eq!(out, packets);
        }

        #[test]
        fn nothing_panics_on_arbitrary_bytes(
            packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 1..20),
        ) {
            let mut landing = Landing::new(Offload::TcpUdp);
            for packet in &packets {
                landing.room(packet.len()).unwrap()[..packet.len()].copy_from_slice(packet);
                if landing.take(packet.len()) == Landed::Apart {
                    prop_assert!(landing.run().is_some());
                    landing.begin();
                }
            }
            let pool = Pool::new(120, 0, 1);
            for packet in &packets {
                if let Some((header, packet)) = Header::decode(packet)
                    && let Ok(packet) = HostPacket::new(header, pool.filled(packet).unwrap())
                    && let Ok(mut segments) = packet.segments(100)
                {
                    let mut bytes = packet.bytes().to_vec();
                    while segments.next(&mut bytes).is_some() {}
                }
            }
        }
    }
}

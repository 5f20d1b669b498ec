//! Cuts what the kernel hands over as one TCP or UDP super-packet into the packets that it stands for.
//!
//! In place: the headers of each packet are written right before its payload, over the end of the payload before it,
//! which whoever sealed the packet before has no need of any more.

use std::ops::Range;

use protocol_packet::{Buffer, Checksum, Ecn, Sum, carry_ecn};
use protocol_queue::Waiting;

use crate::field::{get, pseudo, put};
use crate::virtio::{Header, Kind};

/// Bytes of what the kernel says about a packet of the host.
pub const HOST_HEADER: usize = crate::virtio::LENGTH;

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
/// The longest IPv4 and TCP headers.
const MAX_HEADERS: usize = 60 + 60;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// TCP flags that mean the end of what was sent, so belong to the last segment: FIN and PSH (RFC 9293 section 3.1).
const LAST_ONLY: u8 = 0x01 | 0x08;
/// CWR says something once, so belongs to the first segment (RFC 3168 section 6.1.2).
const FIRST_ONLY: u8 = 0x80;

/// Why a packet of the host cannot be carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Uncuttable {
    /// It contradicts its virtio header.
    #[error("super-packet contradicts its virtio header")]
    Crooked,
    /// It, or a datagram that it stands for, is longer than what the tunnel may carry.
    #[error("packet is longer than the tunnel carries")]
    TooLong,
}

/// A packet that the host sends into the tunnel, or a super-packet, which stands for several of one flow.
#[derive(Debug)]
pub struct HostPacket {
    bytes: Buffer,
    header: Header,
}

impl HostPacket {
    /// One packet with correct checksums.
    pub fn plain(bytes: Buffer) -> Self {
        Self { bytes, header: Header::plain() }
    }

    /// What the kernel said about it, for [`restored`](Self::restored) on another lane.
    pub fn header(&self) -> [u8; HOST_HEADER] {
        self.header.encode()
    }

    /// The packet whose [`header`](Self::header) this is.
    ///
    /// # Errors
    /// See [`Uncuttable`].
    pub fn restored(header: &[u8; HOST_HEADER], bytes: Buffer) -> Result<Self, Uncuttable> {
        let (header, _) = Header::decode(header).ok_or(Uncuttable::Crooked)?;
        Self::new(header, bytes)
    }

    /// What a TUN device with offload yields: a virtio header and what it tells of.
    ///
    /// # Errors
    /// See [`Uncuttable`].
    pub fn with_header(mut bytes: Buffer) -> Result<Self, Uncuttable> {
        let (header, _) = Header::decode(&bytes).ok_or(Uncuttable::Crooked)?;
        bytes.advance(crate::virtio::LENGTH);
        Self::new(header, bytes)
    }

    /// What the kernel handed over with `header`. The checksum of a single packet is completed here.
    pub(crate) fn new(header: Header, mut bytes: Buffer) -> Result<Self, Uncuttable> {
        let packet = &mut bytes[..];
        let least = match packet.first().map(|first| first >> 4) {
            Some(4) => IPV4_HEADER,
            Some(6) => IPV6_HEADER,
            _ => return Err(Uncuttable::Crooked),
        };
        if header.kind != Kind::Plain {
            Segments::new(&header, packet, usize::MAX)?;
            return Ok(Self { bytes, header });
        }
        let start = usize::from(header.checksum_start);
        let field = start + usize::from(header.checksum_offset);
        if packet.len() < least || header.needs_checksum && (start < least || field + 2 > packet.len()) {
            return Err(Uncuttable::Crooked);
        }
        if header.needs_checksum {
            complete(packet, start, field).ok_or(Uncuttable::Crooked)?;
        }
        Ok(Self::plain(bytes))
    }

    /// The bytes, headers first.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same, to be translated: lengths and the order of headers must stay.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Keeps at most `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.bytes.truncate(length);
    }

    /// Whether the transport checksum is complete.
    pub fn checksum(&self) -> Checksum {
        if self.header.kind == Kind::Plain { Checksum::Full } else { Checksum::Partial }
    }

    /// Payload bytes of each packet that this stands for, if it is a super-packet.
    pub fn segment(&self) -> Option<u16> {
        (self.header.kind != Kind::Plain).then_some(self.header.segment)
    }

    /// Whether all that it stands for is at most `limit` bytes long, or can be cut so by [`segments`](Self::segments).
    pub fn fits(&self, limit: usize) -> bool {
        match self.header.kind {
            Kind::Plain => self.bytes.len() <= limit,
            Kind::Tcp4 | Kind::Tcp6 => true,
            Kind::Udp => {
                usize::from(self.header.checksum_start) + 8 + usize::from(self.header.segment) <= limit
            }
        }
    }

    /// A number that packets of one flow have in common, and few others: of addresses, protocol and ports.
    pub fn flow(&self) -> u32 {
        let bytes = &self.bytes[..];
        let word = |at: usize| {
            bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_be_bytes(*four))
        };
        let mix = |tag: u32, word: u32| (tag.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b1);
        let (addresses, protocol, ports) = match bytes.first() {
            Some(first) if first >> 4 == 4 => (12..20, 9, usize::from(first & 15) * 4),
            _ => (8..40, 6, IPV6_HEADER),
        };
        let protocol = bytes.get(protocol).copied().unwrap_or_default();
        let ports = if protocol == TCP || protocol == UDP { word(ports) } else { 0 };
        addresses.step_by(4).map(word).fold(mix(u32::from(protocol), ports), mix)
    }

    /// How many packets it stands for.
    pub fn packets(&self) -> usize {
        match self.header.kind {
            Kind::Plain => 1,
            Kind::Tcp4 | Kind::Tcp6 | Kind::Udp => {
                Segments::new(&self.header, &self.bytes, usize::MAX).map_or(1, |segments| segments.left())
            }
        }
    }

    /// The packets that it stands for, each of at most `longest` bytes: TCP is cut smaller, if need be.
    ///
    /// # Errors
    /// See [`Uncuttable`].
    pub fn segments(&self, longest: usize) -> Result<Segments, Uncuttable> {
        Segments::new(&self.header, &self.bytes, longest)
    }
}

impl Waiting for HostPacket {
    fn cost(&self) -> usize {
        self.bytes.len()
    }

    fn held(&self) -> usize {
        self.bytes.capacity()
    }

    fn mark(&mut self) -> bool {
        carry_ecn(&mut self.bytes, Ecn::Ce).is_ok()
    }
}

/// The packets of one super-packet, made one after the other by [`next`](Self::next).
pub struct Segments {
    /// Bytes of the super-packet.
    length: usize,
    kind: Kind,
    /// Where TCP or UDP begins.
    upper: usize,
    /// Bytes of all headers.
    headers: usize,
    segment: usize,
    done: usize,
    index: u16,
    template: [u8; MAX_HEADERS],
}

impl Segments {
    /// Checks `packet` against its header.
    fn new(header: &Header, packet: &[u8], longest: usize) -> Result<Self, Uncuttable> {
        let length = packet.len();
        let whole = Self {
            length,
            kind: header.kind,
            upper: 0,
            headers: 0,
            segment: length,
            done: 0,
            index: 0,
            template: [0; MAX_HEADERS],
        };
        let version = packet.first().map(|first| first >> 4);
        let upper = usize::from(header.checksum_start);
        let headers = match header.kind {
            Kind::Plain if length > longest => return Err(Uncuttable::TooLong),
            Kind::Plain => return Ok(whole),
            Kind::Tcp4 if version != Some(4) => return Err(Uncuttable::Crooked),
            Kind::Tcp6 if version != Some(6) => return Err(Uncuttable::Crooked),
            Kind::Tcp4 | Kind::Tcp6 => {
                let words = packet.get(upper + 12).ok_or(Uncuttable::Crooked)? >> 4;
                if words < 5 {
                    return Err(Uncuttable::Crooked);
                }
                upper + usize::from(words) * 4
            }
            Kind::Udp => upper + 8,
        };
        let least = match version {
            Some(4) => packet.first().map_or(IPV4_HEADER, |first| usize::from(first & 15) * 4),
            Some(6) => IPV6_HEADER,
            _ => return Err(Uncuttable::Crooked),
        };
        let v4_fits = version == Some(6) || least == upper && least >= IPV4_HEADER;
        let segment = usize::from(header.segment);
        if upper < least || !v4_fits || headers >= length || headers > MAX_HEADERS || segment == 0 {
            return Err(Uncuttable::Crooked);
        }
        let room = longest.saturating_sub(headers);
        let segment = match header.kind {
            Kind::Udp if segment > room => return Err(Uncuttable::TooLong),
            Kind::Tcp4 | Kind::Tcp6 if room == 0 => return Err(Uncuttable::TooLong),
            Kind::Tcp4 | Kind::Tcp6 | Kind::Udp | Kind::Plain => segment.min(room),
        };
        let mut segments = Self { upper, headers, segment, ..whole };
        for (to, from) in segments.template.iter_mut().zip(packet.get(..headers).unwrap_or_default()) {
            *to = *from;
        }
        Ok(segments)
    }

    /// Makes the next packet inside `packet`, which must be the super-packet that this was made for, and says where it
    /// is. `None` when there is no more.
    pub fn next(&mut self, packet: &mut [u8]) -> Option<Range<usize>> {
        let left = self.length.checked_sub(self.headers + self.done).filter(|left| *left > 0)?;
        let (first, take) = (self.done == 0, left.min(self.segment));
        let range = self.done..self.done + self.headers + take;
        let out = packet.get_mut(range.clone())?;
        if self.kind != Kind::Plain {
            if !first {
                out.get_mut(..self.headers)?.copy_from_slice(self.template.get(..self.headers)?);
            }
            self.fix_network(out)?;
            if self.kind == Kind::Udp {
                self.fix_udp(out)?;
            } else {
                self.fix_tcp(out, first, take == left)?;
            }
        }
        self.done += take;
        self.index = self.index.wrapping_add(1);
        Some(range)
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        (self.length - self.headers).saturating_sub(self.done).div_ceil(self.segment.max(1))
    }

    fn fix_network(&self, out: &mut [u8]) -> Option<()> {
        let length = u16::try_from(out.len()).ok()?;
        if out.first()? >> 4 == 6 {
            return put(out, 4, length - IPV6_HEADER as u16);
        }
        put(out, 2, length)?;
        let id = get(out, 4)?.wrapping_add(self.index);
        put(out, 4, id)?;
        put(out, 10, 0)?;
        let sum = Sum::new().bytes(out.get(..self.upper)?).finish();
        put(out, 10, sum)
    }

    fn fix_tcp(&self, out: &mut [u8], first: bool, last: bool) -> Option<()> {
        let upper = self.upper;
        let sequence = out.get_mut(upper + 4..upper + 8)?.first_chunk_mut::<4>()?;
        *sequence = u32::from_be_bytes(*sequence).wrapping_add(self.done as u32).to_be_bytes();
        let flags = out.get_mut(upper + 13)?;
        if !first {
            *flags &= !FIRST_ONLY;
        }
        if !last {
            *flags &= !LAST_ONLY;
        }
        put(out, upper + 16, 0)?;
        let sum = self.upper_sum(out, TCP)?.finish();
        put(out, upper + 16, sum)
    }

    fn fix_udp(&self, out: &mut [u8]) -> Option<()> {
        let length = u16::try_from(out.len() - self.upper).ok()?;
        put(out, self.upper + 4, length)?;
        put(out, self.upper + 6, 0)?;
        let sum = self.upper_sum(out, UDP)?.finish();
        put(out, self.upper + 6, if sum == 0 { 0xffff } else { sum })
    }

    fn upper_sum(&self, out: &[u8], protocol: u8) -> Option<Sum> {
        let upper = out.get(self.upper..)?;
        Some(pseudo(out, protocol, upper.len())?.bytes(upper))
    }
}

/// The field holds the pseudo-header's sum already; zero is spared for UDP, where it means "no checksum".
fn complete(out: &mut [u8], start: usize, field: usize) -> Option<()> {
    let sum = Sum::new().bytes(out.get(start..)?).finish();
    put(out, field, if sum == 0 { 0xffff } else { sum })
}

#[cfg(test)]
mod tests {
    use protocol_packet::{Ip, Pool, TcpFlags, TcpSegment, Transport, tcp};

    use super::*;

    fn filled(bytes: &[u8]) -> Buffer {
        Pool::new(1 << 16, 0, 0).filled(bytes).unwrap()
    }

    fn super_packet(flags: u8, payload: &[u8]) -> (Header, Vec<u8>) {
        let mut out = vec![0; 60_000];
        let segment = TcpSegment {
            source: "10.0.0.1:5".parse().unwrap(),
            destination: "10.0.0.2:6".parse().unwrap(),
            sequence: u32::MAX - 10,
            acknowledgement: 1,
            flags: TcpFlags(flags),
            window: 9,
            mss: None,
            payload,
        };
        let length = tcp(&mut out, &segment).unwrap();
        out.truncate(length);
        let header = Header {
            kind: Kind::Tcp4,
            needs_checksum: true,
            header_len: 40,
            segment: 1000,
            checksum_start: 20,
            checksum_offset: 16,
        };
        (header, out)
    }

    #[test]
    fn a_mark_on_a_super_packet_is_on_each_of_its_packets() {
        let (header, mut bytes) = super_packet(0x10, &[7; 2500]);
        let mut unaware = HostPacket::new(header, filled(&bytes)).unwrap();
        bytes[1] = Ecn::Ect0.bits();
        let sum = Sum::new().bytes(&[&bytes[..10], &[0, 0], &bytes[12..20]].concat()).finish();
        bytes[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut aware = HostPacket::new(header, filled(&bytes)).unwrap();

        assert_eq!((unaware.mark(), aware.mark()), (false, true));

        let mut segments = aware.segments(1420).unwrap();
        let mut marked = 0;
        while let Some(range) = segments.next(aware.bytes_mut()) {
            let cut = &aware.bytes()[range];
            assert_eq!((Ecn::of(cut), Sum::new().bytes(&cut[..20]).fold()), (Ecn::Ce, 0xffff));
            marked += 1;
        }
        assert_eq!(marked, 3);
    }

    #[test]
    fn packets_of_one_flow_have_one_number_and_others_another() {
        let (header, bytes) = super_packet(0x10, &[7; 2500]);
        let flow = |change: Option<usize>| {
            let mut bytes = bytes.clone();
            if let Some(at) = change {
                bytes[at] ^= 1;
            }
            HostPacket::new(header, filled(&bytes)).unwrap().flow()
        };

        let same = flow(None);

        assert_eq!(flow(Some(30)), same, "the sequence number is not the flow's");
        for part in [12, 19, 21, 23] {
            assert_ne!(flow(Some(part)), same);
        }
    }

    #[test]
    fn each_segment_is_a_valid_packet_and_flags_stay_where_they_belong() {
        let payload: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
        let (header, mut packet) = super_packet(0x10 | LAST_ONLY | FIRST_ONLY, &payload);
        let mut segments = Segments::new(&header, &packet, 1500).unwrap();
        let (mut seen, mut got) = (Vec::new(), Vec::new());

        while let Some(range) = segments.next(&mut packet) {
            let cut = &packet[range];
            let ip = Ip::parse(cut).unwrap();
            assert!(ip.transport_checksum_holds());
            let Transport::Tcp(segment) = ip.headers().transport else { panic!("no TCP") };
            seen.push((segment.sequence, segment.flags.0));
            got.extend_from_slice(&cut[40..]);
        }

        let start = u32::MAX - 10;
        assert_eq!(seen[0], (start, 0x10 | FIRST_ONLY));
        assert_eq!(seen[1], (start.wrapping_add(1000), 0x10));
        assert_eq!(seen[2], (start.wrapping_add(2000), 0x10 | LAST_ONLY));
        assert_eq!(got, payload);
    }

    #[test]
    fn a_partial_checksum_is_completed() {
        let (_, mut packet) = super_packet(0x10, b"hello");
        let expected = packet.clone();
        let partial = pseudo(&packet, TCP, packet.len() - 20).unwrap().fold();
        put(&mut packet, 36, partial);
        let header = Header { kind: Kind::Plain, ..super_packet(0, b"").0 };

        let packet = HostPacket::new(header, filled(&packet)).unwrap();

        assert_eq!(packet.bytes(), &expected[..]);
        assert_eq!((packet.checksum(), packet.segment(), packet.packets()), (Checksum::Full, None, 1));
    }

    #[test]
    fn a_header_that_does_not_fit_its_packet_is_refused() {
        let (good, packet) = super_packet(0x10, &[0; 2000]);
        let bad = [
            Header { segment: 0, ..good },
            Header { checksum_start: 24, ..good },
            Header { checksum_start: 9_000, ..good },
            Header { kind: Kind::Tcp6, ..good },
            Header { kind: Kind::Plain, checksum_offset: 60_000, ..good },
        ];
        for header in bad {
            assert_eq!(
                HostPacket::new(header, filled(&packet)).err(),
                Some(Uncuttable::Crooked),
                "{header:?}"
            );
        }
        assert!(HostPacket::new(good, filled(&packet[..40])).is_err(), "no payload");
        assert!(HostPacket::new(Header::plain(), filled(&[])).is_err());
    }

    #[test]
    fn tcp_is_cut_smaller_than_the_host_meant_and_datagrams_are_not() {
        let (header, packet) = super_packet(0x10, &[7; 2000]);
        let packet = HostPacket::new(header, filled(&packet)).unwrap();
        assert_eq!(packet.segments(1500).unwrap().left(), 2);

        let mut segments = packet.segments(540).unwrap();

        assert_eq!(segments.left(), 4);
        let mut bytes = packet.bytes().to_vec();
        let lengths: Vec<_> =
            std::iter::from_fn(|| segments.next(&mut bytes)).map(|range| range.len()).collect();
        assert_eq!(lengths, [540, 540, 540, 540]);
        let datagrams = HostPacket { header: Header { kind: Kind::Udp, ..header }, ..packet };
        assert_eq!(datagrams.segments(540).err(), Some(Uncuttable::TooLong));
    }
}

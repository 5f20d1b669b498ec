//! Cuts what the kernel hands over as one TCP or UDP super-packet into the packets that it stands for.

use protocol_packet::Sum;

use crate::field::{get, pseudo, put};
use crate::virtio::{Header, Kind};

const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// TCP flags that mean the end of what was sent, so belong to the last segment: FIN and PSH (RFC 9293 section 3.1).
const LAST_ONLY: u8 = 0x01 | 0x08;
/// CWR says something once, so belongs to the first segment (RFC 3168 section 6.1.2).
const FIRST_ONLY: u8 = 0x80;

/// The super-packet contradicts its header.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("super-packet contradicts its virtio header")]
pub(crate) struct Unsegmentable;

/// The packets of one super-packet, written one after the other by [`next_into`](Self::next_into).
pub(crate) struct Segments {
    /// Bytes of the super-packet.
    length: usize,
    kind: Layer,
    /// Where TCP or UDP begins.
    upper: usize,
    /// Bytes of all headers.
    headers: usize,
    segment: usize,
    done: usize,
    index: u16,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    /// One packet, as it is.
    Whole,
    /// One packet whose checksum at this place is to be completed.
    Partial {
        start: usize,
        field: usize,
    },
    Tcp,
    Udp,
}

impl Segments {
    /// Checks `packet` against its header.
    pub(crate) fn new(header: &Header, packet: &[u8]) -> Result<Self, Unsegmentable> {
        let version = packet.first().map(|first| first >> 4);
        let least = match version {
            Some(4) => IPV4_HEADER,
            Some(6) => IPV6_HEADER,
            _ => return Err(Unsegmentable),
        };
        let upper = usize::from(header.checksum_start);
        let length = packet.len();
        let whole = |kind| Ok(Self { length, kind, upper, headers: 0, segment: length, done: 0, index: 0 });
        let (kind, headers) = match header.kind {
            Kind::Plain if packet.len() < least => return Err(Unsegmentable),
            Kind::Plain if !header.needs_checksum => return whole(Layer::Whole),
            Kind::Plain => {
                let field = upper + usize::from(header.checksum_offset);
                if upper < least || field + 2 > packet.len() {
                    return Err(Unsegmentable);
                }
                return whole(Layer::Partial { start: upper, field });
            }
            Kind::Tcp4 if version != Some(4) => return Err(Unsegmentable),
            Kind::Tcp6 if version != Some(6) => return Err(Unsegmentable),
            Kind::Tcp4 | Kind::Tcp6 => {
                let words = packet.get(upper + 12).ok_or(Unsegmentable)? >> 4;
                if words < 5 {
                    return Err(Unsegmentable);
                }
                (Layer::Tcp, upper + usize::from(words) * 4)
            }
            Kind::Udp => (Layer::Udp, upper + 8),
        };
        let segment = usize::from(header.segment);
        let ihl_fits = version == Some(6) || packet.first().map(|b| usize::from(b & 15) * 4) == Some(upper);
        if upper < least || !ihl_fits || headers >= packet.len() || segment == 0 {
            return Err(Unsegmentable);
        }
        Ok(Self { length, kind, upper, headers, segment, done: 0, index: 0 })
    }

    /// Writes the next packet of `packet`, which is the one this was made for, to the front of `out`, and says how long
    /// it is. `None` when there is no more, or when `out` is too small for it (then nothing was taken).
    pub(crate) fn next_into(&mut self, packet: &[u8], out: &mut [u8]) -> Option<usize> {
        let payload = packet.get(self.headers + self.done..self.length)?;
        if payload.is_empty() {
            return None;
        }
        let first = self.done == 0;
        let take = payload.len().min(self.segment);
        let last = take == payload.len();
        let length = self.headers + take;
        let out = out.get_mut(..length)?;
        out.get_mut(..self.headers)?.copy_from_slice(packet.get(..self.headers)?);
        out.get_mut(self.headers..)?.copy_from_slice(payload.get(..take)?);
        match self.kind {
            Layer::Whole => {}
            Layer::Partial { start, field } => complete(out, start, field)?,
            Layer::Tcp => {
                self.fix_network(out)?;
                self.fix_tcp(out, first, last)?;
            }
            Layer::Udp => {
                self.fix_network(out)?;
                self.fix_udp(out)?;
            }
        }
        self.done += take;
        self.index = self.index.wrapping_add(1);
        Some(length)
    }

    /// How many packets are left to write.
    pub(crate) fn left(&self) -> usize {
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
    use protocol_packet::{Ip, TcpFlags, TcpSegment, Transport, tcp};

    use super::*;

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
    fn each_segment_is_a_valid_packet_and_flags_stay_where_they_belong() {
        let payload: Vec<u8> = (0..2500u32).map(|n| n as u8).collect();
        let (header, packet) = super_packet(0x10 | LAST_ONLY | FIRST_ONLY, &payload);
        let (mut segments, mut room) = (Segments::new(&header, &packet).unwrap(), [0; 1500]);
        let (mut seen, mut got) = (Vec::new(), Vec::new());

        while let Some(length) = segments.next_into(&packet, &mut room) {
            let ip = Ip::parse(&room[..length]).unwrap();
            let sum = pseudo(&room, TCP, length - 20).unwrap().bytes(&room[20..length]);
            assert_eq!(sum.fold(), 0xffff);
            assert_eq!(Sum::new().bytes(&room[..20]).fold(), 0xffff);
            let Transport::Tcp(segment) = ip.transport else { panic!("no TCP") };
            seen.push((segment.sequence, segment.flags.0));
            got.extend_from_slice(&room[40..length]);
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
        let mut room = [0; 100];

        let length = Segments::new(&header, &packet).unwrap().next_into(&packet, &mut room).unwrap();

        assert_eq!(&room[..length], &expected[..]);
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
            assert!(Segments::new(&header, &packet).is_err(), "{header:?}");
        }
        assert!(Segments::new(&good, &packet[..40]).is_err(), "no payload");
        assert!(Segments::new(&Header::plain(), &[]).is_err());
    }

    #[test]
    fn nothing_is_taken_when_there_is_no_room() {
        let (header, packet) = super_packet(0x10, &[0; 2000]);
        let mut segments = Segments::new(&header, &packet).unwrap();

        assert_eq!(segments.next_into(&packet, &mut [0; 500]), None);
        assert_eq!(segments.left(), 2);
    }
}

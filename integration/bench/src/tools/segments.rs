//! Super-packets as the kernel hands them out with a virtio header: how many packets they stand for, and how one of
//! those is taken out.

/// `struct virtio_net_hdr`, little-endian on the machines that this runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Virtio {
    /// Flags; 1 means that the checksum is to be finished.
    pub flags: u8,
    /// Kind of segmentation, 0 for none.
    pub kind: u8,
    /// Length of all headers.
    pub headers: u16,
    /// Payload of each packet but the last.
    pub segment: u16,
    /// Where the checksum begins.
    pub start: u16,
    /// Where it is stored, from there.
    pub offset: u16,
}

/// Bytes of the header before each frame.
pub const VIRTIO: usize = 10;
const TCP4: u8 = 1;
const UDP_L4: u8 = 5;
/// A bit beside the kind: ECN is in use.
const ECN: u8 = 0x80;
const ETHERNET: usize = 14;

impl Virtio {
    /// Reads it.
    pub fn read(bytes: &[u8; VIRTIO]) -> Self {
        let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        Self {
            flags: bytes[0],
            kind: bytes[1],
            headers: word(2),
            segment: word(4),
            start: word(6),
            offset: word(8),
        }
    }

    /// Writes it.
    pub fn write(&self) -> [u8; VIRTIO] {
        let mut bytes = [0; VIRTIO];
        bytes[0] = self.flags;
        bytes[1] = self.kind;
        for (at, word) in [(2, self.headers), (4, self.segment), (6, self.start), (8, self.offset)] {
            bytes[at..at + 2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// The ones' complement sum of the Internet over bytes and a sum so far, complemented.
pub fn checksum(bytes: &[u8], so_far: u32) -> u16 {
    !folded(bytes, so_far)
}

fn folded(bytes: &[u8], so_far: u32) -> u16 {
    let mut sum = u64::from(so_far);
    for pair in bytes.chunks(2) {
        sum += u64::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Where things are in a super-packet of IPv4.
struct Layout {
    transport: usize,
    payload: usize,
    segment: usize,
    tcp: bool,
}

fn layout(virtio: &Virtio, frame: &[u8]) -> Option<Layout> {
    let tcp = match virtio.kind & !ECN {
        TCP4 => true,
        UDP_L4 => false,
        _ => return None,
    };
    let is_v4 = frame.get(12..14) == Some(&[0x08, 0x00]);
    let ip = usize::from(frame.get(ETHERNET)? & 0x0f) * 4;
    let transport = ETHERNET + ip;
    let header = if tcp { usize::from(frame.get(transport + 12)? >> 4) * 4 } else { 8 };
    let payload = transport + header;
    let segment = usize::from(virtio.segment);
    (is_v4 && segment > 0 && payload < frame.len()).then_some(Layout { transport, payload, segment, tcp })
}

/// How many packets a frame stands for on the wire.
pub fn packets(virtio: &Virtio, frame: &[u8]) -> usize {
    match layout(virtio, frame) {
        Some(layout) => (frame.len() - layout.payload).div_ceil(layout.segment),
        None => 1,
    }
}

/// What is left of a frame when some of its packets are lost, `lost` says which by number: frames in order.
pub fn without(virtio: &Virtio, frame: &[u8], lost: impl Fn(usize) -> bool) -> Vec<(Virtio, Vec<u8>)> {
    let count = packets(virtio, frame);
    let Some(layout) = layout(virtio, frame) else {
        return if lost(0) { Vec::new() } else { vec![(*virtio, frame.to_vec())] };
    };
    let mut left = Vec::new();
    let mut first = 0;
    while first < count {
        if lost(first) {
            first += 1;
            continue;
        }
        let end = (first..count).find(|number| lost(*number)).unwrap_or(count);
        left.push(piece(virtio, frame, &layout, first, end, end == count));
        first = end;
    }
    left
}

/// The packets from `first` to before `end` as a frame of their own.
fn piece(
    virtio: &Virtio,
    frame: &[u8],
    layout: &Layout,
    first: usize,
    end: usize,
    last: bool,
) -> (Virtio, Vec<u8>) {
    let from = layout.payload + first * layout.segment;
    let to = (layout.payload + end * layout.segment).min(frame.len());
    let mut bytes = frame[..layout.payload].to_vec();
    bytes.extend_from_slice(&frame[from..to]);

    let total = (bytes.len() - ETHERNET) as u16;
    bytes[ETHERNET + 2..ETHERNET + 4].copy_from_slice(&total.to_be_bytes());
    let id = u16::from_be_bytes([bytes[ETHERNET + 4], bytes[ETHERNET + 5]]).wrapping_add(first as u16);
    bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&id.to_be_bytes());
    bytes[ETHERNET + 10..ETHERNET + 12].fill(0);
    let sum = checksum(&bytes[ETHERNET..layout.transport], 0);
    bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());

    let at = layout.transport;
    let length = (bytes.len() - at) as u16;
    let (protocol, sum_at) = if layout.tcp {
        let offset = (first * layout.segment) as u32;
        let number = bytes[at + 4..at + 8].first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        bytes[at + 4..at + 8].copy_from_slice(&number.wrapping_add(offset).to_be_bytes());
        const FIN_AND_PSH: u8 = 0x09;
        const CWR: u8 = 0x80;
        if !last {
            bytes[at + 13] &= !FIN_AND_PSH;
        }
        if first > 0 {
            bytes[at + 13] &= !CWR;
        }
        (6, at + 16)
    } else {
        bytes[at + 4..at + 6].copy_from_slice(&length.to_be_bytes());
        (17, at + 6)
    };
    // The kernel finishes the checksum over what stands here: the sum of the pseudo-header, not complemented.
    let pseudo = folded(&bytes[ETHERNET + 12..ETHERNET + 20], protocol + u32::from(length));
    bytes[sum_at..sum_at + 2].copy_from_slice(&pseudo.to_be_bytes());
    let single = end - first == 1;
    let virtio = Virtio {
        kind: if single { 0 } else { virtio.kind },
        segment: if single { 0 } else { virtio.segment },
        ..*virtio
    };
    (virtio, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: usize = 100;

    /// A super-packet of TCP over IPv4 with this much payload, each byte saying in which packet it is.
    fn tcp(payload: usize) -> (Virtio, Vec<u8>) {
        let mut frame = vec![0; 54];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&((40 + payload) as u16).to_be_bytes());
        frame[18..20].copy_from_slice(&500_u16.to_be_bytes());
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[38..42].copy_from_slice(&1_000_u32.to_be_bytes());
        frame[46] = 0x50;
        frame[47] = 0x18;
        frame.extend((0..payload).map(|at| (at / SEGMENT) as u8));
        let virtio =
            Virtio { flags: 1, kind: TCP4, headers: 54, segment: SEGMENT as u16, start: 34, offset: 16 };
        (virtio, frame)
    }

    #[test]
    fn a_super_packet_is_as_many_packets_as_it_has_segments() {
        assert_eq!(packets(&tcp(950).0, &tcp(950).1), 10);
        assert_eq!(packets(&Virtio::default(), &tcp(950).1), 1);
    }

    #[test]
    fn losing_one_in_the_middle_leaves_two_frames_with_right_numbers() {
        let (virtio, frame) = tcp(950);

        let left = without(&virtio, &frame, |number| number == 3);

        assert_eq!(left.len(), 2);
        let (one, other) = (&left[0].1, &left[1].1);
        assert_eq!((one.len() - 54, other.len() - 54), (300, 550));
        assert_eq!(other[38..42], 1_400_u32.to_be_bytes(), "the sequence number goes on after the lost one");
        assert_eq!(other[18..20], 504_u16.to_be_bytes());
        assert_eq!((one[54], other[54]), (0, 4));
        assert_eq!((one[47], other[47]), (0x10, 0x18), "only the last frame pushes");
        for frame in [one, other] {
            assert_eq!(checksum(&frame[14..34], 0), 0, "the IP header's checksum adds up");
            assert_eq!(usize::from(u16::from_be_bytes([frame[16], frame[17]])), frame.len() - 14);
        }
    }

    #[test]
    fn a_single_packet_that_is_left_needs_no_segmentation() {
        let (virtio, frame) = tcp(300);

        let left = without(&virtio, &frame, |number| number != 1);

        assert_eq!(left.len(), 1);
        assert_eq!((left[0].0.kind, left[0].0.segment, left[0].0.flags), (0, 0, 1));
        // The kernel completes the checksum; done by hand over the whole segment it must add up.
        let mut done = left[0].1.clone();
        let sum = checksum(&done[34..], 0);
        done[50..52].copy_from_slice(&sum.to_be_bytes());
        assert_eq!(checksum(&done[34..], folded(&done[26..34], 6 + 120).into()), 0);
    }

    #[test]
    fn all_lost_leaves_nothing_and_none_lost_leaves_the_same() {
        let (virtio, frame) = tcp(300);

        assert!(without(&virtio, &frame, |_| true).is_empty());
        let whole = without(&virtio, &frame, |_| false);
        assert_eq!(whole.len(), 1);
        assert_eq!(whole[0].1.len(), frame.len());
        assert_eq!(whole[0].0, virtio);
    }

    #[test]
    fn a_datagram_that_is_left_has_its_own_length() {
        let (_, tcp_frame) = tcp(300);
        let mut frame = tcp_frame[..42].to_vec();
        frame[23] = 17;
        frame.extend([7; 300]);
        let virtio =
            Virtio { flags: 1, kind: UDP_L4, headers: 42, segment: SEGMENT as u16, start: 34, offset: 6 };

        let left = without(&virtio, &frame, |number| number == 0);

        assert_eq!(left[0].1[38..40], 208_u16.to_be_bytes());
        assert_eq!(left[0].1.len(), 42 + 200);
    }

    #[test]
    fn the_header_is_written_as_it_was_read() {
        let bytes = [1, 5, 42, 0, 100, 0, 34, 0, 6, 0];

        assert_eq!(Virtio::read(&bytes).write(), bytes);
    }
}

//! Acknowledgements that a later one makes superfluous.
//!
//! A receiver that is handed a super-packet acknowledges it at once, so that bulk transfers leave a row of TCP packets
//! without payload, each of which says all that those before it said. Only the last of a row is carried; every packet
//! of a row costs as much as a full one to read, route, seal, open and write. (RFC 3449, section 5.2.1 describes this
//! for slow links.) What says anything else stays: repeated acknowledgements, SACK, ECN echoes, window updates.

const TCP: u8 = 6;
const ACK: u8 = 0x10;
/// Two fillers and a time stamp of ten bytes (RFC 7323, appendix A).
const TIME_STAMP: [u8; 4] = [1, 1, 8, 10];

/// Where TCP begins in a packet that only acknowledges.
pub(crate) fn pure(packet: &[u8]) -> Option<usize> {
    let (upper, length) = match packet.first()? {
        0x45 if *packet.get(9)? == TCP => (20, packet.get(2..4)?),
        0x60..=0x6f if *packet.get(6)? == TCP => (40, packet.get(4..6)?),
        _ => return None,
    };
    let declared = usize::from(u16::from_be_bytes([*length.first()?, *length.get(1)?]));
    let declared = if upper == 40 { declared + 40 } else { declared };
    let tcp = packet.get(upper..)?;
    let options = tcp.get(20..)?;
    let plain = options.is_empty() || options.len() == 12 && options.starts_with(&TIME_STAMP);
    let header = u8::try_from(tcp.len() / 4).ok()? << 4;
    // Header length without the reserved bits; flags; no urgent pointer.
    let only_acknowledges = *tcp.get(12)? == header && *tcp.get(13)? == ACK && tcp.get(18..20)? == [0, 0];
    (declared == packet.len() && plain && only_acknowledges).then_some(upper)
}

/// Whether both belong to one flow, in the same direction.
pub(crate) fn same_flow(one: &[u8], other: &[u8]) -> bool {
    let Some(first) = one.first().filter(|first| Some(*first) == other.first()) else { return false };
    let (protocol, addresses, ports) = if first >> 4 == 4 { (9, 12..20, 20..24) } else { (6, 8..40, 40..44) };
    let same = |range: std::ops::Range<usize>| {
        one.get(range.clone()).is_some_and(|part| Some(part) == other.get(range))
    };
    same(protocol..protocol + 1) && same(addresses) && same(ports)
}

/// Whether `new` says all that `old` said, and more. Both must be [`pure`] and of one flow.
pub(crate) fn supersedes(new: &[u8], old: &[u8], upper: usize) -> bool {
    let number = |packet: &[u8]| {
        let bytes = packet.get(upper + 8..)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*bytes))
    };
    let (Some(newer), Some(older)) = (number(new), number(old)) else { return false };
    // The same service class and ECN bits; the same place in the other direction's stream.
    let same = |range: std::ops::Range<usize>| new.get(range.clone()) == old.get(range);
    new.len() == old.len()
        && same(0..2)
        && same(upper + 4..upper + 8)
        && (newer.wrapping_sub(older) as i32) > 0
}

#[cfg(test)]
mod tests {
    use protocol_packet::{TcpFlags, TcpSegment, tcp};

    use super::*;

    fn packet(v6: bool, port: u16, flags: TcpFlags, acknowledgement: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; 200];
        let host = if v6 { "[fd00::1]" } else { "10.0.0.1" };
        let segment = TcpSegment {
            source: format!("{host}:{port}").parse().unwrap(),
            destination: format!("{host}:80").parse().unwrap(),
            sequence: 7,
            acknowledgement,
            flags,
            window: 500,
            mss: None,
            payload,
        };
        let length = tcp(&mut out, &segment).unwrap();
        out.truncate(length);
        out
    }

    #[test]
    fn a_later_acknowledgement_supersedes_across_the_wrap_and_an_equal_one_does_not() {
        for (v6, upper) in [(false, 20), (true, 40)] {
            let old = packet(v6, 9, TcpFlags::ACK, u32::MAX - 5, b"");
            let new = packet(v6, 9, TcpFlags::ACK, 5, b"");

            assert_eq!((pure(&old), pure(&new)), (Some(upper), Some(upper)));
            assert!(same_flow(&new, &old));
            assert!(supersedes(&new, &old, upper));
            assert!(!supersedes(&old, &new, upper), "it is older");
            assert!(!supersedes(&old, &old, upper), "a repeated one reports a loss");
        }
    }

    #[test]
    fn what_says_anything_else_is_not_pure() {
        let plain = packet(false, 9, TcpFlags::ACK, 5, b"");
        let mut echo = plain.clone();
        echo[33] |= 0x40;
        let mut urgent = plain.clone();
        urgent[39] = 1;
        let mut accurate = plain.clone();
        accurate[32] |= 1;
        let payload = packet(false, 9, TcpFlags::ACK, 5, b"x");
        let end = packet(false, 9, TcpFlags::ACK.with(TcpFlags::FIN), 5, b"");

        for other in [&echo, &urgent, &accurate, &payload, &end, &plain[..39].to_vec()] {
            assert_eq!(pure(other), None);
        }
    }

    #[test]
    fn selective_acknowledgements_stay_and_time_stamps_do_not_matter() {
        let with = |options: &[u8]| {
            let mut packet = packet(false, 9, TcpFlags::ACK, 5, b"");
            packet.extend_from_slice(options);
            packet[3] = packet.len() as u8;
            packet[32] = (((packet.len() - 20) / 4) as u8) << 4;
            packet
        };

        assert_eq!(pure(&with(&[1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2])), Some(20));
        assert_eq!(pure(&with(&[1, 1, 5, 10, 0, 0, 0, 1, 0, 0, 0, 2])), None);
    }

    #[test]
    fn other_flows_and_other_service_classes_are_left_alone() {
        let old = packet(false, 9, TcpFlags::ACK, 5, b"");
        let other = packet(false, 10, TcpFlags::ACK, 6, b"");
        let mut marked = packet(false, 9, TcpFlags::ACK, 6, b"");
        marked[1] = 0b11;

        assert!(!same_flow(&old, &other));
        assert!(!supersedes(&marked, &old, 20));
    }
}

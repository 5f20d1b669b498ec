//! What to do with a packet that is longer than what its peer's path takes.

use std::time::Duration;

use protocol_packet::{IcmpError, Ip, TcpPieces, Version, icmp_error};

use crate::bucket::Bucket;
use crate::reply::ReplyBuf;

/// "Packet too big" messages to one host's packets at once, and a second: a host needs one for each destination, and
/// one that does not listen is not to be answered packet by packet.
const BURST: u32 = 8;
const RATE: u32 = 8;
/// No IPv6 host sends smaller packets because it is told so (RFC 8201, section 4).
const IPV6_MINIMUM: usize = 1280;

/// What to do with a packet that does not fit.
#[derive(Debug)]
pub enum TooLong {
    /// Send these instead.
    Pieces(TcpPieces),
    /// Drop and count it, and send the reply back to where it came from.
    Reply(&'static str),
    /// Drop and count it.
    Drop(&'static str),
}

/// Says what becomes of packets that do not fit, and how often their senders are told.
#[derive(Debug)]
pub struct Fit {
    bucket: Bucket,
}

impl Fit {
    /// The name under which packets are counted whose sender can make them smaller.
    pub const TOO_BIG: &'static str = "packet_too_big";
    /// The name for IPv6 packets of at most 1,280 bytes, which nobody makes smaller.
    pub const BELOW_IPV6: &'static str = "path_below_ipv6_minimum";

    /// One that has told nobody yet.
    pub fn new() -> Self {
        Self { bucket: Bucket::new(BURST, RATE) }
    }

    /// Decides about a packet of more than `limit` bytes. TCP is cut. The sender of anything else is told, whether or
    /// not it has forbidden fragments: fragments are not carried.
    ///
    /// The reply comes from the packet's own destination, which is where both hosts expect answers from.
    pub fn too_long(&mut self, packet: &[u8], limit: usize, now: Duration, reply: &mut ReplyBuf) -> TooLong {
        let Ok(ip) = Ip::parse(packet) else { return TooLong::Drop(Self::TOO_BIG) };
        let headers = ip.headers();
        if let Some(pieces) = TcpPieces::new(headers, limit) {
            return TooLong::Pieces(pieces);
        }
        if headers.version == Version::V6 && headers.total_len <= IPV6_MINIMUM {
            return TooLong::Drop(Self::BELOW_IPV6);
        }
        let least = match headers.version {
            Version::V4 => limit,
            Version::V6 => limit.max(IPV6_MINIMUM),
        };
        let error = IcmpError::TooBig { mtu: u32::try_from(least).unwrap_or(u32::MAX) };
        let told = self.bucket.take(now)
            && reply.write(|out| icmp_error(out, packet, headers, error, headers.destination));
        if told { TooLong::Reply(Self::TOO_BIG) } else { TooLong::Drop(Self::TOO_BIG) }
    }
}

impl Default for Fit {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol_packet::{TcpFlags, TcpSegment, echo_reply, echo_request, tcp, udp};

    use super::*;

    fn ends(v6: bool) -> (std::net::SocketAddr, std::net::SocketAddr) {
        if v6 {
            ("[fd00::1]:5000".parse().unwrap(), "[fd00::2]:80".parse().unwrap())
        } else {
            ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
        }
    }

    fn datagram(v6: bool, payload: usize) -> Vec<u8> {
        let (source, destination) = ends(v6);
        let mut out = vec![0; 2000];
        let length = udp(&mut out, source, destination, &vec![3; payload]).unwrap();
        out.truncate(length);
        out
    }

    #[test]
    fn the_sender_is_told_what_fits_from_where_it_sent_to() {
        for v6 in [false, true] {
            let (mut fit, mut reply) = (Fit::new(), ReplyBuf::new());
            let packet = datagram(v6, 1360);

            let told = fit.too_long(&packet, 1340, Duration::ZERO, &mut reply);

            assert!(matches!(told, TooLong::Reply(Fit::TOO_BIG)));
            let ip = Ip::parse(&reply).unwrap();
            let (source, destination) = ends(v6);
            assert_eq!((ip.source, ip.destination), (destination.ip(), source.ip()));
            let icmp = ip.icmp().unwrap();
            let expected = if v6 { (2, 0) } else { (3, 4) };
            assert_eq!((icmp.kind_number, icmp.code), expected);
            assert_eq!(icmp.mtu(ip.version, ip.ip_payload()), Some(1340));
            assert!(ip.transport_checksum_holds());
            let quote = ip.headers().quote(&reply).unwrap();
            assert_eq!((quote.source, quote.ports()), (source.ip(), Some((5000, 80))));
        }
    }

    #[test]
    fn a_sender_that_does_not_listen_is_not_told_packet_by_packet() {
        let (mut fit, mut reply) = (Fit::new(), ReplyBuf::new());
        let packet = datagram(false, 1390);

        let told = (0..1000)
            .filter(|n| {
                let now = Duration::from_millis(*n);
                matches!(fit.too_long(&packet, 1380, now, &mut reply), TooLong::Reply(_))
            })
            .count();

        assert!(told <= (BURST + RATE) as usize, "{told} in a second");
    }

    #[test]
    fn small_ipv6_packets_are_lost_under_a_name_of_their_own() {
        let (mut fit, mut reply) = (Fit::new(), ReplyBuf::new());

        let small = fit.too_long(&datagram(true, 1200), 1200, Duration::ZERO, &mut reply);
        let large = fit.too_long(&datagram(true, 1300), 1200, Duration::ZERO, &mut reply);

        assert!(matches!(small, TooLong::Drop(Fit::BELOW_IPV6)));
        assert!(matches!(large, TooLong::Reply(Fit::TOO_BIG)));
        let ip = Ip::parse(&reply).unwrap();
        assert_eq!(ip.icmp().unwrap().mtu(ip.version, ip.ip_payload()), Some(1280));
    }

    #[test]
    fn an_echo_reply_is_not_answered() {
        let (source, destination) = ends(false);
        let (mut request, mut packet) = ([0; 2000], [0; 2000]);
        let n = echo_request(&mut request, source.ip(), destination.ip(), 1, 1, &[0; 1390]).unwrap();
        let n = echo_reply(&mut packet, &Ip::parse(&request[..n]).unwrap()).unwrap();

        let verdict = Fit::new().too_long(&packet[..n], 1400, Duration::ZERO, &mut ReplyBuf::new());

        assert!(matches!(verdict, TooLong::Drop(Fit::TOO_BIG)));
    }

    #[test]
    fn tcp_is_cut_and_nobody_is_told() {
        let (source, destination) = ends(true);
        let mut packet = vec![0; 2000];
        let segment = TcpSegment {
            source,
            destination,
            sequence: 1,
            acknowledgement: 1,
            flags: TcpFlags::ACK,
            window: 1,
            mss: None,
            payload: &[5; 1360],
        };
        let length = tcp(&mut packet, &segment).unwrap();
        packet.truncate(length);

        let verdict = Fit::new().too_long(&packet, 1340, Duration::ZERO, &mut ReplyBuf::new());

        let TooLong::Pieces(mut pieces) = verdict else { panic!("{verdict:?}") };
        let mut room = [0; 2000];
        assert_eq!(pieces.next_into(&packet, &mut room), Some(1340));
        assert_eq!(pieces.next_into(&packet, &mut room), Some(60 + 80));
        assert_eq!(pieces.next_into(&packet, &mut room), None);
    }

    proptest! {
        #[test]
        fn nothing_panics_on_arbitrary_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..100),
            limit in 0usize..2000,
        ) {
            let _ = Fit::new().too_long(&bytes, limit, Duration::ZERO, &mut ReplyBuf::new());
        }
    }
}

//! What is too long for a path is made to fit it: pieces that say the same, and a smaller MSS.

#![allow(clippy::unwrap_used, missing_docs)]

use std::net::SocketAddr;

use proptest::prelude::*;
use protocol_packet::{Checksum, Ip, TcpFlags, TcpPieces, TcpSegment, clamp_syn, tcp, udp};

fn ends(v6: bool) -> (SocketAddr, SocketAddr) {
    if v6 {
        ("[fd00::1]:5000".parse().unwrap(), "[fd00::2]:80".parse().unwrap())
    } else {
        ("10.0.0.1:5000".parse().unwrap(), "10.0.0.2:80".parse().unwrap())
    }
}

fn segment(v6: bool, flags: u8, sequence: u32, mss: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let (source, destination) = ends(v6);
    let mut out = vec![0; 65_535];
    let flags = TcpFlags(flags);
    let segment =
        TcpSegment { source, destination, sequence, acknowledgement: 7, flags, window: 100, mss, payload };
    let length = tcp(&mut out, &segment).unwrap();
    out.truncate(length);
    out
}

fn cut(packet: &[u8], limit: usize) -> Option<Vec<Vec<u8>>> {
    let mut pieces = TcpPieces::new(Ip::parse(packet).unwrap().headers(), limit)?;
    let mut room = [0; 65_535];
    Some(std::iter::from_fn(|| pieces.next_into(packet, &mut room).map(|n| room[..n].to_vec())).collect())
}

proptest! {
    #[test]
    fn the_pieces_are_valid_and_say_what_the_whole_said(
        v6 in any::<bool>(),
        sequence in any::<u32>(),
        flags in prop_oneof![Just(0x10u8), Just(0x18), Just(0x19), Just(0x90), Just(0x58)],
        length in 1usize..9000,
        limit in 200usize..1500,
    ) {
        let payload: Vec<u8> = (0..length).map(|n| (n * 7 / 5) as u8).collect();
        let packet = segment(v6, flags, sequence, None, &payload);

        let pieces = cut(&packet, limit).unwrap();

        let (mut expected, mut got) = (sequence, Vec::new());
        for (n, piece) in pieces.iter().enumerate() {
            let ip = Ip::parse(piece).unwrap();
            prop_assert!(piece.len() <= limit && ip.transport_checksum_holds());
            let last = n + 1 == pieces.len();
            prop_assert!(last || piece.len() == limit, "all but the last are as long as they may be");
            let tcp = ip.tcp().unwrap();
            prop_assert_eq!(tcp.sequence, expected);
            let first_only = if n == 0 { 0x80 } else { 0 };
            let last_only = if last { 0x09 } else { 0 };
            prop_assert_eq!(tcp.flags.0, flags & (0x76 | first_only | last_only));
            expected = expected.wrapping_add(tcp.payload_len as u32);
            got.extend_from_slice(ip.payload());
        }
        prop_assert_eq!(got, payload);
    }

    #[test]
    fn a_syn_offers_no_more_than_fits(v6 in any::<bool>(), answer in any::<bool>(), limit in 576usize..1600, mss in 500u16..2000) {
        let flags = if answer { 0x12 } else { 0x02 };
        let mut packet = segment(v6, flags, 1, Some(mss), &[]);
        let fits = (limit - if v6 { 60 } else { 40 }) as u16;

        let changed = clamp_syn(&mut packet, limit, Checksum::Full);

        let ip = Ip::parse(&packet).unwrap();
        let at = ip.ip_header_len + 22;
        prop_assert!(ip.transport_checksum_holds());
        prop_assert_eq!(changed, mss > fits);
        prop_assert_eq!(u16::from_be_bytes([packet[at], packet[at + 1]]), mss.min(fits));
    }

    #[test]
    fn nothing_panics_on_arbitrary_bytes(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), limit in 0usize..2000) {
        clamp_syn(&mut bytes, limit, Checksum::Full);
        if let Ok(ip) = Ip::parse(&bytes) && let Some(mut pieces) = TcpPieces::new(ip.headers(), limit) {
            let mut room = [0; 64];
            while pieces.next_into(&bytes, &mut room).is_some() {}
        }
    }
}

#[test]
fn what_is_not_tcp_with_payload_is_not_cut() {
    let (source, destination) = ends(false);
    let mut datagram = vec![0; 2000];
    let length = udp(&mut datagram, source, destination, &[1; 1400]).unwrap();

    assert!(cut(&datagram[..length], 1000).is_none());
    assert!(cut(&segment(false, 0x10, 1, None, &[]), 1000).is_none());
    assert!(cut(&segment(false, 0x30, 1, None, &[1; 1400]), 1000).is_none(), "urgent data");
    assert!(cut(&segment(true, 0x10, 1, None, &[1; 1400]), 60).is_none(), "no room beside the headers");
}

#[test]
fn segments_that_are_no_syn_stay_as_they_are() {
    let mut packet = segment(false, 0x10, 1, Some(1460), &[]);
    let before = packet.clone();

    assert!(!clamp_syn(&mut packet, 1000, Checksum::Full));
    assert_eq!(packet, before);
}

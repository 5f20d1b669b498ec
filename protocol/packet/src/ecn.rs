//! Explicit congestion notification through a tunnel (RFC 6040, normal mode).

use crate::checksum::{Sum, update};
use crate::rewrite::change_word;

/// The two ECN bits of an IP header (RFC 3168, section 5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ecn {
    /// The transport does not understand ECN.
    #[default]
    NotEct,
    /// It does, and says 1 (RFC 9331).
    Ect1,
    /// It does.
    Ect0,
    /// It does, and a router on the way was congested.
    Ce,
}

impl Ecn {
    /// From the low two bits of a byte.
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::NotEct,
            1 => Self::Ect1,
            2 => Self::Ect0,
            _ => Self::Ce,
        }
    }

    /// The two bits.
    pub const fn bits(self) -> u8 {
        match self {
            Self::NotEct => 0,
            Self::Ect1 => 1,
            Self::Ect0 => 2,
            Self::Ce => 3,
        }
    }

    /// Those of an IP packet, which are also those of the header that is put around it (RFC 6040, section 4.1).
    pub fn of(packet: &[u8]) -> Self {
        match packet.first_chunk::<2>() {
            Some([first, second]) if first >> 4 == 4 => Self::from_bits(*second),
            Some([first, second]) if first >> 4 == 6 => Self::from_bits(second >> 4),
            Some(_) | None => Self::NotEct,
        }
    }

    /// What an inner header of `self` becomes when the outer header had `outer`; `None` when the packet must be dropped
    /// (RFC 6040, section 4.2, figure 4).
    pub const fn combined(self, outer: Self) -> Option<Self> {
        match (self, outer) {
            // A router was congested, and the transport would never learn of it.
            (Self::NotEct, Self::Ce) => None,
            (Self::NotEct, Self::NotEct | Self::Ect0 | Self::Ect1) => Some(Self::NotEct),
            (Self::Ect0, Self::NotEct | Self::Ect0) => Some(Self::Ect0),
            (Self::Ect0, Self::Ect1) | (Self::Ect1, Self::NotEct | Self::Ect0 | Self::Ect1) => {
                Some(Self::Ect1)
            }
            (Self::Ect0 | Self::Ect1, Self::Ce) | (Self::Ce, _) => Some(Self::Ce),
        }
    }
}

/// A packet whose transport does not understand ECN, in an outer header that says congestion: it counts as lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("congestion was marked on a packet whose transport does not understand it")]
pub struct CongestionLoss;

impl CongestionLoss {
    /// The name of its counter.
    pub const REASON: &'static str = "ecn_marked_not_capable";
}

/// Carries what the outer header said into a packet that came out of it; the IPv4 checksum follows.
///
/// # Errors
/// The packet has to be dropped.
pub fn carry_ecn(packet: &mut [u8], outer: Ecn) -> Result<(), CongestionLoss> {
    let inner = Ecn::of(packet);
    let combined = inner.combined(outer).ok_or(CongestionLoss)?;
    if combined != inner {
        set(packet, combined);
    }
    Ok(())
}

fn set(packet: &mut [u8], ecn: Ecn) {
    let bits = u16::from(ecn.bits());
    let first = packet.first().map_or(0, |first| first >> 4);
    let (mut old, mut new) = (0, 0);
    change_word(packet, 0, |word| {
        old = word;
        new = if first == 4 { word & !3 | bits } else { word & !(3 << 4) | bits << 4 };
        new
    });
    if first == 4 {
        change_word(packet, 10, |sum| update(sum, Sum::new().word(old), Sum::new().word(new)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Ip, udp};

    const ALL: [Ecn; 4] = [Ecn::NotEct, Ecn::Ect0, Ecn::Ect1, Ecn::Ce];

    /// The table of RFC 6040, figure 4: a row for each inner field, a column for each outer one, in the order of [`ALL`].
    const TABLE: [[Option<Ecn>; 4]; 4] = [
        [Some(Ecn::NotEct), Some(Ecn::NotEct), Some(Ecn::NotEct), None],
        [Some(Ecn::Ect0), Some(Ecn::Ect0), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ect1), Some(Ecn::Ce)],
        [Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce), Some(Ecn::Ce)],
    ];

    fn packet(v6: bool, ecn: Ecn) -> Vec<u8> {
        let (from, to) = if v6 { ("[fd00::1]:1", "[fd00::2]:2") } else { ("10.0.0.1:1", "10.0.0.2:2") };
        let mut out = vec![0; 100];
        let length = udp(&mut out, from.parse().unwrap(), to.parse().unwrap(), b"hello").unwrap();
        out.truncate(length);
        // Some code point for differentiated services, which has to stay.
        if v6 {
            out[0] |= 0x0b;
            out[1] = 0x80 | ecn.bits() << 4 | 0x0d;
        } else {
            out[1] = 46 << 2 | ecn.bits();
            out[10..12].fill(0);
            let sum = Sum::new().bytes(&out[..20]).finish();
            out[10..12].copy_from_slice(&sum.to_be_bytes());
        }
        out
    }

    #[test]
    fn all_sixteen_combinations_in_both_families_come_out_as_the_rfc_says() {
        for v6 in [false, true] {
            for (inner, row) in ALL.into_iter().zip(TABLE) {
                for (outer, expected) in ALL.into_iter().zip(row) {
                    let mut bytes = packet(v6, inner);
                    let before = *Ip::parse(&bytes).unwrap().headers();

                    let carried = carry_ecn(&mut bytes, outer);

                    assert_eq!(inner.combined(outer), expected);
                    assert_eq!(carried.is_ok(), expected.is_some(), "{inner:?} in {outer:?}");
                    let after = *Ip::parse(&bytes).unwrap().headers();
                    assert_eq!(Ecn::of(&bytes), expected.unwrap_or(inner));
                    assert_eq!(after.ecn, expected.unwrap_or(inner).bits());
                    assert_eq!(after, protocol_headers_with(before, after.ecn), "nothing else changes");
                    assert!(Ip::parse(&bytes).unwrap().transport_checksum_holds());
                }
            }
        }
    }

    fn protocol_headers_with(headers: crate::Headers, ecn: u8) -> crate::Headers {
        crate::Headers { ecn, ..headers }
    }

    #[test]
    fn an_outer_header_that_lost_its_marks_changes_nothing() {
        for inner in ALL {
            assert_eq!(inner.combined(Ecn::NotEct), Some(inner));
        }
    }

    #[test]
    fn what_is_no_packet_has_no_marks_and_gets_none() {
        for mut bytes in [vec![], vec![0x45], vec![0xff; 30]] {
            let before = bytes.clone();

            assert_eq!(carry_ecn(&mut bytes, Ecn::Ect0), Ok(()));
            assert_eq!(bytes, before);
        }
    }
}

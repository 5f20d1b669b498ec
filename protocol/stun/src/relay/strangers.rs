//! How many answers a stranger gets.
//!
//! Whoever forges an address has the answer sent to somebody else. So each source, which is an IPv4 address or a /64 of
//! IPv6, has a bucket of answers, and each of its ports an allowance a second, that one noisy client behind a NAT does not
//! starve its neighbours. Nothing is stored for a stranger: both are tables of fixed size, found by a keyed hash, so that
//! nobody can aim at the place of another.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Places of sources. Two that share one share its bucket.
const SOURCES: usize = 1 << 12;
/// Places of ports: 65,536 of two bytes.
const PORTS: usize = 1 << 16;

/// Answers that a source may have at once: as many as one address has ports, and half as many again.
const BURST: u32 = 98_304;
/// Answers that a source gets back in a second: 1.7 MB at the most, a third of what brought them.
const RATE: u32 = 20_000;
/// Answers that one port gets in a second: a client needs one for each allocation, and repeats it once or twice.
const EACH_SECOND: u8 = 8;

/// The allowances of all strangers.
#[derive(Debug)]
pub struct Strangers {
    hash: RandomState,
    /// Answers used, and when (in milliseconds) they were last counted down.
    sources: Box<[(u32, u32)]>,
    /// The second (its low byte), and the answers in it.
    ports: Box<[(u8, u8)]>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            hash: RandomState::new(),
            sources: vec![(0, 0); SOURCES].into_boxed_slice(),
            ports: vec![(0, 0); PORTS].into_boxed_slice(),
        }
    }
}

impl Strangers {
    /// Whether this source gets an answer now; takes it from its allowance.
    pub fn admit(&mut self, source: SocketAddr, now: Duration) -> bool {
        let host = self.hash_of(source.ip(), None);
        let port = self.hash_of(source.ip(), Some(source.port()));
        let second = now.as_secs().to_le_bytes()[0];
        let Some((of, used)) = self.ports.get_mut(port % PORTS) else { return false };
        if *of != second {
            (*of, *used) = (second, 0);
        }
        if *used >= EACH_SECOND {
            return false;
        }
        let millis = u32::try_from(now.as_millis() % (1 << 32)).unwrap_or(0);
        let Some((taken, at)) = self.sources.get_mut(host % SOURCES) else { return false };
        let back = u64::from(millis.wrapping_sub(*at)) * u64::from(RATE) / 1_000;
        // While less than one is given back the clock of this bucket stands still.
        if back > 0 {
            *taken = taken.saturating_sub(u32::try_from(back).unwrap_or(u32::MAX));
            *at = millis;
        }
        if *taken >= BURST {
            return false;
        }
        *taken += 1;
        *used += 1;
        true
    }

    fn hash_of(&self, ip: IpAddr, port: Option<u16>) -> usize {
        let mut hasher = self.hash.build_hasher();
        match ip {
            IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
            // A host has a whole /64 (RFC 4291 §2.5.4).
            #[allow(clippy::cast_possible_truncation)] // The upper half is meant.
            IpAddr::V6(v6) => hasher.write_u64((v6.to_bits() >> 64) as u64),
        }
        if let Some(port) = port {
            hasher.write_u16(port);
        }
        #[allow(clippy::cast_possible_truncation)] // Any bits of it are as good as others.
        let hash = hasher.finish() as usize;
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], port))
    }

    #[test]
    fn a_port_gets_its_few_answers_a_second_and_its_neighbour_too() {
        let mut strangers = Strangers::default();
        let now = Duration::from_secs(100);

        let admitted = (0..100).filter(|_| strangers.admit(at(1, 1_000), now)).count();

        assert_eq!(admitted, usize::from(EACH_SECOND));
        assert!(strangers.admit(at(1, 1_001), now), "another port of the same host");
        assert!(strangers.admit(at(1, 1_000), now + Duration::from_secs(1)));
    }

    #[test]
    fn a_source_that_has_used_its_answers_up_gets_them_back_at_the_rate() {
        let mut strangers = Strangers::default();
        let start = Duration::from_secs(100);
        let mut flood = |now: Duration| {
            (0..3).flat_map(|_| 0..=u16::MAX).filter(|port| strangers.admit(at(1, *port), now)).count()
        };

        let (first, second) = (flood(start), flood(start + Duration::from_secs(1)));

        // Ports that share a place share its allowance, so a few of the burst may be left over.
        assert!((BURST as usize * 9 / 10..=BURST as usize).contains(&first), "{first}");
        assert!(second <= RATE as usize + BURST as usize - first, "{second}");
        assert!(second >= RATE as usize * 9 / 10, "{second}");
        assert!(strangers.admit(at(2, 5), start + Duration::from_secs(1)), "somebody else");
    }

    #[test]
    fn all_addresses_of_a_64_are_one_source() {
        let mut strangers = Strangers::default();
        let now = Duration::from_secs(100);
        let of = |n: u16| SocketAddr::new(format!("2001:db8::{n:x}").parse().unwrap(), 5);

        let admitted = (0..100).filter(|n| strangers.admit(of(*n), now)).count();

        assert_eq!(admitted, usize::from(EACH_SECOND));
    }
}

//! Addresses that stand for names inside the tunnel, so that two names on one server stay two resources.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use crate::name::Name;

/// The two addresses of one name. They have the same number inside their ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapped {
    /// The IPv4 address.
    pub v4: Ipv4Addr,
    /// The IPv6 address.
    pub v6: Ipv6Addr,
}

/// Numbers of a range that stand for no name: 0, and the last 255.
const RESERVED: u32 = 256;

/// The ranges that mapped addresses come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ranges {
    v4: Ipv4Addr,
    bits: u8,
    v6: Ipv6Addr,
}

impl Default for Ranges {
    /// 100.96.0.0/11 and fd70:6f73:7402::/64.
    fn default() -> Self {
        Self {
            v4: Ipv4Addr::new(100, 96, 0, 0),
            bits: 21,
            v6: Ipv6Addr::new(0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, 0),
        }
    }
}

impl Ranges {
    /// Ranges of `2^bits` names (at most 24) that start at `v4` and `v6`.
    pub fn new(v4: Ipv4Addr, v6: Ipv6Addr, bits: u8) -> Self {
        let bits = bits.min(24);
        let mask = (1u32 << bits) - 1;
        Self {
            v4: Ipv4Addr::from(u32::from(v4) & !mask),
            bits,
            v6: Ipv6Addr::from(u128::from(v6) & !u128::from(u64::MAX)),
        }
    }

    /// Whether an address is one that stands for a name, or could be.
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => (u32::from(v4) ^ u32::from(self.v4)) >> self.bits == 0,
            IpAddr::V6(v6) => (u128::from(v6) ^ u128::from(self.v6)) >> 64 == 0,
        }
    }

    /// How many names fit. The first number and the last ones of a range of some size stay free: for what the client
    /// itself listens on, and because the very first and last look like the address of a network and its broadcast.
    fn numbers(&self) -> u32 {
        let free = if self.bits > 12 { RESERVED } else { 2 };
        (1u32 << self.bits).saturating_sub(free)
    }

    fn at(&self, number: u32) -> Mapped {
        Mapped {
            v4: Ipv4Addr::from(u32::from(self.v4) + number),
            v6: Ipv6Addr::from(u128::from(self.v6) + u128::from(number)),
        }
    }

    fn number(&self, address: IpAddr) -> Option<u32> {
        if !self.contains(address) {
            return None;
        }
        match address {
            IpAddr::V4(v4) => Some(u32::from(v4) - u32::from(self.v4)),
            IpAddr::V6(v6) => u32::try_from(u128::from(v6) - u128::from(self.v6)).ok(),
        }
    }
}

/// Every address is taken by a name that was asked for not long ago.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no mapped address is left")]
pub struct NoneLeft;

/// A name keeps its addresses at least this long after it was last asked for: longer than resolvers keep an answer of
/// ours, and than people wait before they look at a page again.
const IDLE: Duration = Duration::from_secs(3600);

/// Which name has which addresses.
///
/// A name starts from a number made from the name itself, so it has the same addresses after a restart of everything,
/// except where two names collide.
#[derive(Clone, Debug)]
pub struct MappedAddresses {
    ranges: Ranges,
    capacity: usize,
    by_name: BTreeMap<Name, (u32, Duration)>,
    by_number: BTreeMap<u32, Name>,
}

impl MappedAddresses {
    /// None mapped yet; at most `capacity` at a time.
    pub fn new(ranges: Ranges, capacity: usize) -> Self {
        let capacity = capacity.min(ranges.numbers() as usize);
        Self { ranges, capacity, by_name: BTreeMap::new(), by_number: BTreeMap::new() }
    }

    /// The addresses of `name`, which it keeps while it is asked for.
    ///
    /// # Errors
    /// When all are taken by names that were asked for within the last hour.
    pub fn of(&mut self, name: &Name, now: Duration) -> Result<Mapped, NoneLeft> {
        if let Some((number, used)) = self.by_name.get_mut(name) {
            *used = now;
            return Ok(self.ranges.at(*number));
        }
        if self.by_name.len() >= self.capacity {
            self.forget_longest_idle(now)?;
        }
        let numbers = self.ranges.numbers();
        let start = (hash(name.as_str()) % u64::from(numbers.max(1))) as u32;
        // As many tries as there are names suffice, because there are at least as many numbers.
        let number = (0..numbers)
            .map(|step| (start.wrapping_add(step)) % numbers + 1)
            .find(|number| !self.by_number.contains_key(number))
            .ok_or(NoneLeft)?;
        self.by_name.insert(name.clone(), (number, now));
        self.by_number.insert(number, name.clone());
        Ok(self.ranges.at(number))
    }

    /// The addresses that `name` has.
    pub fn get(&self, name: &Name) -> Option<Mapped> {
        self.by_name.get(name).map(|(number, _)| self.ranges.at(*number))
    }

    /// The name that an address stands for.
    pub fn name_of(&self, address: IpAddr) -> Option<&Name> {
        self.by_number.get(&self.ranges.number(address)?)
    }

    /// The ranges.
    pub fn ranges(&self) -> Ranges {
        self.ranges
    }

    /// Names that have addresses.
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether no name has one.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    fn forget_longest_idle(&mut self, now: Duration) -> Result<(), NoneLeft> {
        let longest = self.by_name.iter().min_by_key(|(_, (_, used))| *used);
        let (name, number) = match longest {
            Some((name, (number, used))) if now.saturating_sub(*used) > IDLE => (name.clone(), *number),
            _ => return Err(NoneLeft),
        };
        self.by_name.remove(&name);
        self.by_number.remove(&number);
        Ok(())
    }
}

/// FNV-1a: the same on every machine and in every version, which the standard library's does not promise.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(n: usize) -> Name {
        format!("host-{n}.corp.example").parse().unwrap()
    }

    const START: Duration = Duration::ZERO;

    #[test]
    fn a_name_keeps_its_addresses_and_has_them_again_after_a_restart() {
        let (mut before, mut after) =
            (MappedAddresses::new(Ranges::default(), 100), MappedAddresses::new(Ranges::default(), 100));

        let first = before.of(&name(1), START).unwrap();
        before.of(&name(2), START).unwrap();

        assert_eq!(before.of(&name(1), IDLE).unwrap(), first);
        assert_eq!(after.of(&name(1), START).unwrap(), first);
        assert!(Ranges::default().contains(first.v4.into()) && Ranges::default().contains(first.v6.into()));
        assert_eq!(before.name_of(first.v4.into()), Some(&name(1)));
        assert_eq!(before.name_of(first.v6.into()), Some(&name(1)));
    }

    #[test]
    fn a_full_map_forgets_only_what_was_idle_for_long() {
        let mut map = MappedAddresses::new(Ranges::default(), 2);
        map.of(&name(1), START).unwrap();
        map.of(&name(2), IDLE).unwrap();

        assert_eq!(map.of(&name(3), IDLE), Err(NoneLeft));
        assert!(map.of(&name(3), IDLE + Duration::from_secs(1)).is_ok());

        assert_eq!((map.get(&name(1)), map.len()), (None, 2));
        assert!(map.get(&name(2)).is_some());
    }

    #[test]
    fn ranges_end_where_they_should() {
        let ranges = Ranges::default();

        for (address, inside) in [
            ("100.96.0.0", true),
            ("100.127.255.255", true),
            ("100.95.255.255", false),
            ("100.128.0.0", false),
            ("fd70:6f73:7402::1", true),
            ("fd70:6f73:7402:1::", false),
            ("fd70:6f73:7401::1", false),
        ] {
            assert_eq!(ranges.contains(address.parse().unwrap()), inside, "{address}");
        }
    }

    proptest! {
        #[test]
        fn no_two_names_ever_share_an_address(
            names in proptest::collection::vec(0usize..40, 1..120),
            hours in proptest::collection::vec(0u64..3, 120),
            bits in 2u8..6,
        ) {
            let ranges = Ranges::new("10.0.0.0".parse().unwrap(), "fd00::".parse().unwrap(), bits);
            let mut map = MappedAddresses::new(ranges, 1000);
            let mut now = START;
            for (n, hours) in names.into_iter().zip(hours) {
                now += Duration::from_secs(hours * 1900);
                if let Ok(mapped) = map.of(&name(n), now) {
                    prop_assert!(ranges.contains(mapped.v4.into()) && ranges.contains(mapped.v6.into()));
                    prop_assert_eq!(map.name_of(mapped.v4.into()), Some(&name(n)));
                }
                let addresses: std::collections::BTreeSet<_> =
                    (0..40).filter_map(|n| map.get(&name(n))).map(|mapped| (mapped.v4, mapped.v6)).collect();
                prop_assert_eq!(addresses.len(), map.len());
                prop_assert!(map.len() <= (1 << bits) - 2);
            }
        }
    }
}

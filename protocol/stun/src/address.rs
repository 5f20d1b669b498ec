//! IPv4 addresses inside IPv6 addresses.
//!
//! A filter that looks at `127.0.0.1` and not at `::ffff:127.0.0.1` is no filter. [`embedded`] finds every form in which a
//! network delivers to an IPv4 address that an IPv6 address contains.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How an IPv6 address contains IPv4 ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedded {
    /// `::ffff:a.b.c.d` (RFC 4291 §2.5.5.2) and `::a.b.c.d` (§2.5.5.1): the host itself speaks IPv4 with it.
    Host(Ipv4Addr),
    /// `64:ff9b::a.b.c.d` (RFC 6052 §2.1) and 6to4 `2002:aabb:ccdd::` (RFC 3056 §2): a router on the way does.
    Translated(Ipv4Addr),
    /// Teredo `2001::/32` (RFC 4380 §4): the server's address, and the client's, hidden by inversion.
    Teredo {
        /// Whom the first packet goes to.
        server: Ipv4Addr,
        /// Whom the rest goes to.
        client: Ipv4Addr,
    },
}

/// The IPv4 addresses inside `address`, if it is one of the known forms. `::` and `::1` are addresses of their own.
pub fn embedded(address: Ipv6Addr) -> Option<Embedded> {
    let octets = address.octets();
    let last = Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]);
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => Some(Embedded::Host(last)),
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => Some(Embedded::Translated(last)),
        [0x2002, ..] => Some(Embedded::Translated(Ipv4Addr::new(octets[2], octets[3], octets[4], octets[5]))),
        [0x2001, 0, ..] => Some(Embedded::Teredo {
            server: Ipv4Addr::new(octets[4], octets[5], octets[6], octets[7]),
            client: Ipv4Addr::from_bits(!last.to_bits()),
        }),
        _ => None,
    }
}

/// The address that the host would really use: IPv4 for the forms that the host itself turns into IPv4.
pub fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match embedded(v6) {
            Some(Embedded::Host(v4)) => IpAddr::V4(v4),
            Some(Embedded::Translated(_) | Embedded::Teredo { .. }) | None => address,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Embedded> {
        embedded(text.parse().unwrap())
    }

    #[test]
    fn every_form_gives_its_ipv4_address_away() {
        let localhost = Ipv4Addr::LOCALHOST;

        assert_eq!(of("::ffff:127.0.0.1"), Some(Embedded::Host(localhost)));
        assert_eq!(of("::127.0.0.1"), Some(Embedded::Host(localhost)));
        assert_eq!(of("64:ff9b::127.0.0.1"), Some(Embedded::Translated(localhost)));
        assert_eq!(of("2002:7f00:1::"), Some(Embedded::Translated(localhost)));
        assert_eq!(of("2002:7f00:1:ffff::5"), Some(Embedded::Translated(localhost)));
        assert_eq!(
            of("2001:0:4136:e378:8000:63bf:80ff:fffe"),
            Some(Embedded::Teredo { server: Ipv4Addr::new(65, 54, 227, 120), client: localhost })
        );
    }

    #[test]
    fn other_addresses_contain_none() {
        for text in ["::", "::1", "2001:db8::7f00:1", "2606:4700::1111", "fe80::1", "64:ff9b:1::7f00:1"] {
            assert_eq!(of(text), None, "{text}");
        }
    }

    #[test]
    fn the_canonical_form_is_ipv4_only_where_the_host_speaks_ipv4() {
        assert_eq!(canonical("::ffff:192.0.2.1".parse().unwrap()), IpAddr::from([192, 0, 2, 1]));
        assert_eq!(
            canonical("2002:c000:201::".parse().unwrap()),
            "2002:c000:201::".parse::<IpAddr>().unwrap()
        );
    }
}

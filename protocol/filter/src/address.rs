//! Which addresses are never reached, in every form in which they can be written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How an address is guarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Reached when a grant leads there.
    Open,
    /// Reached only when an `ip` resource names it exactly.
    OnlyByName,
    /// Not one host: never reached.
    Never,
}

/// Cloud metadata services and platform agents outside link-local ranges.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200), // Alibaba Cloud
    Ipv4Addr::new(168, 63, 129, 16),   // Azure
    Ipv4Addr::new(192, 0, 0, 192),     // Oracle Cloud
];

/// The same for IPv6.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254), // AWS
    Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254), // Google Cloud
];

/// The guard of an address.
pub(crate) fn guard(address: IpAddr) -> Guard {
    match address {
        IpAddr::V4(v4) => guard_v4(v4),
        IpAddr::V6(v6) => guard_v6(v6),
    }
}

fn guard_v4(address: Ipv4Addr) -> Guard {
    // "This network" and everything from multicast upwards, broadcast included (RFC 6890, section 2.2.2).
    if address.octets()[0] == 0 || address.octets()[0] >= 224 {
        return Guard::Never;
    }
    if address.is_loopback() || address.is_link_local() || METADATA_V4.contains(&address) {
        return Guard::OnlyByName;
    }
    Guard::Open
}

fn guard_v6(address: Ipv6Addr) -> Guard {
    if address.is_loopback() {
        return Guard::OnlyByName;
    }
    if address.is_multicast() || address.is_unspecified() {
        return Guard::Never;
    }
    // IPv4-mapped and IPv4-compatible forms are for sockets, never for the wire (RFC 4291, section 2.5.5).
    if address.segments()[..5] == [0; 5] && matches!(address.segments()[5], 0 | 0xffff) {
        return Guard::Never;
    }
    // Link-local, and site-local, which is deprecated (RFC 3879).
    if address.segments()[0] & 0xff80 == 0xfe80 || METADATA_V6.contains(&address) {
        return Guard::OnlyByName;
    }
    match embedded(address) {
        Some(v4) => guard_v4(v4),
        None => Guard::Open,
    }
}

/// The IPv4 address that a translating prefix leads to, if this is under one.
pub(crate) fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = address.segments();
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match (a, b) {
        // NAT64: the well-known prefix (RFC 6052) and the local one (RFC 8215), which embeds at the end when it is /96.
        (0x0064, 0xff9b) if (c, d, e, f) == (0, 0, 0, 0) || c == 1 => Some(v4(g, h)),
        // 6to4 (RFC 3056).
        (0x2002, _) => Some(v4(b, c)),
        // Teredo: the client's address, inverted (RFC 4380).
        (0x2001, 0x0000) => Some(v4(!g, !h)),
        _ => None,
    }
}

/// The addresses by which a packet to `address` could arrive: itself, and what it embeds.
pub(crate) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => embedded(v6).map(IpAddr::V4),
    };
    std::iter::once(address).chain(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard_of(text: &str) -> Guard {
        guard(text.parse().unwrap())
    }

    #[test]
    fn what_is_no_single_host_is_never_reached() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.1.1.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "ff02::1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::10.0.0.1",
            "64:ff9b::224.0.0.1",
        ] {
            assert_eq!(guard_of(text), Guard::Never, "{text}");
        }
    }

    #[test]
    fn loopback_link_local_and_metadata_need_an_exact_name_in_every_form() {
        for text in [
            "127.0.0.1",
            "127.200.0.1",
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "::1",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "fd00:ec2::254",
            "64:ff9b::169.254.169.254",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "2002:7f00:1::",
            "2001:0:1:2:3:4:5601:5601",
        ] {
            assert_eq!(guard_of(text), Guard::OnlyByName, "{text}");
        }
    }

    #[test]
    fn ordinary_addresses_are_open() {
        for text in
            ["10.0.0.1", "192.168.1.255", "8.8.8.8", "fd00::1", "2001:db8::1", "64:ff9b::8.8.8.8", "fc00::1"]
        {
            assert_eq!(guard_of(text), Guard::Open, "{text}");
        }
    }
}

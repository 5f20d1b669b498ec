//! Which addresses we send to because somebody else named them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Why an address is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refused {
    /// The other end named a loopback address.
    #[error("a loopback address")]
    Loopback,
    /// The other end named a link-local address.
    #[error("a link-local address")]
    LinkLocal,
    /// The other end named the metadata service of a cloud.
    #[error("the address of a metadata service")]
    Metadata,
    /// The other end named a multicast or broadcast address.
    #[error("a multicast or broadcast address")]
    Multicast,
    /// The other end named no address that a datagram can go to.
    #[error("no address or no port")]
    Unspecified,
    /// The other end named an address inside the tunnel.
    #[error("an address inside the tunnel")]
    InsideTunnel,
    /// The other end named one of our own addresses.
    #[error("one of our own addresses")]
    Own,
    /// The other end named a private address, or one inside this site, that no grant covers.
    #[error("an address inside a site that no grant covers")]
    InsideSite,
    /// Sixteen are enough.
    #[error("too many candidates")]
    TooMany,
}

impl Refused {
    /// The name under which refusals are counted.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Loopback => "candidate_loopback",
            Self::LinkLocal => "candidate_link_local",
            Self::Metadata => "candidate_metadata",
            Self::Multicast => "candidate_multicast",
            Self::Unspecified => "candidate_unspecified",
            Self::InsideTunnel => "candidate_inside_tunnel",
            Self::Own => "candidate_own",
            Self::InsideSite => "candidate_inside_site",
            Self::TooMany => "candidate_too_many",
        }
    }
}

/// What decides about addresses, apart from the ranges that are never used.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hygiene {
    /// Our own addresses.
    pub own: Vec<IpAddr>,
    /// Networks at this site. Private ranges count as such anyway.
    pub site: Vec<IpNet>,
    /// What is granted on this connection: inside it, addresses of a site may be used.
    pub granted: Vec<IpNet>,
    /// Networks that the operator allows although they are private. Laboratories use reserved ranges.
    pub allowed: Vec<IpNet>,
}

impl Hygiene {
    /// Whether an address that the other end named may be sent to.
    ///
    /// # Errors
    /// The first reason that speaks against it.
    pub fn check_candidate(&self, address: SocketAddr) -> Result<(), Refused> {
        self.check_source(address)?;
        let ip = address.ip().to_canonical();
        let inside =
            forms(ip).any(|form| is_private(form) || self.site.iter().any(|net| net.contains(&form)));
        if inside && !self.covers(ip) {
            return Err(Refused::InsideSite);
        }
        Ok(())
    }

    /// Whether an address that authenticated datagrams came from may be answered. It has shown itself, so private ones
    /// may: two ends in one network find each other this way.
    ///
    /// # Errors
    /// The first reason that speaks against it.
    pub fn check_source(&self, address: SocketAddr) -> Result<(), Refused> {
        if address.port() == 0 {
            return Err(Refused::Unspecified);
        }
        let ip = address.ip().to_canonical();
        forms(ip).try_for_each(never)?;
        if self.own.iter().any(|own| own.to_canonical() == ip) {
            return Err(Refused::Own);
        }
        Ok(())
    }

    fn covers(&self, ip: IpAddr) -> bool {
        self.granted.iter().chain(&self.allowed).any(|net| net.contains(&ip))
    }
}

/// Where the addresses of devices and gateways inside the tunnel, and the mapped names, come from.
const TUNNEL_V4: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
const TUNNEL_V6: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0xfd70, 0x6f73, 0x7400, 0, 0, 0, 0, 0), 40);

/// Metadata services of clouds: the common one, Oracle's, and those of AWS and Google over IPv6.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
    IpAddr::V6(Ipv6Addr::new(0xfd20, 0x00ce, 0, 0, 0, 0, 0, 0x0254)),
];

fn never(ip: IpAddr) -> Result<(), Refused> {
    if METADATA.contains(&ip) {
        return Err(Refused::Metadata);
    }
    if ip.is_loopback() {
        return Err(Refused::Loopback);
    }
    if ip.is_multicast() {
        return Err(Refused::Multicast);
    }
    match ip {
        IpAddr::V4(v4) => match v4.octets() {
            [0, ..] => Err(Refused::Unspecified),
            [169, 254, ..] => Err(Refused::LinkLocal),
            // Reserved for the future (RFC 1112, section 4), limited broadcast included.
            [240..=255, ..] => Err(Refused::Multicast),
            _ if TUNNEL_V4.contains(&v4) => Err(Refused::InsideTunnel),
            _ => Ok(()),
        },
        IpAddr::V6(v6) if v6.is_unspecified() => Err(Refused::Unspecified),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Err(Refused::LinkLocal),
        IpAddr::V6(v6) if TUNNEL_V6.contains(&v6) => Err(Refused::InsideTunnel),
        IpAddr::V6(_) => Ok(()),
    }
}

/// RFC 1918 and RFC 4193; fec0::/10 was site-local before RFC 3879.
pub(crate) fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_private(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.segments()[0] & 0xffc0 == 0xfec0,
    }
}

/// The address, and the IPv4 address that its IPv6 form leads to through a translator or a tunnel, if any: compatible
/// (RFC 4291, section 2.5.5.1), NAT64 (RFC 6052), 6to4 (RFC 3056) and Teredo (RFC 4380, section 4).
fn forms(ip: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inner = match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
            [0, 0, 0, 0, 0, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some((high, low)),
            [0x2002, high, low, ..] => Some((high, low)),
            [0x2001, 0, _, _, _, _, high, low] => Some((!high, !low)),
            _ => None,
        },
    };
    let inner = inner.map(|(high, low)| IpAddr::V4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low))));
    [Some(ip), inner].into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(hygiene: &Hygiene, address: &str) -> Result<(), Refused> {
        hygiene.check_candidate(address.parse().unwrap())
    }

    #[test]
    fn addresses_that_are_never_used_are_refused_with_their_reason() {
        let hygiene = Hygiene {
            // Not even the operator opens these.
            allowed: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
            own: vec!["203.0.113.9".parse().unwrap()],
            ..Hygiene::default()
        };

        for (address, reason) in [
            ("127.0.0.1:1", Refused::Loopback),
            ("[::1]:1", Refused::Loopback),
            ("[::ffff:127.0.0.1]:1", Refused::Loopback),
            ("[64:ff9b::127.0.0.1]:1", Refused::Loopback),
            ("169.254.1.1:1", Refused::LinkLocal),
            ("[fe80::1]:1", Refused::LinkLocal),
            ("169.254.169.254:80", Refused::Metadata),
            ("[::ffff:169.254.169.254]:80", Refused::Metadata),
            ("[::169.254.169.254]:80", Refused::Metadata),
            ("[64:ff9b::a9fe:a9fe]:80", Refused::Metadata),
            ("[2002:a9fe:a9fe::1]:80", Refused::Metadata),
            ("[fd00:ec2::254]:80", Refused::Metadata),
            ("224.0.0.1:1", Refused::Multicast),
            ("255.255.255.255:1", Refused::Multicast),
            ("[ff02::1]:1", Refused::Multicast),
            ("0.0.0.0:1", Refused::Unspecified),
            ("[::]:1", Refused::Unspecified),
            ("198.51.100.1:0", Refused::Unspecified),
            ("100.64.0.1:1", Refused::InsideTunnel),
            ("100.127.255.255:1", Refused::InsideTunnel),
            ("[fd70:6f73:7401::1]:1", Refused::InsideTunnel),
            ("203.0.113.9:1", Refused::Own),
            ("[::ffff:203.0.113.9]:1", Refused::Own),
        ] {
            assert_eq!(check(&hygiene, address), Err(reason), "{address}");
        }
        for address in ["198.51.100.1:1", "[2001:db8::1]:1", "100.128.0.1:1", "100.63.0.1:1"] {
            assert_eq!(check(&hygiene, address), Ok(()), "{address}");
        }
    }

    #[test]
    fn addresses_inside_a_site_are_used_only_inside_a_grant() {
        let mut hygiene = Hygiene { site: vec!["203.0.113.0/24".parse().unwrap()], ..Hygiene::default() };

        for address in
            ["10.0.0.5:1", "192.168.1.1:1", "[fd00::5]:1", "203.0.113.7:1", "[64:ff9b::10.0.0.5]:1"]
        {
            assert_eq!(check(&hygiene, address), Err(Refused::InsideSite), "{address}");
        }
        hygiene.granted = vec!["10.0.0.0/24".parse().unwrap()];
        assert_eq!(check(&hygiene, "10.0.0.5:1"), Ok(()));
        assert_eq!(check(&hygiene, "10.0.1.5:1"), Err(Refused::InsideSite));
        hygiene.allowed = vec!["203.0.113.0/28".parse().unwrap()];
        assert_eq!(check(&hygiene, "203.0.113.7:1"), Ok(()));
    }

    #[test]
    fn a_private_source_that_has_shown_itself_may_be_answered() {
        let hygiene = Hygiene::default();

        assert_eq!(hygiene.check_source("192.168.1.1:1".parse().unwrap()), Ok(()));
        assert_eq!(hygiene.check_source("127.0.0.1:1".parse().unwrap()), Err(Refused::Loopback));
    }
}

//! Which addresses a relay has, which it relays from, and which it tells others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use actors_relay::RelayAddress;
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use services_chassis::Failure;

/// What a relay has to know of addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addresses {
    /// Every address of this host.
    pub own: Vec<IpAddr>,
    /// Where relayed sockets are opened, the preferred one of each family first.
    pub relay: Vec<RelayAddress>,
    /// Where clients send to, as they see it.
    pub announced: Vec<SocketAddr>,
}

/// What the host has.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// Every address.
    pub own: Vec<IpAddr>,
    /// The source of packets to the internet, for each family.
    pub towards_internet: Vec<IpAddr>,
}

impl Host {
    /// Looks at this host.
    ///
    /// # Errors
    /// When the kernel does not list its addresses.
    pub fn look() -> Result<Self, Failure> {
        let interfaces = getifaddrs()
            .map_err(|error| Failure::failed(format!("cannot list the addresses of this host: {error}")))?;
        let own = interfaces
            .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
            .filter_map(|interface| interface.address)
            .filter_map(|address| {
                let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
                v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
            })
            .collect();
        // Nothing is sent: connecting a UDP socket only asks for the route. Two addresses that everybody routes.
        let routes = [
            (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from([1, 1, 1, 1])),
            (Ipv6Addr::UNSPECIFIED.into(), IpAddr::from([0x2606, 0x4700, 0, 0, 0, 0, 0, 0x1111])),
        ];
        let source = |(bind, to): (IpAddr, IpAddr)| {
            let socket = UdpSocket::bind((bind, 0)).ok()?;
            socket.connect((to, 443)).ok()?;
            Some(socket.local_addr().ok()?.ip())
        };
        Ok(Self { own, towards_internet: routes.into_iter().filter_map(source).collect() })
    }
}

/// Puts together what the relay was told and what the host has.
///
/// # Errors
/// When there is nothing to relay from, or an external address has no local one of its family.
pub fn addresses(listen: &[SocketAddr], external: &[IpAddr], host: &Host) -> Result<Addresses, Failure> {
    let mut relay = Vec::new();
    for is_v4 in [true, false] {
        relay.extend(of_family(listen, external, host, is_v4)?);
    }
    if relay.is_empty() {
        return Err(Failure::failed("this host has no address to relay from")
            .fix("name one with --listen ADDRESS:PORT"));
    }
    let announced = announced(listen, &relay);
    Ok(Addresses { own: host.own.clone(), relay, announced })
}

/// Listening addresses as clients see them.
pub fn announced(listen: &[SocketAddr], relay: &[RelayAddress]) -> Vec<SocketAddr> {
    let mut announced = Vec::new();
    for listener in listen {
        let fits = |address: &&RelayAddress| {
            address.local == listener.ip()
                || (listener.ip().is_unspecified() && address.local.is_ipv4() == listener.is_ipv4())
        };
        if let Some(address) = relay.iter().find(fits) {
            announced.push(SocketAddr::new(address.public, listener.port()));
        }
    }
    announced.dedup();
    announced
}

fn of_family(
    listen: &[SocketAddr],
    external: &[IpAddr],
    host: &Host,
    is_v4: bool,
) -> Result<Vec<RelayAddress>, Failure> {
    let listen: Vec<&SocketAddr> = listen.iter().filter(|listener| listener.is_ipv4() == is_v4).collect();
    let external = external.iter().copied().find(|ip| ip.is_ipv4() == is_v4);
    if listen.is_empty() {
        // A client over IPv4 may still ask for an IPv6 relayed address, if the operator has named one.
        return match external {
            Some(ip) if host.own.contains(&ip) => Ok(vec![RelayAddress { local: ip, public: ip }]),
            Some(_) | None => Ok(Vec::new()),
        };
    }
    let mut locals: Vec<IpAddr> =
        listen.iter().map(|listener| listener.ip()).filter(|ip| !ip.is_unspecified()).collect();
    if listen.iter().any(|listener| listener.ip().is_unspecified()) {
        let usable = |ip: &&IpAddr| ip.is_ipv4() == is_v4 && is_usable(**ip);
        let preferred = external.filter(|ip| host.own.contains(ip));
        let towards = host.towards_internet.iter().copied().filter(|ip| ip.is_ipv4() == is_v4);
        locals.extend(preferred.into_iter().chain(towards).chain(host.own.iter().filter(usable).copied()));
    }
    let mut seen = Vec::new();
    locals.retain(|ip| {
        !seen.contains(ip) && {
            seen.push(*ip);
            true
        }
    });
    let Some(first) = locals.first().copied() else {
        return match external {
            Some(ip) => Err(Failure::failed(format!(
                "--external-address {ip}: this host has no address of its family"
            ))),
            None => Ok(Vec::new()),
        };
    };
    Ok(locals
        .into_iter()
        .map(|local| RelayAddress { local, public: external.filter(|_| local == first).unwrap_or(local) })
        .collect())
}

/// Whether others could reach it at all.
fn is_usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn at(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn host() -> Host {
        Host {
            own: ips(&["127.0.0.1", "172.17.0.1", "10.0.0.5", "::1", "fe80::1", "2600:99::1"]),
            towards_internet: ips(&["10.0.0.5", "2600:99::1"]),
        }
    }

    fn same(ip: &str) -> RelayAddress {
        RelayAddress { local: ip.parse().unwrap(), public: ip.parse().unwrap() }
    }

    #[test]
    fn a_named_listening_address_is_the_one_to_relay_from() {
        let found = addresses(&at(&["127.0.0.1:3478"]), &[], &host()).unwrap();

        assert_eq!(found.relay, [same("127.0.0.1")]);
        assert_eq!(found.announced, at(&["127.0.0.1:3478"]));
    }

    #[test]
    fn an_unspecified_one_means_the_address_towards_the_internet_first() {
        let found = addresses(&at(&["0.0.0.0:3478", "[::]:3478"]), &[], &host()).unwrap();

        assert_eq!(found.relay, [same("10.0.0.5"), same("172.17.0.1"), same("2600:99::1")]);
        assert_eq!(found.announced, at(&["10.0.0.5:3478", "[2600:99::1]:3478"]));
    }

    #[test]
    fn behind_a_one_to_one_nat_others_see_the_external_address() {
        let found = addresses(&at(&["0.0.0.0:3478"]), &ips(&["198.51.99.1"]), &host()).unwrap();

        let first =
            RelayAddress { local: "10.0.0.5".parse().unwrap(), public: "198.51.99.1".parse().unwrap() };
        assert_eq!(found.relay, [first, same("172.17.0.1")]);
        assert_eq!(found.announced, at(&["198.51.99.1:3478"]));
    }

    #[test]
    fn an_external_address_that_the_host_has_is_chosen() {
        let found = addresses(&at(&["0.0.0.0:3478"]), &ips(&["172.17.0.1"]), &host()).unwrap();

        assert_eq!(found.relay[0], same("172.17.0.1"));
    }

    #[test]
    fn a_host_without_a_family_is_told_apart_from_a_mistake() {
        let only_v4 = Host { own: ips(&["127.0.0.1", "10.0.0.5"]), towards_internet: ips(&["10.0.0.5"]) };

        let found = addresses(&at(&["0.0.0.0:3478", "[::]:3478"]), &[], &only_v4).unwrap();
        assert_eq!(found.relay, [same("10.0.0.5")]);
        assert!(addresses(&at(&["[::]:3478"]), &ips(&["2600:99::1"]), &only_v4).is_err());
        assert!(addresses(&at(&["[::]:3478"]), &[], &only_v4).is_err());
    }

    #[test]
    fn this_host_has_at_least_its_loopback() {
        assert!(Host::look().unwrap().own.contains(&IpAddr::from([127, 0, 0, 1])));
    }
}

//! The host's own addresses, as far as others may be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

/// The addresses of interfaces that are up, except loopback, link-local and those of the tunnel itself.
pub fn host_addresses(tun: &str) -> Vec<IpAddr> {
    let Ok(interfaces) = getifaddrs() else { return Vec::new() };
    let mut addresses = Vec::new();
    for interface in interfaces {
        if interface.interface_name == tun || !interface.flags.contains(InterfaceFlags::IFF_UP) {
            continue;
        }
        let Some(address) = interface.address else { continue };
        let address: Option<IpAddr> = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => Some(v4.ip().into()),
            (None, Some(v6)) => Some(v6.ip().into()),
            (None, None) => None,
        };
        if let Some(address) = address
            && may_be_told(address)
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

fn may_be_told(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            // Inner addresses and mapped names of any tunnel of ours (100.64.0.0/10).
            let tunnel = Ipv4Addr::new(100, 64, 0, 0);
            let in_tunnel = address.to_bits() >> 22 == tunnel.to_bits() >> 22;
            !(address.is_loopback() || address.is_link_local() || address.is_unspecified() || in_tunnel)
        }
        IpAddr::V6(address) => {
            let in_tunnel = address.segments().starts_with(&[0xfd70, 0x6f73]);
            !(address.is_loopback()
                || address.is_unicast_link_local()
                || address == Ipv6Addr::UNSPECIFIED
                || in_tunnel)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_that_others_can_use_are_told() {
        for told in ["192.0.2.1", "10.0.0.1", "2001:db8::1", "100.128.0.1"] {
            assert!(may_be_told(told.parse().unwrap()), "{told}");
        }
        for kept in ["127.0.0.1", "169.254.1.1", "100.64.0.2", "::1", "fe80::1", "fd70:6f73:7401::2"] {
            assert!(!may_be_told(kept.parse().unwrap()), "{kept}");
        }
    }
}

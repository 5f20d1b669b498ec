//! What a gateway's host decides by itself, whatever its grants say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::Reason;
use crate::address::{Guard, forms, guard};

/// Limits of one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Flows at a time.
    pub flows: usize,
    /// Refusals answered at once.
    pub refusal_burst: u32,
    /// Refusals answered a second after that.
    pub refusal_rate: u32,
}

impl Default for Limits {
    /// 8,192 flows: a busy browser has a few hundred, and this many take 3 MiB. 64 refusals at once and 100 a second:
    /// an application's parallel attempts all fail fast, a scan does not make us send much.
    fn default() -> Self {
        Self { flows: 8192, refusal_burst: 64, refusal_rate: 100 }
    }
}

/// One gateway's rules for all its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GatewayRules {
    /// The gateway's own addresses, inner and outer: reached only if an `ip` resource names one exactly.
    pub own: Vec<IpAddr>,
    /// Ranges guarded in the same way; by default those of the tunnel, so that no prefix leads to another device.
    pub closed: Vec<IpNet>,
    /// If given, nothing outside these is reached (`--allow-resource`).
    pub ceiling: Option<Vec<IpNet>>,
    /// Limits of each peer.
    pub limits: Limits,
}

impl Default for GatewayRules {
    fn default() -> Self {
        Self { own: Vec::new(), closed: tunnel_ranges().to_vec(), ceiling: None, limits: Limits::default() }
    }
}

/// Inner addresses and mapped names of both families.
fn tunnel_ranges() -> [IpNet; 3] {
    let v4 = Ipv4Net::new_assert(Ipv4Addr::new(100, 64, 0, 0), 10);
    let inner = Ipv6Net::new_assert(Ipv6Addr::new(0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, 0), 64);
    let mapped = Ipv6Net::new_assert(Ipv6Addr::new(0xfd70, 0x6f73, 0x7402, 0, 0, 0, 0, 0), 64);
    [v4.into(), inner.into(), mapped.into()]
}

impl GatewayRules {
    /// Whether a real address may be reached; `exact` when an `ip` resource names it.
    ///
    /// # Errors
    /// [`Reason::Forbidden`] or [`Reason::AboveCeiling`].
    pub fn admit(&self, address: IpAddr, exact: bool) -> Result<(), Reason> {
        let guarded = match guard(address) {
            Guard::Never => return Err(Reason::Forbidden),
            Guard::OnlyByName => true,
            Guard::Open => forms(address)
                .any(|form| self.own.contains(&form) || self.closed.iter().any(|net| net.contains(&form))),
        };
        if guarded && !exact {
            return Err(Reason::Forbidden);
        }
        match &self.ceiling {
            Some(ceiling) if !ceiling.iter().any(|net| net.contains(&address)) => Err(Reason::AboveCeiling),
            Some(_) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn own_addresses_need_an_exact_name_in_every_form() {
        let rules = GatewayRules { own: vec![ip("192.0.2.1"), ip("2001:db8::9")], ..GatewayRules::default() };

        for own in ["192.0.2.1", "2001:db8::9", "64:ff9b::192.0.2.1", "100.64.0.7", "fd70:6f73:7401::1"] {
            assert_eq!(rules.admit(ip(own), false), Err(Reason::Forbidden), "{own}");
            assert_eq!(rules.admit(ip(own), true), Ok(()), "{own}");
        }
        assert_eq!(rules.admit(ip("192.0.2.2"), false), Ok(()));
    }

    #[test]
    fn the_ceiling_holds_for_exact_names_too() {
        let rules =
            GatewayRules { ceiling: Some(vec!["10.1.0.0/16".parse().unwrap()]), ..GatewayRules::default() };

        assert_eq!(rules.admit(ip("10.1.2.3"), false), Ok(()));
        assert_eq!(rules.admit(ip("10.2.2.3"), true), Err(Reason::AboveCeiling));
        assert_eq!(rules.admit(ip("fd00::1"), false), Err(Reason::AboveCeiling));
    }

    #[test]
    fn multicast_is_never_reached() {
        assert_eq!(GatewayRules::default().admit(ip("224.0.0.251"), true), Err(Reason::Forbidden));
    }
}

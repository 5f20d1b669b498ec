//! Where somebody wants to go, as people write it: `wiki:443`, `wiki.corp.example:443`, `10.20.0.7:53/udp`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use protocol_control::{ResourceAddress, TrafficFilter};
use protocol_names::{Name, Pattern};

use super::Resource;

/// How somebody wants to go there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// TCP, on this port.
    Tcp(u16),
    /// UDP, on this port.
    Udp(u16),
    /// ICMP echo.
    Icmp,
}

/// A destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct To {
    /// A resource's name, an address or a DNS name.
    pub host: String,
    /// How, when it was said.
    pub over: Option<Over>,
}

/// The text is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a destination; write a resource, a name or an address, and a port if you like: wiki, wiki:443, 10.20.0.7:53/udp, [2001:db8::7]:443, wiki/icmp"
)]
pub struct NotADestination;

impl FromStr for To {
    type Err = NotADestination;

    fn from_str(text: &str) -> Result<Self, NotADestination> {
        let (place, protocol) = match text.rsplit_once('/') {
            Some((place, protocol)) => (place, Some(protocol)),
            None => (text, None),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, "")) => (host, None),
            Some((host, port)) => (host, Some(port.strip_prefix(':').ok_or(NotADestination)?)),
            None if place.parse::<IpAddr>().is_ok() => (place, None),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or(NotADestination));
        let over = match (protocol, port.transpose()?) {
            (None, None) => None,
            (None | Some("tcp"), Some(port)) => Some(Over::Tcp(port)),
            (Some("udp"), Some(port)) => Some(Over::Udp(port)),
            (Some("icmp"), None) => Some(Over::Icmp),
            (Some(_), _) => return Err(NotADestination),
        };
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let is_host =
            host.parse::<IpAddr>().is_ok() || ((1..=255).contains(&host.len()) && host.bytes().all(plain));
        if is_host { Ok(Self { host: host.to_owned(), over }) } else { Err(NotADestination) }
    }
}

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match self.over {
            None => f.write_str(&self.host),
            Some(Over::Tcp(port)) => write!(f, "{host}:{port}"),
            Some(Over::Udp(port)) => write!(f, "{host}:{port}/udp"),
            Some(Over::Icmp) => write!(f, "{host}/icmp"),
        }
    }
}

impl To {
    /// How closely a resource fits, the least first: by its own name, by an exact address or name, by the longest prefix,
    /// by a pattern.
    fn fit(&self, resource: &Resource) -> Option<(u8, u8)> {
        if resource.name == self.host || resource.id.to_string() == self.host {
            return Some((0, 0));
        }
        let address = self.host.parse::<IpAddr>().ok();
        match (&resource.address, address) {
            (ResourceAddress::Ip(own), Some(address)) => (*own == address).then_some((1, 0)),
            (ResourceAddress::Cidr(net), Some(address)) => {
                net.contains(&address).then(|| (2, 128 - net.prefix_len()))
            }
            (ResourceAddress::Dns(pattern), None) => {
                let name: Name = self.host.to_ascii_lowercase().parse().ok()?;
                let pattern: Pattern = pattern.parse().ok()?;
                pattern.matches(&name).then(|| (if pattern.exact().is_some() { 1 } else { 3 }, 0))
            }
            (ResourceAddress::Ip(_) | ResourceAddress::Cidr(_), None)
            | (ResourceAddress::Dns(_), Some(_)) => None,
        }
    }

    /// The resources that it may be, the closest first.
    pub fn find<'a>(&self, resources: impl IntoIterator<Item = &'a Resource>) -> Vec<&'a Resource> {
        let mut found: Vec<_> =
            resources.into_iter().filter_map(|it| self.fit(it).map(|fit| (fit, &it.name, it))).collect();
        found.sort_by_key(|(fit, name, _)| (*fit, *name));
        found.into_iter().map(|(_, _, resource)| resource).collect()
    }

    /// Whether the resource's filters let it through.
    pub fn passes(&self, resource: &Resource) -> bool {
        let Some(over) = self.over else { return true };
        resource.filters.is_empty()
            || resource.filters.iter().any(|filter| match (filter, over) {
                (TrafficFilter::Tcp { from, to }, Over::Tcp(port))
                | (TrafficFilter::Udp { from, to }, Over::Udp(port)) => (*from..=*to).contains(&port),
                (TrafficFilter::Icmp, Over::Icmp) => true,
                (TrafficFilter::Tcp { .. } | TrafficFilter::Udp { .. } | TrafficFilter::Icmp, _) => false,
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{resource, site};

    fn to(text: &str) -> To {
        text.parse().unwrap()
    }

    #[test]
    fn a_destination_reads_back_as_it_was_written() {
        for text in [
            "wiki",
            "wiki:443",
            "wiki.corp.example:53/udp",
            "wiki/icmp",
            "10.20.0.7",
            "10.20.0.7:22",
            "2001:db8::7",
            "[2001:db8::7]:443",
        ] {
            assert_eq!(to(text).to_string(), text);
        }
        assert_eq!(to("wiki:443/tcp"), to("wiki:443"));
    }

    #[test]
    fn text_that_is_no_destination_is_refused() {
        for text in [
            "",
            ":443",
            "wiki:",
            "wiki:0",
            "wiki:65536",
            "wiki/udp",
            "wiki:1/icmp",
            "wiki:1/sctp",
            "[::1]x",
            "w\u{ed}ki",
            "a b",
        ] {
            assert_eq!(text.parse::<To>(), Err(NotADestination), "{text}");
        }
    }

    #[test]
    fn the_closest_resource_comes_first() {
        let office = site("office");
        let all = [
            resource("lan", &office, "10.20.0.0/16"),
            resource("servers", &office, "10.20.1.0/24"),
            resource("wiki", &office, "wiki.corp.example"),
        ];
        let found = |text: &str| {
            to(text).find(&all).into_iter().map(|resource| resource.name.as_str()).collect::<Vec<_>>()
        };

        assert_eq!(found("10.20.1.7"), ["servers", "lan"]);
        assert_eq!(found("10.20.2.7:22"), ["lan"]);
        assert_eq!(found("WIKI.corp.example:443"), ["wiki"]);
        assert_eq!(found("wiki:443"), ["wiki"]);
        assert!(found("other.corp.example").is_empty());
    }

    #[test]
    fn filters_let_through_what_they_name() {
        let resource = resource("wiki", &site("office"), "wiki.corp.example");

        for (text, passes) in [
            ("wiki", true),
            ("wiki:80", true),
            ("wiki/icmp", true),
            ("wiki:443", false),
            ("wiki:80/udp", false),
        ] {
            assert_eq!(to(text).passes(&resource), passes, "{text}");
        }
    }
}

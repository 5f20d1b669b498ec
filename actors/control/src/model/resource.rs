//! A resource's address and filters as people write them.

use ipnet::IpNet;
use protocol_control::{ResourceAddress, TrafficFilter};

/// Why an address is not one. Says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// No such kind.
    #[error("unknown kind; write cidr, ip or dns")]
    Kind,
    /// Not a network.
    #[error("not a network; write an address and a prefix length such as 10.20.0.0/24 or 2001:db8::/64")]
    Cidr,
    /// A network with host bits.
    #[error("the address has bits beyond its prefix length; write {0}")]
    HostBits(IpNet),
    /// Not an address.
    #[error("not an address; write one such as 10.20.0.7 or 2001:db8::7")]
    Ip,
    /// Not a name.
    #[error("not a DNS name; write an exact name of letters, digits and hyphens such as wiki.corp.example")]
    Dns,
    /// An address that no resource may have.
    #[error(
        "{0} is not reachable through a gateway: loopback, link-local, multicast and tunnel addresses are not"
    )]
    Unreachable(&'static str),
}

/// Why a filter is not one. Says what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidFilter {
    /// Unknown shape.
    #[error("not a filter; write tcp, udp, icmp, tcp:443 or udp:1-1024")]
    Shape,
    /// A port that is none.
    #[error("port {0} is out of range; ports are 1 to 65535")]
    Port(String),
    /// A range the wrong way round.
    #[error("the range runs backwards; write {protocol}:{low}-{high}")]
    Backwards {
        /// `tcp` or `udp`.
        protocol: &'static str,
        /// The lower port.
        low: u16,
        /// The higher port.
        high: u16,
    },
}

/// Reads an address of this kind.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse_address(kind: &str, text: &str) -> Result<ResourceAddress, InvalidAddress> {
    match kind {
        "cidr" => {
            let net: IpNet = text.parse().map_err(|_| InvalidAddress::Cidr)?;
            if net.trunc() != net {
                return Err(InvalidAddress::HostBits(net.trunc()));
            }
            reachable(net)?;
            Ok(ResourceAddress::Cidr(net))
        }
        "ip" => {
            let address: std::net::IpAddr = text.parse().map_err(|_| InvalidAddress::Ip)?;
            reachable(IpNet::from(address))?;
            Ok(ResourceAddress::Ip(address))
        }
        "dns" => {
            let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
            let label = |label: &str| {
                (1..=63).contains(&label.len())
                    && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
                    && !label.starts_with('-')
                    && !label.ends_with('-')
            };
            let number = name.rsplit('.').next().is_none_or(|last| last.bytes().all(|b| b.is_ascii_digit()));
            if name.len() > 253 || !name.contains('.') || number || !name.split('.').all(label) {
                return Err(InvalidAddress::Dns);
            }
            Ok(ResourceAddress::Dns(name))
        }
        _ => Err(InvalidAddress::Kind),
    }
}

/// Refuses what a gateway never forwards to. A wider network that contains such a range is fine: the gateway drops
/// those addresses packet by packet.
fn reachable(net: IpNet) -> Result<(), InvalidAddress> {
    const NEVER: [(&str, &str); 9] = [
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("100.64.0.0/10", "a tunnel address"),
        ("0.0.0.0/8", "an unspecified address"),
        ("::/127", "loopback"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
        ("fd70:6f73:7400::/46", "a tunnel address"),
    ];
    for (range, what) in NEVER {
        if range.parse::<IpNet>().is_ok_and(|range| range.contains(&net)) {
            return Err(InvalidAddress::Unreachable(what));
        }
    }
    Ok(())
}

/// The kind and the text of an address.
pub fn write_address(address: &ResourceAddress) -> (&'static str, String) {
    match address {
        ResourceAddress::Cidr(net) => ("cidr", net.to_string()),
        ResourceAddress::Ip(address) => ("ip", address.to_string()),
        ResourceAddress::Dns(name) => ("dns", name.clone()),
    }
}

/// Reads a filter.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse_filter(text: &str) -> Result<TrafficFilter, InvalidFilter> {
    let (protocol, ports) = match text.split_once(':') {
        None => (text, "1-65535"),
        Some((protocol, ports)) if protocol != "icmp" => (protocol, ports),
        Some(_) => return Err(InvalidFilter::Shape),
    };
    let protocol = match protocol {
        "icmp" => return Ok(TrafficFilter::Icmp),
        "tcp" => "tcp",
        "udp" => "udp",
        _ => return Err(InvalidFilter::Shape),
    };
    let port = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty() {
        false => Err(InvalidFilter::Shape),
        true => match text.parse::<u16>() {
            Ok(port) if port > 0 => Ok(port),
            Ok(_) | Err(_) => Err(InvalidFilter::Port(text.chars().take(8).collect())),
        },
    };
    let (from, to) = match ports.split_once('-') {
        Some((from, to)) => (port(from)?, port(to)?),
        None => (port(ports)?, port(ports)?),
    };
    if from > to {
        return Err(InvalidFilter::Backwards { protocol, low: to, high: from });
    }
    Ok(if protocol == "tcp" { TrafficFilter::Tcp { from, to } } else { TrafficFilter::Udp { from, to } })
}

/// The text of a filter.
pub fn write_filter(filter: &TrafficFilter) -> String {
    let ports = |protocol: &str, from: u16, to: u16| match (from, to) {
        (1, 65535) => protocol.to_owned(),
        (from, to) if from == to => format!("{protocol}:{from}"),
        (from, to) => format!("{protocol}:{from}-{to}"),
    };
    match *filter {
        TrafficFilter::Tcp { from, to } => ports("tcp", from, to),
        TrafficFilter::Udp { from, to } => ports("udp", from, to),
        TrafficFilter::Icmp => "icmp".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_read_back_from_their_own_text() {
        for text in ["tcp", "udp", "icmp", "tcp:80", "udp:1-1024"] {
            assert_eq!(parse_filter(text).map(|filter| write_filter(&filter)).as_deref(), Ok(text));
        }
    }

    #[test]
    fn a_wrong_filter_says_what_to_write() {
        assert_eq!(parse_filter("tcp:70000"), Err(InvalidFilter::Port("70000".into())));
        assert_eq!(parse_filter("tcp:0"), Err(InvalidFilter::Port("0".into())));
        assert_eq!(
            parse_filter("udp:9-1"),
            Err(InvalidFilter::Backwards { protocol: "udp", low: 1, high: 9 })
        );
        for text in ["", "tcp:", "icmp:8", "sctp:1", "tcp:1-2-3", "tcp:+1", "TCP:1"] {
            assert_eq!(parse_filter(text), Err(InvalidFilter::Shape), "{text}");
        }
    }

    #[test]
    fn addresses_are_kept_in_one_form() {
        let dns = parse_address("dns", "Wiki.Corp.Example.").unwrap();

        assert_eq!(dns, ResourceAddress::Dns("wiki.corp.example".into()));
        assert_eq!(
            parse_address("cidr", "10.20.0.7/24"),
            Err(InvalidAddress::HostBits("10.20.0.0/24".parse().unwrap()))
        );
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for text in ["", "wiki", "*.corp.example", "a..b", "-a.example", "10.0.0.1", "wiki corp.example"] {
            assert_eq!(parse_address("dns", text), Err(InvalidAddress::Dns), "{text}");
        }
    }

    #[test]
    fn addresses_that_no_gateway_forwards_to_are_refused() {
        for (kind, text) in
            [("ip", "127.0.0.1"), ("cidr", "169.254.0.0/16"), ("ip", "::1"), ("ip", "100.64.0.1")]
        {
            assert!(matches!(parse_address(kind, text), Err(InvalidAddress::Unreachable(_))), "{text}");
        }
        assert!(parse_address("cidr", "0.0.0.0/0").is_ok());
    }
}

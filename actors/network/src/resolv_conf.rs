//! Reading `/etc/resolv.conf` (resolv.conf(5)) and `/etc/hosts` (hosts(5)).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use protocol_names::Name;

/// Nobody's file is larger on purpose.
const LARGEST: u64 = 4 << 20;
const DNS_PORT: u16 = 53;

/// The servers that a `resolv.conf` names, in order. Servers with a zone (`fe80::1%eth0`) are left out.
pub fn servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        let server = words.next().and_then(|word| word.parse::<IpAddr>().ok());
        if let Some(server) = server.map(|ip| SocketAddr::new(ip, DNS_PORT))
            && !servers.contains(&server)
        {
            servers.push(server);
        }
    }
    servers
}

/// What a `hosts` file says: every name with its addresses, in order.
pub(crate) fn hosts(text: &str) -> BTreeMap<Name, Vec<IpAddr>> {
    let mut names: BTreeMap<Name, Vec<IpAddr>> = BTreeMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words.filter_map(|word| word.parse::<Name>().ok()) {
            let addresses = names.entry(name).or_default();
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    names
}

/// The text of a small file; nothing when it cannot be read.
pub(crate) fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(LARGEST).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_read_in_order_and_once() {
        let text = "# by hand\nsearch corp.example\nnameserver 192.0.2.1\n nameserver  2001:db8::1 # two\n\
            nameserver 192.0.2.1\nnameserver fe80::1%eth0\nnameserver nonsense\nnameserver\noptions edns0\n";

        assert_eq!(servers(text), ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()]);
    }

    #[test]
    fn hosts_are_read_with_all_their_names() {
        let text = "127.0.0.1 localhost\n10.0.0.5\tDB.corp.example db # the database\n#10.0.0.6 db\n\
            2001:db8::5 db.corp.example\n10.0.0.5 db\nnonsense db\n10.0.0.7\n";

        let hosts = hosts(text);

        let of = |name: &str| hosts.get(&name.parse().unwrap()).cloned().unwrap_or_default();
        assert_eq!(
            of("db.corp.example"),
            ["10.0.0.5".parse::<IpAddr>().unwrap(), "2001:db8::5".parse().unwrap()]
        );
        assert_eq!(of("db"), ["10.0.0.5".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts.len(), 3);
    }

    #[test]
    fn a_missing_file_says_nothing() {
        assert_eq!(read(Path::new("/nonexistent/resolv.conf")), "");
    }
}

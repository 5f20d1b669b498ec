//! Which country an address is in, out of small databases written here.

use std::net::Ipv6Addr;

use super::*;

/// A small database of countries, as the format's specification (version 2.0) lays it out.
pub(crate) fn database(networks: &[(&str, &str)]) -> Vec<u8> {
    // A node has two branches; a branch is nothing, another node, or a country.
    #[derive(Clone, Copy)]
    enum Branch {
        Nothing,
        Node(usize),
        Country(usize),
    }
    let text = |text: &str| {
        let mut bytes = vec![2 << 5 | text.len() as u8];
        bytes.extend_from_slice(text.as_bytes());
        bytes
    };
    let mut nodes = vec![[Branch::Nothing; 2]];
    let mut data = Vec::new();
    for (network, code) in networks {
        let network: ipnet::IpNet = network.parse().unwrap();
        let (address, length) = match network {
            ipnet::IpNet::V4(net) => {
                (Ipv6Addr::from(u128::from(u32::from(net.addr()))), net.prefix_len() + 96)
            }
            ipnet::IpNet::V6(net) => (net.addr(), net.prefix_len()),
        };
        let offset = data.len();
        data.extend(
            [vec![7 << 5 | 1], text("country"), vec![7 << 5 | 1], text("iso_code"), text(code)].concat(),
        );
        let mut at = 0;
        for depth in 0..length {
            let side = (u128::from(address) >> (127 - depth) & 1) as usize;
            if depth + 1 == length {
                nodes[at][side] = Branch::Country(offset);
            } else if let Branch::Node(next) = nodes[at][side] {
                at = next;
            } else {
                nodes.push([Branch::Nothing; 2]);
                nodes[at][side] = Branch::Node(nodes.len() - 1);
                at = nodes.len() - 1;
            }
        }
    }
    let mut file = Vec::new();
    for node in &nodes {
        for branch in node {
            let record = match branch {
                Branch::Nothing => nodes.len(),
                Branch::Node(next) => *next,
                Branch::Country(offset) => nodes.len() + 16 + offset,
            };
            file.extend_from_slice(&(record as u32).to_be_bytes()[1..]);
        }
    }
    file.extend([0; 16]);
    file.extend(data);
    file.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    file.push(7 << 5 | 9);
    let short = |n: u16| [vec![5 << 5 | 2], n.to_be_bytes().to_vec()].concat();
    file.extend([text("node_count"), vec![6 << 5 | 4], (nodes.len() as u32).to_be_bytes().to_vec()].concat());
    file.extend([text("record_size"), short(24), text("ip_version"), short(6)].concat());
    file.extend([text("database_type"), text("Test-Country"), text("languages"), vec![0, 4]].concat());
    file.extend([text("binary_format_major_version"), short(2)].concat());
    file.extend([text("binary_format_minor_version"), short(0)].concat());
    file.extend([text("build_epoch"), vec![1, 2, 1], text("description"), vec![7 << 5]].concat());
    file
}

/// The countries of these networks.
pub(crate) fn countries(networks: &[(&str, &str)]) -> Countries {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");
    std::fs::write(&file, database(networks)).unwrap();
    Countries::open(&file).unwrap()
}

fn of(countries: &Countries, address: &str) -> Option<String> {
    countries.of(address.parse().unwrap())
}

#[test]
fn an_address_is_in_the_country_of_its_network() {
    let countries =
        countries(&[("198.51.100.0/24", "DE"), ("203.0.113.0/25", "FR"), ("2001:db8::/32", "IT")]);

    assert_eq!(of(&countries, "198.51.100.7").as_deref(), Some("DE"));
    assert_eq!(of(&countries, "::ffff:198.51.100.7").as_deref(), Some("DE"));
    assert_eq!(of(&countries, "203.0.113.127").as_deref(), Some("FR"));
    assert_eq!(of(&countries, "203.0.113.128"), None);
    assert_eq!(of(&countries, "2001:db8::1").as_deref(), Some("IT"));
    assert_eq!(of(&countries, "10.0.0.1"), None);
    assert_eq!(of(&Countries::default(), "198.51.100.7"), None);
}

#[test]
fn a_file_that_is_no_database_is_refused_by_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");

    let missing = Countries::open(&file).unwrap_err();
    std::fs::write(&file, "network,country\n").unwrap();
    let other = Countries::open(&file).unwrap_err();

    assert!(matches!(missing, CountriesError::File(..)));
    assert!(matches!(other, CountriesError::Format(..)));
    assert!(other.to_string().contains("countries.mmdb"));
}

#[test]
fn a_file_that_was_replaced_is_read_anew() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("countries.mmdb");
    std::fs::write(&file, database(&[("198.51.100.0/24", "DE")])).unwrap();
    let countries = Countries::open(&file).unwrap();
    assert!(countries.newer().is_none());

    std::fs::write(&file, database(&[("198.51.100.0/24", "FR")])).unwrap();
    let later = SystemTime::now() + std::time::Duration::from_secs(5);
    std::fs::File::options().append(true).open(&file).unwrap().set_modified(later).unwrap();

    let newer = countries.newer().unwrap().unwrap();
    assert_eq!(of(&newer, "198.51.100.7").as_deref(), Some("FR"));
    assert!(newer.newer().is_none());
}

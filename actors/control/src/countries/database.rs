//! Writes small databases of countries, for tests here and for scenarios.

use std::net::IpAddr;

/// A small database of countries, as the format's specification (version 2.0) lays it out.
pub fn database(networks: &[(&str, &str)]) -> Vec<u8> {
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
        let (address, length) = network.split_once('/').unwrap();
        let length: u32 = length.parse().unwrap();
        let (address, length) = match address.parse().unwrap() {
            IpAddr::V4(address) => (u128::from(u32::from(address)), length + 96),
            IpAddr::V6(address) => (u128::from(address), length),
        };
        let offset = data.len();
        data.extend(
            [vec![7 << 5 | 1], text("country"), vec![7 << 5 | 1], text("iso_code"), text(code)].concat(),
        );
        let mut at = 0;
        for depth in 0..length {
            let side = (address >> (127 - depth) & 1) as usize;
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

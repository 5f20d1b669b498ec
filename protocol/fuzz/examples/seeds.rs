//! Writes the hand-made seeds of all corpora: for each target a few inputs that reach its depths, from which a fuzzer
//! finds the rest. `cargo run --example seeds` in `protocol/fuzz`.

use std::error::Error;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use protocol_control::{
    Candidate, CandidateKind, DenyReason, Frame, FromNode, GatewayRefusal, Hello, InnerAddresses, Offer,
    RequestAccess, ResourceAddress, ResourceView, RoleHello, ToNode, TrafficFilter, VERSION, encode,
};
use protocol_identity::{
    AccountId, DeviceId, GrantId, IdentityKey, KemPublic, RelayId, ResourceId, Signature, TokenKind,
    WireguardPublic,
};
use protocol_packet::{TcpFlags, TcpSegment, echo_request, icmp_error, tcp, udp};

type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() -> Result<(), Box<dyn Error>> {
    let corpora: [(&str, Seeds); 13] = [
        ("ip", packets()?),
        ("filter", filter_scripts()?),
        ("stun", stun_messages()),
        ("relay", relay_scripts()),
        ("datagram", datagrams()),
        ("session", session_scripts()),
        ("probe", probes()),
        ("agents", agent_scripts()),
        ("stub", stub_scripts()?),
        ("control", frames()?),
        ("identity_text", identity_texts()),
        (
            "names_text",
            texts(&["wiki.corp.example", "*.corp.example a.corp.example", "**.x? x.xy", ".", "a..b", "-a"]),
        ),
        ("policy_text", policy_texts()),
    ];
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in corpora {
        let folder = root.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("empty"), [])?;
        for (name, bytes) in seeds {
            fs::write(folder.join(name), bytes)?;
        }
    }
    Ok(())
}

fn texts(texts: &[&'static str]) -> Seeds {
    const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    NAMES.into_iter().zip(texts).map(|(name, text)| (name, text.as_bytes().to_vec())).collect()
}

fn device() -> IpAddr {
    IpAddr::from([100, 64, 0, 2])
}

fn device_v6() -> IpAddr {
    IpAddr::from([0xfd70, 0x6f73, 0x7401, 0, 0, 0, 0, 2])
}

fn inside() -> IpAddr {
    IpAddr::from([10, 0, 0, 5])
}

fn inside_v6() -> IpAddr {
    IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, 5])
}

fn syn(source: IpAddr, destination: IpAddr, flags: TcpFlags) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = [0; 128];
    let segment = TcpSegment {
        source: SocketAddr::new(source, 40_000),
        destination: SocketAddr::new(destination, 80),
        sequence: 1,
        acknowledgement: 2,
        flags,
        window: 1_000,
        mss: Some(1_460),
        payload: b"hello",
    };
    let len = tcp(&mut out, &segment)?;
    Ok(out[..len].to_vec())
}

fn datagram(source: IpAddr, destination: IpAddr) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = [0; 128];
    let len = udp(&mut out, SocketAddr::new(source, 5_353), SocketAddr::new(destination, 53), b"hello")?;
    Ok(out[..len].to_vec())
}

fn ping(source: IpAddr, destination: IpAddr) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut out = [0; 128];
    let len = echo_request(&mut out, source, destination, 7, 1, b"hello")?;
    Ok(out[..len].to_vec())
}

/// An ICMP error from a router on the way, that quotes `packet`.
fn unreachable(packet: &[u8], router: IpAddr) -> Result<Vec<u8>, Box<dyn Error>> {
    let ip = protocol_packet::Ip::parse(packet).map_err(|malformed| format!("{malformed:?}"))?;
    let mut out = [0; 1_500];
    let error = protocol_packet::IcmpError::TooBig { mtu: 1_280 };
    let len = icmp_error(&mut out, packet, ip.headers(), error, router)?;
    Ok(out[..len].to_vec())
}

fn packets() -> Result<Seeds, Box<dyn Error>> {
    let from_device = syn(device(), inside(), TcpFlags::SYN)?;
    let from_device_v6 = syn(device_v6(), inside_v6(), TcpFlags::SYN)?;
    Ok(vec![
        ("quote-v4", unreachable(&from_device, inside())?),
        ("quote-v6", unreachable(&from_device_v6, inside_v6())?),
        ("tcp-v4", from_device),
        ("tcp-v6", from_device_v6),
        ("udp-v4", datagram(device(), inside())?),
        ("udp-v6", datagram(device_v6(), inside_v6())?),
        ("ping-v4", ping(device(), inside())?),
        ("ping-v6", ping(device_v6(), inside_v6())?),
    ])
}

/// `[operation, length, bytes…]`, again and again.
fn script(steps: &[(u8, &[u8])]) -> Vec<u8> {
    let mut script = Vec::new();
    for (operation, bytes) in steps {
        let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        script.extend([*operation, len]);
        script.extend(bytes.iter().take(len.into()));
    }
    script
}

fn filter_scripts() -> Result<Seeds, Box<dyn Error>> {
    let (out, back) = (syn(device(), inside(), TcpFlags::SYN)?, syn(inside(), device(), TcpFlags::SYN)?);
    let (out_v6, back_v6) =
        (syn(device_v6(), inside_v6(), TcpFlags::SYN)?, datagram(inside_v6(), device_v6())?);
    let mapped = syn(device(), IpAddr::from([100, 96, 0, 1]), TcpFlags::SYN)?;
    let quoted = unreachable(&out, inside())?;
    Ok(vec![
        ("flow", script(&[(0, &out), (1, &back), (0, &out), (1, &quoted)])),
        ("flow-v6", script(&[(0, &out_v6), (1, &back_v6)])),
        ("mapped-name", script(&[(0, &mapped), (1, &back), (5, &[0; 9])])),
        ("revoked", script(&[(0, &out), (3, &[]), (1, &back), (2, &[0x81]), (0, &out)])),
        ("expired", script(&[(2, &[0x01]), (0, &out), (5, &[0; 200]), (1, &back)])),
        ("client", script(&[(4, &out), (4, &mapped), (4, &out_v6)])),
        ("pings", script(&[(0, &ping(device(), inside())?), (1, &ping(inside(), device())?)])),
    ])
}

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];

/// A STUN message (RFC 8489, section 5) with these attributes, padded to four bytes.
fn stun(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in attributes {
        body.extend(kind.to_be_bytes());
        body.extend(u16::try_from(value.len()).unwrap_or(0).to_be_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend(u16::try_from(body.len()).unwrap_or(0).to_be_bytes());
    message.extend(COOKIE);
    message.extend([7; 12]);
    message.extend(body);
    message
}

/// A port and an address, masked with the cookie (RFC 8489, section 14.2).
fn xor_address(port: u16, address: [u8; 4]) -> Vec<u8> {
    let mut value = vec![0, 1];
    value.extend((port ^ 0x2112).to_be_bytes());
    value.extend(address.iter().zip(COOKIE).map(|(byte, mask)| byte ^ mask));
    value
}

fn stun_messages() -> Seeds {
    let address = xor_address(5_000, [198, 51, 99, 7]);
    let unauthorised = [0, 0, 4, 1];
    vec![
        ("binding-request", stun(0x0001, &[])),
        ("binding-response", stun(0x0101, &[(0x0020, &address)])),
        ("allocate", stun(0x0003, &[(0x0019, &[17, 0, 0, 0])])),
        ("allocate-v6", stun(0x0003, &[(0x0019, &[17, 0, 0, 0]), (0x0017, &[2, 0, 0, 0])])),
        (
            "unauthorised",
            stun(0x0113, &[(0x0009, &unauthorised), (0x0014, b"postern"), (0x0015, b"nonce-nonce-nonce")]),
        ),
        (
            "signed",
            stun(0x0003, &[(0x0006, b"alice"), (0x0014, b"postern"), (0x0015, b"nonce"), (0x0008, &[1; 20])]),
        ),
        ("permission", stun(0x0008, &[(0x0012, &address)])),
        ("channel-bind", stun(0x0009, &[(0x000c, &[0x40, 0, 0, 0]), (0x0012, &address)])),
        ("refresh", stun(0x0004, &[(0x000d, &[0, 0, 2, 0x58])])),
        ("send", stun(0x0016, &[(0x0012, &address), (0x0013, b"payload")])),
        ("data", stun(0x0017, &[(0x0012, &address), (0x0013, b"payload")])),
        ("channel-data", [&[0x40, 0, 0, 5][..], b"hello"].concat()),
        ("fingerprint", stun(0x0001, &[(0x8028, &[1, 2, 3, 4])])),
        ("twenty-five-bytes", [stun(0x0001, &[]), vec![0; 5]].concat()),
    ]
}

fn relay_scripts() -> Seeds {
    let (transport, peer) = ([0, 0x19, 4, 17, 0, 0, 0], xor_address(5_000, [198, 51, 99, 7]));
    let allocate = [&[3][..], &transport].concat();
    let permit = [&[8, 0, 0x12, 8][..], &peer].concat();
    let bind = [&[9, 0, 0x0c, 4, 0x40, 0, 0, 0, 0, 0x12, 8][..], &peer].concat();
    let known: [u8; 7] = [0, 7, 0, 0, 0, 0x13, 0x88];
    vec![
        ("allocated", script(&[(1, &allocate), (1, &permit), (2, &known), (3, &[200]), (3, &[250])])),
        ("bound", script(&[(1, &allocate), (1, &bind), (2, &known), (0, &[0x40, 0, 0, 1, 9])])),
        (
            "indication",
            script(&[(1, &allocate), (1, &permit), (0, &stun(0x0016, &[(0x12, &peer), (0x13, b"x")]))]),
        ),
        ("client", script(&[(3, &[0]), (5, &known), (6, &known), (7, &known), (3, &[255]), (7, &known)])),
        ("released", script(&[(1, &allocate), (1, &[4, 0, 0x0d, 4, 0, 0, 0, 0]), (2, &known)])),
    ]
}

fn wireguard(kind: u8, size: usize) -> Vec<u8> {
    let mut datagram = vec![0x5a; size];
    datagram[..4].copy_from_slice(&[kind, 0, 0, 0]);
    datagram
}

fn datagrams() -> Seeds {
    vec![
        ("initiation", wireguard(1, 148)),
        ("response", wireguard(2, 92)),
        ("cookie", wireguard(3, 64)),
        ("keepalive", wireguard(4, 32)),
        ("data", wireguard(4, 112)),
        ("probe", wireguard(0x20, 68)),
        ("reserved", vec![1, 0, 1, 0]),
    ]
}

fn session_scripts() -> Seeds {
    // Two bytes a step: 0 initiates, 1 seals, 2 lets time pass, 3 delivers; + 0x80 is the other end, + 8 keeps a copy,
    // + 0x10 damages.
    let handshake = [0, 1, 3, 0, 3, 0, 3, 0];
    let traffic = [1, 60, 0x81, 60, 3, 0, 3, 0];
    vec![
        ("handshake", handshake.to_vec()),
        ("traffic", [&handshake[..], &traffic].concat()),
        ("both-start", [0, 1, 0x80, 1, 3, 0, 3, 0, 3, 0, 3, 0, 3, 0, 3, 0, 1, 9, 3, 0].to_vec()),
        ("copies", [0, 1, 11, 0, 11, 0, 11, 1, 3, 1, 3, 0, 3, 0].to_vec()),
        ("damaged", [&handshake[..], &[1, 60, 0x1b, 0, 3, 0]].concat()),
        ("waiting", [1, 60, 1, 60, 2, 3, 2, 10, 2, 30, 3, 0, 3, 0, 3, 0, 3, 0].to_vec()),
        (
            "eight",
            [&handshake[..], &[0, 1, 3, 0].repeat(8), &[2, 255], &[0, 1, 3, 0].repeat(8), &traffic].concat(),
        ),
    ]
}

fn probes() -> Seeds {
    // A counter, then the content that is sealed: see the format in `protocol/traversal/src/probe.rs`.
    let content = |kind: u8, flags: u8, family: u8| {
        let mut bytes = vec![0; 48];
        bytes[8..10].copy_from_slice(&[kind, flags]);
        bytes[12] = 1;
        bytes[16] = 1;
        bytes[24..28].copy_from_slice(&[0, 1, 0, 0]);
        bytes[28..31].copy_from_slice(&[0x88, 0x13, family]);
        bytes[32..36].copy_from_slice(&[198, 51, 100, 7]);
        bytes
    };
    let padded = [content(1, 0, 0), vec![0; 1_200]].concat();
    vec![
        ("probe", content(1, 0, 0)),
        ("chosen", content(1, 1, 0)),
        ("answer-v4", content(2, 0, 4)),
        ("answer-v6", content(2, 0, 6)),
        ("answer-unknown-family", content(2, 0, 5)),
        ("unknown-kind", content(3, 0, 0)),
        ("padded", padded),
        ("plain", wireguard(0x20, 68)),
    ]
}

fn agent_scripts() -> Seeds {
    // Two bytes a step: 0 to 9 as in `fuzz_agents`, 10 delivers; + 0x80 is the gateway.
    let meet = [0, 1, 0x80, 1, 4, 1, 0x84, 1, 9, 1];
    let exchange = [10, 0].repeat(8);
    vec![
        ("meet", meet.to_vec()),
        ("proven", [&meet[..], &exchange].concat()),
        ("relayed", [&[0x82, 0, 0x80, 1, 0, 2, 4, 1, 0x84, 1, 9, 10][..], &exchange].concat()),
        ("lost", [&meet[..], &exchange, &[6, 0, 9, 20, 9, 20, 9, 20, 9, 20, 9, 20]].concat()),
        ("roamed", [&meet[..], &exchange, &[7, 0, 0x2a, 5, 9, 5], &exchange].concat()),
        ("idle", [&meet[..], &exchange, &[9, 255].repeat(8)].concat()),
        ("removed", [&meet[..], &exchange, &[1, 1, 0x81, 1, 0x83, 0, 9, 9]].concat()),
        ("replayed", [&meet[..], &[0x1a, 0].repeat(6)].concat()),
    ]
}

fn dns(name: &str, kind: RecordType, answers: bool) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut message = Message::query();
    message.metadata.id = 7;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name)?, kind));
    if answers {
        message = message.into_response();
        message.metadata.response_code = ResponseCode::NoError;
    }
    Ok(message.to_vec()?)
}

fn stub_scripts() -> Result<Seeds, Box<dyn Error>> {
    let wiki = dns("wiki.corp.example.", RecordType::A, false)?;
    let wiki_v6 = dns("wiki.corp.example.", RecordType::AAAA, false)?;
    let deep = dns("a.b.deep.example.", RecordType::A, false)?;
    let other = dns("www.example.", RecordType::A, false)?;
    let answer = dns("www.example.", RecordType::A, true)?;
    Ok(vec![
        ("granted", script(&[(0, &wiki), (5, b"wiki.corp.example"), (0, &wiki_v6), (7, &[0; 60])])),
        ("deep", script(&[(0, &deep), (1, &deep), (5, b"a.b.deep.example"), (7, &[0; 250])])),
        ("forwarded", script(&[(0, &other), (3, &answer), (1, &other), (4, &answer), (6, &[])])),
        ("answered-by-nobody", script(&[(0, &other), (7, &[0; 250]), (7, &[0; 250]), (2, &answer)])),
        ("malformed", script(&[(0, &wiki[..wiki.len() - 3]), (1, &[0; 12]), (3, &[1, 2])])),
    ])
}

fn frames() -> Result<Seeds, Box<dyn Error>> {
    let identity = IdentityKey::from_seed([1; 32])?;
    let id = |n: u128| uuid_of(n).parse::<GrantId>();
    let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 500);
    let candidate = Candidate { kind: CandidateKind::Reflexive, address };
    let signature = Signature(vec![1; 64]);
    let resource = uuid_of(2).parse::<ResourceId>()?;
    let from_node: Vec<(&'static str, FromNode)> = vec![
        ("pong", FromNode::Pong(7)),
        ("draining", FromNode::Draining),
        ("candidates", FromNode::Candidates(vec![candidate])),
        (
            "round-trips",
            FromNode::RelayRoundTrips(vec![(uuid_of(3).parse::<RelayId>()?, Duration::from_millis(12))]),
        ),
        ("ended", FromNode::Ended { grant: id(1)? }),
        ("refused", FromNode::Refused { grant: id(1)?, reason: GatewayRefusal::AboveCeiling }),
        (
            "hello",
            FromNode::Hello(Hello {
                identity: identity.public(),
                signature: signature.clone(),
                name: "laptop".to_owned(),
                program: "0.1.0".to_owned(),
                role: RoleHello::Client { os: "linux".to_owned(), os_version: "6.18".to_owned() },
            }),
        ),
        (
            "request",
            FromNode::RequestAccess(RequestAccess {
                request: 1,
                offer: Offer {
                    device: uuid_of(4).parse::<DeviceId>()?,
                    resource,
                    wireguard: WireguardPublic([2; 32]),
                    kem: KemPublic(vec![3; 64]),
                    index: 0x100,
                    candidates: vec![candidate],
                    signature,
                },
                name: None,
            }),
        ),
    ];
    let view = ResourceView {
        resource,
        name: "wiki".to_owned(),
        site: "office".to_owned(),
        address: ResourceAddress::Dns("wiki.corp.example".to_owned()),
        filters: vec![TrafficFilter::Tcp { from: 80, to: 80 }],
    };
    let to_node: Vec<(&'static str, ToNode)> = vec![
        ("challenge", ToNode::Challenge { nonce: vec![9; 32] }),
        ("resource", ToNode::ResourceChanged(view)),
        ("gone", ToNode::ResourceGone(resource)),
        ("denied", ToNode::Denied { request: 1, resource, reason: DenyReason::NoRule }),
        (
            "welcome",
            ToNode::Welcome(Box::new(protocol_control::Welcome::Client(protocol_control::ClientState {
                device: uuid_of(4).parse()?,
                account: uuid_of(5).parse::<AccountId>()?,
                principal: "alice".to_owned(),
                addresses: InnerAddresses {
                    v4: Ipv4Addr::new(100, 64, 0, 2),
                    v6: "fd70:6f73:7401::2".parse()?,
                },
                resources: Vec::new(),
                relays: Vec::new(),
                grants: vec![(id(1)?, resource, uuid_of(6).parse()?, Duration::from_secs(60))],
            }))),
        ),
    ];
    let mut seeds: Seeds = Vec::new();
    for (name, body) in from_node {
        seeds.push((name, encode(&Frame { version: VERSION, sequence: 1, body })?));
    }
    for (name, body) in to_node {
        seeds.push((name, encode(&Frame { version: VERSION, sequence: 1, body })?));
    }
    seeds.push((
        "newer-version",
        encode(&Frame { version: VERSION + 1, sequence: 1, body: ToNode::Ping(1) })?,
    ));
    // Arrays in arrays, deeper than the decoder goes.
    seeds.push(("deep", vec![0x81; 300]));
    seeds.push(("length-beyond-the-end", vec![0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]));
    Ok(seeds)
}

fn uuid_of(n: u128) -> String {
    let text = format!("{n:032x}");
    format!("{}-{}-{}-{}-{}", &text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..])
}

fn identity_texts() -> Seeds {
    // 256 zero bits.
    let token = format!("{}{}", TokenKind::Gateway.prefix(), "A".repeat(43));
    vec![
        ("token", token.into_bytes()),
        ("id", uuid_of(1).into_bytes()),
        ("key", WireguardPublic([7; 32]).to_string().into_bytes()),
        ("pin", protocol_identity::CertificatePin::of(b"certificate").to_string().into_bytes()),
        ("kem", vec![0; 1_184]),
        ("ciphertext", vec![0; 1_088]),
        ("signature", vec![1; 96]),
    ]
}

fn policy_texts() -> Seeds {
    let whole = concat!(
        r#"{"time_windows":[{"days":["monday"],"from":"22:00","to":"06:00","zone":"Europe/Berlin"}],"#,
        r#""source_cidrs":["10.0.0.0/8"],"device_verified":true,"posture":[{"attribute":"os","is":["linux"]},"#,
        r#"{"attribute":"os_version","at_least":"1.10"}],"session_age_seconds":60,"countries":["DE"],"providers":["x"]}"#
    );
    let mut seeds =
        texts(&[whole, "{}", "1.10.0", "23:59", "Europe/Berlin", r#"{"countries":["DE"]}"#, "24:00", "1..2"]);
    let file = concat!(
        "version = \"1\"\n[[policy]]\nname = \"a\"\ngroups = [\"g\"]\nresources = [\"r\"]\n[policy.conditions]\n",
        "device_verified = true\n[[test]]\nname = \"t\"\nto = \"r:1\"\nat = \"monday 10:00 UTC\"\nexpect = \"allowed\"\n"
    );
    seeds.push(("policy_file", file.as_bytes().to_vec()));
    seeds.push(("selector", b"team=infra,env=test".to_vec()));
    seeds
}

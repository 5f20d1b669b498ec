//! Random grants, packets and waits: the filter decides as a model that looks at everything, every time.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use common::*;
use proptest::prelude::*;
use protocol_filter::{Destination, GrantSpec, Service, TrafficFilter, fuzz_filter};
use protocol_packet::{TcpFlags, protocol};

#[derive(Debug, Clone)]
enum Step {
    Apply(Vec<(u8, u8, u64)>),
    Inward {
        tcp: bool,
        port: u16,
        to: u8,
        service: u16,
    },
    /// An answer on the flow at this place of the model, dead or alive, or an unasked packet.
    Outward {
        flow: prop::sample::Index,
        skew: u8,
    },
    Wait(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let grants = proptest::collection::vec((0u8..6, 0u8..4, 1u64..400), 0..5);
    let step = prop_oneof![
        1 => grants.prop_map(Step::Apply),
        5 => (any::<bool>(), 5000u16..5003, 0u8..6, 79u16..82)
            .prop_map(|(tcp, port, to, service)| Step::Inward { tcp, port, to, service }),
        5 => (any::<prop::sample::Index>(), 0u8..8).prop_map(|(flow, skew)| Step::Outward { flow, skew }),
        3 => (0u64..120).prop_map(Step::Wait),
    ];
    proptest::collection::vec(step, 1..60)
}

const TARGETS: [&str; 6] = ["10.1.2.3", "10.1.9.9", "10.9.9.9", "192.0.2.1", "100.96.0.1", "100.96.0.2"];

fn destination(number: u8) -> Destination {
    match number {
        0 => cidr("10.1.0.0/16"),
        1 => cidr("10.0.0.0/8"),
        2 => Destination::Ip(ip("10.1.2.3")),
        3 => Destination::Ip(ip("192.0.2.1")),
        4 => name("wiki", 1, &["10.1.2.3"]),
        _ => name("git", 2, &["10.1.2.3"]),
    }
}

fn filters(number: u8) -> Vec<TrafficFilter> {
    match number {
        0 => vec![],
        1 => vec![tcp_port(80)],
        2 => vec![TrafficFilter::Udp { from: 80, to: 81 }],
        _ => vec![TrafficFilter::Icmp],
    }
}

struct ModelFlow {
    tcp: bool,
    device: SocketAddr,
    shown: SocketAddr,
    outer: SocketAddr,
    real: SocketAddr,
    answered: bool,
    last: Duration,
    alive: bool,
}

impl ModelFlow {
    fn dies(&self) -> Duration {
        let patience = match (self.answered, self.tcp) {
            (false, _) => 30,
            (true, true) => 7440,
            (true, false) => 300,
        };
        self.last + secs(patience)
    }
}

fn allows(grants: &[GrantSpec], now: Duration, destination: IpAddr, service: Service) -> bool {
    grants.iter().any(|grant| {
        let leads = match &grant.destination {
            Destination::Cidr(net) => net.contains(&destination) && destination != ip("192.0.2.1"),
            Destination::Ip(address) => *address == destination,
            Destination::Name { mapped_v4, .. } => mapped_v4.map(IpAddr::V4) == Some(destination),
        };
        leads
            && grant.ends > now
            && (grant.filters.is_empty() || grant.filters.iter().any(|f| f.lets(service)))
    })
}

fn service(tcp: bool, port: u16) -> Service {
    if tcp { Service::Tcp(port) } else { Service::Udp(port) }
}

fn real_of(shown: IpAddr) -> IpAddr {
    if shown == ip("100.96.0.1") || shown == ip("100.96.0.2") { ip("10.1.2.3") } else { shown }
}

fn packet(tcp: bool, from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    if tcp { segment(from, to, TcpFlags::ACK, (1, 1), b"x") } else { datagram_between(from, to) }
}

fn run(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let mut gateway = Gateway::with(vec![]);
    let mut grants: Vec<GrantSpec> = vec![];
    let mut flows: Vec<ModelFlow> = vec![];
    for step in steps {
        match step {
            Step::Apply(chosen) => {
                grants = chosen
                    .into_iter()
                    .enumerate()
                    .map(|(at, (to, what, ends))| {
                        grant(at as u128, destination(to), &filters(what), gateway.now + secs(ends))
                    })
                    .collect();
                gateway.apply(grants.clone());
            }
            Step::Wait(seconds) => {
                let until = gateway.now + secs(seconds);
                gateway.wait_until(until);
                // The model has no timers: it lives through every second.
                for second in (0..=seconds).rev() {
                    let then = until - secs(second);
                    for flow in flows.iter_mut().filter(|flow| flow.alive) {
                        let asked = service(flow.tcp, flow.shown.port());
                        flow.alive = flow.dies() > then && allows(&grants, then, flow.shown.ip(), asked);
                    }
                }
            }
            Step::Inward { tcp, port, to, service: wanted } => {
                let (from, shown) = (
                    SocketAddr::new(ip(DEVICE), port),
                    SocketAddr::new(ip(TARGETS[usize::from(to)]), wanted),
                );
                let passed = gateway.send_inward(packet(tcp, from, shown));

                let expected = allows(&grants, gateway.now, shown.ip(), service(tcp, wanted));
                prop_assert_eq!(passed.is_ok(), expected, "{} {:?}", shown, passed);
                if let Ok(passed) = passed {
                    let (outer, real) = ends(&passed);
                    prop_assert_eq!(real, SocketAddr::new(real_of(shown.ip()), wanted));
                    let known = flows
                        .iter_mut()
                        .find(|f| f.alive && (f.tcp, f.device, f.shown) == (tcp, from, shown));
                    match known {
                        Some(flow) => {
                            prop_assert_eq!(flow.outer, outer, "a flow keeps its port");
                            flow.last = gateway.now;
                        }
                        None => flows.push(ModelFlow {
                            tcp,
                            device: from,
                            shown,
                            outer,
                            real,
                            answered: false,
                            last: gateway.now,
                            alive: true,
                        }),
                    }
                }
            }
            Step::Outward { flow, skew } => {
                let (tcp, mut from, to) = match flows.len() {
                    0 => (false, at("10.1.2.3:80"), at("100.64.0.2:5000")),
                    count => {
                        let flow = &flows[flow.index(count)];
                        (flow.tcp, flow.real, flow.outer)
                    }
                };
                if skew == 0 {
                    from.set_port(from.port() + 1);
                }
                let passed = gateway.send_outward(packet(tcp, from, to));

                let known = flows.iter_mut().find(|f| f.alive && (f.tcp, f.real, f.outer) == (tcp, from, to));
                prop_assert_eq!(passed.is_ok(), known.is_some(), "{} to {}: {:?}", from, to, passed);
                if let (Ok(passed), Some(flow)) = (passed, known) {
                    prop_assert_eq!(ends(&passed), (flow.shown, flow.device));
                    (flow.answered, flow.last) = (true, gateway.now);
                }
            }
        }
        // An applied table takes effect at once.
        for flow in flows.iter_mut().filter(|flow| flow.alive) {
            flow.alive = allows(&grants, gateway.now, flow.shown.ip(), service(flow.tcp, flow.shown.port()));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn every_decision_is_that_of_the_model(steps in steps()) {
        run(steps)?;
    }

    #[test]
    fn no_script_makes_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        fuzz_filter(&bytes);
    }

    #[test]
    fn no_script_of_nearly_right_packets_makes_it_panic(
        script in proptest::collection::vec(
            (0u8..6, any::<bool>(), 0usize..6, 79u16..82, any::<prop::sample::Index>(), any::<u8>(), any::<bool>()),
            0..24,
        ),
    ) {
        let mut bytes = vec![];
        for (kind, tcp, to, port, place, value, damaged) in script {
            let (device, target) = (at("100.64.0.2:5000"), SocketAddr::new(ip(TARGETS[to]), port));
            let mut content = match kind {
                0 | 4 => packet(tcp, device, target),
                1 => packet(tcp, SocketAddr::new(real_of(target.ip()), port), device),
                _ => vec![value; 3],
            };
            if damaged {
                let place = place.index(content.len());
                content[place] = value;
            }
            bytes.extend([kind, content.len() as u8]);
            bytes.extend(content);
        }

        fuzz_filter(&bytes);
    }
}

#[test]
fn the_protocols_of_the_model_are_those_of_the_wire() {
    let (device, server) = (at("100.64.0.2:5000"), at("10.1.2.3:80"));

    assert_eq!(headers(&packet(true, device, server)).protocol(), protocol::TCP);
    assert_eq!(headers(&packet(false, device, server)).protocol(), protocol::UDP);
}

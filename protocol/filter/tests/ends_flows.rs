//! Flows end with their grants: both ends of a TCP connection notice, and nothing more passes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::*;
use proptest::prelude::*;
use protocol_filter::{
    Applied, FlowEnd, FlowRecord, GrantVersion, Output, PeerGrants, Reason, TrafficFilter, Verdict,
};
use protocol_packet::{Ip, TcpFlags};

fn records(outputs: &[Output]) -> Vec<&FlowRecord> {
    let mut records = vec![];
    for output in outputs {
        if let Output::FlowEnded(record) = output {
            records.push(record);
        }
    }
    records
}

fn wide() -> Vec<protocol_filter::GrantSpec> {
    vec![grant(1, cidr("10.0.0.0/8"), &[], FOREVER)]
}

#[test]
fn a_grant_that_ends_cuts_its_flow_at_that_moment() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], secs(1010))]);
    let sent = gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:80")).unwrap();

    gateway.wait_until(secs(1009));
    assert!(gateway.send_outward(answer_to(&sent)).is_ok());
    assert_eq!(gateway.filter.poll_timeout(), Some(secs(1010)));
    gateway.wait_until(secs(1010));

    let outputs = gateway.outputs();
    assert_eq!(records(&outputs)[0].end, FlowEnd::GrantEnded);
    assert_eq!(gateway.send_outward(answer_to(&sent)), Err(Reason::NoFlow));
    assert_eq!(gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:80")), Err(Reason::GrantEnded));
}

#[test]
fn a_grant_that_ends_lets_nothing_pass_even_if_the_timer_is_late() {
    let mut gateway = Gateway::with(vec![grant(1, cidr("10.0.0.0/8"), &[], secs(1010))]);
    let sent = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    gateway.now = secs(1010);

    assert_eq!(gateway.send_outward(answer_to(&sent)), Err(Reason::FlowCut));
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")), Err(Reason::GrantEnded));

    let outputs = gateway.outputs();
    assert_eq!(records(&outputs).len(), 1);
    assert!(outputs.iter().any(|output| matches!(output, Output::ToPeer(_))));
}

#[test]
fn a_flow_goes_on_by_another_grant_that_allows_it() {
    let mut gateway = Gateway::with(vec![
        grant(1, cidr("10.1.0.0/16"), &[], secs(1010)),
        grant(2, cidr("10.0.0.0/8"), &[tcp_port(80)], FOREVER),
    ]);
    let kept = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    let lost = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:81")).unwrap();

    gateway.wait_until(secs(1020));

    assert!(gateway.send_outward(answer_to(&kept)).is_ok());
    assert_eq!(gateway.send_outward(answer_to(&lost)), Err(Reason::FlowCut));
    let outputs = gateway.outputs();
    assert_eq!(records(&outputs).len(), 1);
    gateway.apply(vec![]);
    let outputs = gateway.outputs();
    assert_eq!(records(&outputs)[0].grant, grant_id(2), "it is accounted to the grant that it went on by");
}

#[test]
fn narrowed_filters_cut_only_what_they_no_longer_allow() {
    let mut gateway = Gateway::with(wide());
    let web = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    let ssh = gateway.send_inward(syn("100.64.0.2:5001", "10.1.2.3:22")).unwrap();
    let dns = gateway.send_inward(datagram("100.64.0.2:5002", "10.1.2.3:53")).unwrap();

    let filters = [tcp_port(80), TrafficFilter::Udp { from: 53, to: 53 }];
    gateway.apply(vec![grant(1, cidr("10.0.0.0/8"), &filters, FOREVER)]);

    assert!(gateway.send_outward(answer_to(&web)).is_ok());
    assert!(gateway.send_outward(answer_to(&dns)).is_ok());
    assert_eq!(gateway.send_outward(answer_to(&ssh)), Err(Reason::FlowCut));
    let outputs = gateway.outputs();
    assert_eq!(records(&outputs).iter().map(|record| record.end).collect::<Vec<_>>(), [FlowEnd::Revoked]);
}

#[test]
fn a_mapped_address_that_becomes_another_name_does_not_carry_the_old_flow() {
    let mut gateway = Gateway::with(vec![grant(1, name("wiki", 1, &["10.0.0.5"]), &[], FOREVER)]);
    let sent = gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.1:80")).unwrap();

    gateway.apply(vec![grant(2, name("git", 1, &["10.0.0.6"]), &[], FOREVER)]);

    assert_eq!(gateway.send_outward(answer_to(&sent)), Err(Reason::FlowCut));
}

#[test]
fn a_revocation_stops_everything_until_the_next_table() {
    let mut gateway = Gateway::with(wide());
    let sent = gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();

    gateway.filter.revoke(GrantVersion(5));

    assert_eq!(gateway.inward(&mut syn("100.64.0.2:5000", "10.1.2.3:80")), Verdict::Drop(Reason::Revoked));
    assert_eq!(gateway.send_outward(answer_to(&sent)), Err(Reason::Revoked));
    let now = gateway.now;
    let older = PeerGrants::compile(GrantVersion(4), wide());
    assert_eq!(gateway.filter.apply(older, now), Applied::Stale, "older than the revocation");
    assert!(gateway.filter.is_blocked());
    let current = PeerGrants::compile(GrantVersion(5), wide());
    assert_eq!(gateway.filter.apply(current, now), Applied::InForce);
    assert!(gateway.send_outward(answer_to(&sent)).is_ok(), "the table that follows kept the flow");
    assert_eq!(gateway.outputs(), []);
}

#[test]
fn an_older_table_never_replaces_a_newer_one() {
    let mut gateway = Gateway::with(wide());
    gateway.apply(vec![]);

    let older = PeerGrants::compile(GrantVersion(1), wide());

    assert_eq!(gateway.filter.apply(older, secs(1000)), Applied::Stale);
    assert_eq!(gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")), Err(Reason::NoGrant));
}

#[test]
fn silence_ends_flows_at_their_time() {
    let mut gateway = Gateway::with(wide());
    let unanswered = gateway.send_inward(datagram("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    let sent = gateway.send_inward(datagram("100.64.0.2:5001", "10.1.2.3:80")).unwrap();
    gateway.send_outward(answer_to(&sent)).unwrap();
    let open = gateway.send_inward(syn("100.64.0.2:5002", "10.1.2.3:80")).unwrap();
    gateway.send_outward(answer_to(&open)).unwrap();

    gateway.wait_until(secs(1000 + 30));
    assert_eq!(gateway.send_outward(answer_to(&unanswered)), Err(Reason::NoFlow));
    gateway.wait_until(secs(1000 + 299));
    assert!(gateway.send_outward(answer_to(&sent)).is_ok(), "an answer starts its time anew");
    gateway.wait_until(secs(1000 + 299 + 300));
    assert_eq!(gateway.send_outward(answer_to(&sent)), Err(Reason::NoFlow));
    gateway.wait_until(secs(1000 + 7439));
    assert_eq!(gateway.filter.flows(), 1);
    gateway.wait_until(secs(1000 + 7440));
    assert_eq!(gateway.filter.flows(), 0);

    let outputs = gateway.outputs();
    assert!(records(&outputs).iter().all(|record| record.end == FlowEnd::Idle));
    assert_eq!(outputs.len(), 3, "nobody is sent anything");
    assert_eq!(gateway.filter.poll_timeout(), None);
}

#[test]
fn a_connection_that_both_ends_closed_is_soon_forgotten() {
    let mut gateway = Gateway::with(wide());
    let (device, server) = (at("100.64.0.2:5000"), at("10.1.2.3:80"));
    let fin = TcpFlags::FIN.with(TcpFlags::ACK);
    gateway.send_inward(segment(device, server, TcpFlags::SYN, (10, 0), b"")).unwrap();
    gateway.send_outward(segment(server, device, TcpFlags::SYN.with(TcpFlags::ACK), (90, 11), b"")).unwrap();
    gateway.send_inward(segment(device, server, fin, (11, 91), b"bye")).unwrap();
    gateway.send_outward(segment(server, device, fin, (91, 15), b"")).unwrap();
    gateway.send_inward(segment(device, server, TcpFlags::ACK, (15, 92), b"")).unwrap();

    gateway.wait_until(secs(1030));

    let outputs = gateway.outputs();
    assert_eq!(outputs.len(), 1);
    let record = records(&outputs)[0];
    assert_eq!(record.end, FlowEnd::Closed);
    assert_eq!((record.packets_in, record.packets_out), (3, 2));
    assert_eq!((record.bytes_in, record.bytes_out), (123, 80));
    assert_eq!((record.started, record.last), (secs(1000), secs(1000)));
}

#[test]
fn a_new_connection_on_the_ports_of_a_closed_one_is_a_new_flow() {
    let mut gateway = Gateway::with(wide());
    let (device, server) = (at("100.64.0.2:5000"), at("10.1.2.3:80"));
    gateway.send_inward(segment(device, server, TcpFlags::SYN, (10, 0), b"")).unwrap();
    gateway.send_outward(segment(server, device, TcpFlags::RST.with(TcpFlags::ACK), (0, 11), b"")).unwrap();

    gateway.send_inward(segment(device, server, TcpFlags::SYN, (5000, 0), b"")).unwrap();

    let outputs = gateway.outputs();
    assert_eq!(records(&outputs)[0].end, FlowEnd::Closed);
    assert_eq!(gateway.filter.flows(), 1);
}

#[test]
fn a_peer_that_is_gone_leaves_nothing() {
    let mut gateway = Gateway::with(wide());
    gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    gateway.send_inward(ping(DEVICE, "10.1.2.3", 1)).unwrap();

    gateway.filter.close(secs(1001));

    let outputs = gateway.outputs();
    assert!(records(&outputs).iter().all(|record| record.end == FlowEnd::PeerGone));
    assert_eq!(records(&outputs).len(), 2);
    assert!(outputs.iter().any(|output| matches!(output, Output::ToResource(_))));
    assert_eq!((gateway.filter.flows(), gateway.filter.poll_timeout()), (0, None));
}

#[test]
fn what_is_handed_on_is_told_of_and_nobody_is_reset() {
    let mut gateway = Gateway::with(wide());
    gateway.send_inward(syn("100.64.0.2:5000", "10.1.2.3:80")).unwrap();
    gateway.send_inward(ping(DEVICE, "10.1.2.3", 1)).unwrap();

    gateway.filter.release();

    let outputs = gateway.outputs();
    assert_eq!(records(&outputs).len(), 2);
    assert_eq!(outputs.len(), 2);
    assert_eq!((gateway.filter.flows(), gateway.filter.poll_timeout()), (0, None));
}

/// One end of a TCP connection, as RFC 9293 has it for what matters here: numbers, and which RST it believes.
#[derive(Debug, Clone)]
struct End {
    me: std::net::SocketAddr,
    other: std::net::SocketAddr,
    next: u32,
    expects: u32,
    /// Nothing has been received yet.
    syn_sent: bool,
    is_reset: bool,
}

const WINDOW: u32 = 65535;

impl End {
    fn data(&mut self, length: usize) -> Vec<u8> {
        let packet = segment(self.me, self.other, TcpFlags::ACK, (self.next, self.expects), &vec![0; length]);
        self.next = self.next.wrapping_add(length as u32);
        packet
    }

    /// Takes a packet; gives a challenge acknowledgement if that is due (RFC 9293, section 3.10.7.4).
    fn receive(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let ip = Ip::parse(packet).unwrap();
        assert!(ip.transport_checksum_holds());
        let tcp = ip.tcp().unwrap();
        assert_eq!(ends(packet), (self.other, self.me), "addressed as this end knows the connection");
        if tcp.flags.has(TcpFlags::RST) {
            if self.syn_sent {
                self.is_reset |= tcp.flags.has(TcpFlags::ACK) && tcp.acknowledgement == self.next;
                return None;
            }
            if tcp.sequence == self.expects {
                self.is_reset = true;
            } else if tcp.sequence.wrapping_sub(self.expects) < WINDOW {
                return Some(self.data(0));
            }
            return None;
        }
        if tcp.flags.has(TcpFlags::SYN) {
            self.syn_sent = false;
            self.expects = tcp.sequence_end();
        } else if tcp.sequence == self.expects {
            self.expects = tcp.sequence_end();
        }
        None
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    from_device: bool,
    length: usize,
    /// The packet passes the filter and is lost after it.
    lost: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = (any::<bool>(), 0usize..500, any::<bool>()).prop_map(|(from_device, length, lost)| Step {
        from_device,
        length,
        lost,
    });
    proptest::collection::vec(step, 0..20)
}

/// A connection over the filter that is cut after some steps; gives both ends and how many challenges they needed.
fn cut_after(numbers: (u32, u32), handshake: u8, steps: &[Step], collide: bool) -> (End, End, u32) {
    let mut gateway = Gateway::with(vec![
        grant(1, name("git", 2, &["10.0.0.5"]), &[], FOREVER),
        grant(2, wiki(&["10.0.0.5"]), &[], FOREVER),
    ]);
    if collide {
        gateway.send_inward(syn("100.64.0.2:5000", "100.96.0.2:443")).unwrap();
    }
    let (me, shown) = (at("100.64.0.2:5000"), at("100.96.0.1:443"));
    let mut device = End {
        me,
        other: shown,
        next: numbers.0.wrapping_add(1),
        expects: 0,
        syn_sent: true,
        is_reset: false,
    };
    let sent = gateway.send_inward(segment(me, shown, TcpFlags::SYN, (numbers.0, 0), b"")).unwrap();
    let (outer, real) = ends(&sent);
    assert_eq!(collide, outer.port() != 5000);
    let mut server = End {
        me: real,
        other: outer,
        next: numbers.1.wrapping_add(1),
        expects: device.next,
        syn_sent: false,
        is_reset: false,
    };
    if handshake > 0 {
        let syn_ack = TcpFlags::SYN.with(TcpFlags::ACK);
        let answer = segment(real, outer, syn_ack, (numbers.1, server.expects), b"");
        let seen = gateway.send_outward(answer).unwrap();
        if handshake > 1 {
            device.receive(&seen);
        }
    }
    if handshake > 1 {
        for step in steps {
            if step.from_device {
                let packet = device.data(step.length);
                let passed = gateway.send_inward(packet).unwrap();
                if !step.lost {
                    server.receive(&passed);
                }
            } else {
                let packet = server.data(step.length);
                let passed = gateway.send_outward(packet).unwrap();
                if !step.lost {
                    device.receive(&passed);
                }
            }
        }
    }

    gateway.apply(vec![grant(1, name("git", 2, &["10.0.0.5"]), &[], FOREVER)]);

    let mut challenges = 0;
    for output in gateway.outputs() {
        match output {
            Output::ToPeer(packet) if !device.is_reset => {
                if let Some(mut challenge) = device.receive(&packet) {
                    challenges += 1;
                    let verdict = gateway.inward(&mut challenge);
                    assert_eq!(verdict, Verdict::Reply(Reason::NoGrant));
                    device.receive(&gateway.out);
                }
            }
            // A server that never answered does not know the connection.
            Output::ToResource(packet) if !server.is_reset && handshake > 0 => {
                if let Some(mut challenge) = server.receive(&packet) {
                    challenges += 1;
                    let verdict = gateway.outward(&mut challenge);
                    assert_eq!(verdict, Verdict::Reply(Reason::FlowCut));
                    server.receive(&gateway.out);
                }
            }
            Output::ToPeer(_) | Output::ToResource(_) | Output::FlowEnded(_) => {}
        }
    }
    (device, server, challenges)
}

#[test]
fn an_end_that_acknowledged_less_than_was_sent_to_it_is_reset_where_it_is() {
    let mut gateway = Gateway::with(wide());
    let (device, server) = (at("100.64.0.2:5000"), at("10.1.2.3:80"));
    gateway.send_inward(segment(device, server, TcpFlags::ACK, (100, 900), b"")).unwrap();
    gateway.send_outward(segment(server, device, TcpFlags::ACK, (900, 100), b"lost")).unwrap();
    gateway.send_inward(segment(device, server, TcpFlags::ACK, (100, 900), b"lost too")).unwrap();

    gateway.apply(vec![]);

    let (mut to_device, mut to_server) = (vec![], vec![]);
    for output in gateway.outputs() {
        match output {
            Output::ToPeer(packet) => to_device.push(headers(&packet).tcp().unwrap().sequence),
            Output::ToResource(packet) => to_server.push(headers(&packet).tcp().unwrap().sequence),
            Output::FlowEnded(_) => {}
        }
    }
    assert_eq!(to_device, [904, 900]);
    assert_eq!(to_server, [108, 100]);
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn both_ends_of_a_cut_connection_are_reset_whatever_was_lost(
        numbers in prop_oneof![any::<(u32, u32)>(), (u32::MAX - 2000.., u32::MAX - 2000..)],
        handshake in 0u8..3,
        steps in steps(),
        collide in any::<bool>(),
    ) {
        let (device, server, challenges) = cut_after(numbers, handshake, &steps, collide);

        prop_assert!(device.is_reset, "{:?}", device);
        prop_assert!(server.is_reset || handshake == 0, "{:?}", server);
        if steps.iter().all(|step| !step.lost) {
            prop_assert_eq!(challenges, 0, "without loss the first RST fits");
        }
    }
}

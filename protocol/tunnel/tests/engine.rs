//! What the machine does with an engine whose clock is ours.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may fail")]

mod support;

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use protocol_tunnel::{Dropped, Engine, EngineStats, Opened, Output, Sealed, Step, Tunnel, TunnelIndex};
use support::{CLIENT, packet};

const T0: Duration = Duration::ZERO;

#[derive(Default)]
struct Script {
    calls: Vec<&'static str>,
    session: bool,
    on_tick: Option<Step>,
}

struct Scripted(Rc<RefCell<Script>>);

fn initiation(out: &mut [u8]) -> Step {
    out[..148].fill(0);
    out[0] = 1;
    Step::Network(148)
}

impl Engine for Scripted {
    fn seal(&mut self, packet: &[u8], _out: &mut [u8]) -> Step {
        self.0.borrow_mut().calls.push("seal");
        Step::Network(packet.len() + 32)
    }

    fn open(&mut self, _source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step {
        self.0.borrow_mut().calls.push("open");
        match datagram[0] {
            1 => {
                out[..92].fill(0);
                out[0] = 2;
                Step::Network(92)
            }
            2 => {
                self.0.borrow_mut().session = true;
                out[..32].fill(0);
                out[0] = 4;
                Step::Network(32)
            }
            _ => Step::Nothing,
        }
    }

    fn queued(&mut self, _out: &mut [u8]) -> Step {
        Step::Nothing
    }

    fn tick(&mut self, out: &mut [u8]) -> Step {
        let mut script = self.0.borrow_mut();
        script.calls.push("tick");
        match script.on_tick.take() {
            Some(Step::Network(148)) => initiation(out),
            Some(step) => step,
            None => Step::Nothing,
        }
    }

    fn initiate(&mut self, out: &mut [u8]) -> Step {
        self.0.borrow_mut().calls.push("initiate");
        initiation(out)
    }

    fn has_session(&self) -> bool {
        self.0.borrow().session
    }

    fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}

fn tunnel() -> (Tunnel<Scripted>, Rc<RefCell<Script>>) {
    let script = Rc::new(RefCell::new(Script::default()));
    (Tunnel::over(Scripted(Rc::clone(&script)), TunnelIndex::new(1, 0), T0), script)
}

fn message(kind: u8, len: usize) -> Vec<u8> {
    let mut message = vec![0; len];
    message[0] = kind;
    message
}

fn outputs(tunnel: &mut Tunnel<Scripted>) -> Vec<Output> {
    std::iter::from_fn(|| tunnel.poll_output()).collect()
}

/// boringtun stamps a session with the time of its last look at the clock; a stale stamp makes it expire at once.
#[test]
fn the_engine_looks_at_its_clock_before_every_handshake_message() {
    let (mut tunnel, script) = tunnel();
    let mut out = [0; 2048];

    tunnel.open(CLIENT, &message(1, 148), &mut out, T0);
    tunnel.initiate(false, T0);
    tunnel.open(CLIENT, &message(2, 92), &mut out, T0);

    let calls: Vec<_> = script.borrow().calls.iter().copied().filter(|call| *call != "seal").collect();
    assert_eq!(calls, ["tick", "open", "tick", "initiate", "tick", "open"]);
}

#[test]
fn nothing_is_woken_while_nothing_is_alive() {
    let (mut tunnel, script) = tunnel();

    assert_eq!(tunnel.poll_timeout(), None);
    tunnel.handle_timeout(Duration::from_secs(1000));

    assert!(script.borrow().calls.is_empty());
}

#[test]
fn when_the_engine_gives_up_what_waited_is_dropped_and_it_is_said_once() {
    let (mut tunnel, script) = tunnel();
    let mut out = [0; 2048];
    tunnel.seal(&packet(1, 10), &mut out, T0);
    outputs(&mut tunnel);

    for _ in 0..3 {
        script.borrow_mut().on_tick = Some(Step::Failed(Dropped::Expired));
        tunnel.handle_timeout(tunnel.poll_timeout().unwrap_or(Duration::from_secs(1)));
    }

    assert_eq!(outputs(&mut tunnel), [Output::Expired]);
    assert_eq!(tunnel.stats().expired_packets, 1);
    assert!(!tunnel.has_queued());
    assert_eq!(tunnel.poll_timeout(), None);
}

#[test]
fn after_the_session_expired_packets_wait_again_and_start_a_handshake() {
    let (mut tunnel, script) = tunnel();
    let mut out = [0; 2048];
    tunnel.initiate(false, T0);
    tunnel.open(CLIENT, &message(2, 92), &mut out, T0);
    assert!(tunnel.is_established());
    outputs(&mut tunnel);

    script.borrow_mut().session = false;
    let now = tunnel.poll_timeout().expect("a session is looked after");
    tunnel.handle_timeout(now);

    assert_eq!(outputs(&mut tunnel), [Output::Expired]);
    assert_eq!(tunnel.poll_timeout(), None);
    assert_eq!(tunnel.seal(&packet(1, 10), &mut out, now), Sealed::Queued);
    assert!(matches!(outputs(&mut tunnel)[..], [Output::Initiation(_)]));
}

#[test]
fn a_rekey_of_the_engine_goes_out_and_is_not_repeated_by_us_while_the_session_lives() {
    let (mut tunnel, script) = tunnel();
    let mut out = [0; 2048];
    tunnel.initiate(false, T0);
    tunnel.open(CLIENT, &message(2, 92), &mut out, T0);
    outputs(&mut tunnel);

    script.borrow_mut().on_tick = Some(Step::Network(148));
    let mut seen = Vec::new();
    while seen.len() < 20 {
        let now = tunnel.poll_timeout().expect("a session is looked after");
        tunnel.handle_timeout(now);
        seen.push(outputs(&mut tunnel).len());
    }

    assert_eq!(seen.iter().sum::<usize>(), 1);
    assert_eq!(tunnel.open(CLIENT, &message(4, 32), &mut out, T0), Opened::Keepalive);
}

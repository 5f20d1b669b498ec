//! Clients that others wrote drive the relay: what a stranger's implementation understands is the protocol.
//!
//! coturn's own client from Debian, and aioice from PyPI.

#![allow(clippy::unwrap_used)]

use std::{process::Command, time::Duration};

use integration_lab::{Host, Process, cargo_target_dir, program, wait, which};
use integration_scenarios::Street;

/// Ten clients in pairs send each other 20 messages through allocations; coturn's client counts what arrives.
fn uclient(host: &Host, words: &str) -> (i32, String) {
    let mut argv = vec!["turnutils_uclient"];
    argv.extend(words.split_whitespace());
    let done = host.try_run_for(&argv, Duration::from_secs(60)).unwrap();
    (done.code, format!("{}{}", done.stdout, done.stderr))
}

fn nothing_lost(said: &str) -> bool {
    said.lines().any(|line| line.contains("Total lost packets 0") && line.contains("total send dropped 0"))
}

#[test]
fn channels_between_two_allocations_lose_nothing() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    let (code, said) =
        uclient(&street.host, "-y -u alice -w wonderland -n 20 -m 4 -c -L 203.0.113.30 203.0.113.20");

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
}

#[test]
fn send_indications_lose_nothing() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    let (code, said) =
        uclient(&street.host, "-y -s -u alice -w wonderland -n 20 -m 4 -c -L 203.0.113.30 203.0.113.20");

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
}

#[test]
fn ipv6_allocations_work_alike() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "2001:db8::/32"]).unwrap();

    let (code, said) =
        uclient(&street.host, "-y -x -u alice -w wonderland -n 20 -m 4 -c -L 2001:db8::30 2001:db8::20");

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
}

#[test]
fn clients_over_tcp_lose_nothing_by_channel_and_by_indication() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    for way in ["", "-s"] {
        let words = format!("-t -y {way} -u alice -w wonderland -n 20 -m 4 -c -L 203.0.113.30 203.0.113.20");
        let (code, said) = uclient(&street.host, &words);

        assert_eq!(code, 0, "{said}");
        assert!(nothing_lost(&said), "{said}");
    }
}

#[test]
fn even_ports_with_a_reserved_one_after_each_are_given_to_whom_asks() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    // Without -c each client wants two ports in a row, for RTP and RTCP: an even one, and the one that is reserved by it.
    let (code, said) =
        uclient(&street.host, "-v -y -u alice -w wonderland -n 20 -m 4 -L 203.0.113.30 203.0.113.20");

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
    let ports = relayed_ports(&said);
    assert!(ports.iter().any(|port| port % 2 == 0 && ports.contains(&(port + 1))), "{ports:?}");
}

/// The ports of relayed addresses that coturn's client says it got.
fn relayed_ports(said: &str) -> Vec<u16> {
    let addresses =
        said.lines().filter_map(|line| line.split_once("relay addr: ")?.1.split_whitespace().next());
    addresses.filter_map(|address| address.rsplit_once(':')?.1.parse().ok()).collect()
}

#[test]
fn clients_over_tls_lose_nothing() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay_with_tls().unwrap();

    let words = "-t -S -p 443 -y -u alice -w wonderland -n 20 -m 4 -c -L 203.0.113.30 203.0.113.20";
    let (code, said) = uclient(&street.host, words);

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
}

/// Talks to an echo through an allocation: 20 messages of growing length, by the channel that aioice binds.
const AIOICE: &str = r#"
import asyncio, ssl, sys
from aioice import turn

class End(asyncio.DatagramProtocol):
    def __init__(self):
        self.got = asyncio.Queue()
    def datagram_received(self, data, address):
        self.got.put_nowait((data, address))

async def main(port, transport, tls):
    trusting = ssl.create_default_context()
    trusting.check_hostname = False
    trusting.verify_mode = ssl.CERT_NONE
    way, end = await turn.create_turn_endpoint(
        End, server_addr=("203.0.113.20", port), username="alice", password="wonderland",
        ssl=trusting if tls else False, transport=transport)
    peer = ("203.0.113.40", 3480)
    for n in range(20):
        message = bytes([n]) * (n * 60 + 1)
        way.sendto(message, peer)
        data, address = await asyncio.wait_for(end.got.get(), 5)
        assert data == message and tuple(address[:2]) == peer, (n, len(data), address)
    way.close()
    await asyncio.sleep(0.2)
    print("20 of 20")

asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "tls"))
"#;

/// Python with aioice, made once.
fn aioice() -> String {
    let venv = cargo_target_dir().unwrap().join("foreign/aioice");
    if !venv.join("bin/aioice-is-there").exists() {
        let python = which("python3").unwrap();
        let make = Command::new(python).args(["-m", "venv"]).arg(&venv).status().unwrap();
        let install = ["install", "--quiet", "--disable-pip-version-check", "aioice==0.13.0"];
        let install = Command::new(venv.join("bin/pip")).args(install).status().unwrap();
        assert!(make.success() && install.success(), "aioice cannot be installed");
        std::fs::write(venv.join("bin/aioice-is-there"), "").unwrap();
    }
    venv.join("bin/python").display().to_string()
}

#[test]
fn aioice_reaches_a_peer_over_udp_tcp_and_tls() {
    let python = aioice();
    let street = Street::lay_out().unwrap();
    let _echo = echo(&street.elsewhere);
    let _relay = street.relay_with_tls().unwrap();

    for words in [["3478", "udp", "plain"], ["3478", "tcp", "plain"], ["443", "tcp", "tls"]] {
        let argv = [&[python.as_str(), "-c", AIOICE][..], &words].concat();
        let done = street.host.try_run_for(&argv, Duration::from_secs(30)).unwrap();

        assert_eq!((done.code, done.stdout.trim()), (0, "20 of 20"), "{words:?}: {}", done.stderr);
    }
}

#[test]
fn a_wrong_password_allocates_nothing() {
    let street = Street::lay_out().unwrap();
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    let (code, said) =
        uclient(&street.host, "-y -u alice -w looking-glass -n 2 -m 1 -c -L 203.0.113.30 203.0.113.20");

    assert!(code != 0 || said.contains("401"), "{said}");
    assert!(!nothing_lost(&said), "{said}");
}

/// One client talks through an allocation to a plain UDP echo at a documentation address.
const TO_A_PEER: &str = "-u alice -w wonderland -n 5 -m 1 -c -e 203.0.113.40 -r 3480 203.0.113.20";

fn echo(host: &Host) -> Process {
    let tool = program("lab-tool").unwrap();
    let echo = host.launch("echo", tool).args(["udp-echo", "--listen", "203.0.113.40:3480"]).start().unwrap();
    wait::until_true("the peer listens", Duration::from_secs(5), || Ok(echo.stdout().contains("ready")))
        .unwrap();
    echo
}

#[test]
fn a_plain_peer_that_is_allowed_is_reached() {
    let street = Street::lay_out().unwrap();
    let _echo = echo(&street.elsewhere);
    let _relay = street.relay(&["--allow-peer", "203.0.113.0/24"]).unwrap();

    let (code, said) = uclient(&street.host, TO_A_PEER);

    assert_eq!(code, 0, "{said}");
    assert!(nothing_lost(&said), "{said}");
}

#[test]
fn peers_in_reserved_ranges_are_refused_unless_allowed() {
    let street = Street::lay_out().unwrap();
    let _echo = echo(&street.elsewhere);
    let _relay = street.relay(&[]).unwrap();

    let (code, said) = uclient(&street.host, TO_A_PEER);

    assert!(code != 0 || said.contains("403"), "{said}");
    assert!(!nothing_lost(&said), "{said}");
}

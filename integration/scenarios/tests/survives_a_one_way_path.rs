//! While nothing reaches the client, it starts handshake after handshake; the session that lives at the gateway
//! is not overwritten by them, and goes on as soon as the path does.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Meter, program, wait};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};

/// As many as a WireGuard end keeps sessions: more would overwrite the live one.
const INITIATIONS: u64 = 8;

/// Without TLS at the relay nothing gets round the blocked direction.
fn over_udp_alone() -> Plan {
    Plan { relay_arguments: vec!["--listen-tls".into(), "off".into()], ..Plan::default() }
}

#[test]
fn eight_initiations_that_nobody_answers_do_not_end_the_session() {
    let world = World::start(over_udp_alone()).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    // The first four bytes of a WireGuard initiation are 1, 0, 0, 0 (its paper, section 5.4.2).
    let rule = "udp length 156 @th,64,32 0x01000000";
    let initiations = Meter::matching(&world.ground.home, "initiations", "eth0", rule).unwrap();
    let block = "table inet one_way\ndelete table inet one_way\ntable inet one_way {\n chain forward {\n  \
                 type filter hook forward priority filter - 2\n  iifname \"outside\" meta l4proto udp drop\n }\n}\n";
    world.ground.home_nat.host().nft(block).unwrap();
    let words = format!("udp-ping --to {WEB}:7 --rate 5 --seconds 150");
    let pings =
        world.ground.home.launch("pings", program("lab-tool").unwrap()).args(words.split_whitespace());
    let pings = pings.start().unwrap();

    wait::until_true("eight initiations have left", Duration::from_secs(120), || {
        let tally = initiations.read()?;
        anyhow::ensure!(tally.packets >= INITIATIONS, "{tally:?}");
        Ok(true)
    })
    .unwrap();
    world.ground.home_nat.host().nft("delete table inet one_way\n").unwrap();

    let page = format!("http://{WEB_NAME}/");
    let healed = wait::until_true("traffic flows again", Duration::from_secs(20), || {
        Ok(world.curl(&["--max-time", "1", "-o", "/dev/null", &page])?.code == 0)
    })
    .unwrap();
    assert!(healed < Duration::from_secs(10), "{healed:?}");
    drop(pings);
    let steady = world.tool(&format!("udp-ping --to {WEB}:7 --rate 50 --seconds 20")).unwrap();
    assert_eq!(steady["missing"], 0, "neither direction has gone deaf: {steady}");
}

//! A client that offers an address inside the site as its own does not make the gateway a scanner of its own site.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Meter, wait};
use integration_scenarios::{
    Ground, Plan, World,
    addresses::{GATEWAY, WEB_NAME},
};

/// At most this many small packets a second go to an address that has not answered.
const A_SECOND: u64 = 5;
/// A small packet, with its IP header and Ethernet's.
const SMALL: u64 = 250;

#[test]
fn a_candidate_inside_the_site_draws_a_few_small_packets_at_most() {
    let ground_has_it = |ground: &Ground| ground.home.address("eth0", &["192.168.1.20/32"]);
    let world = World::start_on(Plan::default(), ground_has_it).unwrap();
    let rule = format!("ip saddr {GATEWAY} ip daddr 192.168.1.20 udp dport != {{ 7, 53 }}");
    let probes = Meter::matching(&world.ground.web, "probes", "eth0", &rule).unwrap();

    let started = std::time::Instant::now();
    let page = world.curl(&["--max-time", "10", &format!("http://{WEB_NAME}/")]).unwrap();
    world.client().unwrap().wait_resource("wiki", "path", "direct", Duration::from_secs(30)).unwrap();
    wait::until_true("ten seconds of probing are over", Duration::from_secs(12), || {
        Ok(started.elapsed() > Duration::from_secs(10))
    })
    .unwrap();
    let tally = probes.read().unwrap();

    assert!(page.stdout.contains("hello"), "{page:?}");
    let seconds = started.elapsed().as_secs() + 1;
    assert!(tally.packets <= A_SECOND * seconds, "{tally:?} in {seconds} s");
    assert!(tally.bytes <= tally.packets * SMALL, "{tally:?}");
}

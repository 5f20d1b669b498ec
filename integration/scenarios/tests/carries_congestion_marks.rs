//! A router that is congested says so to the hosts at both ends of the tunnel, directly and through a relay.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use integration_lab::{Meter, Nat, RouterPlan};
use integration_scenarios::{
    Plan, World,
    addresses::{WEB, WEB_NAME},
};

/// What the home's router does with datagrams of the tunnel on their way out.
fn router_marks(world: &World, which: &str) {
    let rule = |family: &str| {
        format!("iifname \"inside\" meta l4proto udp {family} ecn {which} {family} ecn set ce")
    };
    world
        .ground
        .home_nat
        .host()
        .nft(&format!(
            "table inet lab_ecn\ndelete table inet lab_ecn\ntable inet lab_ecn {{\n chain forward {{\n  \
             type filter hook forward priority filter - 2\n  {}\n  {}\n }}\n}}\n",
            rule("ip"),
            rule("ip6"),
        ))
        .unwrap();
}

/// Five pings whose packets say these bits; how many were answered.
fn pings(world: &World, service: &str) -> bool {
    let ping = ["ping", "-4", "-Q", service, "-c", "5", "-i", "0.2", "-W", "1", "-q", WEB];
    world.ground.home.try_run(&ping).unwrap().stdout.contains(" 5 received")
}

fn the_office_sees_what_the_router_marked(plan: RouterPlan, path: &str) {
    let world = World::start(Plan { nat: plan, ..Plan::default() }).unwrap();
    assert_eq!(world.curl(&["-o", "/dev/null", &format!("http://{WEB_NAME}/")]).unwrap().code, 0);
    world.client().unwrap().wait_resource("wiki", "path", path, Duration::from_secs(20)).unwrap();
    let meter = |name: &str, ecn: &str| {
        let what = format!("ip ecn {ecn} icmp type echo-request");
        Meter::matching(&world.ground.web, name, "eth0", &what).unwrap()
    };
    let (capable, marked) = (meter("capable", "ect0"), meter("marked", "ce"));

    assert!(pings(&world, "0x02"));
    assert_eq!((capable.read().unwrap().packets, marked.read().unwrap().packets), (5, 0));

    router_marks(&world, "ect0");
    assert!(pings(&world, "0x02"), "a mark is no loss");
    assert_eq!((capable.read().unwrap().packets, marked.read().unwrap().packets), (5, 5));

    router_marks(&world, "not-ect");
    assert!(!pings(&world, "0x00"), "what does not understand marks has to lose packets");
    assert_eq!(marked.read().unwrap().packets, 5);
    let counted = world.gateway().unwrap().status().unwrap()["drops"]["ecn_marked_not_capable"].as_u64();
    assert!(counted.is_some_and(|counted| counted >= 5), "{counted:?}");
}

#[test]
fn marks_cross_a_direct_path() {
    the_office_sees_what_the_router_marked(Nat::PortRestricted.into(), "direct");
}

#[test]
fn marks_cross_our_relay() {
    let plan = RouterPlan { nat: Nat::Symmetric, udp: true, ipv6: false };
    the_office_sees_what_the_router_marked(plan, "relayed");
}

//! The filter, form by form and range by range.

use super::*;

const NOW: Duration = Duration::from_secs(1_000);

fn account() -> Account {
    Account::new("acme")
}

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn filter(allow: &[&str], deny: &[&str]) -> PeerAddressFilter {
    PeerAddressFilter::new(
        &nets(allow),
        &nets(deny),
        &["198.51.99.1", "2600:99::1", "127.0.0.1"].map(|own| own.parse().unwrap()),
        &["127.0.0.1:3478", "0.0.0.0:3479"].map(|listener| listener.parse().unwrap()),
    )
}

fn judge(filter: &PeerAddressFilter, peer: &str) -> Verdict {
    filter.judge(SocketAddr::new(peer.parse().unwrap(), 0), &account(), NOW)
}

#[test]
fn public_addresses_are_allowed() {
    let filter = filter(&[], &[]);

    for peer in ["8.8.8.8", "198.51.99.7", "2606:4700::1111", "64:ff9b::8.8.8.8", "2002:808:808::1"] {
        assert_eq!(judge(&filter, peer), Verdict::Allowed, "{peer}");
    }
}

#[test]
fn every_special_range_is_refused_with_its_reason() {
    let filter = filter(&[], &[]);
    let cases = [
        ("0.0.0.0", Refusal::Unspecified),
        ("0.1.2.3", Refusal::Unspecified),
        ("127.0.0.1", Refusal::Loopback),
        ("127.0.0.2", Refusal::Loopback),
        ("127.255.0.3", Refusal::Loopback),
        ("169.254.1.1", Refusal::LinkLocal),
        ("169.254.169.254", Refusal::Metadata),
        ("100.100.100.200", Refusal::Metadata),
        ("168.63.129.16", Refusal::Metadata),
        ("224.0.0.1", Refusal::Multicast),
        ("255.255.255.255", Refusal::Broadcast),
        ("240.0.0.1", Refusal::Reserved),
        ("192.0.2.7", Refusal::Reserved),
        ("203.0.113.7", Refusal::Reserved),
        ("198.18.0.1", Refusal::Reserved),
        ("10.1.2.3", Refusal::Private),
        ("172.31.0.1", Refusal::Private),
        ("192.168.1.1", Refusal::Private),
        ("100.64.0.1", Refusal::Private),
        ("::", Refusal::Unspecified),
        ("::1", Refusal::Loopback),
        ("fe80::1", Refusal::LinkLocal),
        ("fec0::1", Refusal::Reserved),
        ("fd12::1", Refusal::Private),
        ("fd00:ec2::254", Refusal::Metadata),
        ("ff02::1", Refusal::Multicast),
        ("2001:db8::1", Refusal::Reserved),
        ("3fff::1", Refusal::Reserved),
        ("64:ff9b:1::8.8.8.8", Refusal::Reserved),
        ("4000::1", Refusal::Reserved),
        ("100::1", Refusal::Reserved),
    ];

    for (peer, refusal) in cases {
        assert_eq!(judge(&filter, peer), Verdict::Refused(refusal), "{peer}");
    }
}

#[test]
fn ipv4_inside_ipv6_is_judged_as_ipv4() {
    let filter = filter(&[], &[]);
    let cases = [
        ("::ffff:127.0.0.1", Refusal::Loopback),
        ("::127.0.0.1", Refusal::Loopback),
        ("::ffff:169.254.169.254", Refusal::Metadata),
        ("::ffff:8.8.8.8", Refusal::Disguised),
        ("::8.8.8.8", Refusal::Disguised),
        ("64:ff9b::127.0.0.1", Refusal::Loopback),
        ("64:ff9b::10.0.0.1", Refusal::Private),
        ("2002:7f00:1::", Refusal::Loopback),
        ("2002:a9fe:a9fe::1", Refusal::Metadata),
        // Teredo, the client 127.0.0.1 inverted, the server public; then the other way round.
        ("2001:0:808:808::80ff:fffe", Refusal::Loopback),
        ("2001:0:7f00:1::f7f7:f7f7", Refusal::Loopback),
    ];

    for (peer, refusal) in cases {
        assert_eq!(judge(&filter, peer), Verdict::Refused(refusal), "{peer}");
    }
}

#[test]
fn the_relays_own_addresses_are_reached_only_inside_the_process() {
    let filter = filter(&[], &[]);

    assert_eq!(judge(&filter, "198.51.99.1"), Verdict::InProcess);
    assert_eq!(judge(&filter, "2600:99::1"), Verdict::InProcess);
    assert_eq!(filter.route("198.51.99.1:50000".parse().unwrap()), Route::Nowhere);
    assert_eq!(filter.route("198.51.99.2:50000".parse().unwrap()), Route::Network);
    for peer in ["64:ff9b::198.51.99.1", "2002:c633:6301::", "::ffff:198.51.99.1"] {
        assert!(matches!(judge(&filter, peer), Verdict::Refused(_)), "{peer}");
    }
}

#[test]
fn the_most_specific_rule_wins_and_deny_wins_a_tie() {
    let filter = filter(
        &["10.0.0.0/8", "203.0.113.0/24", "0.0.0.0/0", "8.8.4.0/24"],
        &["10.1.0.0/16", "8.8.8.8/32", "8.8.4.0/24"],
    );

    assert_eq!(judge(&filter, "10.2.0.1"), Verdict::Allowed);
    assert_eq!(judge(&filter, "10.1.0.1"), Verdict::Refused(Refusal::Denied));
    assert_eq!(judge(&filter, "203.0.113.9"), Verdict::Allowed);
    assert_eq!(judge(&filter, "8.8.8.8"), Verdict::Refused(Refusal::Denied));
    assert_eq!(judge(&filter, "8.8.4.4"), Verdict::Refused(Refusal::Denied));
    assert_eq!(judge(&filter, "169.254.169.254"), Verdict::Refused(Refusal::Metadata));
    assert_eq!(judge(&filter, "127.0.0.2"), Verdict::Refused(Refusal::Loopback));
}

#[test]
fn an_operator_opens_loopback_only_by_naming_it() {
    assert_eq!(judge(&filter(&["127.0.0.0/8"], &[]), "127.0.0.1"), Verdict::Allowed);
    assert_eq!(judge(&filter(&["127.0.0.1/32", "::1/128"], &[]), "::1"), Verdict::Allowed);
}

#[test]
fn a_relayed_address_is_recognised_before_the_filter_while_it_exists() {
    let mut filter = filter(&[], &["127.0.0.0/8"]);
    let relayed = "127.0.0.1:50000".parse().unwrap();

    filter.opened(relayed);
    assert_eq!(filter.judge(relayed, &account(), NOW), Verdict::InProcess);
    assert_eq!(filter.route(relayed), Route::InProcess);

    filter.closed(relayed);
    assert_eq!(filter.judge(relayed, &account(), NOW), Verdict::Refused(Refusal::Denied));
    assert_eq!(filter.route(relayed), Route::Nowhere);
}

#[test]
fn the_own_host_opens_only_to_a_rule_that_names_it_and_never_at_a_listener() {
    let at = |text: &str| text.parse::<SocketAddr>().unwrap();
    let wide = filter(&["198.51.99.0/24"], &[]);
    let named = filter(&["198.51.99.1/32", "127.0.0.0/8"], &[]);

    assert_eq!(judge(&wide, "198.51.99.1"), Verdict::InProcess);
    assert_eq!(judge(&wide, "127.0.0.1"), Verdict::Refused(Refusal::Loopback));
    assert_eq!(judge(&named, "198.51.99.1"), Verdict::Allowed);
    assert_eq!(named.route(at("198.51.99.1:7")), Route::Network);
    assert_eq!(named.route(at("127.0.0.1:7")), Route::Network);
    assert_eq!(named.route(at("127.0.0.1:3478")), Route::Nowhere);
    assert_eq!(named.route(at("198.51.99.1:3479")), Route::Nowhere);
}

#[test]
fn a_denied_ipv4_range_is_denied_in_its_ipv6_forms_too() {
    let filter = filter(&[], &["8.8.8.0/24"]);

    for peer in ["64:ff9b::8.8.8.8", "2002:808:808::1", "::ffff:8.8.8.8"] {
        assert_eq!(judge(&filter, peer), Verdict::Refused(Refusal::Denied), "{peer}");
    }
}

#[test]
fn a_private_address_is_allowed_to_the_account_that_was_seen_there_and_only_for_a_while() {
    let mut filter = filter(&[], &["10.9.0.0/16"]);
    filter.saw(&account(), "10.1.2.3".parse().unwrap(), NOW);
    filter.saw(&account(), "10.9.0.1".parse().unwrap(), NOW);
    filter.saw(&account(), "127.0.0.2".parse().unwrap(), NOW);

    assert_eq!(judge(&filter, "10.1.2.3"), Verdict::Allowed);
    assert_eq!(judge(&filter, "10.1.2.4"), Verdict::Refused(Refusal::Private));
    assert_eq!(judge(&filter, "10.9.0.1"), Verdict::Refused(Refusal::Denied));
    assert_eq!(judge(&filter, "127.0.0.2"), Verdict::Refused(Refusal::Loopback));
    let peer = "10.1.2.3:0".parse().unwrap();
    assert_eq!(filter.judge(peer, &Account::new("other"), NOW), Verdict::Refused(Refusal::Private));
    assert_eq!(filter.judge(peer, &account(), NOW + SEEN_FOR), Verdict::Refused(Refusal::Private));
}

#[test]
fn what_was_seen_is_bounded() {
    let mut filter = filter(&[], &[]);
    for n in 0..MOST_SEEN + 100 {
        let [_, a, b, c] = u32::try_from(n).unwrap().to_be_bytes();
        filter.saw(&account(), IpAddr::from([10, a, b, c]), NOW + Duration::from_millis(n as u64));
    }

    assert!(filter.seen.len() + filter.seen_before.len() <= MOST_SEEN);
    let newest = u32::try_from(MOST_SEEN + 99).unwrap().to_be_bytes();
    let newest = SocketAddr::from(([10, newest[1], newest[2], newest[3]], 0));
    assert_eq!(filter.judge(newest, &account(), NOW), Verdict::Allowed);
    assert_eq!(
        filter.judge("10.0.0.1:0".parse().unwrap(), &account(), NOW),
        Verdict::Refused(Refusal::Private)
    );
}

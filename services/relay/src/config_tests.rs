//! Where each setting comes from, and which are refused.

use clap::{CommandFactory as _, Parser as _};
use services_chassis::settings::ConfigFile;

use super::*;

const ALONE: &str = " --standalone --static-user alice:wonder";

fn resolve(arguments: &str, file: &str) -> Result<Config, Failure> {
    let line = format!("{PROGRAM}{arguments}");
    let cli = Cli::try_parse_from(line.split(' ')).unwrap();
    let mut file = ConfigFile::parse("test.toml", file)?;
    let (common, node, relay) = (file.take()?, file.take()?, file.take()?);
    let (streams, limits) = (file.take()?, file.take()?);
    file.finish()?;
    Config::resolve(
        cli.common.or(common),
        cli.node.or(node),
        cli.relay.or(relay),
        cli.streams.or(streams),
        cli.limits.or(limits),
    )
}

#[test]
fn the_example_is_a_configuration_and_shows_every_key() {
    let example = include_str!("../config.example.toml");
    let all_on: String =
        example.lines().map(|line| format!("{}\n", line.strip_prefix("#: ").unwrap_or(line))).collect();
    let keys = all_on.parse::<toml::Table>().unwrap();

    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "# users\nbob:builder\n").unwrap();
    let without_file = all_on.replace("/etc/postern/relay-users", &file.path().display().to_string());
    let under_control: String = without_file
        .lines()
        .filter(|line| !line.starts_with("standalone"))
        .map(|line| format!("{line}\n"))
        .collect();

    assert!(resolve("", example).is_ok());
    assert_eq!(resolve("", &under_control).unwrap().users.len(), 2);
    for flag in Cli::command().get_arguments() {
        let key = flag.get_id().as_str();
        let is_key = !matches!(key, "config" | "help" | "version");
        assert_eq!(keys.contains_key(key), is_key, "{key}");
    }
}

#[test]
fn a_standalone_relay_has_the_usual_ports_and_keeps_no_state() {
    let config = resolve(ALONE, "").unwrap();

    assert!(config.control.is_none());
    assert_eq!(config.listen, ["0.0.0.0:3478".parse().unwrap(), "[::]:3478".parse().unwrap()]);
    assert_eq!(config.ports, PORTS);
    assert_eq!(config.secret_file, None);
    assert_eq!(config.users.len(), 1);
    assert_eq!(config.settings.metrics_listen, Some(METRICS.parse().unwrap()));
}

#[test]
fn a_relay_under_control_keeps_its_secret_in_the_state_directory() {
    let config = resolve(" --control-url https://203.0.113.10:8443 --state-dir /srv/relay", "").unwrap();

    assert_eq!(config.secret_file, Some("/srv/relay/relay.secret".into()));
    assert!(config.control.is_some());
}

#[test]
fn a_flag_beats_the_file() {
    let file = "realm = 'file'\nrelay_ports = '50000-50010'\nallow_peer = ['10.0.0.0/8']";

    let config = resolve(&format!("{ALONE} --realm flag"), file).unwrap();

    assert_eq!(config.realm, "flag");
    assert_eq!(config.ports, 50_000..=50_010);
    assert_eq!(config.allow, ["10.0.0.0/8".parse().unwrap()]);
}

#[test]
fn alone_or_under_control_but_not_both_and_not_for_nobody() {
    for arguments in ["", " --standalone", " --standalone --static-user a:b --control-url https://a:1"] {
        assert_eq!(resolve(arguments, "").unwrap_err().exit, services_chassis::Exit::Usage, "{arguments}");
    }
}

#[test]
fn a_crooked_user_is_not_repeated() {
    for arguments in [" --standalone --static-user open-sesame", " --standalone --static-user :open-sesame"] {
        let failure = resolve(arguments, "").unwrap_err();

        assert!(failure.what.contains("--static-user") && !failure.to_string().contains("open-sesame"));
    }
}

#[test]
fn crooked_values_name_their_flag() {
    for (file, flag) in [
        ("relay_ports = '80-90'", "--relay-ports"),
        ("relay_ports = '50000'", "--relay-ports"),
        ("relay_ports = '50001-50000'", "--relay-ports"),
        ("allow_peer = ['10.0.0.0/33']", "--allow-peer"),
        ("deny_peer = ['x']", "--deny-peer"),
        ("realm = 'two words'", "--realm"),
        ("coordinates = '91,0'", "--coordinates"),
        ("coordinates = 'here'", "--coordinates"),
        ("external_address = ['192.0.2.1', '192.0.2.2']", "--external-address"),
    ] {
        let failure = resolve(ALONE, file).unwrap_err();

        assert!(failure.what.contains(flag), "{failure}");
        assert_eq!(failure.exit, services_chassis::Exit::Usage);
    }
}

#[test]
fn coordinates_may_be_south_and_west() {
    assert_eq!(
        resolve(&format!("{ALONE} --coordinates -33.9,-70.6"), "").unwrap().coordinates,
        Some((-33.9, -70.6))
    );
}

#[test]
fn a_key_that_nobody_knows_is_refused_by_name() {
    assert!(resolve(ALONE, "colour = 'red'").unwrap_err().what.contains("colour"));
}

#[test]
fn tcp_is_where_udp_is_and_tls_where_there_is_a_certificate() {
    let config = resolve(&format!("{ALONE} --listen 192.0.2.1:3479"), "").unwrap();
    assert_eq!(config.streams.tcp, ["192.0.2.1:3479".parse().unwrap()]);
    assert!(config.streams.tls.is_empty());

    let files = " --tls-cert a --tls-key b";
    let config = resolve(&format!("{ALONE}{files} --listen 192.0.2.1:3479 --listen-tcp off"), "").unwrap();
    assert!(config.streams.tcp.is_empty());
    assert_eq!(config.streams.tls, ["192.0.2.1:443".parse().unwrap(), "192.0.2.1:5349".parse().unwrap()]);

    let failure = resolve(&format!("{ALONE} --listen-tls 192.0.2.1:443"), "").unwrap_err();
    assert!(failure.to_string().contains("--tls-cert"), "{failure}");
}

#[test]
fn under_control_there_is_tls_without_a_certificate_unless_it_is_off() {
    let control = " --control-url https://203.0.113.10:8443 --listen 192.0.2.1:3478";

    let config = resolve(control, "").unwrap();
    let off = resolve(&format!("{control} --listen-tls off"), "").unwrap();

    assert_eq!(config.streams.certificate, crate::streams::Certificate::Own);
    assert_eq!(config.streams.tls.len(), 2);
    assert!(off.streams.tls.is_empty());
    assert_eq!(off.streams.certificate, crate::streams::Certificate::None);
}

#[test]
fn a_realm_that_would_make_challenges_amplify_is_refused() {
    assert!(resolve(&format!("{ALONE} --realm eight888"), "").is_ok());

    let failure = resolve(&format!("{ALONE} --realm nine99999"), "").unwrap_err();
    assert!(failure.to_string().contains("shorter"), "{failure}");
}

#[test]
fn limits_come_from_flags_and_file() {
    use protocol_stun::relay::{Bounds, Payload, Rate};

    let file = "payload = 'wireguard'\nmax_bytes_per_user = 5";
    let config = resolve(&format!("{ALONE} --max-packets-per-source 7 --max-allocations 8"), file).unwrap();

    assert_eq!(config.limits.allocations(), Bounds { all: 8, node: 16, source: 4096 });
    assert_eq!(config.limits.of_user(), Rate { packets: 0, bytes: 5 });
    assert_eq!(config.limits.of_source(), Rate { packets: 7, bytes: 0 });
    assert_eq!(config.limits.each().payload, Payload::WireGuard);
}

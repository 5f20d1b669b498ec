//! Services know actors, actors know the runtime and the protocol, and nothing points back.

#![allow(clippy::unwrap_used, missing_docs)]

use integration_architecture::{Package, Workspace};

/// Casts that stand on another cast: the tunnel's and the relay's actors run on the network's sockets, and who decides
/// about access tells the tunnel. There is no way back.
const CASTS_ON_CASTS: [(&str, &str); 4] = [
    ("actors-tunnel", "actors-network"),
    ("actors-relay", "actors-network"),
    ("actors-access", "actors-tunnel"),
    ("actors-access", "actors-network"),
];

fn layer(package: &Package) -> &'static str {
    match package.folder.split('/').collect::<Vec<_>>().as_slice() {
        ["protocol", _] => "protocol",
        ["actors", "runtime"] => "runtime",
        ["actors", _] => "cast",
        ["services", "chassis"] => "chassis",
        ["services", _] => "service",
        ["integration", _] => "integration",
        _ => "others",
    }
}

fn may_depend(from: &Package, on: &Package) -> bool {
    match (layer(from), layer(on)) {
        (_, "others") => true,
        ("protocol", "protocol") => true,
        ("cast", "runtime" | "protocol") => true,
        ("cast", "cast") => CASTS_ON_CASTS.contains(&(from.name.as_str(), on.name.as_str())),
        ("chassis", "runtime" | "protocol") => true,
        ("service", "chassis" | "cast" | "runtime" | "protocol") => true,
        ("integration", "integration") => true,
        // The control plane on strings has to speak the protocol; no actor and no service of ours helps it.
        ("integration", "protocol") => from.name == "integration-puppet",
        _ => false,
    }
}

#[test]
fn nothing_points_back() {
    let workspace = Workspace::read().unwrap();
    let mut against = Vec::new();

    for package in workspace.ours() {
        for dependency in workspace.direct(package) {
            if !may_depend(package, dependency) {
                against.push(format!("{} -> {}", package.name, dependency.name));
            }
        }
    }

    assert!(workspace.ours().count() >= 20, "cargo metadata showed too few packages");
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn the_protocol_links_no_runtime_no_socket_and_no_storage() {
    let forbidden = [
        "tokio",
        "actix",
        "actix-rt",
        "async-std",
        "smol",
        "socket2",
        "mio",
        "quinn-udp",
        "rtnetlink",
        "tokio-tun",
        "reqwest",
        "hyper",
        "sqlx",
        "rustls",
        "actix-web",
    ];
    let workspace = Workspace::read().unwrap();
    let mut against = Vec::new();

    for package in workspace.ours().filter(|package| layer(package) == "protocol") {
        for dependency in workspace.direct(package).filter(|one| forbidden.contains(&one.name.as_str())) {
            against.push(format!("{} -> {}", package.name, dependency.name));
        }
    }

    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn only_control_links_the_database() {
    let workspace = Workspace::read().unwrap();
    let links_database = |name: &str| {
        let package = workspace.member(name).unwrap();
        workspace
            .closure(package)
            .iter()
            .any(|one| one.name.starts_with("sqlx") || one.name == "libsqlite3-sys")
    };

    assert!(links_database("postern-control"), "or this test looks for the wrong thing");
    for program in ["postern", "postern-gateway", "postern-relay"] {
        assert!(!links_database(program), "{program} links the database");
    }
}

#[test]
fn no_program_links_openssl_or_gpl_code() {
    let workspace = Workspace::read().unwrap();
    let mut against = Vec::new();

    for program in ["postern", "postern-control", "postern-gateway", "postern-relay"] {
        for package in workspace.closure(workspace.member(program).unwrap()) {
            let every_choice_is_gpl = package.license.split(" OR ").all(|choice| choice.contains("GPL"));
            if every_choice_is_gpl
                || ["openssl", "openssl-sys", "native-tls"].contains(&package.name.as_str())
            {
                against.push(format!("{program} links {} ({})", package.name, package.license));
            }
        }
    }

    assert!(against.is_empty(), "{against:#?}");
}

/// The quoted words of a list in `deny.toml`, without its comments.
fn listed(deny: &str, list: &str) -> Vec<String> {
    let (_, rest) = deny.split_once(&format!("\n{list} = [")).unwrap();
    let (body, _) = rest.split_once("\n]").unwrap();
    let lines = body.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

/// Whether an expression of licences holds with these: `OR` needs one of its parts, `AND` all of them.
fn holds(expression: &str, allowed: &[String]) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        let choices = part.trim_matches(|c: char| c == '(' || c == ')').split(" OR ");
        choices.map(str::trim).any(|choice| allowed.iter().any(|one| one == choice))
    })
}

#[test]
fn what_the_programs_link_is_what_deny_toml_allows() {
    let deny = std::fs::read_to_string(integration_architecture::root().join("deny.toml")).unwrap();
    let (allowed, banned) = (listed(&deny, "allow"), listed(&deny, "deny"));
    let workspace = Workspace::read().unwrap();
    let mut against = Vec::new();

    for program in ["postern", "postern-control", "postern-gateway", "postern-relay"] {
        for package in workspace.closure(workspace.member(program).unwrap()) {
            if !holds(&package.license, &allowed) || banned.contains(&package.name) {
                against.push(format!("{program} links {} ({})", package.name, package.license));
            }
        }
    }

    assert!(allowed.len() > 5 && banned.contains(&"openssl-sys".to_owned()), "{allowed:?} {banned:?}");
    assert!(!holds("GPL-3.0-only", &allowed) && !holds("MIT AND GPL-2.0", &allowed));
    assert!(against.is_empty(), "{against:#?}");
}

#[test]
fn the_lab_and_the_scenarios_link_nothing_that_they_test() {
    let workspace = Workspace::read().unwrap();

    for name in ["integration-lab", "integration-scenarios", "xtask", "integration-architecture"] {
        let package = workspace.member(name).unwrap();
        let ours = workspace.closure(package).into_iter().filter(|one| !one.folder.is_empty());
        let against: Vec<_> = ours.filter(|one| layer(one) != "integration").map(|one| &one.name).collect();
        assert!(against.is_empty(), "{name} links {against:?}");
    }
}

//! The top of the tree is what `README.md` and the design say it is.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, process::Command};

use integration_architecture::root;

/// Files and folders at the top that git knows.
fn top() -> BTreeSet<String> {
    let output = Command::new("git").args(["ls-files"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    names.lines().map(|path| path.split('/').next().unwrap().to_owned()).collect()
}

#[test]
fn the_top_holds_what_the_design_names_and_nothing_else() {
    let expected: BTreeSet<_> = [
        ".cargo",
        ".ci",
        ".github",
        ".gitignore",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "actors",
        "clippy.toml",
        "deny.toml",
        "deploy",
        "docs",
        "integration",
        "protocol",
        "rustfmt.toml",
        "services",
    ]
    .map(str::to_owned)
    .into();

    assert_eq!(top(), expected);
}

#[test]
fn every_service_has_the_same_files() {
    for service in ["control", "gateway", "relay", "client"] {
        for file in
            ["src/main.rs", "src/cli.rs", "src/config.rs", "src/tree.rs", "README.md", "config.example.toml"]
        {
            let path = root().join("services").join(service).join(file);
            assert!(path.is_file(), "{} is missing", path.display());
        }
    }
}

#[test]
fn every_program_has_a_remembered_tree_and_a_unit() {
    for program in ["control", "gateway", "relay", "client"] {
        assert!(root().join(format!("docs/trees/{program}.txt")).is_file(), "no tree of {program}");
    }
    for unit in ["postern", "postern-control", "postern-gateway", "postern-relay"] {
        assert!(root().join(format!("deploy/systemd/{unit}.service")).is_file(), "no unit of {unit}");
    }
}

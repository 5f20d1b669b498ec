//! `<program> tree` prints what `docs/trees/` remembers: the table that starts the actors is the architecture.
//!
//! `POSTERN_UPDATE_TREES=1 cargo xtask test trees_are_remembered` writes the files anew.

#![allow(clippy::unwrap_used)]

use std::path::Path;

#[test]
fn every_programs_tree_is_the_remembered_one() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().join("docs/trees");
    let mut changed = Vec::new();
    for (program, file) in [
        ("postern-control", "control.txt"),
        ("postern-gateway", "gateway.txt"),
        ("postern-relay", "relay.txt"),
        ("postern", "client.txt"),
    ] {
        let path = folder.join(file);
        let binary = integration_lab::program(program).unwrap();
        let tree = integration_lab::run(&[binary.as_os_str(), "tree".as_ref()]).unwrap().stdout;
        if std::env::var_os("POSTERN_UPDATE_TREES").is_some() {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(&path, &tree).unwrap();
        }
        if std::fs::read_to_string(&path).unwrap_or_default() != tree {
            changed.push(format!(
                "{} remembers something else than `{program} tree` prints:\n{tree}",
                path.display()
            ));
        }
    }
    assert!(changed.is_empty(), "{}", changed.join("\n"));
}

//! Whatever a protocol crate offers for fuzzing has a target, a committed corpus, and a test that replays it.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::BTreeSet, fs};

use integration_architecture::{root, sources};

/// The names after `pub fn fuzz_` in the protocol, as `crate::fuzz_name`.
fn offered() -> BTreeSet<String> {
    let mut offered = BTreeSet::new();
    for (path, text) in sources("protocol") {
        let Some((name, _)) = path.trim_start_matches("protocol/").split_once("/src/") else { continue };
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("pub fn fuzz_") {
                let function = rest.split('(').next().unwrap();
                offered.insert(format!("protocol_{name}::fuzz_{function}"));
            }
        }
    }
    offered
}

/// The targets, with their sources.
fn targets() -> Vec<(String, String)> {
    let mut targets = Vec::new();
    for entry in fs::read_dir(root().join("protocol/fuzz/fuzz_targets")).unwrap().flatten() {
        let name = entry.path().file_stem().unwrap().to_string_lossy().into_owned();
        targets.push((name, fs::read_to_string(entry.path()).unwrap()));
    }
    targets
}

#[test]
fn whatever_is_offered_for_fuzzing_has_a_target() {
    let sources: String = targets().into_iter().map(|(_, text)| text).collect();

    let offered = offered();
    let without: Vec<_> = offered.iter().filter(|function| !sources.contains(function.as_str())).collect();

    assert!(offered.len() >= 10, "this test looks in the wrong place: {offered:?}");
    assert!(without.is_empty(), "{without:#?}");
}

#[test]
fn every_target_is_in_the_manifest_and_has_a_corpus_that_a_test_replays() {
    let manifest = fs::read_to_string(root().join("protocol/fuzz/Cargo.toml")).unwrap();
    let mut replays = String::new();
    for entry in fs::read_dir(root().join("protocol")).unwrap().flatten() {
        replays += &fs::read_to_string(entry.path().join("tests/replays_its_corpora.rs")).unwrap_or_default();
    }
    let mut against = Vec::new();

    for (name, _) in targets() {
        let corpus = root().join("protocol/fuzz/corpus").join(&name);
        if fs::read_dir(corpus).map_or(0, Iterator::count) < 2 {
            against.push(format!("{name} has no corpus"));
        }
        if !manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")) {
            against.push(format!("{name} is not in the manifest"));
        }
        if !replays.contains(&format!("replay::corpus(\"{name}\", ")) {
            against.push(format!("no test replays the corpus of {name}"));
        }
    }

    assert!(against.is_empty(), "{against:#?}");
}

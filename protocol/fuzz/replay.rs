//! Replays a committed corpus; included by `tests/replays_its_corpora.rs` of each protocol crate.

use std::fs;
use std::path::Path;

/// Runs every input of a target's corpus. The name of the input that fails is the last one printed.
pub fn corpus(target: &str, run: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut inputs: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    inputs.sort();
    assert!(inputs.len() > 1, "{} holds no inputs", folder.display());
    for path in inputs {
        println!("{}", path.display());
        run(&fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
}

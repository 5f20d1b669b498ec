//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn survives_the_corpus_of_probe() {
    replay::corpus("probe", protocol_traversal::fuzz_probe);
}

#[test]
fn survives_the_corpus_of_agents() {
    replay::corpus("agents", protocol_traversal::fuzz_agents);
}

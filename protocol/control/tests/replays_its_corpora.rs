//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn survives_the_corpus_of_control() {
    replay::corpus("control", protocol_control::fuzz_control);
}

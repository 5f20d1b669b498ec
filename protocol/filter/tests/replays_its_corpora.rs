//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn survives_the_corpus_of_filter() {
    replay::corpus("filter", protocol_filter::fuzz_filter);
}

//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/text/names.rs"]
mod text;

#[test]
fn survives_the_corpus_of_stub() {
    replay::corpus("stub", protocol_names::fuzz_stub);
}

#[test]
fn survives_the_corpus_of_names_text() {
    replay::corpus("names_text", text::fuzz_text);
}

//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/text/identity.rs"]
mod text;

#[test]
fn survives_the_corpus_of_identity_text() {
    replay::corpus("identity_text", text::fuzz_text);
}

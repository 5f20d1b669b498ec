//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/text/policy.rs"]
mod text;

#[test]
fn survives_the_corpus_of_policy_text() {
    replay::corpus("policy_text", text::fuzz_text);
}

//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn survives_the_corpus_of_stun() {
    replay::corpus("stun", protocol_stun::fuzz_stun);
}

#[test]
fn survives_the_corpus_of_relay() {
    replay::corpus("relay", protocol_stun::fuzz_relay);
}

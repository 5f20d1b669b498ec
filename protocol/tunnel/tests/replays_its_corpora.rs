//! Every input in the committed corpora of this crate's fuzz targets is survived; `protocol/fuzz` holds the targets.

#[path = "../../fuzz/replay.rs"]
mod replay;

#[test]
fn survives_the_corpus_of_datagram() {
    replay::corpus("datagram", protocol_tunnel::fuzz_datagram);
}

#[test]
fn survives_the_corpus_of_session() {
    replay::corpus("session", protocol_tunnel::fuzz_session);
}

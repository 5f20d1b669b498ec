//! The same datagrams, read by our codec and by that of the crate `turn-server`: see `tests/agrees_with_turn_server.rs`.

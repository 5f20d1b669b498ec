//! One input for a fuzz target: a conversation with the stub resolver.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::Message;

use crate::mapped::{MappedAddresses, Ranges};
use crate::stub::{AccessOutcome, Asker, Output, Stub, StubConfig, Transport};

/// Each step is a byte that says what happens, a byte of length, and that many bytes.
pub fn fuzz_stub(input: &[u8]) {
    let upstream = SocketAddr::from(([192, 0, 2, 1], 53));
    let client = SocketAddr::from(([127, 0, 0, 1], 999));
    let mut stub = Stub::new(StubConfig::new(vec![upstream], 1));
    let patterns = ["wiki.corp.example", "**.deep.example"];
    stub.set_resources(patterns.iter().filter_map(|text| Some((text.parse().ok()?, ()))));
    let mut mapped = MappedAddresses::new(Ranges::default(), 8);
    let (mut now, mut rest, mut last_id) = (Duration::ZERO, input, 0u16);
    while let [step, length, tail @ ..] = rest {
        let (bytes, tail) = tail.split_at(usize::from(*length).min(tail.len()));
        rest = tail;
        match step % 8 {
            0 => stub.handle_query(bytes, Asker::Udp(client), now, &mut mapped),
            1 => stub.handle_query(bytes, Asker::Tcp(u64::from(*length)), now, &mut mapped),
            2 => stub.handle_answer(upstream, Transport::Udp, bytes, &mapped),
            // With the right id, so that more than the first check is reached.
            3 | 4 => {
                let mut answer = bytes.to_vec();
                if let Some(place) = answer.first_chunk_mut::<2>() {
                    *place = last_id.to_be_bytes();
                }
                let transport = if step % 8 == 3 { Transport::Udp } else { Transport::Tcp };
                stub.handle_answer(upstream, transport, &answer, &mapped);
            }
            5 => {
                let name = std::str::from_utf8(bytes).ok().and_then(|text| text.parse().ok());
                let outcome = AccessOutcome::Granted { has_v4: length % 2 == 0, has_v6: true };
                if let Some(name) = name {
                    stub.handle_access(&name, outcome, now, &mut mapped);
                }
            }
            6 => stub.handle_failure(last_id, now),
            _ => {
                now += Duration::from_millis(u64::from(*length) * 16);
                stub.handle_timeout(now, &mut mapped);
            }
        }
        while let Some(output) = stub.poll_output() {
            match output {
                Output::Answer { bytes, .. } => {
                    debug_assert!(bytes.len() >= 12 && bytes[2] & 0x80 != 0, "an answer that is none");
                }
                Output::Forward { bytes, id, .. } => {
                    last_id = id;
                    debug_assert!(Message::from_vec(&bytes).is_ok(), "passed on what does not parse");
                }
                Output::AskAccess { name, mapped: addresses, .. } => {
                    debug_assert_eq!(mapped.get(&name), Some(addresses));
                }
            }
        }
        let (held, passed) = stub.waiting();
        debug_assert!(held <= 256 && passed <= 512, "kept without bound");
    }
}

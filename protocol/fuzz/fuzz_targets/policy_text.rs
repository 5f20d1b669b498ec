#![no_main]

#[path = "../text/policy.rs"]
mod text;

libfuzzer_sys::fuzz_target!(|data: &[u8]| text::fuzz_text(data));

//! Any bytes as a source.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seg_tests::fuzz::parse_never_panics(data));

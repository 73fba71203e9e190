//! Any bytes as a policy object.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seg_tests::fuzz::object_reader_refuses(data));

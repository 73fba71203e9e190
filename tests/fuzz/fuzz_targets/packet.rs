//! Any bytes as a frame.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seg_tests::model::packet_parser_agrees(data));

//! Any bytes as a source to lay out.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seg_tests::layout::keeps_meaning(data));

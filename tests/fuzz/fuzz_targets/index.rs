//! Any bytes as a package that an editor has open.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| seg_tests::editor::index_is_sound(data));

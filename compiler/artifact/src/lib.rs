//! The contract between `segc` and `segd`: what a policy object holds, and the layout of its maps.
//!
//! ```text
//!  segc: manifest + programs + maps -> seal -> policy.bpf.o -> open -> manifest, programs :segd
//! ```
//!
//! Knows neither the language nor the kernel interface; performs no IO.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic
)]

pub mod version;
pub mod maps;
pub mod addresses;
pub mod classes;
pub mod manifest;
pub mod object;

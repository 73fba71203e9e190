//! The Seg language: from source text to a typed policy, and what that policy means.
//!
//! ```text
//!  .seg source -> lex -> parse -> resolve -> check -> policy -> eval (the meaning)
//! ```
//!
//! This crate knows neither BPF nor files, environment, clock or colours: texts come in, values go out.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic
)]

pub mod source;
pub mod diagnostic;
pub mod codes;
pub mod token;
pub mod lex;
pub mod ast;
pub mod parse;
pub mod dump;
pub mod format;
pub mod types;
pub mod stdlib;
pub mod packages;
mod resolve;
mod sets;
mod check;
pub mod policy;
pub mod analyze;
pub mod index;
pub mod eval;
pub mod kinds;
pub mod render;
pub mod docs;
pub mod fix;

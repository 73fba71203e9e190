//! segd: a compiled policy, loaded, bound to endpoints and observed.
//!
//! ```text
//!  policy.bpf.o -> artifact::open --+
//!  endpoints.toml -> endpoints -> inventory -> workloads -> (idents) plan -> apply -> control -> status
//!                        kernel: links seen ------------------------+         +-- kernel: load, fill, attach
//! ```
//!
//! ```text
//!  an endpoint that comes, changes or goes -> live -> actions -> apply
//! ```
//!
//! Knows neither the language nor the compiler. Everything is checked before anything is attached, and a failure half way undoes what was done.
#![deny(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::panic
)]

pub mod refusal;
pub mod endpoints;
pub mod inventory;
pub mod workloads;
pub mod idents;
pub mod kernel;
pub mod plan;
pub mod apply;
pub mod live;
pub mod status;
pub mod control;
pub mod daemon;
pub mod cli;

//! The Seg compiler: from a typed policy to a BPF object, and to native code.
//!
//! ```text
//!  policy -> (normalize) rules -+-> (decide) diagrams -> (restrict) roles -> (shape) trees ----+
//!                               |        +-> (prove) claims                                   +-> (program) CLIF
//!                               +-> (tabulate) classes, cells, tables -> (layout) bytes ------+         |
//!                                                                                                       |
//!          machine code <--------------- (native) ------------------------------------------------------+
//!          object <------- (link) BPF <- (lower) -------------------------------------------------------+
//!             |
//!          (check) the decisions of the rules?
//! ```
//!
//! A noun module owns a representation, a verb module is one step. This crate knows neither concrete syntax,
//! files nor the running kernel; what a kernel offers is a value.

pub mod limits;
pub mod target;
pub mod ranges;
pub mod atoms;
pub mod rules;
pub mod normalize;
pub mod diagram;
pub mod decide;
pub mod partition;
pub mod restrict;
pub mod peers;
pub mod classes;
pub mod tables;
pub mod tabulate;
pub mod layout;
pub mod tree;
pub mod shape;
pub mod trees;
pub mod prove;
pub mod ir;
pub mod bpf;
pub mod lower;
pub mod btf;
pub mod link;
pub mod check;
pub mod program;
pub mod cost;
pub mod decided;
pub mod native;
pub mod frame;
pub mod simulate;
pub mod pipeline;

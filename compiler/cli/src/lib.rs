//! The commands of `segc`, and the reading of packages. Unprivileged: no system call beyond reading and writing files.

pub mod files;
pub mod package;
pub mod report;
mod describe;
pub mod endpoint;
pub mod commands;
pub mod lsp;

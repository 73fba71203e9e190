//! Numbers that name formats. Language edition, artifact format and crate version are separate.

/// Format of the manifest and maps; `segd` accepts exactly this one.
pub const FORMAT: u32 = 2;

/// Edition of the language.
pub const EDITION: &str = "2026";

/// Oldest kernel whose tcx hook the objects need.
///
/// Source: Linux 6.6, commit e420bed02507 ("bpf: Add fd-based tcx multi-prog infra with link support").
pub const KERNEL_MIN: &str = "6.6";

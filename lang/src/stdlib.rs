//! The standard library, part of the compiler: sources as they stand in `stdlib/`.

/// Path and text of every module.
pub const FILES: &[(&str, &str)] = &[
    ("std/cloud.seg", include_str!("../../stdlib/cloud.seg")),
    ("std/kubernetes.seg", include_str!("../../stdlib/kubernetes.seg")),
    ("std/nets.seg", include_str!("../../stdlib/nets.seg")),
    ("std/patterns.seg", include_str!("../../stdlib/patterns.seg")),
    ("std/services.seg", include_str!("../../stdlib/services.seg")),
];

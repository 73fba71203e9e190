//! Which crate may know which: the table of the README, held by `cargo metadata`, and facts about the tree as a whole.

use seg_tests::harness::root;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crate, and the crates of ours it may depend on.
const EDGES: &[(&str, &[&str])] = &[
    ("seg-lang", &[]),
    ("seg-artifact", &[]),
    ("seg-compiler", &["seg-artifact", "seg-lang"]),
    ("segc", &["seg-artifact", "seg-compiler", "seg-lang"]),
    ("seg-runtime", &["seg-artifact"]),
    ("seg-tests", &["seg-artifact", "seg-compiler", "seg-lang", "seg-runtime", "segc"]),
];

/// Crates of others that a crate of ours must not see, at any distance.
const STRANGERS: &[(&str, &[&str])] = &[
    ("seg-lang", &["aya", "aya-obj", "cranelift-codegen", "regalloc2", "clap"]),
    ("seg-artifact", &["aya", "aya-obj", "cranelift-codegen", "regalloc2", "clap"]),
    ("seg-compiler", &["aya", "aya-obj", "clap"]),
    ("segc", &["aya", "aya-obj"]),
    (
        "seg-runtime",
        &["cranelift-codegen", "regalloc2", "lalrpop-util", "logos", "codespan-reporting"],
    ),
];

fn tree(krate: &str) -> Vec<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "tree",
            "--offline",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
            "-p",
            krate,
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn crates_know_only_what_they_may() {
    for (krate, allowed) in EDGES {
        let seen = tree(krate);
        assert_eq!(seen.first().map(String::as_str), Some(*krate));
        for (ours, _) in EDGES.iter().filter(|(ours, _)| ours != krate) {
            let found = seen.iter().any(|s| s == ours);
            assert!(!found || allowed.contains(ours), "{krate} must not depend on {ours}");
        }
        for (_, strangers) in STRANGERS.iter().filter(|(name, _)| name == krate) {
            let found = strangers.iter().find(|s| seen.iter().any(|seen| seen == *s));
            assert_eq!(found, None, "{krate} must not see it");
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("readable").flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if name == "target" || name == ".git" || name == "node_modules" {
            continue;
        }
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn no_file_is_larger_than_a_mebibyte() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    assert!(found.len() > 50);
    for path in found {
        let size = path.metadata().expect("readable").len();
        assert!(size <= 1 << 20, "{} has {size} bytes", path.display());
    }
}

/// Relative paths in backticks and links of these pages must exist.
#[test]
fn paths_named_in_documents_exist() {
    for page in ["README.md", "spec.md", "CHANGELOG.md"] {
        let text = std::fs::read_to_string(root().join(page)).expect("page exists");
        let mut named = 0;
        for word in text.split('`').skip(1).step_by(2) {
            let rooted = ["lang/", "compiler/", "runtime/", "stdlib/", "examples/", "tests/"];
            let is_path =
                rooted.iter().any(|r| word.starts_with(r)) && !word.contains([' ', '*', '<', '{']);
            if is_path {
                named += 1;
                let path = word.split(':').next().unwrap_or(word);
                assert!(root().join(path).exists(), "{page} names `{word}`, which does not exist");
            }
        }
        assert!(page == "CHANGELOG.md" || named > 0, "{page} names no path");
    }
}

/// Every code is declared once, in ascending order, so that the list reads as an index.
#[test]
fn codes_are_unique_and_sorted() {
    let codes: BTreeMap<_, _> =
        seg_lang::codes::ALL.iter().map(|(code, text)| (code.0, text)).collect();
    assert_eq!(codes.len(), seg_lang::codes::ALL.len());
    assert!(seg_lang::codes::ALL.is_sorted_by_key(|(code, _)| code.0));
}

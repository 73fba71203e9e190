//! Packages of several files in one case file.
//!
//! A line `#! file org/labels.seg` starts the text of that file; lines are counted from there.
//! A case without such a line is one file, named after the case.
//! A first line `#! as-of 2026-12-31` asks for the policy of that day.

use seg_lang::analyze::{Analysis, Config, analyze_as};
use seg_lang::source::Sources;

const MARK: &str = "#! file ";
const AS_OF: &str = "#! as-of ";

/// Analyses the files of a case.
pub fn analysis(name: &str, text: &str) -> Analysis {
    let as_of = text.lines().next().and_then(|line| line.strip_prefix(AS_OF));
    let config = Config { as_of: as_of.map(str::to_owned), ..Config::default() };
    analyze_as(sources(name, text), &config)
}

/// The files of a case, each with its path.
pub fn split(name: &str, text: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = vec![];
    let mut before = String::new();
    for line in text.split_inclusive('\n') {
        match (line.strip_prefix(MARK), files.last_mut()) {
            (Some(path), _) => files.push((path.trim().to_owned(), String::new())),
            (None, Some((_, text))) => text.push_str(line),
            (None, None) => before.push_str(line),
        }
    }
    if files.is_empty() {
        let file = name.rsplit('/').next().unwrap_or(name);
        files.push((format!("{file}.seg"), before));
    }
    files
}

/// The files of a case as the compiler takes them.
pub fn sources(name: &str, text: &str) -> Sources {
    let mut sources = Sources::default();
    for (path, text) in split(name, text) {
        sources.add(path, text);
    }
    sources
}

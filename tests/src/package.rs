//! Packages of several files in one case file.
//!
//! A line `#! file org/labels.seg` starts the text of that file; lines are counted from there.
//! A case without such a line is one file, named after the case.

use seg_lang::source::Sources;

const MARK: &str = "#! file ";

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

//! `segc fmt`: the layout of files.

use super::{Format, Outcome, Output, misuse, write};
use crate::describe::count;
use crate::files::Files;
use crate::package::{self, LoadError};
use crate::report::{self, Report, json, say};
use seg_artifact::manifest::is_hidden;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::format::format;
use seg_lang::parse::parse;
use seg_lang::source::Sources;
use serde::Serialize;
use similar::TextDiff;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What `segc fmt` does with a file that is laid out otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Writes it.
    Write,
    /// Shows the difference; a finding.
    Check,
}

/// `segc fmt`: the sources of packages, single files, and `-` from standard input to standard output.
///
/// A file with syntax errors is laid out as far as it parses, and is a finding.
pub fn fmt(paths: &[PathBuf], mode: Mode, output: Output) -> Outcome {
    match laid_out(paths, mode, output) {
        Ok(outcome) => outcome,
        Err(error) => misuse(&error, output),
    }
}

fn laid_out(paths: &[PathBuf], mode: Mode, output: Output) -> Result<Outcome, LoadError> {
    // Read before anything is written: wrong use changes nothing.
    let mut files = BTreeMap::new();
    for path in paths {
        // Standard input can be read once.
        if !files.contains_key(path) {
            files.extend(package::own_files(path)?);
        }
    }
    let mut sources = Sources::default();
    let mut diagnostics: Vec<Diagnostic> = vec![];
    let mut changed = vec![];
    let mut stdin = None;
    for (path, text) in &files {
        let name = path.display().to_string();
        let formatted = format(text);
        // Messages are about the lines that are there afterwards.
        let left = if mode == Mode::Write { &formatted.text } else { text };
        let file = sources.add(name.as_str(), left.as_str());
        if !formatted.sound {
            diagnostics.extend(parse(file, left).1);
        }
        let piped = path == Path::new("-") && mode == Mode::Write;
        if piped {
            stdin = Some(formatted.text.clone());
        }
        if formatted.text == *text {
            continue;
        }
        if mode == Mode::Write && !piped {
            // What a link leads to is written, and the link stays.
            let target = path.canonicalize().unwrap_or_else(|_| path.clone());
            write(&target, formatted.text.as_bytes())
                .map_err(|error| LoadError(format!("cannot write {name}: {error}")))?;
        }
        let diff = (mode == Mode::Check).then(|| difference(&name, text, &formatted.text));
        changed.push(Changed { path: name, diff });
    }
    let found = !diagnostics.is_empty() || mode == Mode::Check && !changed.is_empty();
    let here = std::env::current_dir().map_err(|e| LoadError(format!("current directory: {e}")))?;
    let mut on_disk = Files::new(here);
    files.keys().for_each(|path| on_disk.add(&path.display().to_string(), path, true));
    let report = Report {
        command: "fmt",
        package: "",
        sources: &sources,
        files: &on_disk,
        diagnostics: &diagnostics,
    };
    match output {
        Output::Json => {
            let diagnostics = json::findings(report);
            report::print(Formatted { files: files.len(), changed, text: stdin, diagnostics });
        }
        Output::Text => {
            let diffs = changed.iter().filter_map(|c| c.diff.as_deref());
            diffs.for_each(|diff| report::print_text(&shown(diff)));
            report.print(Format::Text);
            let (n_files, n_changed) = (count(files.len(), "file"), changed.len());
            match (mode, stdin) {
                // The text itself is the result.
                (Mode::Write, Some(text)) => report::print_text(&text),
                (Mode::Write, None) => say!("{n_changed} of {n_files} changed"),
                (Mode::Check, _) => say!("{n_changed} of {n_files} to change"),
            }
        }
    }
    Ok(if found { Outcome::Findings } else { Outcome::Clean })
}

/// A unified difference.
fn difference(name: &str, old: &str, new: &str) -> String {
    TextDiff::from_lines(old, new).unified_diff().header(name, name).to_string()
}

/// A text for a terminal: what it would obey or hide is escaped.
fn shown(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) && !matches!(c, '\n' | '\t') {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
    }
    shown
}

#[derive(Serialize)]
struct Formatted {
    files: usize,
    changed: Vec<Changed>,
    /// The layout of standard input.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    diagnostics: Vec<json::Finding>,
}

#[derive(Serialize)]
struct Changed {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<String>,
}

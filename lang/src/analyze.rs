//! From texts to a checked policy: parses, adds the standard library, resolves and checks.
//!
//! There is a policy exactly if there is no error.

use crate::ast::{File, Kind};
use crate::check::check;
use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::parse::parse;
use crate::policy::Policy;
use crate::resolve::{STD, resolve};
use crate::source::{FileId, Sources, Span};
use crate::stdlib;
use std::collections::BTreeSet;

/// Everything known about a package.
#[derive(Clone, Debug)]
pub struct Analysis {
    /// The files given and the modules of the standard library they import.
    pub sources: Sources,
    /// The syntax tree of each.
    pub trees: Vec<(FileId, File)>,
    /// What it means; `None` if any diagnostic is an error.
    pub policy: Option<Policy>,
    /// What was found, by file and offset.
    pub diagnostics: Vec<Diagnostic>,
}

/// Parses, resolves and checks all files of a package.
///
/// Every file is a module: `org/labels.seg` is `org.labels`. Modules below `std` come from the standard library
/// and may not be given.
pub fn analyze(mut sources: Sources) -> Analysis {
    let mut diagnostics = vec![];
    let mut trees = vec![];
    let mut given = BTreeSet::new();
    for (file, source) in sources.iter() {
        let here = Span::new(file, 0, 0);
        if source.path.split('/').next() == Some(STD) {
            let message =
                format!("`{STD}` is the standard library; call `{}` otherwise", source.path);
            diagnostics.push(Diagnostic::new(codes::DEFINED_TWICE, message, here));
        }
        if !given.insert(source.path.as_str()) {
            let message = format!("module `{}` is given twice", source.path);
            diagnostics.push(Diagnostic::new(codes::DEFINED_TWICE, message, here));
        }
        let (tree, found) = parse(file, &source.text);
        diagnostics.extend(found);
        trees.push((file, tree));
    }
    let n_given = trees.len();
    add_library(&mut sources, &mut trees);

    let names = resolve(&sources, &trees, &mut diagnostics);
    let mut package: Vec<_> = trees.iter().take(n_given).collect();
    package.sort_by_key(|(file, _)| sources.get(*file).map(|s| s.path.as_str()));
    let policy = check(&sources, &names, &package, &mut diagnostics);

    // Stable, so that findings of one place keep the order of the steps.
    diagnostics.sort_by_key(|d| d.labels.first().map(|l| (l.span.file, l.span.start)));
    once(&sources, &mut diagnostics);
    let wrong = diagnostics.iter().any(|d| d.code.severity() == Severity::Error);
    Analysis { sources, trees, policy: policy.filter(|_| !wrong), diagnostics }
}

/// Leaves one report, the first, of a name that a module lacks: its declaration or import is missing once.
fn once(sources: &Sources, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    diagnostics.retain(|diagnostic| match diagnostic.labels.first() {
        Some(label) if [codes::UNKNOWN_NAME, codes::UNKNOWN_LABEL].contains(&diagnostic.code) => {
            seen.insert((diagnostic.code, label.span.file, sources.text(label.span)))
        }
        Some(_) | None => true,
    });
}

/// Adds the modules of the standard library that are imported, and those they import.
fn add_library(sources: &mut Sources, trees: &mut Vec<(FileId, File)>) {
    let mut added = BTreeSet::new();
    let mut next = 0;
    while let Some((_, tree)) = trees.get(next) {
        next += 1;
        let mut wanted = BTreeSet::new();
        for item in &tree.items {
            let Kind::Import { path, .. } = &item.kind else { continue };
            let parts: Vec<_> = path.parts.iter().map(|p| p.value.as_str()).collect();
            if parts.first() == Some(&STD) {
                wanted.extend(
                    (2..=parts.len())
                        .map(|n| parts.iter().take(n).copied().collect::<Vec<_>>().join("/")),
                );
            }
        }
        for (path, text) in stdlib::FILES {
            let is_wanted = path.strip_suffix(".seg").is_some_and(|module| wanted.contains(module));
            if is_wanted && added.insert(*path) {
                let file = sources.add(*path, *text);
                let (tree, found) = parse(file, text);
                debug_assert!(found.is_empty(), "{path} does not parse: {found:?}");
                trees.push((file, tree));
            }
        }
    }
}

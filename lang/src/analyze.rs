//! From texts to a checked policy: parses, adds the standard library, resolves and checks.
//!
//! There is a policy exactly if there is no error.

use crate::ast::{File, Kind};
use crate::check::check;
use crate::codes;
use crate::diagnostic::{Diagnostic, Severity};
use crate::packages::Packages;
use crate::parse::parse;
use crate::policy::Policy;
use crate::resolve::{STD, resolve};
use crate::source::{FileId, Sources, Span};
use crate::stdlib;
use std::collections::{BTreeMap, BTreeSet};

/// What an analysis depends on besides the texts.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Which packages there are.
    pub packages: Packages,
    /// The day whose policy is wanted, as `2026-12-31`: what expired before is left out. `None` leaves nothing out.
    pub as_of: Option<String>,
}

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
    /// What the parser said about each tree.
    parsed: Vec<Vec<Diagnostic>>,
}

/// Parses, resolves and checks all files of a package.
///
/// Every file is a module: `org/labels.seg` is `org.labels`. Modules below `std` come from the standard library
/// and may not be given.
pub fn analyze(sources: Sources) -> Analysis {
    analyze_as(sources, &Config::default())
}

/// [`analyze`] with packages and a date.
pub fn analyze_as(sources: Sources, config: &Config) -> Analysis {
    analyze_watched(sources, config, |_| ())
}

/// [`analyze_as`] with the trees of files that have the same place and text in `before`.
pub fn analyze_again(sources: Sources, config: &Config, before: Option<Analysis>) -> Analysis {
    run(sources, config, &mut Parser::new(before), |_| ())
}

/// A step of [`analyze`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Texts to syntax trees, those of the standard library too.
    Parse,
    /// Names to what they name.
    Resolve,
    /// Sets, rules and claims to the typed policy, and the diagnostics in order.
    Check,
}

/// As [`analyze_as`], and tells when each step is done: this crate has no clock.
pub fn analyze_watched(sources: Sources, config: &Config, done: impl FnMut(Step)) -> Analysis {
    run(sources, config, &mut Parser::new(None), done)
}

/// Parses, and knows what was parsed before.
struct Parser {
    sources: Sources,
    trees: BTreeMap<FileId, (File, Vec<Diagnostic>)>,
    /// What was said about each tree so far.
    said: Vec<Vec<Diagnostic>>,
}

impl Parser {
    fn new(before: Option<Analysis>) -> Self {
        let (sources, trees) = match before {
            Some(Analysis { sources, trees, parsed, .. }) => {
                let trees = trees.into_iter().zip(parsed);
                (sources, trees.map(|((file, tree), said)| (file, (tree, said))).collect())
            }
            None => (Sources::default(), BTreeMap::new()),
        };
        Self { sources, trees, said: vec![] }
    }

    fn parse(&mut self, file: FileId, text: &str) -> File {
        let same = self.sources.get(file).is_some_and(|source| source.text == text);
        let known = if same { self.trees.remove(&file) } else { None };
        let (tree, said) = known.unwrap_or_else(|| parse(file, text));
        self.said.push(said);
        tree
    }
}

fn run(
    mut sources: Sources,
    config: &Config,
    parser: &mut Parser,
    mut done: impl FnMut(Step),
) -> Analysis {
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
        trees.push((file, parser.parse(file, &source.text)));
        diagnostics.extend(parser.said.last().into_iter().flatten().cloned());
    }
    let n_given = trees.len();
    add_library(&mut sources, &mut trees, parser);
    done(Step::Parse);

    let names = resolve(&sources, &config.packages, &trees, &mut diagnostics);
    done(Step::Resolve);
    let mut package: Vec<_> = trees.iter().take(n_given).collect();
    package.sort_by_key(|(file, _)| sources.get(*file).map(|s| s.path.as_str()));
    let policy = check(&sources, config, &names, &package, &mut diagnostics);
    let path = |file: FileId| sources.get(file).map_or("", |source| source.path.as_str());
    diagnostics.retain_mut(|diagnostic| {
        let file = diagnostic.labels.first().map(|label| label.span.file);
        file.is_none_or(|file| config.packages.of(path(file)).judge(diagnostic))
    });

    // Stable, so that findings of one place keep the order of the steps.
    diagnostics.sort_by_key(|d| d.labels.first().map(|l| (l.span.file, l.span.start)));
    once(&sources, &mut diagnostics);
    for diagnostic in &mut diagnostics {
        if diagnostic.helps.is_empty() && diagnostic.fixes.is_empty() {
            diagnostic.helps.extend(codes::way_out(diagnostic.code).map(str::to_owned));
        }
    }
    let wrong = diagnostics.iter().any(|d| d.severity == Severity::Error);
    done(Step::Check);
    let policy = policy.filter(|_| !wrong);
    Analysis { sources, trees, policy, diagnostics, parsed: std::mem::take(&mut parser.said) }
}

/// Leaves one report, the first, of a name that a module lacks: its declaration or import is missing once.
fn once(sources: &Sources, diagnostics: &mut Vec<Diagnostic>) {
    let mut seen = BTreeSet::new();
    let mut warned = BTreeSet::new();
    diagnostics.retain(|diagnostic| match diagnostic.labels.first() {
        Some(label) if [codes::UNKNOWN_NAME, codes::UNKNOWN_LABEL].contains(&diagnostic.code) => {
            seen.insert((diagnostic.code, label.span.file, sources.text(label.span)))
        }
        // A statement of a template is checked for each use.
        Some(label) if diagnostic.code.severity() == Severity::Warning => {
            warned.insert((diagnostic.code, label.span))
        }
        Some(_) | None => true,
    });
}

/// Adds the modules of the standard library that are imported, and those they import.
fn add_library(sources: &mut Sources, trees: &mut Vec<(FileId, File)>, parser: &mut Parser) {
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
                trees.push((file, parser.parse(file, text)));
                let said = parser.said.last();
                debug_assert!(said.is_some_and(Vec::is_empty), "{path} does not parse: {said:?}");
            }
        }
    }
}

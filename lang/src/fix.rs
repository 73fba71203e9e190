//! Applies the edits that diagnostics offer: texts in, texts out.
//!
//! Only what is sure is applied: an edit of an error that offers no other.
//! A warning's edit is never applied, since a policy without errors already means something.
//!
//! INVARIANT: no file gets worse. With its edits, a file has no more errors of their stage or an earlier one than before,
//! the mistakes they were for are gone, and none of the new words is itself a mistake.
//! Errors of later stages may appear: a statement that did not parse hid what else is wrong with it.

use crate::analyze::Analysis;
use crate::codes;
use crate::diagnostic::{Code, Diagnostic, Severity};
use crate::source::{FileId, Source, Sources, Span};
use std::collections::{BTreeMap, BTreeSet};

/// Most analyses of the package that one run makes; edits not judged by then are left to people.
///
/// Unit: analyses. Source: chosen; a run without a bad edit needs one more than it has rounds.
const ANALYSES_MAX: usize = 256;

/// A package whose mistakes are mended as far as that is sure.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// The package as it is now; its sources hold the new texts.
    pub analysis: Analysis,
    /// What was done, in order.
    pub edits: Vec<Edit>,
}

/// An edit that was applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// What it mended.
    pub diagnostic: Diagnostic,
    /// Path of the file.
    pub path: String,
    /// Line at that time, from 1.
    pub line: u32,
    /// Column at that time, from 1, in characters.
    pub column: u32,
    /// The text that was replaced.
    pub old: String,
    /// The text that stands there now.
    pub new: String,
    span: Span,
}

/// Applies edits, analyses again, and repeats until nothing sure is left.
///
/// `analyze` must keep the order of the sources it is given; `may_change` says which of them may be edited.
/// Cost: a few analyses of the package, at most `ANALYSES_MAX`.
pub fn fix(
    sources: Sources,
    analyze: &dyn Fn(Sources) -> Analysis,
    may_change: &dyn Fn(&Source) -> bool,
) -> Fixed {
    let analysis = analyze(sources.clone());
    let mut run = Run { analyze, sources, analysis, left: ANALYSES_MAX - 1, refused: vec![] };
    let mut edits = vec![];
    while run.left > 0 {
        let (stage, offered) = run.offers(may_change);
        if offered.is_empty() {
            break;
        }
        let mut taken = Taken { edits: vec![], now: None };
        run.take(stage, &mut taken, &offered);
        if let Some((sources, analysis)) = taken.now {
            (run.sources, run.analysis) = (sources, analysis);
            edits.extend(taken.edits);
            // What did not go with an edit of this round may go well after it.
            run.refused.clear();
        }
    }
    Fixed { analysis: run.analysis, edits }
}

/// `sources` with one edit applied; `None` if its place is no text of them.
pub fn apply(sources: &Sources, span: Span, new: &str) -> Option<Sources> {
    let mut edited = Sources::default();
    let text = |source: &Source| {
        let (before, behind) =
            (source.text.get(..span.start as usize)?, source.text.get(span.end as usize..)?);
        (span.start <= span.end).then(|| [before, new, behind].concat())
    };
    sources.get(span.file)?;
    for (file, source) in sources.iter() {
        let text = if file == span.file { text(source)? } else { source.text.clone() };
        edited.add(source.path.clone(), text);
    }
    Some(edited)
}

/// A step of the analysis; what a step refuses, later ones do not see.
///
/// The first two digits of a code, for they group codes so: grammar, names, types, and so on; imports come before other names.
type Stage = (u8, u8);

fn stage(code: Code) -> Stage {
    let group = code.0.get(1..3).and_then(|digits| digits.parse().ok()).unwrap_or(u8::MAX);
    let import = [codes::UNKNOWN_MODULE, codes::NOT_IN_MODULE].contains(&code);
    (group, u8::from(!import))
}

struct Run<'a> {
    analyze: &'a dyn Fn(Sources) -> Analysis,
    sources: Sources,
    analysis: Analysis,
    left: usize,
    /// Edits taken back since a text changed, known by what they say.
    refused: Vec<(Diagnostic, String)>,
}

/// Edits of one round that go together, and the package with them.
struct Taken {
    edits: Vec<Edit>,
    now: Option<(Sources, Analysis)>,
}

impl Run<'_> {
    /// The sure edits of the earliest stage that has any, from left to right, apart from each other.
    fn offers(&self, may_change: &dyn Fn(&Source) -> bool) -> (Stage, Vec<Edit>) {
        let mut offered: BTreeMap<Stage, Vec<Edit>> = BTreeMap::new();
        for diagnostic in &self.analysis.diagnostics {
            let [fix] = diagnostic.fixes.as_slice() else { continue };
            let Some(source) = self.sources.get(fix.span.file) else { continue };
            let Some(old) = source.text.get(fix.span.range()) else { continue };
            let sure = fix.sure && diagnostic.severity == Severity::Error && old != fix.text;
            if !sure || !may_change(source) || self.is_refused(diagnostic, old) {
                continue;
            }
            let (line, column) = source.position(fix.span.start);
            offered.entry(stage(diagnostic.code)).or_default().push(Edit {
                diagnostic: diagnostic.clone(),
                path: source.path.clone(),
                line,
                column,
                old: old.to_owned(),
                new: fix.text.clone(),
                span: fix.span,
            });
        }
        let Some((stage, mut edits)) = offered.pop_first() else { return ((0, 0), vec![]) };
        edits.sort_by_key(|edit| edit.span);
        let mut last: Option<Span> = None;
        edits.retain(|edit| {
            let apart = last.is_none_or(|last| {
                last.file != edit.span.file
                    || (last.end <= edit.span.start && last.start < edit.span.start)
            });
            if apart {
                last = Some(edit.span);
            }
            apart
        });
        (stage, edits)
    }

    fn is_refused(&self, diagnostic: &Diagnostic, old: &str) -> bool {
        let same = |(refused, text): &(Diagnostic, String)| {
            let new = |d: &Diagnostic| d.fixes.first().map(|fix| (fix.span.file, fix.text.clone()));
            (refused.code, &refused.message) == (diagnostic.code, &diagnostic.message)
                && text == old
                && new(refused) == new(diagnostic)
        };
        self.refused.iter().any(same)
    }

    /// Takes all of `offered` if that is no harm, else each half on its own merits.
    ///
    /// Depth: the binary logarithm of the number of edits.
    fn take(&mut self, stage: Stage, taken: &mut Taken, offered: &[Edit]) {
        if self.left == 0 || offered.is_empty() {
            return;
        }
        self.left -= 1;
        let mut edits = [taken.edits.as_slice(), offered].concat();
        edits.sort_by_key(|edit| edit.span);
        let (sources, places) = edited(&self.sources, &edits);
        let analysis = (self.analyze)(sources.clone());
        if is_better(&self.analysis, &analysis, stage, &edits, &places) {
            *taken = Taken { edits, now: Some((sources, analysis)) };
        } else if let [edit] = offered {
            self.refused.push((edit.diagnostic.clone(), edit.old.clone()));
        } else {
            let (left, right) = offered.split_at(offered.len() / 2);
            self.take(stage, taken, left);
            self.take(stage, taken, right);
        }
    }
}

/// All edits at once, and where the text of each stands then; `edits` are sorted and apart.
fn edited(sources: &Sources, edits: &[Edit]) -> (Sources, Vec<Span>) {
    let mut result = Sources::default();
    let mut places = vec![];
    for (file, source) in sources.iter() {
        let (mut text, mut done) = (String::new(), 0);
        for edit in edits.iter().filter(|edit| edit.span.file == file) {
            let range = edit.span.range();
            text.push_str(source.text.get(done..range.start).unwrap_or_default());
            places.push(Span::new(file, text.len(), text.len() + edit.new.len()));
            text.push_str(&edit.new);
            done = range.end;
        }
        text.push_str(source.text.get(done..).unwrap_or_default());
        result.add(source.path.clone(), text);
    }
    (result, places)
}

/// Whether the edits mended what they were for and broke nothing.
fn is_better(
    before: &Analysis,
    after: &Analysis,
    stage: Stage,
    edits: &[Edit],
    places: &[Span],
) -> bool {
    let (old, new) = (errors(before, stage), errors(after, stage));
    let up_to = |errors: &[(FileId, Stage)], (file, stage): (FileId, Stage)| {
        errors.iter().filter(|(f, s)| *f == file && *s <= stage).count()
    };
    // At no step are there more than there were: a new error of an earlier step weighs more than an old one of a later.
    let steps: BTreeSet<_> = new.iter().copied().collect();
    if steps.into_iter().any(|step| up_to(&new, step) > up_to(&old, step)) {
        return false;
    }
    let found: BTreeSet<_> = after
        .diagnostics
        .iter()
        .filter_map(|d| Some((d.code, d.labels.first()?.span.file, d.labels.first()?.span.start)))
        .collect();
    edits.iter().zip(places).all(|(edit, place)| {
        let cause = edit.diagnostic.labels.first().map(|label| label.span);
        let stays = cause.is_some_and(|span| {
            let start = moved(span, edits, places);
            found.contains(&(edit.diagnostic.code, span.file, start))
        });
        // What stood there before may have been wrong in two ways; what the edit brought may not be wrong.
        let wrong = after.diagnostics.iter().filter_map(|d| d.labels.first()).any(|label| {
            let inside = label.span.file == place.file
                && place.start <= label.span.start
                && label.span.end <= place.end
                && label.span.start < label.span.end;
            inside && !edit.old.contains(after.sources.text(label.span))
        });
        !stays && !wrong
    })
}

/// The errors up to a stage.
fn errors(analysis: &Analysis, most: Stage) -> Vec<(FileId, Stage)> {
    let error = |found: &Diagnostic| {
        let (file, stage) = (found.labels.first()?.span.file, stage(found.code));
        (found.severity == Severity::Error && stage <= most).then_some((file, stage))
    };
    analysis.diagnostics.iter().filter_map(error).collect()
}

/// Where the start of a span is after the edits.
fn moved(span: Span, edits: &[Edit], places: &[Span]) -> u32 {
    let before = edits
        .iter()
        .zip(places)
        .take_while(|(edit, _)| edit.span.file < span.file || edit.span.start <= span.start)
        .filter(|(edit, _)| edit.span.file == span.file)
        .last();
    match before {
        Some((edit, place)) if edit.span.end <= span.start => {
            place.end + (span.start - edit.span.end)
        }
        Some((_, place)) => place.start,
        None => span.start,
    }
}

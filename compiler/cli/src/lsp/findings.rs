//! Diagnostics as an editor shows them, and the edits that mend them.

use super::place::{Root, uri_of};
use super::position::{Encoding, Lines};
use super::workspace::{Known, View};
use crate::package::MANIFEST;
use gen_lsp_types::{
    Code, CodeAction, CodeActionKind, CodeActionResponse, Diagnostic, DiagnosticRelatedInformation,
    DiagnosticSeverity, Location, Message, Range, TextEdit, Uri, WorkspaceEdit,
};
use seg_lang::diagnostic::{self, Fix, Severity};
use seg_lang::source::{FileId, Span};
use std::collections::BTreeMap;

/// Who says so.
const SOURCE: &str = "segc";

/// The diagnostics of a package by URI; files without any are left out.
pub(crate) fn by_uri(
    root: &Root,
    known: &Known,
    encoding: Encoding,
) -> BTreeMap<String, Vec<Diagnostic>> {
    let mut found: BTreeMap<String, Vec<Diagnostic>> = BTreeMap::new();
    let whole = match root {
        Root::Package(home) => uri_of(&home.join(MANIFEST)),
        Root::Single(uri) => Uri(uri.clone()),
    };
    if let Some(message) = &known.unreadable {
        // Without its files nothing can be said about the rest.
        let item = shown(Range::default(), DiagnosticSeverity::Error, message.clone());
        found.insert(whole.0, vec![item]);
        return found;
    }
    let sources = &known.analysis.sources;
    let mut files: BTreeMap<FileId, (Uri, Lines<'_>)> = BTreeMap::new();
    for diagnostic in &known.analysis.diagnostics {
        for label in &diagnostic.labels {
            files.entry(label.span.file).or_insert_with(|| {
                let source = sources.get(label.span.file);
                let (path, text) = source.map_or(("", ""), |s| (s.path.as_str(), s.text.as_str()));
                (known.uri(root, path), Lines::new(text, encoding))
            });
        }
        let mut labels = diagnostic.labels.iter();
        let place = diagnostic.labels.first().and_then(|label| {
            let (uri, lines) = files.get(&label.span.file)?;
            Some((uri.clone(), lines.range(label.span)))
        });
        // What is about no place is about the package.
        let (uri, range) = place.unwrap_or_else(|| (whole.clone(), Range::default()));
        let mut message = diagnostic.message.clone();
        let first = labels.next();
        for text in first.map(|l| &l.text).into_iter().chain(&diagnostic.helps) {
            if !text.is_empty() {
                message.push('\n');
                message.push_str(text);
            }
        }
        let severity = match diagnostic.severity {
            Severity::Error => DiagnosticSeverity::Error,
            Severity::Warning => DiagnosticSeverity::Warning,
        };
        let mut item = shown(range, severity, message);
        item.code = Some(Code::String(diagnostic.code.0.to_owned()));
        let related: Vec<DiagnosticRelatedInformation> = labels
            .filter_map(|label| {
                let (uri, lines) = files.get(&label.span.file)?;
                let location = Location { uri: uri.clone(), range: lines.range(label.span) };
                Some(DiagnosticRelatedInformation { location, message: label.text.clone() })
            })
            .collect();
        item.related_information = (!related.is_empty()).then_some(related);
        found.entry(uri.0).or_default().push(item);
    }
    found
}

fn shown(range: Range, severity: DiagnosticSeverity, message: String) -> Diagnostic {
    Diagnostic {
        range,
        severity: Some(severity),
        code: None,
        code_description: None,
        source: Some(SOURCE.to_owned()),
        message: Message::String(message),
        tags: None,
        related_information: None,
        data: None,
    }
}

/// The edits that mend what is wrong within a range of a document.
pub(crate) fn actions(view: View<'_>, range: Range) -> Vec<CodeActionResponse> {
    let bytes = view.lines().bytes(range);
    let near = |span: Span| {
        span.file == view.file
            && span.start as usize <= bytes.end
            && bytes.start <= span.end as usize
    };
    let mut actions = vec![];
    for diagnostic in &view.analysis().diagnostics {
        let place = diagnostic.labels.first().map(|label| label.span);
        if !place.is_some_and(near) {
            continue;
        }
        let preferred = diagnostic.fixes.len() == 1;
        for fix in &diagnostic.fixes {
            actions.push(CodeActionResponse::CodeAction(CodeAction {
                title: title(view, diagnostic, fix),
                kind: Some(CodeActionKind::QuickFix),
                diagnostics: None,
                is_preferred: preferred.then_some(true),
                disabled: None,
                edit: Some(edit(view, [(fix.span, fix.text.as_str())])),
                command: None,
                data: None,
                tags: None,
            }));
        }
    }
    actions
}

fn title(view: View<'_>, diagnostic: &diagnostic::Diagnostic, fix: &Fix) -> String {
    let old = view.analysis().sources.text(fix.span).trim();
    let text = fix.text.trim();
    let what = match (text.is_empty(), fix.span.start == fix.span.end) {
        (true, _) => format!("delete `{old}`"),
        (false, true) => format!("insert `{text}`"),
        (false, false) => format!("write `{text}`"),
    };
    format!("{what} ({})", diagnostic.code.0)
}

/// An edit of files of the package.
pub(crate) fn edit<'t>(
    view: View<'_>,
    changes: impl IntoIterator<Item = (Span, &'t str)>,
) -> WorkspaceEdit {
    let mut by_file: BTreeMap<FileId, Vec<(Span, &str)>> = BTreeMap::new();
    for (span, text) in changes {
        by_file.entry(span.file).or_default().push((span, text));
    }
    let changes = by_file.into_iter().map(|(file, edits)| {
        let lines = view.lines_of(file);
        let edits = edits
            .into_iter()
            .map(|(span, text)| TextEdit { range: lines.range(span), new_text: text.to_owned() });
        (view.uri(file), edits.collect())
    });
    WorkspaceEdit {
        changes: Some(changes.collect()),
        document_changes: None,
        change_annotations: None,
    }
}

//! Diagnostics as plain text.

use crate::diagnostic::{Diagnostic, Fix, Severity};
use crate::lex::is_invisible;
use crate::source::{FileId, Sources, Span};
use codespan_reporting::diagnostic as codespan;
use codespan_reporting::files::SimpleFiles;
use codespan_reporting::term::{self, Config};

/// Longest line shown below a message. Longer ones help nobody, and each message about them would repeat them.
///
/// Unit: bytes. Source: chosen.
const LINE_BYTES_MAX: usize = 1_000;

/// All diagnostics with the lines they are about, by file and place.
///
/// Characters that nobody sees, or that a terminal would obey, are shown as `�`.
/// Cost: linear in the texts and in the number of diagnostics.
pub fn render(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    let mut files = SimpleFiles::new();
    for (_, source) in sources.iter() {
        files.add(source.path.as_str(), visible(&source.text));
    }
    let config = Config::default();
    let render = |found: &Diagnostic| {
        if found.labels.iter().any(|label| on_long_line(label.span, sources)) {
            let notes: String = notes(found, sources).map(|note| format!("  = {note}\n")).collect();
            return format!("{}\n{notes}\n", line(found, sources));
        }
        term::emit_into_string(&config, &files, &report(found, sources))
            // A label outside its file is our mistake; the message still reaches the user.
            .unwrap_or_else(|_| format!("{}\n\n", line(found, sources)))
    };
    let text: String = sorted(diagnostics).into_iter().map(render).collect();
    let lines: Vec<&str> = text.trim_end().lines().map(str::trim_end).collect();
    if lines.is_empty() { String::new() } else { lines.join("\n") + "\n" }
}

/// All diagnostics, one a line: `path:line:column: error[E0104]: message`.
pub fn brief(diagnostics: &[Diagnostic], sources: &Sources) -> String {
    sorted(diagnostics).into_iter().map(|found| line(found, sources) + "\n").collect()
}

fn sorted(diagnostics: &[Diagnostic]) -> Vec<&Diagnostic> {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by_key(|d| (d.labels.first().map(|l| l.span), d.code));
    sorted
}

/// Whether `span` begins or ends on a line too long to show.
fn on_long_line(span: Span, sources: &Sources) -> bool {
    let text = sources.get(span.file).map_or(&[][..], |source| source.text.as_bytes());
    let ends = |part: Option<&[u8]>| {
        part.is_none_or(|part| part.len() < LINE_BYTES_MAX || part.contains(&b'\n'))
    };
    [span.start as usize, span.end as usize].into_iter().any(|at| {
        let before = text.get(at.saturating_sub(LINE_BYTES_MAX)..at);
        let behind = text.get(at..text.len().min(at + LINE_BYTES_MAX));
        !(ends(before) && ends(behind))
    })
}

fn severity(found: &Diagnostic) -> (&'static str, codespan::Severity) {
    match found.severity {
        Severity::Error => ("error", codespan::Severity::Error),
        Severity::Warning => ("warning", codespan::Severity::Warning),
    }
}

fn line(found: &Diagnostic, sources: &Sources) -> String {
    let place = found.labels.first().and_then(|label| {
        let source = sources.get(label.span.file)?;
        let (line, column) = source.position(label.span.start);
        Some(format!("{}:{line}:{column}: ", source.path))
    });
    let (word, _) = severity(found);
    let message = visible(&found.message);
    format!("{}{word}[{}]: {message}", place.unwrap_or_default(), found.code.0)
}

fn report(found: &Diagnostic, sources: &Sources) -> codespan::Diagnostic<usize> {
    let index = |FileId(id): FileId| id as usize;
    let labels = found.labels.iter().enumerate().map(|(at, label)| {
        let file = index(label.span.file);
        let place = label.span.range();
        let shown = match at {
            0 => codespan::Label::primary(file, place),
            _ => codespan::Label::secondary(file, place),
        };
        shown.with_message(visible(&label.text))
    });
    codespan::Diagnostic::new(severity(found).1)
        .with_code(found.code.0)
        .with_message(visible(&found.message))
        .with_labels(labels.collect())
        .with_notes(notes(found, sources).collect())
}

/// The ways out of a diagnostic, one a line: `help: …`.
pub fn notes<'a>(found: &'a Diagnostic, sources: &'a Sources) -> impl Iterator<Item = String> + 'a {
    let helps = found.helps.iter().map(|help| format!("help: {}", visible(help)));
    helps.chain(found.fixes.iter().map(|fix| format!("help: {}", edit(fix, sources))))
}

/// An edit in words: ``write `tcp/80` ``.
pub fn edit(fix: &Fix, sources: &Sources) -> String {
    let old = sources.text(fix.span);
    let text = visible(&fix.text);
    match (fix.text.trim().is_empty(), fix.span.start == fix.span.end) {
        (true, _) if old.chars().all(is_invisible) => "delete it".to_owned(),
        (true, _) => format!("delete `{}`", visible(old)),
        (false, true) => format!("insert `{}`", text.trim()),
        (false, false) => format!("write `{}`", text.trim()),
    }
}

/// The text with every invisible character replaced by visible ones of the same length in bytes, so that spans stay true.
pub fn visible(text: &str) -> String {
    if !text.contains(|c| c == '\r' || is_invisible(c)) {
        return text.to_owned();
    }
    let mut shown = String::with_capacity(text.len());
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        let hidden = is_invisible(c) || c == '\r' && rest.peek() != Some(&'\n');
        match (hidden, c.len_utf8()) {
            (false, _) => shown.push(c),
            (true, 1) => shown.push('?'),
            (true, 2) => shown.push('¿'),
            (true, 3) => shown.push('\u{fffd}'),
            (true, _) => shown.push_str("\u{fffd}?"),
        }
    }
    shown
}

//! JSON: versioned forms of their own, so that internal types may change. `schema/report.json` describes them.

use super::Report;
use seg_artifact::manifest::is_hidden;
use seg_artifact::version::EDITION;
use seg_lang::diagnostic::Severity;
use seg_lang::source::{Source, Sources, Span};
use serde::Serialize;

/// Version of every form of this module.
pub const VERSION: u32 = 1;

/// Any command's JSON: the version, the edition of the language, then the command's own fields.
#[derive(Debug, Serialize)]
struct Envelope<T: Serialize> {
    version: u32,
    edition: &'static str,
    #[serde(flatten)]
    body: T,
}

/// A place in a source file; the end is excluded.
#[derive(Debug, Serialize)]
pub struct Place {
    /// Path within the package.
    pub file: String,
    start: Position,
    end: Position,
}

/// Line and column from 1, the column in characters; the offset in bytes from 0.
#[derive(Debug, Serialize)]
struct Position {
    line: u32,
    column: u32,
    offset: u32,
}

/// Findings and nothing else.
#[derive(Debug, Serialize)]
pub struct Found {
    /// What was found.
    pub diagnostics: Vec<Finding>,
}

/// A diagnostic.
#[derive(Debug, Serialize)]
pub struct Finding {
    code: &'static str,
    severity: &'static str,
    message: String,
    /// That of the first label; absent in findings about the package as a whole.
    #[serde(flatten)]
    place: Option<Place>,
    labels: Vec<Label>,
    helps: Vec<String>,
    fixes: Vec<Fix>,
}

#[derive(Debug, Serialize)]
struct Label {
    #[serde(flatten)]
    place: Place,
    text: String,
}

#[derive(Debug, Serialize)]
struct Fix {
    #[serde(flatten)]
    place: Place,
    replacement: String,
    /// Whether nothing else can be meant.
    sure: bool,
}

/// Why a command could not do its work.
#[derive(Debug, Serialize)]
pub struct Failed {
    /// In words.
    pub error: String,
}

/// A command's JSON as one value.
pub fn text<T: Serialize>(body: T) -> String {
    let envelope = Envelope { version: VERSION, edition: EDITION, body };
    // The forms here hold strings, numbers and lists only; they always encode.
    escaped(&serde_json::to_string_pretty(&envelope).expect("reports encode"))
}

/// JSON whose characters that a terminal would obey or hide are escapes; the value is the same.
pub(super) fn escaped(json: &str) -> String {
    // Outside of strings there are only line feeds and spaces; inside, JSON has escaped those.
    let hidden = |c: char| c != '\n' && is_hidden(c);
    if !json.contains(hidden) {
        return json.to_owned();
    }
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if hidden(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                text += &format!("\\u{unit:04x}");
            }
        } else {
            text.push(c);
        }
    }
    text
}

/// Where a span lies.
pub fn place(sources: &Sources, span: Span) -> Place {
    let source = sources.get(span.file);
    let position = |offset| {
        let (line, column) = source.map_or((1, 1), |s: &Source| s.position(offset));
        Position { line, column, offset }
    };
    Place {
        file: source.map(|s| s.path.clone()).unwrap_or_default(),
        start: position(span.start),
        end: position(span.end),
    }
}

/// The word for a severity.
pub(crate) fn severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    }
}

/// The diagnostics of a report.
pub fn findings(report: Report<'_>) -> Vec<Finding> {
    let place = |span| place(report.sources, span);
    report
        .diagnostics
        .iter()
        .map(|found| Finding {
            code: found.code.0,
            severity: severity(found.severity),
            message: found.message.clone(),
            place: found.labels.first().map(|label| place(label.span)),
            labels: found
                .labels
                .iter()
                .map(|label| Label { place: place(label.span), text: label.text.clone() })
                .collect(),
            helps: found.helps.clone(),
            fixes: found
                .fixes
                .iter()
                .map(|fix| Fix {
                    place: place(fix.span),
                    replacement: fix.text.clone(),
                    sure: fix.sure,
                })
                .collect(),
        })
        .collect()
}

//! Annotations of GitHub Actions: a workflow command for each finding.
//!
//! Source: GitHub's documentation, "Workflow commands for GitHub Actions"; escaping as in its toolkit,
//! `packages/core/src/command.ts`.

use super::Report;
use super::json::severity;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::render::visible;

/// One line for each finding.
pub fn annotations(report: Report<'_>) -> String {
    report.diagnostics.iter().map(|found| annotation(report, found) + "\n").collect()
}

/// The error of a command that could not do its work.
pub(crate) fn failure(message: &str) -> String {
    format!("::error title=segc::{}", data(&visible(message)))
}

fn annotation(report: Report<'_>, found: &Diagnostic) -> String {
    let mut properties = vec![];
    if let Some(label) = found.labels.first()
        && let Some(source) = report.sources.get(label.span.file)
    {
        let (line, column) = source.position(label.span.start);
        let (end_line, _) = source.position(label.span.end);
        properties.push(format!("file={}", property(&report.files.shown(&source.path))));
        properties.push(format!("line={line}"));
        properties.push(format!("endLine={end_line}"));
        // A column of a range of lines is not shown.
        if line == end_line {
            properties.push(format!("col={column}"));
        }
    }
    properties.push(format!("title={}", property(found.code.0)));
    let mut text = report.lines(found);
    for label in found.labels.iter().skip(1) {
        let place = report.sources.place(label.span);
        text += &format!("\n{place}: {}", visible(&label.text));
    }
    format!("::{} {}::{}", severity(found.severity), properties.join(","), data(&text))
}

fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(&visible(text)).replace(':', "%3A").replace(',', "%2C")
}

//! What commands say in JSON: versioned forms of their own, so that internal types may change.

use crate::commands::Outcome;
use seg_lang::diagnostic::{Diagnostic, Severity};
use seg_lang::source::{Sources, Span};
use serde::Serialize;
use std::fmt::Arguments;
use std::io::{self, Write};

/// Version of every JSON form below.
pub const VERSION: u32 = 1;

/// Prints a line of a command's result, as `println!` would.
macro_rules! say {
    ($($text:tt)*) => { $crate::report::print_line(format_args!($($text)*)) };
}
pub(crate) use say;

/// A place in a source file; lines and columns from 1, ends excluded.
#[derive(Debug, Serialize)]
pub struct Place {
    path: String,
    line: u32,
    column: u32,
    end_line: u32,
    end_column: u32,
}

/// A diagnostic.
#[derive(Debug, Serialize)]
pub struct Finding {
    code: &'static str,
    severity: &'static str,
    message: String,
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
}

/// Any command's JSON: the version, then the command's own fields.
#[derive(Debug, Serialize)]
pub struct Report<T: Serialize> {
    version: u32,
    #[serde(flatten)]
    body: T,
}

/// Prints a command's JSON as one value.
pub fn print<T: Serialize>(body: T) {
    let report = Report { version: VERSION, body };
    // The forms here hold strings, numbers and lists only; they always encode.
    say!("{}", serde_json::to_string_pretty(&report).expect("reports encode"));
}

/// Prints a line.
///
/// A reader that has seen enough (`| head`) changes nothing about how the command ends; any other failure to print is no success.
pub fn print_line(line: Arguments<'_>) {
    match writeln!(io::stdout(), "{line}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("error: standard output: {error}\n"));
            std::process::exit(Outcome::Misuse as i32);
        }
        Ok(()) | Err(_) => {}
    }
}

/// Writes to standard error.
pub fn complain(text: &str) {
    // If that is closed, nobody is left to tell.
    let _ = io::stderr().write_all(text.as_bytes());
}

/// Where a span lies.
pub fn place(sources: &Sources, span: Span) -> Place {
    let source = sources.get(span.file);
    let position = |offset| source.map_or((1, 1), |s| s.position(offset));
    let ((line, column), (end_line, end_column)) = (position(span.start), position(span.end));
    Place {
        path: source.map(|s| s.path.clone()).unwrap_or_default(),
        line,
        column,
        end_line,
        end_column,
    }
}

/// The diagnostics of a run.
pub fn findings(sources: &Sources, diagnostics: &[Diagnostic]) -> Vec<Finding> {
    diagnostics
        .iter()
        .map(|diagnostic| Finding {
            code: diagnostic.code.0,
            severity: match diagnostic.code.severity() {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            message: diagnostic.message.clone(),
            labels: diagnostic
                .labels
                .iter()
                .map(|label| Label { place: place(sources, label.span), text: label.text.clone() })
                .collect(),
            helps: diagnostic.helps.clone(),
            fixes: diagnostic
                .fixes
                .iter()
                .map(|fix| Fix { place: place(sources, fix.span), replacement: fix.text.clone() })
                .collect(),
        })
        .collect()
}

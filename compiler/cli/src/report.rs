//! What commands say, in each format.
//!
//! A [`Report`] knows what the findings are about; each module below turns it into one format.

pub mod json;
pub mod sarif;
pub mod github;
pub mod junit;

use crate::commands::{Format, Outcome};
use crate::files::Files;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::render::{notes, render, visible};
use seg_lang::source::Sources;
use serde::Serialize;
use std::fmt::Arguments;
use std::io::{self, Write};

/// Prints a line of a command's result, as `println!` would.
macro_rules! say {
    ($($text:tt)*) => { $crate::report::print_line(format_args!($($text)*)) };
}
pub(crate) use say;

/// What was found, and in what.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The command: `check`, `test`.
    pub command: &'a str,
    /// Name of the package.
    pub package: &'a str,
    /// Its texts, and those of the library that it imports.
    pub sources: &'a Sources,
    /// Where they lie.
    pub files: &'a Files,
    /// What was found.
    pub diagnostics: &'a [Diagnostic],
}

impl Report<'_> {
    /// Prints the findings alone: for people on standard error, for programs on standard output.
    pub fn print(self, format: Format) {
        match format {
            Format::Text => complain(&render(self.diagnostics, self.sources)),
            Format::Json => print(json::Found { diagnostics: json::findings(self) }),
            Format::Sarif => say!("{}", sarif::log(self)),
            Format::Github => print_text(&github::annotations(self)),
            Format::Junit => print_text(&junit::of_files(self)),
        }
    }

    /// A diagnostic in a few lines of text: what is wrong here, and the ways out.
    fn lines(self, found: &Diagnostic) -> String {
        let here = found.labels.first().map(|label| visible(&label.text));
        let mut lines = vec![visible(&found.message)];
        lines.extend(here.filter(|text| !text.is_empty()));
        lines.extend(notes(found, self.sources));
        lines.join("\n")
    }
}

/// Prints a command's JSON as one value.
pub fn print<T: Serialize>(body: T) {
    say!("{}", json::text(body));
}

/// Prints a line of a command's result.
pub fn print_line(line: Arguments<'_>) {
    print_text(&format!("{line}\n"));
}

/// Prints a text as it is.
///
/// A reader that has seen enough (`| head`) changes nothing about how the command ends; any other failure to print is no success.
pub(crate) fn print_text(text: &str) {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
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

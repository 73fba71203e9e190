//! What a source says about its own mistakes.
//!
//! `#~ E0104` at the end of a line, written by hand, expects that error on that line; several codes are several errors.

use seg_lang::diagnostic::Diagnostic;
use seg_lang::source::Sources;

/// A line, counted from 1, and the code expected there.
pub type Expectation = (u32, String);

/// The expectations of a text, sorted.
pub fn expectations(text: &str) -> Vec<Expectation> {
    let mut expected = Vec::new();
    for (line, text) in (1..).zip(text.split('\n')) {
        if let Some((_, codes)) = text.rsplit_once("#~") {
            expected.extend(codes.split_whitespace().map(|code| (line, code.to_owned())));
        }
    }
    expected.sort();
    expected
}

/// Checks that exactly the expected codes are reported on the expected lines.
///
/// # Errors
/// What is missing and what is too much.
pub fn check(text: &str, diagnostics: &[Diagnostic], sources: &Sources) -> Result<(), String> {
    let place = |d: &Diagnostic| {
        let span = d.labels.first()?.span;
        Some((sources.get(span.file)?.position(span.start).0, d.code.0.to_owned()))
    };
    let mut found: Vec<Expectation> = diagnostics.iter().filter_map(place).collect();
    found.sort();
    let expected = expectations(text);
    if expected == found {
        return Ok(());
    }
    let brief = seg_lang::render::brief(diagnostics, sources);
    Err(format!("expected {expected:?}\nfound    {found:?}\n{brief}"))
}

//! What went wrong, as data: code, message, places, and the edit that mends it.
//!
//! Rendering to text, JSON and others is the caller's; nothing here knows colours or terminals.

use crate::source::Span;

/// How grave a diagnostic is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The policy has no meaning until this is mended.
    Error,
    /// Legal and probably not what was meant.
    Warning,
}

/// One finding. One mistake gives one diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// Which kind of finding, declared in [`crate::codes`].
    pub code: Code,
    /// That of the code, unless `seg.toml` says otherwise.
    pub severity: Severity,
    /// Lowercase, no full stop, user text in backticks.
    pub message: String,
    /// Where, first the cause; nowhere if it is about the package as a whole.
    pub labels: Vec<Label>,
    /// Ways out, in words.
    pub helps: Vec<String>,
    /// The edits that mend it; each alone suffices.
    pub fixes: Vec<Fix>,
}

/// A stable code such as `E0201`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code(pub &'static str);

impl Code {
    /// Errors start with `E`, warnings with `W`.
    pub fn severity(self) -> Severity {
        if self.0.starts_with('W') { Severity::Warning } else { Severity::Error }
    }
}

/// A place that has to do with a diagnostic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What about it; may be empty for the first.
    pub text: String,
}

/// Replace the text of `span` by `text`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fix {
    /// What is replaced.
    pub span: Span,
    /// By what.
    pub text: String,
    /// Whether nothing else can be meant; else a person decides.
    pub sure: bool,
}

impl Diagnostic {
    /// A finding at one place.
    pub fn new(code: Code, message: impl Into<String>, span: Span) -> Self {
        let mut found = Self::of_package(code, message);
        found.labels.push(Label { span, text: String::new() });
        found
    }

    /// A finding about the package as a whole, at no place.
    pub fn of_package(code: Code, message: impl Into<String>) -> Self {
        let severity = code.severity();
        let message = message.into();
        Self { code, severity, message, labels: vec![], helps: vec![], fixes: vec![] }
    }

    /// Says something at the first place.
    #[must_use]
    pub fn here(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = text.into();
        }
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn and(mut self, span: Span, text: impl Into<String>) -> Self {
        self.labels.push(Label { span, text: text.into() });
        self
    }

    /// Adds a way out in words.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.helps.push(text.into());
        self
    }

    /// Adds an edit that mends it.
    #[must_use]
    pub fn fix(mut self, span: Span, text: impl Into<String>) -> Self {
        self.fixes.push(Fix { span, text: text.into(), sure: true });
        self
    }

    /// Adds an edit that probably mends it, such as a name that is spelled nearly so.
    #[must_use]
    pub fn guess(mut self, span: Span, text: impl Into<String>) -> Self {
        self.fixes.push(Fix { span, text: text.into(), sure: false });
        self
    }
}

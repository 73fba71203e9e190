//! One layout for every source: spec.md section 1.5.
//!
//! ```text
//!  text -> lexemes (tokens and comments) -> statements, by the outline of the tree -> text
//! ```
//!
//! Statements that do not parse, or that hold a comment where no line may end, keep their lines byte for byte.
//! INVARIANT: the result parses to the tree the text parses to, holds its comments in order, and is its own layout.
//! It is checked before it is returned; an item for which it does not hold stays as it was.

mod lexemes;
mod outline;
mod statement;
mod read;
mod rows;
mod print;

use crate::ast::File;
use crate::diagnostic::Diagnostic;
use crate::dump::dump;
use crate::lex::{Lexed, SOURCE_BYTES_MAX, lex};
use crate::parse::parse;
use crate::source::{FileId, Span};
use std::ops::Range;

/// Longest line written where a line can be broken.
///
/// Unit: columns; a character is one. Source: chosen.
pub const COLUMNS: usize = 100;

/// What [`format()`] returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Formatted {
    /// The text in its layout.
    pub text: String,
    /// Whether all of it parsed.
    pub sound: bool,
    /// Whether lines were left as they were: what did not parse, and comments where no line may end.
    pub kept: bool,
}

/// Lays out the text of one file.
///
/// Cost: linear in the text.
pub fn format(text: &str) -> Formatted {
    let source = Parsed::new(text);
    let sound = source.diagnostics.is_empty();
    let (formatted, kept) = source.layout(&[]);
    if source.holds(&formatted) {
        return Formatted { text: formatted, sound, kept };
    }
    debug_assert!(!sound, "the layout of a sound source does not hold:\n{text}");
    let (formatted, _) = source.layout(&source.unstable_items());
    let text = if source.holds(&formatted) { formatted } else { text.to_owned() };
    Formatted { text, sound, kept: true }
}

/// Spans only have to agree with each other.
const FILE: FileId = FileId(0);

/// A text with what is read in it.
struct Parsed<'a> {
    text: &'a str,
    tree: File,
    diagnostics: Vec<Diagnostic>,
    lexed: Lexed<'a>,
}

impl<'a> Parsed<'a> {
    fn new(text: &'a str) -> Self {
        let (tree, diagnostics) = parse(FILE, text);
        Self { text, tree, diagnostics, lexed: lex(FILE, text) }
    }

    /// The text in its layout, and whether lines were kept, as are those that touch one of the ranges.
    fn layout(&self, kept: &[Range<usize>]) -> (String, bool) {
        // A text that is too large has no tokens.
        if self.text.len() > SOURCE_BYTES_MAX {
            return (self.text.to_owned(), true);
        }
        let lexed = &self.lexed;
        let comment = |at: usize| {
            let before = lexed.comments.partition_point(|c| c.start as usize <= at);
            let last = before.checked_sub(1).and_then(|before| lexed.comments.get(before));
            last.is_some_and(|c| at < c.end as usize)
        };
        let labels = self.diagnostics.iter().filter_map(|d| d.labels.first());
        let wrong = labels.map(|label| label.span.range()).filter(|span| !comment(span.start));
        let wrong: Vec<Range<usize>> = wrong.chain(kept.iter().cloned()).collect();
        let lexemes = lexemes::lexemes(self.text, lexed);
        let reader = read::Reader::new(self.text, lexemes, &wrong);
        let entries = reader.file(&outline::outline(&self.tree));
        print::print(self.text, &entries)
    }

    /// Whether another text says the same with the same comments, and is its own layout.
    fn holds(&self, formatted: &str) -> bool {
        let again = Parsed::new(formatted);
        dump(&self.tree) == dump(&again.tree)
            && self.comments() == again.comments()
            && (formatted == self.text || again.layout(&[]).0 == formatted)
    }

    fn comments(&self) -> Vec<&str> {
        let text = |span: &Span| self.text.get(span.range()).unwrap_or_default();
        let comments = &self.lexed.comments;
        comments.iter().map(|c| text(c).trim_end_matches([' ', '\t', '\r'])).collect()
    }

    /// Items for which the layout does not hold when they stand alone.
    fn unstable_items(&self) -> Vec<Range<usize>> {
        let items = outline::outline(&self.tree).into_iter().map(|item| item.lead..item.end);
        let unstable = items.filter(|range| {
            let item = Parsed::new(self.text.get(range.clone()).unwrap_or_default());
            !item.holds(&item.layout(&[]).0)
        });
        unstable.collect()
    }
}

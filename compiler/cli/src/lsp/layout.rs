//! The layout of a document.

use super::position::number;
use super::workspace::View;
use gen_lsp_types::{Range, TextEdit};
use seg_lang::format::format;

/// The edit that gives a document its one layout; none if it has it.
pub(crate) fn edits(view: View<'_>) -> Vec<TextEdit> {
    let text = view.text();
    let new_text = format(text).text;
    if new_text == text {
        return vec![];
    }
    let lines = view.lines();
    let range = Range { start: lines.position(0), end: lines.position(number(text.len())) };
    vec![TextEdit { range, new_text }]
}

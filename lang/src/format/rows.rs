//! Statements of one kind in adjacent lines, as a table.
//!
//! A cell is filled up with blanks to the widest of its column.
//! Only short words count: a cell of several words, and whatever follows it, stands where it falls,
//! so that one long line does not tear the others apart.

use super::COLUMNS;
use super::statement::{PieceKind, Statement};
use crate::token::Token;

/// The widest cell that others are aligned to.
///
/// Unit: columns. Source: chosen; a column of names stays readable up to a quarter of the line.
const CELL_COLUMNS_MAX: usize = 24;

/// A statement on one line, cut into cells.
pub(super) struct Row<'s> {
    kind: Kind,
    cells: Vec<Cell<'s>>,
}

/// Rows of one kind form a table.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flow,
    Block(Option<&'static str>),
    Definition(Option<&'static str>),
    Workload,
}

struct Cell<'s> {
    text: &'s str,
    columns: usize,
    /// Whether others are aligned to it.
    counts: bool,
}

/// The cells of a statement that is set in by `indent` columns; none if it does not stand on one line, or is no part of a table.
pub(super) fn row<'s>(statement: &'s Statement<'_>, indent: usize) -> Option<Row<'s>> {
    let line = &statement.line;
    let text = line.flat.as_deref().filter(|text| indent + text.chars().count() <= COLUMNS)?;
    let mut cells = Cells { rest: text, cells: vec![] };
    let mut clauses = line.clauses.iter().map(|clause| clause.flat().map_or(0, str::len));
    let keyword = statement.first.keyword_text();
    let kind = match statement.first {
        Token::Net | Token::Service | Token::Group | Token::Label => {
            cells.cut(text.find(" = ")?, 1);
            Kind::Definition(keyword)
        }
        Token::Workload => {
            cells.cut(clauses.next()?, 1);
            cells.cut(clauses.next()?, 1);
            Kind::Workload
        }
        Token::Guard | Token::Policy | Token::Baseline | Token::Staged => {
            let last = line.clauses.last()?.segments.last()?.pieces.last()?;
            let PieceKind::Body(body) = &last.kind else { return None };
            let words = if statement.first == Token::Staged { 2 } else { 1 };
            cells.cut(text.len().checked_sub(body.flat.as_ref()?.len() + 1)?, words);
            Kind::Block(keyword)
        }
        first => {
            let from = clauses.next()?;
            let arrow = text.get(from..)?.trim_start();
            if !["-> ", "<-> ", "~> "].iter().any(|mark| arrow.starts_with(mark)) {
                return None;
            }
            let verbs: usize = match first {
                Token::Allow | Token::Deny => 1,
                Token::Expect => 2,
                _ => 0,
            };
            let mut head = from;
            if let Some(last) = verbs.checked_sub(1) {
                let (verb, _) = text.match_indices(' ').nth(last)?;
                cells.cut(verb, verbs);
                head = from.checked_sub(verb + 1)?;
            }
            cells.cut(head, 0);
            cells.cut(clauses.next()?, 1);
            Kind::Flow
        }
    };
    let rest = Cell { text: cells.rest, columns: cells.rest.chars().count(), counts: false };
    let mut cells = cells.cells;
    if !rest.text.is_empty() {
        cells.push(rest);
    }
    Some(Row { kind, cells })
}

/// A text that is cut into cells from its start.
struct Cells<'s> {
    rest: &'s str,
    cells: Vec<Cell<'s>>,
}

impl Cells<'_> {
    /// Cuts a cell of so many bytes, and the blank after it. All rows share its first `words`, or other verbs in their place.
    fn cut(&mut self, bytes: usize, words: usize) {
        let (text, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        let mut differs = text.splitn(words + 1, ' ').skip(words);
        let word = differs.next().unwrap_or("");
        let counts = !word.contains(' ') && word.chars().count() <= CELL_COLUMNS_MAX;
        self.cells.push(Cell { text, columns: text.chars().count(), counts });
        self.rest = rest.trim_start();
    }
}

/// Whether `next` stands in the table of the row before it.
pub(super) fn together(row: &Row<'_>, next: &Row<'_>) -> bool {
    row.kind == next.kind
}

/// The texts of the rows of a table that is set in by `indent` columns. A row that would get too long is not filled up.
pub(super) fn table(rows: &[Row<'_>], indent: usize) -> Vec<String> {
    let mut blanks: Vec<Vec<usize>> = rows.iter().map(|row| vec![0; row.aligned().len()]).collect();
    let n_columns = blanks.iter().map(Vec::len).max().unwrap_or(0);
    for column in 0..n_columns {
        // A cell that does not count ends the column; a row that has no such cell does not.
        let counts: Vec<_> = (0..).zip(rows).filter(|(_, row)| !row.ends_before(column)).collect();
        for run in counts.split(|(_, row)| row.aligned().len() <= column) {
            let columns = |row: &Row<'_>| row.cells.get(column).map_or(0, |cell| cell.columns);
            let width = run.iter().map(|(_, row)| columns(row)).max().unwrap_or(0);
            for (n, row) in run {
                let slot = blanks.get_mut::<usize>(*n).and_then(|blanks| blanks.get_mut(column));
                slot.into_iter().for_each(|blanks| *blanks = width - columns(row));
            }
        }
    }
    rows.iter().zip(blanks).map(|(row, blanks)| row.text(&blanks, indent)).collect()
}

impl<'s> Row<'s> {
    /// The cells that others are aligned to: the last one ends the line.
    fn aligned(&self) -> &[Cell<'s>] {
        let inner = self.cells.split_last().map_or(&[][..], |(_, inner)| inner);
        let n = inner.iter().take_while(|cell| cell.counts).count();
        inner.get(..n).unwrap_or_default()
    }

    /// Whether the row is complete without a cell that could be filled up in a column.
    fn ends_before(&self, column: usize) -> bool {
        let aligned = self.aligned().len();
        aligned <= column && aligned + 1 == self.cells.len()
    }

    /// The cells, each with as many blanks after it.
    fn text(&self, blanks: &[usize], indent: usize) -> String {
        let columns: usize = self.cells.iter().map(|cell| cell.columns + 1).sum();
        let fits = indent + columns + blanks.iter().sum::<usize>() <= COLUMNS + 1;
        let mut text = String::new();
        for (n, cell) in self.cells.iter().enumerate() {
            text.push_str(if n > 0 { " " } else { "" });
            text.push_str(cell.text);
            let blanks = blanks.get(n).copied().filter(|_| fits).unwrap_or(0);
            text.extend(std::iter::repeat_n(' ', blanks));
        }
        text
    }
}

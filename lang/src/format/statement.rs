//! Statements that know where they may be broken.
//!
//! A statement is a list of clauses (`allow a`, `-> b`, `on c`), a clause a list of segments that start at `&` or `except`,
//! and a segment a list of words and bracketed lists. Nothing here knows what they mean.

use super::COLUMNS;
use crate::token::Token;
use std::ops::Range;

/// Columns by which what is inside something is set in.
pub(super) const INDENT: usize = 4;

/// Longest text that is tried on one line: no character takes more than four bytes.
const FLAT_BYTES_MAX: usize = 4 * COLUMNS;

/// What stands in a file or between the braces of a block, in order.
pub(super) enum Entry<'a> {
    /// A comment; one that is not the first of its line belongs to what stands before it.
    Comment { text: &'a str, newlines: usize },
    /// Whole lines that are left as they are.
    Kept { bytes: Range<usize>, newlines: usize },
    /// What is laid out.
    Statement(Box<Statement<'a>>),
}

pub(super) struct Statement<'a> {
    /// Line ends before it.
    pub(super) newlines: usize,
    /// Documentation and annotations.
    pub(super) lead: Vec<Lead<'a>>,
    /// A blank line between them and the statement.
    pub(super) apart: bool,
    /// Its first token.
    pub(super) first: Token<'a>,
    pub(super) line: Line<'a>,
}

/// A line above a statement.
pub(super) struct Lead<'a> {
    /// A blank line stands before it.
    pub(super) blank: bool,
    pub(super) content: Above<'a>,
    pub(super) trailing: Option<&'a str>,
}

pub(super) enum Above<'a> {
    /// `##` or a comment.
    Text(&'a str),
    /// Annotations that were written on one line.
    Annotations(Vec<Line<'a>>),
}

/// A statement or a member of a list.
pub(super) struct Line<'a> {
    pub(super) clauses: Vec<Clause<'a>>,
    /// The text on one line, if that is possible; so for all parts.
    pub(super) flat: Option<String>,
}

/// A part that may start on a line of its own.
pub(super) struct Clause<'a> {
    pub(super) segments: Vec<Segment<'a>>,
    /// The text of several segments.
    pub(super) joined: Option<String>,
}

/// A part of a clause that may start on a line of its own.
pub(super) struct Segment<'a> {
    /// Comments on lines of their own before it.
    pub(super) above: Vec<&'a str>,
    pub(super) pieces: Vec<Piece<'a>>,
    pub(super) flat: Option<String>,
    /// A comment after it, which ends the line.
    pub(super) trailing: Option<&'a str>,
}

pub(super) struct Piece<'a> {
    /// A blank stands before it.
    pub(super) space: bool,
    pub(super) kind: PieceKind<'a>,
}

pub(super) enum PieceKind<'a> {
    Word(&'a str),
    List(Box<List<'a>>),
    Body(Box<Body<'a>>),
}

/// `{ … }` or `( … )` with members between commas.
pub(super) struct List<'a> {
    pub(super) open: &'a str,
    pub(super) close: &'a str,
    /// A comment on the line of the opening bracket.
    pub(super) opening: Option<&'a str>,
    pub(super) members: Vec<Member<'a>>,
    /// Comments before the closing bracket.
    pub(super) below: Vec<&'a str>,
    /// Whether a comma may follow the last member.
    pub(super) comma: bool,
    pub(super) flat: Option<String>,
}

pub(super) struct Member<'a> {
    pub(super) above: Vec<&'a str>,
    pub(super) line: Line<'a>,
    /// Columns of the name before `=`.
    pub(super) named: Option<usize>,
    pub(super) trailing: Option<&'a str>,
}

/// The statements between braces.
pub(super) struct Body<'a> {
    pub(super) entries: Vec<Entry<'a>>,
    pub(super) flat: Option<String>,
}

impl Entry<'_> {
    /// Line ends before it.
    pub(super) fn newlines(&self) -> usize {
        match self {
            Self::Comment { newlines, .. } | Self::Kept { newlines, .. } => *newlines,
            Self::Statement(statement) => statement.newlines,
        }
    }
}

impl<'a> Line<'a> {
    /// Finds out what each part is on one line.
    pub(super) fn measure(&mut self) {
        for clause in &mut self.clauses {
            clause.segments.iter_mut().for_each(Segment::measure);
            if clause.segments.len() > 1 {
                let parts = clause.segments.iter();
                clause.joined =
                    join(parts.map(|s| (s.flat.as_deref(), s.above.as_slice(), s.trailing)));
            }
        }
        let parts = self.clauses.iter();
        self.flat = join(parts.map(|c| (c.flat(), c.above(), c.trailing())));
    }

    /// Forgets the words of a line that fits wherever it may come to stand: large files hold many.
    pub(super) fn settle(&mut self) {
        for segment in self.clauses.iter_mut().flat_map(|clause| &mut clause.segments) {
            if !matches!(segment.pieces.last(), Some(Piece { kind: PieceKind::Body(_), .. })) {
                segment.pieces = vec![];
            }
        }
    }

    /// Takes the statements between the braces at its end off the line.
    pub(super) fn open_body(&mut self) {
        let segment = self.clauses.last_mut().and_then(|clause| clause.segments.last_mut());
        let piece = segment.and_then(|segment| segment.pieces.last_mut());
        if let Some(Piece { kind: PieceKind::Body(body), .. }) = piece
            && !body.entries.is_empty()
        {
            body.flat = None;
            self.measure();
        }
    }
}

impl<'a> Clause<'a> {
    pub(super) fn flat(&self) -> Option<&str> {
        match self.segments.as_slice() {
            [only] => only.flat.as_deref(),
            _ => self.joined.as_deref(),
        }
    }

    /// Comments on lines of their own before it.
    pub(super) fn above(&self) -> &[&'a str] {
        self.segments.first().map_or(&[], |segment| &segment.above)
    }

    /// A comment after it, which ends the line.
    pub(super) fn trailing(&self) -> Option<&'a str> {
        self.segments.last().and_then(|segment| segment.trailing)
    }
}

impl Segment<'_> {
    fn measure(&mut self) {
        self.flat = self.pieces.iter().try_fold(String::new(), |mut text, piece| {
            text.push_str(if piece.space { " " } else { "" });
            text.push_str(match &piece.kind {
                PieceKind::Word(word) => word,
                PieceKind::List(list) => list.flat.as_deref()?,
                PieceKind::Body(body) => body.flat.as_deref()?,
            });
            (text.len() <= FLAT_BYTES_MAX).then_some(text)
        });
    }
}

/// Parts on one line, unless one cannot be, or a comment stands between two.
fn join<'s, 'a: 's>(
    parts: impl Iterator<Item = (Option<&'s str>, &'s [&'a str], Option<&'a str>)>,
) -> Option<String> {
    let mut text = String::new();
    let mut ended = false;
    for (n, (flat, above, trailing)) in parts.enumerate() {
        if n > 0 && (ended || !above.is_empty()) || text.len() > FLAT_BYTES_MAX {
            return None;
        }
        text.push_str(if n > 0 { " " } else { "" });
        text.push_str(flat?);
        ended = trailing.is_some();
    }
    Some(text)
}

/// Texts in brackets on one line.
fn enclose<'s>(
    open: &str,
    parts: impl Iterator<Item = Option<&'s str>>,
    between: &str,
    close: &str,
) -> Option<String> {
    let mut text = open.to_owned();
    for (n, part) in parts.enumerate() {
        text.push_str(match (n, open) {
            (0, "{") => " ",
            (0, _) => "",
            (_, _) => between,
        });
        text.push_str(part?);
        if text.len() > FLAT_BYTES_MAX {
            return None;
        }
    }
    text.push_str(if text.len() > 1 && open == "{" { " " } else { "" });
    text.push_str(close);
    Some(text)
}

impl List<'_> {
    pub(super) fn measure(&mut self) {
        if self.opening.is_some() || !self.below.is_empty() {
            return;
        }
        let texts = self.members.iter().map(|member| {
            let bare = member.above.is_empty() && member.trailing.is_none();
            member.line.flat.as_deref().filter(|_| bare)
        });
        self.flat = enclose(self.open, texts, ", ", self.close);
    }
}

impl Body<'_> {
    /// What it is on one line, where it was written on one.
    pub(super) fn measure(&mut self) {
        let texts = self.entries.iter().map(|entry| match entry {
            Entry::Statement(statement) => statement.flat(),
            Entry::Comment { .. } | Entry::Kept { .. } => None,
        });
        let texts: Option<Vec<String>> = texts.collect();
        self.flat = texts.and_then(|texts| {
            enclose("{", texts.iter().map(|text| Some(text.as_str())), "; ", "}")
        });
    }
}

impl Statement<'_> {
    fn flat(&self) -> Option<String> {
        let mut parts = vec![];
        for lead in &self.lead {
            match &lead.content {
                Above::Annotations(list) if lead.trailing.is_none() => {
                    parts.extend(list.iter().map(|line| line.flat.as_deref()));
                }
                Above::Annotations(_) | Above::Text(_) => return None,
            }
        }
        parts.push(self.line.flat.as_deref());
        join(parts.into_iter().map(|part| (part, &[][..], None)))
    }
}

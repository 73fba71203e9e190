//! Lexemes and outline to statements.
//!
//! INVARIANT: every lexeme is in the result once and in order, except for commas.

use super::COLUMNS;
use super::lexemes::Lexeme;
use super::outline::{Node, Shape};
use super::statement::{
    Above, Body, Clause, Entry, INDENT, Lead, Line, List, Member, Piece, PieceKind, Segment,
    Statement,
};
use crate::token::Token;
use std::ops::Range;

/// The lexemes, and what is known about each.
pub(super) struct Reader<'a> {
    text: &'a str,
    row: Vec<Lexeme<'a>>,
    /// The closing bracket of each opening one.
    partner: Vec<Option<usize>>,
    /// How many lexemes before an index have something wrong with them.
    wrong: Vec<usize>,
}

impl<'a> Reader<'a> {
    /// `wrong` holds the byte ranges that diagnostics are about.
    pub(super) fn new(text: &'a str, row: Vec<Lexeme<'a>>, wrong: &[Range<usize>]) -> Self {
        // Ranges open and close; what lies in one, or touches it, is wrong.
        let mut changes = vec![0_isize; row.len() + 1];
        for range in wrong {
            let first = row.partition_point(|l| l.end < range.start);
            let last = row.partition_point(|l| l.start <= range.end).max(first);
            changes.get_mut(first).into_iter().for_each(|n| *n += 1);
            changes.get_mut(last).into_iter().for_each(|n| *n -= 1);
        }
        let (mut open, mut n_wrong) = (0, 0);
        let count = row.iter().zip(&changes).map(|(lexeme, change)| {
            open += change;
            let error = lexeme.token == Some(Token::Error);
            n_wrong += usize::from(error || lexeme.token.is_some() && open > 0);
            n_wrong
        });
        let wrong = std::iter::once(0).chain(count).collect();
        let mut partner = vec![None; row.len()];
        let mut brackets: Vec<(usize, Token<'_>)> = vec![];
        for (at, lexeme) in row.iter().enumerate() {
            match lexeme.token {
                Some(Token::OpenBrace) => brackets.push((at, Token::CloseBrace)),
                Some(Token::OpenParen) => brackets.push((at, Token::CloseParen)),
                Some(close @ (Token::CloseBrace | Token::CloseParen)) => {
                    let open = brackets.pop_if(|(_, wanted)| *wanted == close);
                    let slot = open.and_then(|(open, _)| partner.get_mut(open));
                    slot.into_iter().for_each(|slot| *slot = Some(at));
                }
                _ => {}
            }
        }
        Self { text, row, partner, wrong }
    }

    /// All entries of the file.
    pub(super) fn file(&self, nodes: &[Node]) -> Vec<Entry<'a>> {
        self.entries(0..self.row.len(), nodes, 0).unwrap_or_default()
    }

    fn get(&self, at: usize) -> Option<&Lexeme<'a>> {
        self.row.get(at)
    }

    fn token(&self, at: usize) -> Option<Token<'a>> {
        self.get(at).and_then(|l| l.token)
    }

    fn newlines(&self, at: usize) -> usize {
        self.get(at).map_or(0, |l| l.newlines)
    }

    fn is_comment(&self, at: usize) -> bool {
        self.get(at).is_some_and(|l| l.token.is_none())
    }

    fn is_wrong(&self, range: Range<usize>) -> bool {
        self.wrong.get(range.start) != self.wrong.get(range.end)
    }

    /// Index of the first lexeme that starts at `offset` or after it.
    fn at(&self, offset: usize) -> usize {
        self.row.partition_point(|l| l.start < offset)
    }

    /// Entries of a container; none if lines that must be kept reach beyond it.
    fn entries(&self, range: Range<usize>, nodes: &[Node], depth: usize) -> Option<Vec<Entry<'a>>> {
        let mut out: Vec<(Range<usize>, Option<Entry<'a>>)> = vec![];
        let mut nodes = nodes.iter().peekable();
        let mut at = range.start;
        while let Some(lexeme) = self.get(at).filter(|_| at < range.end) {
            let newlines = lexeme.newlines;
            let node = nodes.next_if(|node| node.lead <= lexeme.start);
            let end = node.map_or(at + 1, |node| self.at(node.end)).max(at + 1);
            let entry = match node {
                Some(node) => self.statement(node, depth).map(|s| Entry::Statement(Box::new(s))),
                None if lexeme.token.is_none() => {
                    Some(Entry::Comment { text: lexeme.text, newlines })
                }
                None => None,
            };
            // No entry: the lines are kept, with all that stands on them.
            let mut part = (at..end, entry);
            while let Some((before, _)) = out.pop_if(|(_, before)| {
                self.newlines(part.0.start) == 0 && (before.is_none() || part.1.is_none())
            }) {
                part = (before.start..part.0.end, None);
            }
            out.push(part);
            at = end;
        }
        let kept = |part: Option<&(_, Option<_>)>| part.is_some_and(|(_, entry)| entry.is_none());
        let shares_open = kept(out.first()) && self.newlines(range.start) == 0;
        let shares_close = kept(out.last()) && self.newlines(range.end) == 0;
        if depth > 0 && (shares_open || shares_close) {
            return None;
        }
        Some(
            out.into_iter().map(|(part, entry)| entry.unwrap_or_else(|| self.kept(part))).collect(),
        )
    }

    /// The whole lines of some lexemes.
    fn kept(&self, part: Range<usize>) -> Entry<'a> {
        let (first, last) = (self.get(part.start), self.get(part.end.saturating_sub(1)));
        let (start, end) = (first.map_or(0, |l| l.start), last.map_or(0, |l| l.end));
        let before = self.text.get(..start).unwrap_or_default();
        let after = self.text.get(end..).unwrap_or_default();
        let start = before.rfind('\n').map_or(0, |at| at + 1);
        let end = end + after.find('\n').unwrap_or(after.len());
        Entry::Kept { bytes: start..end, newlines: self.newlines(part.start) }
    }

    /// A statement; none if it has to be kept.
    fn statement(&self, node: &Node, depth: usize) -> Option<Statement<'a>> {
        let (lead, head, end) = (self.at(node.lead), self.at(node.head), self.at(node.end));
        let open = match &node.shape {
            Shape::Line => None,
            Shape::Block(_) => Some(self.block_brace(head, end)?),
            Shape::Unless(_) => self.unless_brace(head, end),
            Shape::Broken => return None,
        };
        let close = match open {
            Some(open) => self.partner.get(open).copied().flatten()?,
            None => end,
        };
        let own = [lead..open.map_or(end, |open| open + 1), close..end];
        if close > end || own.into_iter().any(|part| self.is_wrong(part)) {
            return None;
        }
        let body = match (&node.shape, open) {
            (Shape::Block(nodes) | Shape::Unless(nodes), Some(open)) => {
                let entries = self.entries(open + 1..close, nodes, depth + 1)?;
                let mut body = Box::new(Body { entries, flat: None });
                if body.entries.is_empty() || (open + 1..=close).all(|at| self.newlines(at) == 0) {
                    body.measure();
                }
                Some((open, body))
            }
            _ => None,
        };
        let mut line = self.line(head..end, body)?;
        let fits = |flat: &String| depth * INDENT + flat.chars().count() <= COLUMNS;
        // A block on one line is on one line as a whole.
        if matches!(node.shape, Shape::Block(_)) && !line.flat.as_ref().is_some_and(fits) {
            line.open_body();
        }
        // The exemptions of a broken rule are set in by one level more.
        if line.flat.as_ref().is_some_and(|f| (depth + 1) * INDENT + f.chars().count() <= COLUMNS) {
            line.settle();
        }
        let first = self.token(head)?;
        let (lead, apart) = self.lead(lead..head)?;
        Some(Statement { newlines: self.newlines(self.at(node.lead)), lead, apart, first, line })
    }

    /// The brace of a block: the first outside brackets after what can end a statement.
    fn block_brace(&self, head: usize, end: usize) -> Option<usize> {
        let mut at = head;
        while at < end {
            let before = at.checked_sub(1).and_then(|before| self.token(before));
            match self.token(at) {
                Some(Token::OpenBrace) if before.is_some_and(Token::ends) => return Some(at),
                Some(Token::OpenBrace | Token::OpenParen) => {
                    at = self.partner.get(at).copied().flatten()?;
                }
                _ => {}
            }
            at += 1;
        }
        None
    }

    /// The brace after `unless`, if there is one.
    fn unless_brace(&self, head: usize, end: usize) -> Option<usize> {
        let unless = (head..end).find(|at| self.token(*at) == Some(Token::Unless))?;
        (self.token(unless + 1) == Some(Token::OpenBrace)).then_some(unless + 1)
    }

    /// What stands above a statement, and whether a blank line ends it.
    fn lead(&self, range: Range<usize>) -> Option<(Vec<Lead<'a>>, bool)> {
        let mut out: Vec<Lead<'a>> = vec![];
        let mut at = range.start;
        let annotated = |out: &[Lead<'a>]| {
            out.last().is_some_and(|l| matches!(l.content, Above::Annotations(_)))
        };
        while at < range.end {
            let lexeme = self.get(at)?;
            let blank = lexeme.newlines > 1 && !out.is_empty();
            let after_annotation = annotated(&out);
            match (lexeme.token, out.last_mut()) {
                (None, Some(last)) if lexeme.newlines == 0 && last.trailing.is_none() => {
                    last.trailing = Some(lexeme.text);
                    at += 1;
                }
                (None | Some(Token::Doc(_)), _) => {
                    out.push(Lead { blank, content: Above::Text(lexeme.text), trailing: None });
                    at += 1;
                }
                (Some(Token::Mark), last) => {
                    let open =
                        (at..range.end).find(|at| self.token(*at) == Some(Token::OpenParen))?;
                    let end = self.partner.get(open).copied().flatten()? + 1;
                    let line = self.line(at..end, None)?;
                    match last.map(|last| (&mut last.content, last.trailing)) {
                        Some((Above::Annotations(list), None)) if lexeme.newlines == 0 => {
                            list.push(line);
                        }
                        _ => {
                            let blank = blank && !after_annotation;
                            let content = Above::Annotations(vec![line]);
                            out.push(Lead { blank, content, trailing: None });
                        }
                    }
                    at = end;
                }
                (Some(_), _) => return None,
            }
        }
        // Nothing comes between an annotation and what it is about.
        let apart = self.newlines(range.end) > 1 && !out.is_empty() && !annotated(&out);
        Some((out, apart))
    }

    /// A row of lexemes outside brackets. None if a comment stands where no line may end.
    fn line(&self, range: Range<usize>, body: Option<(usize, Box<Body<'a>>)>) -> Option<Line<'a>> {
        let mut body = body;
        let mut clauses: Vec<Clause<'a>> = vec![];
        let mut above = vec![];
        let mut before = None;
        let mut at = range.start;
        while at < range.end {
            let lexeme = self.get(at)?;
            let last = clauses.last_mut().and_then(|clause| clause.segments.last_mut());
            let Some(token) = lexeme.token else {
                match last {
                    Some(last) if last.trailing.is_none() && lexeme.newlines == 0 => {
                        last.trailing = Some(lexeme.text);
                    }
                    Some(_) => above.push(lexeme.text),
                    None => return None,
                }
                at += 1;
                continue;
            };
            let ended = !above.is_empty() || last.is_some_and(|last| last.trailing.is_some());
            let breaks = breaks(token);
            if ended && breaks == Breaks::Never {
                return None;
            }
            if clauses.is_empty() || breaks == Breaks::Clause {
                clauses.push(Clause { segments: Vec::with_capacity(1), joined: None });
            }
            let segments = &mut clauses.last_mut()?.segments;
            if segments.is_empty() || breaks == Breaks::Segment {
                let above = std::mem::take(&mut above);
                segments.push(Segment { above, pieces: vec![], flat: None, trailing: None });
            }
            let pieces = &mut segments.last_mut()?.pieces;
            let space = !pieces.is_empty() && before.is_some_and(|before| spaced(before, token));
            let kind = match (token, body.take_if(|(open, _)| *open == at)) {
                (_, Some((_, body))) => {
                    at = self.partner.get(at).copied().flatten()?;
                    PieceKind::Body(body)
                }
                (Token::OpenBrace | Token::OpenParen, None) => {
                    let close = self.partner.get(at).copied().flatten()?;
                    let list = self.list(at, close)?;
                    at = close;
                    PieceKind::List(Box::new(list))
                }
                _ => PieceKind::Word(lexeme.text),
            };
            pieces.push(Piece { space, kind });
            before = self.token(at);
            at += 1;
        }
        if !above.is_empty() {
            return None;
        }
        let mut line = Line { clauses, flat: None };
        line.measure();
        Some(line)
    }

    fn list(&self, open: usize, close: usize) -> Option<List<'a>> {
        let mut at = open + 1;
        let comment = |at: &mut usize, same_line: bool| -> Option<&'a str> {
            let found = self.get(*at).filter(|l| l.token.is_none() && *at < close)?;
            (!same_line || found.newlines == 0).then(|| {
                *at += 1;
                found.text
            })
        };
        let opening = comment(&mut at, true);
        let mut members: Vec<Member<'a>> = vec![];
        let mut comma = false;
        let below = loop {
            let above: Vec<&str> = std::iter::from_fn(|| comment(&mut at, false)).collect();
            if at >= close {
                break above;
            }
            let mut end = at;
            while end < close && self.token(end) != Some(Token::Comma) {
                end = self.partner.get(end).copied().flatten().unwrap_or(end) + 1;
            }
            comma = end < close;
            let last = (at..end).rfind(|i| !self.is_comment(*i))? + 1;
            // A comma cannot follow on the next line without moving the comment.
            if comma && last < end {
                return None;
            }
            let named = self.token(at + 1) == Some(Token::Assign);
            let named = self.get(at).filter(|_| named).map(|l| l.text.chars().count());
            let line = self.line(at..last, None)?;
            at = if comma { end + 1 } else { last };
            let trailing = comment(&mut at, true);
            members.push(Member { above, line, named, trailing });
        };
        let open = self.get(open)?.text;
        let comma = open == "{" || comma || members.len() > 1;
        let close = self.get(close)?.text;
        let mut list = List { open, close, opening, members, below, comma, flat: None };
        list.measure();
        Some(list)
    }
}

/// Whether a line may end before a token.
#[derive(PartialEq, Eq)]
enum Breaks {
    Clause,
    Segment,
    Never,
}

fn breaks(token: Token<'_>) -> Breaks {
    match token {
        Token::To
        | Token::Both
        | Token::Reach
        | Token::On
        | Token::When
        | Token::Unless
        | Token::Avoiding
        | Token::By
        | Token::For
        | Token::At
        | Token::Is
        | Token::Log => Breaks::Clause,
        Token::And | Token::Except => Breaks::Segment,
        _ => Breaks::Never,
    }
}

/// Whether a blank stands between two tokens.
fn spaced(before: Token<'_>, after: Token<'_>) -> bool {
    use Token::{CloseParen, Colon, Comma, Dash, Dot, Ident, Mark, OpenBrace, OpenParen, Slash};
    !matches!(
        (before, after),
        (OpenParen | Dot | Slash | Dash | Mark, _)
            | (_, CloseParen | Comma | Colon | Dot | Slash | Dash)
            | (Colon, OpenBrace)
            | (Ident(_), OpenParen)
    )
}

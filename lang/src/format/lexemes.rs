//! Text to what the formatter moves around: tokens and comments in one row, and the line ends between them.
//!
//! Statement ends are left out; the outline says where statements end.

use crate::lex::Lexed;
use crate::source::{FileId, Span, Spanned};
use crate::token::Token;

/// A token or a comment.
#[derive(Clone, Copy)]
pub(super) struct Lexeme<'a> {
    /// The token; a comment is none.
    pub(super) token: Option<Token<'a>>,
    /// As written, without blanks at the end.
    pub(super) text: &'a str,
    /// First byte.
    pub(super) start: usize,
    /// One past the last byte.
    pub(super) end: usize,
    /// Line ends between the lexeme before and this one.
    pub(super) newlines: usize,
}

/// Puts tokens and comments in order. Characters that are neither, nor blank, become [`Token::Error`], so that nothing gets lost.
///
/// Cost: linear in the text.
pub(super) fn lexemes<'a>(text: &'a str, lexed: &Lexed<'a>) -> Vec<Lexeme<'a>> {
    let row = Vec::with_capacity(lexed.tokens.len());
    let mut out = Lexemes { text, end: 0, newlines: 0, params: None, row };
    let mut comments = lexed.comments.iter().copied().peekable();
    for Spanned { value, span } in lexed.tokens.iter().copied() {
        while let Some(comment) = comments.next_if(|c| c.start < span.start) {
            out.push(None, comment);
        }
        if value != Token::NewLine {
            out.push(Some(value), span);
        }
    }
    comments.for_each(|comment| out.push(None, comment));
    let file = lexed.tokens.first().map_or(FileId(0), |t| t.span.file);
    out.gap(Span::new(file, text.len(), text.len()));
    out.row
}

struct Lexemes<'a> {
    text: &'a str,
    /// Where the last lexeme ended.
    end: usize,
    newlines: usize,
    /// Open brackets since `template`, up to the end of its parameters.
    params: Option<usize>,
    row: Vec<Lexeme<'a>>,
}

impl<'a> Lexemes<'a> {
    fn push(&mut self, token: Option<Token<'a>>, span: Span) {
        self.gap(span);
        let before = self.row.last().and_then(|l| l.token);
        let (start, end) = (span.start as usize, span.end as usize);
        self.params = match (token, self.params) {
            (Some(Token::Template), _) => Some(0),
            (Some(Token::OpenParen), Some(open)) => Some(open + 1),
            (Some(Token::OpenBrace), Some(open)) if open > 0 => Some(open + 1),
            (Some(Token::CloseParen | Token::CloseBrace), Some(open)) if open > 1 => Some(open - 1),
            (Some(Token::OpenBrace | Token::CloseParen | Token::CloseBrace), _) => None,
            (_, params) => params,
        };
        let first = matches!(before, Some(Token::OpenParen | Token::Comma));
        match token {
            // A parameter and its type are the same with and without a blank.
            Some(Token::Pair(text)) if first && self.params == Some(1) => {
                let (name, ty) = text.split_once(':').unwrap_or((text, ""));
                let colon = start + name.len();
                self.add(Some(Token::Ident(name)), start, colon);
                self.add(Some(Token::Colon), colon, colon + 1);
                self.add(Some(Token::keyword(ty).unwrap_or(Token::Ident(ty))), colon + 1, end);
            }
            _ => self.add(token, start, end),
        }
    }

    fn add(&mut self, token: Option<Token<'a>>, start: usize, end: usize) {
        let text =
            self.text.get(start..end).unwrap_or_default().trim_end_matches([' ', '\t', '\r']);
        let newlines = std::mem::take(&mut self.newlines);
        self.row.push(Lexeme { token, text, start, end, newlines });
        self.end = end;
    }

    /// What stands before `next`.
    fn gap(&mut self, next: Span) {
        let start = self.end;
        let gap = self.text.get(start..next.start as usize).unwrap_or_default();
        let mut chars = gap.char_indices().peekable();
        while let Some((at, c)) = chars.next() {
            let lone = c == '\r' && chars.peek().is_none_or(|(_, next)| *next != '\n');
            match c {
                '\n' => self.newlines += 1,
                ' ' | '\t' | ';' | '\r' if !lone => {}
                _ => self.add(Some(Token::Error), start + at, start + at + c.len_utf8()),
            }
        }
    }
}

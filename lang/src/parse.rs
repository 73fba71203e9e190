//! Tokens to the syntax tree of one file.
//!
//! The grammar reads one statement at a time; this module cuts the tokens into statements and puts blocks together.
//! A statement that does not parse gives one diagnostic and [`Kind::Error`], and its neighbours never notice.
//! INVARIANT: sets nest at most [`DEPTH_MAX`] deep, counting `&` and `except`, so that walking a tree needs a bounded stack.

mod build;
mod expected;
mod foreign;
mod follow;
mod unknown;

use crate::ast::{Annotation, Claim, File, Item, Kind};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::lex::{DIAGNOSTICS_MAX, lex};
use crate::source::{FileId, Span, Spanned};
use crate::token::Token;
use grammar::StatementParser;
use lalrpop_util::ParseError;

pub(crate) use build::Build;
pub(crate) use follow::follow;

/// Deepest nesting of blocks, brackets and operators.
///
/// Unit: levels; each `&` and `except` of a chain is one.
pub const DEPTH_MAX: usize = 64;

/// What the grammar reads.
pub(crate) enum Statement {
    /// An item, without what stands between its braces.
    Item(Box<Kind>),
    /// A claim.
    Claim(Box<Claim>),
    /// An annotation.
    Annotation(Annotation),
}

type Tok<'a> = Spanned<Token<'a>>;

/// Reads one file. Whatever the text is, the result is a tree of what could be read.
///
/// Cost: linear in the text.
pub fn parse(file: FileId, text: &str) -> (File, Vec<Diagnostic>) {
    let lexed = lex(file, text);
    let silent = lexed.diagnostics.iter().filter(|d| SILENCING.contains(&d.code));
    let silent = silent.filter_map(|d| d.labels.first().map(|l| l.span)).collect();
    let braces = lexed.tokens.iter().map(|t| match t.value {
        Token::OpenBrace => 1,
        Token::CloseBrace => -1,
        _ => 0,
    });
    let unbalanced = braces.sum::<i64>() > 0;
    let (tokens, out) = (lexed.tokens, lexed.diagnostics);
    let mut parser = Parser { file, text, tokens, at: 0, unbalanced, cut: None, silent, out };
    let items = parser.items(None, 0);
    let mut out = parser.out;
    out.sort_by_key(|d| d.labels.first().map(|l| l.span.start));
    let full = out.len() >= DIAGNOSTICS_MAX;
    if let Some(last) = out.last_mut().filter(|_| full) {
        last.helps.push("there are more errors in this file".to_owned());
    }
    (File { items }, out)
}

/// Mistakes of the lexer after which a statement hardly parses; the second diagnostic would say nothing new.
const SILENCING: &[crate::diagnostic::Code] =
    &[codes::UNKNOWN_CHARACTER, codes::UNCLOSED_STRING, codes::INVISIBLE];

/// What is mended before the grammar reads a statement.
const MENDED: &[crate::diagnostic::Code] =
    &[codes::EXPECTED, codes::FOREIGN_KEYWORD, codes::SERVICE_ORDER, codes::NEEDS_BRACES];

struct Parser<'a> {
    file: FileId,
    text: &'a str,
    tokens: Vec<Tok<'a>>,
    at: usize,
    /// Whether some brace is never closed; only then is indentation a hint.
    unbalanced: bool,
    /// The token before which a block ended without its brace.
    cut: Option<usize>,
    /// Where a syntax error is a consequence of a diagnostic that exists.
    silent: Vec<Span>,
    out: Vec<Diagnostic>,
}

/// The lines between the braces of a block.
enum Body {
    Items(Vec<Item>),
    Claims(Vec<Claim>),
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<Tok<'a>> {
        self.tokens.get(self.at).copied()
    }

    fn value(&self, at: usize) -> Option<Token<'a>> {
        self.tokens.get(at).map(|t| t.value)
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        if self.out.len() < DIAGNOSTICS_MAX {
            self.out.push(diagnostic);
        }
    }

    /// Whether a token is the first of its line.
    fn starts_line(&self, at: usize) -> bool {
        let end = |t: &Tok<'_>| t.span.end as usize;
        let before = at.checked_sub(1).and_then(|i| self.tokens.get(i)).map_or(0, end);
        let start = self.tokens.get(at).map_or(before, |t| t.span.start as usize);
        at == 0 || self.text.get(before..start).is_some_and(|gap| gap.contains('\n'))
    }

    /// Blanks at the start of the line that `offset` is on.
    fn indent(&self, offset: u32) -> usize {
        let before = self.text.get(..offset as usize).unwrap_or_default();
        let line = before.rfind('\n').map_or(0, |at| at + 1);
        let rest = self.text.get(line..).unwrap_or_default();
        rest.len() - rest.trim_start_matches([' ', '\t']).len()
    }

    /// Items up to the brace that closes `open`, or the end of the file.
    fn items(&mut self, open: Option<Span>, depth: usize) -> Vec<Item> {
        let mut items = Vec::new();
        while self.line(open, false) {
            items.extend(self.item(depth));
        }
        items
    }

    fn claims(&mut self, open: Span, depth: usize) -> Vec<Claim> {
        let mut claims = Vec::new();
        while self.line(Some(open), true) {
            claims.extend(self.claim(depth));
        }
        claims
    }

    /// Goes to the next line of a block; `false` at its end.
    fn line(&mut self, open: Option<Span>, claims: bool) -> bool {
        loop {
            // Nobody reads on from here, and noise must not cost more than it is long.
            if self.out.len() >= DIAGNOSTICS_MAX {
                return false;
            }
            match (self.peek(), open) {
                (Some(Tok { value: Token::NewLine, .. }), _) => self.at += 1,
                (Some(Tok { value: Token::CloseBrace, span }), None) => {
                    self.at += 1;
                    self.report(
                        Diagnostic::new(codes::EXPECTED, "`}` closes nothing", span).fix(span, ""),
                    );
                }
                (Some(Tok { value: Token::CloseBrace, .. }), Some(_)) => {
                    self.at += 1;
                    return false;
                }
                (Some(next), Some(open)) if self.unbalanced && self.outside(next, open, claims) => {
                    // Blocks around it that end here as well are open for the same reason.
                    if self.cut.replace(self.at) != Some(self.at) {
                        self.report(unclosed(open).and(next.span, "the next item starts here"));
                    }
                    return false;
                }
                (Some(_), _) => return true,
                (None, None) => return false,
                (None, Some(open)) => {
                    if self.cut.replace(self.at) != Some(self.at) {
                        self.report(unclosed(open));
                    }
                    return false;
                }
            }
        }
    }

    /// Whether `next` looks as if the block had ended before it: no line of a block, and indented no further than the block.
    fn outside(&self, next: Tok<'_>, open: Span, claims: bool) -> bool {
        let inside = match next.value {
            Token::Allow | Token::Deny | Token::Isolate | Token::Use => !claims,
            Token::Expect => claims,
            _ => false,
        };
        let starts = next.value.starts_item() || matches!(next.value, Token::Doc(_) | Token::Mark);
        starts
            && !inside
            && self.starts_line(self.at)
            && self.indent(next.span.start) <= self.indent(open.start)
    }

    fn item(&mut self, depth: usize) -> Option<Item> {
        let (mut docs, mut annotations) = (Vec::new(), Vec::new());
        let mut last = None;
        let first = loop {
            if self.out.len() >= DIAGNOSTICS_MAX {
                return None;
            }
            let next = self.peek();
            match next.map(|t| (t.value, t.span)) {
                Some((Token::Doc(text), span)) => {
                    docs.push(Spanned { value: text.to_owned(), span });
                    self.at += 1;
                }
                Some((Token::Mark, span)) => {
                    annotations.extend(self.annotation());
                    let end = self.at.checked_sub(1).and_then(|i| self.tokens.get(i));
                    last = end.map(|end| span.to(end.span));
                    continue;
                }
                Some((Token::NewLine, _)) => {
                    self.at += 1;
                    continue;
                }
                None | Some((Token::CloseBrace, _)) => {
                    let span = last.unwrap_or_else(|| Span::new(self.file, 0, 0));
                    let what = if annotations.is_empty() { "doc comment" } else { "annotation" };
                    let message = format!("expected an item after the {what}");
                    self.report(Diagnostic::new(codes::EXPECTED, message, span));
                    return None;
                }
                Some(_) => break next?,
            }
            last = next.map(|t| t.span);
        };
        if first.value == Token::Expect {
            let message = "a claim must stand in a `test` or `assert` block";
            self.report(Diagnostic::new(codes::MISPLACED, message, first.span));
            self.skip();
            return Some(Item { docs, annotations, kind: Kind::Error, span: first.span });
        }
        if !foreign::starts_item(first.value) && first.value != Token::Error {
            let span = self.unknown_lines(first, depth > 0);
            return Some(Item { docs, annotations, kind: Kind::Error, span });
        }
        let (kind, span) = self.statement_with_body(depth);
        Some(Item { docs, annotations, kind, span })
    }

    /// Reports a line that starts as no item does. Those below it that do not either are the same mistake,
    /// most often text of another language, and so is what the lexer said about them.
    fn unknown_lines(&mut self, first: Tok<'a>, in_block: bool) -> Span {
        let (mut lines, mut whole) = (vec![], first.span);
        while let Some(next) = self.peek() {
            match next.value {
                Token::NewLine => self.at += 1,
                Token::Doc(_) | Token::Mark | Token::CloseBrace | Token::Expect => break,
                value
                    if foreign::starts_item(value)
                        && self.value(self.at + 1) != Some(Token::Colon) =>
                {
                    break;
                }
                _ => {
                    let line = self.unknown_line();
                    whole = first.span.to(line);
                    lines.push(line);
                }
            }
        }
        let hidden = |d: &Diagnostic| {
            let span = d.labels.first().map(|l| l.span);
            d.code != codes::INVISIBLE
                && span.is_some_and(|s| whole.start <= s.start && s.end <= whole.end)
        };
        self.out.retain(|d| !hidden(d));
        self.report(unknown::diagnostic(first, &lines, self.text, in_block));
        whole
    }

    /// Passes over one statement whatever it is, with everything between its brackets.
    fn unknown_line(&mut self) -> Span {
        let start = self.at;
        let mut level = 0_usize;
        while let Some(token) = self.peek() {
            match token.value {
                Token::OpenBrace | Token::OpenParen => level += 1,
                Token::CloseParen => level = level.saturating_sub(1),
                Token::CloseBrace if level == 0 => break,
                Token::CloseBrace => level -= 1,
                Token::NewLine if level == 0 => break,
                // A bracket that is never closed ends with the line.
                value
                    if self.at > start
                        && self.unbalanced
                        && self.starts_line(self.at)
                        && foreign::starts_item(value) =>
                {
                    break;
                }
                _ => {}
            }
            self.at += 1;
        }
        let at = |i: usize| self.tokens.get(i).map(|t| t.span);
        let first = at(start).unwrap_or_else(|| Span::new(self.file, 0, 0));
        self.at.checked_sub(1).and_then(at).map_or(first, |last| first.to(last))
    }

    fn annotation(&mut self) -> Option<Annotation> {
        let start = self.at;
        let mut end = start + 1;
        let mut in_parens = false;
        while let Some(token) = self.value(end) {
            let next = self.value(end + 1);
            match token {
                Token::OpenParen => in_parens = true,
                Token::CloseParen => {
                    end += 1;
                    break;
                }
                // Without parentheses the annotation ends with its name, or with what was meant as its argument.
                Token::Colon | Token::Assign | Token::String(_) | Token::Date(_)
                    if !in_parens && end > start + 1 && !self.starts_line(end) => {}
                _ if !in_parens && end > start + 1 => break,
                Token::Ident(_) if !in_parens && next == Some(Token::OpenParen) => {}
                Token::Mark | Token::NewLine | Token::OpenBrace | Token::CloseBrace => break,
                _ if self.starts_line(end) && token.starts_item() => break,
                _ => {}
            }
            end += 1;
        }
        self.at = end;
        match self.parse(start, end)? {
            Statement::Annotation(annotation) => Some(annotation),
            Statement::Item(_) | Statement::Claim(_) => None,
        }
    }

    fn claim(&mut self, depth: usize) -> Option<Claim> {
        let first = self.peek()?;
        if matches!(first.value, Token::Ident(_) | Token::Expect) {
            let start = self.at;
            let (end, body) = self.extent(start);
            self.at = end;
            if body.is_none() {
                return match self.parse(start, end)? {
                    Statement::Claim(claim) => Some(*claim),
                    Statement::Item(_) | Statement::Annotation(_) => None,
                };
            }
            self.at = start;
        }
        let found = expected::name_token(first, self.text);
        let message = format!("expected a claim such as `expect allow a -> b`, found {found}");
        let mut diagnostic = Diagnostic::new(codes::EXPECTED, message, first.span);
        match (first.value, self.value(self.at + 1)) {
            (Token::Allow | Token::Deny | Token::Only, _) => {
                let start = first.span.start as usize;
                diagnostic = diagnostic.fix(Span::new(self.file, start, start), "expect ");
            }
            (Token::Assert, Some(Token::Allow | Token::Deny | Token::Only)) => {
                diagnostic = diagnostic.fix(first.span, "expect");
            }
            _ => {}
        }
        self.report(diagnostic);
        self.skip_with_body(depth);
        None
    }

    /// Passes over a statement that has been reported.
    fn skip(&mut self) {
        self.at = self.extent(self.at).0.max(self.at + 1);
    }

    fn skip_with_body(&mut self, depth: usize) {
        let (end, body) = self.extent(self.at);
        self.at = end.max(self.at + 1);
        if let Some(open) = body {
            let known = self.out.clone();
            self.body(open, depth);
            self.out = known;
        }
    }

    fn statement_with_body(&mut self, depth: usize) -> (Kind, Span) {
        let start = self.at;
        let (end, body) = self.extent(start);
        self.at = end;
        let first = self.tokens.get(start).map(|t| t.span);
        let kind = match self.parse(start, end) {
            Some(Statement::Item(kind)) => *kind,
            Some(Statement::Claim(_) | Statement::Annotation(_)) | None => Kind::Error,
        };
        if let (None, Kind::Error) = (body, &kind) {
            self.body_without_brace(start, depth);
        }
        let read = body.map(|open| self.body(open, depth));
        let first = first.unwrap_or_else(|| Span::new(self.file, 0, 0));
        let last =
            self.at.checked_sub(1).and_then(|i| self.tokens.get(i)).map_or(first, |t| t.span);
        let span = first.to(last);
        if body.is_some() {
            self.line_end();
        }
        let kind = match (kind, read) {
            (Kind::Block { tier, staged, name, scope, .. }, Some(Body::Items(items))) => {
                Kind::Block { tier, staged, name, scope, items }
            }
            (Kind::Template { name, params, .. }, Some(Body::Items(items))) => {
                Kind::Template { name, params, items }
            }
            (Kind::Claims { what, title, .. }, Some(Body::Claims(claims))) => {
                Kind::Claims { what, title, claims }
            }
            (kind, None) => kind,
            (_, Some(_)) => Kind::Error,
        };
        (kind, span)
    }

    /// Passes over the lines of a block that has no brace, which was reported, and over its closing brace.
    fn body_without_brace(&mut self, start: usize, depth: usize) {
        let staged = self.value(start) == Some(Token::Staged);
        let claims = match self.value(start + usize::from(staged)) {
            Some(Token::Guard | Token::Policy | Token::Baseline | Token::Template) => false,
            Some(Token::Test | Token::Assert) => true,
            _ => return,
        };
        // INVARIANT: such blocks nest no deeper than those with braces.
        if depth >= DEPTH_MAX {
            return;
        }
        let header = self.tokens.get(start).map_or(0, |t| self.indent(t.span.start));
        while let Some(next) = self.peek().filter(|_| self.out.len() < DIAGNOSTICS_MAX) {
            let before = self.at;
            match next.value {
                Token::NewLine => self.at += 1,
                Token::CloseBrace if depth == 0 => {
                    self.at += 1;
                    return;
                }
                Token::Expect if claims => drop(self.claim(depth + 1)),
                Token::Allow | Token::Deny | Token::Isolate | Token::Use if !claims => {
                    self.item(depth + 1);
                }
                Token::CloseBrace => return,
                _ if self.indent(next.span.start) <= header => return,
                _ if claims => drop(self.claim(depth + 1)),
                _ => drop(self.item(depth + 1)),
            }
            self.at = self.at.max(before + 1);
        }
    }

    /// What stands after an opening brace, and its closing brace.
    fn body(&mut self, open: Opening, depth: usize) -> Body {
        let depth = depth + 1;
        if depth > DEPTH_MAX {
            self.report(too_deep(open.span));
            let mut level = 1_usize;
            while let Some(token) = self.value(self.at).filter(|_| level > 0) {
                match token {
                    Token::OpenBrace => level += 1,
                    Token::CloseBrace => level -= 1,
                    _ => {}
                }
                self.at += 1;
            }
            return Body::Items(vec![]);
        }
        if open.claims {
            Body::Claims(self.claims(open.span, depth))
        } else {
            Body::Items(self.items(Some(open.span), depth))
        }
    }

    /// A block ends its line.
    fn line_end(&mut self) {
        let Some(next) = self.peek() else { return };
        let closed = self.at.checked_sub(1).and_then(|i| self.value(i)) == Some(Token::CloseBrace);
        if !closed || matches!(next.value, Token::NewLine | Token::CloseBrace) {
            return;
        }
        if !self.starts_line(self.at) || !next.value.starts_item() {
            let found = expected::name_token(next, self.text);
            let message = format!("expected the end of the line after `}}`, found {found}");
            self.report(Diagnostic::new(codes::EXPECTED, message, next.span));
        }
        if next.value == Token::OpenBrace {
            self.unknown_line();
        } else if !next.value.starts_item() {
            self.skip();
        }
    }

    /// Where the statement at `start` ends, and the brace that opens its body, which is then its last token.
    fn extent(&self, start: usize) -> (usize, Option<Opening>) {
        let first = self.value(start);
        let head = if first == Some(Token::Staged) { self.value(start + 1) } else { first };
        let claims = matches!(head, Some(Token::Test | Token::Assert));
        // An unknown word may be a misspelt block.
        let block = claims
            || matches!(
                head,
                Some(
                    Token::Guard
                        | Token::Policy
                        | Token::Baseline
                        | Token::Template
                        | Token::Ident(_)
                )
            );
        let mut open = Vec::new();
        let mut end = start;
        while let Some(token) = self.tokens.get(end).copied() {
            let before = if end > start { self.value(end - 1) } else { None };
            if end > start && self.restarts(end, before, !open.is_empty()) {
                break;
            }
            match token.value {
                Token::OpenBrace => {
                    let after_end = before.is_some_and(Token::ends) && open.is_empty();
                    if block && (after_end || self.opens_lines(end)) {
                        let unknown = matches!(head, Some(Token::Ident(_)));
                        let claims =
                            claims || unknown && self.value(end + 1) == Some(Token::Expect);
                        return (end + 1, Some(Opening { span: token.span, claims }));
                    }
                    open.push(Token::OpenBrace);
                }
                Token::OpenParen => open.push(Token::OpenParen),
                Token::CloseParen if open.last() == Some(&Token::OpenParen) => drop(open.pop()),
                Token::CloseBrace => match open.iter().rposition(|t| *t == Token::OpenBrace) {
                    Some(at) => open.truncate(at),
                    None => break,
                },
                Token::NewLine if open.is_empty() => break,
                _ => {}
            }
            end += 1;
        }
        (end, None)
    }

    /// Whether a new statement starts here although the one before is not complete.
    fn restarts(&self, at: usize, before: Option<Token<'_>>, in_brackets: bool) -> bool {
        let Some(token) = self.value(at).filter(|t| t.starts_item()) else { return false };
        if !self.starts_line(at) || matches!(before, Some(Token::Staged | Token::Expect)) {
            return false;
        }
        // A keyword in a list of label values, or the type of a parameter.
        let after = self.value(at + 1);
        let listed = matches!(after, Some(Token::Comma | Token::CloseBrace | Token::NewLine));
        let typed = token == Token::Service && before == Some(Token::Colon);
        !(in_brackets && (listed || typed))
    }

    /// Whether the lines of a block follow the brace, and not the members of a set.
    fn opens_lines(&self, brace: usize) -> bool {
        let before = brace.checked_sub(1).and_then(|i| self.value(i));
        let listed = matches!(self.value(brace + 2), Some(Token::Comma | Token::CloseBrace));
        let next = self.value(brace + 1);
        let starts = next.is_some_and(Token::starts_item) && !listed;
        before != Some(Token::Colon)
            && (starts || matches!(next, Some(Token::Doc(_) | Token::Mark)))
    }

    /// Runs the grammar over one statement.
    fn parse(&mut self, start: usize, end: usize) -> Option<Statement> {
        let mut tokens = self.tokens.get(start..end)?.to_vec();
        let whole = tokens.first()?.span.to(tokens.last()?.span);
        let n_tokens = tokens.len();
        tokens.retain(|t| t.value != Token::Error);
        let unreadable = tokens.len() < n_tokens;
        let mut build = Build::new(self.file);
        foreign::mend(&mut tokens, self.text, &mut build.out);
        if let Some(span) = deeper_than(&tokens, DEPTH_MAX) {
            self.report(too_deep(span));
            return None;
        }
        let result = run(&mut build, &tokens);
        // A statement that does not parse gives one report, with what was spelled otherwise as a help.
        let (spelled, found): (Vec<_>, Vec<_>) =
            build.out.into_iter().partition(|d| result.is_err() && MENDED.contains(&d.code));
        // A list of two readings: nothing may depend on the guess.
        let guessed = found.iter().any(|d| d.code == codes::NEEDS_BRACES && d.fixes.len() > 1);
        // What is left of a statement may mean something else than was written.
        if !unreadable {
            found.into_iter().for_each(|d| self.report(d));
        }
        match result {
            Ok(Statement::Item(kind)) if guessed && matches!(*kind, Kind::Define { .. }) => None,
            Ok(_) if unreadable => None,
            Ok(statement) => Some(statement),
            Err(_) if self.silent.iter().any(|s| s.start <= whole.end && whole.start <= s.end) => {
                None
            }
            Err(error) => {
                let mut diagnostic = self.expected(error, &tokens, whole, end);
                diagnostic.helps.splice(0..0, spelled.into_iter().map(|d| d.message));
                self.report(diagnostic);
                None
            }
        }
    }

    fn expected(
        &self,
        error: Error<'a>,
        tokens: &[Tok<'a>],
        whole: Span,
        end: usize,
    ) -> Diagnostic {
        let (found, terminals) = match error {
            ParseError::UnrecognizedToken { token: (start, value, end), expected } => {
                (Some(Tok { value, span: Span::new(self.file, start, end) }), expected)
            }
            ParseError::UnrecognizedEof { expected, .. } => (None, expected),
            ParseError::ExtraToken { token: (start, value, end) } => {
                (Some(Tok { value, span: Span::new(self.file, start, end) }), vec![])
            }
            ParseError::InvalidToken { .. } => (None, vec![]),
            ParseError::User { error } => match error {},
        };
        let at = found.and_then(|found| tokens.iter().position(|t| *t == found));
        let before = tokens.get(..at.unwrap_or(tokens.len())).unwrap_or_default();
        // What may follow is a choice or the end: only the grammar knows.
        let complete = run(&mut Build::new(self.file), before).is_ok();
        let after = self.tokens.get(end).copied().filter(|t| t.value != Token::NewLine);
        let line_end = Span::new(self.file, whole.end as usize, whole.end as usize);
        let context = expected::Context { text: self.text, before, complete, line_end };
        expected::diagnostic(&context, &terminals, found.or(after), end >= self.tokens.len())
    }
}

/// The brace that opens the body of a block.
#[derive(Clone, Copy)]
struct Opening {
    span: Span,
    claims: bool,
}

type Error<'a> = ParseError<usize, Token<'a>, std::convert::Infallible>;

fn run<'a>(build: &mut Build, tokens: &[Tok<'a>]) -> Result<Statement, Error<'a>> {
    let stream = tokens.iter().map(|t| Ok((t.span.start as usize, t.value, t.span.end as usize)));
    StatementParser::new().parse(build, stream)
}

fn unclosed(open: Span) -> Diagnostic {
    Diagnostic::new(codes::EXPECTED, "`{` is not closed", open)
}

fn too_deep(span: Span) -> Diagnostic {
    let message = format!("nested more than {DEPTH_MAX} levels deep");
    Diagnostic::new(codes::TOO_DEEP, message, span)
        .help("give a part of it a name, or list the members in one set")
}

/// The place where brackets and operators nest deeper than `limit`.
fn deeper_than(tokens: &[Tok<'_>], limit: usize) -> Option<Span> {
    // Operators so far at each open level: a chain `a & b & c` makes a tree as deep as it is long.
    let mut levels = vec![0_usize];
    let mut depth = 0_usize;
    for token in tokens {
        let nested = levels.len() > 1;
        let level = levels.last_mut()?;
        match token.value {
            Token::OpenBrace | Token::OpenParen => {
                levels.push(0);
                depth += 1;
            }
            Token::CloseBrace | Token::CloseParen if nested => {
                depth -= 1 + levels.pop()?;
            }
            Token::And | Token::Except => {
                *level += 1;
                depth += 1;
            }
            Token::Comma | Token::NewLine | Token::To | Token::Both | Token::Reach | Token::On => {
                depth -= std::mem::take(level);
            }
            _ => {}
        }
        if depth > limit {
            return Some(token.span);
        }
    }
    None
}

#[expect(
    clippy::all,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "generated by lalrpop"
)]
mod grammar {
    include!(concat!(env!("OUT_DIR"), "/grammar.rs"));
}

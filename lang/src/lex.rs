//! Text to tokens, with statement ends put in where a line ends one.
//!
//! Never fails: what starts no token becomes [`Token::Error`] and a diagnostic.
//! INVARIANT: spans ascend, do not overlap and lie on character boundaries of the text.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{FileId, Span, Spanned};
use crate::token::Token;
use jiff::civil::Date;
use logos::{Lexer, Logos};
use std::net::IpAddr;

/// Largest source file read.
///
/// Unit: bytes. Far above any policy written by hand, far below what `u32` spans can hold.
pub const SOURCE_BYTES_MAX: usize = 4 << 20;

/// Diagnostics kept for one file; whoever feeds us noise need not pay memory for each byte of it.
pub(crate) const DIAGNOSTICS_MAX: usize = 1000;

/// What a text consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lexed<'a> {
    /// The tokens in the order written.
    pub tokens: Vec<Spanned<Token<'a>>>,
    /// The `#` comments, which are no tokens.
    pub comments: Vec<Span>,
    /// What is wrong with the text.
    pub diagnostics: Vec<Diagnostic>,
}

/// Cuts a text into tokens.
///
/// Cost: linear in the text.
pub fn lex(file: FileId, text: &str) -> Lexed<'_> {
    let mut out = Lexed::default();
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("a source file is at most {} MiB", SOURCE_BYTES_MAX >> 20);
        out.diagnostics.push(Diagnostic::new(codes::TOO_LARGE, message, Span::new(file, 0, 0)));
        return out;
    }
    let mut state = State { file, text, out, breaks: false, braces: vec![], reported: 0 };
    state.invisible();
    let mut raw = Raw::lexer(text);
    while let Some(next) = raw.next() {
        let span = Span::new(file, raw.span().start, raw.span().end);
        state.raw(next.ok(), raw.slice(), span);
    }
    let mut out = state.out;
    out.diagnostics.sort_by_key(|d| d.labels.first().map(|l| l.span));
    out.diagnostics.truncate(DIAGNOSTICS_MAX);
    out
}

/// Lexical classes; what a text of a class means is settled afterwards.
#[derive(Clone, Copy, Logos)]
#[logos(skip r"[ \t\r]+")]
enum Raw {
    #[token("\n")]
    LineEnd,
    #[regex(r"#[^\n]*", allow_greedy = true)]
    Comment,
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*")]
    Name,
    #[regex(r"[A-Za-z_][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*:(\*|[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*)")]
    Pair,
    #[regex(r"[0-9]+")]
    Number,
    // One number at most before the first letter: no class may need a long look ahead, or noise would cost its square.
    #[regex(r"[0-9]+-?[A-Za-z_][A-Za-z0-9_]*(-[A-Za-z0-9_]+)*")]
    Word,
    #[regex(r"[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]", priority = 20)]
    Date,
    #[regex(r"[0-9]+(\.[0-9]+)+(/[0-9]+(\.[0-9]+)*)?")]
    Dotted,
    #[regex(r"[0-9]+(\.[0-9]+)*(\.\*)+")]
    Wildcards,
    // Whatever has two colons among hexadecimal digits is meant as an IPv6 address: a label has one.
    #[regex(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:]*(\.[0-9]+)*(/[0-9]+)?", priority = 30)]
    Coloned,
    #[token("\"", string)]
    String,
    #[token("=>")]
    #[token("-->")]
    #[token("==>")]
    ForeignArrow,
    #[token("//", foreign_comment)]
    #[token("/*", foreign_comment)]
    ForeignComment,
    #[token("->")]
    #[token("<->")]
    #[token("~>")]
    #[regex(r"[&=@:,\-./{}()|+]")]
    Mark,
    #[token(";")]
    Semicolon,
}

/// Takes the rest of a string. One without its closing quote ends with its line,
/// and leaves brackets and a comment at the end of the line to the grammar.
fn string(lexer: &mut Lexer<'_, Raw>) {
    let rest = lexer.remainder();
    let mut escaped = false;
    let mut end = rest.len();
    for (at, c) in rest.char_indices() {
        match c {
            '"' if !escaped => return lexer.bump(at + 1),
            '\n' => {
                end = at;
                break;
            }
            _ => escaped = c == '\\' && !escaped,
        }
    }
    let line = rest.get(..end).unwrap_or_default();
    let line = line.split_once(" #").map_or(line, |(text, _)| text);
    let brackets = [' ', '\t', '\r', ')', '{', '}', ','];
    lexer.bump(line.trim_end_matches(brackets).len());
}

/// Takes the rest of a comment of another language, unless its mark goes on with a word: `tcp/*`, `https://`.
fn foreign_comment(lexer: &mut Lexer<'_, Raw>) {
    let before = lexer.source().get(..lexer.span().start).and_then(|text| text.chars().next_back());
    if before.is_some_and(goes_on) {
        return;
    }
    let rest = lexer.remainder();
    let length = match lexer.slice() {
        "//" => rest.find('\n'),
        _ => rest.find("*/").map(|at| at + 2),
    };
    lexer.bump(length.unwrap_or(rest.len()));
}

/// Whether a mark behind this character belongs to a word.
fn goes_on(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/')
}

struct State<'a> {
    file: FileId,
    text: &'a str,
    out: Lexed<'a>,
    /// Whether a line ended since the last token.
    breaks: bool,
    /// The open braces; `true` for those of `unless`, where a line may start with `{`.
    braces: Vec<bool>,
    /// Bytes before this have had their unknown characters reported.
    reported: usize,
}

impl<'a> State<'a> {
    fn raw(&mut self, raw: Option<Raw>, text: &'a str, span: Span) {
        let token = match raw {
            Some(Raw::LineEnd) => {
                self.breaks = true;
                return;
            }
            Some(Raw::Comment) => match doc(text) {
                Some(doc) => Token::Doc(doc),
                None => return self.out.comments.push(span),
            },
            Some(Raw::Name) => Token::keyword(text).unwrap_or(Token::Ident(text)),
            Some(Raw::Pair) => Token::Pair(text),
            Some(Raw::Number) => Token::Number(text),
            Some(Raw::Word) => Token::Word(text),
            Some(Raw::Date) => self.date(text, span),
            Some(Raw::Dotted | Raw::Coloned) => self.address(text, span),
            Some(Raw::String) => self.string(text, span),
            Some(Raw::Wildcards) => self.wildcards(text, span),
            Some(Raw::ForeignArrow) => {
                let message = format!("`{text}` is spelled `->` here");
                self.report(Diagnostic::new(codes::FOREIGN_KEYWORD, message, span).fix(span, "->"));
                Token::To
            }
            Some(Raw::ForeignComment) => return self.foreign_comment(text, span),
            Some(Raw::Mark) => Token::mark(text).unwrap_or(Token::Error),
            Some(Raw::Semicolon) => Token::NewLine,
            None => match self.unknown(text, span) {
                Some(token) => token,
                None => return,
            },
        };
        self.push(token, span);
    }

    fn push(&mut self, token: Token<'a>, span: Span) {
        let last = self.out.tokens.last().copied();
        if self.breaks && last.is_some_and(|t| t.value.ends()) && !self.continues(token) {
            let end = last.map_or(span.start, |t| t.span.end) as usize;
            let span = Span::new(self.file, end, end);
            self.out.tokens.push(Spanned { value: Token::NewLine, span });
        }
        self.breaks = false;
        let last = self.out.tokens.last().map(|t| t.value);
        match token {
            // An empty statement is no statement.
            Token::NewLine if matches!(last, None | Some(Token::NewLine | Token::OpenBrace)) => {
                return;
            }
            Token::OpenBrace => self.braces.push(last == Some(Token::Unless)),
            Token::CloseBrace => drop(self.braces.pop()),
            _ => {}
        }
        self.out.tokens.push(Spanned { value: token, span });
    }

    /// Reports a comment of another language, which says what it is; or reads its mark as two characters.
    fn foreign_comment(&mut self, text: &'a str, span: Span) {
        let middle = span.start as usize + 1;
        let before = self.text.get(..span.start as usize).and_then(|t| t.chars().next_back());
        if before.is_some_and(goes_on) {
            self.push(Token::Slash, Span { end: span.start + 1, ..span });
            let second = Span { start: span.start + 1, ..span };
            let text = self.text.get(second.range()).unwrap_or_default();
            if let Some(token) = Token::mark(text).or_else(|| self.unknown(text, second)) {
                self.push(token, second);
            }
            return;
        }
        self.breaks |= text.contains('\n');
        if self.full() {
            return;
        }
        let mark = Span::new(self.file, span.start as usize, middle + 1);
        let message = format!(
            "a comment starts with `#`, not `{}`",
            self.text.get(mark.range()).unwrap_or_default()
        );
        let found = Diagnostic::new(codes::FOREIGN_KEYWORD, message, mark);
        let rest = self.line_from(span).trim();
        let ends_line = rest.is_empty() || rest.starts_with('#');
        self.report(match text.strip_prefix("/*") {
            None => found.fix(mark, "#"),
            Some(inside) if ends_line && !inside.contains('\n') => {
                let inside = inside.strip_suffix("*/").unwrap_or(inside);
                found.fix(span, format!("# {}", inside.trim()))
            }
            Some(_) => found.help("write `#` in front of each of its lines"),
        });
    }

    /// `10.0.0.*`.
    fn wildcards(&mut self, text: &str, span: Span) -> Token<'a> {
        let message = format!("`{text}` is not an address");
        let found = Diagnostic::new(codes::BAD_ADDRESS, message, span);
        let parts: Vec<&str> = text.trim_end_matches(".*").split('.').collect();
        let fits =
            text.split('.').count() == 4 && parts.iter().all(|part| part.parse::<u8>().is_ok());
        self.report(if fits {
            let zeros = ".0".repeat(4 - parts.len());
            found.fix(span, format!("{}{zeros}/{}", parts.join("."), 8 * parts.len()))
        } else {
            found.help("a block of addresses is written with its length: `10.0.0.0/8`")
        });
        Token::BadAddress
    }

    fn continues(&self, token: Token<'_>) -> bool {
        let in_unless = self.braces.last() == Some(&true);
        token.continues() && !(token == Token::OpenBrace && in_unless)
    }

    fn report(&mut self, diagnostic: Diagnostic) {
        if !self.full() {
            self.out.diagnostics.push(diagnostic);
        }
    }

    /// Whether nothing more is reported. What looks at the whole line for a message asks first, or noise would cost its square.
    fn full(&self) -> bool {
        // Twice the limit: invisible characters come first and must not hide the rest.
        self.out.diagnostics.len() >= 2 * DIAGNOSTICS_MAX
    }

    /// Reports characters that nobody sees, wherever they stand: they can make a text mean other than it reads.
    fn invisible(&mut self) {
        // Nearly every text is plain, and a look at its bytes is far cheaper than one at its characters.
        if self.text.bytes().all(|b| matches!(b, b' '..=b'~' | b'\n' | b'\t')) {
            return;
        }
        let mut run: Option<(usize, usize, char)> = None;
        let mut after_cr = false;
        let end = (self.text.len(), '\n');
        for (at, c) in self.text.char_indices().chain([end]) {
            // A carriage return alone would end the line for some editors and not for us.
            if after_cr && c != '\n' {
                let message = "a carriage return without a line feed";
                let span = Span::new(self.file, at - 1, at);
                self.report(
                    Diagnostic::new(codes::INVISIBLE, message, span)
                        .help("some editors end the line here, Seg does not"),
                );
            }
            after_cr = c == '\r';
            if is_invisible(c) {
                let (start, first) = run.map_or((at, c), |(start, _, first)| (start, first));
                run = Some((start, at + c.len_utf8(), first));
            } else if let Some((start, end, first)) = run.take() {
                let message = format!("invisible character U+{:04X}", u32::from(first));
                let span = Span::new(self.file, start, end);
                self.report(
                    Diagnostic::new(codes::INVISIBLE, message, span)
                        .help("it can make a policy read other than it is")
                        .fix(span, ""),
                );
            }
        }
    }

    fn unknown(&mut self, text: &str, span: Span) -> Option<Token<'a>> {
        if text.chars().all(is_invisible) {
            return None;
        }
        if (span.start as usize) < self.reported {
            return Some(Token::Error);
        }
        let c = text.chars().next().unwrap_or_default();
        if c.is_alphabetic() {
            let word = self.word_around(span);
            self.reported = word.end as usize;
            let name = self.text.get(word.range()).unwrap_or(text);
            let message =
                format!("`{name}` holds `{c}`, which is not one of a-z, A-Z, 0-9, `_`, `-`");
            let code = format!("`{c}` is U+{:04X}", u32::from(c));
            self.report(Diagnostic::new(codes::INVISIBLE, message, word).here(code));
            return Some(Token::Error);
        }
        let last = self.out.tokens.last().copied();
        let touches = last.filter(|t| t.value == Token::Error && t.span.end == span.start);
        if touches.is_none() && !self.full() {
            let shown = text.escape_debug();
            let found = Diagnostic::new(
                codes::UNKNOWN_CHARACTER,
                format!("unknown character `{shown}`"),
                span,
            );
            let found = match c {
                '→' => found.fix(span, "->"),
                '↔' => found.fix(span, "<->"),
                '“' | '”' | '„' | '\'' => found.help("strings stand in `\"`"),
                '[' => match self.bracketed(span) {
                    Some((whole, inside)) => {
                        // Its other end is the same mistake.
                        self.reported = whole.end as usize;
                        found.fix(whole, format!("{{ {} }}", inside.trim()))
                    }
                    None => found.help("a set stands in `{ }`"),
                },
                ']' => found.help("a set stands in `{ }`"),
                '!' if self.line_from(span).starts_with('=') => {
                    found.help("write `key:* except key:value` for every value but one")
                }
                // `a & !b & c` would come to mean something else.
                '!' if last.is_some_and(|t| t.value == Token::And)
                    && !self.line_from(span).contains('&') =>
                {
                    let joint = last.map_or(span, |t| t.span);
                    found.fix(joint.to(span), "except ")
                }
                '!' => found.help("write `a except b` for what is in `a` and not in `b`"),
                '*' => self.star(found, span),
                '<' if text == "<-" => found.help("the source comes first: `a -> b`"),
                '>' | '<' => found.help("the arrows are `->`, `<->` and `~>`"),
                _ => found,
            };
            self.report(found);
        }
        Some(Token::Error)
    }

    /// What is left of the line behind a span.
    fn line_from(&self, span: Span) -> &'a str {
        let rest = self.text.get(span.end as usize..).unwrap_or_default();
        rest.lines().next().unwrap_or_default()
    }

    fn star(&self, found: Diagnostic, span: Span) -> Diagnostic {
        let last = self.out.tokens.last().copied();
        let before = self.text.get(..span.start as usize).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        match last.map(|t| (t.value, t.span)) {
            _ if line.trim_start().starts_with("import ") => found.help(
                "import the module and write `module.name`, or list names: `import a.b.{ x, y }`",
            ),
            Some((Token::Slash, slash)) if slash.end == span.start => {
                found.help("a protocol alone is all of its ports").fix(slash.to(span), "")
            }
            Some((
                Token::Allow
                | Token::Deny
                | Token::Only
                | Token::Isolate
                | Token::To
                | Token::Both
                | Token::On,
                _,
            )) => found.fix(span, "any"),
            Some(_) | None => {
                found.help("write `any` for everything, `key:*` for every value of a label")
            }
        }
    }

    /// From a `[` to its `]` on the same line, and what is between them.
    fn bracketed(&self, open: Span) -> Option<(Span, &'a str)> {
        let line = self.text.get(open.end as usize..)?.lines().next()?;
        let (inside, _) =
            line.split_once(']').filter(|(inside, _)| !inside.contains(['[', '#']))?;
        let end = open.end as usize + inside.len() + 1;
        Some((Span::new(self.file, open.start as usize, end), inside))
    }

    /// The letters, digits, `_` and `-` around a span.
    fn word_around(&self, span: Span) -> Span {
        let part = |c: &char| c.is_alphanumeric() || matches!(c, '_' | '-');
        let length = |chars: &mut dyn Iterator<Item = char>| -> usize {
            chars.take_while(part).map(char::len_utf8).sum()
        };
        let (start, end) = (span.start as usize, span.end as usize);
        let before = self.text.get(self.reported.min(start)..start).unwrap_or_default();
        let after = self.text.get(end..).unwrap_or_default();
        let start = start - length(&mut before.chars().rev());
        Span::new(self.file, start, end + length(&mut after.chars()))
    }

    fn date(&mut self, text: &'a str, span: Span) -> Token<'a> {
        if !is_date(text) {
            self.report(Diagnostic::new(codes::BAD_DATE, format!("`{text}` is not a date"), span));
        }
        Token::Date(text)
    }

    fn string(&mut self, text: &'a str, span: Span) -> Token<'a> {
        if string_text(text).is_none() {
            // In an argument, a `)` was hardly meant as text.
            let argument = self.out.tokens.last().is_some_and(|t| t.value == Token::OpenParen);
            let length = text.find(')').filter(|_| argument).unwrap_or(text.len());
            let end = span.start as usize + length;
            self.report(
                Diagnostic::new(codes::UNCLOSED_STRING, "string is not closed", span)
                    .guess(Span::new(self.file, end, end), "\""),
            );
        }
        let mut chars = text.char_indices();
        while let Some((at, c)) = chars.next() {
            if c != '\\' {
                continue;
            }
            let Some((_, escaped)) = chars.next() else { break };
            if unescape(escaped).is_none() {
                let start = span.start as usize + at;
                let span = Span::new(self.file, start, start + 1 + escaped.len_utf8());
                let message = format!("unknown character after `\\`: `{}`", escaped.escape_debug());
                self.report(
                    Diagnostic::new(codes::UNKNOWN_CHARACTER, message, span)
                        .help("the escapes are `\\\\`, `\\\"`, `\\n` and `\\t`"),
                );
            }
        }
        Token::String(text)
    }

    fn address(&mut self, text: &str, span: Span) -> Token<'a> {
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len)),
            None => (text, None),
        };
        let Ok(parsed) = address.parse::<IpAddr>() else {
            let found =
                Diagnostic::new(codes::BAD_ADDRESS, format!("`{text}` is not an address"), span);
            let padded = address.split('.').any(|part| part.len() > 1 && part.starts_with('0'));
            self.report(match (address.contains(':'), padded) {
                (false, true) => {
                    found.help("leading zeros are refused: some tools read them as octal")
                }
                (false, false) => found.help("an IPv4 address has four numbers up to 255"),
                (true, _) => {
                    found.help("an IPv6 address has eight groups, or `::` for some of them")
                }
            });
            return Token::BadAddress;
        };
        let Some(len) = len else { return Token::Address(parsed) };
        let bits = if parsed.is_ipv4() { 32 } else { 128 };
        let Some(length) = len.parse::<u8>().ok().filter(|n| *n <= bits) else {
            let message = format!("`{text}` has no prefix length between 0 and {bits}");
            let mut found = Diagnostic::new(codes::BAD_ADDRESS, message, span);
            if let Some(length) = mask_length(len) {
                found = found.fix(span, format!("{address}/{length}"));
            }
            self.report(found);
            return Token::BadAddress;
        };
        let network = network(parsed, length);
        if network != parsed {
            let message = format!(
                "`{text}` has host bits set; did you mean `{network}/{length}` or `{address}`?"
            );
            self.report(
                Diagnostic::new(codes::HOST_BITS, message, span)
                    .fix(span, format!("{network}/{length}"))
                    .fix(span, address),
            );
        }
        Token::Prefix(parsed, length)
    }
}

/// The text of a `##` line; other comments, and banners of three marks or more, are none.
fn doc(comment: &str) -> Option<&str> {
    let text = comment.strip_prefix("##").filter(|text| !text.starts_with('#'))?;
    Some(text.strip_prefix(' ').unwrap_or(text).trim_end())
}

/// What stands between the quotes, if both are there.
fn string_text(quoted: &str) -> Option<&str> {
    let inner = quoted.strip_prefix('"')?;
    let text = inner.strip_suffix('"')?;
    let backslashes = text.bytes().rev().take_while(|b| *b == b'\\').count();
    (backslashes % 2 == 0).then_some(text)
}

fn unescape(c: char) -> Option<char> {
    match c {
        '\\' | '"' => Some(c),
        'n' => Some('\n'),
        't' => Some('\t'),
        _ => None,
    }
}

/// The value of a string token; unknown escapes stand for themselves, a diagnostic names them.
pub(crate) fn string_value(quoted: &str) -> String {
    let inner = quoted.strip_prefix('"').unwrap_or(quoted);
    let text = string_text(quoted).unwrap_or(inner);
    let mut value = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match if c == '\\' { chars.next() } else { None } {
            Some(escaped) => value.push(unescape(escaped).unwrap_or(escaped)),
            None => value.push(c),
        }
    }
    value
}

/// Whether a text is a day of the Gregorian calendar as `2026-12-31`.
pub fn is_date(text: &str) -> bool {
    let shape = text.bytes().map(|b| if b.is_ascii_digit() { b'0' } else { b });
    let date = text.parse::<Date>().ok().filter(|_| shape.eq(*b"0000-00-00"));
    date.is_some_and(|date| date.year() > 0)
}

/// Whether a text is a name and no keyword.
pub fn is_name(text: &str) -> bool {
    let mut lexed = lex(FileId(0), text).tokens.into_iter().map(|token| token.value);
    matches!((lexed.next(), lexed.next()), (Some(Token::Ident(name)), None) if name == text)
}

/// The address with all bits after the first `length` cleared.
fn network(address: IpAddr, length: u8) -> IpAddr {
    let length = u32::from(length);
    match address {
        IpAddr::V4(a) => {
            let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
            IpAddr::V4((a.to_bits() & mask).into())
        }
        IpAddr::V6(a) => {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            IpAddr::V6((a.to_bits() & mask).into())
        }
    }
}

/// The prefix length that a netmask such as `255.255.0.0` stands for.
fn mask_length(mask: &str) -> Option<u32> {
    let bits = mask.parse::<std::net::Ipv4Addr>().ok()?.to_bits();
    (bits.leading_ones() + bits.trailing_zeros() == 32).then(|| bits.leading_ones())
}

/// Characters without a shape of their own: controls, zero-width, bidirectional marks, variation selectors, tags.
///
/// Source: Unicode TR 36 and TR 39; the `Default_Ignorable_Code_Point` property.
pub(crate) fn is_invisible(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\t' | '\r'))
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

//! Spellings of other systems: each is named once, and mended so that the rest of the statement still parses.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};
use crate::token::{KEYWORDS, Token};

type Tok<'a> = Spanned<Token<'a>>;

/// Mends the tokens of one statement.
pub(crate) fn mend<'a>(tokens: &mut Vec<Tok<'a>>, text: &'a str, out: &mut Vec<Diagnostic>) {
    verb(tokens, out);
    services(tokens, text, out);
    *tokens = Braces { text, out, tokens: vec![], frames: vec![Frame::new(Bracket::None, 0)] }
        .mend(tokens);
}

/// `permit`, `drop` and their like, and misspelt keywords, where a statement starts.
fn verb(tokens: &mut [Tok<'_>], out: &mut Vec<Diagnostic>) {
    let after_expect = tokens.first().is_some_and(|t| t.value == Token::Expect);
    let Some(first) = tokens.get_mut(usize::from(after_expect)) else { return };
    let Token::Ident(word) = first.value else { return };
    let (keyword, spelled) = match word {
        "permit" | "accept" | "pass" => ("allow", true),
        "drop" | "block" | "reject" => ("deny", true),
        _ => match misspelt(word, after_expect) {
            Some(keyword) => (keyword, false),
            None => return,
        },
    };
    let Some(token) = Token::keyword(keyword) else { return };
    let span = first.span;
    first.value = token;
    out.push(if spelled {
        let message = format!("`{word}` is spelled `{keyword}` here");
        Diagnostic::new(codes::FOREIGN_KEYWORD, message, span).fix(span, keyword)
    } else {
        let message = format!("expected an item, found `{word}`; did you mean `{keyword}`?");
        Diagnostic::new(codes::EXPECTED, message, span).fix(span, keyword)
    });
}

fn misspelt(word: &str, after_expect: bool) -> Option<&'static str> {
    // The longest keyword has eight letters.
    if !(3..=10).contains(&word.len()) {
        return None;
    }
    let fits = |keyword: &&&str| match Token::keyword(keyword) {
        Some(Token::Only) => after_expect,
        Some(Token::Allow | Token::Deny) => true,
        Some(token) => token.starts_item() && !after_expect,
        None => false,
    };
    let distance = |keyword: &str| strsim::damerau_levenshtein(&word.to_lowercase(), keyword);
    let near = KEYWORDS.iter().filter(fits).map(|k| (distance(k), *k)).min()?;
    let limit = if word.len() > 5 { 2 } else { 1 };
    (near.0 <= limit).then_some(near.1)
}

fn is_protocol(word: &str) -> bool {
    matches!(word, "tcp" | "udp" | "sctp" | "icmp" | "icmp6" | "proto")
}

/// `8080/tcp`, `tcp 8080`, `tcp:8080` and `tcp:{ 80, 443 }`.
fn services<'a>(tokens: &mut Vec<Tok<'a>>, text: &'a str, out: &mut Vec<Diagnostic>) {
    let mut mended: Vec<Tok<'a>> = Vec::with_capacity(tokens.len());
    let mut rest: &[Tok<'a>] = tokens;
    while let Some((first, after)) = rest.split_first() {
        let values: Vec<Token<'a>> = rest.iter().take(5).map(|t| t.value).collect();
        let range = |from: usize| match values.get(from..) {
            Some([Token::Number(_), Token::Dash, Token::Number(_), ..]) => 3,
            Some([Token::Number(_), ..]) => 1,
            _ => 0,
        };
        let before = mended.last().map(|t| t.value);
        let protocol = match first.value {
            Token::Ident(word) => Some(word).filter(|word| is_protocol(word)),
            _ => None,
        };
        let numbers = range(0);
        let named = match values.get(numbers..) {
            Some([Token::Slash, Token::Ident(word), ..])
                if numbers > 0 && before != Some(Token::Slash) =>
            {
                Some(*word).filter(|word| is_protocol(word))
            }
            _ => None,
        };
        // The parts in the right order, and how many tokens they replace.
        let (protocol, port, length) = if let Some(protocol) = named {
            (protocol, rest.get(..numbers).unwrap_or_default().to_vec(), numbers + 2)
        } else if let Some(protocol) = protocol.filter(|_| range(1) > 0) {
            (protocol, after.get(..range(1)).unwrap_or_default().to_vec(), 1 + range(1))
        } else if let Some(protocol) = protocol.filter(|_| after_colon(&values)) {
            (protocol, vec![], 2)
        } else if let Some((protocol, port)) = pair(*first) {
            (protocol, port, 1)
        } else {
            mended.push(*first);
            rest = after;
            continue;
        };
        let (replaced, others) = rest.split_at_checked(length).unwrap_or((rest, &[]));
        let span = replaced.last().map_or(first.span, |last| first.span.to(last.span));
        let port_text: String = port
            .iter()
            .map(|t| match t.value {
                Token::Number(n) | Token::Ident(n) => n,
                _ => "-",
            })
            .collect();
        let right = format!("{protocol}/{port_text}");
        let wrong = text.get(span.range()).unwrap_or_default();
        let message = format!("write `{right}`, not `{wrong}`");
        out.push(Diagnostic::new(codes::SERVICE_ORDER, message, span).fix(span, right));
        // All of them stand where the mistake stands, so that spans around them stay in order.
        let values = [Token::Ident(protocol), Token::Slash].into_iter();
        let values = values.chain(port.iter().map(|t| t.value));
        mended.extend(values.map(|value| Spanned { value, span }));
        rest = others;
    }
    *tokens = mended;
}

fn after_colon(values: &[Token<'_>]) -> bool {
    matches!(values, [_, Token::Colon, Token::OpenBrace | Token::Number(_), ..])
}

/// `tcp:80`, `tcp:80-90` and `icmp:echo-request` as protocol and port.
fn pair(token: Tok<'_>) -> Option<(&str, Vec<Tok<'_>>)> {
    let Token::Pair(text) = token.value else { return None };
    let (protocol, port) = text.split_once(':').filter(|(word, _)| is_protocol(word))?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let values = match port.split_once('-') {
        _ if is_number(port) => vec![Token::Number(port)],
        Some((lo, hi)) if is_number(lo) && is_number(hi) => {
            vec![Token::Number(lo), Token::Dash, Token::Number(hi)]
        }
        _ if protocol.starts_with("icmp") && port != "*" => vec![Token::Ident(port)],
        _ => return None,
    };
    Some((protocol, values.into_iter().map(|value| Spanned { value, span: token.span }).collect()))
}

/// Puts the braces around `a, b`, `a | b`, `a + b` and `a or b`.
struct Braces<'a, 'b> {
    text: &'a str,
    out: &'b mut Vec<Diagnostic>,
    tokens: Vec<Tok<'a>>,
    frames: Vec<Frame>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Bracket {
    None,
    /// The braces of `unless`, with flows inside.
    Lines,
    Brace,
    Paren,
    /// The arguments of a call, a template or an annotation.
    Call,
}

/// An open bracket and the operand being read in it.
struct Frame {
    bracket: Bracket,
    /// Where the operand starts.
    start: usize,
    /// Where it is joined.
    joints: Vec<usize>,
    /// Whether a set may stand here.
    set: bool,
}

impl Frame {
    fn new(bracket: Bracket, start: usize) -> Self {
        Self { bracket, start, joints: vec![], set: bracket != Bracket::None }
    }
}

impl<'a> Braces<'a, '_> {
    fn mend(mut self, tokens: &[Tok<'a>]) -> Vec<Tok<'a>> {
        for (at, token) in tokens.iter().enumerate() {
            let next = tokens.get(at + 1).map(|t| t.value);
            self.token(*token, next);
        }
        while !self.frames.is_empty() {
            self.close();
        }
        self.tokens
    }

    fn token(&mut self, token: Tok<'a>, next: Option<Token<'a>>) {
        let last = self.tokens.last().map(|t| t.value);
        let Some(frame) = self.frames.last_mut() else { return self.tokens.push(token) };
        let inside = frame.set && last.is_some_and(Token::ends) && self.tokens.len() > frame.start;
        let doubled = frame.joints.last().is_some_and(|joint| joint + 1 == self.tokens.len());
        match token.value {
            Token::Comma if matches!(frame.bracket, Bracket::Brace | Bracket::Call) => {
                self.operand(true, token);
            }
            Token::Comma | Token::Pipe | Token::Plus | Token::Ident("or") if doubled => {}
            Token::Comma | Token::Pipe | Token::Plus if inside => {
                frame.joints.push(self.tokens.len());
                self.tokens.push(token);
            }
            Token::Ident("or") if inside && next.is_some_and(starts_set) => {
                frame.joints.push(self.tokens.len());
                self.tokens.push(token);
            }
            // The brace of a block, after its scope.
            Token::OpenBrace if frame.bracket == Bracket::None && last.is_some_and(Token::ends) => {
                self.operand(false, token);
            }
            Token::OpenBrace if last == Some(Token::Unless) => self.open(Bracket::Lines, token),
            Token::OpenBrace => self.open(Bracket::Brace, token),
            Token::OpenParen => {
                let call = matches!(last, Some(Token::Ident(_)));
                self.open(if call { Bracket::Call } else { Bracket::Paren }, token);
            }
            Token::CloseBrace | Token::CloseParen if self.frames.len() > 1 => {
                self.close();
                self.tokens.push(token);
            }
            // In front of sets.
            Token::Allow
            | Token::Deny
            | Token::Only
            | Token::Isolate
            | Token::To
            | Token::Both
            | Token::Reach
            | Token::On
            | Token::For
            | Token::At
            | Token::Is
            | Token::Avoiding
            | Token::Assign => self.operand(true, token),
            Token::Any | Token::SelfHost | Token::Except => self.tokens.push(token),
            Token::NewLine => self.operand(true, token),
            value if value.keyword_text().is_some() => self.operand(false, token),
            _ => self.tokens.push(token),
        }
    }

    fn open(&mut self, bracket: Bracket, token: Tok<'a>) {
        self.tokens.push(token);
        self.frames.push(Frame::new(bracket, self.tokens.len()));
    }

    /// Ends the innermost bracket.
    fn close(&mut self) {
        if let Some(frame) = self.frames.pop() {
            self.join(&frame);
        }
    }

    /// Ends an operand with the token after it.
    fn operand(&mut self, set: bool, token: Tok<'a>) {
        let bracket = self.frames.last().map_or(Bracket::None, |f| f.bracket);
        self.close();
        self.tokens.push(token);
        let start = self.tokens.len();
        self.frames.push(Frame { bracket, start, joints: vec![], set });
    }

    fn join(&mut self, frame: &Frame) {
        let Some(first_joint) = frame.joints.first() else { return };
        let tokens = self.tokens.get(frame.start..).unwrap_or_default();
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { return };
        let span = first.span.to(last.span);
        let after_first = self.tokens.get(first_joint + 1).map(|t| t.value);
        // `tcp/80, 443`: the braces belong to the ports.
        let ports = matches!(
            (tokens, after_first),
            (
                [Tok { value: Token::Ident(_), .. }, Tok { value: Token::Slash, .. }, ..],
                Some(Token::Number(_))
            )
        );
        let head = if ports { 2 } else { 0 };
        let mut bounds = vec![frame.start + head];
        bounds.extend(frame.joints.iter().flat_map(|joint| [*joint, joint + 1]));
        bounds.push(self.tokens.len());
        let parts: Vec<&str> = bounds.chunks(2).filter_map(|part| self.slice(part)).collect();
        let list = parts.join(", ");
        let in_braces = frame.bracket == Bracket::Brace && !ports;
        let prefix =
            if ports { self.slice(&[frame.start, frame.start + 2]).unwrap_or("") } else { "" };
        let mended = if in_braces { list } else { format!("{prefix}{{ {list} }}") };
        let message = match (in_braces, mended.len() < 60) {
            (true, _) => "the members of a set are separated by `,`".to_owned(),
            (false, true) => format!("a set of several things needs braces: `{mended}`"),
            (false, false) => "a set of several things needs braces: `{ a, b }`".to_owned(),
        };
        self.out.push(Diagnostic::new(codes::NEEDS_BRACES, message, span).fix(span, mended));
        for joint in &frame.joints {
            if let Some(token) = self.tokens.get_mut(*joint) {
                token.value = Token::Comma;
            }
        }
        if !in_braces {
            let edge = |at: u32| Span { file: span.file, start: at, end: at };
            let start = self.tokens.get(frame.start + head).map_or(span.start, |t| t.span.start);
            let open = Spanned { value: Token::OpenBrace, span: edge(start) };
            self.tokens.insert((frame.start + head).min(self.tokens.len()), open);
            self.tokens.push(Spanned { value: Token::CloseBrace, span: edge(span.end) });
        }
    }

    /// The text from one token up to another.
    fn slice(&self, bounds: &[usize]) -> Option<&'a str> {
        let [start, end] = bounds else { return None };
        let tokens = self.tokens.get(*start..*end)?;
        let span = tokens.first()?.span.to(tokens.last()?.span);
        self.text.get(span.range())
    }
}

fn starts_set(token: Token<'_>) -> bool {
    match token {
        Token::Any | Token::SelfHost | Token::OpenBrace | Token::OpenParen => true,
        other => {
            other.ends() && !matches!(other, Token::CloseBrace | Token::CloseParen | Token::Log)
        }
    }
}

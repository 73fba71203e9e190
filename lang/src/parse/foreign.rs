//! Spellings of other systems: each is named once, and mended so that the rest of the statement still parses.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};
use crate::token::{KEYWORDS, Token};

type Tok<'a> = Spanned<Token<'a>>;

/// Mends the tokens of one statement.
pub(crate) fn mend<'a>(tokens: &mut Vec<Tok<'a>>, text: &'a str, out: &mut Vec<Diagnostic>) {
    verb(tokens, out);
    arrow(tokens, text, out);
    bare_ports(tokens, text, out);
    services(tokens, text, out);
    let mended = Vec::with_capacity(tokens.len());
    *tokens = Braces { text, out, tokens: mended, frames: vec![Frame::new(Bracket::None, 0)] }
        .mend(tokens);
}

/// `permit`, `drop` and their like, and misspelt keywords, where a statement starts.
fn verb(tokens: &mut [Tok<'_>], out: &mut Vec<Diagnostic>) {
    let after_expect = tokens.first().is_some_and(|t| t.value == Token::Expect);
    let Some(first) = tokens.get_mut(usize::from(after_expect)) else { return };
    let Token::Ident(word) = first.value else { return };
    let (keyword, spelled) = match (foreign_verb(word), misspelt(word, after_expect)) {
        (Some(keyword), _) => (keyword, true),
        (None, Some(keyword)) => (keyword, false),
        (None, None) => return,
    };
    let Some(token) = Token::keyword(keyword) else { return };
    let span = first.span;
    first.value = token;
    out.push(if spelled {
        let message = format!("`{word}` is spelled `{keyword}` here");
        Diagnostic::new(codes::FOREIGN_KEYWORD, message, span).fix(span, keyword)
    } else {
        let what = if after_expect { "`allow`, `deny` or `only`" } else { "an item" };
        let message = format!("expected {what}, found `{word}`; did you mean `{keyword}`?");
        Diagnostic::new(codes::EXPECTED, message, span).fix(span, keyword)
    });
}

/// Whether an item starts with this token, or with one that is mended into it.
pub(crate) fn starts_item(token: Token<'_>) -> bool {
    match token {
        Token::Ident(word) => foreign_verb(word).or_else(|| misspelt(word, false)).is_some(),
        _ => token.starts_item(),
    }
}

fn foreign_verb(word: &str) -> Option<&'static str> {
    match word {
        "permit" | "accept" | "pass" => Some("allow"),
        "drop" | "block" | "reject" => Some("deny"),
        _ => None,
    }
}

fn is_rule(tokens: &[Tok<'_>]) -> bool {
    let first = tokens.first().map(|t| t.value);
    matches!(first, Some(Token::Allow | Token::Deny | Token::Expect))
}

/// `from a to b` and `a to b`, where no arrow stands.
fn arrow(tokens: &mut Vec<Tok<'_>>, text: &str, out: &mut Vec<Diagnostic>) {
    let has_arrow =
        tokens.iter().any(|t| matches!(t.value, Token::To | Token::Both | Token::Reach));
    if !is_rule(tokens) || has_arrow {
        return;
    }
    let verb = if tokens.first().map(|t| t.value) == Some(Token::Expect) { 1 } else { 0 };
    let from = tokens.get(verb + 1).filter(|t| t.value == Token::Ident("from")).copied();
    let source = verb + 1 + usize::from(from.is_some());
    let Some(to) = tokens.iter().position(|t| t.value == Token::Ident("to")) else { return };
    let Some(arrow) = tokens.get_mut(to).filter(|_| to > source) else { return };
    arrow.value = Token::To;
    let arrow = arrow.span;
    let found = match (from, tokens.get(source)) {
        (Some(from), Some(source)) => {
            let whole = from.span.to(arrow);
            let written = Span { start: source.span.start, end: arrow.start, ..arrow };
            let written = text.get(written.range()).unwrap_or_default().trim_end();
            let message = "`from … to …` is spelled `… -> …` here";
            Diagnostic::new(codes::FOREIGN_KEYWORD, message, whole)
                .fix(whole, format!("{written} ->"))
        }
        _ => Diagnostic::new(codes::FOREIGN_KEYWORD, "`to` is spelled `->` here", arrow)
            .fix(arrow, "->"),
    };
    out.push(found);
    if from.is_some() {
        tokens.remove(verb + 1);
    }
}

/// `on 8080`, `on port 8080` and `port 8080`: a port without its protocol.
fn bare_ports(tokens: &mut Vec<Tok<'_>>, text: &str, out: &mut Vec<Diagnostic>) {
    if !is_rule(tokens) {
        return;
    }
    for at in 1..tokens.len() {
        let value = |at: usize| tokens.get(at).map(|t| t.value);
        let is_port = |at| matches!(value(at), Some(Token::Ident("port" | "ports" | "dport")));
        let is_number = |at| matches!(value(at), Some(Token::Number(_)));
        let on = value(at) == Some(Token::On);
        let start = at + usize::from(on);
        let number = start + usize::from(is_port(start));
        // `on 8080/tcp` is another mistake.
        if !is_number(number) || value(number + 1) == Some(Token::Slash) {
            continue;
        }
        let after_set = !on
            && is_port(at)
            && !matches!(value(at - 1), Some(Token::Ident(word)) if is_protocol(word))
            && value(at - 1).is_some_and(Token::ends)
            && tokens.get(..at).is_some_and(|t| t.iter().all(|t| t.value != Token::On));
        if !(on || after_set) {
            continue;
        }
        let range = value(number + 1) == Some(Token::Dash) && is_number(number + 2);
        let last = number + if range { 2 } else { 0 };
        let (Some(first), Some(end)) = (tokens.get(start), tokens.get(last)) else { return };
        let span = first.span.to(end.span);
        let ports = tokens.get(number).map_or(span, |t| t.span.to(end.span));
        let port = text.get(ports.range()).unwrap_or_default();
        let prefix = if on { "" } else { "on " };
        let message = format!("a port needs its protocol: `tcp/{port}` or `udp/{port}`");
        out.push(
            Diagnostic::new(codes::SERVICE_ORDER, message, span)
                .fix(span, format!("{prefix}tcp/{port}"))
                .fix(span, format!("{prefix}udp/{port}")),
        );
        let on = (!on).then_some(Token::On).into_iter();
        let mended = on.chain([Token::Ident("tcp"), Token::Slash]);
        let mended: Vec<_> = mended.map(|value| Spanned { value, span }).collect();
        let kept = tokens.get(number..=last).unwrap_or_default().to_vec();
        let kept = kept.into_iter().map(|t| Spanned { span, ..t });
        tokens.splice(start..=last, mended.into_iter().chain(kept));
        return;
    }
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

/// `8080/tcp`, `tcp 8080`, `tcp port 8080`, `tcp:8080` and `tcp:{ 80, 443 }`; `tcp/80..90` and `tcp/80:90`.
fn services<'a>(tokens: &mut Vec<Tok<'a>>, text: &'a str, out: &mut Vec<Diagnostic>) {
    let mut mended: Vec<Tok<'a>> = Vec::with_capacity(tokens.len());
    let mut rest: &[Tok<'a>] = tokens;
    while let Some((first, after)) = rest.split_first() {
        let may = match first.value {
            Token::Ident(word) => is_protocol(word),
            Token::Number(_) | Token::Pair(_) => true,
            _ => false,
        };
        if !may {
            mended.push(*first);
            rest = after;
            continue;
        }
        let values: Vec<Token<'a>> = rest.iter().take(6).map(|t| t.value).collect();
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
        let worded = matches!(values.get(1), Some(Token::Ident("port" | "ports" | "dport" | "eq")));
        let (protocol, port, length) = if let Some((protocol, length)) =
            protocol.and_then(|protocol| Some((protocol, odd_range(&values)?)))
        {
            let mut ends = [rest.get(2), rest.get(length - 1)].into_iter().flatten().copied();
            let dash = Spanned { value: Token::Dash, span: first.span };
            let port = ends.next().into_iter().chain([dash]).chain(ends).collect();
            (protocol, port, length)
        } else if let Some(protocol) = protocol.filter(|_| worded && range(2) > 0) {
            (protocol, rest.get(2..2 + range(2)).unwrap_or_default().to_vec(), 2 + range(2))
        } else if let Some(protocol) = named {
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

/// How many tokens `tcp/80..90` or `tcp/80:90` has.
fn odd_range(values: &[Token<'_>]) -> Option<usize> {
    match values {
        [_, Token::Slash, Token::Number(_), Token::Colon, Token::Number(_), ..] => Some(5),
        [_, Token::Slash, Token::Number(_), Token::Dot, Token::Dot, Token::Number(_), ..] => {
            Some(6)
        }
        _ => None,
    }
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
        let found = Diagnostic::new(codes::NEEDS_BRACES, message, span);
        // Whether what follows `except` in a list is taken out as well, only the author knows.
        let taken = self.tokens.iter().skip(frame.start).any(|t| t.value == Token::Except);
        let mut found = if taken { found.guess(span, mended) } else { found.fix(span, mended) };
        if self.of_several_labels(frame) {
            let both = parts.join(" & ");
            found = found.help("braces hold what is in one of them, `&` joins what is in all");
            found = if in_braces { found } else { found.fix(span, both) };
        }
        self.out.push(found);
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

    /// Whether an operand lists one value each of different labels, which most often is meant as all of them.
    fn of_several_labels(&self, frame: &Frame) -> bool {
        let operand = self.tokens.get(frame.start..).unwrap_or_default();
        let mut keys = operand.iter().filter_map(|t| match t.value {
            Token::Pair(text) => text.split_once(':').map(|(key, _)| key),
            _ => None,
        });
        let first = keys.next();
        operand.len() == 2 * frame.joints.len() + 1
            && first.is_some()
            && keys.all(|key| Some(key) != first)
            && operand.iter().step_by(2).all(|t| matches!(t.value, Token::Pair(_)))
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

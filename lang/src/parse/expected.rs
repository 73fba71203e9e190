//! A syntax error in the words of the language: what was expected, after what, and what stands there instead.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};
use crate::token::Token;

/// What is known about the statement that did not parse.
pub(crate) struct Context<'a, 'b> {
    pub(crate) text: &'a str,
    /// The tokens that were fine.
    pub(crate) before: &'b [Spanned<Token<'a>>],
    /// Whether they are a statement already.
    pub(crate) complete: bool,
    /// Where the statement ends.
    pub(crate) line_end: Span,
}

impl Context<'_, '_> {
    fn starts_with(&self, token: Token<'_>) -> bool {
        self.before.first().is_some_and(|first| first.value == token)
    }

    /// Whether a line ends between two tokens.
    fn breaks(&self, last: Span, next: Span) -> bool {
        let gap = self.text.get(last.end as usize..next.start as usize);
        gap.is_some_and(|gap| gap.contains('\n'))
    }
}

/// The diagnostic for `found`, or for the end of the line (of the file) if nothing was found.
pub(crate) fn diagnostic(
    context: &Context<'_, '_>,
    terminals: &[String],
    found: Option<Spanned<Token<'_>>>,
    at_file_end: bool,
) -> Diagnostic {
    let last = context.before.last();
    let expected = phrase(context, terminals);
    let after =
        last.map(|t| format!(" after {}", name_token(*t, context.text))).unwrap_or_default();
    let shown = match found {
        Some(token) => name_token(token, context.text),
        None if at_file_end => "the end of the file".to_owned(),
        None => "the end of the line".to_owned(),
    };
    let message = format!("expected {expected}{after}, found {shown}");
    let Some(found) = found else {
        return Diagnostic::new(codes::EXPECTED, message, context.line_end);
    };
    let mut diagnostic = match last.map(|t| t.span) {
        // What is missing is missing on the line that stops short, not on the one below.
        Some(last) if context.breaks(last, found.span) => {
            Diagnostic::new(codes::EXPECTED, message, last).and(found.span, "found instead")
        }
        _ => Diagnostic::new(codes::EXPECTED, message, found.span),
    };
    if let Some(word) = found.value.keyword_text().filter(|_| expected == "a name") {
        diagnostic = diagnostic.help(format!("`{word}` is a keyword and cannot be a name"));
    }
    if let [.., key, colon] = context.before
        && let (Token::Ident(key_text), Token::Colon) = (key.value, colon.value)
        && expected == "`{`"
    {
        let value = text_of(found, context.text);
        let fix = match found.value {
            Token::String(_) => format!("{key_text}:{{ {value} }}"),
            _ => format!("{key_text}:{value}"),
        };
        diagnostic = diagnostic.fix(key.span.to(found.span), fix);
    }
    let rest = context.text.get(found.span.start as usize..).unwrap_or_default();
    match found.value {
        Token::Slash if rest.starts_with("//") || last.is_some_and(|t| t.value == Token::Slash) => {
            diagnostic.help("a comment starts with `#`")
        }
        _ if last.is_none() && is_yaml(rest) => {
            diagnostic.help("this looks like YAML; a rule reads `allow a -> b on tcp/443`")
        }
        Token::Doc(_) => diagnostic.help("`##` describes the item below it; write `#` here"),
        Token::OpenBrace if context.starts_with(Token::Import) => diagnostic.fix(found.span, ".{"),
        Token::Ident("in" | "ingress") if context.starts_with(Token::Isolate) => {
            diagnostic.fix(found.span, "inbound")
        }
        Token::Ident("out" | "egress") if context.starts_with(Token::Isolate) => {
            diagnostic.fix(found.span, "outbound")
        }
        Token::Ident(value) if context.starts_with(Token::Label) && expected == "`{`" => {
            diagnostic.fix(found.span, format!("{{ {value} }}"))
        }
        Token::And if last.is_some_and(|t| t.value == Token::And) => {
            diagnostic.help("write one `&` for what is in both")
        }
        Token::Ident("and") => diagnostic.fix(found.span, "&"),
        value if [Some(value), last.map(|t| t.value)].contains(&Some(Token::Ident("not"))) => {
            diagnostic.help("write `a except b` for what is in `a` and not in `b`")
        }
        _ => diagnostic,
    }
}

/// Whether a line reads `key: value`, `key:` or one of them after `- `.
fn is_yaml(text: &str) -> bool {
    let line = text.lines().next().unwrap_or_default();
    let line = line.strip_prefix("- ").unwrap_or(line);
    line.split_once(':').is_some_and(|(key, value)| {
        !key.is_empty()
            && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '.'))
            && (value.is_empty() || value.starts_with(' '))
    })
}

/// How a message names a token.
pub(crate) fn name_token(token: Spanned<Token<'_>>, text: &str) -> String {
    match token.value {
        Token::NewLine => "the end of the line".to_owned(),
        Token::Doc(_) => "a doc comment".to_owned(),
        _ => format!("`{}`", text_of(token, text)),
    }
}

fn text_of<'a>(token: Spanned<Token<'_>>, text: &'a str) -> &'a str {
    let text = text.get(token.span.range()).unwrap_or_default();
    // Long strings say little more than short ones.
    match text.char_indices().nth(40) {
        Some((end, _)) => text.get(..end).unwrap_or_default(),
        None => text,
    }
}

fn phrase(context: &Context<'_, '_>, terminals: &[String]) -> String {
    let has = |name: &str| terminals.iter().any(|t| t.trim_matches('"') == name);
    let value = |at: usize| context.before.get(at).map(|t| t.value);
    let last = context.before.last().map(|t| t.value);
    let Some(last) = last else { return "an item".to_owned() };
    let closing = ["}", ")"].into_iter().find(|mark| has(mark));
    let or_closing = |what: &str| match closing {
        Some(mark) => format!("{what} or `{mark}`"),
        None => what.to_owned(),
    };
    if has("any") && has("import") {
        return "a label value".to_owned();
    }
    if has("any") {
        let what = match (last, value(0)) {
            (Token::On, _) | (Token::Assign, Some(Token::Service)) => "a service",
            (Token::At, _) | (Token::Assign, Some(Token::Net)) => "an address",
            (Token::Is, _) => "labels",
            (Token::And | Token::Except | Token::Assign, _) => "a set",
            (Token::OpenBrace | Token::OpenParen | Token::Comma, _) => "a set",
            _ => "an endpoint set",
        };
        return or_closing(what);
    }
    if has("IDENT") {
        return match (has("STRING"), has("NUMBER"), has("service"), has("{")) {
            (true, _, _, _) => or_closing("a literal"),
            (_, true, _, _) => "a port".to_owned(),
            (_, _, true, _) => "`endpoints` or `service`".to_owned(),
            (_, _, _, true) => "a name or `{`".to_owned(),
            _ => or_closing("a name"),
        };
    }
    if has("->") {
        return "`->`".to_owned();
    }
    let mut words: Vec<String> = terminals
        .iter()
        .map(|terminal| match terminal.as_str() {
            "STRING" => "a title in quotes".to_owned(),
            "NUMBER" => "a number".to_owned(),
            "ADDRESS" => "an address".to_owned(),
            mark => format!("`{}`", mark.trim_matches('"')),
        })
        .collect();
    words.sort_by_key(|word| !word.starts_with("`") || word.len() > 3);
    // What goes on with a set fits after nearly everything; it is named only where nothing else fits.
    let goes_on = ["`&`", "`except`", "`.`", "`-`", "`/`", "`(`", "`:`", "NL", "`NL`", "`BAD`"];
    let told: Vec<String> =
        words.iter().filter(|w| !goes_on.contains(&w.as_str())).cloned().collect();
    let mut words = if told.is_empty() && !context.complete { words } else { told };
    if context.complete {
        words.push("the end of the line".to_owned());
    }
    match words.split_last() {
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
        None => "something else".to_owned(),
    }
}

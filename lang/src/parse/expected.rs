//! A syntax error in the words of the language: what was expected, after what, and what stands there instead.

use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::lex::is_name;
use crate::resolve::{did_you_mean, dotted, module_name, nearest};
use crate::source::{Span, Spanned};
use crate::token::{KEYWORDS, Token};

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
    if let [mark, name] = context.before
        && let (Token::Mark, Token::Ident(_)) = (mark.value, name.value)
    {
        return argument(context, message, mark.span.to(name.span), found);
    }
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
        && matches!(
            found.value,
            Token::Ident(_) | Token::Word(_) | Token::Number(_) | Token::String(_)
        )
        && expected == "`{`"
    {
        let value = text_of(found, context.text);
        let fix = match found.value {
            Token::String(_) if is_name(value.trim_matches('"')) => {
                format!("{key_text}:{}", value.trim_matches('"'))
            }
            Token::String(_) => format!("{key_text}:{{ {value} }}"),
            _ => format!("{key_text}:{value}"),
        };
        diagnostic = diagnostic.fix(key.span.to(found.span), fix);
    }
    let rest = context.text.get(found.span.start as usize..).unwrap_or_default();
    if let Some(last) = last.filter(|last| !context.breaks(last.span, found.span)) {
        diagnostic = joined(context, diagnostic, &expected, *last, found);
    }
    if last.is_some_and(|last| context.breaks(last.span, found.span)) {
        return arrowless(context, diagnostic);
    }
    let diagnostic = match found.value {
        Token::Slash if rest.starts_with("//") || last.is_some_and(|t| t.value == Token::Slash) => {
            diagnostic.help("a comment starts with `#`")
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
            diagnostic.help("write one `&` for what is in both").fix(found.span, "")
        }
        Token::Ident("and") => diagnostic.guess(found.span, "&"),
        Token::CloseParen if context.before.iter().all(|t| t.value != Token::OpenParen) => {
            diagnostic.fix(found.span, "")
        }
        Token::Ident(word) if misspelt(terminals, word).is_some() => {
            let keyword = misspelt(terminals, word).unwrap_or_default();
            did_you_mean(diagnostic, found.span, keyword)
        }
        Token::Ident("if" | "where") if has_terminal(terminals, "when") => {
            diagnostic.fix(found.span, "when")
        }
        Token::Pair(_) if last.is_some_and(|t| t.value == Token::When) => diagnostic
            .help("`when` compares both ends; what one of them is belongs to it: `a & key:value`"),
        Token::Ident(label) if last.is_some_and(|t| t.value == Token::When) => diagnostic
            .help(format!("`when same {label}` compares the value of `{label}` at both ends")),
        value if [Some(value), last.map(|t| t.value)].contains(&Some(Token::Ident("not"))) => {
            diagnostic.help("write `a except b` for what is in `a` and not in `b`")
        }
        _ => diagnostic,
    };
    arrowless(context, diagnostic)
}

/// `@owner` and `@owner: "team"`: an annotation without parentheses.
fn argument(
    context: &Context<'_, '_>,
    message: String,
    name: Span,
    found: Option<Spanned<Token<'_>>>,
) -> Diagnostic {
    let at = found.map_or(context.line_end, |found| found.span);
    let diagnostic = match found {
        Some(found) if context.breaks(name, found.span) => {
            Diagnostic::new(codes::EXPECTED, message, name)
        }
        Some(_) | None => Diagnostic::new(codes::EXPECTED, message, at),
    };
    let written = context.text.get(name.range()).unwrap_or_default();
    let rest = context.text.get(name.end as usize..context.line_end.end as usize);
    let argument = rest.unwrap_or_default().trim_start_matches([' ', '\t', ':', '=']).trim();
    if argument.starts_with(|c: char| c == '"' || c.is_ascii_digit()) {
        diagnostic.fix(name.to(context.line_end), format!("{written}({argument})"))
    } else {
        diagnostic.help(format!("its argument stands in parentheses, as in `{written}(\"…\")`"))
    }
}

/// The keyword that was most likely meant by a name that may not stand here.
fn misspelt(terminals: &[String], word: &str) -> Option<&'static str> {
    let known = KEYWORDS.iter().filter(|k| has_terminal(terminals, k));
    let word = word.to_lowercase();
    let near = known.map(|k| (strsim::damerau_levenshtein(&word, k), *k)).min()?;
    let swapped = word.chars().rev().eq(near.1.chars());
    let limit = if word.len() > 5 { 2 } else { 1 };
    (near.0 <= limit && (word.len() > 2 || swapped)).then_some(near.1)
}

/// Says how a rule reads to those who wrote one without an arrow and were told no better.
fn arrowless(context: &Context<'_, '_>, diagnostic: Diagnostic) -> Diagnostic {
    let before = context.before.iter().map(|t| t.value);
    let is_rule = matches!(before.clone().next(), Some(Token::Allow | Token::Deny | Token::Expect));
    let has_arrow = before.clone().any(|t| matches!(t, Token::To | Token::Both | Token::Reach));
    let told = !diagnostic.helps.is_empty() || !diagnostic.fixes.is_empty();
    // Short of an arrow: `allow a b`; where a set is missing the message says enough.
    if !is_rule || has_arrow || told || !diagnostic.message.starts_with("expected `->`") {
        return diagnostic;
    }
    diagnostic.help(super::unknown::RULE)
}

/// Whether the grammar would have read this.
fn has_terminal(terminals: &[String], name: &str) -> bool {
    terminals.iter().any(|t| t.trim_matches('"') == name)
}

/// The edit that is known from the two tokens around the mistake, which stand on one line.
fn joined(
    context: &Context<'_, '_>,
    diagnostic: Diagnostic,
    expected: &str,
    last: Spanned<Token<'_>>,
    found: Spanned<Token<'_>>,
) -> Diagnostic {
    let text = text_of(found, context.text);
    let before = text_of(last, context.text);
    let touches = last.span.end == found.span.start;
    let insert = Span { start: last.span.end, ..last.span };
    let quoted = text.trim_matches('"');
    let defines = [Token::Label, Token::Net, Token::Service, Token::Group]
        .into_iter()
        .any(|keyword| context.starts_with(keyword));
    match (last.value, found.value) {
        (Token::Test | Token::Assert, Token::Ident(_)) => {
            diagnostic.fix(found.span, format!("\"{text}\""))
        }
        (Token::Import, Token::String(_)) => {
            let path = quoted.trim_end_matches(".seg").replace('/', ".");
            if path.split('.').all(is_name) { diagnostic.fix(found.span, path) } else { diagnostic }
        }
        // `std.service`, whose last part is a keyword.
        (Token::Dot, value)
            if context.starts_with(Token::Import) && value.keyword_text().is_some() =>
        {
            let path = context.before.get(1).map_or(found.span, |t| t.span.to(found.span));
            let written = context.text.get(path.range()).unwrap_or_default();
            let modules = crate::stdlib::FILES.iter().map(|(path, _)| dotted(&module_name(path)));
            let modules: Vec<String> = modules.collect();
            match nearest(written, modules.iter().map(String::as_str)) {
                Some(near) => did_you_mean(diagnostic, path, near),
                None => diagnostic,
            }
        }
        (_, Token::String(_)) if expected == "a name" && is_name(quoted) => {
            diagnostic.fix(found.span, quoted)
        }
        (_, Token::Word(_)) if expected == "a name" => {
            diagnostic.help("a name starts with a letter")
        }
        (Token::Ident(_), Token::Slash) if context.starts_with(Token::Import) => {
            diagnostic.fix(found.span, ".")
        }
        (Token::Ident(_), Token::Colon) if defines && expected.starts_with("`=`") => {
            diagnostic.fix(found.span, "=")
        }
        (Token::Ident(_), Token::OpenBrace) if defines && expected.starts_with("`=`") => {
            diagnostic.fix(insert, " =")
        }
        (_, Token::Colon) if expected.starts_with("`{`") => {
            diagnostic.help("the lines of a block stand in `{ }`")
        }
        // `role::db`, where `::db` is an address.
        (Token::Ident(_), Token::Address(_) | Token::Prefix(..) | Token::BadAddress)
            if touches && text.strip_prefix("::").is_some_and(is_name) =>
        {
            let value = text.trim_start_matches(':');
            diagnostic.guess(last.span.to(found.span), format!("{before}:{value}"))
        }
        (Token::Ident(_), Token::Assign) if expected.ends_with("the end of the line") => diagnostic
            .help(format!("a label and its value are joined by `:`, as in `{before}:value`")),
        (_, value) if expected.starts_with("`,` or `}`") && starts_member(value) => {
            diagnostic.fix(insert, ",")
        }
        (_, value)
            if expected == "`->`"
                && last.value.ends()
                && starts_member(value)
                && !matches!(
                    last.value,
                    Token::Ident("not" | "from" | "src" | "source" | "in" | "host" | "tcp" | "udp")
                )
                && !matches!(found.value, Token::Ident(_)) =>
        {
            diagnostic.fix(insert, " ->")
        }
        _ => diagnostic,
    }
}

fn starts_member(token: Token<'_>) -> bool {
    matches!(
        token,
        Token::Ident(_)
            | Token::Word(_)
            | Token::Pair(_)
            | Token::Number(_)
            | Token::String(_)
            | Token::Address(_)
            | Token::Prefix(..)
            | Token::Any
            | Token::SelfHost
    )
}

/// Whether a line reads `key: value`, `key:` or one of them after `- `.
pub(crate) fn is_yaml(text: &str) -> bool {
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

//! A line that starts as no item does: what may have been meant.

use super::expected::{is_yaml, name_token};
use crate::codes;
use crate::diagnostic::Diagnostic;
use crate::source::{Span, Spanned};
use crate::token::Token;

/// How a rule reads, for those who write another language.
pub(crate) const RULE: &str = "a rule reads `allow a -> b on tcp/443`";

/// The diagnostic for `lines`, the statements from `first` on, none of which is known.
pub(crate) fn diagnostic(
    first: Spanned<Token<'_>>,
    lines: &[Span],
    text: &str,
    in_block: bool,
) -> Diagnostic {
    let what = if in_block { "a rule" } else { "an item such as `policy`" };
    let message = format!("expected {what}, found {}", name_token(first, text));
    let mut diagnostic = Diagnostic::new(codes::EXPECTED, message, first.span);
    if let [_, .., last] = lines {
        let start = Span { end: last.start + first_length(*last, text), ..*last };
        diagnostic = diagnostic.and(start, "as far as here");
    }
    let statement = lines.first().and_then(|span| text.get(span.range())).unwrap_or_default();
    let line = statement.lines().next().unwrap_or_default();
    let alone = lines.len() == 1;
    let whole = lines.first().copied().unwrap_or(first.span);
    match first.value {
        Token::Slash if line.starts_with("//") => diagnostic.help("a comment starts with `#`"),
        Token::Dash if line.starts_with("--") => diagnostic.help("a comment starts with `#`"),
        _ if is_yaml(line) => diagnostic.help(format!("this looks like YAML; {RULE}")),
        Token::OpenBrace
            if !in_block && line.trim_start_matches('{').trim_start().starts_with('"') =>
        {
            diagnostic.help(format!("this looks like JSON; {RULE}"))
        }
        Token::Ident("default") => diagnostic.help("what no rule allows is denied already"),
        Token::Ident("from") if !in_block && alone => match line.split_once(" import ") {
            Some((module, names)) => {
                let module = module.trim_start_matches("from").trim();
                diagnostic.fix(whole, format!("import {module}.{{ {} }}", names.trim()))
            }
            None => diagnostic,
        },
        Token::Ident("include" | "require") if !in_block => diagnostic
            .help("`import org.labels` makes the names of the file `org/labels.seg` known"),
        _ if in_block && line.contains("->") => {
            let diagnostic = diagnostic.help("a rule starts with `allow` or `deny`");
            for verb in ["allow", "deny"] {
                if let Some(rule) = statement.strip_suffix(verb).filter(|_| alone) {
                    return diagnostic.fix(whole, format!("{verb} {}", rule.trim_end()));
                }
            }
            let start = Span { end: first.span.start, ..first.span };
            if alone { diagnostic.fix(start, "allow ").fix(start, "deny ") } else { diagnostic }
        }
        _ if in_block => diagnostic.help(RULE),
        _ => diagnostic.help(
            "a line starts with `import`, `label`, `net`, `service`, `group`, `workload`, `guard`, `policy`, `baseline`, `test` or the like",
        ),
    }
}

/// The length of the first word of a statement.
fn first_length(span: Span, text: &str) -> u32 {
    let statement = text.get(span.range()).unwrap_or_default();
    let word = statement.split_whitespace().next().unwrap_or_default();
    u32::try_from(word.len()).unwrap_or(0)
}

//! What the grammar takes next, for editors.

use super::{Build, Tok, run};
use crate::source::{FileId, Span, Spanned};
use crate::token::Token;
use lalrpop_util::ParseError;

/// The terminals of the grammar that may stand after the first tokens of a statement, without quotes; none if those
/// tokens begin no statement.
pub(crate) fn follow(file: FileId, tokens: &[Tok<'_>]) -> Vec<String> {
    let end = tokens.last().map_or(0, |t| t.span.end as usize);
    let mut tokens = tokens.to_vec();
    // No statement has this token, so the grammar stops here and says what it would have taken.
    tokens.push(Spanned { value: Token::Error, span: Span::new(file, end, end) });
    match run(&mut Build::new(file), &tokens) {
        Err(ParseError::UnrecognizedToken { token: (_, Token::Error, at), expected })
            if at == end =>
        {
            expected.iter().map(|terminal| terminal.trim_matches('"').to_owned()).collect()
        }
        Ok(_) | Err(_) => vec![],
    }
}

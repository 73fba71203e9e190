//! What the formatter promises, checked on any text.

use crate::random::Random;
use seg_lang::dump::dump;
use seg_lang::format::format;
use seg_lang::lex::{self, lex};
use seg_lang::parse::parse;
use seg_lang::source::FileId;
use seg_lang::token::Token;
use std::time::{Duration, Instant};

/// Lays out any bytes as a source: the same tree, the same comments in order, its own layout, in a time that grows with the text.
///
/// # Panics
/// If a promise is broken.
pub fn keeps_meaning(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let file = FileId(0);
    let comments = |text: &str| -> Vec<String> {
        let spans = lex::lex(file, text).comments;
        spans
            .iter()
            .map(|c| text[c.range()].trim_end_matches([' ', '\t', '\r']).to_owned())
            .collect()
    };
    let started = Instant::now();
    let formatted = format(&text);
    let took = started.elapsed();
    let (before, diagnostics) = parse(file, &text);
    let (after, left) = parse(file, &formatted.text);
    assert_eq!(dump(&before), dump(&after), "another tree:\n{}", formatted.text);
    assert_eq!(comments(&text), comments(&formatted.text), "other comments:\n{}", formatted.text);
    assert_eq!(format(&formatted.text).text, formatted.text, "not its own layout");
    assert_eq!(diagnostics.len(), left.len(), "what is wrong differs:\n{}", formatted.text);
    assert_eq!(formatted.sound, diagnostics.is_empty());
    if !formatted.kept {
        let ends = formatted.text.is_empty() || formatted.text.ends_with('\n');
        assert!(ends && !formatted.text.contains(" \n"), "line ends:\n{}", formatted.text);
    }
    // Generous: other tests run beside this one.
    assert!(took < Duration::from_secs(5 + text.len() as u64 / 50_000), "took {took:?}");
}

/// Blanks between two words change no layout, and line ends and comments anywhere break no promise.
///
/// # Panics
/// If one does.
pub fn scramble(text: &str, seed: u64) {
    let mut random = Random::new(seed);
    let blanks = gaps(text, |gap| match gap.contains('\n') {
        true => gap.to_owned(),
        false => gap.replace(' ', [" ", "  ", "\t", " \t "][random.below(4)]),
    });
    let formatted = format(text);
    if !formatted.kept {
        assert_eq!(format(&blanks), formatted, "blanks matter in:\n{blanks}");
    }
    let mut random = Random::new(seed);
    let broken = gaps(text, |gap| match random.below(12) {
        0 => "\n".to_owned(),
        1 => format!("{gap} # comment {}\n", random.below(100)),
        2 => format!("\n # comment {}\n{gap}", random.below(100)),
        3 => "\n\n\n".to_owned(),
        _ => gap.to_owned(),
    });
    keeps_meaning(broken.as_bytes());
}

/// The text with other gaps between its tokens. A comment is part of a gap, and such gaps stay.
fn gaps(text: &str, mut gap: impl FnMut(&str) -> String) -> String {
    let mut out = String::new();
    let mut end = 0;
    for token in lex(FileId(0), text).tokens {
        let range = token.span.range();
        let between = &text[end..range.start];
        let stays = between.contains('#') || matches!(token.value, Token::NewLine);
        out.push_str(&if stays { between.to_owned() } else { gap(between) });
        out.push_str(&text[range.clone()]);
        end = range.end;
    }
    out + &text[end..]
}

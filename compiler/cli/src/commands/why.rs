//! `segc why`: the page on a diagnostic code, or the list of all codes.

use super::{Outcome, Output, misuse};
use crate::package::LoadError;
use crate::report::{self, say};
use seg_lang::codes;
use serde::Serialize;

/// `segc why`.
pub fn why(code: Option<&str>, output: Output) -> Outcome {
    let Some(asked) = code else {
        list(output);
        return Outcome::Clean;
    };
    let wanted = spellings(asked);
    let Some((code, summary)) =
        codes::ALL.iter().find(|(code, _)| wanted.iter().any(|w| w == code.0))
    else {
        return misuse(&unknown(asked, &wanted), output);
    };
    let page = codes::page(*code).expect("a declared code has a page");
    match output {
        Output::Json => report::print(Page { code: code.0, summary, page }),
        Output::Text => say!("{}", page.trim_end()),
    }
    Outcome::Clean
}

fn list(output: Output) {
    match output {
        Output::Json => {
            let codes = codes::ALL.iter().map(|(code, summary)| Entry { code: code.0, summary });
            report::print(Index { codes: codes.collect() });
        }
        Output::Text => {
            codes::ALL.iter().for_each(|(code, summary)| say!("{}  {summary}", code.0));
        }
    }
}

/// The codes that somebody may mean: `E0207`, `e207` and `207` are one.
fn spellings(asked: &str) -> Vec<String> {
    let asked = asked.trim().to_ascii_uppercase();
    let (letters, digits) = match asked.strip_prefix(['E', 'W']) {
        Some(digits) => (&asked[..1], digits),
        None => ("EW", asked.as_str()),
    };
    letters.chars().map(|letter| format!("{letter}{digits:0>4}")).collect()
}

fn unknown(asked: &str, wanted: &[String]) -> LoadError {
    // A code says little by its digits: only one mistyped is worth a guess, a late one more than an early one.
    let common = |a: &str, b: &str| a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let near = wanted
        .iter()
        .flat_map(|wanted| codes::ALL.iter().map(move |(code, _)| (wanted, code.0)))
        .filter(|(wanted, code)| {
            !asked.is_empty() && strsim::damerau_levenshtein(wanted, code) == 1
        })
        .max_by_key(|(wanted, code)| common(wanted, code));
    let asked = asked.escape_debug();
    LoadError(match near {
        Some((_, near)) => format!("no code `{asked}`; did you mean `{near}`?"),
        None => format!("no code `{asked}`; `segc why` lists them all"),
    })
}

#[derive(Serialize)]
struct Index {
    codes: Vec<Entry>,
}

#[derive(Serialize)]
struct Entry {
    code: &'static str,
    summary: &'static str,
}

#[derive(Serialize)]
struct Page {
    code: &'static str,
    summary: &'static str,
    page: &'static str,
}

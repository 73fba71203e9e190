//! Trees of sound sources and messages for broken ones: `tests/data/parse/{ok,err}/*.seg`; and noise, which never panics.

use libtest_mimic::{Failed, Trial};
use seg_lang::parse::parse;
use seg_lang::source::{FileId, Sources};
use seg_lang::{codes, dump, lex, render};
use seg_tests::harness::{self, Case, cases};
use seg_tests::{broken, fuzz};

fn sound(case: &Case) -> Result<String, String> {
    let mut sources = Sources::default();
    let file = sources.add("case.seg", case.text.as_str());
    let (tree, diagnostics) = parse(file, &case.text);
    match diagnostics.is_empty() {
        true => Ok(dump::dump(&tree)),
        false => Err(render::render(&diagnostics, &sources)),
    }
}

fn broken(case: &Case) -> Result<String, String> {
    let mut sources = Sources::default();
    let file = sources.add("case.seg", case.text.as_str());
    let (tree, diagnostics) = parse(file, &case.text);
    broken::check(&case.text, &diagnostics, &sources)?;
    if diagnostics.is_empty() {
        return Err("nothing is wrong with this source".to_owned());
    }
    Ok(dump::dump(&tree) + "---\n" + &render::render(&diagnostics, &sources))
}

fn over_the_limit() -> Result<(), Failed> {
    let code = |len: usize| {
        let (tree, diagnostics) = parse(FileId(0), &"#".repeat(len));
        assert!(tree.items.is_empty());
        diagnostics.first().map(|d| d.code)
    };
    assert_eq!(code(lex::SOURCE_BYTES_MAX), None);
    assert_eq!(code(lex::SOURCE_BYTES_MAX + 1), Some(codes::TOO_LARGE));
    Ok(())
}

fn main() {
    let mut trials = cases("parse/ok", "seg", sound);
    trials.extend(cases("parse/err", "seg", broken));
    trials.push(Trial::test("mutated_sources_never_panic", || Ok(fuzz::mutate_sources()?)));
    trials.push(Trial::test("one_pattern_without_end_is_read_in_time", || {
        Ok(fuzz::repeat_patterns(20_000, fuzz::parse_never_panics)?)
    }));
    trials.push(Trial::test("a_source_over_the_limit_is_refused", over_the_limit));
    harness::main(trials).exit();
}

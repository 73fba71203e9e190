//! Tokens of a text: `tests/data/lex/*.seg`.

use seg_lang::lex::lex;
use seg_lang::source::Sources;
use seg_lang::{render, token};
use seg_tests::broken;
use seg_tests::harness::{self, Case, cases};

fn run(case: &Case) -> Result<String, String> {
    let mut sources = Sources::default();
    let file = sources.add("case.seg", case.text.as_str());
    let lexed = lex(file, &case.text);
    broken::check(&case.text, &lexed.diagnostics, &sources)?;
    let source = sources.get(file).ok_or("the file was added")?;
    Ok(token::dump(source, &lexed.tokens) + &render::render(&lexed.diagnostics, &sources))
}

fn main() {
    harness::main(cases("lex", "seg", run)).exit();
}

//! The layout of sources: `tests/data/format/*.seg`; and that every source there is keeps its meaning and its comments.

use libtest_mimic::{Failed, Trial};
use seg_lang::format::format;
use seg_tests::harness::{self, Case, cases};
use seg_tests::{fuzz, layout, package};
use std::path::{Path, PathBuf};

fn main() {
    let mut trials = cases("format", "seg", case);
    trials.push(Trial::test("every_source_keeps_its_meaning", every_source));
    trials.push(Trial::test("the_library_and_the_examples_are_laid_out", laid_out));
    trials.push(Trial::test("the_sources_of_spec_md_are_laid_out", spec));
    trials.push(Trial::test("mutated_sources_keep_their_meaning", || {
        let folders = ["format", "parse/ok", "parse/err", "check/ok", "run", "lex"];
        Ok(folders.into_iter().try_for_each(|f| fuzz::mutate(f, layout::keeps_meaning))?)
    }));
    trials.push(Trial::test("blanks_line_ends_and_comments_anywhere", scrambled));
    trials.push(Trial::test("one_pattern_without_end_is_laid_out_in_time", || {
        Ok(fuzz::repeat_patterns(20_000, layout::keeps_meaning)?)
    }));
    harness::main(trials).exit();
}

fn case(case: &Case) -> Result<String, String> {
    layout::keeps_meaning(case.text.as_bytes());
    Ok(format(&case.text).text)
}

fn every_source() -> Result<(), Failed> {
    texts()?.iter().for_each(|text| layout::keeps_meaning(text.as_bytes()));
    Ok(())
}

fn scrambled() -> Result<(), Failed> {
    let (texts, first) = (texts()?, fuzz::seed()?);
    for (seed, text) in (first..).zip(texts.iter().chain(&texts)) {
        let checked = std::panic::catch_unwind(|| layout::scramble(text, seed));
        checked.map_err(|_| format!("SEG_SEED={seed} breaks on this text:\n{text}"))?;
    }
    Ok(())
}

/// Sources as they stand in folders, in cases of several files and in pages.
fn texts() -> Result<Vec<String>, Failed> {
    let root = harness::root();
    let mut texts = vec![];
    for folder in ["stdlib", "examples", "tests/data", "compiler/cli/src/new"] {
        for path in sources(&root.join(folder)) {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            let files = package::split("case", &text);
            if files.len() > 1 {
                texts.extend(files.into_iter().map(|(_, text)| text));
            }
            texts.push(text);
        }
    }
    assert!(texts.len() > 150, "only {} sources", texts.len());
    for page in ["spec.md", "README.md"] {
        let blocks = blocks(&std::fs::read_to_string(root.join(page))?);
        assert!(!blocks.is_empty(), "{page} has no source");
        texts.extend(blocks);
    }
    Ok(texts)
}

fn laid_out() -> Result<(), Failed> {
    let root = harness::root();
    let folders = ["stdlib", "examples", "compiler/cli/src/new"];
    for path in folders.iter().flat_map(|folder| sources(&root.join(folder))) {
        is_laid_out(&path.display().to_string(), &std::fs::read_to_string(&path)?)?;
    }
    Ok(())
}

fn spec() -> Result<(), Failed> {
    for page in ["spec.md", "README.md"] {
        for block in blocks(&std::fs::read_to_string(harness::root().join(page))?) {
            is_laid_out(page, &block)?;
        }
    }
    Ok(())
}

fn is_laid_out(name: &str, text: &str) -> Result<(), Failed> {
    let wanted = format(text).text;
    let line = text.lines().zip(wanted.lines()).position(|(a, b)| a != b);
    match wanted == text {
        true => Ok(()),
        false => {
            Err(format!("{name}: line {:?} differs from\n{wanted}", line.map(|n| n + 1)).into())
        }
    }
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => found.extend(sources(&path)),
            false if path.extension().is_some_and(|e| e == "seg") => found.push(path),
            false => {}
        }
    }
    found.sort();
    found
}

/// The ```` ```seg ```` blocks of a page.
fn blocks(page: &str) -> Vec<String> {
    let after = page.split("\n```seg\n").skip(1);
    after
        .filter_map(|rest| rest.split_once("\n```").map(|(block, _)| format!("{block}\n")))
        .collect()
}

//! What `segc check --fix` does to a package: `tests/data/fix`, and every edit that any broken case is offered.

use libtest_mimic::{Failed, Trial};
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::diagnostic::Diagnostic;
use seg_lang::fix::{apply, fix};
use seg_lang::parse::parse;
use seg_lang::render::brief;
use seg_lang::source::{FileId, Sources};
use seg_tests::harness::{self, Case};
use seg_tests::{fuzz, package};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

fn main() {
    let mut trials = harness::cases("fix", "seg", mended);
    for (folder, judge) in [
        ("check/err", analyze as fn(Sources) -> Analysis),
        ("check/err/newcomer", analyze),
        ("parse/err", parsed),
    ] {
        trials.push(Trial::test(format!("each_edit_of_{folder}_mends_its_mistake"), move || {
            each_case(folder, |case| each_edit(case, judge))
        }));
        trials.push(Trial::test(format!("no_file_of_{folder}_gets_worse"), move || {
            each_case(folder, |case| no_worse(case, judge))
        }));
    }
    trials.push(Trial::test("a_bad_edit_is_taken_back_alone", bad_edit));
    trials.push(Trial::test("mutated_packages_get_no_worse", || {
        Ok(["fix", "check/err"].into_iter().try_for_each(|f| fuzz::mutate(f, mutant))?)
    }));
    harness::main(trials).exit()
}

/// The edits, what is left, and the texts.
fn mended(case: &Case) -> Result<String, String> {
    let sources = package::sources(&case.name, &case.text);
    let n_files = sources.iter().count();
    let fixed = fix(sources, &analyze, &|_| true);
    let mut text = String::new();
    for edit in &fixed.edits {
        let _ = writeln!(
            text,
            "{}:{}:{}: {} `{}` -> `{}`",
            edit.path, edit.line, edit.column, edit.diagnostic.code.0, edit.old, edit.new
        );
    }
    let Analysis { sources, diagnostics, .. } = &fixed.analysis;
    let _ = write!(text, "{}", brief(diagnostics, sources));
    for (_, source) in sources.iter().take(n_files) {
        let _ = write!(text, "--- {}\n{}", source.path, source.text);
    }
    Ok(text)
}

/// Cases below `parse/err` are no whole packages: only their grammar is judged.
fn parsed(sources: Sources) -> Analysis {
    let mut diagnostics = vec![];
    let mut trees = vec![];
    for (file, source) in sources.iter() {
        let (tree, found) = parse(file, &source.text);
        trees.push((file, tree));
        diagnostics.extend(found);
    }
    let mut analysis = analyze(Sources::default());
    (analysis.sources, analysis.trees) = (sources, trees);
    (analysis.policy, analysis.diagnostics) = (None, diagnostics);
    analysis
}

fn each_case(
    folder: &str,
    check: impl Fn(&Sources) -> Result<usize, String>,
) -> Result<(), Failed> {
    let mut n_edits = 0;
    let mut wrong = vec![];
    for entry in std::fs::read_dir(harness::root().join("tests/data").join(folder))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
            match check(&package::sources(&stem(&path), &text)) {
                Ok(n) => n_edits += n,
                Err(why) => wrong.push(format!("{}: {why}", path.display())),
            }
        }
    }
    if n_edits == 0 {
        wrong.push("no case has an edit".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Each edit alone removes its diagnostic and adds no new code to its file.
///
/// What a failed import hid (spec.md section 2.4) is seen once it is mended, and was wrong before.
fn each_edit(sources: &Sources, judge: fn(Sources) -> Analysis) -> Result<usize, String> {
    let before = judge(sources.clone());
    let mut n_edits = 0;
    for diagnostic in &before.diagnostics {
        for edit in &diagnostic.fixes {
            n_edits += 1;
            let file = edit.span.file;
            let edited = apply(sources, edit.span, &edit.text).ok_or("an edit of no text")?;
            let after = judge(edited);
            let same = |d: &&Diagnostic| {
                (d.code, &d.message) == (diagnostic.code, &diagnostic.message)
                    && words(d, &after) == words(diagnostic, &before)
            };
            let n_before = before.diagnostics.iter().filter(|d| {
                (d.code, &d.message) == (diagnostic.code, &diagnostic.message)
                    && words(d, &before) == words(diagnostic, &before)
            });
            if after.diagnostics.iter().filter(same).count() >= n_before.count() {
                return Err(format!(
                    "`{}` does not mend: {}{}",
                    edit.text,
                    brief(std::slice::from_ref(diagnostic), &before.sources),
                    brief(&after.diagnostics, &after.sources)
                ));
            }
            let (old, new) = (codes(&before, file), codes(&after, file));
            let import = ["E0204", "E0205"].contains(&diagnostic.code.0);
            if let Some(code) = new.difference(&old).find(|code| !import || code.starts_with("E01"))
            {
                return Err(format!(
                    "`{}` brings {code} to: {}{}",
                    edit.text,
                    brief(std::slice::from_ref(diagnostic), &before.sources),
                    brief(&after.diagnostics, &after.sources)
                ));
            }
        }
    }
    Ok(n_edits)
}

/// What a diagnostic is about, and the line it stands on.
fn words<'a>(diagnostic: &Diagnostic, analysis: &'a Analysis) -> Option<(FileId, &'a str)> {
    let span = diagnostic.labels.first()?.span;
    Some((span.file, analysis.sources.text(span)))
}

fn codes(analysis: &Analysis, file: FileId) -> BTreeSet<&'static str> {
    let here = |d: &&Diagnostic| d.labels.first().is_some_and(|label| label.span.file == file);
    analysis.diagnostics.iter().filter(here).map(|d| d.code.0).collect()
}

/// All sure edits together leave no file with more grammar errors, and doing it again changes nothing.
fn no_worse(sources: &Sources, judge: fn(Sources) -> Analysis) -> Result<usize, String> {
    let before = judge(sources.clone());
    let fixed = fix(sources.clone(), &judge, &|_| true);
    let mut texts = Sources::default();
    for (file, given) in sources.iter() {
        let source = fixed.analysis.sources.get(file).ok_or("a file is gone")?;
        texts.add(given.path.clone(), source.text.clone());
        let grammar = |analysis: &Analysis| {
            let here = |d: &&Diagnostic| {
                d.labels.first().is_some_and(|l| l.span.file == file) && d.code.0.starts_with("E01")
            };
            analysis.diagnostics.iter().filter(here).count()
        };
        if grammar(&fixed.analysis) > grammar(&before) {
            return Err(brief(&fixed.analysis.diagnostics, &fixed.analysis.sources));
        }
    }
    let again = fix(texts, &judge, &|_| true);
    if !again.edits.is_empty() {
        return Err(format!("mended twice: {:?}", again.edits));
    }
    let untouched = fix(sources.clone(), &judge, &|_| false);
    if !untouched.edits.is_empty() || untouched.analysis.diagnostics != before.diagnostics {
        return Err("a file was changed that may not be".to_owned());
    }
    Ok(fixed.edits.len())
}

fn mutant(data: &[u8]) {
    let sources = package::sources("mutant", &String::from_utf8_lossy(data));
    no_worse(&sources, analyze).expect("no worse");
}

/// A judge whose every edit but one is good: the others are applied, that one is not.
fn bad_edit() -> Result<(), Failed> {
    const BAD: &str = "d7";
    // Every line `dN` is a mistake with the edit `D`; that of the bad one leaves two mistakes.
    let judge = |sources: Sources| {
        let mut analysis = parsed(Sources::default());
        for (file, source) in sources.iter() {
            let mut at = 0;
            for line in source.text.split_inclusive('\n') {
                let word = line.trim_end();
                let span = seg_lang::source::Span::new(file, at, at + word.len());
                let new = if word == BAD { "d\nd".to_owned() } else { word.to_uppercase() };
                let wrong = word.starts_with('d');
                let found = Diagnostic::new(seg_lang::codes::EXPECTED, word, span).fix(span, new);
                analysis.diagnostics.extend(wrong.then_some(found));
                at += line.len();
            }
        }
        analysis.sources = sources;
        analysis
    };
    let mut sources = Sources::default();
    let text: String = (0..40).map(|n| format!("d{n}\n")).collect();
    let file = sources.add("a.seg", text.clone());
    let fixed = fix(sources, &judge, &|_| true);
    let wanted = text.to_uppercase().replace("D7\n", "d7\n");
    assert_eq!(fixed.analysis.sources.get(file).map(|s| s.text.as_str()), Some(wanted.as_str()));
    assert_eq!(fixed.edits.len(), 39);
    Ok(())
}

//! Verdict tables written by hand from spec.md, and properties every policy has.
//!
//! `tests/data/run/x.seg` is a policy, `x.flows` its table (see [`seg_tests::flows`]).

use libtest_mimic::{Failed, Trial};
use seg_lang::analyze::{Analysis, analyze};
use seg_lang::eval::{decide, explain};
use seg_lang::policy::text;
use seg_tests::{flows, harness, package};
use std::path::Path;

fn main() {
    let data = harness::root().join("tests/data/run");
    let mut files: Vec<_> =
        std::fs::read_dir(&data).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    let mut trials = vec![];
    for path in files {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let ending = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        match ending.as_str() {
            "seg" => trials.push(Trial::test(format!("run/{name}"), move || table(&name, &path))),
            "flows" if path.with_extension("seg").exists() => {}
            _ => {
                let title = format!("run/{name}.{ending}");
                trials.push(Trial::test(title, || Err("no policy of this name".into())));
            }
        }
    }
    trials.push(Trial::test("there are at least 12 tables", {
        let n_tables = trials.len();
        move || if n_tables < 12 { Err(format!("only {n_tables}").into()) } else { Ok(()) }
    }));
    trials.extend(properties::trials());
    harness::main(trials).exit()
}

#[path = "run/properties.rs"]
mod properties;

fn table(name: &str, path: &Path) -> Result<(), Failed> {
    let text = std::fs::read_to_string(path)?;
    let Analysis { sources, policy, diagnostics, .. } = analyze(package::sources(name, &text));
    let Some(policy) = policy else { return Err(format!("{diagnostics:#?}").into()) };
    let table = std::fs::read_to_string(path.with_extension("flows"))?;
    let mut wrong = vec![];
    for row in flows::parse(&policy, &table)? {
        let decision = decide(&policy, &row.flow);
        let decided_by = flows::decided_by(&policy, &sources, decision);
        if (decision.verdict, &decided_by) != (row.verdict, &row.decided_by) {
            wrong.push(format!(
                "{name}.flows:{}: expected {:?} {}, got {:?} {decided_by}",
                row.line, row.verdict, row.decided_by, decision.verdict,
            ));
        }
        let explanation = explain(&policy, &row.flow);
        if explanation.decision != decision {
            wrong.push(format!("{name}.flows:{}: explain decides otherwise", row.line));
        }
        let place = |rule| flows::place(&policy, &sources, Some(rule));
        let near_misses: Vec<_> =
            explanation.near_misses.into_iter().map(|n| (place(n.rule), n.reason)).collect();
        if !row.near_misses.is_empty() && near_misses != row.near_misses {
            wrong.push(format!(
                "{name}.flows:{}: expected near misses {:?}, got {near_misses:?}",
                row.line, row.near_misses,
            ));
        }
    }
    // What is dumped is part of every engine's report; it must not panic on any policy.
    let _ = text::dump(&policy, &sources);
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

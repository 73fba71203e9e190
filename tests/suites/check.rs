//! From source to the typed policy.
//!
//! `tests/data/check/ok` holds policies with their text form, `tests/data/check/err` broken ones with what is said about them.
//! A case of several files separates them by `#! file PATH` (see [`seg_tests::package`]).
//! Every error also stands in the case itself, written by hand: `#~ E0201` on its line (see [`seg_tests::broken`]).

use libtest_mimic::{Failed, Trial};
use seg_compiler::normalize;
use seg_compiler::prove::{Outcome, prove};
use seg_lang::analyze::{Analysis, analyze, analyze_as};
use seg_lang::codes;
use seg_lang::diagnostic::Severity;
use seg_lang::docs;
use seg_lang::parse::parse;
use seg_lang::policy::{Endpoints, Match, Policy, RuleKind, Services, text};
use seg_lang::render::{brief, render};
use seg_lang::source::Sources;
use seg_lang::stdlib;
use seg_tests::harness::{self, Case};
use seg_tests::{broken, fuzz, organisation, package};
use std::collections::BTreeSet;
use std::path::Path;

/// Codes that no case file shows, each with the reason.
const ELSEWHERE: &[(&str, &str)] = &[
    ("E0114", "a file of that size is made by the test of limits and by its page"),
    ("E0402", "what a file may hold stands in seg.toml: tests/data/cli/packages.sh, and its page"),
    (
        "E0410",
        "what a package requires stands in seg.toml: tests/data/cli/packages.sh, and its page",
    ),
    ("E0502", "claims are proved by the compiler: tests/data/cli/packages.sh, and its page"),
    ("E0501", "claims are proved by the compiler: tests/data/cli/wrong_use.sh, and its page"),
    (
        "E0601",
        "limits of a target are known to the compiler: tests/data/cli/check.sh, and its page",
    ),
    (
        "E0602",
        "what hooks can tell is known to the compiler: tests/data/cli/layer7.sh, and its page",
    ),
];

fn main() {
    let mut trials = harness::cases("check/ok", "seg", accepted);
    trials.extend(harness::cases("check/err", "seg", refused));
    trials.push(Trial::test("every_code_has_a_case", every_code_has_a_case));
    for (path, _) in stdlib::FILES {
        let title = format!("the_library_module_{path}_is_sound");
        trials.push(Trial::test(title, || library_module(path)));
    }
    for name in ["organisation", "recipes.seg", "bastion.seg", "deathstar.seg"] {
        let title = format!("the_claims_of_language_{name}_hold");
        trials.push(Trial::test(title, || claims_hold(name)));
    }
    trials.push(Trial::test("long_chains_and_large_sets_are_refused_quickly", limits));
    trials.push(Trial::test("a_thousand_applications_are_within_the_limits", large));
    trials.push(Trial::test("the_package_of_the_bench_is_sound", bench_package));
    trials.push(Trial::test("a_long_list_of_networks_may_be_used_often", long_net));
    trials.push(Trial::test("the_thousandth_wrong_name_costs_no_comparison", wrong_names));
    trials.push(Trial::test("what_is_said_about_a_long_line_does_not_repeat_it", long_line));
    trials.push(Trial::test("mutated_packages_never_panic", || {
        Ok(["check/ok", "run"]
            .into_iter()
            .try_for_each(|f| fuzz::mutate(f, fuzz::analyze_never_panics))?)
    }));
    trials.push(Trial::test("services_mean_what_their_text_means", services));
    trials.push(Trial::test("spec_md_says_what_holds", spec));
    harness::main(trials).exit()
}

fn accepted(case: &Case) -> Result<String, String> {
    let Analysis { sources, policy, diagnostics, .. } = package::analysis(&case.name, &case.text);
    match policy {
        Some(policy) if diagnostics.is_empty() => Ok(text::dump(&policy, &sources)),
        Some(_) | None => Err(brief(&diagnostics, &sources)),
    }
}

fn refused(case: &Case) -> Result<String, String> {
    let Analysis { sources, policy, diagnostics, .. } = package::analysis(&case.name, &case.text);
    for (path, text) in package::split(&case.name, &case.text) {
        let here = |span: &seg_lang::source::Span| {
            sources.get(span.file).is_some_and(|source| source.path == path)
        };
        let found: Vec<_> = diagnostics
            .iter()
            .filter(|d| d.labels.first().is_some_and(|l| here(&l.span)))
            .cloned()
            .collect();
        broken::check(&text, &found, &sources).map_err(|e| format!("{path}: {e}"))?;
    }
    let errors = diagnostics.iter().any(|d| d.severity == Severity::Error);
    if policy.is_some() == errors {
        return Err("there is a meaning exactly if there is no error".to_owned());
    }
    Ok(render(&diagnostics, &sources))
}

fn every_code_has_a_case() -> Result<(), Failed> {
    let mut shown = BTreeSet::new();
    for folder in ["check/err", "parse/err"] {
        collect(&harness::root().join("tests/data").join(folder), &mut shown)?;
    }
    let mut wrong = vec![];
    for (code, summary) in codes::ALL {
        let elsewhere = ELSEWHERE.iter().any(|(c, _)| *c == code.0);
        match (shown.contains(code.0), elsewhere) {
            (true, false) | (false, true) => {}
            (false, false) => wrong.push(format!("no case shows {} ({summary})", code.0)),
            (true, true) => wrong.push(format!("{} has a case and is still excused", code.0)),
        }
    }
    let known = |code: &str| codes::ALL.iter().any(|(c, _)| c.0 == code);
    wrong.extend(ELSEWHERE.iter().filter(|(c, _)| !known(c)).map(|(c, _)| format!("no code {c}")));
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn collect(folder: &Path, shown: &mut BTreeSet<String>) -> Result<(), Failed> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "seg") {
            let text = String::from_utf8_lossy(&std::fs::read(path)?).into_owned();
            shown.extend(broken::expectations(&text).into_iter().map(|(_, code)| code));
        }
    }
    Ok(())
}

/// As a module of a package, so that its definitions are checked one by one, and documented.
fn library_module(path: &str) -> Result<(), Failed> {
    let (_, text) = stdlib::FILES.iter().find(|(p, _)| *p == path).ok_or("no such module")?;
    let mut sources = Sources::default();
    sources.add(path.replace("std/", "library/"), *text);
    let Analysis { sources, policy, diagnostics, .. } = analyze(sources);
    if !text.starts_with("## ") {
        return Err("the module does not say what it is for".into());
    }
    let Some(policy) = policy.filter(|_| diagnostics.is_empty()) else {
        return Err(brief(&diagnostics, &sources).into());
    };
    let mut alone = Sources::default();
    let file = alone.add(path, *text);
    let source = alone.get(file).ok_or("no source")?;
    let entries = docs::module(source, &parse(file, text).0).entries;
    let silent: Vec<_> =
        entries.iter().filter(|e| e.docs.is_empty()).map(|e| e.name.as_str()).collect();
    if entries.is_empty() || !silent.is_empty() {
        return Err(format!("of {} definitions, without a word: {silent:?}", entries.len()).into());
    }
    proved(&policy, &sources)
}

/// The examples from which the language was made: each checks without a word, and its claims hold.
fn claims_hold(name: &str) -> Result<(), Failed> {
    let path = harness::root().join("tests/data/language").join(name);
    let package = segc::package::load(&path).map_err(|error| error.0)?;
    let Analysis { sources, policy, diagnostics, .. } =
        analyze_as(package.sources, &package.config);
    let Some(policy) = policy.filter(|_| diagnostics.is_empty()) else {
        return Err(brief(&diagnostics, &sources).into());
    };
    proved(&policy, &sources)
}

/// Whether there are claims and all hold.
fn proved(policy: &Policy, sources: &Sources) -> Result<(), Failed> {
    let proofs = prove(policy, &policy.tests)?;
    let claims = policy.tests.iter().flat_map(|test| &test.claims);
    let failed = claims.zip(proofs.iter().flatten()).filter(|(_, p)| p.outcome != Outcome::Holds);
    let failed: Vec<_> = failed.map(|(c, p)| format!("{}: {p:?}", sources.place(c.span))).collect();
    match policy.tests.is_empty() {
        true => Err("there are no claims".into()),
        false if failed.is_empty() => Ok(()),
        false => Err(failed.join("\n").into()),
    }
}

/// Sources that grow without bound when names are written out, or that are hard to check.
fn limits() -> Result<(), Failed> {
    let chain = |first: &str, step: fn(usize) -> String, n: usize| {
        let steps: String = (1..=n).map(step).collect();
        format!("label a\nlabel b\n{first}\n{steps}")
    };
    let alternating = |n: usize| format!("group g{n} = g{} & b:* except a:x{n}\n", n - 1);
    let doubling = |n: usize| format!("group g{n} = {{ g{0}, g{0} }}\n", n - 1);
    // Nine pigeons in eight holes, no two in one: empty, and no short proof is known to splitting.
    let labels: String = (1..=9).map(|p| format!("label p{p}\n")).collect();
    let homes: Vec<_> =
        (1..=9).map(|p| format!("p{p}:{{ {} }}", "1, 2, 3, 4, 5, 6, 7, 8")).collect();
    let pairs = (1..=9).flat_map(|a| (1..a).map(move |b| (a, b)));
    let clashes: Vec<_> = pairs
        .flat_map(|(a, b)| (1..=8).map(move |hole| format!("p{a}:{hole} & p{b}:{hole}")))
        .collect();
    let pigeons =
        format!("{labels}group g = {} except {{ {} }}\n", homes.join(" & "), clashes.join(", "));
    let each: Vec<_> = (1..3000).map(|n| format!("udp/{n} & sport({n})")).collect();
    let source_ports = format!("service s = {{ {} }}\n", each.join(", "));
    let names: Vec<_> = (1..40).map(|n| format!("n{n}")).collect();
    let ports: Vec<_> = names.iter().map(|name| format!("{name} = tcp/1")).collect();
    let named = format!(
        "label a\nworkload w at 10.0.0.1 is a:x on {{ {} }}\nservice s = tcp/{{ {} }}\n",
        ports.join(", "),
        names.join(", ")
    );
    let sources = [
        (chain("group g0 = a:*", alternating, 300), "E0113"),
        (chain("group g0 = { a:x, a:y }", doubling, 40), "E0314"),
        (pigeons, "E0314"),
        (source_ports, "E0314"),
        (named, "E0314"),
        ("#".repeat((4 << 20) + 1), "E0114"),
    ];
    for (text, expected) in sources {
        let mut files = Sources::default();
        files.add("limits.seg", text);
        let Analysis { diagnostics, .. } = analyze(files);
        let found: BTreeSet<_> = diagnostics.iter().map(|d| d.code.0).collect();
        if found != BTreeSet::from([expected]) {
            return Err(format!("expected {expected}, found {found:?}").into());
        }
    }
    Ok(())
}

/// What a large organisation writes: many applications, and groups of all of them.
fn large() -> Result<(), Failed> {
    let application = |n: usize| {
        format!(
            "group w{n} = app:a{n} & role:web\npolicy p{n} for app:a{n} {{\n\
             allow w{n} -> app:a{n} & role:db on tcp/5432\n\
             allow unmanaged except {{ 10.0.0.0/8, fd00::/8 }} -> w{n} & env:prod\n\
             isolate app:a{n}\n}}\n"
        )
    };
    let applications: String = (0..1000).map(application).collect();
    let names: Vec<_> = (0..1000).map(|n| format!("w{n}")).collect();
    let text = format!(
        "label app\nlabel role\nlabel env = {{ prod, dev }}\n{applications}group all = {{ {} }}\n\
         guard g for {{ app:*, 10.0.0.0/8 }} {{ deny all & env:dev -> all except env:dev }}\n",
        names.join(", ")
    );
    let mut sources = Sources::default();
    sources.add("large.seg", text);
    let Analysis { sources, policy, diagnostics, .. } = analyze(sources);
    match policy {
        Some(policy) if policy.rules.len() == 3001 => Ok(()),
        Some(_) | None => Err(brief(&diagnostics, &sources).into()),
    }
}

/// What is measured is what an organisation may write, and as long as it says.
fn bench_package() -> Result<(), Failed> {
    let sources = organisation::package(1000);
    let n_lines: usize = sources.iter().map(|(_, source)| source.text.lines().count()).sum();
    assert!((1000..1100).contains(&n_lines), "{n_lines} lines");
    let Analysis { sources, policy, diagnostics, .. } = analyze(sources);
    match policy {
        Some(policy) if diagnostics.is_empty() && policy.rules.len() > 150 => Ok(()),
        Some(_) | None => Err(brief(&diagnostics, &sources).into()),
    }
}

/// A list of countries' networks has tens of thousands, and many rules take it as a condition.
fn long_net() -> Result<(), Failed> {
    let nets: String = (0..20_000).map(|n| format!("10.{}.{}.0/25,\n", n / 256, n % 256)).collect();
    let rule =
        |n: usize| format!("allow (app:a{n} & abroad) except app:b -> app:* except abroad\n");
    let rules: String = (0..40).map(rule).collect();
    let mut files = Sources::default();
    files.add("net.seg", format!("label app\nnet abroad = {{\n{nets}}}\npolicy p {{\n{rules}}}\n"));
    let Analysis { sources, policy, diagnostics, .. } = analyze(files);
    match policy {
        Some(policy) if policy.rules.len() == 40 => Ok(()),
        Some(_) | None => Err(brief(&diagnostics, &sources).into()),
    }
}

/// A missing import makes every name of a long file wrong: all are told, the first with what may have been meant.
fn wrong_names() -> Result<(), Failed> {
    let groups: String = (0..1000).map(|n| format!("group tier-{n} = app:a{n}\n")).collect();
    let rules: String = (0..1000).map(|n| format!("allow teir-{n} -> any\n")).collect();
    let mut files = Sources::default();
    files.add("names.seg", format!("label app\n{groups}policy p {{\n{rules}}}\n"));
    let Analysis { diagnostics, .. } = analyze(files);
    let fixes: Vec<usize> = diagnostics.iter().map(|d| d.fixes.len()).collect();
    match fixes.as_slice() {
        [1, .., 0] if fixes.len() == 1000 => Ok(()),
        _ => Err(format!("{} reports, with {fixes:?} suggestions", fixes.len()).into()),
    }
}

/// Many mistakes on one line of a megabyte: the report stays smaller than the source.
fn long_line() -> Result<(), Failed> {
    let mut files = Sources::default();
    files.add("long.seg", "}".repeat(1 << 20));
    let Analysis { sources, diagnostics, .. } = analyze(files);
    let shown = render(&diagnostics, &sources);
    let first = "long.seg:1:1: error[E0102]: `}` closes nothing\n  = help: delete `}`\n\n";
    if !shown.starts_with(first) || shown.len() > 1 << 20 {
        let start: String = shown.chars().take(200).collect();
        return Err(format!("{} bytes, beginning with\n{start}", shown.len()).into());
    }
    Ok(())
}

/// The services of every sound rule, printed and read again.
fn services() -> Result<(), Failed> {
    let mut n_read = 0;
    for folder in ["check/ok", "run", "rules"] {
        for entry in std::fs::read_dir(harness::root().join("tests/data").join(folder))? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "seg") {
                continue;
            }
            let text = std::fs::read_to_string(&path)?;
            let policy =
                package::analysis("case", &text).policy.ok_or(format!("{}", path.display()))?;
            let ports: Vec<_> = policy.ports.iter().map(|name| format!("{name} = tcp/1")).collect();
            let labels = normalize::rule_labels(&policy);
            for rule in &policy.rules {
                let RuleKind::Match { flow, .. } = &rule.kind else { continue };
                let written = text::services(&flow.on);
                let mut sources = Sources::default();
                sources.add(
                    "again.seg",
                    format!(
                        "workload w at 10.0.0.1 is managed on {{ {} }}\npolicy p {{ allow any -> any on {written} }}\n",
                        ports.join(", ")
                    ),
                );
                let Analysis { sources, policy: again, diagnostics, .. } = analyze(sources);
                let again = again.ok_or_else(|| brief(&diagnostics, &sources))?;
                let RuleKind::Match { flow: read, .. } = &again.rules[0].kind else {
                    return Err("no rule".into());
                };
                let canonical = |on: &Services| {
                    let (from, to, on) = (Endpoints::Any, Endpoints::Any, on.clone());
                    let flow = Match { from, to, both_ways: false, on };
                    normalize::flows(&policy, &labels, &flow)
                };
                assert_eq!(text::services(&read.on), written);
                assert_eq!(canonical(&read.on), canonical(&flow.on), "{written}");
                n_read += 1;
            }
        }
    }
    if n_read < 100 { Err(format!("only {n_read} services").into()) } else { Ok(()) }
}

/// Blocks marked `seg` in spec.md are packages, and what they claim holds.
fn spec() -> Result<(), Failed> {
    let spec = std::fs::read_to_string(harness::root().join("spec.md"))?;
    let blocks: Vec<_> = spec.split("```seg\n").skip(1).collect();
    if blocks.is_empty() {
        return Err("no block marked `seg`".into());
    }
    for block in blocks {
        let text = block.split("```").next().unwrap_or_default();
        let Analysis { sources, policy, diagnostics, .. } = analyze(package::sources("spec", text));
        let Some(policy) = policy.filter(|_| diagnostics.is_empty()) else {
            return Err(render(&diagnostics, &sources).into());
        };
        if !policy.tests.is_empty() {
            proved(&policy, &sources)?;
        }
    }
    Ok(())
}

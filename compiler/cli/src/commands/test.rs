//! `segc test`: every claim proved, and its witnesses run on the compiled code.

use super::{Checking, Format, Input, Outcome, checked, misuse, too_large};
use crate::describe::{chain_text, count, decision_text, flow_text};
use crate::files::Files;
use crate::package::LoadError;
use crate::report::junit::{self, Case, Suite};
use crate::report::{self, json, say};
use seg_compiler::decided::{Config, decide};
use seg_compiler::limits::LimitError;
use seg_compiler::prove::{self, Counterexample, Outcome as Proof};
use seg_compiler::simulate::Simulator;
use seg_compiler::target::{self, Unenforceable};
use seg_lang::ast::ClaimsKind;
use seg_lang::codes;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::eval;
use seg_lang::policy::{Claim, Policy, RuleId, Test, text};
use seg_lang::source::Sources;
use serde::Serialize;

/// `segc test`.
pub fn test(input: Input<'_>, format: Format) -> Outcome {
    let checked = match checked("test", input, format) {
        Ok(checked) => checked,
        Err(outcome) => return outcome,
    };
    let (policy, sources) = (&checked.policy, &checked.sources);
    let results = match prove::prove(policy, &policy.tests) {
        Ok(results) => results,
        Err(error) => return too_large(&checked, &error.into(), format),
    };
    let beyond = target::unenforceable(policy);
    let compiled = beyond.is_empty().then(|| decide(policy, Config::default())).transpose();
    let compiled = match compiled {
        Ok(compiled) => compiled,
        Err(error) => return too_large(&checked, &error.into(), format),
    };
    let mut simulator =
        match compiled.as_ref().map(|choice| Simulator::new(&choice.decided)).transpose() {
            Ok(simulator) => simulator,
            Err(error) => return misuse(&LoadError(error.to_string()), format),
        };
    let mut tests = Vec::new();
    let mut n_run = 0;
    for (test, results) in policy.tests.iter().zip(&results) {
        let mut claims = Vec::new();
        for (claim, result) in test.claims.iter().zip(results) {
            for flow in &result.witnesses {
                let Some(simulator) = &mut simulator else { break };
                let expected = eval::decide(policy, flow);
                for seen in simulator.judge(flow) {
                    n_run += 1;
                    assert_eq!(
                        seen, expected,
                        "the compiled code disagrees with the evaluator on {flow:?}"
                    );
                }
            }
            let mut hops = Vec::new();
            let (word, counterexample) = match &result.outcome {
                Proof::Holds => ("holds", None),
                Proof::Vacuous => ("vacuous", None),
                Proof::Fails(counterexample) if claim.chain.is_some() => {
                    hops = hop_results(policy, sources, counterexample);
                    ("fails", Some(chain_text(policy, counterexample)))
                }
                Proof::Fails(counterexample) => {
                    let flow = flow_text(policy, &counterexample.flow);
                    let why = decision_text(policy, sources, &counterexample.decision);
                    ("fails", Some(format!("{flow} is {why}")))
                }
            };
            claims.push(ClaimResult {
                place: json::place(sources, claim.span),
                claim: text::one_line(sources.text(claim.span)),
                result: word,
                counterexample,
                hops,
                found: finding(&checked, test, claim, &result.outcome),
            });
        }
        tests.push(TestResult { what: what_word(test.what), title: test.title.clone(), claims });
    }
    let found = tests.iter().flat_map(|test| &test.claims).filter_map(|claim| claim.found.clone());
    let mut diagnostics: Vec<Diagnostic> = found.collect();
    let n_failed = diagnostics.len();
    if format != Format::Text {
        diagnostics.splice(..0, checked.warnings.iter().cloned());
    }
    let n_claims: usize = tests.iter().map(|test| test.claims.len()).sum();
    if n_claims == 0 {
        let message = format!("{} has no claims", checked.name);
        let found = Diagnostic::of_package(codes::CLAIM_FAILED, message);
        diagnostics.push(found.help("write a `test` block"));
    }
    let report = checked.report(&diagnostics);
    match format {
        Format::Json => {
            let place = |of: &Unenforceable| {
                let rule = policy.rules.get(of.rule.0 as usize)?;
                Some(json::place(sources, rule.place()))
            };
            report::print(Tested {
                tests,
                without_hook: beyond.iter().filter_map(place).collect(),
                diagnostics: json::findings(report),
            });
        }
        Format::Text => {
            for test in &tests {
                let failed = test.claims.iter().filter(|claim| claim.found.is_some()).count();
                let word = if failed == 0 { "ok" } else { "FAILED" };
                let n_claims = count(test.claims.len(), "claim");
                say!("{} \"{}\": {n_claims} {word}", test.what, text::one_line(&test.title));
            }
            report.print(format);
            let asked = match beyond.len() {
                0 => format!("{} judged alike by the compiled code", count(n_run, "flow")),
                1 => "the compiled code was not asked, because 1 rule needs a layer-7 hook"
                    .to_owned(),
                n => format!(
                    "the compiled code was not asked, because {n} rules need a layer-7 hook"
                ),
            };
            say!("{} hold, {n_failed} fail; {asked}", n_claims - n_failed);
        }
        // A package without claims has no test to name; what is wrong is said of the package.
        Format::Junit if n_claims > 0 => {
            report::print_text(&junit::text(
                report,
                &suites(&tests, &checked.name, &checked.files),
            ));
        }
        Format::Junit | Format::Sarif | Format::Github => report.print(format),
    }
    if n_failed == 0 && n_claims > 0 { Outcome::Clean } else { Outcome::Findings }
}

fn suites<'a>(tests: &'a [TestResult], package: &str, files: &Files) -> Vec<Suite<'a>> {
    fn case(claim: &ClaimResult) -> Case<'_> {
        Case { name: claim.claim.clone(), found: claim.found.as_ref() }
    }
    let suite = |test: &'a TestResult| Suite {
        name: test.title.clone(),
        class: format!("{package}.{}", test.title.replace('.', " ")),
        file: test.claims.first().map(|claim| files.shown(&claim.place.file)),
        cases: test.claims.iter().map(case).collect(),
    };
    tests.iter().map(suite).collect()
}

/// What is wrong with the assertions of a policy.
pub(super) fn assertions(checked: &Checking) -> Result<Vec<Diagnostic>, LimitError> {
    let asserted = |test: &&Test| test.what == ClaimsKind::Assert;
    let tests: Vec<_> = checked.policy.tests.iter().filter(asserted).collect();
    if tests.is_empty() {
        return Ok(Vec::new());
    }
    let results = prove::prove(&checked.policy, tests.iter().copied())?;
    let claims = tests.iter().zip(&results).flat_map(|(test, results)| {
        test.claims.iter().zip(results).map(move |(claim, result)| (*test, claim, result))
    });
    Ok(claims
        .filter_map(|(test, claim, result)| finding(checked, test, claim, &result.outcome))
        .collect())
}

/// What a claim that does not hold is reported as.
fn finding(checked: &Checking, test: &Test, claim: &Claim, outcome: &Proof) -> Option<Diagnostic> {
    let (policy, sources) = (&checked.policy, &checked.sources);
    let code = if test.foreign { codes::ASSERT_FAILED } else { codes::CLAIM_FAILED };
    let here = format!("in {} \"{}\"", what_word(test.what), text::one_line(&test.title));
    let report = match outcome {
        Proof::Holds => return None,
        Proof::Vacuous => {
            let message = "claim is vacuous: there is no flow to check";
            Diagnostic::new(code, message, claim.span).here(here)
        }
        Proof::Fails(counterexample) if claim.chain.is_some() => {
            let chain = chain_text(policy, counterexample);
            let message = format!("claim does not hold: there is a chain `{chain}`");
            let report = Diagnostic::new(code, message, claim.span).here(here);
            decided_here(policy, report, counterexample)
        }
        Proof::Fails(counterexample) => {
            let decision = &counterexample.decision;
            let flow = flow_text(policy, &counterexample.flow);
            let why = decision_text(policy, sources, decision);
            let by = claim.by.and_then(|by| policy.blocks.get(by.0 as usize));
            let message = match by.filter(|_| decision.rule.is_none()) {
                Some(block) => {
                    format!("claim does not hold: `{}` says nothing about `{flow}`", block.name)
                }
                None => format!("claim does not hold: `{flow}` is {why}"),
            };
            let report = Diagnostic::new(code, message, claim.span).here(here);
            match decision.rule.and_then(|rule| policy.rules.get(rule.0 as usize)) {
                Some(rule) => report.and(rule.place(), "decided here"),
                None if by.is_some() => report,
                None => report.help("no tier says anything about this flow, so it is denied"),
            }
        }
    };
    let uses = test.uses.iter().rev();
    Some(uses.fold(report, |report, span| report.and(*span, "the template is used here")))
}

fn what_word(what: ClaimsKind) -> &'static str {
    match what {
        ClaimsKind::Test => "test",
        ClaimsKind::Assert => "assert",
    }
}

#[derive(Serialize)]
struct Tested {
    tests: Vec<TestResult>,
    /// Rules that no hook can enforce, for whose sake the compiled code was not asked; left out if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    without_hook: Vec<json::Place>,
    diagnostics: Vec<json::Finding>,
}

#[derive(Serialize)]
struct TestResult {
    what: &'static str,
    title: String,
    claims: Vec<ClaimResult>,
}

#[derive(Serialize)]
struct ClaimResult {
    #[serde(flatten)]
    place: json::Place,
    claim: String,
    result: &'static str,
    counterexample: Option<String>,
    /// The connections of a chain, from the first; left out where the claim is not about chains, or holds.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    hops: Vec<HopResult>,
    /// What is wrong with it, which the report tells.
    #[serde(skip)]
    found: Option<Diagnostic>,
}

#[derive(Serialize)]
struct HopResult {
    flow: String,
    decision: String,
}

fn hop_results(policy: &Policy, sources: &Sources, chain: &Counterexample) -> Vec<HopResult> {
    let hop = |(flow, decision)| HopResult {
        flow: flow_text(policy, flow),
        decision: decision_text(policy, sources, decision),
    };
    chain.hops().map(hop).collect()
}

/// Points at the rules that allow the connections of a chain, at each once.
fn decided_here(policy: &Policy, diagnostic: Diagnostic, chain: &Counterexample) -> Diagnostic {
    let mut by_rule: Vec<(RuleId, String)> = Vec::new();
    for (flow, decision) in chain.hops() {
        let Some(rule) = decision.rule else { continue };
        let flow = flow_text(policy, flow);
        match by_rule.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, flows)) => *flows += &format!(", `{flow}`"),
            None => by_rule.push((rule, format!("allows `{flow}`"))),
        }
    }
    by_rule.into_iter().fold(diagnostic, |diagnostic, (rule, text)| {
        match policy.rules.get(rule.0 as usize) {
            Some(rule) => diagnostic.and(rule.place(), text),
            None => diagnostic,
        }
    })
}

//! `segc test`: every claim proved, and its witnesses run on the compiled code.

use super::{Outcome, Output, checked, misuse, too_large};
use crate::describe::{count, decision_text, flow_text};
use crate::package::LoadError;
use crate::report::{self, say};
use seg_compiler::pipeline;
use seg_compiler::prove::{self, Outcome as Proof};
use seg_compiler::simulate::Simulator;
use seg_compiler::trees;
use seg_lang::codes;
use seg_lang::diagnostic::Diagnostic;
use seg_lang::eval;
use seg_lang::render::render;
use serde::Serialize;
use std::path::Path;

/// `segc test`.
pub fn test(path: &Path, output: Output) -> Outcome {
    let checked = match checked(path, output) {
        Ok(checked) => checked,
        Err(outcome) => return outcome,
    };
    let (policy, sources) = (&checked.policy, &checked.sources);
    let results = match prove::prove(policy) {
        Ok(results) => results,
        Err(error) => return too_large(&checked, &error.into(), output),
    };
    let trees = match trees::compile(policy) {
        Ok(trees) => trees,
        Err(error) => return too_large(&checked, &error.into(), output),
    };
    let mut simulator = match Simulator::new(&trees) {
        Ok(simulator) => simulator,
        Err(error) => return misuse(&LoadError(error.to_string())),
    };
    let mut tests = Vec::new();
    let mut diagnostics = Vec::new();
    let mut n_run = 0;
    for (test, results) in policy.tests.iter().zip(&results) {
        let mut claims = Vec::new();
        for (claim, result) in test.claims.iter().zip(results) {
            for flow in &result.witnesses {
                let expected = eval::decide(policy, flow);
                for seen in simulator.judge(flow) {
                    n_run += 1;
                    assert_eq!(
                        seen, expected,
                        "the compiled code disagrees with the evaluator on {flow:?}"
                    );
                }
            }
            let (word, example) = match &result.outcome {
                Proof::Holds => ("holds", None),
                Proof::Vacuous => ("vacuous", None),
                Proof::Fails(counterexample) => {
                    let decision = &counterexample.decision;
                    let flow = flow_text(policy, &counterexample.flow);
                    let why = decision_text(policy, sources, decision);
                    let diagnostic = Diagnostic::new(
                        codes::CLAIM_FAILED,
                        format!("claim does not hold: `{flow}` is {why}"),
                        claim.span,
                    )
                    .here(format!("in test \"{}\"", test.title));
                    let span = decision
                        .rule
                        .and_then(|rule| policy.rules.get(rule.0 as usize))
                        .map(|rule| rule.span);
                    diagnostics.push(match span {
                        Some(span) => diagnostic.and(span, "decided here"),
                        None => diagnostic
                            .help("no tier says anything about this flow, so it is denied"),
                    });
                    ("fails", Some(format!("{flow} is {why}")))
                }
            };
            if matches!(result.outcome, Proof::Vacuous) {
                let message = "claim is vacuous: there is no flow to check";
                diagnostics.push(
                    Diagnostic::new(codes::CLAIM_FAILED, message, claim.span)
                        .here(format!("in test \"{}\"", test.title)),
                );
            }
            claims.push(ClaimResult {
                place: report::place(sources, claim.span),
                claim: pipeline::statement(sources, claim.span),
                result: word,
                counterexample: example,
            });
        }
        tests.push(TestResult { title: test.title.clone(), claims });
    }
    let n_claims: usize = tests.iter().map(|test| test.claims.len()).sum();
    let n_failed = diagnostics.len();
    match output {
        Output::Json => report::print(Tested { tests }),
        Output::Text => {
            for test in &tests {
                let failed = test.claims.iter().filter(|claim| claim.result != "holds").count();
                let word = if failed == 0 { "ok" } else { "FAILED" };
                say!("test \"{}\": {} {word}", test.title, count(test.claims.len(), "claim"));
            }
            report::complain(&render(&diagnostics, sources));
            say!(
                "{} hold, {n_failed} fail; {} judged alike by the compiled code",
                n_claims - n_failed,
                count(n_run, "flow")
            );
        }
    }
    if n_claims == 0 {
        report::complain(&format!("error: {} has no claims; write a `test` block\n", checked.name));
    }
    if n_failed == 0 && n_claims > 0 { Outcome::Clean } else { Outcome::Findings }
}

#[derive(Serialize)]
struct Tested {
    tests: Vec<TestResult>,
}

#[derive(Serialize)]
struct TestResult {
    title: String,
    claims: Vec<ClaimResult>,
}

#[derive(Serialize)]
struct ClaimResult {
    #[serde(flatten)]
    place: report::Place,
    claim: String,
    result: &'static str,
    counterexample: Option<String>,
}

//! `segc explain`: the decision on one flow, and what nearly made it another.

use super::{Input, Outcome, Output, checked, misuse};
use crate::describe::{flow_text, verdict_word};
use crate::endpoint;
use crate::package::LoadError;
use crate::report::{self, say};
use seg_compiler::pipeline;
use seg_lang::eval::{self, Flow, Verdict};
use seg_lang::policy::{RuleId, text as policy_text};
use serde::Serialize;

/// `segc explain`.
pub fn explain(
    source: &str,
    destination: &str,
    service: &str,
    input: Input<'_>,
    output: Output,
) -> Outcome {
    let checked = match checked("explain", input, output) {
        Ok(checked) => checked,
        Err(outcome) => return outcome,
    };
    let policy = &checked.policy;
    let ends = endpoint::term(policy, source).and_then(|from| {
        endpoint::term(policy, destination).and_then(|to| endpoint::pair(&from, &to))
    });
    let parsed = ends.and_then(|ends| {
        let service = endpoint::service(&checked.sources, &checked.config, service, &ends.1)?;
        Ok((ends, service))
    });
    let (ends, (protocol, port, source_port, http)) = match parsed {
        Ok(parsed) => parsed,
        Err(message) => return misuse(&LoadError(message), output),
    };
    let flow = Flow { source: ends.0, destination: ends.1, protocol, port, source_port, http };
    let explanation = eval::explain(policy, &flow);
    let rules = pipeline::rules(policy, &checked.sources);
    let rule = |id: RuleId| rules.get(id.0 as usize).cloned();
    if output == Output::Json {
        let tiers = explanation.tiers.iter().map(|(tier, opinion)| TierSays {
            tier: policy_text::tier(*tier),
            verdict: opinion.map_or("none", |(verdict, _)| verdict_word(verdict)),
            rule: opinion.and_then(|(_, id)| rule(id)),
        });
        let near = explanation
            .near_misses
            .iter()
            .map(|miss| NearMiss { rule: rule(miss.rule), reason: miss.reason.clone() });
        let staged = explanation.staged.iter().map(|(_, verdict, id)| StagedSays {
            verdict: verdict_word(*verdict),
            rule: rule(*id),
        });
        report::print(Explained {
            flow: flow_text(policy, &flow),
            verdict: verdict_word(explanation.decision.verdict),
            tier: explanation.decision.tier.map(policy_text::tier),
            rule: explanation.decision.rule.and_then(rule),
            tiers: tiers.collect(),
            staged: staged.collect(),
            with_staged: verdict_word(explanation.with_staged.verdict),
            near_misses: near.collect(),
        });
        return Outcome::Clean;
    }
    let row = |head: &str, verdict: &str, id: Option<RuleId>, note: String| {
        let rule = id.and_then(rule);
        let (block, text) =
            rule.as_ref().map(|r| (r.block.clone(), r.text.clone())).unwrap_or_default();
        let place = rule.map(|r| format!("{}:{}", r.path, r.line)).unwrap_or_default();
        [head.to_owned(), verdict.to_owned(), block, text, place, note]
    };
    let mut rows: Vec<[String; 6]> = Vec::new();
    for (tier, opinion) in &explanation.tiers {
        let Some((verdict, id)) = opinion else {
            rows.push(row(policy_text::tier(*tier), "none", None, String::new()));
            continue;
        };
        let owner =
            policy.rules.get(id.0 as usize).and_then(|rule| rule.annotations.owner.as_ref());
        let note = owner.map(|owner| format!("@owner {owner}")).unwrap_or_default();
        rows.push(row(policy_text::tier(*tier), verdict_word(*verdict), Some(*id), note));
        // A tier that speaks silences those below.
        break;
    }
    if explanation.decision.tier.is_none() {
        rows.push(row("default", "deny", None, String::new()));
    }
    let changes = explanation.with_staged.verdict != explanation.decision.verdict;
    for (_, verdict, id) in &explanation.staged {
        let note = if changes { "would change the verdict" } else { "" };
        rows.push(row("staged", verdict_word(*verdict), Some(*id), note.to_owned()));
    }
    // Nobody asks why a flow that passes was not denied by each rule that denies others.
    let denied = explanation.decision.verdict == Verdict::Deny;
    for miss in explanation.near_misses.iter().filter(|_| denied) {
        rows.push(row("near miss", "", Some(miss.rule), miss.reason.clone()));
    }
    say!(
        "{source} -> {destination} on {}   {}",
        policy_text::service(&flow, policy_text::policy_asked(policy)),
        verdict_word(explanation.decision.verdict).to_uppercase()
    );
    let mut widths = [0; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say!("  {}", cells.join("  ").trim_end());
    }
    Outcome::Clean
}

#[derive(Serialize)]
struct Explained {
    flow: String,
    verdict: &'static str,
    tier: Option<&'static str>,
    rule: Option<seg_artifact::manifest::Rule>,
    tiers: Vec<TierSays>,
    staged: Vec<StagedSays>,
    with_staged: &'static str,
    near_misses: Vec<NearMiss>,
}

#[derive(Serialize)]
struct StagedSays {
    verdict: &'static str,
    rule: Option<seg_artifact::manifest::Rule>,
}

#[derive(Serialize)]
struct TierSays {
    tier: &'static str,
    verdict: &'static str,
    rule: Option<seg_artifact::manifest::Rule>,
}

#[derive(Serialize)]
struct NearMiss {
    rule: Option<seg_artifact::manifest::Rule>,
    reason: String,
}

//! Flows and decisions in words.

use seg_compiler::prove::Counterexample;
use seg_lang::eval::{Decision, Endpoint, Flow, Verdict};
use seg_lang::policy::{Policy, text as policy_text};
use seg_lang::source::Sources;

/// The word for a verdict.
pub(crate) fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// A decision in words, and where the rule stands.
pub(crate) fn decision_text(policy: &Policy, sources: &Sources, decision: &Decision) -> String {
    let word = match decision.verdict {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    };
    let rule = decision.rule.and_then(|rule| policy.rules.get(rule.0 as usize));
    let block = rule.and_then(|rule| policy.blocks.get(rule.block.0 as usize));
    match (rule, block) {
        (Some(rule), Some(block)) => {
            format!(
                "{word} by {} `{}` ({})",
                policy_text::tier(block.tier),
                block.name,
                sources.place(rule.place())
            )
        }
        _ => format!("{word} by default"),
    }
}

/// A flow in the notation of `segc explain`.
pub(crate) fn flow_text(policy: &Policy, flow: &Flow) -> String {
    format!(
        "{} -> {} on {}",
        end_text(policy, &flow.source),
        end_text(policy, &flow.destination),
        policy_text::service(flow, policy_text::policy_asked(policy))
    )
}

/// The connections of a chain, `a -> b on tcp/80 -> c on tcp/443`; `, as` where a machine goes on from another of its addresses.
pub(crate) fn chain_text(policy: &Policy, chain: &Counterexample) -> String {
    let mut text = String::new();
    let mut at = None;
    for (flow, _) in chain.hops() {
        let source = end_text(policy, &flow.source);
        match at {
            None => text += &source,
            Some(at) if at != source => text += &format!(", as {source}"),
            Some(_) => {}
        }
        let destination = end_text(policy, &flow.destination);
        let service = policy_text::service(flow, policy_text::policy_asked(policy));
        text += &format!(" -> {destination} on {service}");
        at = Some(destination);
    }
    text
}

fn end_text(policy: &Policy, end: &Endpoint) -> String {
    let mut text = who_text(policy, end);
    if let Some(cgroup) = &end.cgroup {
        text += &format!("&cgroup({cgroup})");
    }
    end.names.iter().for_each(|name| text += &format!("&fqdn({name})"));
    text
}

fn who_text(policy: &Policy, end: &Endpoint) -> String {
    if end.is_self {
        return format!("self@{}", end.address);
    }
    let Some(labels) = &end.labels else { return end.address.to_string() };
    let same = |w: &&seg_lang::policy::Workload| {
        w.addresses.contains(&end.address)
            && w.labels.iter().cloned().collect::<std::collections::BTreeMap<_, _>>() == *labels
    };
    if let Some(workload) = policy.workloads.iter().find(same) {
        return workload.name.clone();
    }
    let terms: Vec<String> = labels
        .iter()
        .map(|(id, value)| {
            format!("{}:{value}", policy.labels.get(id.0 as usize).map_or("?", |d| d.name.as_str()))
        })
        .collect();
    let terms = if terms.is_empty() { "managed".to_owned() } else { terms.join("&") };
    format!("{terms}@{}", end.address)
}

/// A number with its noun.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

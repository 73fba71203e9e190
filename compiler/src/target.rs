//! What the hooks of the target can tell of a flow: what stands in the headers of its packets.
//!
//! A request, a process and a name do not, so a rule that asks for one of them is proved and never compiled.

use seg_lang::policy::{Endpoints, Exempt, Match, Policy, RuleId, RuleKind, Services, text};

/// A rule that no hook can enforce.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unenforceable {
    /// The rule.
    pub rule: RuleId,
    /// The first predicate no hook can answer, as it is written.
    pub predicate: String,
    /// What it asks for.
    pub asks: Asks,
}

/// What a predicate asks beyond headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asks {
    /// The HTTP request.
    Request,
    /// The process.
    Process,
    /// The names that resolve to an address.
    Name,
}

/// The rules that no hook can enforce, in source order; also those that decide nothing.
pub fn unenforceable(policy: &Policy) -> Vec<Unenforceable> {
    let rules = (0..).map(RuleId).zip(&policy.rules);
    let found = rules.filter_map(|(rule, of)| {
        let (predicate, asks) = match &of.kind {
            RuleKind::Isolate { set, .. } => of_ends(policy, set),
            RuleKind::Match { flow, unless, .. } => {
                let exempt = unless.iter().filter_map(|exempt| match exempt {
                    Exempt::Flow { flow, .. } => Some(flow),
                    Exempt::Same(_) => None,
                });
                std::iter::once(flow).chain(exempt).find_map(|flow| of_flow(policy, flow))
            }
        }?;
        Some(Unenforceable { rule, predicate, asks })
    });
    found.collect()
}

fn of_flow(policy: &Policy, flow: &Match) -> Option<(String, Asks)> {
    let ends = [&flow.from, &flow.to].into_iter().find_map(|set| of_ends(policy, set));
    ends.or_else(|| of_services(&flow.on))
}

fn of_ends(policy: &Policy, set: &Endpoints) -> Option<(String, Asks)> {
    match set {
        Endpoints::Name(_) => Some((text::endpoints(policy, set), Asks::Name)),
        Endpoints::Cgroup(_) => Some((text::endpoints(policy, set), Asks::Process)),
        Endpoints::Union(sets) | Endpoints::Intersect(sets) => {
            sets.iter().find_map(|set| of_ends(policy, set))
        }
        Endpoints::Except(set, taken) => of_ends(policy, set).or_else(|| of_ends(policy, taken)),
        Endpoints::Any
        | Endpoints::Managed
        | Endpoints::Unmanaged
        | Endpoints::SelfHost
        | Endpoints::Has(_)
        | Endpoints::Label(..)
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_) => None,
    }
}

fn of_services(set: &Services) -> Option<(String, Asks)> {
    match set {
        Services::Http { .. } => Some((text::services(set), Asks::Request)),
        Services::Union(sets) | Services::Intersect(sets) => sets.iter().find_map(of_services),
        Services::Except(set, taken) => of_services(set).or_else(|| of_services(taken)),
        Services::Any
        | Services::Ports { .. }
        | Services::SourcePorts { .. }
        | Services::Codes { .. }
        | Services::Named { .. } => None,
    }
}

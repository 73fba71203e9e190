//! The reference evaluator: what a policy says about one flow, as spec.md defines it, section by section.
//!
//! Never optimised; shares no code with the compiler; judges every stage.

use crate::ast::{Action, Direction, Tier};
use crate::policy::{
    BlockId, Endpoints, Exempt, LabelId, Match, NamePattern, PathPattern, Policy, Rule, RuleId,
    RuleKind, Services, protocol, text,
};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address in the packet.
    pub address: IpAddr,
    /// The labels of a managed endpoint; `None` for an address no endpoint of the inventory has.
    pub labels: Option<BTreeMap<LabelId, String>>,
    /// Whether this is the machine that enforces the policy; such an endpoint is managed.
    pub is_self: bool,
    /// Protocol and port by name, of a managed endpoint; see [`Policy::ports`].
    pub ports: BTreeMap<String, (u8, u16)>,
    /// The names that resolve to the address, in lower case, without a dot at the end.
    pub names: BTreeSet<String>,
    /// Path of the control group of the process, such as `system.slice/ssh.service`; known of this machine only.
    pub cgroup: Option<String>,
}

impl Endpoint {
    /// The endpoint with an address that is not managed and known by no name.
    pub fn at(address: IpAddr) -> Self {
        Self {
            address,
            labels: None,
            is_self: false,
            ports: BTreeMap::new(),
            names: BTreeSet::new(),
            cgroup: None,
        }
    }
}

/// An HTTP request.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Request {
    /// The method, such as `GET`.
    pub method: String,
    /// The path, from its `/` on, without a query.
    pub path: String,
}

/// The first packet of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Who opens it.
    pub source: Endpoint,
    /// To whom.
    pub destination: Endpoint,
    /// IANA protocol number.
    pub protocol: u8,
    /// Destination port; the type for ICMP and ICMPv6; 0 for protocols that have neither.
    pub port: u16,
    /// Source port; the code for ICMP and ICMPv6; 0 for protocols that have neither.
    pub source_port: u16,
    /// The request it carries; `None` if it carries none that is known. Only TCP carries one.
    pub http: Option<Request>,
}

/// What becomes of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// It passes.
    Allow,
    /// It does not.
    Deny,
}

/// A verdict and why.
///
/// `tier` and `rule` are `None` when no tier says anything: the default, deny.
/// Of several rules that give the tier's verdict the deciding one is: a `deny` before an `isolate`;
/// then the first in source order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What becomes of the flow.
    pub verdict: Verdict,
    /// The tier that decided.
    pub tier: Option<Tier>,
    /// The deciding rule.
    pub rule: Option<RuleId>,
}

/// What a tier, or a block, says about a flow, and the rule that says it; `None` if it says nothing.
pub type Opinion = Option<(Verdict, RuleId)>;

/// What each tier says about a flow, and what nearly changed the outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The outcome.
    pub decision: Decision,
    /// Every tier, strongest first, whether or not it was asked.
    pub tiers: [(Tier, Opinion); 3],
    /// What each staged block that speaks of the flow says, in source order.
    pub staged: Vec<(BlockId, Verdict, RuleId)>,
    /// The outcome if staged blocks counted like the others.
    pub with_staged: Decision,
    /// Rules that miss the flow by one condition and would have turned the outcome, in source order.
    pub near_misses: Vec<NearMiss>,
}

/// A rule that fails in exactly one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NearMiss {
    /// The rule.
    pub rule: RuleId,
    /// The condition, such as `source is role:web, rule wants role:app`.
    pub reason: String,
}

const TIERS: [Tier; 3] = [Tier::Guard, Tier::Policy, Tier::Baseline];

/// Decides one flow.
pub fn decide(policy: &Policy, flow: &Flow) -> Decision {
    outcome(policy, &enforced(policy, matching(policy, flow)))
}

/// What one block says about a flow.
pub fn block_verdict(policy: &Policy, block: BlockId, flow: &Flow) -> Opinion {
    block_opinion(block, &matching(policy, flow))
}

/// Decides one flow and says why.
pub fn explain(policy: &Policy, flow: &Flow) -> Explanation {
    let all = matching(policy, flow);
    let matching = enforced(policy, all.clone());
    let decision = outcome(policy, &matching);
    let with_staged = outcome(policy, &all);
    let blocks = (0u32..).map(BlockId).zip(&policy.blocks).filter(|(_, block)| block.staged);
    let staged = blocks
        .filter_map(|(id, _)| block_opinion(id, &all).map(|(verdict, rule)| (id, verdict, rule)));
    let staged = staged.collect();
    let tiers = TIERS.map(|tier| (tier, tier_opinion(policy, tier, &matching)));
    let mut near_misses = vec![];
    for (id, rule) in numbered(policy) {
        let failed = failures(policy, rule, flow);
        let [reason] = failed.as_slice() else { continue };
        let mut with_it = matching.clone();
        with_it.insert(id, rule);
        let with_it = enforced(policy, with_it);
        if outcome(policy, &with_it).verdict != decision.verdict {
            near_misses.push(NearMiss { rule: id, reason: reason.clone() });
        }
    }
    Explanation { decision, tiers, staged, with_staged, near_misses }
}

/// The rules that match a flow, in source order.
type Matching<'a> = BTreeMap<RuleId, &'a Rule>;

fn matching<'a>(policy: &'a Policy, flow: &Flow) -> Matching<'a> {
    numbered(policy).filter(|(_, rule)| rule_matches(policy, rule, flow)).collect()
}

/// Without the rules of staged blocks, which decide nothing.
fn enforced<'a>(policy: &Policy, mut matching: Matching<'a>) -> Matching<'a> {
    let staged = |rule: &Rule| policy.blocks.get(rule.block.0 as usize).is_some_and(|b| b.staged);
    matching.retain(|_, rule| !staged(rule));
    matching
}

/// `guard ▷ policy ▷ baseline ▷ deny`.
fn outcome(policy: &Policy, matching: &Matching<'_>) -> Decision {
    for tier in TIERS {
        if let Some((verdict, rule)) = tier_opinion(policy, tier, matching) {
            return Decision { verdict, tier: Some(tier), rule: Some(rule) };
        }
    }
    Decision { verdict: Verdict::Deny, tier: None, rule: None }
}

/// The join of the blocks of a tier, `none < allow < deny`.
fn tier_opinion(policy: &Policy, tier: Tier, matching: &Matching<'_>) -> Opinion {
    let in_tier = |id: &BlockId| policy.blocks.get(id.0 as usize).is_some_and(|b| b.tier == tier);
    // A block none of whose rules matches says nothing.
    let blocks: BTreeSet<BlockId> = matching.values().map(|rule| rule.block).collect();
    let opinions: Vec<(Verdict, RuleId)> =
        blocks.into_iter().filter(in_tier).filter_map(|b| block_opinion(b, matching)).collect();
    let rules = |verdict| opinions.iter().filter(move |(v, _)| *v == verdict).map(|(_, r)| *r);
    let explicit = |id: &RuleId| {
        matching.get(id).is_some_and(|rule| matches!(rule.kind, RuleKind::Match { .. }))
    };
    let deny = rules(Verdict::Deny).filter(explicit).min().or(rules(Verdict::Deny).min());
    match deny {
        Some(rule) => Some((Verdict::Deny, rule)),
        None => rules(Verdict::Allow).min().map(|rule| (Verdict::Allow, rule)),
    }
}

/// Within a block: deny, else allow, else isolate, else nothing.
fn block_opinion(block: BlockId, matching: &Matching<'_>) -> Opinion {
    let first = |wanted: fn(&RuleKind) -> bool| {
        let mut rules = matching.iter().filter(|(_, rule)| rule.block == block);
        rules.find(|(_, rule)| wanted(&rule.kind)).map(|(id, _)| *id)
    };
    let deny = first(|k| matches!(k, RuleKind::Match { action: Action::Deny, .. }));
    let allow = first(|k| matches!(k, RuleKind::Match { action: Action::Allow, .. }));
    let isolate = first(|k| matches!(k, RuleKind::Isolate { .. }));
    match (deny, allow, isolate) {
        (Some(rule), _, _) => Some((Verdict::Deny, rule)),
        (None, Some(rule), _) => Some((Verdict::Allow, rule)),
        (None, None, Some(rule)) => Some((Verdict::Deny, rule)),
        (None, None, None) => None,
    }
}

fn numbered(policy: &Policy) -> impl Iterator<Item = (RuleId, &Rule)> {
    (0u32..).map(RuleId).zip(&policy.rules)
}

/// Whether a rule speaks of this flow.
pub fn rule_matches(policy: &Policy, rule: &Rule, flow: &Flow) -> bool {
    match &rule.kind {
        RuleKind::Match { flow: matched, when, unless, .. } => {
            flow_matches(policy, matched, flow)
                && same(when, flow)
                && !unless.iter().any(|exempt| match exempt {
                    Exempt::Same(labels) => same(labels, flow),
                    Exempt::Flow { flow: exempt, .. } => flow_matches(policy, exempt, flow),
                })
        }
        RuleKind::Isolate { set, direction } => {
            let enters = contains(policy, set, &flow.destination);
            let leaves = contains(policy, set, &flow.source);
            match direction {
                Some(Direction::Inbound) => enters,
                Some(Direction::Outbound) => leaves,
                None => enters || leaves,
            }
        }
    }
}

/// Whether a flow goes from one side to the other on one of the services.
pub fn flow_matches(policy: &Policy, matched: &Match, flow: &Flow) -> bool {
    let there = |from: &Endpoint, to: &Endpoint| {
        contains(policy, &matched.from, from) && contains(policy, &matched.to, to)
    };
    let ends = there(&flow.source, &flow.destination)
        || matched.both_ways && there(&flow.destination, &flow.source);
    ends && services_contain(&matched.on, flow)
}

/// Both ends have a value in each dimension, and it is the same.
fn same(labels: &[LabelId], flow: &Flow) -> bool {
    labels.iter().all(|id| {
        let (source, destination) = (value(&flow.source, *id), value(&flow.destination, *id));
        source.is_some() && source == destination
    })
}

fn value(endpoint: &Endpoint, id: LabelId) -> Option<&str> {
    endpoint.labels.as_ref()?.get(&id).map(String::as_str)
}

/// Whether an endpoint is in a set.
pub fn contains(policy: &Policy, set: &Endpoints, endpoint: &Endpoint) -> bool {
    match set {
        Endpoints::Any => true,
        Endpoints::Managed => endpoint.labels.is_some(),
        Endpoints::Unmanaged => endpoint.labels.is_none(),
        Endpoints::SelfHost => endpoint.is_self,
        Endpoints::Has(id) => value(endpoint, *id).is_some(),
        Endpoints::Label(id, values) => value(endpoint, *id).is_some_and(|v| values.contains(v)),
        Endpoints::Addresses(first, last) => {
            // `IpAddr` orders all IPv4 before all IPv6, so a range of one family holds none of the other.
            (*first..=*last).contains(&endpoint.address)
        }
        Endpoints::Workload(id) => policy.workloads.get(id.0 as usize).is_some_and(|workload| {
            let labels: BTreeMap<_, _> = workload.labels.iter().cloned().collect();
            endpoint.labels.as_ref() == Some(&labels)
                && workload.addresses.contains(&endpoint.address)
                && endpoint.ports == workload.ports
        }),
        Endpoints::Union(sets) => sets.iter().any(|set| contains(policy, set, endpoint)),
        Endpoints::Intersect(sets) => sets.iter().all(|set| contains(policy, set, endpoint)),
        Endpoints::Except(set, taken) => {
            contains(policy, set, endpoint) && !contains(policy, taken, endpoint)
        }
        Endpoints::Name(NamePattern { name: wanted, below }) => {
            endpoint.names.iter().any(|name| match name.strip_suffix(wanted) {
                Some("") => !below,
                Some(front) => *below && front.ends_with('.'),
                None => false,
            })
        }
        Endpoints::Cgroup(wanted) => endpoint.cgroup.as_ref().is_some_and(|cgroup| {
            let rest = cgroup.strip_prefix(wanted);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }),
    }
}

/// Whether the service of a flow is in a set.
pub fn services_contain(set: &Services, flow: &Flow) -> bool {
    match set {
        Services::Any => true,
        Services::Ports { protocol, first, last } => {
            flow.protocol == *protocol && (*first..=*last).contains(&flow.port)
        }
        Services::SourcePorts { first, last } => {
            let has_ports = [protocol::TCP, protocol::UDP, protocol::SCTP].contains(&flow.protocol);
            has_ports && (*first..=*last).contains(&flow.source_port)
        }
        Services::Codes { protocol, first, last } => {
            let codes = u16::from(*first)..=u16::from(*last);
            flow.protocol == *protocol && codes.contains(&flow.source_port)
        }
        Services::Named { protocol, name } => {
            let to = &flow.destination;
            let own = to.labels.as_ref().and_then(|_| to.ports.get(name));
            flow.protocol == *protocol && own == Some(&(flow.protocol, flow.port))
        }
        Services::Union(sets) => sets.iter().any(|set| services_contain(set, flow)),
        Services::Intersect(sets) => sets.iter().all(|set| services_contain(set, flow)),
        Services::Except(set, taken) => {
            services_contain(set, flow) && !services_contain(taken, flow)
        }
        Services::Http { method, path } => flow.http.as_ref().is_some_and(|request| {
            method.as_ref().is_none_or(|method| *method == request.method)
                && path.as_ref().is_none_or(|PathPattern { text, prefix }| {
                    if *prefix { request.path.starts_with(text) } else { request.path == *text }
                })
        }),
    }
}

/// The conditions of a rule that do not hold, in words; empty if it matches.
fn failures(policy: &Policy, rule: &Rule, flow: &Flow) -> Vec<String> {
    match &rule.kind {
        RuleKind::Match { flow: matched, when, unless, .. } => {
            let mut failed = side_failures(policy, matched, flow);
            if !services_contain(&matched.on, flow) {
                let seen = text::service(flow, text::asked(&matched.on));
                failed
                    .push(format!("service is {seen}, rule wants {}", text::services(&matched.on)));
            }
            for id in when.iter().filter(|id| !same(&[**id], flow)) {
                let [source, destination] = [&flow.source, &flow.destination]
                    .map(|end| value(end, *id).map_or_else(|| "unset".to_owned(), text::word));
                let label = text::label(policy, *id);
                failed.push(format!("{label} is {source} and {destination}, rule wants the same"));
            }
            for exempt in unless {
                match exempt {
                    Exempt::Same(labels) if same(labels, flow) => {
                        failed.push(format!("exempt by `{}`", text::same(policy, labels)));
                    }
                    Exempt::Flow { flow: exempt, .. } if flow_matches(policy, exempt, flow) => {
                        failed.push(format!("exempt by `{}`", text::flow(policy, exempt)));
                    }
                    Exempt::Same(_) | Exempt::Flow { .. } => {}
                }
            }
            failed
        }
        RuleKind::Isolate { set, direction } => {
            let enters = set_failures(policy, set, &flow.destination, "destination");
            let leaves = set_failures(policy, set, &flow.source, "source");
            match direction {
                Some(Direction::Inbound) => enters,
                Some(Direction::Outbound) => leaves,
                None if leaves.len() < enters.len() => leaves,
                None => enters,
            }
        }
    }
}

/// The failed conditions on both ends, in the direction that fails less.
fn side_failures(policy: &Policy, matched: &Match, flow: &Flow) -> Vec<String> {
    let there = |source: &Endpoints, destination: &Endpoints| {
        let mut failed = set_failures(policy, source, &flow.source, "source");
        failed.extend(set_failures(policy, destination, &flow.destination, "destination"));
        failed
    };
    let forth = there(&matched.from, &matched.to);
    if !matched.both_ways {
        return forth;
    }
    let back = there(&matched.to, &matched.from);
    if back.len() < forth.len() { back } else { forth }
}

fn set_failures(policy: &Policy, set: &Endpoints, end: &Endpoint, which: &str) -> Vec<String> {
    if contains(policy, set, end) {
        return vec![];
    }
    let (seen, wanted) = match set {
        Endpoints::Intersect(sets) => {
            return sets.iter().flat_map(|s| set_failures(policy, s, end, which)).collect();
        }
        Endpoints::Except(set, taken) => {
            let mut failed = set_failures(policy, set, end, which);
            if contains(policy, taken, end) {
                let taken = text::endpoints(policy, taken);
                failed.push(format!("{which} is in {taken}, which the rule takes out"));
            }
            return failed;
        }
        Endpoints::Has(id) => (label_seen(policy, *id, end), text::endpoints(policy, set)),
        Endpoints::Label(id, values) => {
            (label_seen(policy, *id, end), text::label_text(policy, *id, values))
        }
        Endpoints::Managed | Endpoints::Unmanaged => {
            let managed = if end.labels.is_some() { "managed" } else { "unmanaged" };
            (format!("is {managed}"), text::endpoints(policy, set))
        }
        Endpoints::Cgroup(_) => {
            let seen = match &end.cgroup {
                Some(cgroup) => format!("runs in {cgroup}"),
                None => "runs in no control group that is known".to_owned(),
            };
            (seen, text::endpoints(policy, set))
        }
        Endpoints::Name(_) => {
            let names: Vec<_> = end.names.iter().map(String::as_str).collect();
            let names = if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
            (format!("is known by {names}"), text::endpoints(policy, set))
        }
        Endpoints::Any
        | Endpoints::SelfHost
        | Endpoints::Addresses(..)
        | Endpoints::Workload(_)
        | Endpoints::Union(_) => (format!("is {}", end.address), text::endpoints(policy, set)),
    };
    vec![format!("{which} {seen}, rule wants {wanted}")]
}

fn label_seen(policy: &Policy, id: LabelId, end: &Endpoint) -> String {
    match (&end.labels, value(end, id)) {
        (_, Some(value)) => format!("is {}", text::label_value(policy, id, value)),
        (Some(_), None) => format!("has no {}", text::label(policy, id)),
        (None, None) => "is unmanaged".to_owned(),
    }
}

//! The text form of a policy: the notation of `.seg` with every name written out.
//!
//! Reports use the same notation, so a set looks the same in a dump, a message and an explanation.

use crate::ast::{Action, Direction, Expect, Tier};
use crate::policy::{
    Annotations, Endpoints, Exempt, LabelId, Match, Policy, Rule, RuleId, RuleKind, Services,
    Workload,
};
use crate::source::Sources;
use crate::types::{port_max, protocol_name, type_names};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;

/// The whole policy, rules numbered and with their places.
pub fn dump(policy: &Policy, sources: &Sources) -> String {
    let mut out = String::new();
    for dimension in &policy.labels {
        let values = dimension.values.as_ref().map(|v| format!(" = {}", words(v)));
        line(&mut out, &format!("label {}{}", dimension.name, values.unwrap_or_default()));
    }
    for workload in &policy.workloads {
        line(&mut out, &workload_text(policy, workload));
    }
    for (id, block) in (0u32..).zip(&policy.blocks) {
        let scope = block.scope.as_ref().map(|s| format!(" for {}", endpoints(policy, s)));
        let scope = scope.unwrap_or_default();
        let place = sources.place(block.span);
        let (tier, name) = (tier(block.tier), &block.name);
        line(&mut out, &format!("\n{tier} {name}{scope}  # {place}"));
        annotations(&mut out, "  ", &block.annotations, None);
        for (rule_id, rule) in (0u32..).map(RuleId).zip(&policy.rules) {
            if rule.block.0 == id {
                let place = sources.place(rule.span);
                let text = rule_text(policy, rule).replace('\n', "\n    ");
                line(&mut out, &format!("  r{} {text}  # {place}", rule_id.0));
                annotations(&mut out, "    ", &rule.annotations, Some(&block.annotations));
            }
        }
    }
    for test in &policy.tests {
        line(&mut out, &format!("\ntest {:?}  # {}", test.title, sources.place(test.span)));
        for claim in &test.claims {
            let expect = match claim.expect {
                Expect::Allow => "allow",
                Expect::Deny => "deny",
                Expect::Only => "only",
            };
            let block = claim.by.and_then(|by| policy.blocks.get(by.0 as usize));
            let by = block.map(|b| format!(" by {}", b.name)).unwrap_or_default();
            line(&mut out, &format!("  expect {expect} {}{by}", flow(policy, &claim.flow)));
        }
    }
    out.trim_start().to_owned()
}

/// `guard`, `policy` or `baseline`.
pub fn tier(tier: Tier) -> &'static str {
    match tier {
        Tier::Guard => "guard",
        Tier::Policy => "policy",
        Tier::Baseline => "baseline",
    }
}

/// A rule as it could be written; `unless` on lines of its own.
pub fn rule_text(policy: &Policy, rule: &Rule) -> String {
    match &rule.kind {
        RuleKind::Match { action, flow: matched, when, unless } => {
            let action = match action {
                Action::Allow => "allow",
                Action::Deny => "deny",
            };
            let mut out = format!("{action} {}", flow(policy, matched));
            if !when.is_empty() {
                let _ = write!(out, " when {}", same(policy, when));
            }
            for exempt in unless {
                let text = match exempt {
                    Exempt::Same(labels) => same(policy, labels),
                    Exempt::Flow { flow: exempt, .. } => flow(policy, exempt),
                };
                let _ = write!(out, "\n  unless {text}");
            }
            out
        }
        RuleKind::Isolate { set, direction } => {
            let direction = match direction {
                None => "",
                Some(Direction::Inbound) => " inbound",
                Some(Direction::Outbound) => " outbound",
            };
            format!("isolate {}{direction}", endpoints(policy, set))
        }
    }
}

/// `from -> to on services`; the services are left out if they are any.
pub fn flow(policy: &Policy, flow: &Match) -> String {
    let arrow = if flow.both_ways { "<->" } else { "->" };
    let on = match &flow.on {
        Services::Any => String::new(),
        on => format!(" on {}", services(on)),
    };
    format!("{} {arrow} {}{on}", endpoints(policy, &flow.from), endpoints(policy, &flow.to))
}

/// A set of endpoints.
pub fn endpoints(policy: &Policy, set: &Endpoints) -> String {
    endpoints_text(policy, set).0
}

/// A set of services.
pub fn services(set: &Services) -> String {
    services_text(set).0
}

/// A service of a flow, such as `tcp/80`, `icmp/echo-request` or `proto/47`.
pub fn service(protocol: u8, port: u16) -> String {
    ports(protocol, port, port)
}

/// The name of a label dimension.
pub fn label(policy: &Policy, id: LabelId) -> &str {
    policy.labels.get(id.0 as usize).map_or("", |d| d.name.as_str())
}

/// `same env, app`.
pub fn same(policy: &Policy, labels: &[LabelId]) -> String {
    let names: Vec<_> = labels.iter().map(|id| label(policy, *id)).collect();
    format!("same {}", names.join(", "))
}

/// How tightly the text of a set holds together.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Binding {
    Except,
    And,
    Term,
}

fn endpoints_text(policy: &Policy, set: &Endpoints) -> (String, Binding) {
    let part = |set| endpoints_text(policy, set);
    let text = match set {
        Endpoints::Any => "any".to_owned(),
        Endpoints::Managed => "managed".to_owned(),
        Endpoints::Unmanaged => "unmanaged".to_owned(),
        Endpoints::SelfHost => "self".to_owned(),
        Endpoints::Has(id) => format!("{}:*", label(policy, *id)),
        Endpoints::Label(id, values) => label_text(policy, *id, values),
        Endpoints::Addresses(first, last) => addresses(*first, *last),
        Endpoints::Workload(id) => {
            policy.workloads.get(id.0 as usize).map_or_else(String::new, |w| w.name.clone())
        }
        Endpoints::Union(sets) => braces(sets.iter().map(part)),
        Endpoints::Intersect(sets) => return and(sets.iter().map(part)),
        Endpoints::Except(a, b) => return except(part(a), part(b)),
    };
    (text, Binding::Term)
}

fn services_text(set: &Services) -> (String, Binding) {
    let text = match set {
        Services::Any => "any".to_owned(),
        Services::Ports { protocol, first, last } => ports(*protocol, *first, *last),
        Services::Union(sets) => braces(sets.iter().map(services_text)),
        Services::Intersect(sets) => return and(sets.iter().map(services_text)),
        Services::Except(a, b) => return except(services_text(a), services_text(b)),
    };
    (text, Binding::Term)
}

fn braces(parts: impl Iterator<Item = (String, Binding)>) -> String {
    let parts: Vec<_> = parts.map(|(text, _)| text).collect();
    if parts.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", parts.join(", ")) }
}

fn and(parts: impl Iterator<Item = (String, Binding)>) -> (String, Binding) {
    let parts: Vec<_> = parts.map(|part| within(part, Binding::And)).collect();
    (parts.join(" & "), Binding::And)
}

fn except(set: (String, Binding), taken: (String, Binding)) -> (String, Binding) {
    let text = format!("{} except {}", within(set, Binding::Except), within(taken, Binding::And));
    (text, Binding::Except)
}

/// The text, in parentheses if it holds less tightly than `least`.
fn within((text, binding): (String, Binding), least: Binding) -> String {
    if binding < least { format!("({text})") } else { text }
}

/// `role:web` or `role:{ db, web }`.
pub(crate) fn label_text(policy: &Policy, id: LabelId, values: &BTreeSet<String>) -> String {
    match values.first() {
        Some(value) if values.len() == 1 => label_value(policy, id, value),
        Some(_) | None => format!("{}:{}", label(policy, id), words(values)),
    }
}

/// `role:web`, or `role:{ "two words" }` where the value is no word.
pub(crate) fn label_value(policy: &Policy, id: LabelId, value: &str) -> String {
    let key = label(policy, id);
    if is_word(value) { format!("{key}:{value}") } else { format!("{key}:{{ {value:?} }}") }
}

/// Letters, digits and `_`, with single hyphens between them.
fn is_word(value: &str) -> bool {
    let part = |p: &str| !p.is_empty() && p.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    value.split('-').all(part)
}

/// A value between braces: quoted unless it is an identifier.
pub(crate) fn word(value: &str) -> String {
    let letter = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if letter && is_word(value) { value.to_owned() } else { format!("{value:?}") }
}

fn words(values: &BTreeSet<String>) -> String {
    braces(values.iter().map(|v| (word(v), Binding::Term)))
}

/// An address, a prefix, or a range that is neither.
pub(crate) fn addresses(first: IpAddr, last: IpAddr) -> String {
    let (low, high, bits) = match (first, last) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a).into(), u32::from(b).into(), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a), u128::from(b), 128),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {
            return format!("{first}-{last}");
        }
    };
    let differing = low ^ high;
    let host_bits = 128 - differing.leading_zeros();
    if low == high {
        first.to_string()
    } else if (differing.wrapping_add(1) & differing) == 0 && low & differing == 0 {
        format!("{first}/{}", bits - host_bits)
    } else {
        format!("{first}-{last}")
    }
}

/// `tcp`, `tcp/80`, `tcp/80-90`, `icmp/echo-request`, `proto/47`.
pub(crate) fn ports(protocol: u8, first: u16, last: u16) -> String {
    let Some(name) = protocol_name(protocol) else { return format!("proto/{protocol}") };
    if (first, last) == (0, port_max(protocol)) {
        return name.to_owned();
    }
    if first != last {
        return format!("{name}/{first}-{last}");
    }
    match type_names(protocol).iter().find(|(_, number)| *number == first) {
        Some((word, _)) => format!("{name}/{word}"),
        None => format!("{name}/{first}"),
    }
}

fn workload_text(policy: &Policy, workload: &Workload) -> String {
    let at = braces(workload.addresses.iter().map(|a| (a.to_string(), Binding::Term)));
    let labels: Vec<_> =
        workload.labels.iter().map(|(id, value)| label_value(policy, *id, value)).collect();
    let is = if labels.is_empty() { "managed".to_owned() } else { labels.join(" & ") };
    format!("workload {} at {at} is {is}", workload.name)
}

/// One line for each annotation that is not the same in `outer`.
fn annotations(out: &mut String, indent: &str, own: &Annotations, outer: Option<&Annotations>) {
    let outer = outer.map(fields);
    for (n, (name, value)) in fields(own).into_iter().enumerate() {
        let inherited = outer.and_then(|o| o.get(n).and_then(|(_, value)| *value));
        if let Some(value) = value
            && inherited != Some(value)
        {
            line(out, &format!("{indent}@{name} {value:?}"));
        }
    }
}

fn fields(of: &Annotations) -> [(&str, Option<&String>); 6] {
    [
        ("owner", of.owner.as_ref()),
        ("ticket", of.ticket.as_ref()),
        ("reason", of.reason.as_ref()),
        ("since", of.since.as_ref()),
        ("review", of.review.as_ref()),
        ("id", of.id.as_ref()),
    ]
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

//! The text form of a policy: the notation of `.seg` with every name written out.
//!
//! Reports use the same notation, so a set looks the same in a dump, a message and an explanation.

use crate::ast::{Action, ClaimsKind, Direction, Expect, Tier};
use crate::eval::{Flow, Request};
use crate::policy::{
    Annotations, Chain, Claim, Endpoints, Exempt, LabelId, Match, NamePattern, PathPattern, Policy,
    Rule, RuleId, RuleKind, Services, Workload, protocol,
};
use crate::source::{Sources, Span};
use crate::types::{code_names, port_max, protocol_name, type_names};
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
        let staged = if block.staged { "staged " } else { "" };
        line(&mut out, &format!("\n{staged}{tier} {name}{scope}  # {place}"));
        annotations(&mut out, "  ", &block.annotations, None);
        for (rule_id, rule) in (0u32..).map(RuleId).zip(&policy.rules) {
            if rule.block.0 == id {
                let places = rule.uses.iter().chain([&rule.span]).map(|span| sources.place(*span));
                let place = places.collect::<Vec<_>>().join(" > ");
                let text = rule_text(policy, rule).replace('\n', "\n    ");
                line(&mut out, &format!("  r{} {text}  # {place}", rule_id.0));
                annotations(&mut out, "    ", &rule.annotations, Some(&block.annotations));
            }
        }
    }
    for test in &policy.tests {
        let what = match test.what {
            ClaimsKind::Test => "test",
            ClaimsKind::Assert => "assert",
        };
        let places = test.uses.iter().chain([&test.span]).map(|span| sources.place(*span));
        let place = places.collect::<Vec<_>>().join(" > ");
        line(&mut out, &format!("\n{what} {:?}  # {place}", test.title));
        for claim in &test.claims {
            line(&mut out, &format!("  {}", claim_text(policy, claim)));
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
        RuleKind::Match { action, flow: matched, when, unless, log } => {
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
            if *log {
                out.push_str(" log");
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

/// A rule as written, on one line, with the arguments of templates in place of parameters.
pub fn statement(sources: &Sources, rule: &Rule) -> String {
    one_line(&substitute(sources.text(rule.span), rule.span, &rule.arguments))
}

/// A text with some of its places replaced; `span` is where the text stands.
pub(crate) fn substitute(text: &str, span: Span, places: &[(Span, String)]) -> String {
    let mut places: Vec<_> = places.iter().collect();
    places.sort_by_key(|(place, _)| place.start);
    let (mut out, mut at) = (String::new(), span.start);
    for (place, argument) in places {
        let [from, to] = [at, place.start].map(|n| n.saturating_sub(span.start) as usize);
        out.push_str(text.get(from..to).unwrap_or_default());
        out.push_str(argument);
        at = place.end;
    }
    out.push_str(text.get(at.saturating_sub(span.start) as usize..).unwrap_or_default());
    out
}

/// A statement on one line, without the comment lines in it.
pub fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).collect::<Vec<_>>().join(" ")
}

/// A claim as it could be written.
fn claim_text(policy: &Policy, claim: &Claim) -> String {
    let expect = match claim.expect {
        Expect::Allow => "allow",
        Expect::Deny => "deny",
        Expect::Only => "only",
    };
    let flow = match &claim.chain {
        Some(Chain { avoiding }) => {
            let avoiding = avoiding.as_ref().map(|set| endpoints(policy, set));
            let avoiding = avoiding.map(|set| format!(" avoiding {set}")).unwrap_or_default();
            format!("{}{avoiding}", with_arrow(policy, &claim.flow, "~>"))
        }
        None => flow(policy, &claim.flow),
    };
    let block = claim.by.and_then(|by| policy.blocks.get(by.0 as usize));
    let by = block.map(|b| format!(" by {}", b.name)).unwrap_or_default();
    format!("expect {expect} {flow}{by}")
}

/// `from -> to on services`; the services are left out if they are any.
pub fn flow(policy: &Policy, flow: &Match) -> String {
    with_arrow(policy, flow, if flow.both_ways { "<->" } else { "->" })
}

fn with_arrow(policy: &Policy, flow: &Match, arrow: &str) -> String {
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

/// What services ask of a flow besides protocol and port, and so what is worth telling of one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Some set holds source ports.
    pub source_ports: bool,
    /// Some set holds ICMP codes.
    pub codes: bool,
}

/// What a set of services asks.
pub fn asked(set: &Services) -> Asked {
    match set {
        Services::Any | Services::Ports { .. } | Services::Named { .. } => Asked::default(),
        Services::SourcePorts { .. } => Asked { source_ports: true, codes: false },
        Services::Codes { .. } => Asked { source_ports: false, codes: true },
        // A request is told wherever there is one.
        Services::Http { .. } => Asked::default(),
        Services::Union(sets) | Services::Intersect(sets) => {
            sets.iter().map(asked).fold(Asked::default(), Asked::or)
        }
        Services::Except(a, b) => asked(a).or(asked(b)),
    }
}

/// What the rules and claims of a policy ask.
pub fn policy_asked(policy: &Policy) -> Asked {
    let rules = policy.rules.iter().filter_map(|rule| match &rule.kind {
        RuleKind::Match { flow, unless, .. } => Some((flow, unless)),
        RuleKind::Isolate { .. } => None,
    });
    let matches = rules.flat_map(|(flow, unless)| {
        let exempt = unless.iter().filter_map(|exempt| match exempt {
            Exempt::Flow { flow, .. } => Some(flow),
            Exempt::Same(_) => None,
        });
        std::iter::once(flow).chain(exempt)
    });
    let claims = policy.tests.iter().flat_map(|test| &test.claims).map(|claim| &claim.flow);
    matches.chain(claims).map(|flow| asked(&flow.on)).fold(Asked::default(), Asked::or)
}

/// The service of a flow, such as `tcp/80`, `icmp/echo-request` or `proto/47`.
///
/// With what is asked for: `udp/68&sport(67)`, `icmp/destination-unreachable/port-unreachable`;
/// with its request if it has one: `tcp/80&http(GET /v1/orders)`.
pub fn service(flow: &Flow, asked: Asked) -> String {
    let &Flow { protocol, port, source_port, .. } = flow;
    let text = ports(protocol, port, port);
    let text = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP if asked.source_ports => {
            format!("{text}&sport({source_port})")
        }
        protocol::ICMP | protocol::ICMP6 if asked.codes => {
            format!("{text}/{}", code_text(protocol, (port, port), (source_port, source_port)))
        }
        _ => text,
    };
    match &flow.http {
        Some(Request { method, path }) => format!("{text}&http({method} {path})"),
        None => text,
    }
}

impl Asked {
    fn or(self, other: Self) -> Self {
        Self {
            source_ports: self.source_ports || other.source_ports,
            codes: self.codes || other.codes,
        }
    }
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
        Endpoints::Name(pattern) => format!("fqdn({:?})", name_pattern(pattern)),
        Endpoints::Cgroup(path) => format!("cgroup({path:?})"),
    };
    (text, Binding::Term)
}

fn services_text(set: &Services) -> (String, Binding) {
    let text = match set {
        Services::Any => "any".to_owned(),
        Services::Ports { protocol, first, last } => ports(*protocol, *first, *last),
        Services::Named { protocol, name } => {
            format!("{}/{name}", protocol_name(*protocol).unwrap_or_default())
        }
        Services::SourcePorts { first, last } => format!("sport({})", range(*first, *last)),
        Services::Codes { protocol, first, last } => {
            let all = (0, port_max(*protocol));
            codes(*protocol, all, (u16::from(*first), u16::from(*last)))
        }
        Services::Union(sets) => braces(sets.iter().map(services_text)),
        Services::Intersect(sets) if let Some(text) = type_and_codes(sets) => text,
        Services::Intersect(sets) => return and(sets.iter().map(services_text)),
        Services::Except(a, b) => return except(services_text(a), services_text(b)),
        Services::Http { method, path } => {
            let path = path.as_ref().map(|path| format!("{:?}", path_pattern(path)));
            let parts: Vec<_> = method.iter().cloned().chain(path).collect();
            format!("http({})", parts.join(" "))
        }
    };
    (text, Binding::Term)
}

/// `api.example.com` or `*.example.com`.
pub fn name_pattern(pattern: &NamePattern) -> String {
    let NamePattern { name, below } = pattern;
    if *below { format!("*.{name}") } else { name.clone() }
}

/// `/v1/orders` or `/static/*`.
pub fn path_pattern(pattern: &PathPattern) -> String {
    let PathPattern { text, prefix } = pattern;
    if *prefix { format!("{text}*") } else { text.clone() }
}

/// `icmp/3/4`, which means an intersection and is no `&`.
fn type_and_codes(sets: &[Services]) -> Option<String> {
    match sets {
        [
            Services::Ports { protocol, first, last },
            Services::Codes { protocol: of, first: low, last: high },
        ] if protocol == of => {
            Some(codes(*protocol, (*first, *last), (u16::from(*low), u16::from(*high))))
        }
        _ => None,
    }
}

/// `icmp/destination-unreachable/port-unreachable`, `icmp/3-5/0`.
fn codes(protocol: u8, types: (u16, u16), codes: (u16, u16)) -> String {
    let name = protocol_name(protocol).unwrap_or_default();
    let of = match type_names(protocol).iter().find(|(_, number)| (*number, *number) == types) {
        Some((word, _)) => (*word).to_owned(),
        None => range(types.0, types.1),
    };
    format!("{name}/{of}/{}", code_text(protocol, types, codes))
}

fn code_text(protocol: u8, types: (u16, u16), codes: (u16, u16)) -> String {
    let names = if types.0 == types.1 { code_names(protocol, types.0) } else { &[] };
    match names.iter().find(|(_, number)| (*number, *number) == codes) {
        Some((word, _)) => (*word).to_owned(),
        None => range(codes.0, codes.1),
    }
}

fn range(first: u16, last: u16) -> String {
    if first == last { first.to_string() } else { format!("{first}-{last}") }
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
pub fn ports(protocol: u8, first: u16, last: u16) -> String {
    let Some(name) = protocol_name(protocol) else { return format!("proto/{protocol}") };
    if (first, last) == (0, port_max(protocol)) {
        return name.to_owned();
    }
    match type_names(protocol).iter().find(|(_, number)| (*number, *number) == (first, last)) {
        Some((word, _)) => format!("{name}/{word}"),
        None => format!("{name}/{}", range(first, last)),
    }
}

fn workload_text(policy: &Policy, workload: &Workload) -> String {
    let at = braces(workload.addresses.iter().map(|a| (a.to_string(), Binding::Term)));
    let labels: Vec<_> =
        workload.labels.iter().map(|(id, value)| label_value(policy, *id, value)).collect();
    let is = if labels.is_empty() { "managed".to_owned() } else { labels.join(" & ") };
    let port = |(name, (protocol, port)): (&String, &(u8, u16))| {
        (format!("{name} = {}", ports(*protocol, *port, *port)), Binding::Term)
    };
    let on = match workload.ports.is_empty() {
        true => String::new(),
        false => format!(" on {}", braces(workload.ports.iter().map(port))),
    };
    format!("workload {} at {at} is {is}{on}", workload.name)
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

/// The annotations by name, those that are not set too.
pub(crate) fn fields(of: &Annotations) -> [(&str, Option<&String>); 7] {
    [
        ("owner", of.owner.as_ref()),
        ("ticket", of.ticket.as_ref()),
        ("reason", of.reason.as_ref()),
        ("since", of.since.as_ref()),
        ("review", of.review.as_ref()),
        ("id", of.id.as_ref()),
        ("expires", of.expires.as_ref()),
    ]
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

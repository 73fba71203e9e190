//! Canonical rules: label values are numbers, addresses and ports ranges, sets in one normal form.
//!
//! A set of endpoints is built from tests by union and intersection; complements are pushed into the tests.
//! An endpoint that is not managed has the value 0, unset, in every dimension, so the complement of a label test is one too.

use crate::atoms::Atoms;
use crate::ranges::Ranges;
use seg_artifact::manifest::{Digests, Label};
use seg_lang::ast::Tier;
use seg_lang::policy::{LabelId, NamePattern, RuleId, protocol, text};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::net::{IpAddr, Ipv6Addr};

/// First address of `::ffff:0:0/96`, where IPv4 is mapped to (RFC 4291, section 2.5.5.2).
pub const IPV4_FIRST: u128 = 0xffff_0000_0000;
/// Last address of `::ffff:0:0/96`.
pub const IPV4_LAST: u128 = 0xffff_ffff_ffff;
/// Largest number of a port field.
pub const PORT_MAX: u128 = 65_535;

/// The rules of a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How label values are numbered, by [`LabelId`].
    pub labels: Labels,
    /// The blocks in source order.
    pub blocks: Vec<Block>,
    /// The rules by [`RuleId`].
    pub rules: Vec<Rule>,
}

/// Label dimensions and the numbers of their values; see [`Label`]. Beside each the values that are told apart:
/// no rule has a test that two other values of the dimension answer differently. Then the names of ports, sorted,
/// and what is asked beyond headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labels(pub Vec<Label>, Vec<Ranges>, Vec<String>, Atoms);

/// Index into [`Labels::ports`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u32);

/// A block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// The tier.
    pub tier: Tier,
    /// The name.
    pub name: String,
    /// Whether it decides nothing.
    pub staged: bool,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its number, where the policy keeps its place and annotations.
    pub id: RuleId,
    /// Index into [`Rules::blocks`].
    pub block: usize,
    /// What it does.
    pub action: Action,
    /// The flows matched: any of these.
    pub flows: Vec<Flow>,
    /// Only flows whose ends agree in each of these dimensions.
    pub when: Vec<LabelId>,
    /// Except flows that one of these matches.
    pub unless: Vec<Exempt>,
}

/// What a rule does, weakest in its block first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Denies what the block does not allow.
    Isolate,
    /// Allows.
    Allow,
    /// Denies.
    Deny,
}

/// Flows from one set to another.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// Where they begin.
    pub from: Ends,
    /// Where they end.
    pub to: Ends,
    /// What they carry.
    pub on: Services,
    /// The numbers of their requests, neither none nor all of them; `None` if that is not asked.
    pub requests: Option<Ranges>,
}

/// Flows a rule does not match after all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exempt {
    /// Both ends agree in each of these dimensions.
    Same(Vec<LabelId>),
    /// These flows.
    Flow(Flow),
}

/// A set of endpoints.
///
/// INVARIANT: parts of a union or intersection are sorted, distinct, not of the same form, and do not test the same thing twice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ends {
    /// Whether the inventory has it.
    Managed(bool),
    /// Whether it is the machine itself.
    SelfHost(bool),
    /// Its value in this dimension; neither none nor all of them.
    Label(LabelId, Ranges),
    /// Its address; neither none nor all of them.
    Address(Ranges),
    /// In any of these.
    Union(Vec<Ends>),
    /// In all of these.
    Intersect(Vec<Ends>),
    /// Whether a name of this form resolves to it.
    Name(NamePattern, bool),
    /// Whether it is a process of the machine itself in this control group or below.
    Cgroup(String, bool),
}

/// A set of services: ranges of protocols, and the ports of each.
///
/// INVARIANT: protocols ascend, port sets are not empty, neighbours with equal ports are one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Services(pub Vec<(u8, u8, Ports)>);

/// What a set holds of a protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ports {
    /// Pairs of a port and a source port, or of an ICMP type and a code: in each part, any of the first with any of the second.
    ///
    /// INVARIANT: parts ascend; no two have a source port, or all their ports, in common; neither side of a part is empty.
    Pairs(Vec<(Ranges, Ranges)>),
    /// It depends on whether the destination calls its port so.
    ///
    /// INVARIANT: names ascend downwards, and both sides differ.
    Named {
        /// The name.
        name: PortId,
        /// If it does.
        yes: Box<Ports>,
        /// If not.
        no: Box<Ports>,
    },
}

/// The number of an address.
pub fn address_number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address with this number.
pub fn number_address(number: u128) -> IpAddr {
    Ipv6Addr::from_bits(number).to_canonical()
}

impl Labels {
    /// Dimensions, each with the values that are told apart; those are all listed. And the names of ports, sorted.
    pub fn new(
        dimensions: impl IntoIterator<Item = (Label, Ranges)>,
        ports: Vec<String>,
        atoms: Atoms,
    ) -> Self {
        let (labels, told_apart) = dimensions.into_iter().unzip();
        Self(labels, told_apart, ports, atoms)
    }

    /// The names of ports by [`PortId`].
    pub fn ports(&self) -> &[String] {
        &self.2
    }

    /// The names of ports by number.
    pub fn port_ids(&self) -> impl Iterator<Item = PortId> + use<> {
        (0..u32::try_from(self.2.len()).expect("ports are bounded")).map(PortId)
    }

    /// Values of an endpoint's record: one for each dimension and each name of a port.
    pub fn n_values(&self) -> u32 {
        u32::try_from(self.0.len() + self.2.len()).expect("dimensions and ports are bounded")
    }

    /// What is asked beyond headers.
    pub fn atoms(&self) -> &Atoms {
        &self.3
    }

    /// The values of a dimension that are told apart.
    pub fn told_apart(&self, label: LabelId) -> &Ranges {
        &self.1[label.0 as usize]
    }

    /// The number of a value.
    ///
    /// Any value that is not listed has the first number above those.
    pub fn number(&self, label: LabelId, value: Option<&str>) -> u128 {
        let values = &self.label(label).values;
        value.map_or(0, |value| match values.binary_search_by(|v| v.as_str().cmp(value)) {
            Ok(index) => index as u128 + 1,
            Err(_) => values.len() as u128 + 1,
        })
    }

    /// Largest number a value may have.
    pub fn max(&self, label: LabelId) -> u128 {
        let label = self.label(label);
        if label.closed { label.values.len() as u128 } else { u128::from(u32::MAX) }
    }

    /// The dimension.
    pub fn label(&self, label: LabelId) -> &Label {
        &self.0[label.0 as usize]
    }

    /// The dimensions by number.
    pub fn ids(&self) -> impl Iterator<Item = LabelId> + use<> {
        (0..u32::try_from(self.0.len()).expect("dimensions are bounded")).map(LabelId)
    }

    fn same(&self, dimensions: &[LabelId]) -> String {
        let names: Vec<_> = dimensions.iter().map(|&d| self.label(d).name.as_str()).collect();
        format!("same {}", names.join(", "))
    }
}

impl Ends {
    /// Every endpoint.
    pub fn any() -> Self {
        Self::Intersect(Vec::new())
    }

    /// No endpoint.
    pub fn none() -> Self {
        Self::Union(Vec::new())
    }

    /// The endpoints that are not in the set.
    pub fn complement(self, labels: &Labels) -> Self {
        let each =
            |parts: Vec<Self>| parts.into_iter().map(|part| part.complement(labels)).collect();
        match self {
            Self::Managed(is) => Self::Managed(!is),
            Self::SelfHost(is) => Self::SelfHost(!is),
            Self::Name(pattern, is) => Self::Name(pattern, !is),
            Self::Cgroup(path, is) => Self::Cgroup(path, !is),
            Self::Label(label, values) => Self::Label(label, values.complement(labels.max(label))),
            Self::Address(ranges) => Self::Address(ranges.complement(u128::MAX)),
            Self::Union(parts) => Self::join(Join::All, each(parts), labels),
            Self::Intersect(parts) => Self::join(Join::Any, each(parts), labels),
        }
    }

    /// The endpoints in any or in all of the sets.
    pub fn join(join: Join, mut parts: Vec<Self>, labels: &Labels) -> Self {
        let (all, nothing) = match join {
            Join::Any => (Self::any(), Self::none()),
            Join::All => (Self::none(), Self::any()),
        };
        let mut rest = BTreeSet::new();
        let mut values: BTreeMap<LabelId, Vec<Ranges>> = BTreeMap::new();
        let mut addresses = Vec::new();
        while let Some(part) = parts.pop() {
            match (part, join) {
                (Self::Union(inner), Join::Any) | (Self::Intersect(inner), Join::All) => {
                    parts.extend(inner);
                }
                (Self::Label(label, ranges), _) => values.entry(label).or_default().push(ranges),
                (Self::Address(ranges), _) => addresses.push(ranges),
                (part, _) => {
                    rest.insert(part);
                }
            }
        }
        let opposite = |part: &Self| match part {
            Self::Managed(is) => rest.contains(&Self::Managed(!is)),
            Self::SelfHost(is) => rest.contains(&Self::SelfHost(!is)),
            Self::Name(pattern, is) => rest.contains(&Self::Name(pattern.clone(), !is)),
            Self::Cgroup(path, is) => rest.contains(&Self::Cgroup(path.clone(), !is)),
            Self::Union(_) | Self::Intersect(_) => *part == all,
            Self::Label(..) | Self::Address(_) => false,
        };
        if rest.iter().any(opposite) {
            return all;
        }
        let mut merged: Vec<_> =
            values.iter().map(|(&l, sets)| test(Tested::Label(l), join, sets, labels)).collect();
        if !addresses.is_empty() {
            merged.push(test(Tested::Address, join, &addresses, labels));
        }
        if merged.contains(&all) {
            return all;
        }
        rest.extend(merged.into_iter().filter(|part| *part != nothing));
        match (rest.len(), join) {
            (1, _) => rest.pop_first().expect("one part"),
            (_, Join::Any) => Self::Union(rest.into_iter().collect()),
            (_, Join::All) => Self::Intersect(rest.into_iter().collect()),
        }
    }

    fn text(&self, labels: &Labels) -> String {
        let join = |parts: &[Self], between: &str| {
            parts.iter().map(|part| part.text(labels)).collect::<Vec<_>>().join(between)
        };
        match self {
            Self::Managed(true) => "managed".to_owned(),
            Self::Managed(false) => "unmanaged".to_owned(),
            Self::SelfHost(true) => "self".to_owned(),
            Self::SelfHost(false) => "not self".to_owned(),
            Self::Name(pattern, is) => {
                let not = if *is { "" } else { "not " };
                format!("{not}fqdn({})", text::name_pattern(pattern))
            }
            Self::Cgroup(path, is) => format!("{}cgroup({path})", if *is { "" } else { "not " }),
            Self::Label(label, values) => {
                label_text(labels.label(*label), values, labels.max(*label))
            }
            Self::Address(ranges) => addresses_text(ranges),

            Self::Union(parts) => format!("{{{}}}", join(parts, ", ")),
            Self::Intersect(parts) if parts.is_empty() => "any".to_owned(),
            Self::Intersect(parts) => join(parts, " & "),
        }
    }
}

/// How sets are put together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Join {
    /// In any of them.
    Any,
    /// In all of them.
    All,
}

enum Tested {
    Label(LabelId),
    Address,
}

/// The test whether a number is in any or all of the sets, or that no or every endpoint passes it.
fn test(tested: Tested, join: Join, sets: &[Ranges], labels: &Labels) -> Ends {
    let max = match tested {
        Tested::Label(label) => labels.max(label),
        Tested::Address => u128::MAX,
    };
    let ranges = match join {
        Join::Any => Ranges::union(sets),
        Join::All => sets.iter().fold(Ranges::new(0, max), |all, set| all.intersect(set)),
    };
    match tested {
        _ if ranges.is_empty() => Ends::none(),
        _ if ranges == Ranges::new(0, max) => Ends::any(),
        Tested::Label(label) => Ends::Label(label, ranges),
        Tested::Address => Ends::Address(ranges),
    }
}

impl Services {
    /// Every service.
    pub fn any() -> Self {
        Self(vec![(0, u8::MAX, Ports::any())])
    }

    fn text(&self, labels: &Labels) -> String {
        if *self == Self::any() {
            return "any".to_owned();
        }
        let each = self.0.iter().flat_map(|(first, last, ports)| {
            let protocol = match *first {
                first if first < *last => format!("proto/{first}-{last}"),
                protocol::ICMP => "icmp".to_owned(),
                protocol::TCP => "tcp".to_owned(),
                protocol::UDP => "udp".to_owned(),
                protocol::ICMP6 => "icmp6".to_owned(),
                protocol::SCTP => "sctp".to_owned(),
                first => format!("proto/{first}"),
            };
            let mut texts = Vec::new();
            ports.texts(labels, &protocol, "", &mut texts);
            texts
        });
        braced(each.collect())
    }
}

impl Ports {
    /// Every pair.
    pub fn any() -> Self {
        Self::Pairs(vec![(Ranges::new(0, PORT_MAX), Ranges::new(0, PORT_MAX))])
    }

    /// No pair.
    pub fn none() -> Self {
        Self::Pairs(Vec::new())
    }

    /// One text for each way to be in the set.
    fn texts(&self, labels: &Labels, protocol: &str, named: &str, texts: &mut Vec<String>) {
        match self {
            Self::Pairs(pairs) => {
                let source = if protocol.starts_with("icmp") { "code" } else { "sport" };
                texts.extend(pairs.iter().map(|(ports, sources)| {
                    let ports = ports_text(ports).map_or(String::new(), |text| format!("/{text}"));
                    let sources = ports_text(sources);
                    let sources =
                        sources.map_or(String::new(), |text| format!(" & {source} {text}"));
                    format!("{protocol}{ports}{named}{sources}")
                }));
            }
            Self::Named { name, yes, no } => {
                let name = &labels.ports()[name.0 as usize];
                yes.texts(labels, protocol, &format!("{named} & port {name}"), texts);
                no.texts(labels, protocol, &format!("{named} & not port {name}"), texts);
            }
        }
    }
}

/// `None` for all of them.
fn ports_text(ports: &Ranges) -> Option<String> {
    let one = |(a, b): (u128, u128)| if a == b { a.to_string() } else { format!("{a}-{b}") };
    (*ports != Ranges::new(0, PORT_MAX)).then(|| braced(ports.iter().map(one).collect()))
}

impl Flow {
    fn text(&self, labels: &Labels) -> String {
        let on = self.on.text(labels);
        let requests = self.requests.as_ref().map_or(String::new(), |numbers| {
            let one =
                |(a, b): (u128, u128)| if a == b { a.to_string() } else { format!("{a}-{b}") };
            format!(" & request {}", braced(numbers.iter().map(one).collect()))
        });
        format!("{} -> {} on {on}{requests}", self.from.text(labels), self.to.text(labels))
    }
}

impl Rules {
    /// The rules as text, a line for each, blocks in source order.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for (number, request) in self.labels.atoms().requests() {
            let (method, path) = (&request.method, &request.path);
            writeln!(text, "request {number} as {method} {path}").expect("a string");
        }
        for label in &self.labels.0 {
            let kind = if label.closed { "closed" } else { "open" };
            let values = label.values.iter().enumerate();
            let values: Vec<_> = values.map(|(i, value)| format!("{value}={}", i + 1)).collect();
            writeln!(text, "label {} {kind} {{{}}}", label.name, values.join(", "))
                .expect("a string");
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let staged = if block.staged { "staged " } else { "" };
            writeln!(text, "{staged}{} {}", text::tier(block.tier), block.name).expect("a string");
            for rule in self.rules.iter().filter(|rule| rule.block == index) {
                writeln!(text, "  #{} {}", rule.id.0, self.rule_text(rule)).expect("a string");
            }
        }
        text
    }

    /// SHA-256 for each tier over its rules, in hexadecimal; places, numbers and order do not enter.
    pub fn digests(&self) -> Digests {
        let digest = |tier: Tier| {
            let of_tier = |rule: &Rule| {
                let Block { tier: of, name, staged } = &self.blocks[rule.block];
                let staged = if *staged { "staged " } else { "" };
                (*of == tier).then(|| format!("{staged}{name} {}\n", self.rule_text(rule)))
            };
            let mut lines: Vec<_> = self.rules.iter().filter_map(of_tier).collect();
            lines.sort();
            let bytes = Sha256::digest(lines.concat());
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Digests {
            guard: digest(Tier::Guard),
            policy: digest(Tier::Policy),
            baseline: digest(Tier::Baseline),
        }
    }

    fn rule_text(&self, rule: &Rule) -> String {
        let action = match rule.action {
            Action::Isolate => "isolate",
            Action::Allow => "allow",
            Action::Deny => "deny",
        };
        let flows: Vec<_> = rule.flows.iter().map(|flow| flow.text(&self.labels)).collect();
        let mut text = format!("{action} {}", flows.join("; "));
        if !rule.when.is_empty() {
            write!(text, " when {}", self.labels.same(&rule.when)).expect("a string");
        }
        let exempt = rule.unless.iter().map(|exempt| match exempt {
            Exempt::Same(dimensions) => self.labels.same(dimensions),
            Exempt::Flow(flow) => flow.text(&self.labels),
        });
        if !rule.unless.is_empty() {
            let exempt: Vec<_> = exempt.collect();
            write!(text, " unless {{ {} }}", exempt.join("; ")).expect("a string");
        }
        text
    }
}

fn braced(mut items: Vec<String>) -> String {
    if items.len() == 1 { items.remove(0) } else { format!("{{{}}}", items.join(", ")) }
}

/// Named by what is listed, not by numbers, so that values other rules mention do not change the text.
fn label_text(label: &Label, values: &Ranges, max: u128) -> String {
    if values.contains(0) {
        return format!("not {}", label_text(label, &values.complement(max), max));
    }
    let names = |wanted: bool| {
        let listed = label.values.iter().zip(1..);
        let names: Vec<_> = listed.filter(|&(_, n)| values.contains(n) == wanted).collect();
        braced(names.into_iter().map(|(name, _)| name.clone()).collect())
    };
    let rest = if values.contains(max) { names(false) } else { String::new() };
    match rest.as_str() {
        "{}" => format!("{}:*", label.name),
        "" => format!("{}:{}", label.name, names(true)),
        _ if label.closed => format!("{}:{}", label.name, names(true)),
        rest => format!("{}:* except {rest}", label.name),
    }
}

/// Ranges in notation, those of IPv4 first. An IPv6 range goes on behind the mapped addresses it cannot hold.
fn addresses_text(ranges: &Ranges) -> String {
    let mapped = Ranges::new(IPV4_FIRST, IPV4_LAST);
    let mut v6: Vec<(u128, u128)> = Vec::new();
    for (first, last) in ranges.intersect(&mapped.complement(u128::MAX)).iter() {
        match v6.last_mut() {
            Some(before) if first == IPV4_LAST + 1 && before.1 == IPV4_FIRST - 1 => before.1 = last,
            _ => v6.push((first, last)),
        }
    }
    let v4 = ranges.intersect(&mapped);
    braced(v4.iter().chain(v6).map(|(first, last)| one_family(first, last)).collect())
}

fn one_family(first: u128, last: u128) -> String {
    let size_bits = (last - first).count_ones();
    let aligned = first & (last - first) == 0 && (last - first).trailing_ones() == size_bits;
    let (from, to) = (number_address(first), number_address(last));
    let bits = if from.is_ipv4() { 32 } else { 128 };
    match () {
        () if first == last => from.to_string(),
        () if aligned => format!("{from}/{}", bits - size_bits),
        () => format!("{from}-{to}"),
    }
}

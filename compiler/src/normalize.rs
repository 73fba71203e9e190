//! From the typed policy to canonical rules. Which flows a rule matches is preserved exactly.

use crate::ranges::Ranges;
use crate::rules::{Action, Ends, Exempt, Flow, Join, Labels, PORT_MAX, Rule, Rules, Services};
use crate::rules::{IPV4_FIRST, IPV4_LAST, address_number};
use seg_artifact::manifest::Label;
use seg_lang::ast;
use seg_lang::policy::{self, Endpoints, LabelId, Match, Policy, RuleId, RuleKind, protocol};
use std::collections::BTreeSet;

/// The canonical rules of a policy.
pub fn normalize(policy: &Policy, labels: Labels) -> Rules {
    let blocks = policy.blocks.iter().map(|block| (block.tier, block.name.clone())).collect();
    let rules =
        (0..).zip(&policy.rules).map(|(id, of)| rule(policy, &labels, RuleId(id), of)).collect();
    Rules { labels, blocks, rules }
}

/// Numbers the values that rules mention.
pub fn rule_labels(policy: &Policy) -> Labels {
    let mut mentioned = Mentioned::new(policy);
    policy.rules.iter().for_each(|rule| mentioned.rule(rule));
    mentioned.labels()
}

/// Numbers the values that rules, claims and the inventory mention, and tells every listed value apart.
pub fn all_labels(policy: &Policy) -> Labels {
    let mut mentioned = Mentioned::new(policy);
    policy.rules.iter().for_each(|rule| mentioned.rule(rule));
    for claim in policy.tests.iter().flat_map(|test| &test.claims) {
        mentioned.flow(&claim.flow);
    }
    for (label, value) in policy.workloads.iter().flat_map(|workload| &workload.labels) {
        mentioned.values[label.0 as usize].insert(value);
    }
    for (values, dimension) in mentioned.values.iter_mut().zip(&policy.labels) {
        values.extend(dimension.values.iter().flatten().map(String::as_str));
    }
    mentioned.labels()
}

/// Every address range that rules mention, by number.
pub fn nets(policy: &Policy) -> BTreeSet<(u128, u128)> {
    let mut mentioned = Mentioned::new(policy);
    policy.rules.iter().for_each(|rule| mentioned.rule(rule));
    mentioned.nets
}

/// The flows of a `from -> to` or `from <-> to`.
pub fn flows(policy: &Policy, labels: &Labels, of: &Match) -> Vec<Flow> {
    let (from, to) = (ends(policy, labels, &of.from), ends(policy, labels, &of.to));
    let on = services(&of.on);
    let mut flows = vec![Flow { from: from.clone(), to: to.clone(), on: on.clone() }];
    if of.both_ways && from != to {
        flows.push(Flow { from: to, to: from, on });
    }
    flows
}

/// The canonical form of a set of endpoints.
pub fn ends(policy: &Policy, labels: &Labels, set: &Endpoints) -> Ends {
    let value = |label: LabelId, value: &str| {
        let number = labels.number(label, Some(value));
        Ranges::new(number, number)
    };
    let each = |parts: &[Endpoints]| parts.iter().map(|part| ends(policy, labels, part)).collect();
    match set {
        Endpoints::Any => Ends::any(),
        Endpoints::Managed => Ends::Managed(true),
        Endpoints::Unmanaged => Ends::Managed(false),
        Endpoints::SelfHost => Ends::SelfHost(true),
        Endpoints::Has(label) => {
            let unset = Ends::Label(*label, Ranges::new(0, 0));
            Ends::join(Join::Any, vec![unset], labels).complement(labels)
        }
        Endpoints::Label(label, values) => {
            let ranges: Vec<_> = values.iter().map(|v| value(*label, v)).collect();
            Ends::join(Join::Any, vec![Ends::Label(*label, Ranges::union(&ranges))], labels)
        }
        Endpoints::Addresses(first, last) => {
            let mut ranges = Ranges::new(address_number(*first), address_number(*last));
            if first.is_ipv6() {
                let mapped = Ranges::new(IPV4_FIRST, IPV4_LAST);
                ranges = ranges.intersect(&mapped.complement(u128::MAX));
            }
            Ends::join(Join::Any, vec![Ends::Address(ranges)], labels)
        }
        Endpoints::Workload(id) => {
            let workload = &policy.workloads[id.0 as usize];
            let addresses = workload.addresses.iter().map(|&a| address_number(a));
            let addresses: Vec<_> = addresses.map(|a| Ranges::new(a, a)).collect();
            let mut parts = vec![Ends::Managed(true), Ends::Address(Ranges::union(&addresses))];
            parts.extend(labels.ids().map(|label| {
                let own = workload.labels.iter().find(|(of, _)| *of == label);
                Ends::Label(label, own.map_or(Ranges::new(0, 0), |(_, v)| value(label, v)))
            }));
            Ends::join(Join::All, parts, labels)
        }
        Endpoints::Union(parts) => Ends::join(Join::Any, each(parts), labels),
        Endpoints::Intersect(parts) => Ends::join(Join::All, each(parts), labels),
        Endpoints::Except(set, without) => {
            let without = ends(policy, labels, without).complement(labels);
            Ends::join(Join::All, vec![ends(policy, labels, set), without], labels)
        }
    }
}

/// The canonical form of a set of services.
pub fn services(set: &policy::Services) -> Services {
    let mut mentioned = BTreeSet::from([0]);
    mention_protocols(set, &mut mentioned);
    // Ports change only where a protocol is mentioned and right after it.
    let starts: Vec<u8> = mentioned.into_iter().collect();
    let mut runs: Vec<(u8, u8, Ranges)> = Vec::new();
    for (index, &first) in starts.iter().enumerate() {
        let last = starts.get(index + 1).map_or(u8::MAX, |next| next - 1);
        let ports = ports(set, first);
        match runs.last_mut() {
            Some(before) if before.2 == ports => before.1 = last,
            _ => runs.push((first, last, ports)),
        }
    }
    runs.retain(|(_, _, ports)| !ports.is_empty());
    Services(runs)
}

fn mention_protocols(set: &policy::Services, mentioned: &mut BTreeSet<u8>) {
    match set {
        policy::Services::Any => {}
        policy::Services::Ports { protocol, .. } => {
            mentioned.insert(*protocol);
            mentioned.extend(protocol.checked_add(1));
        }
        policy::Services::Union(parts) | policy::Services::Intersect(parts) => {
            parts.iter().for_each(|part| mention_protocols(part, mentioned));
        }
        policy::Services::Except(set, without) => {
            mention_protocols(set, mentioned);
            mention_protocols(without, mentioned);
        }
    }
}

/// The ports of one protocol in the set: all or none if it has no ports, and ICMP types above 255 with 255.
fn ports(set: &policy::Services, of: u8) -> Ranges {
    let all = Ranges::new(0, PORT_MAX);
    match set {
        policy::Services::Any => all,
        policy::Services::Ports { protocol, .. } if *protocol != of => Ranges::default(),
        policy::Services::Ports { first, last, .. } => match of {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                Ranges::new(u128::from(*first), u128::from(*last))
            }
            protocol::ICMP | protocol::ICMP6 => {
                let last = if *last >= 255 { PORT_MAX } else { u128::from(*last) };
                Ranges::new(u128::from(*first), last)
            }
            _ => all,
        },
        policy::Services::Union(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| ports(part, of)).collect();
            Ranges::union(&parts)
        }
        policy::Services::Intersect(parts) => {
            parts.iter().fold(all, |common, part| common.intersect(&ports(part, of)))
        }
        policy::Services::Except(set, without) => {
            ports(set, of).intersect(&ports(without, of).complement(PORT_MAX))
        }
    }
}

fn rule(policy: &Policy, labels: &Labels, id: RuleId, rule: &policy::Rule) -> Rule {
    let block = rule.block.0 as usize;
    let same = |labels: &[LabelId]| -> Vec<LabelId> {
        labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    };
    match &rule.kind {
        RuleKind::Match { action, flow, when, unless } => {
            let action = match action {
                ast::Action::Allow => Action::Allow,
                ast::Action::Deny => Action::Deny,
            };
            let exempt = unless.iter().flat_map(|exempt| match exempt {
                policy::Exempt::Same(labels) => vec![Exempt::Same(same(labels))],
                policy::Exempt::Flow { flow, .. } => {
                    flows(policy, labels, flow).into_iter().map(Exempt::Flow).collect()
                }
            });
            let unless = exempt.collect::<BTreeSet<_>>().into_iter().collect();
            Rule { id, block, action, flows: flows(policy, labels, flow), when: same(when), unless }
        }
        RuleKind::Isolate { set, direction } => {
            let set = ends(policy, labels, set);
            let inbound = Flow { from: Ends::any(), to: set.clone(), on: Services::any() };
            let outbound = Flow { from: set, to: Ends::any(), on: Services::any() };
            let flows = match direction {
                Some(ast::Direction::Inbound) => vec![inbound],
                Some(ast::Direction::Outbound) => vec![outbound],
                None => vec![inbound, outbound],
            };
            Rule { id, block, action: Action::Isolate, flows, when: Vec::new(), unless: Vec::new() }
        }
    }
}

/// What somebody mentions.
struct Mentioned<'a> {
    policy: &'a Policy,
    /// Values by dimension.
    values: Vec<BTreeSet<&'a str>>,
    /// Address ranges.
    nets: BTreeSet<(u128, u128)>,
}

impl<'a> Mentioned<'a> {
    fn new(policy: &'a Policy) -> Self {
        let values = vec![BTreeSet::new(); policy.labels.len()];
        Self { policy, values, nets: BTreeSet::new() }
    }

    fn rule(&mut self, rule: &'a policy::Rule) {
        match &rule.kind {
            RuleKind::Match { flow, unless, .. } => {
                self.flow(flow);
                for exempt in unless {
                    if let policy::Exempt::Flow { flow, .. } = exempt {
                        self.flow(flow);
                    }
                }
            }
            RuleKind::Isolate { set, .. } => self.set(set),
        }
    }

    fn flow(&mut self, flow: &'a Match) {
        self.set(&flow.from);
        self.set(&flow.to);
    }

    fn set(&mut self, set: &'a Endpoints) {
        match set {
            Endpoints::Label(label, values) => {
                self.values[label.0 as usize].extend(values.iter().map(String::as_str));
            }
            Endpoints::Union(parts) | Endpoints::Intersect(parts) => {
                parts.iter().for_each(|part| self.set(part));
            }
            Endpoints::Except(set, without) => {
                self.set(set);
                self.set(without);
            }
            Endpoints::Workload(id) => {
                for (label, value) in &self.policy.workloads[id.0 as usize].labels {
                    self.values[label.0 as usize].insert(value);
                }
            }
            Endpoints::Addresses(first, last) => {
                self.nets.insert((address_number(*first), address_number(*last)));
            }
            Endpoints::Any
            | Endpoints::Managed
            | Endpoints::Unmanaged
            | Endpoints::SelfHost
            | Endpoints::Has(_) => {}
        }
    }

    fn labels(self) -> Labels {
        let label = |(dimension, mentioned): (&policy::Dimension, BTreeSet<&str>)| {
            let declared = dimension.values.iter().flatten().map(String::as_str);
            let listed: BTreeSet<&str> = declared.chain(mentioned.iter().copied()).collect();
            let numbered = (1..).zip(&listed).filter(|(_, value)| mentioned.contains(*value));
            let told_apart: Vec<_> = numbered.map(|(n, _)| Ranges::new(n, n)).collect();
            let label = Label {
                name: dimension.name.clone(),
                closed: dimension.values.is_some(),
                values: listed.into_iter().map(str::to_owned).collect(),
            };
            (label, Ranges::union(&told_apart))
        };
        Labels::new(self.policy.labels.iter().zip(self.values).map(label))
    }
}

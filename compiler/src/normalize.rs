//! From the typed policy to canonical rules. Which flows a rule matches is preserved exactly.

use crate::atoms::Atoms;
use crate::ranges::Ranges;
use crate::rules::{
    Action, Block, Ends, Exempt, Flow, Join, Labels, PORT_MAX, PortId, Ports, Rule, Rules, Services,
};
use crate::rules::{IPV4_FIRST, IPV4_LAST, address_number};
use seg_artifact::manifest::Label;
use seg_lang::ast;
use seg_lang::kinds::{self, Http};
use seg_lang::policy::{
    self, Chain, Endpoints, LabelId, Match, NamePattern, Policy, RuleId, RuleKind, protocol,
};
use std::collections::{BTreeMap, BTreeSet};

/// The protocols that have source ports.
const PORT_PROTOCOLS: [u8; 3] = [protocol::TCP, protocol::UDP, protocol::SCTP];

/// The canonical rules of a policy.
pub fn normalize(policy: &Policy, labels: Labels) -> Rules {
    let blocks = policy.blocks.iter().map(|block| Block {
        tier: block.tier,
        name: block.name.clone(),
        staged: block.staged,
    });
    let blocks = blocks.collect();
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
    let mut mentioned = Mentioned::all(policy);
    for (label, value) in policy.workloads.iter().flat_map(|workload| &workload.labels) {
        mentioned.values[label.0 as usize].insert(value);
    }
    for (values, dimension) in mentioned.values.iter_mut().zip(&policy.labels) {
        values.extend(dimension.values.iter().flatten().map(String::as_str));
    }
    mentioned.labels()
}

/// The methods times the paths that rules and claims tell apart.
pub fn request_kinds(policy: &Policy) -> usize {
    let (methods, paths) = kinds::requests(&Mentioned::all(policy).predicates);
    methods.len() * paths.len()
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
    let mut flows = Vec::new();
    for (on, requests) in by_request(policy, labels.atoms(), &of.on) {
        let (from, to) = (from.clone(), to.clone());
        if of.both_ways && from != to {
            let (from, to, on, requests) = (to.clone(), from.clone(), on.clone(), requests.clone());
            flows.push(Flow { from, to, on, requests });
        }
        flows.push(Flow { from, to, on, requests });
    }
    // With the flows as written first.
    flows.sort_by_key(|flow| flow.from != from);
    flows
}

/// A set of services, in parts by the request that goes with them; `None` where that is not asked.
fn by_request(
    policy: &Policy,
    atoms: &Atoms,
    set: &policy::Services,
) -> Vec<(Services, Option<Ranges>)> {
    let mut predicates = BTreeSet::new();
    Http::collect(set, &mut predicates);
    if predicates.is_empty() {
        return vec![(services(policy, set), None)];
    }
    let all = Ranges::new(0, atoms.request_max());
    let mut parts = vec![(all.clone(), BTreeSet::new())];
    for predicate in &predicates {
        let held = atoms.holds(predicate);
        let halves = parts.into_iter().flat_map(|(requests, known)| {
            let mut with = known.clone();
            with.insert(predicate.clone());
            let without = requests.intersect(&held.complement(atoms.request_max()));
            [(requests.intersect(held), with), (without, known)]
        });
        parts = halves.filter(|(requests, _)| !requests.is_empty()).collect();
    }
    let mut by_services: BTreeMap<Services, Vec<Ranges>> = BTreeMap::new();
    for (requests, known) in parts {
        let services = services(policy, &given(set, &known));
        if !services.0.is_empty() {
            by_services.entry(services).or_default().push(requests);
        }
    }
    let whole = by_services.into_iter().map(|(services, parts)| {
        let requests = Ranges::union(&parts);
        (services, (requests != all).then_some(requests))
    });
    whole.collect()
}

/// The set for a request for which exactly the `known` predicates hold.
fn given(set: &policy::Services, known: &BTreeSet<Http>) -> policy::Services {
    let each = |sets: &[policy::Services]| sets.iter().map(|set| given(set, known)).collect();
    match set {
        policy::Services::Http { method, path } => {
            let predicate = Http { method: method.clone(), path: path.clone() };
            match known.contains(&predicate) {
                true => policy::Services::Any,
                false => policy::Services::Union(Vec::new()),
            }
        }
        policy::Services::Union(sets) => policy::Services::Union(each(sets)),
        policy::Services::Intersect(sets) => policy::Services::Intersect(each(sets)),
        policy::Services::Except(set, without) => {
            let [set, without] = [set, without].map(|set| Box::new(given(set, known)));
            policy::Services::Except(set, without)
        }
        policy::Services::Any
        | policy::Services::Ports { .. }
        | policy::Services::SourcePorts { .. }
        | policy::Services::Codes { .. }
        | policy::Services::Named { .. } => set.clone(),
    }
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
        Endpoints::Name(pattern) => Ends::Name(pattern.clone(), true),
        Endpoints::Cgroup(path) => Ends::Cgroup(path.clone(), true),
    }
}

/// The canonical form of a set of services that asks for no request.
fn services(policy: &Policy, set: &policy::Services) -> Services {
    let mut mentioned = BTreeSet::from([0]);
    mention_protocols(set, &mut mentioned);
    // Ports change only where a protocol is mentioned and right after it.
    let mut runs: Vec<(u8, u8, Ports)> = Vec::new();
    for (first, last) in intervals(mentioned, u8::MAX, |next| next - 1) {
        let ports = ports(policy, set, first);
        match runs.last_mut() {
            Some(before) if before.2 == ports => before.1 = last,
            _ => runs.push((first, last, ports)),
        }
    }
    runs.retain(|(_, _, ports)| *ports != Ports::none());
    Services(runs)
}

/// The intervals that begin at each of `starts`.
fn intervals<N: Copy>(starts: BTreeSet<N>, max: N, before: fn(N) -> N) -> Vec<(N, N)> {
    let starts: Vec<N> = starts.into_iter().collect();
    let lasts = starts.iter().skip(1).map(|&next| before(next)).chain([max]);
    starts.iter().copied().zip(lasts).collect()
}

/// What the set holds of one protocol.
fn ports(policy: &Policy, set: &policy::Services, of: u8) -> Ports {
    let mut names = BTreeSet::new();
    mention_names(set, of, &mut names);
    let numbered = (0..).map(PortId).zip(&policy.ports);
    let names: Vec<_> = numbered.filter(|(_, name)| names.contains(name.as_str())).collect();
    ports_named(set, of, &names, &mut BTreeSet::new())
}

/// What it holds where the destination's port has the names in `named` and none of the others but perhaps some of `open`.
fn ports_named<'a>(
    set: &policy::Services,
    of: u8,
    open: &[(PortId, &'a String)],
    named: &mut BTreeSet<&'a str>,
) -> Ports {
    let Some((&(name, text), open)) = open.split_first() else { return pairs(set, of, named) };
    let no = ports_named(set, of, open, named);
    named.insert(text);
    let yes = ports_named(set, of, open, named);
    named.remove(text.as_str());
    match yes == no {
        true => yes,
        false => Ports::Named { name, yes: Box::new(yes), no: Box::new(no) },
    }
}

fn mention_names<'a>(set: &'a policy::Services, of: u8, names: &mut BTreeSet<&'a str>) {
    match set {
        policy::Services::Named { protocol, name } if *protocol == of => {
            names.insert(name);
        }
        policy::Services::Any
        | policy::Services::Ports { .. }
        | policy::Services::SourcePorts { .. }
        | policy::Services::Codes { .. }
        | policy::Services::Named { .. }
        | policy::Services::Http { .. } => {}
        policy::Services::Union(parts) | policy::Services::Intersect(parts) => {
            parts.iter().for_each(|part| mention_names(part, of, names));
        }
        policy::Services::Except(set, without) => {
            mention_names(set, of, names);
            mention_names(without, of, names);
        }
    }
}

/// The ports of one protocol in the set, if they have these names, and the source ports that go with them.
fn pairs(set: &policy::Services, of: u8, named: &BTreeSet<&str>) -> Ports {
    let mut mentioned = BTreeSet::from([0]);
    mention_sources(set, of, &mut mentioned);
    let mut sources: BTreeMap<Ranges, Vec<Ranges>> = BTreeMap::new();
    for (first, last) in intervals(mentioned, PORT_MAX, |next| next - 1) {
        let ports = ports_from(set, of, first, named);
        if !ports.is_empty() {
            sources.entry(ports).or_default().push(Ranges::new(first, last));
        }
    }
    let pairs = sources.into_iter().map(|(ports, parts)| (ports, Ranges::union(&parts)));
    Ports::Pairs(pairs.collect())
}

/// Where the source ports, or codes, of a protocol that the set tells apart begin.
fn mention_sources(set: &policy::Services, of: u8, mentioned: &mut BTreeSet<u128>) {
    match set {
        policy::Services::Any
        | policy::Services::Ports { .. }
        | policy::Services::Named { .. }
        | policy::Services::Http { .. } => {}
        policy::Services::SourcePorts { .. } | policy::Services::Codes { .. } => {
            for (first, last) in sources(set, of).iter() {
                mentioned.insert(first);
                mentioned.extend((last < PORT_MAX).then_some(last + 1));
            }
        }
        policy::Services::Union(parts) | policy::Services::Intersect(parts) => {
            parts.iter().for_each(|part| mention_sources(part, of, mentioned));
        }
        policy::Services::Except(set, without) => {
            mention_sources(set, of, mentioned);
            mention_sources(without, of, mentioned);
        }
    }
}

/// The source ports, or codes, of one protocol that a predicate holds, codes above 255 with 255.
fn sources(set: &policy::Services, of: u8) -> Ranges {
    match *set {
        policy::Services::SourcePorts { first, last } if PORT_PROTOCOLS.contains(&of) => {
            Ranges::new(first.into(), last.into())
        }
        policy::Services::Codes { protocol, first, last } if protocol == of => {
            Ranges::new(first.into(), if last == u8::MAX { PORT_MAX } else { last.into() })
        }
        _ => Ranges::default(),
    }
}

fn mention_protocols(set: &policy::Services, mentioned: &mut BTreeSet<u8>) {
    let mut mention = |protocol: u8| {
        mentioned.insert(protocol);
        mentioned.extend(protocol.checked_add(1));
    };
    match set {
        policy::Services::Any | policy::Services::Http { .. } => {}
        policy::Services::Ports { protocol, .. }
        | policy::Services::Codes { protocol, .. }
        | policy::Services::Named { protocol, .. } => mention(*protocol),
        policy::Services::SourcePorts { .. } => PORT_PROTOCOLS.into_iter().for_each(mention),
        policy::Services::Union(parts) | policy::Services::Intersect(parts) => {
            parts.iter().for_each(|part| mention_protocols(part, mentioned));
        }
        policy::Services::Except(set, without) => {
            mention_protocols(set, mentioned);
            mention_protocols(without, mentioned);
        }
    }
}

/// The ports of one protocol that go with one source port and have these names: all or none if it has no ports, and ICMP types above 255 with 255.
fn ports_from(set: &policy::Services, of: u8, source: u128, named: &BTreeSet<&str>) -> Ranges {
    let all = Ranges::new(0, PORT_MAX);
    match set {
        policy::Services::Http { .. } => unreachable!("requests are told apart before"),
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
        policy::Services::SourcePorts { .. } | policy::Services::Codes { .. } => {
            if sources(set, of).contains(source) { all } else { Ranges::default() }
        }
        policy::Services::Named { protocol, name } => {
            let is_named = *protocol == of && named.contains(name.as_str());
            if is_named { all } else { Ranges::default() }
        }
        policy::Services::Union(parts) => {
            let parts: Vec<_> =
                parts.iter().map(|part| ports_from(part, of, source, named)).collect();
            Ranges::union(&parts)
        }
        policy::Services::Intersect(parts) => parts
            .iter()
            .fold(all, |common, part| common.intersect(&ports_from(part, of, source, named))),
        policy::Services::Except(set, without) => {
            let without = ports_from(without, of, source, named).complement(PORT_MAX);
            ports_from(set, of, source, named).intersect(&without)
        }
    }
}

fn rule(policy: &Policy, labels: &Labels, id: RuleId, rule: &policy::Rule) -> Rule {
    let block = rule.block.0 as usize;
    let same = |labels: &[LabelId]| -> Vec<LabelId> {
        labels.iter().copied().collect::<BTreeSet<_>>().into_iter().collect()
    };
    match &rule.kind {
        RuleKind::Match { action, flow, when, unless, log: _ } => {
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
            let flow = |from, to| Flow { from, to, on: Services::any(), requests: None };
            let inbound = flow(Ends::any(), set.clone());
            let outbound = flow(set, Ends::any());
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
    predicates: BTreeSet<Http>,
    cgroups: BTreeSet<String>,
    names: BTreeSet<NamePattern>,
}

impl<'a> Mentioned<'a> {
    fn new(policy: &'a Policy) -> Self {
        let values = vec![BTreeSet::new(); policy.labels.len()];
        Self {
            policy,
            values,
            nets: BTreeSet::new(),
            predicates: BTreeSet::new(),
            cgroups: BTreeSet::new(),
            names: BTreeSet::new(),
        }
    }

    /// By rules and claims.
    fn all(policy: &'a Policy) -> Self {
        let mut mentioned = Self::new(policy);
        policy.rules.iter().for_each(|rule| mentioned.rule(rule));
        for claim in policy.tests.iter().flat_map(|test| &test.claims) {
            mentioned.flow(&claim.flow);
            if let Some(Chain { avoiding: Some(set) }) = &claim.chain {
                mentioned.set(set);
            }
        }
        mentioned
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
        Http::collect(&flow.on, &mut self.predicates);
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
            Endpoints::Name(pattern) => {
                self.names.insert(pattern.clone());
            }
            Endpoints::Cgroup(path) => {
                self.cgroups.insert(path.clone());
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
        let ports = self.policy.ports.iter().cloned().collect();
        let atoms = Atoms::new(&self.predicates, self.cgroups, self.names);
        Labels::new(self.policy.labels.iter().zip(self.values).map(label), ports, atoms)
    }
}

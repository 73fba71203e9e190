//! Random policies, and flows made of a policy's own constants and their neighbours. Equal seeds give equal values.

use crate::random::Random;
use seg_compiler::normalize::rule_labels;
use seg_compiler::rules::Labels;
use seg_lang::ast::{Action, ClaimsKind, Direction, Expect, Tier};
use seg_lang::eval::{Endpoint, Flow};
use seg_lang::policy::{
    Annotations, Block, BlockId, Claim, Dimension, Endpoints, Exempt, LabelId, Match, Policy, Rule,
    RuleKind, Services, Test, Workload, WorkloadId, protocol,
};
use seg_lang::source::{FileId, Span};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Closed dimensions come with their values; open ones with some that are used.
const LABELS: [(&str, bool, &[&str]); 5] = [
    ("env", true, &["dev", "prod", "staging"]),
    ("role", true, &["app", "db", "web"]),
    ("quarantine", true, &["yes"]),
    ("app", false, &["crm", "payments", "shop"]),
    ("team", false, &["blue", "red"]),
];

const RANGES: [(&str, &str); 18] = [
    ("0.0.0.0", "255.255.255.255"),
    ("10.0.0.0", "10.255.255.255"),
    ("10.1.0.0", "10.1.255.255"),
    ("10.1.2.0", "10.1.2.255"),
    ("10.1.2.3", "10.1.2.3"),
    ("10.1.2.10", "10.1.2.20"),
    ("192.168.0.0", "192.168.255.255"),
    ("0.0.0.0", "0.0.0.0"),
    ("255.255.255.255", "255.255.255.255"),
    ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff"),
    ("2001:db8:1::5", "2001:db8:1::5"),
    ("2001:db8:1::10", "2001:db8:1:1::20"),
    ("2001:db8:1:0:ffff:ffff:ffff:fff0", "2001:db8:1:2::"),
    ("fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    ("::", "::1"),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
];

/// Nothing generated has a place in a source.
const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

/// A policy: labels, an inventory, blocks in all tiers, and claims.
pub fn policy(seed: u64) -> Policy {
    let mut r = Random::new(seed);
    let labels = LABELS.iter().map(|(name, closed, values)| Dimension {
        name: (*name).to_owned(),
        values: closed.then(|| values.iter().map(|value| (*value).to_owned()).collect()),
        span: NOWHERE,
    });
    let ports = PORTS.map(str::to_owned).into();
    let mut policy = Policy { labels: labels.collect(), ports, ..Policy::default() };
    for index in 0..1 + r.below(4) {
        policy.workloads.push(workload(&mut r, index));
    }
    for index in 0..1 + r.below(5) {
        let tier = *r.pick(&[Tier::Guard, Tier::Policy, Tier::Policy, Tier::Baseline]);
        let name = format!("block-{index}");
        let annotations = Annotations::default();
        let (staged, scope) = (r.chance(6), None);
        policy.blocks.push(Block { name, tier, staged, scope, annotations, span: NOWHERE });
        for _ in 0..1 + r.below(5) {
            let block = BlockId(index as u32);
            let annotations = Annotations::default();
            policy.rules.push(Rule {
                block,
                kind: rule(&mut r),
                annotations,
                span: NOWHERE,
                uses: vec![],
                arguments: vec![],
            });
        }
    }
    let claims = (0..6).map(|_| claim(&mut r, &policy)).collect();
    policy.tests.push(Test {
        what: ClaimsKind::Test,
        title: "generated".to_owned(),
        foreign: false,
        uses: vec![],
        claims,
        span: NOWHERE,
    });
    policy
}

/// `n` flows: ends and services at, and right beside, the bounds the policy mentions. Both ends are of one address family.
pub fn flows(policy: &Policy, r: &mut Random, n: usize) -> Vec<Flow> {
    let mut found = Constants::default();
    for rule in &policy.rules {
        match &rule.kind {
            RuleKind::Match { flow, unless, .. } => {
                found.flow(flow);
                for exempt in unless {
                    if let Exempt::Flow { flow, .. } = exempt {
                        found.flow(flow);
                    }
                }
            }
            RuleKind::Isolate { set, .. } => found.set(set),
        }
    }
    for claim in policy.tests.iter().flat_map(|test| &test.claims) {
        found.flow(&claim.flow);
    }
    for address in policy.workloads.iter().flat_map(|workload| &workload.addresses) {
        found.range(*address, *address);
    }
    let addresses: Vec<_> = found.addresses.into_iter().collect();
    let services: Vec<_> = found.services.into_iter().collect();
    let sources: Vec<_> = found.sources.into_iter().collect();
    let values = rule_labels(policy);
    (0..n).map(|_| flow(policy, &values, r, &addresses, (&services, &sources))).collect()
}

fn flow(
    policy: &Policy,
    values: &Labels,
    r: &mut Random,
    addresses: &[IpAddr],
    (services, sources): (&[(u8, u16)], &[u16]),
) -> Flow {
    let family = r.chance(60);
    let of_family: Vec<_> = addresses.iter().copied().filter(|a| a.is_ipv4() == family).collect();
    let end = |r: &mut Random| {
        if r.chance(15) && !policy.workloads.is_empty() {
            let workload = r.pick(&policy.workloads);
            let of_family = workload.addresses.iter().find(|a| a.is_ipv4() == family);
            if let Some(&address) = of_family {
                let labels = Some(workload.labels.iter().cloned().collect());
                let ports = workload.ports.clone();
                return Endpoint { labels, ports, ..Endpoint::at(address) };
            }
        }
        let address = match family {
            _ if r.chance(80) && !of_family.is_empty() => *r.pick(&of_family),
            true => IpAddr::V4(Ipv4Addr::from_bits(r.next_u64() as u32)),
            // The upper half keeps random addresses out of `::ffff:0:0/96`.
            false => IpAddr::V6(Ipv6Addr::from_bits(u128::from(r.next_u64() | 1) << 64)),
        };
        let labels = r.chance(75).then(|| some_labels(values, r));
        let ports = if labels.is_some() { some_ports(r) } else { BTreeMap::new() };
        Endpoint { labels, ports, ..Endpoint::at(address) }
    };
    let (mut source, mut destination) = (end(r), end(r));
    if let (Some(from), Some(to)) = (&source.labels, &mut destination.labels) {
        for (label, value) in from {
            if r.chance(40) {
                to.insert(*label, value.clone());
            }
        }
    }
    for end in [&mut source, &mut destination] {
        let it = |w: &&Workload| {
            w.addresses.contains(&end.address)
                && end.labels == Some(w.labels.iter().cloned().collect())
        };
        // Who has address and labels of a workload is that workload.
        if let Some(workload) = policy.workloads.iter().find(it) {
            end.ports = workload.ports.clone();
        }
    }
    let one = if r.chance(50) { &mut source } else { &mut destination };
    one.is_self = one.labels.is_some() && r.chance(20);
    let (protocol, port) = match r.below(10) {
        0 => (r.below(256) as u8, r.below(65_536) as u16),
        _ if services.is_empty() => (protocol::TCP, 80),
        _ => *r.pick(services),
    };
    let port = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => port,
        protocol::ICMP | protocol::ICMP6 => port.min(255),
        _ => 0,
    };
    let source_port = if r.chance(60) && !sources.is_empty() { *r.pick(sources) } else { 50_000 };
    let source_port = match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => source_port,
        protocol::ICMP | protocol::ICMP6 if source_port == 50_000 => 0,
        protocol::ICMP | protocol::ICMP6 => source_port.min(255),
        _ => 0,
    };
    Flow { source, destination, protocol, port, source_port, http: None }
}

const PORTS: [&str; 3] = ["admin", "dns", "metrics"];

/// Named ports of an endpoint, now and then two names for one.
fn some_ports(r: &mut Random) -> BTreeMap<String, (u8, u16)> {
    let mut ports = BTreeMap::new();
    for name in PORTS {
        let port = *r.pick(&[
            (protocol::TCP, 80),
            (protocol::TCP, 8000),
            (protocol::UDP, 53),
            (protocol::SCTP, 80),
        ]);
        if r.chance(60) {
            ports.insert(name.to_owned(), port);
        }
    }
    ports
}

/// Values that rules tell apart, values they do not, and none.
fn some_labels(values: &Labels, r: &mut Random) -> BTreeMap<LabelId, String> {
    let mut labels = BTreeMap::new();
    for (label, dimension) in (0..).zip(&values.0) {
        let value = match r.below(10) {
            0..=2 => continue,
            3 | 4 if !dimension.closed => *r.pick(&["another", "zebra"]),
            _ if dimension.values.is_empty() => "another",
            _ => r.pick(&dimension.values).as_str(),
        };
        labels.insert(LabelId(label), value.to_owned());
    }
    labels
}

fn workload(r: &mut Random, index: usize) -> Workload {
    let mut addresses = BTreeSet::from([IpAddr::V4(Ipv4Addr::new(10, 1, 2, index as u8 + 3))]);
    if r.chance(30) {
        addresses.insert(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 5 + index as u16)));
    }
    let mut labels = Vec::new();
    for (label, (_, _, used)) in (0..).zip(LABELS) {
        if label != 2 && r.chance(70) {
            labels.push((LabelId(label), (*r.pick(used)).to_owned()));
        }
    }
    let ports = some_ports(r);
    Workload { name: format!("workload-{index}"), addresses, labels, ports, span: NOWHERE }
}

fn rule(r: &mut Random) -> RuleKind {
    let action = match r.below(10) {
        0..=4 => Action::Allow,
        5..=7 => Action::Deny,
        _ => {
            let direction = *r.pick(&[None, Some(Direction::Inbound), Some(Direction::Outbound)]);
            return RuleKind::Isolate { set: endpoints(r, 2), direction };
        }
    };
    let when = if r.chance(20) { same(r) } else { Vec::new() };
    let n_exempt = if r.chance(30) { 1 + r.below(2) } else { 0 };
    let exempt = |r: &mut Random| match r.below(3) {
        0 => Exempt::Same(same(r)),
        _ => Exempt::Flow { flow: matched(r), annotations: Box::default(), span: NOWHERE },
    };
    let unless = (0..n_exempt).map(|_| exempt(r)).collect();
    RuleKind::Match { action, flow: matched(r), when, unless, log: r.chance(10) }
}

fn claim(r: &mut Random, policy: &Policy) -> Claim {
    let expect = *r.pick(&[Expect::Allow, Expect::Deny, Expect::Only]);
    let side = |r: &mut Random| match r.below(3) {
        0 => Endpoints::Workload(WorkloadId(r.below(policy.workloads.len()) as u32)),
        _ => endpoints(r, 1),
    };
    let flow = Match { from: side(r), to: side(r), both_ways: r.chance(10), on: services(r, 1) };
    let by = r.chance(25).then(|| BlockId(r.below(policy.blocks.len()) as u32));
    Claim { expect, flow, by, chain: None, span: NOWHERE }
}

fn same(r: &mut Random) -> Vec<LabelId> {
    (0..1 + r.below(2)).map(|_| LabelId(*r.pick(&[0, 1, 3, 4]))).collect()
}

fn matched(r: &mut Random) -> Match {
    let both_ways = r.chance(20);
    Match { from: endpoints(r, 2), to: endpoints(r, 2), both_ways, on: services(r, 2) }
}

fn endpoints(r: &mut Random, depth: usize) -> Endpoints {
    let parts = |r: &mut Random| (0..2 + r.below(2)).map(|_| endpoints(r, depth - 1)).collect();
    match r.below(if depth == 0 { 14 } else { 20 }) {
        0 | 1 => Endpoints::Any,
        2 => Endpoints::Managed,
        3 => Endpoints::Unmanaged,
        4 => Endpoints::SelfHost,
        5 => Endpoints::Has(LabelId(r.below(LABELS.len()) as u32)),
        6..=10 => {
            let label = r.below(LABELS.len());
            let (_, _, used) = LABELS[label];
            let values = (0..1 + r.below(2)).map(|_| (*r.pick(used)).to_owned()).collect();
            Endpoints::Label(LabelId(label as u32), values)
        }
        11..=13 => {
            let (first, last) = r.pick(&RANGES);
            let address = |text: &str| text.parse().expect("an address");
            Endpoints::Addresses(address(first), address(last))
        }
        14 | 15 => Endpoints::Union(parts(r)),
        16 | 17 => Endpoints::Intersect(parts(r)),
        _ => {
            let set = Box::new(endpoints(r, depth - 1));
            Endpoints::Except(set, Box::new(endpoints(r, depth - 1)))
        }
    }
}

fn services(r: &mut Random, depth: usize) -> Services {
    let parts = |r: &mut Random| (0..2 + r.below(2)).map(|_| services(r, depth - 1)).collect();
    let ports = |protocol, first, last| Services::Ports { protocol, first, last };
    match r.below(if depth == 0 { 14 } else { 18 }) {
        0..=2 => Services::Any,
        3 => ports(protocol::TCP, 0, u16::MAX),
        4 => ports(protocol::TCP, 80, 80),
        5 => ports(protocol::TCP, 8000, 8080),
        6 => ports(protocol::UDP, 53, 53),
        7 => ports(protocol::ICMP, 0, 255),
        8 => ports(protocol::ICMP6, 128, 129),
        9 => ports(*r.pick(&[47, 50, protocol::SCTP]), 0, u16::MAX),
        10 => {
            let (first, last) = *r.pick(&[(53, 53), (1024, u16::MAX), (0, 1023), (1000, 1080)]);
            Services::SourcePorts { first, last }
        }
        11 => {
            let protocol = *r.pick(&[protocol::ICMP, protocol::ICMP6]);
            let (first, last) = *r.pick(&[(0, 0), (3, 4), (4, 255)]);
            Services::Codes { protocol, first, last }
        }
        12 | 13 => {
            let protocol = *r.pick(&[protocol::TCP, protocol::TCP, protocol::UDP]);
            Services::Named { protocol, name: (*r.pick(&PORTS)).to_owned() }
        }
        14 | 15 => Services::Union(parts(r)),
        16 => Services::Intersect(parts(r)),
        _ => {
            let set = Box::new(services(r, depth - 1));
            Services::Except(set, Box::new(services(r, depth - 1)))
        }
    }
}

/// The constants of sets, and their neighbours.
#[derive(Default)]
struct Constants {
    addresses: BTreeSet<IpAddr>,
    services: BTreeSet<(u8, u16)>,
    /// Source ports and codes.
    sources: BTreeSet<u16>,
}

impl Constants {
    fn flow(&mut self, flow: &Match) {
        self.set(&flow.from);
        self.set(&flow.to);
        self.services(&flow.on);
    }

    fn set(&mut self, set: &Endpoints) {
        match set {
            Endpoints::Addresses(first, last) => self.range(*first, *last),
            Endpoints::Union(parts) | Endpoints::Intersect(parts) => {
                parts.iter().for_each(|part| self.set(part));
            }
            Endpoints::Except(set, without) => {
                self.set(set);
                self.set(without);
            }
            Endpoints::Any
            | Endpoints::Managed
            | Endpoints::Unmanaged
            | Endpoints::SelfHost
            | Endpoints::Has(_)
            | Endpoints::Label(..)
            | Endpoints::Workload(_)
            | Endpoints::Name(_)
            | Endpoints::Cgroup(_) => {}
        }
    }

    fn range(&mut self, first: IpAddr, last: IpAddr) {
        self.addresses.extend([first, last]);
        match (first, last) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let beside = [first.to_bits().checked_sub(1), last.to_bits().checked_add(1)];
                let beside = beside.into_iter().flatten();
                self.addresses.extend(beside.map(|n| IpAddr::V4(n.into())));
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let beside = [first.to_bits().checked_sub(1), last.to_bits().checked_add(1)];
                let beside = beside.into_iter().flatten();
                self.addresses.extend(beside.map(|n| IpAddr::V6(n.into())));
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => {}
        }
    }

    fn sources(&mut self, first: u16, last: u16) {
        self.sources.extend([first, last, first.saturating_sub(1), last.saturating_add(1)]);
    }

    fn services(&mut self, set: &Services) {
        match set {
            Services::Any | Services::Http { .. } => {}
            Services::Ports { protocol, first, last } => {
                let ports = [*first, *last, first.saturating_sub(1), last.saturating_add(1)];
                self.services.extend(ports.map(|port| (*protocol, port)));
            }
            Services::Named { protocol, .. } => {
                self.services.extend([80, 8000, 53].map(|port| (*protocol, port)));
            }
            Services::SourcePorts { first, last } => self.sources(*first, *last),
            Services::Codes { first, last, .. } => self.sources((*first).into(), (*last).into()),
            Services::Union(parts) | Services::Intersect(parts) => {
                parts.iter().for_each(|part| self.services(part));
            }
            Services::Except(set, without) => {
                self.services(set);
                self.services(without);
            }
        }
    }
}

//! Claims about chains, judged by search: the evaluator decides every flow of a small universe.
//!
//! The universe stands for all endpoints: two addresses of each kind that policies tell apart, unless there is only one;
//! every label value they mention and two that none does; and the services alike. So a claim holds in it if and only if it holds.

use libtest_mimic::Failed;
use seg_compiler::prove::{Outcome, prove};
use seg_lang::ast::{Action, ClaimsKind, Direction, Expect, Tier};
use seg_lang::eval::{self, Decision, Endpoint, Flow, Verdict};
use seg_lang::policy::{
    Annotations, Block, BlockId, Chain, Claim, Dimension, Endpoints, Exempt, LabelId, Match,
    Policy, Rule, RuleKind, Services, Test, Workload, WorkloadId, protocol,
};
use seg_lang::source::{FileId, Span};
use seg_tests::generate;
use seg_tests::random::Random;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

const POLICIES: u64 = 300;
const CLAIMS: usize = 2;
/// Policies of [`generate`], whose addresses and labels no small universe stands for.
const LARGE_POLICIES: u64 = 120;

const NOWHERE: Span = Span { file: FileId(0), start: 0, end: 0 };

/// Dimensions with the values of a closed one, those that policies mention, and those that none does.
type Values = (&'static str, bool, &'static [&'static str], &'static [&'static str]);
const ENV: Values = ("env", true, &["prod"], &[]);
const APP: Values = ("app", false, &["shop"], &["one", "two"]);
const TEAM: Values = ("team", false, &[], &["red", "blue"]);

/// Address ranges that policies mention.
const RANGES: [(&str, &str); 5] = [
    ("10.0.0.0", "10.0.0.255"),
    (ONLY4, ONLY4),
    ("0.0.0.0", "255.255.255.255"),
    ("::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
    (ONLY6, ONLY6),
];
const ONLY4: &str = "10.0.0.5";
const ONLY6: &str = "2001:db8::5";
const ADDRESSES: [&str; 8] =
    ["10.0.0.1", "10.0.0.2", ONLY4, "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", ONLY6];
const SERVICES: [(u8, u16); 4] =
    [(protocol::TCP, 80), (protocol::TCP, 22), (protocol::UDP, 53), (protocol::UDP, 123)];

/// The prover finds a chain exactly if the search does, and as short a one.
pub(crate) fn agree() -> Result<(), Failed> {
    let (mut holds, mut vacuous, mut moved) = (0, 0, 0);
    let mut by_length: BTreeMap<usize, usize> = BTreeMap::new();
    for seed in 0..POLICIES {
        let (policy, dimensions) = policy(seed);
        let universe = Universe::new(&policy, &dimensions);
        let proofs = prove(&policy, &policy.tests)?;
        for (claim, proof) in policy.tests[0].claims.iter().zip(&proofs[0]) {
            let place = || format!("seed {seed} {claim:#?}\n{proof:#?}\n{policy:#?}");
            let wanted = universe.search(&policy, claim);
            let found = match &proof.outcome {
                Outcome::Holds => Searched::Nothing,
                Outcome::Vacuous => Searched::NoEnds,
                Outcome::Fails(counterexample) => {
                    let hops: Vec<_> = counterexample.hops().collect();
                    leads(&policy, claim, &hops).map_err(|e| format!("{e}: {}", place()))?;
                    moved += usize::from(
                        hops.windows(2)
                            .any(|two| two[0].0.destination.address != two[1].0.source.address),
                    );
                    Searched::Chain(hops.len())
                }
            };
            if found != wanted {
                return Err(format!("found {found:?}, wanted {wanted:?}: {}", place()).into());
            }
            match found {
                Searched::Nothing => holds += 1,
                Searched::NoEnds => vacuous += 1,
                Searched::Chain(length) => *by_length.entry(length).or_default() += 1,
            }
        }
    }
    println!(
        "{holds} hold, {vacuous} vacuous, chains by length {by_length:?}, {moved} by other addresses"
    );
    let long: usize = by_length.range(3..).map(|(_, n)| n).sum();
    let two = by_length.get(&2).copied().unwrap_or(0);
    if holds < 150 || vacuous < 20 || two < 100 || long < 20 || moved < 20 {
        return Err("the generated claims exercise too little".into());
    }
    Ok(())
}

/// Every chain that is shown exists, and where none is, no one or two generated flows make one.
pub(crate) fn large() -> Result<(), Failed> {
    let (mut holds, mut fails, mut tried) = (0, 0, 0);
    for seed in 0..LARGE_POLICIES {
        let mut policy = generate::policy(seed);
        let mut r = Random::new(seed);
        let sides: Vec<_> =
            policy.tests[0].claims.iter().map(|claim| claim.flow.to.clone()).collect();
        for claim in &mut policy.tests[0].claims {
            let avoiding = r.chance(60).then(|| r.pick(&sides).clone());
            *claim = Claim {
                expect: Expect::Deny,
                flow: Match { both_ways: false, ..claim.flow.clone() },
                by: None,
                chain: Some(Chain { avoiding }),
                span: NOWHERE,
            };
        }
        let flows = generate::flows(&policy, &mut r, 200);
        let allowed = |flow: &Flow| {
            let decision = eval::decide(&policy, flow);
            (speaks(flow) && decision.verdict == Verdict::Allow).then_some(decision)
        };
        let flows: Vec<_> = flows.iter().filter_map(|flow| Some((flow, allowed(flow)?))).collect();
        for (claim, proof) in policy.tests[0].claims.iter().zip(&prove(&policy, &policy.tests)?[0])
        {
            let place = || format!("seed {seed} {claim:#?}\n{proof:#?}");
            if let Outcome::Fails(counterexample) = &proof.outcome {
                let hops: Vec<_> = counterexample.hops().collect();
                leads(&policy, claim, &hops).map_err(|e| format!("{e}: {}", place()))?;
                fails += 1;
                continue;
            }
            holds += 1;
            for (a, of_a) in &flows {
                let refuted = |hops: &[(&Flow, &Decision)]| leads(&policy, claim, hops).is_ok();
                let two = |b: &Flow, of_b| refuted(&[(a, of_a), (b, of_b)]);
                if refuted(&[(a, of_a)]) || flows.iter().any(|(b, of_b)| two(b, of_b)) {
                    return Err(format!("refuted by {a:?}: {}", place()).into());
                }
                tried += 1 + flows.len();
            }
        }
    }
    println!("{holds} hold or are vacuous, {fails} fail; {tried} attempts to refute");
    if holds < 80 || fails < 80 || tried < 100_000 {
        return Err("the generated claims exercise too little".into());
    }
    Ok(())
}

/// Whether the flows are a chain of the claim, as spec.md 7.1 says; else what is wrong.
fn leads(policy: &Policy, claim: &Claim, hops: &[(&Flow, &Decision)]) -> Result<(), &'static str> {
    let within = |set: &Endpoints, end: &Endpoint| eval::contains(policy, set, end);
    let Some(Chain { avoiding }) = &claim.chain else { return Err("not a claim about chains") };
    let avoided = |end: &Endpoint| avoiding.as_ref().is_some_and(|set| within(set, end));
    let (Some((first, _)), Some((last, _))) = (hops.first(), hops.last()) else {
        return Err("no hop");
    };
    if !within(&claim.flow.from, &first.source) {
        return Err("begins elsewhere");
    }
    if !within(&claim.flow.to, &last.destination) || !eval::services_contain(&claim.flow.on, last) {
        return Err("ends elsewhere");
    }
    for two in hops.windows(2) {
        let (before, after) = (&two[0].0.destination, &two[1].0.source);
        if !same_machine(policy, before, after) {
            return Err("goes on from another machine");
        }
        if avoided(before) || avoided(after) {
            return Err("goes through what it avoids");
        }
    }
    for (flow, decision) in hops {
        if !speaks(flow) {
            return Err("has a flow that cannot be");
        }
        if eval::decide(policy, flow) != **decision || decision.verdict != Verdict::Allow {
            return Err("has a flow that is not allowed, or not by this rule");
        }
    }
    Ok(())
}

fn speaks(flow: &Flow) -> bool {
    let (from, to) = (&flow.source, &flow.destination);
    from.address.is_ipv4() == to.address.is_ipv4()
        && from.address != to.address
        && !(from.is_self && to.is_self)
}

fn same_machine(policy: &Policy, a: &Endpoint, b: &Endpoint) -> bool {
    if a.labels.is_none() || b.labels.is_none() {
        return a == b;
    }
    let workload = |end: &Endpoint| {
        let mut ids = (0..policy.workloads.len() as u32).map(WorkloadId);
        ids.find(|id| eval::contains(policy, &Endpoints::Workload(*id), end))
    };
    a.labels == b.labels && workload(a) == workload(b)
}

/// What a search finds.
#[derive(Debug, PartialEq, Eq)]
enum Searched {
    /// One of both sides is empty, or the services are.
    NoEnds,
    /// No chain.
    Nothing,
    /// A shortest chain of so many flows.
    Chain(usize),
}

struct Universe {
    ends: Vec<Endpoint>,
    /// For each end, those it may connect to, and on which of [`SERVICES`].
    allowed: Vec<Vec<(usize, [bool; SERVICES.len()])>>,
    /// For each end, those of the same machine.
    machines: Vec<Vec<usize>>,
}

impl Universe {
    fn new(policy: &Policy, dimensions: &[Values]) -> Self {
        let mut vectors = vec![BTreeMap::new()];
        for (id, (_, _, mentioned, others)) in (0..).map(LabelId).zip(dimensions) {
            let with = |value: &&str, vector: &BTreeMap<LabelId, String>| {
                let mut vector = vector.clone();
                vector.insert(id, (*value).to_owned());
                vector
            };
            let values = mentioned.iter().chain(*others);
            let longer: Vec<_> =
                values.flat_map(|value| vectors.iter().map(move |v| with(value, v))).collect();
            vectors.extend(longer);
        }
        let mut ends = Vec::new();
        for address in ADDRESSES.map(|text| text.parse().expect("an address")) {
            ends.push(Endpoint::at(address));
            for labels in &vectors {
                for is_self in [false, true] {
                    let labels = Some(labels.clone());
                    ends.push(Endpoint { labels, is_self, ..Endpoint::at(address) });
                }
            }
        }
        // Where nobody asks, an end that is the machine itself is like one that is not.
        if !format!("{policy:?}").contains("SelfHost") {
            ends.retain(|end| !end.is_self);
        }
        // On which services one end may connect to another.
        let allowed = |from: &Endpoint, to: &Endpoint| {
            let (source, destination) = (from.clone(), to.clone());
            let (protocol, port, source_port, http) = (0, 0, 0, None);
            let mut flow = Flow { source, destination, protocol, port, source_port, http };
            if !speaks(&flow) {
                return None;
            }
            let on = SERVICES.map(|service| {
                (flow.protocol, flow.port) = service;
                eval::decide(policy, &flow).verdict == Verdict::Allow
            });
            on.contains(&true).then_some(on)
        };
        let allowed = ends.iter().map(|from| {
            let to = ends.iter().enumerate();
            to.filter_map(|(n, to)| Some((n, allowed(from, to)?))).collect()
        });
        let machines = ends.iter().map(|a| {
            let same = |n: &usize| same_machine(policy, a, &ends[*n]);
            (0..ends.len()).filter(same).collect()
        });
        let (allowed, machines) = (allowed.collect(), machines.collect());
        Self { ends, allowed, machines }
    }

    /// Breadth first, from all ends of the source at once.
    fn search(&self, policy: &Policy, claim: &Claim) -> Searched {
        let Some(Chain { avoiding }) = &claim.chain else { panic!("a claim about chains") };
        let within = |set: &Endpoints| -> Vec<bool> {
            self.ends.iter().map(|end| eval::contains(policy, set, end)).collect()
        };
        let (from, to) = (within(&claim.flow.from), within(&claim.flow.to));
        let avoided = avoiding.as_ref().map_or(vec![false; self.ends.len()], within);
        let nobody = |n: u8| Endpoint::at([0, 0, 0, n].into());
        let on = SERVICES.map(|(protocol, port)| {
            let (source, destination) = (nobody(0), nobody(1));
            let (source_port, http) = (0, None);
            let flow = Flow { source, destination, protocol, port, source_port, http };
            eval::services_contain(&claim.flow.on, &flow)
        });
        if [&from[..], &to, &on].iter().any(|set| !set.contains(&true)) {
            return Searched::NoEnds;
        }
        let mut sources: BTreeSet<usize> = (0..self.ends.len()).filter(|n| from[*n]).collect();
        let mut known = BTreeSet::new();
        for length in 1.. {
            let hops = || sources.iter().flat_map(|n| &self.allowed[*n]);
            let arrives = |services: &[bool]| services.iter().zip(&on).any(|(a, b)| *a && *b);
            if hops().any(|(n, services)| to[*n] && arrives(services)) {
                return Searched::Chain(length);
            }
            let reached: BTreeSet<usize> =
                hops().map(|(n, _)| *n).filter(|n| !avoided[*n]).collect();
            let all = reached.iter().flat_map(|n| &self.machines[*n]).copied();
            let all: BTreeSet<usize> = all.filter(|n| !avoided[*n]).collect();
            sources = all.difference(&known).copied().collect();
            if sources.is_empty() {
                break;
            }
            known.extend(&sources);
        }
        Searched::Nothing
    }
}

/// A policy and its dimensions: small sets, so that chains are long.
fn policy(seed: u64) -> (Policy, Vec<Values>) {
    let mut r = Random::new(seed);
    let dimensions = if r.chance(50) { vec![ENV, APP] } else { vec![APP, TEAM] };
    let labels = dimensions.iter().map(|(name, closed, values, _)| Dimension {
        name: (*name).to_owned(),
        values: closed.then(|| values.iter().map(|value| (*value).to_owned()).collect()),
        span: NOWHERE,
    });
    let mut policy = Policy { labels: labels.collect(), ..Policy::default() };
    let mut own = Vec::new();
    for (id, (_, _, mentioned, _)) in (0..).map(LabelId).zip(&dimensions) {
        if let Some(value) = mentioned.first()
            && r.chance(60)
        {
            own.push((id, (*value).to_owned()));
        }
    }
    let at: &[&[&str]] = match r.below(4) {
        0 => &[],
        1 => &[&[ONLY4], &[ONLY6]],
        _ => &[&[ONLY4, ONLY6]],
    };
    for addresses in at {
        let parsed = addresses.iter().map(|text| text.parse().expect("an address")).collect();
        let name = addresses.concat();
        policy.workloads.push(Workload {
            name,
            addresses: parsed,
            labels: own.clone(),
            span: NOWHERE,
            ports: BTreeMap::new(),
        });
    }
    let mut make = Make { r, dimensions, with_self: false, labels: own };
    make.with_self = make.r.chance(20);
    let mut claims = Vec::new();
    for index in 0..1 + make.r.below(2) {
        let tier = *make.r.pick(&[Tier::Guard, Tier::Policy, Tier::Policy, Tier::Baseline]);
        let (name, annotations) = (format!("block-{index}"), Annotations::default());
        let (staged, scope) = (false, None);
        policy.blocks.push(Block { name, tier, staged, scope, annotations, span: NOWHERE });
        let mut kinds: Vec<_> = (0..6 + make.r.below(9)).map(|_| make.rule()).collect();
        let through = make.through();
        if make.r.chance(60) {
            if let [RuleKind::Match { flow: a, .. }, RuleKind::Match { flow: b, .. }] = &through {
                let flow = Match { to: b.to.clone(), ..a.clone() };
                claims.push(Claim { flow, ..make.claim(0) });
            }
            kinds.extend(through);
        }
        for kind in kinds {
            let (block, annotations) = (BlockId(index as u32), Annotations::default());
            let (uses, arguments) = (vec![], vec![]);
            policy.rules.push(Rule { block, kind, annotations, span: NOWHERE, uses, arguments });
        }
    }
    let n_workloads = policy.workloads.len();
    claims.extend((0..CLAIMS).map(|_| make.claim(n_workloads)));
    policy.tests.push(Test {
        what: ClaimsKind::Test,
        title: "generated".to_owned(),
        foreign: false,
        uses: vec![],
        claims,
        span: NOWHERE,
    });
    (policy, make.dimensions)
}

struct Make {
    r: Random,
    dimensions: Vec<Values>,
    /// Whether sets speak of the machine itself; few do, because the universe is twice as large then.
    with_self: bool,
    /// The labels of every workload.
    labels: Vec<(LabelId, String)>,
}

impl Make {
    fn rule(&mut self) -> RuleKind {
        let action = match self.r.below(10) {
            0..=7 => Action::Allow,
            8 => Action::Deny,
            _ => {
                let ways = [None, Some(Direction::Inbound), Some(Direction::Outbound)];
                return RuleKind::Isolate { set: self.set(1), direction: *self.r.pick(&ways) };
            }
        };
        let when = if self.r.chance(25) { vec![self.label()] } else { Vec::new() };
        let unless = match self.r.below(8) {
            0 => vec![Exempt::Same(vec![self.label()])],
            1 => vec![Exempt::Flow {
                flow: self.matched(),
                annotations: Box::default(),
                span: NOWHERE,
            }],
            _ => Vec::new(),
        };
        RuleKind::Match { action, flow: self.matched(), when, unless, log: false }
    }

    fn matched(&mut self) -> Match {
        let both_ways = self.r.chance(10);
        let mut side = || if self.r.chance(85) { self.kind() } else { self.set(1) };
        let (from, to) = (side(), side());
        Match { from, to, both_ways, on: self.services() }
    }

    fn claim(&mut self, n_workloads: usize) -> Claim {
        let side = |make: &mut Self| match make.r.below(4) {
            0 if n_workloads > 0 => {
                Endpoints::Workload(WorkloadId(make.r.below(n_workloads) as u32))
            }
            1 => make.set(1),
            _ => make.kind(),
        };
        let (from, to) = (side(self), side(self));
        let avoiding = self.r.chance(50).then(|| side(self));
        let flow = Match { from, to, both_ways: false, on: self.services() };
        let chain = Some(Chain { avoiding });
        Claim { expect: Expect::Deny, flow, by: None, chain, span: NOWHERE }
    }

    fn label(&mut self) -> LabelId {
        LabelId(self.r.below(self.dimensions.len()) as u32)
    }

    /// One kind of endpoint, so that a chain has to go through others.
    fn kind(&mut self) -> Endpoints {
        let (first, last) = *self.r.pick(&RANGES);
        let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
        let addresses = Endpoints::Addresses(address(first), address(last));
        let mut parts = if self.r.chance(30) { vec![addresses] } else { Vec::new() };
        if self.r.chance(25) {
            return self.workload();
        }
        if self.r.chance(15) {
            parts.push(Endpoints::Unmanaged);
            return Endpoints::Intersect(parts);
        }
        parts.push(Endpoints::Managed);
        for (id, (_, _, mentioned, _)) in (0..).map(LabelId).zip(&self.dimensions) {
            let has = Endpoints::Has(id);
            let unset = Endpoints::Except(Box::new(Endpoints::Any), Box::new(has.clone()));
            let listed = mentioned.iter().map(|value| (*value).to_owned()).collect();
            let listed = Endpoints::Label(id, listed);
            parts.push(match self.r.below(3) {
                0 => unset,
                1 if !mentioned.is_empty() => listed,
                _ if mentioned.is_empty() || self.r.chance(50) => has,
                _ => Endpoints::Except(Box::new(has), Box::new(listed)),
            });
        }
        Endpoints::Intersect(parts)
    }

    /// What a rule can say of one workload by one of its addresses.
    fn workload(&mut self) -> Endpoints {
        let address = self.r.pick(&[ONLY4, ONLY6]).parse().expect("an address");
        let mut parts = vec![Endpoints::Managed, Endpoints::Addresses(address, address)];
        let own = self.labels.iter().cloned();
        parts.extend(own.map(|(id, value)| Endpoints::Label(id, BTreeSet::from([value]))));
        let all = Endpoints::Intersect(parts);
        match self.r.below(3) {
            0 if self.with_self => Endpoints::Intersect(vec![all, Endpoints::SelfHost]),
            1 if self.with_self => Endpoints::Except(Box::new(all), Box::new(Endpoints::SelfHost)),
            _ => all,
        }
    }

    /// Rules that let flows into a workload and others out of it, perhaps by another address.
    fn through(&mut self) -> [RuleKind; 2] {
        let (into, out_of) = (self.workload(), self.workload());
        let (from, to) = (self.kind(), self.kind());
        [(from, into), (out_of, to)].map(|(from, to)| RuleKind::Match {
            action: Action::Allow,
            flow: Match { from, to, both_ways: false, on: Services::Any },
            when: Vec::new(),
            log: false,
            unless: Vec::new(),
        })
    }

    fn set(&mut self, depth: usize) -> Endpoints {
        match self.r.below(if depth == 0 { 10 } else { 20 }) {
            0 if self.r.chance(50) => Endpoints::Any,
            0 => Endpoints::Managed,
            1 => Endpoints::Unmanaged,
            2 if self.with_self => Endpoints::SelfHost,
            2 | 3 => Endpoints::Has(self.label()),
            4..=6 => {
                let label = self.label();
                match self.dimensions[label.0 as usize].2.first() {
                    Some(value) => Endpoints::Label(label, BTreeSet::from([(*value).to_owned()])),
                    None => Endpoints::Has(label),
                }
            }
            7..=9 => {
                let (first, last) = self.r.pick(&RANGES);
                let address = |text: &str| -> IpAddr { text.parse().expect("an address") };
                Endpoints::Addresses(address(first), address(last))
            }
            10..=15 => Endpoints::Intersect(vec![self.set(depth - 1), self.set(depth - 1)]),
            16 => Endpoints::Union(vec![self.set(depth - 1), self.set(depth - 1)]),
            _ => {
                let set = Box::new(self.set(depth - 1));
                Endpoints::Except(set, Box::new(self.set(depth - 1)))
            }
        }
    }

    fn services(&mut self) -> Services {
        let ports = |protocol, first, last| Services::Ports { protocol, first, last };
        match self.r.below(10) {
            0..=4 => Services::Any,
            5 => ports(protocol::TCP, 80, 80),
            6 => ports(protocol::TCP, 0, u16::MAX),
            7 => ports(protocol::UDP, 53, 53),
            8 => {
                let tcp = Box::new(ports(protocol::TCP, 0, u16::MAX));
                Services::Except(tcp, Box::new(ports(protocol::TCP, 80, 80)))
            }
            _ => Services::Union(vec![
                ports(protocol::UDP, 0, u16::MAX),
                ports(protocol::TCP, 80, 80),
            ]),
        }
    }
}
